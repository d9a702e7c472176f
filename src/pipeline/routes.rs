//! Which table each event of a batch goes to.
//!
//! ```text
//! Decoded ─▶ the first route that fits, event by event ─┬─▶ a share for each table: its rows, its rejects,
//!                                                       │   and the numbers of all that went elsewhere
//!                                                       └─▶ filtered: no table's
//! ```
//!
//! An event goes as a whole, whatever its body holds. Records of a container have one envelope and one writer schema;
//! of a batch of CloudEvents the first one decides.
//! Each table accounts for every number that was read: for its own by rows and dead letters, for the others as
//! `filtered`. So its coverage stays one range, however events are mixed.

mod predicate;
mod share;
mod strays;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, MapArray, RecordBatch, StringArray};
use arrow::error::ArrowError;

use self::predicate::{Condition, Held};
pub use self::share::{Routed, Share};
pub use self::strays::Strays;
use super::PipelineError;
use crate::batch::bronze;
use crate::config::Problem;
use crate::config::spec::{PipelineSpec, ProjectSpec, RouteTo};

/// Where an event belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Home {
    /// A table, by its place in [`PipelineSpec::sinks`].
    Table(usize),
    /// None, by a rule.
    Filtered,
    /// The dead letters of a table.
    Letter(usize),
}

impl Home {
    /// Of what no route takes.
    pub const DEFAULT: Self = Self::Table(0);
    /// Of what a route rejects.
    pub const REJECTED: Self = Self::Letter(0);
}

/// Where an event belongs, and why, where that isn't its route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decided {
    home: Home,
    why: Option<Arc<str>>,
}

/// The routes of a pipeline. Without any, all events belong to its only table.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
    /// How many tables there are.
    tables: usize,
    strays: Strays,
}

#[derive(Debug)]
struct Rule {
    schema: Option<String>,
    event_type: Option<TypePattern>,
    property: Option<(String, String)>,
    condition: Option<Condition>,
    home: Home,
}

impl Rule {
    /// Whether nothing but schema and type decides.
    fn is_plain(&self) -> bool {
        self.property.is_none() && self.condition.is_none()
    }
}

/// A type, or what one looks like: `*` stands for any characters.
#[derive(Debug)]
struct TypePattern {
    /// What lies between the stars.
    parts: Vec<String>,
}

impl TypePattern {
    fn new(text: &str) -> Self {
        Self { parts: text.split('*').map(str::to_owned).collect() }
    }

