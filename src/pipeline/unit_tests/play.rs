//! One test, in a lake of its own.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt as _;
use uuid::Uuid;

use super::compare::compare;
use super::prepare::{Prepared, PreparedExpected, projected};
use super::{Failure, ShownRow};
use crate::catalog::log::log_store_to_read;
use crate::catalog::scan::scan;
use crate::catalog::table_location;
use crate::catalog::tables::Tables;
use crate::config::spec::TableName;
use crate::fault_points::FaultPoints;
use crate::pipeline::PipelineError;
use crate::shutdown::Shutdown;
use crate::storage::Location;
use crate::transform::given::{Rows, give, give_changes};
use crate::transform::graph::owner_of;
use crate::transform::run::TransformError;
use crate::transform::run::engine::{Engine, Refresh};

/// A folder that is gone when the test is.
struct Lake {
    folder: PathBuf,
    location: Location,
}

impl Lake {
    fn make() -> Result<Self, PipelineError> {
        let folder = std::env::temp_dir().join(format!("sluice-test-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&folder).map_err(|source| PipelineError::File { path: folder.clone(), source })?;
        let location = Location::resolve(&folder.to_string_lossy(), None)?;
        Ok(Self { folder, location })
    }
}

impl Drop for Lake {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "the lake of a test can't be removed");
        }
    }
}

/// What the runs have told so far.
#[derive(Default)]
struct Told {
    /// The first error of each transform.
    errors: BTreeMap<TableName, String>,
    /// Transform and expectation to rows.
    violations: BTreeMap<(TableName, String), u64>,
}

/// Plays a test and tells what isn't as expected.
///
/// # Errors
/// No lake could be made.
pub(super) async fn play(test: &Prepared) -> Result<Vec<Failure>, PipelineError> {
    let lake = Lake::make()?;
    let engine = Engine {
        lake: Tables::new(&lake.location),
        runtime: Arc::new(RuntimeEnv::default()),
        part_bytes: crate::transform::run::engine::PART_BYTES,
        fault_points: FaultPoints::default(),
        shutdown: Shutdown::new(),
    };
    for (table, schema) in &test.tables {
        give(&engine.lake, table, schema, None).await.map_err(|error| given(table, error))?;
    }
    let mut told = Told::default();
    let mut failures = Vec::new();
    for (at, step) in test.steps.iter().enumerate() {
        for (table, rows) in step {
            let gave = match rows {
                Rows::Added(rows) => give(&engine.lake, table, &rows.schema(), Some(rows)).await,
                Rows::Changed(rows) => give_changes(&engine.lake, table, rows).await,
            };
            gave.map_err(|error| given(table, error))?;
        }
        run(test, &engine, &mut told).await;
        let is_last = at + 1 == test.steps.len();
        for expected in &test.expected {
            let is_due = match expected.after {
                Some(after) => after as usize == at + 1,
                None => is_last,
            };
            if is_due {
                failures.extend(check(expected, engine.lake.lake(), &told).await?);
            }
        }
    }
    // First what went wrong, then what came of it.
    let mut errors = unexpected_errors(test, &told);
    errors.extend(failures);
    Ok(errors)
}

fn given(table: &TableName, error: TransformError) -> PipelineError {
    PipelineError::Transform { table: table.to_string(), source: Box::new(error) }
}

/// Runs each transform once. What hangs on one that failed isn't run: it would tell the same again.
async fn run(test: &Prepared, engine: &Engine, told: &mut Told) {
    for node in &test.transforms {
        let spec = &node.spec;
        if node.parsed.inputs.iter().any(|input| told.errors.contains_key(&owner_of(&input.table))) {
            continue;
        }
        let report = engine.run(node, Refresh::No).await;
        for violated in report.violations {
            *told.violations.entry((spec.table.clone(), violated.name)).or_default() += violated.rows;
        }
        if let Some(error) = report.error {
            let mut words = error.to_string();
            let mut cause = error.source();
            while let Some(source) = cause {
                words = format!("{words}: {source}");
                cause = source.source();
            }
            told.errors.entry(spec.table.clone()).or_insert(words);
        }
    }
}

fn unexpected_errors(test: &Prepared, told: &Told) -> Vec<Failure> {
    let is_expected = |table: &TableName| {
        test.expected.iter().any(|expected| expected.fails.is_some() && owner_of(&expected.table) == *table)
    };
    let unexpected = told.errors.iter().filter(|(table, _)| !is_expected(table));
    let failures = unexpected.map(|(table, error)| Failure {
        table: table.to_string(),
        message: format!("the run failed: {error}"),
        difference: None,
    });
    failures.collect()
}

async fn check(expected: &PreparedExpected, lake: &Location, told: &Told) -> Result<Vec<Failure>, PipelineError> {
    let table = &expected.table;
    let mut failures = Vec::new();
    let mut fail =
        |message: String, difference| failures.push(Failure { table: table.to_string(), message, difference });
    if let Some(text) = &expected.fails {
        match told.errors.get(&owner_of(table)) {
            None => fail(format!("the run was to fail with `{text}`, and didn't"), None),
            Some(error) if !error.contains(text.as_str()) => {
                fail(format!("the run was to fail with `{text}`, and failed with: {error}"), None);
            }
            Some(_) => {}
        }
    }
    for (name, wanted) in &expected.violations {
        let found = told.violations.get(&(owner_of(table), name.clone())).copied().unwrap_or_default();
        if found != *wanted {
            fail(format!("violations of `{name}`: {found}, expected {wanted}"), None);
        }
    }
    if let Some((columns, rows)) = &expected.rows {
        let actual = match rows_of(table, lake, columns, &expected.order_by).await? {
            Some(actual) => actual,
            // A quarantine is made by the first row in it.
            None if rows.is_empty() => return Ok(failures),
            None => {
                fail(format!("no table was made; rows expected: {}", rows.len()), None);
                return Ok(failures);
            }
        };
        let is_ordered = !expected.order_by.is_empty();
        let count = actual.len();
        if let Some(difference) = compare(columns, rows.clone(), actual, is_ordered, expected.tolerance) {
            let message = format!("rows: {count}, expected {}; {} as expected", rows.len(), difference.same);
            fail(message, Some(difference));
        }
    }
    Ok(failures)
}

/// The rows of a table; none where there is none.
async fn rows_of(
    table: &TableName,
    lake: &Location,
    columns: &[String],
    order_by: &[String],
) -> Result<Option<Vec<ShownRow>>, PipelineError> {
    let Some(store) = log_store_to_read(&table_location(lake, table)).await? else { return Ok(None) };
    let quote = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = format!("SELECT {} FROM t", columns.iter().map(quote).collect::<Vec<_>>().join(", "));
    if !order_by.is_empty() {
        sql.push_str(&format!(" ORDER BY {}", order_by.iter().map(quote).collect::<Vec<_>>().join(", ")));
    }
    let failed = |source| crate::catalog::CatalogError::Query { table: table.to_string(), source: Box::new(source) };
    let batches: Vec<_> = scan(&store, &sql).await?.try_collect().await.map_err(failed)?;
    let mut rows = Vec::new();
    for batch in batches {
        rows.extend(projected(&batch, columns).map_err(|error| failed(error.into()))?);
    }
    if order_by.is_empty() {
        // What is left over is shown in the same order each time.
        rows.sort_by_cached_key(|row| format!("{row:?}"));
    }
    Ok(Some(rows))
}
