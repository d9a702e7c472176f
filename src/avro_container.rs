//! Walks an Avro object container: its header, then its blocks, one at a time. Blobs of Capture are such
//! containers, and so may bodies of events be.
//!
//! ```text
//! header: "Obj" 0x01, map of metadata (avro.schema, avro.codec), 16 bytes of marker
//! block:  count of records, count of bytes, the bytes (compressed by the codec), the marker again
//! ```
//!
//! Nothing here does I/O: a step is given the bytes that are there, and says how many it needs.
//! Source of the layout: the Avro specification 1.11, "Object Container Files".

mod codec;

use bytes::Bytes;
use thiserror::Error;

use codec::Codec;

/// How every container begins.
pub const MAGIC: &[u8; 4] = b"Obj\x01";

const MARKER_BYTES: usize = 16;

/// What a header may take: Capture's has some 600 bytes. Larger bounds let hostile metadata fill
/// the memory.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// What a block may hold once it is decompressed. An event has 20 MB at most, and Capture's blocks a few
/// megabytes; a bomb of some kilobytes could hold any amount, in records of a few bytes each.
pub const BLOCK_BYTES_MAX: usize = 64 << 20;

/// The two numbers before a block's bytes take no more than this.
const BLOCK_HEAD_BYTES_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContainerError {
    #[error("it doesn't begin as an Avro container")]
    NotAContainer,
    #[error("its header is torn: {0}")]
    Header(&'static str),
    #[error("its codec is `{codec}`, and only `null`, `deflate`, `snappy`, `zstandard`, `bzip2` and `xz` can be read")]
    Codec { codec: String },
    #[error("it is cut off: {needed} bytes from byte {at} on were announced, and {left} are there")]
    CutOff { at: u64, needed: usize, left: u64 },
    #[error("the block at byte {at} is torn: {what}")]
    Block { at: u64, what: &'static str },
}

/// What the header of a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The writer's schema, as JSON.
    pub schema: String,
    /// Where the first block begins.
    pub bytes: usize,
    codec: Codec,
    marker: [u8; MARKER_BYTES],
}

/// A whole block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub records: usize,
    /// Its records as they lie in the container.
    pub packed: Bytes,
    /// What it takes of the container, with its marker.
    pub bytes: usize,
    codec: Codec,
    at: u64,
}

impl Block {
    /// Whether its records are there as they are.
    pub fn is_plain(&self) -> bool {
        self.codec == Codec::Null
    }

    /// Its records, decompressed; without a codec a view of the container's own bytes. CPU work.
    ///
    /// # Errors
    /// Bytes that can't be decompressed, or more than `bytes_max` of them.
    pub fn unpacked(&self, bytes_max: usize) -> Result<Bytes, ContainerError> {
        let torn = |what| ContainerError::Block { at: self.at, what };
        let data = self.codec.unpacked(&self.packed, bytes_max).map_err(torn)?;
        // Each record takes a byte at least.
        if self.records > data.len() {
            return Err(torn("it claims more records than it has bytes"));
        }
        Ok(data)
    }
}

/// What came of the bytes that were there.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    Whole(T),
    /// At least so many bytes are needed, counted from the same place.
    Needs(usize),
}

