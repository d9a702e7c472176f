//! `[[transform]]` as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::maintenance::MaintenanceTable;
use crate::config::text::{CronText, DurationText, NameText, PathText, TableText};

pub(in crate::config) const EVERY: &str = "1min";
pub(in crate::config) const DEDUPE_WITHIN: &str = "7days";

/// A table made of other tables, by one SQL query. What the query reads decides when it runs, and in which order.
/// A file may hold transforms alone.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TransformTable {
    /// The table, as `silver.leads`. It is made by the first run.
    #[schemars(required)]
    pub table: Option<TableText>,
    /// The file with the query, relative to the project's folder and within it: one `SELECT`, with or without `WITH`.
    /// `STREAM(bronze.leads)` in it is what was added to a table since the last run, and of a table that is updated what
    /// was changed; a table without it is read whole.
    #[schemars(required)]
    pub sql: Option<PathText>,
    /// How the query's rows become those of the table.
    #[schemars(required)]
    pub mode: Option<Mode>,
    /// The team that answers for it: one of `teams` in `sluice.toml`.
    #[schemars(extend("x-default-words" = "`owner` of `[pipeline]` in the same file"))]
    pub owner: Option<NameText>,
    /// The columns of the query that tell rows apart; none with fractions. `merge`, `history` and `recompute` need them.
    pub keys: Option<Vec<String>>,
    /// The columns of the query that say which of two rows with the same keys is the later one, the first column first.
    /// `merge` and `history` need them.
    pub sequence_by: Option<Vec<String>>,
    /// A condition over the query's columns: such a row says that its keys are no more. For `merge` and `history`.
    pub delete_when: Option<String>,
    /// The columns of the query of which the table holds each combination once, for producers that send twice. For
    /// `append`.
    pub dedupe_by: Option<Vec<String>>,
    /// How far back `dedupe_by` looks, by the time at which rows were committed.
    #[schemars(extend("default" = DEDUPE_WITHIN))]
    pub dedupe_within: Option<DurationText>,
    /// The columns of the query that the table's files are laid out by. A few values a day are right; one for each
    /// row makes a file for each row.
    pub partition_by: Option<Vec<String>>,
    /// Whether the table keeps a change feed, as Delta has it, for readers outside of this project: `true` turns it on. It
    /// is on for each table of `merge`, `history`, `recompute` and `replace` that a transform of the project streams. Once
    /// it is on it stays.
    #[schemars(extend("default" = false))]
    pub change_feed: Option<bool>,
    /// The least time between two runs within `sluice run`, where it runs after commits of its inputs.
    #[schemars(extend("default" = EVERY))]
    pub every: Option<DurationText>,
    /// When it runs, in place of after commits: five fields as cron has them, in UTC; or `@hourly`, `@daily`, `@weekly`,
    /// `@monthly`. Times that passed while no process ran are made up for by one run.
    pub cron: Option<CronText>,
    /// Versions of streamed inputs that somebody else changed, and that are to be passed over: `["bronze.leads@17"]`.
    pub skip_versions: Option<Vec<String>>,
    /// What is expected of the query's rows.
    #[serde(rename = "expect")]
    pub expectations: Option<Vec<ExpectTable>>,
    /// What is other for this table, and those beside it, than `[maintenance]` in `sluice.toml` says.
    pub maintenance: Option<MaintenanceTable>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Mode {
    /// The rows are added.
    Append,
    /// One row for each of the `keys`: the latest by `sequence_by`, in whatever order rows came.
    Merge,
    /// Every row of each of the `keys`, with `valid_from`, `valid_to` and `is_current`.
    History,
    /// The `keys` that new rows touch are computed again from the whole of the inputs.
    Recompute,
    /// The table is computed again as a whole.
    Replace,
}

/// What is expected of each row that the query gives. A row for which the condition is false violates it; one for which
/// it is unknown (null) doesn't. How many do is counted in each run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ExpectTable {
    /// The name of the expectation, once in a transform.
    #[schemars(required)]
    pub name: Option<NameText>,
    /// A condition over the query's columns: `score BETWEEN 0 AND 1`.
    #[schemars(required)]
    pub check: Option<String>,
    /// What happens to rows that violate it.
    #[schemars(extend("default" = "warn"))]
    pub on_violation: Option<OnViolation>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum OnViolation {
    /// They are kept, and counted.
    Warn,
    /// They are left out, and counted.
    Drop,
    /// They go to the table `<table>__quarantine`, with the name of the expectation.
    Quarantine,
    /// The run fails, and the table stays as it was.
    Fail,
}
