//! What outlives the process: a file for each partition, only ever appended to, and one that
//! describes the hub.
//!
//! ```text
//! <dir>/<hub>/hub.json         name, partitions, groups, created_at
//! <dir>/<hub>/<partition>.log  records: length u32, checksum u32, kind u8, fields
//! ```
//! All integers are little-endian. A record that was cut off ends the log: what came after it
//! was never acknowledged. A log whose head has expired is written anew when it is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::BrokerError;
use super::log::{PartitionLog, StoredEvent};
use super::options::HubSpec;

const EVENT: u8 = 1;
const EXPIRED: u8 = 2;
const STAND: u8 = 3;

const HUB_FILE: &str = "hub.json";
/// A record holds one message and its place; a larger length is rubbish.
const MAX_RECORD_BYTES: u32 = 4 * 1024 * 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HubFile {
    #[serde(flatten)]
    pub(super) spec: HubSpec,
    /// Epoch milliseconds.
    pub(super) created_at: i64,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BrokerError + '_ {
    move |source| BrokerError::Journal { path: path.to_owned(), source }
}

/// The hubs that were kept in a folder.
pub(super) fn kept_hubs(dir: &Path) -> Result<Vec<HubFile>, BrokerError> {
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut hubs = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path().join(HUB_FILE);
        if let Ok(text) = fs::read(&path) {
            hubs.push(serde_json::from_slice(&text).map_err(|source| BrokerError::HubFile { path, source })?);
        }
    }
    Ok(hubs)
}

/// Writes a hub's description; the old one stays until the new one is whole.
pub(super) fn keep_hub(dir: &Path, hub: &HubFile) -> Result<(), BrokerError> {
    let folder = dir.join(&hub.spec.name);
    fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let path = folder.join(HUB_FILE);
    let text = serde_json::to_vec_pretty(hub).map_err(|source| BrokerError::HubFile { path: path.clone(), source })?;
    let whole = path.with_extension("new");
    fs::write(&whole, text).and_then(|()| fs::rename(&whole, &path)).map_err(failed(&path))
}

/// Forgets the events of a hub, and the hub.
pub(super) fn forget_hub(dir: &Path, hub: &str) -> Result<(), BrokerError> {
    let folder = dir.join(hub);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&folder)(error)),
        _ => Ok(()),
    }
}

/// The log of a partition on disk.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens the log of a partition, and reads what it holds.
    pub(super) fn open(dir: &Path, hub: &str, partition: &str) -> Result<(Self, PartitionLog), BrokerError> {
        let path = dir.join(hub).join(format!("{partition}.log"));
        let (log, whole_bytes, expired) = replay(&path).map_err(failed(&path))?;
        if expired {
            rewrite(&path, &log).map_err(failed(&path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed(&path))?;
        if !expired {
            file.set_len(whole_bytes).map_err(failed(&path))?;
        }
        Ok((Self { file, path }, log))
    }

    /// Adds events, each with the offset that follows it, in one write.
    pub(super) fn append(&mut self, events: &[(StoredEvent, i64)]) -> Result<(), BrokerError> {
        let mut records = Vec::new();
        for (event, next_offset) in events {
            event_record(&mut records, event, *next_offset);
        }
        self.file.write_all(&records).map_err(failed(&self.path))
    }

    /// Notes that everything before a number is gone.
    pub(super) fn expire(&mut self, before: i64) -> Result<(), BrokerError> {
        let mut record = Vec::new();
        write_record(&mut record, EXPIRED, &[&before.to_le_bytes()]);
        self.file.write_all(&record).map_err(failed(&self.path))
    }
}

fn write_record(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let start = out.len();
    out.extend([0; 8]);
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    let body = &out[start + 8..];
    let (length, checksum) = (body.len() as u32, checksum(body));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn event_record(out: &mut Vec<u8>, event: &StoredEvent, next_offset: i64) {
    let fields = [event.sequence_number, event.offset, next_offset, event.enqueued_at].map(i64::to_le_bytes);
    write_record(out, EVENT, &[fields.as_flattened(), &event.message]);
}

/// FNV-1a. It has to tell a torn record from a whole one, and withstands nobody.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// What a file says: the log, the bytes of whole records, and whether any event has expired.
fn replay(path: &Path) -> io::Result<(PartitionLog, u64, bool)> {
    let mut log = PartitionLog::default();
    let (mut whole_bytes, mut expired) = (0, false);
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((log, 0, false)),
        Err(error) => return Err(error),
    };
    while let Some(record) = read_record(&mut reader)? {
        if !apply(&mut log, &record, &mut expired) {
            break;
        }
        whole_bytes += 8 + record.len() as u64;
    }
    Ok((log, whole_bytes, expired))
}

/// The next record, or nothing at the end or where a record was cut off.
fn read_record(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 8];
    let mut record = Vec::new();
    let torn = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(None),
        _ => Err(error),
    };
    if let Err(error) = reader.read_exact(&mut head) {
        return torn(error);
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > MAX_RECORD_BYTES {
        return Ok(None);
    }
    record.resize(length as usize, 0);
    if let Err(error) = reader.read_exact(&mut record) {
        return torn(error);
    }
    Ok((checksum(&record) == u32::from_le_bytes([c0, c1, c2, c3])).then_some(record))
}

