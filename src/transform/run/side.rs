//! The tables beside a transform's own: what it quarantined, and what it deleted. Both are committed
//! before the rows that come of the same part.
//!
//! `<table>__quarantine` carries the positions of the part that its rows are from, as the table itself
//! does. A run that died between the two commits is repeated with exactly that part, inputs that are
//! read whole at the versions that they had, and quarantines nothing again.
//!
//! `<table>__deleted` holds key and sequence of what `delete_when` deleted. Rows of it are facts of the
//! input, so one that is there twice says nothing else.
//!
//! Both follow the table when it is begun anew: they are emptied before they are used again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::kernel::{Action, Add, Metadata};
use deltalake::protocol::SaveMode;
use futures::TryStreamExt as _;
use serde_json::Value;

use super::TransformError;
use super::columns::fit;
use super::consumed::{Position, refreshed, refreshes};
use super::engine::{graves, quarantines};
use super::expectations::{QUARANTINED_AT, RUN_ID, quarantine_schema};
use super::input::InputTable;
use super::modes::GivesWay;
use super::output::{Output, write};
use super::stage::Staged;
use crate::catalog::data_file::FilesWriter;
use crate::catalog::rewrite::{Change, Kind};
use crate::catalog::state::metadata_of_new;
use crate::catalog::tables::Tables;
use crate::config::spec::{Mode, TableName, TransformSpec};
use crate::transform::{Parsed, session};

/// How often an emptying or a burial is planned again.
const TRIES: u32 = 20;

/// What these tables' names end in.
const QUARANTINE: &str = "__quarantine";
const DELETED: &str = "__deleted";

/// The `txn` of a quarantine that says at which version an input was read whole.
pub fn pinned(input: &str, version: u64) -> (String, i64) {
    (format!("sluice-pinned:1:{input}"), i64::try_from(version).unwrap_or(i64::MAX))
}

/// The quarantine of a table.
pub fn quarantine_of(name: &TableName) -> TableName {
    TableName { schema: name.schema.clone(), table: format!("{}{QUARANTINE}", name.table) }
}

/// Where a table's deletions are kept.
pub fn graves_of(name: &TableName) -> TableName {
    TableName { schema: name.schema.clone(), table: format!("{}{DELETED}", name.table) }
}

/// A part that was begun and whose quarantine is committed.
#[derive(Debug)]
pub struct Intended {
    /// Where each streamed input stands after it.
    pub ends: HashMap<TableName, Position>,
    /// The version of each input that is read whole.
    pub pinned: Vec<(TableName, u64)>,
}

/// The tables beside one table, as of the part that is computed.
pub struct Side {
    tables: Tables,
    name: TableName,
    note: Value,
    refreshes: i64,
    /// The columns of the quarantine; none where nothing is quarantined.
    quarantine_columns: Option<Schema>,
    quarantine: Option<Output>,
    graves: Option<Output>,
    properties: Vec<(String, String)>,
}

impl Side {
    /// # Errors
    /// [`TransformError::Evolved`], errors of storage.
    pub async fn open(
        tables: &Tables,
        spec: &TransformSpec,
        output: &Output,
        note: &Value,
    ) -> Result<Self, TransformError> {
        let refreshes = refreshes(&output.head.transactions);
        let properties = vec![
            ("delta.dataSkippingNumIndexedCols".to_owned(), "-1".to_owned()),
            ("sluice.transform".to_owned(), spec.table.to_string()),
            ("sluice.owner".to_owned(), spec.owner.clone()),
        ];
        let mut side = Self {
            tables: tables.clone(),
            name: spec.table.clone(),
            note: note.clone(),
            refreshes,
            quarantine_columns: None,
            quarantine: None,
            graves: None,
            properties,
        };
        if quarantines(spec) {
            let columns = quarantine_schema(&match spec.mode {
                Mode::History => super::modes::without_history(&output.schema),
                _ => output.schema.as_ref().clone(),
            });
            side.quarantine = match Output::open(tables, &quarantine_of(&spec.table)).await? {
                Some(table) => Some(side.up_to_date(table, &columns).await?),
                None => None,
            };
            side.quarantine_columns = Some(columns);
        }
        if let Some(columns) = graves(spec, &output.schema) {
            let name = graves_of(&spec.table);
            let table = Output::open_or_create(tables, &name, &columns, &[], side.properties.clone()).await?;
            side.graves = Some(side.up_to_date(table, &columns).await?);
        }
        Ok(side)
    }

