//! Bytes of dead letters that go, by somebody's word or by retention; what they accounted for stays.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;

use super::list::{State, covered, list, refuse_itself, state};
use super::replay::{OUTRUN_TRIES, Tables};
use super::{ClassCount, DeadLetterError, Filter};
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, ProjectSpec, TableName};
use crate::fault_points::FaultPoints;
use crate::pipeline::gaps::Target;
use crate::sink::delta::dead_letters::held::{Rewritten, Told};
use crate::sink::delta::dead_letters::{DeadLetter, LetterState};
use crate::sink::delta::settle::Settled;

/// How long the row of a letter stays that was replayed, once its bytes are gone: an audit that began before the replay
/// still counts it.
const REPLAYED_STAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What was dropped. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Dropped {
    pub pipeline: String,
    pub table: String,
    /// Letters whose bytes are gone now.
    pub expired: u64,
    pub expired_by_class: BTreeMap<String, u64>,
    /// Letters of events that have a row, which are gone altogether.
    pub removed: u64,
    /// Letters whose events aren't accounted for yet: they stay.
    pub in_flight: u64,
    /// By how much the ledger's count of expired letters moved; a drop that died before is made up for.
    pub counted: i64,
    /// Files that nothing names any more, and that are deleted now: an hour after the bytes in them went.
    pub deleted_files: u64,
}

/// How many letters wait that `filter` takes, by class.
///
/// # Errors
/// As [`list`]
pub async fn matching(
    project: &ProjectSpec,
    target: &Target<'_>,
    filter: &Filter,
) -> Result<Vec<ClassCount>, DeadLetterError> {
    Ok(list(project, target, filter, 0, false).await?.classes)
}

/// Drops the bytes of the waiting letters that `filter` takes, and has the ledger count them as expired.
///
/// # Errors
/// Errors of storage. Whatever the error, the table stays complete, and the next drop makes up for what this one didn't do.
pub async fn drop_letters(
    project: &ProjectSpec,
    target: &Target<'_>,
    filter: &Filter,
    fault_points: FaultPoints,
) -> Result<Dropped, DeadLetterError> {
    refuse_itself(&target.table)?;
    let table = target.table.to_string();
    let pipeline = target.pipeline.ok_or(DeadLetterError::NoPipeline { table })?;
    let now_us = Utc::now().timestamp_micros();
    let fate = |letter: &DeadLetter| match letter.state() {
        LetterState::Waiting if filter.takes(letter) => Fate::Expires,
        _ => Fate::Stays,
    };
    let meant = Meant { fate: &fate, may_be_in: &Told::may_wait };
    expire(project, (pipeline, &target.table), "drop", now_us, &meant, fault_points).await
}

/// Drops the bytes of letters of a table that were rejected longer ago than the pipeline's retention.
///
/// # Errors
/// [`DeadLetterError::NoRetention`]; as [`drop_letters`]
pub async fn expire_old(
    project: &ProjectSpec,
    pipeline: &PipelineSpec,
    table: &TableName,
    fault_points: FaultPoints,
) -> Result<Dropped, DeadLetterError> {
    let no_retention = || DeadLetterError::NoRetention { pipeline: pipeline.name.clone() };
    let retention = pipeline.sink.dead_letters_retention.ok_or_else(no_retention)?;
    let now_us = Utc::now().timestamp_micros();
    let ago = |duration: Duration| now_us - i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2);
    let (old, long_replayed) = (ago(retention), ago(REPLAYED_STAY));
    let fate = |letter: &DeadLetter| {
        let is_old = letter.rejected_at_us.is_none_or(|at| at < old);
        match (letter.replayed_at_us, letter.expired_at_us) {
            _ if !is_old => Fate::Stays,
            // One whose row is in another table accounts for its number here.
            (Some(at), _) if at < long_replayed && letter.replayed_to.is_none() => Fate::Goes,
            (_, None) => Fate::Expires,
            (_, Some(_)) => Fate::Stays,
        }
    };
    let may_be_in = |told: Told| {
        let is_old = told.rejected_since_us.is_none_or(|since| since < old);
        is_old && !(told.all_expired && told.none_has_row_here)
    };
    let meant = Meant { fate: &fate, may_be_in: &may_be_in };
    expire(project, (pipeline, table), "retention", now_us, &meant, fault_points).await
}

/// What becomes of a letter.
enum Fate {
    Stays,
    /// Its bytes go.
    Expires,
    /// All of it goes: its event has a row.
    Goes,
}

/// Which letters are meant.
struct Meant<'a> {
    fate: &'a (dyn Fn(&DeadLetter) -> Fate + Sync),
    /// Whether a file may hold one that doesn't stay as it is.
    may_be_in: &'a (dyn Fn(Told) -> bool + Sync),
}

async fn expire(
    project: &ProjectSpec,
    (pipeline, table): (&PipelineSpec, &TableName),
    what: &'static str,
    now_us: i64,
    meant: &Meant<'_>,
    fault_points: FaultPoints,
) -> Result<Dropped, DeadLetterError> {
    let mut done = Dropped { pipeline: pipeline.name.clone(), table: table.to_string(), ..Dropped::default() };
    let Some(mut tables) = Tables::open(project, pipeline, table, fault_points).await? else { return Ok(done) };
    let outrun = |table: &str, tries| DeadLetterError::Outrun { table: table.to_owned(), tries };
    let mut tries = 0;
    loop {
        if tables.letters.begins_anew() {
            done.in_flight = 0;
        }
        let Some(mut chunk) = tables.letters.next_chunk_of(meant.may_be_in).await? else { break };
        let covered = covered(tables.writer.ledger());
        let (mut expired, mut removed) = (BTreeMap::<String, u64>::new(), 0);
        let mut letters = std::mem::take(&mut chunk.letters);
        letters.retain_mut(|letter| {
            match ((meant.fate)(letter), state(letter, &covered)) {
                (Fate::Stays, _) => {}
                (_, State::InFlight) => done.in_flight += 1,
                (Fate::Expires, _) => {
                    let class = letter.error_class.clone().unwrap_or_else(|| "unknown".to_owned());
                    *expired.entry(class).or_default() += 1;
                    letter.expire(now_us);
                }
                (Fate::Goes, _) => {
                    removed += 1;
                    return false;
                }
            }
            true
        });
        chunk.letters = letters;
        if expired.is_empty() && removed == 0 {
            continue;
        }
        match tables.letters.rewrite(chunk, what, &tables.by, &tables.fault_points).await? {
            Rewritten::Landed(_) => {
                done.expired += expired.values().sum::<u64>();
                done.removed += removed;
                for (class, times) in expired {
                    *done.expired_by_class.entry(class).or_default() += times;
                }
            }
            Rewritten::Outrun if tries >= OUTRUN_TRIES => return Err(outrun(&done.table, tries)),
            Rewritten::Outrun => tries += 1,
        }
    }
    done.counted = count(&mut tables, &done.table).await?;
    done.deleted_files = tables.letters.delete_unnamed().await?;
    Ok(done)
}

/// Makes the ledger's count what the letters say, those of a pass that died before among them.
async fn count(tables: &mut Tables, table: &str) -> Result<i64, DeadLetterError> {
    for _ in 0..OUTRUN_TRIES {
        let expired = tables.letters.expired().await?;
        if let Settled::Done(moved) = tables.writer.count_expired(&expired).await? {
            let moved: BTreeMap<PartitionKey, i64> = moved;
            return Ok(moved.values().sum());
        }
    }
    Err(DeadLetterError::Outrun { table: table.to_owned(), tries: OUTRUN_TRIES })
}