    fn fits(&self, text: &str) -> bool {
        let Some((first, parts)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = parts.split_last() else { return text == first };
        let Some(rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        // The earliest place of each leaves the most for those after it.
        let mut rest = rest;
        middle.iter().all(|part| match rest.split_once(part.as_str()) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    }
}

impl Router {
    /// # Errors
    /// [`PipelineError::Route`]: a condition that can't be used.
    pub fn open(pipeline: &PipelineSpec) -> Result<Self, PipelineError> {
        let mut rules = Vec::with_capacity(pipeline.routes.len());
        for route in &pipeline.routes {
            let when = &route.when;
            let condition = match &when.predicate {
                None => None,
                Some(predicate) => Some(Condition::parse(&predicate.text).map_err(|(reason, _)| {
                    PipelineError::Route { pipeline: pipeline.name.clone(), condition: predicate.text.clone(), reason }
                })?),
            };
            let home = match &route.to {
                RouteTo::Table(table) => {
                    // A route names a table that the pipeline writes: the declarations were read so.
                    Home::Table(pipeline.sinks().position(|sink| sink.table == *table).unwrap_or(0))
                }
                RouteTo::Filter => Home::Filtered,
                RouteTo::Reject => Home::REJECTED,
            };
            rules.push(Rule {
                schema: when.schema.clone(),
                event_type: when.event_type.as_deref().map(TypePattern::new),
                property: when.property.clone(),
                condition,
                home,
            });
        }
        Ok(Self { rules, tables: pipeline.sinks().count(), strays: Strays::default() })
    }

    /// With what a crash left between the tables.
    #[must_use]
    pub fn saving(mut self, strays: Strays) -> Self {
        self.strays = strays;
        self
    }

    /// Whether all events belong to one table.
    pub fn is_trivial(&self) -> bool {
        self.rules.is_empty()
    }

    /// Where the event of each row belongs.
    fn decide(&self, rows: &RecordBatch, schema_name: Option<&str>) -> Result<Vec<Decided>, ArrowError> {
        let types: &StringArray = text_column(rows, bronze::EVENT_TYPE)?;
        let mut asked: Vec<Option<Held>> = self.rules.iter().map(|_| None).collect();
        let mut candidates_of: HashMap<Option<&str>, Vec<usize>> = HashMap::new();
        let mut decided: Vec<Decided> = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let event_type = types.is_valid(row).then(|| types.value(row));
            let candidates =
                candidates_of.entry(event_type).or_insert_with(|| self.candidates(schema_name, event_type));
            let mut found = Decided { home: Home::DEFAULT, why: None };
            for &at in &*candidates {
                let rule = &self.rules[at];
                let has_property = match &rule.property {
                    Some((name, value)) => property(rows, row, name)? == Some(value.as_str()),
                    None => true,
                };
                let holds = match &rule.condition {
                    Some(condition) if has_property => {
                        if asked[at].is_none() {
                            asked[at] = Some(condition.of_rows(rows)?);
                        }
                        asked[at].as_ref().map_or(Ok(false), |held| held.holds(row))
                    }
                    _ => Ok(has_property),
                };
                match holds {
                    Ok(false) => {}
                    Ok(true) => {
                        found.home = rule.home;
                        break;
                    }
                    Err(reason) => {
                        let why = Some(format!("route {} can't be told: {reason}", at + 1).into());
                        found = Decided { home: Home::REJECTED, why };
                        break;
                    }
                }
            }
            decided.push(found);
        }
        Ok(decided)
    }

    /// The routes that fit schema and type, up to the first that asks for nothing else.
    fn candidates(&self, schema_name: Option<&str>, event_type: Option<&str>) -> Vec<usize> {
        let mut candidates = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let fits_schema = rule.schema.as_deref().is_none_or(|schema| schema_name == Some(schema));
            let fits_type =
                rule.event_type.as_ref().is_none_or(|pattern| event_type.is_some_and(|text| pattern.fits(text)));
            if fits_schema && fits_type {
                candidates.push(at);
                if rule.is_plain() {
                    break;
                }
            }
        }
        candidates
    }
}

fn text_column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    let column = rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` is missing or no text")))
}

/// The first value of a property, as the column has it.
fn property<'a>(rows: &'a RecordBatch, row: usize, name: &str) -> Result<Option<&'a str>, ArrowError> {
    let column = rows.column_by_name(bronze::PROPERTIES).and_then(|column| column.as_map_opt());
    let missing = || ArrowError::SchemaError(format!("column `{}` is missing or no map", bronze::PROPERTIES));
    let map: &MapArray = column.ok_or_else(missing)?;
    let keys = map.keys().as_string_opt::<i32>().ok_or_else(missing)?;
    let values = map.values().as_string_opt::<i32>().ok_or_else(missing)?;
    let offsets = map.value_offsets();
    let (Ok(from), Ok(to)) = (usize::try_from(offsets[row]), usize::try_from(offsets[row + 1])) else {
        return Err(missing());
    };
    Ok((from..to).find(|at| keys.value(*at) == name).filter(|at| values.is_valid(*at)).map(|at| values.value(at)))
}

/// What is wrong with the conditions of all routes of a project, each at its bytes.
pub fn problems(project: &ProjectSpec) -> Vec<Problem> {
    let routes = project.pipelines.iter().flat_map(|pipeline| &pipeline.routes);
    let predicates = routes.filter_map(|route| route.when.predicate.as_ref());
    let wrong = predicates.filter_map(|predicate| {
        let (message, hint) = Condition::parse(&predicate.text).err()?;
        let problem = Problem::new(predicate.place.clone(), message);
        Some(match hint {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        })
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, fits) in [
            ("lead", "lead", true),
            ("lead", "leads", false),
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("lead.*", "lead.generated", true),
            ("lead.*", "lead.", true),
            ("lead.*", "lead", false),
            ("*.generated", "lead.generated", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*b*", "abc", true),
            ("**", "x", true),
        ] {
            assert_eq!(TypePattern::new(pattern).fits(text), fits, "`{pattern}` and `{text}`");
        }
    }
}
