//! `[[test]]` as it is written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::config::text::{PathText, TableText};

/// A file under `tests/`: what transforms are to make of given rows. `sluice test` runs it in a lake of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TestFile {
    /// Tests, each on its own.
    #[schemars(required)]
    #[serde(rename = "test")]
    pub tests: Option<Vec<TestTable>>,
}

/// A test: rows of some tables are given, the transforms that make the expected tables run, and their rows are compared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TestTable {
    /// What the test claims, in words: `late events change nothing`.
    #[schemars(required)]
    pub name: Option<String>,
    /// How the given rows are parted into runs: each of these is a test of its own, with the same expectations.
    #[schemars(extend("x-default-words" = "`[\"given\"]`"))]
    pub batches: Option<Vec<Batching>>,
    /// The tables whose transforms run.
    #[schemars(extend("x-default-words" = "those that are expected, and what they are made of, but for what is given"))]
    pub run: Option<Vec<TableText>>,
    /// The rows that are there.
    pub given: Option<Vec<GivenTable>>,
    /// The rows that are to be there in the end.
    #[schemars(required)]
    pub expect: Option<Vec<ExpectedTable>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Batching {
    /// By `batch` of the given rows.
    Given,
    /// All rows are there before the first and only run.
    Once,
    /// A run after each row, in the order in which they are given.
    Rows,
}

/// Rows of a table, before a run. Of a bronze table only the payload's columns need be given: where they are
/// missing, `_source` is `test`, `_partition` is `0`, `_sequence_number` counts the table's rows from 0, `_record_index` is
/// 0, `_enqueued_at` is as many seconds after 2026-01-01 and `_enqueued_date` its day. Any other column is null.
/// Rows of a table whose changes are streamed are inserted, unless `_change_type` says that they are an `update_preimage`,
/// an `update_postimage` or a `delete`; what goes is written out whole, as it was given.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct GivenTable {
    /// The table.
    #[schemars(required)]
    pub table: Option<TableText>,
    /// Which run they are there for, from 1 on.
    #[schemars(range(min = 1), extend("default" = 1))]
    pub batch: Option<i64>,
    /// The rows: a table of columns for each. Times with or without quotes, decimals and dates in quotes, bytes in hex.
    #[serde(rename = "rows")]
    pub _rows: Option<Free>,
    /// In place of `rows`: a file, relative to the project's folder. `.jsonl` has a row a line; `.json` an array of rows;
    /// `.avro` is a container of events, whose records become rows as the table's pipeline makes them.
    pub file: Option<PathText>,
}

/// What a table holds after the last run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ExpectedTable {
    /// The table; also `<table>__quarantine`.
    #[schemars(required)]
    pub table: Option<TableText>,
    /// Its rows, all of them, written as given ones are. The columns that are named in any of them are compared.
    #[serde(rename = "rows")]
    pub _rows: Option<Free>,
    /// The columns that are compared.
    #[schemars(extend("x-default-words" = "those that a row names"))]
    pub columns: Option<Vec<String>>,
    /// A table has no order. With this it is read in the order of these columns, and the rows must stand in it; else they
    /// may stand in any.
    pub order_by: Option<Vec<String>>,
    /// How far numbers with fractions may differ.
    #[schemars(extend("default" = 0.0))]
    pub tolerance: Option<f64>,
    /// After which batch, from 1 on. Only with `batches = ["given"]`.
    #[schemars(range(min = 1), extend("x-default-words" = "the last"))]
    pub after: Option<i64>,
    /// How many rows violated each expectation of the transform, over all runs: `{ score_in_range = 2 }`.
    #[serde(rename = "violations")]
    pub _violations: Option<Free>,
    /// The run of the transform fails, and its error holds this text.
    pub fails: Option<String>,
}

/// Whatever TOML can say: what it means depends on the columns of a table.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(in crate::config) struct Free(pub serde::de::IgnoredAny);

impl JsonSchema for Free {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Free".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-free": true, "x-type": "rows" })
    }
}
