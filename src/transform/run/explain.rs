//! What a run would do now, without doing it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use serde::Serialize;

use super::TransformError;
use super::consumed::Position;
use super::engine::{Engine, Report, Run};
use super::input::InputTable;
use super::output::Output;
use crate::config::spec::TransformSpec;
use crate::transform::{parse, planned, session};

/// A transform's next run. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub table: String,
    pub mode: &'static str,
    /// In the order of their names.
    pub inputs: Vec<ExplainedInput>,
    /// DataFusion's plan of the query, optimised; none where an input isn't there yet.
    pub plan: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ExplainedInput {
    /// As the SQL has it.
    pub input: String,
    pub streamed: bool,
    /// Its version now; none where there is no such table yet.
    pub version: Option<u64>,
    /// Of a stream: the last version that is consumed; none before the first run.
    pub consumed: Option<u64>,
    /// Of a stream: the files with new rows that the first part would read, and their bytes.
    pub files: Option<usize>,
    pub bytes: Option<i64>,
}

impl Engine {
    /// Reads logs and plans the query; writes nothing.
    ///
    /// # Errors
    /// What the run would fail with before its first row.
    pub async fn explain(&self, spec: &TransformSpec) -> Result<Explained, TransformError> {
        let parsed = parse(spec).map_err(TransformError::Sql)?;
        let output = Output::open(&self.lake, &spec.table).await?;
        let mut inputs = Vec::new();
        let mut tables = BTreeMap::new();
        for input in &parsed.inputs {
            let Some(mut table) = InputTable::open(&self.lake, &input.table).await? else {
                inputs.push(ExplainedInput::missing(input.to_string(), input.is_streamed));
                continue;
            };
            let mut explained = ExplainedInput::missing(input.to_string(), input.is_streamed);
            explained.version = Some(table.head.version);
            if input.is_streamed {
                let position = match &output {
                    Some(output) => Position::read(&output.head.transactions, table.id())?,
                    None => Position::Nothing,
                };
                if let Position::Version(version) = position {
                    explained.consumed = Some(version);
                }
                let skipped = spec.skip_versions.iter().filter(|skipped| skipped.table == input.table);
                let skip: Vec<u64> = skipped.map(|skipped| skipped.version).collect();
                let part = table.next_part(position, None, self.part_bytes, &skip).await?;
                let files = part.map(|part| part.files).unwrap_or_default();
                explained.files = Some(files.len());
                explained.bytes = Some(files.iter().map(|file| file.size).sum());
            }
            inputs.push(explained);
            tables.insert(input.table.clone(), table);
        }
        let is_whole = parsed.inputs.iter().all(|input| tables.contains_key(&input.table));
        let mut run = Run {
            engine: self,
            spec,
            parsed,
            inputs: tables,
            snapshots: HashMap::new(),
            report: Report::begun(&spec.table),
        };
        let plan = if is_whole { Some(run.plan_of(&session(Arc::clone(&self.runtime))).await?) } else { None };
        Ok(Explained { table: spec.table.to_string(), mode: spec.mode.as_str(), inputs, plan })
    }
}

impl Run<'_> {
    async fn plan_of(&mut self, session: &SessionContext) -> Result<String, TransformError> {
        // Says what each input is.
        self.query(session, &HashMap::new()).await?;
        let output = planned(session, &self.parsed).await.map_err(TransformError::Sql)?;
        let optimised = session.state().optimize(&output.plan)?;
        Ok(self.parsed.readable_text(&optimised.display_indent().to_string()))
    }
}

impl ExplainedInput {
    fn missing(input: String, streamed: bool) -> Self {
        Self { input, streamed, version: None, consumed: None, files: None, bytes: None }
    }
}