    /// The quarantine, where there is one by now.
    pub fn quarantined(&self) -> Option<&Output> {
        self.quarantine.as_ref()
    }

    pub fn graves(&self) -> Option<&Output> {
        self.graves.as_ref()
    }

    /// Empties a table of what was there before its transform's was begun anew, and gives it the
    /// columns that it needs now.
    async fn up_to_date(&self, mut table: Output, columns: &Schema) -> Result<Output, TransformError> {
        for _ in 0..TRIES {
            if refreshes(&table.head.transactions) >= self.refreshes {
                table.follow(columns, None, &[], &self.note).await?;
                return Ok(table);
            }
            let fresh = metadata_of_new(&table.log, columns, &[], Vec::new())?;
            let mut transactions = vec![refreshed(self.refreshes)];
            for id in super::consumed::inputs(&table.head.transactions) {
                transactions.extend(Position::Nothing.transactions(&id));
            }
            let change = Change {
                kind: Kind::Rewrite,
                adds: Vec::new(),
                removes: table.files().await?.iter().map(|file| file.remove(true)).collect(),
                transactions,
                metadata: Some(with_layout(table.head.metadata.clone(), &fresh)?),
                changes: Vec::new(),
                protocol: None,
                operation: write(SaveMode::Overwrite),
                note: self.note.clone(),
            };
            table.put(change).await?;
            table.reload().await?;
        }
        Err(TransformError::Lost { table: table.name, tries: TRIES })
    }

    /// The part whose quarantine is committed and whose rows aren't, if there is one.
    ///
    /// # Errors
    /// [`TransformError::Newer`]
    pub fn intended(
        &self,
        inputs: &BTreeMap<TableName, InputTable>,
        parsed: &Parsed,
        output: &Output,
    ) -> Result<Option<Intended>, TransformError> {
        let Some(quarantine) = &self.quarantine else { return Ok(None) };
        let has_streams = parsed.inputs.iter().any(|input| input.is_streamed);
        let mut is_ahead = false;
        let mut intended = Intended { ends: HashMap::new(), pinned: Vec::new() };
        for input in &parsed.inputs {
            let Some(table) = inputs.get(&input.table) else { continue };
            if !input.is_streamed && has_streams {
                let version = quarantine.head.transactions.get(&pinned(table.id(), 0).0);
                intended.pinned.extend(
                    version
                        .and_then(|version| u64::try_from(*version).ok())
                        .map(|version| (input.table.clone(), version)),
                );
                continue;
            }
            let quarantined = Position::read(&quarantine.head.transactions, table.id())?;
            let held = Position::read(&output.head.transactions, table.id())?;
            is_ahead |= quarantined.is_after(held);
            let end = if quarantined.is_after(held) { quarantined } else { held };
            if let (false, Position::Version(version)) = (input.is_streamed, end) {
                intended.pinned.push((input.table.clone(), version));
            }
            intended.ends.insert(input.table.clone(), end);
        }
        Ok(is_ahead.then_some(intended))
    }

