//! Commits that aren't the bronze append: a transform's rows, a merge, a compaction, an erasure.
//!
//! What was planned from version V is put as V + 1. Where somebody else's commit has that version,
//! it is read, and the kind of the change says whether ours still holds after it:
//!
//! | the winner | [`Kind::Append`] | [`Kind::Rewrite`] | [`Kind::Compact`] |
//! |---|---|---|---|
//! | changes columns, properties or the protocol | lost | lost | rebased |
//! | moves one of our `txn` ids | lost | lost | lost |
//! | removes a file that we remove | – | lost | lost |
//! | adds rows | rebased | lost | rebased |
//! | removes rows from other files | rebased | lost | rebased |
//! | is a stranger's overwrite or restore | lost | lost | as its removes |
//! | compacts other files | rebased | rebased | rebased |
//!
//! Rebased means put again behind it, the same bytes; lost means that the caller plans anew from
//! the new head. Two OPTIMIZE of delta-rs from one snapshot double rows, since neither looks at
//! what the other removed; this table is what keeps ours from it, among writers that are ours.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deltalake::kernel::{Action, Add, AddCDCFile, Metadata, Protocol, Remove, Transaction};
use deltalake::protocol::DeltaOperation;
use serde_json::Value;

use super::CatalogError;
use super::change_data::CHANGED_ROWS;
use super::commit_log::{Commit, CommitLog, NOTE, Put, ReadAt, ReadCommit};

/// How many races for a version a change may lose in a row. Each loss means that somebody else
/// landed; far fewer would give up beside a busy rival, more would hide a livelock.
const TRIES: u32 = 100;

/// What a change leans on, and so which commits may go before it unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Adds rows, and looked at none.
    Append,
    /// Its rows follow from those that were there.
    Rewrite,
    /// The same rows in other files: no data change.
    Compact,
}

/// What a commit is to do.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: Kind,
    pub adds: Vec<Add>,
    pub removes: Vec<Remove>,
    /// App id to version.
    pub transactions: Vec<(String, i64)>,
    pub metadata: Option<Metadata>,
    /// Files with the rows that change, for the table's change feed. Where there are none, they follow from `adds` and
    /// `removes`.
    pub changes: Vec<Add>,
    pub protocol: Option<Protocol>,
    pub operation: DeltaOperation,
    /// What stands under `sluice` in its `commitInfo`; see [`NOTE`].
    pub note: Value,
}

/// The version that a change was planned from, and when that was read.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    pub version: u64,
    pub read_at: ReadAt,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Landed(u64),
    /// It isn't in the log as of now: plan again from the new head.
    Lost {
        why: Lost,
        /// A put of it may be on its way still, so its files must stay for vacuum.
        may_still_land: bool,
    },
}

/// Why a change has to be planned again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The commit of this version went before and touches what the change leans on.
    To { version: u64, operation: String },
    /// The base is too old to be believed, or was cleaned out of the log.
    Base,
}

impl Change {
    /// Whether a commit between base and ours takes the ground from under it.
    fn loses_to(&self, winner: &ReadCommit) -> bool {
        let moves_ours = winner.transactions().any(|txn| self.transactions.iter().any(|(id, _)| *id == txn.app_id));
        let ours: HashSet<&str> = self.removes.iter().map(|remove| remove.path.as_str()).collect();
        let removes_ours = winner.removes().any(|remove| ours.contains(remove.path.as_str()));
        let changes_table =
            winner.metadata().is_some() || winner.actions.iter().any(|action| matches!(action, Action::Protocol(_)));
        moves_ours
            || removes_ours
            || match self.kind {
                Kind::Append => changes_table || winner.is_foreign_overwrite(),
                Kind::Rewrite => changes_table || winner.adds_data() || winner.removes_data(),
                Kind::Compact => false,
            }
    }

    fn lay_out(self, log: &CommitLog) -> Result<Commit, CatalogError> {
        let actions = self.protocol.into_iter().map(Action::Protocol);
        let actions = actions.chain(self.metadata.into_iter().map(Action::Metadata));
        let actions = actions.chain(self.removes.into_iter().map(Action::Remove));
        let actions = actions.chain(self.adds.into_iter().map(Action::Add));
        let actions = actions.chain(self.changes.into_iter().map(|file| Action::Cdc(change_file(file)))).collect();
        let transactions = self.transactions.into_iter().map(|(id, version)| Transaction::new(id, version)).collect();
        log.lay_out(actions, transactions, self.operation, HashMap::from([(NOTE.to_owned(), self.note)]))
    }
}

