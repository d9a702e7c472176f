//! The query of a run over what its inputs are taken for: new rows, or all that they hold.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::dataframe::DataFrame;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::lit;
use datafusion::prelude::SessionContext;

use super::engine::Run;
use super::input::{InputTable, Part};
use super::keyed::column;
use super::touched::Others;
use super::{TransformError, side, touched};
use crate::catalog::Catalog;
use crate::catalog::change_data;
use crate::catalog::file_table::FileTable;
use crate::config::spec::TableName;
use crate::transform::{Input, planned, register, session, table_schema};

impl Run<'_> {
    /// The columns that the table is to have, by the query as it is now: over tables without rows.
    pub(super) async fn wanted_columns(&self) -> Result<SchemaRef, TransformError> {
        let session = session(Arc::clone(&self.engine.runtime));
        for input in &self.parsed.inputs {
            register(&session, input, self.new_rows(&session, input, None)?)?;
        }
        let frame = self.planned(&session).await?;
        // Rows of before a column was there have null in it, whatever the query says of those that come.
        let fields = frame.schema().as_arrow().fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let output: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let table = table_schema(self.spec, &output);
        let columns = [&self.spec.keys, &self.spec.sequence_by];
        let columns = columns.into_iter().flatten().chain(self.spec.dedupe.iter().flat_map(|dedupe| &dedupe.by));
        let missing = columns.filter(|name| output.field_with_name(name).is_err());
        let partitions = self.spec.partition_by.iter().filter(|name| table.field_with_name(name).is_err());
        let missing: Vec<String> = missing
            .chain(partitions)
            .map(|name| format!("column `{name}`, which its declaration names, isn't in the query's output"))
            .collect();
        if self.node.has_feed
            && let Some(name) = change_data::reserved(&table).next()
        {
            let told = format!("column `{name}` has a name that belongs to the change feed of the table");
            return Err(TransformError::Columns(vec![told]));
        }
        if !missing.is_empty() {
            return Err(TransformError::Columns(missing));
        }
        let fraction = |name: &&String| output.field_with_name(name).is_ok_and(|field| field.data_type().is_floating());
        if let Some(name) = self.spec.keys.iter().find(fraction) {
            return Err(TransformError::Columns(vec![format!("column `{name}` has fractions, and is no key")]));
        }
        Ok(table)
    }

    /// The versions of inputs that are read whole.
    pub(super) fn pinned(&self) -> Vec<(String, i64)> {
        let whole = self.parsed.inputs.iter().filter(|input| !input.is_streamed);
        let pinned = whole.filter_map(|input| self.inputs.get(&input.table));
        pinned.map(|input| side::pinned(input.id(), input.head.version)).collect()
    }

    /// The query over new rows of streamed inputs, none where there is no part of them.
    pub(super) async fn query(
        &mut self,
        session: &SessionContext,
        parts: &HashMap<TableName, Part>,
    ) -> Result<DataFrame, TransformError> {
        for input in self.parsed.inputs.clone() {
            let provider = if input.is_streamed {
                self.new_rows(session, &input, parts.get(&input.table))?
            } else {
                self.snapshot(session, &input.table).await?
            };
            register(session, &input, provider)?;
        }
        self.planned(session).await
    }

    /// The query over whole inputs, those that it streams too.
    pub(super) async fn whole_query(&mut self, session: &SessionContext) -> Result<DataFrame, TransformError> {
        for input in self.parsed.inputs.clone() {
            let provider = self.snapshot(session, &input.table).await?;
            register(session, &input, provider)?;
        }
        self.planned(session).await
    }

    /// The keys that new rows touch, or nothing where any may be: of each streamed input its new rows against the whole of the others.
    pub(super) async fn touched_keys(
        &mut self,
        session: &SessionContext,
        parts: &HashMap<TableName, Part>,
    ) -> Result<Option<DataFrame>, TransformError> {
        let mut all: Option<DataFrame> = None;
        for streamed in self.parsed.inputs.clone().iter().filter(|input| input.is_streamed) {
            if parts.get(&streamed.table).is_none_or(|part| part.files.is_empty()) {
                continue;
            }
            for input in self.parsed.inputs.clone() {
                let provider = if input == *streamed {
                    self.new_rows(session, &input, parts.get(&input.table))?
                } else {
                    self.snapshot(session, &input.table).await?
                };
                register(session, &input, provider)?;
            }
            let query = self.planned(session).await?;
            let others = self.others(streamed);
            let keys = touched::keys(session, query, streamed, &self.spec.keys, others)?;
            let Some(keys) = keys else { return Ok(None) };
            all = Some(match all {
                None => keys,
                Some(held) => held.union(keys)?,
            });
        }
        Ok(all)
    }

    /// What the other inputs may have lost since rows of this one were read.
    fn others(&self, streamed: &Input) -> Others {
        // Whoever writes a table that nobody is known to only add to may take rows away.
        let only_grows = |input: &Input| {
            let is_append_only = |table: &InputTable| {
                table.head.metadata.configuration().get("delta.appendOnly").is_some_and(|told| told == "true")
            };
            self.node.grown.contains(&input.table) || self.inputs.get(&input.table).is_some_and(is_append_only)
        };
        let mut others = self.parsed.inputs.iter().filter(|input| *input != streamed);
        let may_lose = self.node.streams_changes(streamed) && others.any(|input| !only_grows(input));
        if may_lose { Others::Updated } else { Others::Grow }
    }

    async fn planned(&self, session: &SessionContext) -> Result<DataFrame, TransformError> {
        let output = planned(session, &self.parsed).await.map_err(TransformError::Sql)?;
        let mut frame = session.execute_logical_plan(output.plan).await?;
        // A partition's empty text is null in the table, and has to be the same key before it is there.
        for name in &self.spec.partition_by {
            // A column that only a history has is no text.
            let field = frame.schema().field_with_unqualified_name(name);
            if field.is_ok_and(|field| field.data_type() == &DataType::Utf8) {
                frame = frame.with_column(name, nullif(column(name), lit("")))?;
            }
        }
        Ok(frame)
    }

    fn new_rows(
        &self,
        session: &SessionContext,
        input: &Input,
        part: Option<&Part>,
    ) -> Result<Arc<dyn TableProvider>, TransformError> {
        let table = self.inputs.get(&input.table).ok_or_else(|| TransformError::NoInput(input.table.clone()))?;
        let files = part.map(|part| part.files.as_slice()).unwrap_or_default();
        let (store, partitions) = (table.log.store(), table.partition_columns());
        if self.node.shows_changes(input) {
            return Ok(change_data::open(session, store, &table.schema, partitions, files)?);
        }
        Ok(FileTable::open(session, store, &table.schema, partitions, files)?)
    }

    async fn snapshot(
        &mut self,
        session: &SessionContext,
        name: &TableName,
    ) -> Result<Arc<dyn TableProvider>, TransformError> {
        let table = self.inputs.get(name).ok_or_else(|| TransformError::NoInput(name.clone()))?;
        let version = table.head.version;
        session
            .register_object_store(table.log.store().object_store_url().as_ref(), table.log.store().object_store(None));
        if let Some(provider) = self.snapshots.get(&(name.clone(), version)) {
            return Ok(Arc::clone(provider));
        }
        // Without features of readers a table is its files; an older version may have other columns and partitions.
        if table.head.protocol.min_reader_version() <= 1 && table.opened == version {
            let files = self.engine.lake.files(name, &table.log, version).await?;
            let partitions = table.partition_columns();
            let provider = FileTable::open(session, table.log.store(), &table.schema, partitions, &files)?;
            self.snapshots.insert((name.clone(), version), Arc::clone(&provider));
            return Ok(provider);
        }
        let opened = Catalog::new(self.engine.lake.lake()).open(name, Some(version)).await?;
        let provider = opened.ok_or_else(|| TransformError::NoInput(name.clone()))?.provider;
        self.snapshots.insert((name.clone(), version), Arc::clone(&provider));
        Ok(provider)
    }
}