/// Does what a record says; `false` where it makes no sense.
fn apply(log: &mut PartitionLog, record: &[u8], expired: &mut bool) -> bool {
    let Some((kind, body)) = record.split_first() else { return false };
    let (fields, rest) = body.as_chunks::<8>();
    let field = |index: usize| fields.get(index).map(|bytes| i64::from_le_bytes(*bytes));
    match (*kind, field(0), field(1), field(2), field(3)) {
        (EVENT, Some(sequence_number), Some(offset), Some(next_offset), Some(enqueued_at)) => {
            if sequence_number != log.next_sequence_number() {
                return false;
            }
            let message = Bytes::copy_from_slice(&body[32..]);
            log.push(StoredEvent { sequence_number, offset, enqueued_at, message }, next_offset);
            true
        }
        (EXPIRED, Some(before), None, ..) if rest.is_empty() => {
            *expired |= log.expire_before(before);
            true
        }
        (STAND, Some(next_sequence_number), Some(next_offset), Some(last_offset), Some(enqueued_at)) => {
            log.stand_at(next_sequence_number, next_offset, last_offset, enqueued_at);
            true
        }
        _ => false,
    }
}

/// Writes a log without its expired head; the old file stays until the new one is whole.
fn rewrite(path: &Path, log: &PartitionLog) -> io::Result<()> {
    let whole = path.with_extension("new");
    let mut writer = BufWriter::new(File::create(&whole)?);
    let events = log.read(log.begin(), usize::MAX, u64::MAX);
    let mut record = Vec::new();
    let (first_offset, last_offset) = match events.first() {
        Some(first) => (first.offset, first.offset),
        None => (log.next_offset(), log.last_offset()),
    };
    let stand = [log.begin(), first_offset, last_offset, log.last_enqueued_at()].map(i64::to_le_bytes);
    write_record(&mut record, STAND, &[stand.as_flattened()]);
    for (index, event) in events.iter().enumerate() {
        let next_offset = events.get(index + 1).map_or(log.next_offset(), |next| next.offset);
        event_record(&mut record, event, next_offset);
        writer.write_all(&record)?;
        record.clear();
    }
    writer.write_all(&record)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&whole, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64) -> (StoredEvent, i64) {
        let message = Bytes::from(format!("event {number}"));
        (
            StoredEvent { sequence_number: number, offset: number * 7, enqueued_at: 1000 + number, message },
            number * 7 + 7,
        )
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("hub")).expect("a folder");
        dir
    }

    fn numbers(log: &PartitionLog) -> Vec<i64> {
        log.read(0, usize::MAX, u64::MAX).iter().map(|event| event.sequence_number).collect()
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let dir = folder();
        let (mut journal, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
        assert_eq!(log.len(), 0);
        journal.append(&[event(0), event(1)]).expect("written");
        journal.append(&[event(2)]).expect("written");
        let (_, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
        assert_eq!(
            log.read(0, 9, 1 << 20).iter().map(|e| e.message.clone()).collect::<Vec<_>>(),
            ["event 0", "event 1", "event 2"]
        );
        assert_eq!((log.next_offset(), log.last_offset(), log.last_enqueued_at()), (21, 14, 1002));
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_written_over() {
        let dir = folder();
        let path = dir.path().join("hub/0.log");
        for cut in 1..40 {
            let _ = fs::remove_file(&path);
            let (mut journal, _) = Journal::open(dir.path(), "hub", "0").expect("a journal");
            journal.append(&[event(0), event(1)]).expect("written");
            let file = OpenOptions::new().write(true).open(&path).expect("a file");
            file.set_len(file.metadata().expect("a file").len() - cut).expect("cut");
            let (mut journal, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
            assert_eq!(numbers(&log), [0], "cut by {cut}");
            journal.append(&[event(1)]).expect("written");
            let (_, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
            assert_eq!(numbers(&log), [0, 1], "cut by {cut}");
        }
    }

    #[test]
    fn what_has_expired_stays_gone_and_numbers_go_on() {
        let dir = folder();
        let (mut journal, _) = Journal::open(dir.path(), "hub", "0").expect("a journal");
        journal.append(&[event(0), event(1), event(2)]).expect("written");
        journal.expire(2).expect("written");
        for _ in 0..2 {
            let (_, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
            assert_eq!((numbers(&log), log.next_offset()), (vec![2], 21));
        }
        let (mut journal, _) = Journal::open(dir.path(), "hub", "0").expect("a journal");
        journal.expire(3).expect("written");
        for _ in 0..2 {
            let (_, log) = Journal::open(dir.path(), "hub", "0").expect("a journal");
            assert_eq!((log.len(), log.begin(), log.last_offset(), log.last_enqueued_at()), (0, 3, 14, 1002));
        }
    }
}