fn row_count(stats: &str) -> Option<u64> {
    serde_json::from_str::<Value>(stats).ok()?["numRecords"].as_u64()
}

fn change_file(file: Add) -> AddCDCFile {
    AddCDCFile {
        path: file.path,
        size: file.size,
        partition_values: file.partition_values,
        // They are no rows of the table.
        data_change: false,
        // The action has no statistics.
        tags: file
            .stats
            .as_deref()
            .and_then(row_count)
            .map(|rows| HashMap::from([(CHANGED_ROWS.to_owned(), Some(rows.to_string()))])),
    }
}

/// Puts `change` behind `base`, or behind what it may be rebased onto.
///
/// Idempotent only through its `txn`s: a caller that gets an error reads the head anew and plans
/// from what is there.
///
/// # Errors
/// [`CatalogError::UnknownOutcome`] when the log can't be read after a put that failed;
/// [`CatalogError::Contended`], and errors of storage.
pub async fn commit(log: &CommitLog, base: Base, change: Change) -> Result<Outcome, CatalogError> {
    let planned = change.clone();
    let commit = change.lay_out(log)?;
    let mut base = base;
    if base.read_at.is_stale() {
        // What took long to compute may land all the same: the log is cleaned from its oldest entry on, so what
        // follows a base that is held is held, too, and is read below.
        if !log.holds(base.version).await? {
            return Ok(Outcome::Lost { why: Lost::Base, may_still_land: false });
        }
        base.read_at = ReadAt::now();
    }
    let mut version = base.version + 1;
    let mut may_still_land = false;
    for _ in 0..TRIES {
        if base.read_at.is_stale() {
            return Ok(Outcome::Lost { why: Lost::Base, may_still_land });
        }
        let put = log.put(version, &commit).await;
        match &put {
            // Below a log that was cleaned up it landed where nobody looks.
            Put::Landed if !base.read_at.is_stale() && log.holds(version - 1).await? => {
                return Ok(Outcome::Landed(version));
            }
            Put::Landed => return Ok(Outcome::Lost { why: Lost::Base, may_still_land: true }),
            Put::Taken => {}
            Put::Unknown(error) => {
                may_still_land = true;
                tracing::warn!(table = log.table, version, %error, "a commit has an unknown outcome");
            }
        }
        let is_unknown = matches!(put, Put::Unknown(_));
        match follow(log, &planned, &commit, &mut version).await {
            Ok(Followed::Head) => {}
            Ok(Followed::Ours) => return Ok(Outcome::Landed(version)),
            Ok(Followed::Lost(why)) => return Ok(Outcome::Lost { why, may_still_land }),
            Err(error) => {
                let Put::Unknown(source) = put else { return Err(error) };
                tracing::warn!(table = log.table, %error, "the log can't be read after it");
                return Err(CatalogError::UnknownOutcome { table: log.table.clone(), version, source });
            }
        }
        if is_unknown {
            // The put may still be on its way. It can only land as this version, where the next
            // try meets it and knows it by its id.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Err(CatalogError::Contended { table: log.table.clone(), tries: TRIES })
}

enum Followed {
    Ours,
    Lost(Lost),
    /// `version` is free.
    Head,
}

/// Reads the commits from `version` on, and leaves it at the first that isn't there.
async fn follow(
    log: &CommitLog,
    planned: &Change,
    commit: &Commit,
    version: &mut u64,
) -> Result<Followed, CatalogError> {
    while let Some(winner) = log.read(*version).await? {
        if winner.flush_id() == Some(commit.id) {
            return Ok(Followed::Ours);
        }
        if planned.loses_to(&winner) {
            let operation = winner.operation().to_owned();
            return Ok(Followed::Lost(Lost::To { version: *version, operation }));
        }
        *version += 1;
    }
    // A missing entry means the head only while the one before it is there.
    if log.holds(*version - 1).await? { Ok(Followed::Head) } else { Ok(Followed::Lost(Lost::Base)) }
}
