//! Application properties of a batch, as routes ask for them: by the names that they know.

use arrow::array::{Array as _, AsArray as _, MapArray, RecordBatch};
use arrow::error::ArrowError;

use crate::batch::bronze;

/// The first value of each name, row by row.
pub(super) struct Properties<'a> {
    /// Of each row as many as there are names.
    values: Vec<Option<&'a str>>,
    names: usize,
}

impl<'a> Properties<'a> {
    /// # Errors
    /// When the column is missing.
    pub(super) fn of(rows: &'a RecordBatch, names: &[String]) -> Result<Self, ArrowError> {
        if names.is_empty() {
            return Ok(Self { values: Vec::new(), names: 0 });
        }
        let column = rows.column_by_name(bronze::PROPERTIES).and_then(|column| column.as_map_opt());
        let missing = || ArrowError::SchemaError(format!("column `{}` is missing or no map", bronze::PROPERTIES));
        let map: &MapArray = column.ok_or_else(missing)?;
        let keys = map.keys().as_string_opt::<i32>().ok_or_else(missing)?;
        let held = map.values().as_string_opt::<i32>().ok_or_else(missing)?;
        let mut values = vec![None; rows.num_rows() * names.len()];
        let mut seen = vec![false; names.len()];
        for (row, span) in map.value_offsets().windows(2).enumerate() {
            let (Ok(from), Ok(to)) = (usize::try_from(span[0]), usize::try_from(span[1])) else {
                return Err(missing());
            };
            seen.fill(false);
            for at in from..to {
                let Some(name) = names.iter().position(|name| name == keys.value(at)) else { continue };
                if !std::mem::replace(&mut seen[name], true) && held.is_valid(at) {
                    values[row * names.len() + name] = Some(held.value(at));
                }
            }
        }
        Ok(Self { values, names: names.len() })
    }

    /// The value of each name, as the router has them.
    pub(super) fn of_row(&self, row: usize) -> Vec<Option<&'a str>> {
        self.values.get(row * self.names..(row + 1) * self.names).unwrap_or_default().to_vec()
    }
}
