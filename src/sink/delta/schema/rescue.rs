//! What no column could hold, as the JSON of `_rescued`: an object of fields for each row that has any.

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::FieldRef;
use arrow::error::ArrowError;
use arrow::json::writer::make_encoder;
use std::sync::Arc;

use super::fit::any_left;
use super::join::join;
use crate::json::{self, NotANumber};

/// The column `_rescued` with what is left of the other columns.
///
/// # Errors
/// [`ArrowError`] for a type that has no JSON, which no column has.
pub(super) fn rescue(held: &ArrayRef, left: &[(FieldRef, ArrayRef)], rows: usize) -> Result<ArrayRef, ArrowError> {
    let options = json::options(NotANumber::Named);
    let mut columns = Vec::with_capacity(left.len());
    for (field, array) in left {
        columns
            .push((serde_json::Value::from(field.name().as_str()).to_string(), make_encoder(field, array, &options)?));
    }
    let is_left = any_left(left, rows);
    let held: Option<&StringArray> = held.as_string_opt();
    let mut texts = StringBuilder::new();
    let mut object = Vec::new();
    for row in 0..rows {
        let before = held.filter(|held| held.is_valid(row)).map(|held| held.value(row));
        if !is_left.value(row) {
            texts.append_option(before);
            continue;
        }
        object.clear();
        object.push(b'{');
        for (name, encoder) in &mut columns {
            if encoder.is_null(row) {
                continue;
            }
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend_from_slice(name.as_bytes());
            object.push(b':');
            encoder.encode(row, &mut object);
        }
        object.push(b'}');
        let object = String::from_utf8_lossy(&object);
        match before {
            // What was rescued before stays in front.
            Some(before) => texts.append_value(join(before, &object)),
            None => texts.append_value(object),
        }
    }
    Ok(Arc::new(texts.finish()))
}
