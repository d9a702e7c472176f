//! The ledger of a table as it lies in the log, for who only reads.
//!
//! Unlike [`super::table::OpenTable`], nothing here refuses a table that can't be written: an
//! audit is wanted most where a stranger has been at work.

use arrow::datatypes::SchemaRef;

use super::SinkError;
use crate::catalog::commit_log::CommitLog;
use crate::catalog::log::{TableHead, log_store_to_read, read_head};
use crate::catalog::state::arrow_schema;
use crate::checkpoint::{Ledger, LedgerKey, Parsed};
use crate::storage::Location;

/// How many commits after our newest are looked at: strangers that matter are near the head,
/// and reading a log of many years one by one is not worth the rest.
const MOST_COMMITS_LOOKED_AT: u64 = 1_000;

/// A ledger and the version at which it was read.
#[derive(Debug)]
pub struct ReadLedger {
    pub log: CommitLog,
    pub version: u64,
    /// The id of the table, which every app id of its ledger names.
    pub table_id: String,
    pub schema: SchemaRef,
    pub ledger: Ledger,
    /// The log holds a ledger of another table id: the table was replaced, or is a copy.
    pub has_foreign_ledger: bool,
    /// Commits after our newest that aren't ours, oldest first.
    pub strangers: Vec<StrangerCommit>,
}

/// A commit that sluice didn't put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangerCommit {
    pub version: u64,
    pub operation: String,
    pub removes_rows: bool,
    pub adds_rows: bool,
}

/// When a commit was made, epoch ms, as its author's clock had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedAt {
    pub version: u64,
    pub at_ms: Option<i64>,
}

/// Reads the ledger of the table at `location`, or finds that there is no table.
///
/// # Errors
/// [`SinkError::NewerLedger`], and errors of storage.
pub async fn read_ledger(location: &Location, table: &str) -> Result<Option<ReadLedger>, SinkError> {
    let Some(log_store) = log_store_to_read(location).await? else { return Ok(None) };
    let log = CommitLog::new(log_store, table.to_owned());
    let Some(head) = read_head(log.store()).await? else { return Ok(None) };
    let table_id = head.metadata.id().to_owned();
    let (ledger, has_foreign_ledger) = ledger_of(&head, &table_id, table)?;
    let strangers = strangers(&log, &ledger, head.version).await?;
    let schema = arrow_schema(&log, &head.metadata)?;
    Ok(Some(ReadLedger { log, version: head.version, table_id, schema, ledger, has_foreign_ledger, strangers }))
}

impl ReadLedger {
    /// Our newest commit: the one at the head, where strangers were not at work.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn last_commit(&self) -> Result<Option<CommittedAt>, SinkError> {
        let Some(version) = self.ledger.seen().and_then(|seen| u64::try_from(seen).ok()) else { return Ok(None) };
        // An entry that was cleaned up took its time with it.
        let at_ms = self.log.read(version).await?.and_then(|commit| commit.timestamp_ms());
        Ok(Some(CommittedAt { version, at_ms }))
    }
}

fn ledger_of(head: &TableHead, table_id: &str, table: &str) -> Result<(Ledger, bool), SinkError> {
    let mut ledger = Ledger::default();
    let mut is_foreign = false;
    for (app_id, version) in &head.transactions {
        match LedgerKey::parse(app_id, table_id) {
            Parsed::Key(key) => ledger.apply(key, *version),
            Parsed::Foreign => is_foreign |= app_id.starts_with("sluice:"),
            Parsed::Unreadable => {
                return Err(SinkError::NewerLedger { table: table.to_owned(), app_id: app_id.clone() });
            }
        }
    }
    Ok((ledger, is_foreign))
}

async fn strangers(log: &CommitLog, ledger: &Ledger, head: u64) -> Result<Vec<StrangerCommit>, SinkError> {
    let seen = ledger.seen().and_then(|seen| u64::try_from(seen).ok()).unwrap_or(0);
    let first = (seen + 1).max(head.saturating_sub(MOST_COMMITS_LOOKED_AT));
    let mut strangers = Vec::new();
    for version in first..=head {
        let Some(commit) = log.read(version).await? else { continue };
        if commit.flush_id().is_none() {
            strangers.push(StrangerCommit {
                version,
                operation: commit.operation().to_owned(),
                removes_rows: commit.removes_data(),
                adds_rows: commit.adds_data(),
            });
        }
    }
    Ok(strangers)
}
