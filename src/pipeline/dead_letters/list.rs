//! Dead letters, counted and shown. Nothing is changed.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::{DeadLetterError, Filter, LetterKey};
use crate::catalog::{dead_letters_of, table_location};
use crate::checkpoint::{Ledger, PartitionKey, RangeSet};
use crate::config::spec::{ProjectSpec, TableName};
use crate::pipeline::gaps::Target;
use crate::pipeline::setup::Places;
use crate::sink::delta::dead_letters::held::{find_letter, scan_letters};
use crate::sink::delta::dead_letters::{DeadLetter, LetterState};
use crate::sink::delta::ledger::{ReadLedger, read_ledger};

/// What the dead letters of a table are. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// The table of the rows.
    pub table: String,
    /// None where no pipeline of the project writes the table.
    pub pipeline: Option<String>,
    pub waiting: u64,
    pub in_flight: u64,
    pub replayed: u64,
    pub expired: u64,
    /// Those that wait, by what is wrong with them; the most frequent first.
    pub classes: Vec<ClassCount>,
    /// The newest that were asked for.
    pub letters: Vec<Shown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    pub class: String,
    pub waiting: u64,
    /// When the first and the last of them were rejected: RFC 3339, UTC.
    pub oldest: Option<String>,
    pub newest: Option<String>,
}

/// A dead letter without its bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    pub key: String,
    pub source: String,
    pub partition: String,
    pub sequence_number: i64,
    /// `waiting`, `in-flight`, `replayed`, `expired`
    pub state: &'static str,
    pub class: Option<String>,
    pub error: Option<String>,
    pub framing: Option<String>,
    pub schema_id: Option<String>,
    pub content_type: Option<String>,
    pub attempt: i32,
    pub pipeline: Option<String>,
    pub config_hash: Option<String>,
    pub origin: Option<String>,
    pub offset: Option<String>,
    pub enqueued_at: Option<String>,
    pub rejected_at: Option<String>,
    pub tried_at: Option<String>,
    pub replayed_at: Option<String>,
    /// The table that has its row, where that is another.
    pub replayed_to: Option<String>,
    pub expired_at: Option<String>,
}

/// Counts the letters of a table that `filter` takes, and shows the newest `limit` of them: those that wait or are in
/// flight, and with `all` the others, too. A table without dead letters has none.
///
/// # Errors
/// A table that isn't there and that nobody writes; errors of storage.
pub async fn list(
    project: &ProjectSpec,
    target: &Target<'_>,
    filter: &Filter,
    limit: usize,
    all: bool,
) -> Result<Listing, DeadLetterError> {
    let (ledger, letters) = read(project, target).await?;
    let mut listing = Listing {
        table: target.table.to_string(),
        pipeline: target.pipeline.map(|pipeline| pipeline.name.clone()),
        waiting: 0,
        in_flight: 0,
        replayed: 0,
        expired: 0,
        classes: Vec::new(),
        letters: Vec::new(),
    };
    let Some(letters) = letters else { return Ok(listing) };
    let covered = covered(&ledger);
    let mut classes: BTreeMap<String, (u64, i64, i64)> = BTreeMap::new();
    // By time and key; the oldest goes when there are too many.
    let mut newest: BTreeMap<(i64, String), Shown> = BTreeMap::new();
    scan_letters(&letters.log, letters.version, "", |letter| {
        if !filter.takes(&letter) {
            return;
        }
        let state = state(&letter, &covered);
        let rejected_at = letter.rejected_at_us.unwrap_or(0);
        match state {
            State::Waiting => {
                listing.waiting += 1;
                let class = letter.error_class.clone().unwrap_or_else(|| "unknown".to_owned());
                let held = classes.entry(class).or_insert((0, i64::MAX, i64::MIN));
                *held = (held.0 + 1, held.1.min(rejected_at), held.2.max(rejected_at));
            }
            State::InFlight => listing.in_flight += 1,
            State::Replayed => listing.replayed += 1,
            State::Expired => listing.expired += 1,
        }
        if all || matches!(state, State::Waiting | State::InFlight) {
            newest.insert((rejected_at, LetterKey::of(&letter)), Shown::of(letter, state));
            if newest.len() > limit {
                newest.pop_first();
            }
        }
    })
    .await?;
    listing.classes = classes
        .into_iter()
        .map(|(class, (waiting, oldest, newest))| ClassCount {
            class,
            waiting,
            oldest: time(Some(oldest)),
            newest: time(Some(newest)),
        })
        .collect();
    listing.classes.sort_by(|one, other| other.waiting.cmp(&one.waiting).then_with(|| one.class.cmp(&other.class)));
    listing.letters = newest.into_values().rev().collect();
    Ok(listing)
}

