//! Where pipelines stand, seen from outside: from the ledgers of their tables, and what their
//! hubs hold now. Nothing is read from the hubs but their properties, so a running pipeline
//! isn't disturbed.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::gaps::{Lacking, accepted_of, lacking};
use super::maintenance::{self, LastMaintenance};
use super::schedule::{self, ScheduleStatus};
use super::{PipelineError, partition, setup};
use crate::catalog::table_location;
use crate::checkpoint::{Ledger, PartitionKey, Range, SourceId};
use crate::config::spec::{PipelineSpec, ProjectSpec, SinkSpec};
use crate::sink::delta::gaps::AcceptedGaps;
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::source::PartitionProperties;

/// How long a hub may take to say what it holds: longer than a slow answer, shorter than the
/// patience of who asked.
const HUB_ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// How many tables of a pipeline are read at once.
const TABLES_AT_ONCE: usize = 8;

/// How many pipelines are looked at at once; each opens a connection.
const PIPELINES_AT_ONCE: usize = 8;

/// What the numbers say of a pipeline; whether it runs they can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandingState {
    /// Its table is not there yet.
    New,
    /// The table accounts for everything that the hub holds.
    Idle,
    /// The hub holds events that the table doesn't account for.
    Behind,
    /// The hub can't be asked.
    Unreachable,
    /// It reads captures alone: what the hub holds isn't known.
    Captured,
}

impl StandingState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Idle => "idle",
            Self::Behind => "behind",
            Self::Unreachable => "unreachable",
            Self::Captured => "captured",
        }
    }
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineStanding {
    pub name: String,
    pub owner: String,
    pub state: StandingState,
    /// The table of `[sink]`, and its newest commit.
    pub table: String,
    pub last_commit: Option<LastCommitAt>,
    /// The tables that routes name, where there are any.
    pub routed_tables: Vec<TableStanding>,
    /// Why the hub can't be asked.
    pub error: Option<String>,
    /// Numbers that the table lacks, of every source that it knows, and nobody has accepted.
    pub gap_events: u64,
    /// Numbers that it lacks, and that somebody accepted as missing.
    pub accepted_gap_events: u64,
    pub partitions: Vec<PartitionStanding>,
    pub schedule: Option<ScheduleStatus>,
    /// Null before the table was maintained for the first time, and where that isn't known any more.
    pub maintenance: Option<LastMaintenance>,
}

/// Where one of several tables stands. Of the partitions the pipeline shows the one that is farthest behind.
#[derive(Debug, Clone, Serialize)]
pub struct TableStanding {
    pub table: String,
    pub last_commit: Option<LastCommitAt>,
    pub gap_events: u64,
    pub accepted_gap_events: u64,
}

