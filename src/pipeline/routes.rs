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

mod picked;
mod predicate;
mod properties;
mod share;
mod strays;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray};
use arrow::error::ArrowError;

pub use self::picked::{Picked, Pool, gathered};
use self::predicate::{Condition, Envelopes, Held};
use self::properties::Properties;
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
    rules: Arc<[Rule]>,
    /// The names of properties that rules ask for, each once.
    properties: Arc<[String]>,
    /// How many tables there are.
    tables: usize,
    strays: Strays,
}

#[derive(Debug)]
struct Rule {
    schema: Option<String>,
    event_type: Option<TypePattern>,
    /// By the place of its name among the router's, and its value.
    property: Option<(usize, String)>,
    condition: Option<Condition>,
    home: Home,
}

/// What rules without a condition ask of an event: its type, and the values of its properties.
type Asked<'a> = (Option<&'a str>, Vec<Option<&'a str>>);

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
        let mut properties: Vec<String> = Vec::new();
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
                property: when.property.clone().map(|(name, value)| {
                    let at = properties.iter().position(|held| *held == name).unwrap_or_else(|| {
                        properties.push(name);
                        properties.len() - 1
                    });
                    (at, value)
                }),
                condition,
                home,
            });
        }
        Ok(Self {
            rules: rules.into(),
            properties: properties.into(),
            tables: pipeline.sinks().count(),
            strays: Strays::default(),
        })
    }

    /// The same routes, with what a crash left between the tables.
    #[must_use]
    pub fn saving(&self, strays: Strays) -> Self {
        Self { rules: Arc::clone(&self.rules), properties: Arc::clone(&self.properties), tables: self.tables, strays }
    }

    /// Whether all events belong to one table.
    pub fn is_trivial(&self) -> bool {
        self.rules.is_empty()
    }

    /// Where the event of each row belongs.
    fn decide(&self, rows: &RecordBatch, schema_name: Option<&str>) -> Result<Vec<Decided>, ArrowError> {
        let types: &StringArray = text_column(rows, bronze::EVENT_TYPE)?;
        let properties = Properties::of(rows, &self.properties)?;
        let mut envelopes = Envelopes::of(rows);
        let mut asked: Vec<Option<Held>> = self.rules.iter().map(|_| None).collect();
        // By what rules ask for without a condition, of which a batch has few.
        let mut candidates_of: HashMap<Asked<'_>, Vec<usize>> = HashMap::new();
        let mut decided: Vec<Decided> = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let event_type = types.is_valid(row).then(|| types.value(row));
            let candidates = candidates_of
                .entry((event_type, properties.of_row(row)))
                .or_insert_with_key(|(event_type, properties)| self.candidates(schema_name, *event_type, properties));
            let mut found = Decided { home: Home::DEFAULT, why: None };
            for &at in &*candidates {
                let rule = &self.rules[at];
                let holds = match &rule.condition {
                    Some(condition) => {
                        if asked[at].is_none() {
                            asked[at] = Some(condition.of_rows(envelopes.rows()?));
                        }
                        asked[at].as_ref().map_or(Ok(false), |held| held.holds(row))
                    }
                    None => Ok(true),
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

    /// The routes that fit schema, type and properties, up to the first that asks for nothing else.
    fn candidates(
        &self,
        schema_name: Option<&str>,
        event_type: Option<&str>,
        properties: &[Option<&str>],
    ) -> Vec<usize> {
        let mut candidates = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let fits_schema = rule.schema.as_deref().is_none_or(|schema| schema_name == Some(schema));
            let fits_type =
                rule.event_type.as_ref().is_none_or(|pattern| event_type.is_some_and(|text| pattern.fits(text)));
            let fits_property =
                rule.property.as_ref().is_none_or(|(name, value)| properties[*name] == Some(value.as_str()));
            if fits_schema && fits_type && fits_property {
                candidates.push(at);
                if rule.condition.is_none() {
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
