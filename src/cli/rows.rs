//! Rows as JSON, CSV and table: the same values in all three.
//!
//! Each value is written as `json.rs` says; what isn't a number, and infinity, as null. In CSV and tables a struct, map or list is its JSON; null is nothing in CSV and `NULL` in a table.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::EncoderOptions;
use arrow::json::writer::{NullableEncoder, make_encoder};
use comfy_table::{ContentArrangement, Table, presets};

use crate::json::{self, NotANumber};

/// A cell of a table longer than this is cut off: a body of a megabyte helps nobody on a screen.
const LONGEST_CELL_CHARS: usize = 200;

/// An array of row objects, a row a line, written as the batches come.
#[derive(Debug, Default)]
pub struct JsonRows {
    is_open: bool,
}

impl JsonRows {
    /// The bytes of the next rows.
    ///
    /// # Errors
    /// A type that has no JSON: a map whose keys aren't strings.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let options = options();
        let schema = batch.schema();
        let names: Vec<String> = schema.fields().iter().map(|field| json_text(field.name())).collect();
        let mut columns = encoders(&schema, batch.columns(), &options)?;
        let mut bytes = Vec::new();
        for row in 0..batch.num_rows() {
            bytes.extend_from_slice(if self.is_open { b",\n{" } else { b"[\n{" });
            self.is_open = true;
            for (at, (name, column)) in names.iter().zip(&mut columns).enumerate() {
                if at > 0 {
                    bytes.push(b',');
                }
                bytes.extend_from_slice(name.as_bytes());
                bytes.push(b':');
                if column.is_null(row) {
                    bytes.extend_from_slice(b"null");
                } else {
                    column.encode(row, &mut bytes);
                }
            }
            bytes.push(b'}');
        }
        Ok(bytes)
    }

    /// The end of the array.
    pub fn finish(self) -> &'static [u8] {
        if self.is_open { b"\n]\n" } else { b"[]\n" }
    }
}

/// The line of names.
pub fn csv_header(schema: &Schema) -> Vec<u8> {
    csv_line(schema.fields().iter().map(|field| Some(field.name().clone())))
}

/// The lines of a batch.
///
/// # Errors
/// As [`JsonRows::batch`]
pub fn csv(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    Ok(cells(batch)?.into_iter().flat_map(csv_line).collect())
}

/// The rows of a batch as they are shown in a table.
///
/// # Errors
/// As [`JsonRows::batch`]
pub fn shown(batch: &RecordBatch) -> Result<Vec<Vec<String>>, ArrowError> {
    let show = |cell: Option<String>| cell.map_or_else(|| "NULL".to_owned(), |text| fit_for_a_screen(&text));
    Ok(cells(batch)?.into_iter().map(|row| row.into_iter().map(show).collect()).collect())
}

/// Whether each column can be told apart by its name.
pub fn doubled_name(schema: &Schema) -> Option<&str> {
    let fields = schema.fields();
    let is_doubled = |at: usize| fields[..at].iter().any(|before| before.name() == fields[at].name());
    (0..fields.len()).find(|at| is_doubled(*at)).map(|at| fields[at].name().as_str())
}

/// Each value as its text, `None` for null.
fn cells(batch: &RecordBatch) -> Result<Vec<Vec<Option<String>>>, ArrowError> {
    let options = options();
    let schema = batch.schema();
    let mut columns = encoders(&schema, batch.columns(), &options)?;
    let mut json = Vec::new();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let cells = columns.iter_mut().map(|column| {
            if column.is_null(row) {
                return None;
            }
            json.clear();
            column.encode(row, &mut json);
            if json == b"null" {
                return None;
            }
            // What is a string in JSON stands without its quotes here.
            let text = serde_json::from_slice::<String>(&json);
            Some(text.unwrap_or_else(|_| String::from_utf8_lossy(&json).into_owned()))
        });
        rows.push(cells.collect());
    }
    Ok(rows)
}

fn csv_line(cells: impl IntoIterator<Item = Option<String>>) -> Vec<u8> {
    let mut line = String::new();
    for (at, cell) in cells.into_iter().enumerate() {
        if at > 0 {
            line.push(',');
        }
        let Some(text) = cell else { continue };
        // An empty text is quoted, so that it isn't null.
        if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
            line.push('"');
            line.push_str(&text.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(&text);
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// Cut off, and without characters that move a cursor (but for new lines, which make a cell
/// higher): texts come from events.
pub(super) fn fit_for_a_screen(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(LONGEST_CELL_CHARS) {
        if c.is_control() && c != '\n' {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(LONGEST_CELL_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// A table of words, without lines, as wide as its longest cells.
pub(super) fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// What a cell says where there may be nothing to say.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| fit_for_a_screen(&value.to_string()))
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn options() -> EncoderOptions {
    json::options(NotANumber::Null).with_explicit_nulls(true)
}

fn encoders<'a>(
    schema: &'a Schema,
    columns: &'a [ArrayRef],
    options: &'a EncoderOptions,
) -> Result<Vec<NullableEncoder<'a>>, ArrowError> {
    schema.fields().iter().zip(columns).map(|(field, column)| make_encoder(field, column.as_ref(), options)).collect()
}