/// One letter, whole: what is shown of it, its properties, and its bytes.
///
/// # Errors
/// [`DeadLetterError::NoLetter`]; errors of storage.
pub async fn show(
    project: &ProjectSpec,
    target: &Target<'_>,
    key: &LetterKey,
) -> Result<(Shown, DeadLetter), DeadLetterError> {
    let none = || DeadLetterError::NoLetter { table: target.table.to_string(), key: key.to_string() };
    let (ledger, letters) = read(project, target).await?;
    let letters = letters.ok_or_else(none)?;
    let source = key.source.as_deref();
    let letter = find_letter(&letters.log, letters.version, source, &key.partition, key.sequence_number).await?;
    let letter = letter.ok_or_else(none)?;
    let state = state(&letter, &covered(&ledger));
    Ok((Shown::of(letter.clone(), state), letter))
}

/// The ledger of the rows, then the letters: what it covers has its letters by then.
async fn read(project: &ProjectSpec, target: &Target<'_>) -> Result<(Ledger, Option<ReadLedger>), DeadLetterError> {
    refuse_itself(&target.table)?;
    let lake = Places::of(project)?.lake;
    let rows = read_ledger(&table_location(&lake, &target.table), &target.table.to_string()).await?;
    let Some(rows) = rows else {
        return match target.pipeline {
            // That a pipeline has no table yet is no mistake.
            Some(_) => Ok((Ledger::default(), None)),
            None => Err(crate::pipeline::gaps::unknown_table(&lake, &target.table).await?.into()),
        };
    };
    let name = dead_letters_of(&target.table);
    Ok((rows.ledger, read_ledger(&table_location(&lake, &name), &name.to_string()).await?))
}

pub(super) fn refuse_itself(table: &TableName) -> Result<(), DeadLetterError> {
    match table.table.strip_suffix("__dead_letters") {
        Some(of) => Err(DeadLetterError::Itself { table: table.to_string(), of: format!("{}.{of}", table.schema) }),
        None => Ok(()),
    }
}

/// What each partition accounts for.
pub(super) fn covered(ledger: &Ledger) -> BTreeMap<PartitionKey, RangeSet> {
    ledger.partitions().map(|(key, held)| (key.clone(), held.coverage())).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    InFlight,
    Replayed,
    Expired,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InFlight => "in-flight",
            Self::Replayed => "replayed",
            Self::Expired => "expired",
        }
    }
}

pub(super) fn state(letter: &DeadLetter, covered: &BTreeMap<PartitionKey, RangeSet>) -> State {
    let is_covered = || covered.get(&letter.partition).is_some_and(|held| held.contains(letter.sequence_number));
    match letter.state() {
        LetterState::Replayed => State::Replayed,
        LetterState::Expired => State::Expired,
        LetterState::Waiting if is_covered() => State::Waiting,
        LetterState::Waiting => State::InFlight,
    }
}

impl Shown {
    fn of(letter: DeadLetter, state: State) -> Self {
        Self {
            key: LetterKey::of(&letter),
            source: letter.partition.source.to_string(),
            partition: letter.partition.partition.to_string(),
            sequence_number: letter.sequence_number,
            state: state.as_str(),
            class: letter.error_class,
            error: letter.error,
            framing: letter.framing,
            schema_id: letter.schema_id,
            content_type: letter.content_type,
            attempt: letter.attempt,
            pipeline: letter.pipeline,
            config_hash: letter.config_hash,
            origin: letter.origin,
            offset: letter.offset,
            enqueued_at: time(letter.enqueued_at_us),
            rejected_at: time(letter.rejected_at_us),
            tried_at: time(letter.tried_at_us),
            replayed_at: time(letter.replayed_at_us),
            replayed_to: letter.replayed_to,
            expired_at: time(letter.expired_at_us),
        }
    }
}

pub(super) fn time(micros: Option<i64>) -> Option<String> {
    let time = DateTime::from_timestamp_micros(micros?)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
