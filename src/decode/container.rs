//! Bodies that are Avro containers: a schema of their own, and records of it.
//!
//! A container comes from outside and says itself how large it is, so everything that it could make grow is
//! bounded: what its blocks hold once they are inflated, how many records, and what each of them repeats of its
//! event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::avro::WriterSchema;
use super::body::REPEATED_BYTES_MAX;
use super::decoder::{Prepared, note};
use crate::avro_container::{ContainerError, Header, Step};
use crate::batch::Event;

/// What the blocks of a body may hold once they are inflated. An event has a megabyte as a rule, 20 at most; a
/// bomb of a megabyte could hold a gigabyte.
const BODY_BYTES_MAX: usize = 32 << 20;

/// Records of a body: each is a row with an envelope, which takes more than a record of a few bytes.
const RECORDS_MAX: usize = 1 << 18;

/// Schemas that are remembered. A team has a handful; what comes from outside has no end.
const SCHEMAS_MAX: usize = 64;

/// A container whose blocks are unpacked.
#[derive(Debug)]
pub(super) struct OpenBody {
    /// As JSON.
    pub(super) schema: String,
    /// How many records lie in which bytes.
    pub(super) blocks: Vec<(usize, Bytes)>,
}

/// Opens the body of an event that begins as a container.
///
/// # Errors
/// Words that say what is wrong with it.
pub(super) fn open(event: &Event) -> Result<OpenBody, String> {
    let body = &event.body;
    let wrong = |error: ContainerError| format!("the container can't be read: {error}");
    let header = match Header::read(body).map_err(wrong)? {
        Step::Whole(header) => header,
        Step::Needs(_) => return Err(wrong(ContainerError::Header("it is cut off"))),
    };
    let mut blocks = Vec::new();
    let (mut at, mut records, mut bytes) = (header.bytes, 0_usize, 0);
    while at < body.len() {
        let place = at as u64;
        let block = match header.block(&body.slice(at..), place).map_err(wrong)? {
            Step::Whole(block) => block,
            Step::Needs(needed) => {
                let left = (body.len() - at) as u64;
                return Err(wrong(ContainerError::CutOff { at: place, needed, left }));
            }
        };
        at += block.bytes;
        let data = block.unpacked(BODY_BYTES_MAX - bytes).map_err(wrong)?;
        (records, bytes) = (records.saturating_add(block.records), bytes + data.len());
        blocks.push((block.records, data));
    }
    if records == 0 {
        return Err("the container holds no record".to_owned());
    }
    if records > RECORDS_MAX {
        return Err(format!("the container holds {records} records, and {RECORDS_MAX} can be read"));
    }
    let repeated = (event.memory_bytes() - body.len()).saturating_mul(records);
    if repeated > REPEATED_BYTES_MAX {
        return Err(format!(
            "the rows of the container's {records} records would repeat {repeated} bytes of the event, and \
             {REPEATED_BYTES_MAX} can be"
        ));
    }
    Ok(OpenBody { schema: header.schema, blocks })
}

/// Schemas of containers, by what they say.
#[derive(Debug, Default)]
pub(super) struct EmbeddedSchemas(Mutex<HashMap<[u8; 32], Prepared>>);

impl EmbeddedSchemas {
    pub(super) fn get(&self, avsc: &str) -> Prepared {
        let key = Sha256::digest(avsc).into();
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let prepared = WriterSchema::parse(avsc).map(Arc::new);
        if let Ok(schema) = &prepared {
            note(schema, &"of a container");
        }
        let mut schemas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if schemas.len() >= SCHEMAS_MAX {
            schemas.clear();
        }
        schemas.entry(key).or_insert(prepared).clone()
    }
}
