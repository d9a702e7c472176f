//! What is kept of a table's maintenance between processes: a small file in the state, folder or storage.
//!
//! It says when a table is due, and what was done last. Lost, the table is due a period later.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use super::table::TableReport;
use crate::pipeline::PipelineError;
use crate::storage::Location;

/// A report is some hundred bytes, and a line for each partition that was compacted.
const LARGEST_BYTES: u64 = 1024 * 1024;
/// How many of these are kept.
const MOST_PARTITIONS: usize = 100;

/// What is known of a table's maintenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// When it ended last; before the first time, when the table was first seen.
    pub at: DateTime<Utc>,
    pub last: Option<TableReport>,
}

pub struct RecordFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl RecordFile {
    /// # Errors
    /// When the state's place can't be used.
    pub fn open(state: &Location, table: &str) -> Result<Self, PipelineError> {
        Ok(Self { store: state.join("maintenance").object_store()?, path: Path::from(format!("{table}.json")) })
    }

    /// None where there is none, or a torn one.
    ///
    /// # Errors
    /// Errors of storage: there may be one.
    pub async fn load(&self) -> Result<Option<MaintenanceRecord>, object_store::Error> {
        let held = match self.store.get(&self.path).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            held => held?,
        };
        if held.meta.size > LARGEST_BYTES {
            return Ok(None);
        }
        Ok(serde_json::from_slice(&held.bytes().await?).ok())
    }

    /// Best effort: what isn't kept costs a look.
    pub async fn store(&self, report: &TableReport) {
        let mut report = report.clone();
        report.partitions.truncate(MOST_PARTITIONS);
        self.put(&MaintenanceRecord { at: Utc::now(), last: Some(report) }).await;
    }

    /// Notes that the table was seen.
    pub async fn begin(&self) {
        self.put(&MaintenanceRecord { at: Utc::now(), last: None }).await;
    }

    async fn put(&self, record: &MaintenanceRecord) {
        let Ok(bytes) = serde_json::to_vec(record) else { return };
        if let Err(error) = self.store.put(&self.path, bytes.into()).await {
            tracing::warn!(file = %self.path, %error, "when a table was maintained can't be kept");
        }
    }
}
