//! Frames of AMQP 1.0 (part 2.3), as far as the shim looks into them.

use std::io;

/// What the broker says in its `Open`. Larger frames save headers, smaller ones let links
/// share the connection more evenly.
pub(super) const MAX_FRAME_BYTES: u32 = 256 * 1024;

pub(super) const HEADER_BYTES: usize = 8;

pub(super) const OPEN: u8 = 0x10;
pub(super) const BEGIN: u8 = 0x11;
pub(super) const ATTACH: u8 = 0x12;
pub(super) const FLOW: u8 = 0x13;
pub(super) const TRANSFER: u8 = 0x14;
pub(super) const DISPOSITION: u8 = 0x15;
pub(super) const DETACH: u8 = 0x16;
pub(super) const END: u8 = 0x17;

/// How many fields a performative has.
pub(super) fn field_count(code: u8) -> usize {
    match code {
        OPEN => 10,
        BEGIN => 8,
        ATTACH => 14,
        FLOW | TRANSFER => 11,
        DISPOSITION => 6,
        DETACH => 3,
        // end, close
        _ => 1,
    }
}

/// A frame's performative, as far as it is looked at.
pub(super) struct Performative<'a> {
    pub(super) code: u8,
    pub(super) descriptor: &'a [u8],
    pub(super) count: usize,
    pub(super) fields: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl<'a> Performative<'a> {
    /// Of the body of an AMQP frame; nothing where it is empty or isn't one.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (code, descriptor_bytes) = match body {
            [0, 0x53, code, ..] => (*code, 3),
            [0, 0x80, 0, 0, 0, 0, 0, 0, 0, code, ..] => (*code, 10),
            _ => return None,
        };
        let (descriptor, list) = body.split_at(descriptor_bytes);
        let (count, fields, payload) = match *list {
            [0x45, ref rest @ ..] => (0, &rest[..0], rest),
            [0xc0, size, count, ref rest @ ..] => {
                let (fields, payload) = rest.split_at_checked(usize::from(size).checked_sub(1)?)?;
                (usize::from(count), fields, payload)
            }
            [0xd0, s0, s1, s2, s3, c0, c1, c2, c3, ref rest @ ..] => {
                let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
                let (fields, payload) = rest.split_at_checked(size.checked_sub(4)?)?;
                (u32::from_be_bytes([c0, c1, c2, c3]) as usize, fields, payload)
            }
            _ => return None,
        };
        Some(Self { code, descriptor, count, fields, payload })
    }

    /// The encoded field at an index; nothing past the end.
    pub(super) fn field(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let mut rest = self.fields;
        for _ in 0..index {
            rest = rest.get(value_bytes(rest)?..)?;
        }
        rest.get(..value_bytes(rest)?)
    }

    /// How many bytes of fields follow the one at an index.
    pub(super) fn fields_after(&self, index: usize) -> usize {
        let upto: usize = (0..=index).filter_map(|index| self.field(index)).map(<[u8]>::len).sum();
        self.fields.len() - upto
    }
}

/// How long an encoded value is, as its format code tells (AMQP 1.0, part 1.2). Described
/// values, which no field that is looked at lies behind, aren't measured.
fn value_bytes(value: &[u8]) -> Option<usize> {
    let code = *value.first()?;
    let sized = |width: usize| -> Option<usize> {
        let size = value.get(1..=width)?.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        Some(1 + width + size)
    };
    match code >> 4 {
        0x4 => Some(1),
        0x5 => Some(2),
        0x6 => Some(3),
        0x7 => Some(5),
        0x8 => Some(9),
        0x9 => Some(17),
        0xa | 0xc | 0xe => sized(1),
        0xb | 0xd | 0xf => sized(4),
        _ => None,
    }
}

/// An encoded `uint`.
pub(super) fn uint(value: &[u8]) -> Option<u32> {
    match *value {
        [0x43] => Some(0),
        [0x52, small] => Some(u32::from(small)),
        [0x70, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// The length of what stands first in `bytes`: a protocol header or a frame; nothing while
/// it isn't whole.
pub(super) fn unit_bytes(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(&[a, b, c, d, doff, ..]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    if [a, b, c, d] == *b"AMQP" {
        return Ok(Some(HEADER_BYTES));
    }
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    // Nobody uses an extended header, and the library doesn't take one.
    if size < HEADER_BYTES || size > MAX_FRAME_BYTES as usize || doff != 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an AMQP frame"));
    }
    Ok((bytes.len() >= size).then_some(size))
}

/// Channel and body of an AMQP frame; nothing for protocol headers and SASL.
pub(super) fn amqp_frame(unit: &[u8]) -> Option<(u16, &[u8])> {
    match *unit {
        [_, _, _, _, 2, 0, high, low, ref body @ ..] => Some((u16::from_be_bytes([high, low]), body)),
        _ => None,
    }
}

pub(super) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