impl Header {
    /// Reads the header from the first bytes of a container.
    ///
    /// # Errors
    /// What isn't a container, a torn header, a codec that can't be read.
    pub fn read(bytes: &[u8]) -> Result<Step<Self>, ContainerError> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if magic != &MAGIC[..magic.len()] {
            return Err(ContainerError::NotAContainer);
        }
        let mut cursor = Cursor { bytes, at: MAGIC.len() };
        match cursor.header() {
            Ok(header) => Ok(Step::Whole(header)),
            Err(Torn::Ends) if bytes.len() < HEADER_BYTES_MAX => Ok(Step::Needs(bytes.len() + 1)),
            Err(Torn::Ends) => Err(ContainerError::Header("it has more than a megabyte")),
            Err(Torn::Wrong(what)) => Err(ContainerError::Header(what)),
            Err(Torn::Codec(codec)) => Err(ContainerError::Codec { codec }),
        }
    }

    /// Reads the block that begins at the front of `bytes`, which is byte `at` of the container.
    ///
    /// # Errors
    /// A block that is torn.
    pub fn block(&self, bytes: &Bytes, at: u64) -> Result<Step<Block>, ContainerError> {
        let torn = |what| ContainerError::Block { at, what };
        let mut cursor = Cursor { bytes, at: 0 };
        let (records, length) = match cursor.long().and_then(|records| Ok((records, cursor.long()?))) {
            Ok(head) => head,
            Err(Torn::Ends) if bytes.len() < BLOCK_HEAD_BYTES_MAX => return Ok(Step::Needs(bytes.len() + 1)),
            Err(_) => return Err(torn("its head is no pair of numbers")),
        };
        let records = usize::try_from(records).map_err(|_| torn("it has less than no records"))?;
        let length = usize::try_from(length).map_err(|_| torn("it has less than no bytes"))?;
        let data_from = cursor.at;
        let data_to = data_from.checked_add(length).ok_or_else(|| torn("it has more bytes than memory"))?;
        let end = data_to.checked_add(MARKER_BYTES).ok_or_else(|| torn("it has more bytes than memory"))?;
        if bytes.len() < end {
            return Ok(Step::Needs(end));
        }
        if bytes[data_to..end] != self.marker {
            return Err(torn("it doesn't end in the container's marker"));
        }
        let packed = bytes.slice(data_from..data_to);
        Ok(Step::Whole(Block { records, packed, bytes: end, codec: self.codec, at }))
    }
}

impl Header {
    /// What is there of the records of the block at the front of `bytes`; none of an empty block, nor of
    /// one that has to be decompressed first.
    pub fn records_so_far(&self, bytes: &Bytes) -> Option<Bytes> {
        let mut cursor = Cursor { bytes, at: 0 };
        let (Ok(records), Ok(length)) = (cursor.long(), cursor.long()) else { return None };
        let end = cursor.at.checked_add(usize::try_from(length).ok()?)?.min(bytes.len());
        (self.codec == Codec::Null && records > 0).then(|| bytes.slice(cursor.at..end))
    }
}

/// Why a value can't be read.
enum Torn {
    /// The bytes end before it does.
    Ends,
    Wrong(&'static str),
    Codec(String),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<Header, Torn> {
        let (mut schema, mut codec) = (None, Codec::Null);
        loop {
            let mut count = self.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // A negative count has the bytes of its entries behind it.
                self.long()?;
                count = count.checked_neg().ok_or(Torn::Wrong("a count of its metadata is out of range"))?;
            }
            for _ in 0..count {
                let key = self.sized()?;
                let value = self.sized()?;
                match key {
                    b"avro.schema" => {
                        let text = std::str::from_utf8(value).map_err(|_| Torn::Wrong("its schema isn't UTF-8"))?;
                        schema = Some(text.to_owned());
                    }
                    b"avro.codec" => {
                        codec = Codec::named(value)
                            .ok_or_else(|| Torn::Codec(String::from_utf8_lossy(value).chars().take(40).collect()))?;
                    }
                    _ => {}
                }
            }
        }
        let marker = self.take(MARKER_BYTES)?.try_into().map_err(|_| Torn::Ends)?;
        let schema = schema.ok_or(Torn::Wrong("it has no schema"))?;
        Ok(Header { schema, bytes: self.at, codec, marker })
    }

    fn sized(&mut self) -> Result<&'a [u8], Torn> {
        let length = self.long()?;
        self.take(usize::try_from(length).map_err(|_| Torn::Wrong("a length of its metadata is negative"))?)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Torn> {
        let end = self.at.checked_add(length).ok_or(Torn::Wrong("a length of its metadata is out of range"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Torn::Ends)?;
        self.at = end;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, Torn> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Torn::Ends)?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Torn::Wrong("a number has more than 64 bits"))
    }
}
