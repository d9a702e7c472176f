//! One writer schema, ready to decode with.

use arrow::array::ArrayRef;
use arrow::compute::concat;
use arrow::datatypes::Fields;
use arrow::error::ArrowError;

use super::normalise::record_columns;
use super::physical::Engine;
use super::plan::{FieldNode, Kind, Plan};
use super::validate;

/// Bytes that one set of columns is made of, datums and nulls. Arrow's offsets have 31 bits, and
/// arrow-avro panics past them; smaller only makes more batches.
const COLUMN_BYTES_MAX: usize = 512 << 20;

/// A schema that events were written with. Shared by all partitions.
#[derive(Debug)]
pub(in crate::decode) struct WriterSchema {
    plan: Plan,
    /// `None` where a datum takes no bytes at all.
    engine: Option<Engine>,
}

/// What datums became.
#[derive(Debug)]
pub(in crate::decode) struct Rows {
    /// Sets of columns, in the order of the datums; more than one only past [`COLUMN_BYTES_MAX`].
    pub(in crate::decode) sets: Vec<Set>,
    /// Datums without a row, and why, in order.
    pub(in crate::decode) rejected: Vec<(usize, String)>,
}

#[derive(Debug)]
pub(in crate::decode) struct Set {
    /// The datum of each row.
    pub(in crate::decode) datums: Vec<usize>,
    pub(in crate::decode) columns: Vec<ArrayRef>,
}

impl WriterSchema {
    /// # Errors
    /// Words that name what in the schema can't be used.
    pub(in crate::decode) fn parse(avsc: &str) -> Result<Self, String> {
        let plan = Plan::parse(avsc)?;
        let engine = match plan.root.is_empty() {
            true => None,
            false => Some(Engine::try_new(&plan.root).map_err(|error| format!("arrow-avro refuses it: {error}"))?),
        };
        Ok(Self { plan, engine })
    }

    /// The payload's columns.
    pub(in crate::decode) fn columns(&self) -> &Fields {
        &self.plan.columns
    }

    /// What a user should know of the columns.
    pub(in crate::decode) fn notes(&self) -> &[String] {
        &self.plan.notes
    }

    /// Each datum ends in a row or among the rejected.
    pub(in crate::decode) fn decode(&self, datums: &[&[u8]]) -> Result<Rows, ArrowError> {
        let mut rows = Rows { sets: Vec::new(), rejected: Vec::new() };
        let mut sound = Vec::with_capacity(datums.len());
        let mut bytes = 0_usize;
        for (index, datum) in datums.iter().enumerate() {
            match validate::datum(&self.plan.root, datum) {
                Ok(null_bytes) => {
                    let more = datum.len().saturating_add(null_bytes);
                    if bytes.saturating_add(more) > COLUMN_BYTES_MAX && !sound.is_empty() {
                        self.set(datums, &sound, &mut rows)?;
                        sound.clear();
                        bytes = 0;
                    }
                    bytes = bytes.saturating_add(more);
                    sound.push(index);
                }
                Err(error) => rows.rejected.push((index, error.to_string())),
            }
        }
        if !sound.is_empty() {
            self.set(datums, &sound, &mut rows)?;
        }
        rows.rejected.sort_unstable_by_key(|(index, _)| *index);
        Ok(rows)
    }

    fn set(&self, datums: &[&[u8]], sound: &[usize], rows: &mut Rows) -> Result<(), ArrowError> {
        let Some(engine) = &self.engine else {
            rows.sets.push(Set { datums: sound.to_vec(), columns: Vec::new() });
            return Ok(());
        };
        let mut parts = Vec::new();
        bisect(engine, self.fields(), datums, sound, &mut parts, &mut rows.rejected)?;
        let mut parts = parts.into_iter();
        let Some(mut set) = parts.next() else { return Ok(()) };
        for part in parts {
            set.datums.extend(part.datums);
            let joined = set.columns.iter().zip(&part.columns);
            set.columns = joined.map(|(left, right)| concat(&[left, right])).collect::<Result<_, _>>()?;
        }
        rows.sets.push(set);
        Ok(())
    }

    fn fields(&self) -> &[FieldNode] {
        match &self.plan.root.kind {
            Kind::Record(fields) => fields,
            _ => &[],
        }
    }
}

/// All at once as a rule. Should arrow-avro refuse what validation let pass, halves of halves find
/// the one that it refuses, each half with a new decoder.
fn bisect(
    engine: &Engine,
    fields: &[FieldNode],
    datums: &[&[u8]],
    sound: &[usize],
    parts: &mut Vec<Set>,
    rejected: &mut Vec<(usize, String)>,
) -> Result<(), ArrowError> {
    let fed: Vec<_> = sound.iter().map(|index| datums[*index]).collect();
    match (engine.columns(&fed), sound) {
        (Ok(batch), _) => {
            let columns = record_columns(fields, batch.columns())?;
            parts.push(Set { datums: sound.to_vec(), columns });
        }
        (Err(error), [one]) => rejected.push((*one, format!("arrow-avro refuses the datum: {error}"))),
        (Err(_), _) => {
            let (left, right) = sound.split_at(sound.len() / 2);
            bisect(engine, fields, datums, left, parts, rejected)?;
            bisect(engine, fields, datums, right, parts, rejected)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn halves_of_halves_find_what_arrow_avro_refuses() {
        let schema =
            WriterSchema::parse(r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}"#)
                .expect("a schema");
        let engine = schema.engine.as_ref().expect("an engine");
        // Validation would have refused the third and the last.
        let datums: [&[u8]; 6] = [&[2], &[4], &[0x80, 0x80, 0x80, 0x80, 0x10], &[6], &[8], &[0x80]];
        let (mut parts, mut rejected) = (Vec::new(), Vec::new());
        bisect(engine, schema.fields(), &datums, &[0, 1, 2, 3, 4, 5], &mut parts, &mut rejected).expect("bisected");
        assert_eq!(rejected.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2, 5]);
        assert!(rejected.iter().all(|(_, text)| text.starts_with("arrow-avro refuses the datum: ")));
        let rows: Vec<_> = parts.iter().flat_map(|part| part.datums.iter().copied()).collect();
        assert_eq!(rows, [0, 1, 3, 4]);
        let values: Vec<_> =
            parts.iter().flat_map(|part| part.columns[0].as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(values, [1, 2, 3, 4]);
    }

    #[test]
    fn a_schema_without_bytes_gives_rows_without_columns() {
        let schema = WriterSchema::parse(r#"{"type": "record", "name": "R", "fields": []}"#).expect("a schema");
        let rows = schema.decode(&[&[], &[0], &[]]).expect("decoded");
        assert_eq!(rows.sets[0].datums, [0, 2]);
        assert_eq!(rows.rejected.len(), 1);
    }
}
