//! Blobs as Event Hubs Capture writes them, with bodies of a bench's own making.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

pub const PARTITIONS: usize = 8;
const BLOB_EVENTS: usize = 50_000;
const BLOCK_BYTES: usize = 64 << 10;

const EVENT_DATA: &str = r#"{"type":"record","name":"EventData","namespace":"Microsoft.ServiceBus.Messaging","fields":[{"name":"SequenceNumber","type":"long"},{"name":"Offset","type":"string"},{"name":"EnqueuedTimeUtc","type":"string"},{"name":"SystemProperties","type":{"type":"map","values":["long","double","string","bytes"]}},{"name":"Properties","type":{"type":"map","values":["long","double","string","bytes","null"]}},{"name":"Body","type":["null","bytes"]}]}"#;

/// Writes the blobs of all partitions of hub `readings`; gives their bytes. `body` makes that of each event, which are
/// numbered over all partitions.
pub fn write(folder: &Path, events: usize, body: impl Fn(usize) -> Vec<u8>) -> u64 {
    let mut bytes = 0;
    let share = events / PARTITIONS;
    for partition in 0..PARTITIONS {
        for (blob, first) in (0..share).step_by(BLOB_EVENTS).enumerate() {
            let path = folder.join(format!(
                "emulator/readings/{partition}/2026/11/25/{:02}/{:02}/00.avro",
                blob / 60,
                blob % 60
            ));
            std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
            let file = container(&body, partition * share, first, (first + BLOB_EVENTS).min(share));
            bytes += file.len() as u64;
            File::create(path).and_then(|mut out| out.write_all(&file)).expect("written");
        }
    }
    bytes
}

fn container(body: &impl Fn(usize) -> Vec<u8>, seed: usize, from: usize, to: usize) -> Vec<u8> {
    let mut out = b"Obj\x01".to_vec();
    put_long(&mut out, 2);
    for (key, value) in [("avro.codec", "null"), ("avro.schema", EVENT_DATA)] {
        put_bytes(&mut out, key.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    put_long(&mut out, 0);
    out.extend([7; 16]);
    let (mut block, mut records) = (Vec::new(), 0);
    for number in from..to {
        put_long(&mut block, number as i64);
        put_bytes(&mut block, (number * 300).to_string().as_bytes());
        put_bytes(&mut block, b"11/25/2026 10:00:00 AM");
        put_long(&mut block, 1);
        put_bytes(&mut block, b"x-opt-enqueued-time");
        put_long(&mut block, 0);
        put_long(&mut block, 1_795_600_800_000 + number as i64 / 20);
        put_long(&mut block, 0);
        put_long(&mut block, 0);
        put_long(&mut block, 1);
        put_bytes(&mut block, &body(seed + number));
        records += 1;
        if block.len() >= BLOCK_BYTES || number + 1 == to {
            put_long(&mut out, std::mem::take(&mut records));
            put_bytes(&mut out, &std::mem::take(&mut block));
            out.extend([7; 16]);
        }
    }
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