    /// Commits rows that were quarantined, and takes out those that give way to them, unless somebody else has
    /// quarantined meanwhile: then the part is to be planned again, by what that one did.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn quarantine(
        &mut self,
        rows: Option<Staged>,
        gives_way: GivesWay,
        run_id: &str,
        positions: Vec<(String, i64)>,
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<bool, TransformError> {
        let Some(columns) = &self.quarantine_columns else { return Ok(true) };
        if rows.is_none() && gives_way.removes.is_empty() {
            return Ok(true);
        }
        if self.quarantine.is_none() {
            let name = quarantine_of(&self.name);
            let table = Output::open_or_create(&self.tables, &name, columns, &[], self.properties.clone()).await?;
            if !super::consumed::inputs(&table.head.transactions).is_empty() {
                return Ok(false);
            }
            self.quarantine = Some(table);
        }
        let Some(table) = &mut self.quarantine else { return Ok(true) };
        let GivesWay { removes, kept: mut adds } = gives_way;
        if let Some(rows) = rows {
            adds.extend(written(table.writer(), &rows, &table.schema, runtime, |batch| stamped(batch, run_id)).await?);
        }
        let change = Change {
            kind: if removes.is_empty() { Kind::Append } else { Kind::Rewrite },
            adds,
            removes,
            transactions: positions.into_iter().chain([refreshed(self.refreshes)]).collect(),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: self.note.clone(),
        };
        Ok(table.put(change).await?.is_some())
    }

    /// Commits what was deleted.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn bury(&mut self, rows: &Staged, runtime: &Arc<RuntimeEnv>) -> Result<(), TransformError> {
        let Some(table) = self.graves.as_mut().filter(|_| rows.rows() > 0) else { return Ok(()) };
        for _ in 0..TRIES {
            let adds = written(table.writer(), rows, &table.schema, runtime, Ok).await?;
            let change = Change {
                kind: Kind::Append,
                adds,
                removes: Vec::new(),
                transactions: Vec::new(),
                metadata: None,
                changes: Vec::new(),
                protocol: None,
                operation: write(SaveMode::Append),
                note: self.note.clone(),
            };
            if table.put(change).await?.is_some() {
                return Ok(());
            }
        }
        Err(TransformError::Lost { table: table.name.clone(), tries: TRIES })
    }
}

async fn written(
    mut writer: FilesWriter,
    rows: &Staged,
    schema: &SchemaRef,
    runtime: &Arc<RuntimeEnv>,
    with: impl Fn(RecordBatch) -> Result<RecordBatch, TransformError>,
) -> Result<Vec<Add>, TransformError> {
    let session = session(Arc::clone(runtime));
    let mut batches = rows.frame(&session).await?.execute_stream().await?;
    while let Some(batch) = batches.try_next().await? {
        writer.write(&fit(&with(batch)?, schema)?).await?;
    }
    Ok(writer.close().await?)
}

/// The rows with who quarantined them, and when.
fn stamped(batch: RecordBatch, run_id: &str) -> Result<RecordBatch, TransformError> {
    let rows = batch.num_rows();
    let now = chrono::Utc::now().timestamp_micros();
    let now = TimestampMicrosecondArray::from(vec![now; rows]).with_timezone("UTC");
    let schema = batch.schema();
    let own = [
        arrow::datatypes::Field::new(RUN_ID, arrow::datatypes::DataType::Utf8, true),
        arrow::datatypes::Field::new(QUARANTINED_AT, crate::batch::bronze::timestamp(), true),
    ];
    let fields = schema.fields().iter().map(|field| field.as_ref().clone()).chain(own).collect::<Vec<_>>();
    let run: StringArray = vec![Some(run_id); rows].into();
    let columns = batch.columns().iter().cloned().chain([Arc::new(run) as _, Arc::new(now) as _]).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Metadata with the columns and partitions of `fresh`, under its own id.
///
/// # Errors
/// [`TransformError::Internal`], when metadata isn't what it is in the log.
pub fn with_layout(metadata: Metadata, fresh: &Metadata) -> Result<Metadata, TransformError> {
    let broken = |source: serde_json::Error| TransformError::Internal(source.to_string());
    let fresh = serde_json::to_value(Action::Metadata(fresh.clone())).map_err(broken)?;
    let mut value = serde_json::to_value(metadata).map_err(broken)?;
    for key in ["schemaString", "partitionColumns"] {
        value[key] = fresh["metaData"][key].clone();
    }
    serde_json::from_value(value).map_err(broken)
}