/// Our newest commit. Its time is gone once its entry of the log is.
#[derive(Debug, Clone, Serialize)]
pub struct LastCommitAt {
    pub version: u64,
    /// RFC 3339, UTC.
    pub at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionStanding {
    pub partition: String,
    /// The next number to read; null before the first start. Where the hub was asked, what it has no
    /// more is passed over: that is a gap.
    pub position: Option<i64>,
    /// The last number that the hub has; -1 where there never was an event.
    pub last_enqueued: Option<i64>,
    pub lag_events: Option<i64>,
    /// How old the oldest event is that isn't accounted for: at most so much.
    pub lag_seconds: Option<f64>,
    /// Until retention takes that event: at least so much. Null where `retention` isn't
    /// declared, or nothing waits; 0 where it has taken events already.
    pub seconds_to_data_loss: Option<f64>,
    /// Numbers that the table lacks between those that it accounts for, or that the hub has no more; nobody
    /// accepted them.
    pub gap_events: u64,
    pub accepted_gap_events: u64,
}

/// Looks at every pipeline of the project, in the order of their files.
///
/// # Errors
/// When a table's log can't be read. A hub that can't be asked is no error: its pipeline says so.
pub async fn standings(project: &ProjectSpec) -> Result<Vec<PipelineStanding>, PipelineError> {
    let looks = project.pipelines.iter().map(|pipeline| standing(project, pipeline));
    let looked: Vec<_> = futures::stream::iter(looks).buffered(PIPELINES_AT_ONCE).collect().await;
    looked.into_iter().collect()
}

async fn standing(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<PipelineStanding, PipelineError> {
    let places = setup::Places::of(project)?;
    let reading = futures::stream::iter(pipeline.sinks().map(|sink| read_table(&places, sink)));
    let (read, hub) = tokio::join!(reading.buffered(TABLES_AT_ONCE).try_collect::<Vec<_>>(), async {
        match pipeline.is_live {
            true => ask(project, pipeline).await.map(Some),
            false => Ok(None),
        }
    });
    let read = read?;
    let (hub, error) = match hub {
        Ok(hub) => (hub, None),
        Err(error) => (None, Some(error)),
    };
    let source = setup::source_of(project, pipeline)?;
    let now = Utc::now();
    let (mut stands, mut tables) = (Vec::new(), Vec::new());
    for ReadTable { table, read, accepted } in &read {
        let partitions = partitions(pipeline, read.as_ref(), accepted, &source, hub.as_deref(), now);
        let elsewhere = gaps_elsewhere(read.as_ref(), accepted, &source, &partitions);
        tables.push(TableStanding {
            table: table.clone(),
            last_commit: match read {
                Some(read) => last_commit(read).await?,
                None => None,
            },
            gap_events: elsewhere.open + partitions.iter().map(|partition| partition.gap_events).sum::<u64>(),
            accepted_gap_events: elsewhere.accepted
                + partitions.iter().map(|partition| partition.accepted_gap_events).sum::<u64>(),
        });
        // A table that isn't there yet begins where the others are.
        if read.is_some() || stands.is_empty() {
            stands.push(partitions);
        }
    }
    let partitions = farthest_behind(stands);
    let state = match (read.iter().any(|table| table.read.is_some()), &error) {
        (_, Some(_)) => StandingState::Unreachable,
        (false, None) => StandingState::New,
        _ if !pipeline.is_live => StandingState::Captured,
        _ if partitions.iter().all(|partition| partition.lag_events == Some(0)) => StandingState::Idle,
        _ => StandingState::Behind,
    };
    let (gap_events, accepted_gap_events) = tables
        .iter()
        .fold((0, 0), |(open, accepted), table| (open + table.gap_events, accepted + table.accepted_gap_events));
    let first = tables.remove(0);
    Ok(PipelineStanding {
        name: pipeline.name.clone(),
        owner: pipeline.owner.clone(),
        state,
        table: first.table,
        last_commit: first.last_commit,
        routed_tables: tables,
        error,
        gap_events,
        accepted_gap_events,
        partitions,
        schedule: schedule::standing(&places, pipeline).await?,
        maintenance: maintenance::standing(&places, &pipeline.sink.table).await,
    })
}

/// A table's ledger, where there is one, and what was accepted of it.
struct ReadTable {
    table: String,
    read: Option<ReadLedger>,
    accepted: AcceptedGaps,
}

async fn read_table(places: &setup::Places, sink: &SinkSpec) -> Result<ReadTable, PipelineError> {
    let table = sink.table.to_string();
    let read = read_ledger(&table_location(&places.lake, &sink.table), &table).await?;
    let accepted = match &read {
        Some(read) => accepted_of(&places.lake, &table, &read.table_id).await,
        None => AcceptedGaps::default(),
    };
    Ok(ReadTable { table, read, accepted })
}

/// Of each partition what the table says that is farthest behind, with the gaps of all tables.
fn farthest_behind(stands: Vec<Vec<PartitionStanding>>) -> Vec<PartitionStanding> {
    let mut farthest: Vec<PartitionStanding> = Vec::new();
    for mut stood in stands.into_iter().flatten() {
        match farthest.iter_mut().find(|held| held.partition == stood.partition) {
            Some(held) => {
                let gaps = (held.gap_events + stood.gap_events, held.accepted_gap_events + stood.accepted_gap_events);
                let left = [held.seconds_to_data_loss, stood.seconds_to_data_loss].into_iter().flatten();
                let left = left.min_by(f64::total_cmp);
                // A partition that one of them doesn't know yet begins where the others are.
                if stood.position.is_some() && (held.position.is_none() || stood.position < held.position) {
                    std::mem::swap(held, &mut stood);
                }
                held.seconds_to_data_loss = left;
                (held.gap_events, held.accepted_gap_events) = gaps;
            }
            None => farthest.push(stood),
        }
    }
    // Partitions are numbers written as text: "10" after "9".
    farthest.sort_by_key(|partition| (partition.partition.len(), partition.partition.clone()));
    farthest
}

async fn last_commit(read: &ReadLedger) -> Result<Option<LastCommitAt>, PipelineError> {
    let commit = read.last_commit().await?;
    Ok(commit.map(|commit| LastCommitAt { version: commit.version, at: commit.at_ms.and_then(rfc3339) }))
}

/// When the hub was made, epoch ms, and what it holds of each partition.
#[derive(Debug)]
pub(super) struct HeldByHub {
    pub created_at_ms: i64,
    pub partitions: Vec<PartitionProperties>,
}

pub(super) async fn held_by_hub(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<HeldByHub, PipelineError> {
    let source = setup::connect(project, pipeline).await?;
    let hub = source.hub().await?;
    let mut partitions = Vec::new();
    for name in hub.partitions {
        partitions.push(source.partition(&name).await?);
    }
    source.close().await;
    Ok(HeldByHub { created_at_ms: hub.created_at_ms, partitions })
}

/// What the hub holds of each partition, or in words why it doesn't say.
async fn ask(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Vec<PartitionProperties>, String> {
    match tokio::time::timeout(HUB_ANSWERS_WITHIN, held_by_hub(project, pipeline)).await {
        Ok(Ok(held)) => Ok(held.partitions),
        Ok(Err(error)) => Err(partition::report(&error)),
        Err(_) => Err(format!("no answer within {}", humantime::format_duration(HUB_ANSWERS_WITHIN))),
    }
}

/// The partitions of the hub; where that is silent, those that the ledger knows.
fn partitions(
    pipeline: &PipelineSpec,
    read: Option<&ReadLedger>,
    accepted: &AcceptedGaps,
    source: &SourceId,
    hub: Option<&[PartitionProperties]>,
    now: DateTime<Utc>,
) -> Vec<PartitionStanding> {
    let nothing = Ledger::default();
    let ledger = read.map_or(&nothing, |read| &read.ledger);
    let stand = |name: &str, holds: Option<&PartitionProperties>| {
        let key = PartitionKey::new(source.clone(), name);
        stand(ledger, accepted, &key, holds, pipeline.source.retention, now)
    };
    let mut partitions: Vec<PartitionStanding> = match hub {
        Some(held) => held.iter().map(|holds| stand(&holds.partition, Some(holds))).collect(),
        None => {
            let known = ledger.partitions().filter(|(key, _)| key.source == *source);
            known.map(|(key, _)| stand(&key.partition, None)).collect()
        }
    };
    // Partitions are numbers written as text: "10" after "9".
    partitions.sort_by_key(|partition| (partition.partition.len(), partition.partition.clone()));
    partitions
}

/// Numbers that are missing.
#[derive(Debug, Clone, Copy, Default)]
struct Gaps {
    open: u64,
    accepted: u64,
}

impl Gaps {
    fn add(&mut self, accepted: &AcceptedGaps, partition: &PartitionKey, missing: &[Range]) {
        for (piece, accepted) in missing.iter().flat_map(|missing| accepted.split(partition, *missing)) {
            match accepted {
                Some(_) => self.accepted += piece.len(),
                None => self.open += piece.len(),
            }
        }
    }
}

/// Gaps of partitions that aren't shown: of generations before.
fn gaps_elsewhere(
    read: Option<&ReadLedger>,
    accepted: &AcceptedGaps,
    source: &SourceId,
    shown: &[PartitionStanding],
) -> Gaps {
    let mut gaps = Gaps::default();
    let is_shown =
        |key: &PartitionKey| key.source == *source && shown.iter().any(|shown| *shown.partition == *key.partition);
    let partitions = read.into_iter().flat_map(|read| read.ledger.partitions());
    for (key, held) in partitions.filter(|(key, _)| !is_shown(key)) {
        gaps.add(accepted, key, &held.gaps());
    }
    gaps
}

fn stand(
    ledger: &Ledger,
    accepted: &AcceptedGaps,
    key: &PartitionKey,
    holds: Option<&PartitionProperties>,
    retention: Option<Duration>,
    now: DateTime<Utc>,
) -> PartitionStanding {
    let held = ledger.partition(key);
    let position = held.and_then(|held| held.position(holds.map_or(i64::MIN, PartitionProperties::first)));
    // What lies before the ledger's end is a gap, though the hub may have it: it may as well have skipped it.
    let waits_from = position.map(|position| position.max(held.and_then(|held| held.end()).unwrap_or(position)));
    let lag_events = waits_from.zip(holds).map(|(from, holds)| {
        let waiting = Range::new(from, holds.last_enqueued.saturating_add(1));
        i64::try_from(waiting.len()).unwrap_or(i64::MAX)
    });
    let lacking = held.map(|held| lacking(held, holds)).unwrap_or_default();
    let missing: Vec<Range> = lacking.iter().map(|lacking| lacking.range).collect();
    let mut gaps = Gaps::default();
    gaps.add(accepted, key, &missing);
    let is_lost = |lacking: &Lacking| !lacking.hub_may_have && !accepted.of(key).missing_in(lacking.range).is_empty();
    let has_lost = holds.is_some() && lacking.iter().any(is_lost);
    // The time of the oldest event that waits isn't known without reading it. It is not older
    // than the last event accounted for, and with one event waiting it is the hub's last.
    let oldest_ms = match (lag_events, holds) {
        (Some(1), Some(holds)) => Some(holds.last_enqueued_at_ms),
        (Some(2..), _) => waits_from.and_then(|from| held?.last_covered(from)).map(|covered| covered.enqueued_at),
        _ => None,
    };
    let age = oldest_ms.map(|oldest| (now.timestamp_millis() - oldest).max(0) as f64 / 1000.0);
    PartitionStanding {
        partition: key.partition.to_string(),
        position,
        last_enqueued: holds.map(|holds| holds.last_enqueued),
        lag_events,
        lag_seconds: if lag_events == Some(0) { Some(0.0) } else { age },
        seconds_to_data_loss: match (retention, age) {
            (Some(_), _) if has_lost => Some(0.0),
            (Some(retention), Some(age)) => Some((retention.as_secs_f64() - age).max(0.0)),
            _ => None,
        },
        gap_events: gaps.open,
        accepted_gap_events: gaps.accepted,
    }
}

fn rfc3339(epoch_ms: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(epoch_ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LedgerKey;
    use crate::sink::delta::gaps::AcceptedGap;

    fn key() -> PartitionKey {
        PartitionKey::new(SourceId::new("emulator/leads"), "0")
    }

    /// Covers up to `position`, whose last event was enqueued `age` seconds ago.
    fn ledger(position: i64, age: i64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.apply(LedgerKey::End { partition: key(), from: 0 }, position);
        ledger.apply(LedgerKey::Time { partition: key(), from: 0 }, (1_000 - age) * 1_000);
        ledger
    }

    fn holds(begin: i64, last_enqueued: i64, age: i64) -> PartitionProperties {
        PartitionProperties {
            partition: "0".to_owned(),
            begin,
            last_enqueued,
            last_enqueued_at_ms: (1_000 - age) * 1_000,
            is_empty: false,
        }
    }

    #[test]
    fn lag_is_counted_from_the_position_and_aged_by_what_is_known() {
        let hour = Some(Duration::from_secs(3_600));
        for (name, holds, retention, position, expected) in [
            ("nothing waits", Some(holds(0, 9, 5)), hour, 10, (Some(0), Some(0.0), None)),
            ("one waits", Some(holds(0, 10, 5)), hour, 10, (Some(1), Some(5.0), Some(3_595.0))),
            ("many wait", Some(holds(0, 19, 5)), hour, 10, (Some(10), Some(60.0), Some(3_540.0))),
            ("no retention declared", Some(holds(0, 19, 5)), None, 10, (Some(10), Some(60.0), None)),
            ("some are lost", Some(holds(15, 19, 5)), hour, 15, (Some(5), None, Some(0.0))),
            ("the hub is silent", None, hour, 10, (None, None, None)),
        ] {
            let now = DateTime::from_timestamp(1_000, 0).expect("a time");
            let stood = stand(&ledger(10, 60), &AcceptedGaps::default(), &key(), holds.as_ref(), retention, now);
            assert_eq!(stood.position, Some(position), "{name}");
            assert_eq!((stood.lag_events, stood.lag_seconds, stood.seconds_to_data_loss), expected, "{name}");
        }
    }

    #[test]
    fn what_is_lost_is_a_gap_and_once_accepted_no_loss_to_come() {
        let now = DateTime::from_timestamp(1_000, 0).expect("a time");
        let hour = Some(Duration::from_secs(3_600));
        let mut ledger = ledger(10, 60);
        ledger.apply(LedgerKey::End { partition: key(), from: 15 }, 20);
        let accepted = |from, to| AcceptedGap {
            partition: key(),
            range: Range::new(from, to),
            table: "bronze.leads".to_owned(),
            table_id: "an id".to_owned(),
            accepted_at_us: 0,
            accepted_by: "who".to_owned(),
            why: "why".to_owned(),
        };
        for (name, accepted, begin, expected) in [
            ("the hub may have them", vec![], 10, (0, 5, 0, None)),
            ("two of them are lost", vec![], 12, (0, 5, 0, Some(0.0))),
            ("all of them", vec![], 15, (0, 5, 0, Some(0.0))),
            ("partly accepted", vec![accepted(10, 13)], 15, (0, 2, 3, Some(0.0))),
            ("accepted", vec![accepted(10, 15)], 15, (0, 0, 5, None)),
        ] {
            let holds = holds(begin, 19, 5);
            let stood = stand(&ledger, &accepted.into_iter().collect(), &key(), Some(&holds), hour, now);
            let (lag, open, accepted, loss) = expected;
            assert_eq!(stood.lag_events, Some(lag), "{name}");
            assert_eq!((stood.gap_events, stood.accepted_gap_events), (open, accepted), "{name}");
            assert_eq!(stood.seconds_to_data_loss, loss, "{name}");
        }
    }

    #[test]
    fn what_retention_took_of_an_emptied_partition_is_no_lag() {
        let now = DateTime::from_timestamp(1_000, 0).expect("a time");
        let emptied = PartitionProperties { is_empty: true, ..holds(0, 41, 5) };
        let stood = stand(&ledger(10, 60), &AcceptedGaps::default(), &key(), Some(&emptied), None, now);
        assert_eq!((stood.position, stood.lag_events, stood.gap_events), (Some(42), Some(0), 32));
    }

    #[test]
    fn a_partition_that_was_never_read_has_no_position() {
        let now = DateTime::from_timestamp(1_000, 0).expect("a time");
        let stood = stand(&Ledger::default(), &AcceptedGaps::default(), &key(), Some(&holds(0, 9, 5)), None, now);
        assert_eq!((stood.position, stood.last_enqueued, stood.lag_events), (None, Some(9), None));
    }
}
