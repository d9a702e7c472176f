//! What becomes of the fields of a schema in a table, before any row of it comes.

use arrow::datatypes::{DataType, Fields};

use super::way::{Defaults, RecordWay, Source, Way, value_of};
use crate::columns::Level;

/// What becomes of a field, or of a column that the schema lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The table gains a column.
    Added,
    /// Values go into a column of another type, where it holds them exactly.
    Cast,
    /// The column can't hold its values.
    Rescued,
    /// No row of the schema has a value for the column.
    Missing,
}

/// A part of a schema or of a table, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFate {
    /// From the top down: `address.zip`, `tags[]`, `scores{}`.
    pub path: String,
    pub fate: Fate,
    pub held: Option<DataType>,
    pub new: Option<DataType>,
}

/// How many fields of `new` the columns take over as they are, and what becomes of all others, where columns may grow.
pub fn fates(held: &Fields, new: &Fields) -> (usize, Vec<FieldFate>) {
    let way = RecordWay::of(new, held, Level::Top, Defaults::Ignored);
    let mut fates = Vec::new();
    let unchanged = of_record(&way, new, held, "", &mut fates);
    (unchanged, fates)
}

fn of_record(way: &RecordWay, new: &Fields, held: &Fields, above: &str, fates: &mut Vec<FieldFate>) -> usize {
    let below = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    let given = |wanted: usize| {
        way.columns.iter().zip(held).find_map(|(source, column)| match source {
            Source::Given(at, way) if *at == wanted => Some((way, column)),
            _ => None,
        })
    };
    let mut unchanged = 0;
    for (at, field) in new.iter().enumerate() {
        let Some((way, column)) = given(at) else {
            let new = Some(field.data_type().clone());
            fates.push(FieldFate { path: below(field.name()), fate: Fate::Added, held: None, new });
            continue;
        };
        let before = fates.len();
        of_value(way, field.data_type(), column.data_type(), below(column.name()), fates);
        unchanged += usize::from(fates.len() == before);
    }
    for (source, column) in way.columns.iter().zip(held) {
        if matches!(source, Source::Missing(_)) {
            let held = Some(column.data_type().clone());
            fates.push(FieldFate { path: below(column.name()), fate: Fate::Missing, held, new: None });
        }
    }
    unchanged
}

fn of_value(way: &Way, new: &DataType, held: &DataType, path: String, fates: &mut Vec<FieldFate>) {
    match (way, new, held) {
        (Way::Same, ..) => {}
        (Way::Record(way), DataType::Struct(new), DataType::Struct(held)) => {
            of_record(way, new, held, &path, fates);
        }
        (Way::List(way), DataType::List(new), DataType::List(held)) => {
            of_value(way, new.data_type(), held.data_type(), format!("{path}[]"), fates);
        }
        (Way::Map(way), DataType::Map(new, _), DataType::Map(held, _)) => {
            if let (Some(new), Some(held)) = (value_of(new), value_of(held)) {
                of_value(way, new, held, format!("{path}{{}}"), fates);
            }
        }
        (way, new, held) => {
            let fate = if matches!(way, Way::Rescued) { Fate::Rescued } else { Fate::Cast };
            fates.push(FieldFate { path, fate, held: Some(held.clone()), new: Some(new.clone()) });
        }
    }
}
