//! One writer schema, ready to decode with.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Fields, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::columns::Columns;
use super::json;
use super::plan::Plan;
use super::walk::{DatumError, Texts};
use crate::batch::bronze;

/// Bytes that one set of columns is made of, datums and what they take beyond. Arrow's offsets have 31
/// bits; smaller only makes more batches.
const COLUMN_BYTES_MAX: usize = 512 << 20;

/// A schema that events were written with. Shared by all partitions.
#[derive(Debug)]
pub struct WriterSchema {
    plan: Plan,
    /// Of all batches of its rows, so that what is worked out for one holds for the next.
    rows: SchemaRef,
}

/// What datums became.
#[derive(Debug, Default)]
pub struct Rows {
    /// Sets of columns, in the order of the datums; more than one only past half a gigabyte.
    pub sets: Vec<Set>,
    /// Datums without a row, and why, in order.
    pub rejected: Vec<(usize, String)>,
}

#[derive(Debug)]
pub struct Set {
    /// The datum of each row.
    pub datums: Vec<usize>,
    pub columns: Vec<ArrayRef>,
}

impl WriterSchema {
    /// Reads a schema (JSON).
    ///
    /// # Errors
    /// Words that name what in the schema can't be used.
    pub fn parse(avsc: &str) -> Result<Self, String> {
        let plan = Plan::parse(avsc)?;
        let rows = bronze::with_envelope(plan.columns.iter().cloned());
        Ok(Self { plan, rows })
    }

    /// The schema of its rows: the payload's columns, then the envelope's.
    pub fn rows(&self) -> &SchemaRef {
        &self.rows
    }

    /// The full name of what it describes, where it has one.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.plan.name.as_ref()
    }

    /// The payload's columns.
    pub fn columns(&self) -> &Fields {
        &self.plan.columns
    }

    /// What a user should know of the columns.
    pub fn notes(&self) -> &[String] {
        &self.plan.notes
    }

    /// Each datum ends in a row or among the rejected.
    ///
    /// # Errors
    /// Only for a defect of ours.
    pub fn decode(&self, datums: &[&[u8]]) -> Result<Rows, ArrowError> {
        // Should a text not be one, the second walk finds out whose.
        self.walk(datums, Texts::Together).or_else(|_| self.walk(datums, Texts::Each))
    }

    /// A body of JSON as a datum, and what of it the schema doesn't know: an object of fields, as JSON.
    ///
    /// # Errors
    /// Words that say what is wrong with it.
    pub(in crate::decode) fn datum_of_json(&self, body: &[u8]) -> Result<(Vec<u8>, Option<String>), String> {
        json::datum_of(&self.plan.root, body)
    }

    /// Takes `blocks` of records apart, which lie one behind the other: so many of them, in so many bytes.
    ///
    /// # Errors
    /// Words that name the first record that is wrong. (Texts aren't looked at yet.)
    pub(in crate::decode) fn split<'b>(&self, blocks: &'b [(usize, Bytes)]) -> Result<Vec<&'b [u8]>, String> {
        let mut datums = Vec::with_capacity(blocks.iter().map(|(records, _)| records).sum());
        let mut columns = Columns::new(&self.plan.root, 0);
        let mut extra = 0;
        for (records, block) in blocks {
            let mut rest = &block[..];
            for _ in 0..*records {
                let wrong = |error: Box<DatumError>| format!("record {}: {error}", datums.len());
                let (datum, behind) = rest.split_at(columns.length_of(rest, &mut extra).map_err(wrong)?);
                datums.push(datum);
                rest = behind;
            }
            if !rest.is_empty() {
                return Err(format!("behind record {} follow {} bytes", datums.len().saturating_sub(1), rest.len()));
            }
        }
        Ok(datums)
    }

    fn walk(&self, datums: &[&[u8]], texts: Texts) -> Result<Rows, ArrowError> {
        let mut rows = Rows::default();
        let mut columns = Columns::new(&self.plan.root, datums.len());
        let mut sound = Vec::with_capacity(datums.len());
        for (index, datum) in datums.iter().enumerate() {
            match columns.push(datum, texts) {
                Ok(()) => sound.push(index),
                Err(error) => rows.rejected.push((index, error.to_string())),
            }
            if columns.bytes() >= COLUMN_BYTES_MAX {
                let full = std::mem::replace(&mut columns, Columns::new(&self.plan.root, 0));
                rows.sets.push(Set { datums: std::mem::take(&mut sound), columns: full.finish()? });
            }
        }
        if !sound.is_empty() {
            rows.sets.push(Set { datums: sound, columns: columns.finish()? });
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_bad_datum_takes_nothing_of_its_neighbours_with_it() {
        let avsc = r#"{"type": "record", "name": "R", "fields": [
            {"name": "names", "type": {"type": "array", "items": "string"}},
            {"name": "ages", "type": {"type": "map", "values": ["null", "int"]}},
            {"name": "n", "type": "int"}]}"#;
        let schema = WriterSchema::parse(avsc).expect("a schema");
        let good: &[u8] = &[2, 2, b'a', 0, 2, 2, b'k', 2, 10, 0, 14];
        // Cut off after the array, within the map, before the number, and beyond it; a text of no text.
        let bad: [&[u8]; 5] =
            [&good[..4], &good[..7], &good[..10], &[2, 2, b'a', 0, 0, 14, 0], &[2, 2, 0xFF, 0, 0, 14]];
        for (at, bad) in bad.into_iter().enumerate() {
            let rows = schema.decode(&[good, bad, good, bad]).expect("decoded");
            assert_eq!(rows.rejected.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 3], "{at}");
            let [Set { datums, columns }] = rows.sets.as_slice() else { panic!("one set") };
            assert_eq!(datums, &[0, 2]);
            assert_eq!(
                columns[0].as_list::<i32>().values().as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
                ["a", "a"]
            );
            let ages = columns[1].as_map();
            assert_eq!(
                (ages.len(), ages.keys().len(), ages.values().as_primitive::<Int64Type>().values()[1]),
                (2, 2, 5)
            );
            assert_eq!(columns[2].as_primitive::<Int64Type>().values(), &[7, 7]);
        }
    }

    #[test]
    fn keys_of_a_map_without_a_column_are_texts_too() {
        let avsc = r#"{"type": "record", "name": "R", "fields": [
            {"name": "n", "type": "int"}, {"name": "m", "type": {"type": "map", "values": ["null"]}}]}"#;
        let schema = WriterSchema::parse(avsc).expect("a schema");
        let rows = schema.decode(&[&[2, 2, 2, b'k', 0, 0], &[2, 2, 2, 0xFF, 0, 0]]).expect("decoded");
        assert_eq!(rows.sets[0].datums, [0]);
        assert!(rows.rejected[0].1.contains("a string that isn't UTF-8"), "{:?}", rows.rejected);
    }

    #[test]
    fn a_schema_without_bytes_gives_rows_without_columns() {
        let schema = WriterSchema::parse(r#"{"type": "record", "name": "R", "fields": []}"#).expect("a schema");
        let rows = schema.decode(&[&[], &[0], &[]]).expect("decoded");
        assert_eq!(rows.sets[0].datums, [0, 2]);
        assert_eq!(rows.rejected.len(), 1);
    }
}
