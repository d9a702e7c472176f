//! The records of Capture, by the schema that the container itself names: its unions differ from
//! year to year.
//!
//! | field | becomes |
//! |---|---|
//! | `SequenceNumber` | the sequence number |
//! | `Offset` | the offset |
//! | `SystemProperties["x-opt-enqueued-time"]` | the enqueued time, to the millisecond |
//! | `EnqueuedTimeUtc` | the same where the former is missing: text of a US calendar, to the second |
//! | `SystemProperties["content-type"]` | the content type; names are compared without case |
//! | `Properties` | the properties, in the text form that live events have |
//! | `Body` | the body, a view of the block |
//! | any other | skipped |

use apache_avro::Schema;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::NaiveDateTime;
use thiserror::Error;

use crate::batch::{Event, text_of_bytes};

const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const CONTENT_TYPE: &str = "content-type";

/// How `EnqueuedTimeUtc` is written: `12/9/2022 4:51:25 PM`.
const US_TIME: &str = "%m/%d/%Y %I:%M:%S %p";

/// Levels that a schema may have. Capture's has three; each level is one of the stack.
const DEPTH_MAX: usize = 16;

/// Events that a block's count may reserve before they are read.
const RESERVED_MAX: usize = 8_192;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("its schema isn't that of Capture: {0}")]
    Schema(String),
    #[error("record {record} of the block is torn: {what}")]
    Torn { record: usize, what: &'static str },
    #[error("the block has {left} bytes after its last record")]
    Surplus { left: usize },
}

/// What a field of the record is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    SequenceNumber,
    Offset,
    EnqueuedTime,
    SystemProperties,
    Properties,
    Body,
    Other,
}

/// How a value lies in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Null,
    Boolean,
    /// `int`, `long`, and what is one of them in the bytes.
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    Record(Vec<Shape>),
}

/// The records of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordShape {
    fields: Vec<(Role, Shape)>,
}

impl RecordShape {
    /// # Errors
    /// A schema without what an event needs.
    pub(super) fn parse(schema: &str) -> Result<Self, RecordError> {
        let wrong = |what: String| RecordError::Schema(what);
        let parsed = Schema::parse_str(schema).map_err(|error| wrong(error.to_string()))?;
        let Schema::Record(record) = parsed else { return Err(wrong("it isn't a record".to_owned())) };
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let shape = Shape::of(&field.schema, 0).map_err(|what| wrong(format!("field `{}`: {what}", field.name)))?;
            fields.push((role_of(&field.name), shape));
        }
        let has = |role| fields.iter().any(|(held, _)| *held == role);
        for (role, name) in [(Role::SequenceNumber, "SequenceNumber"), (Role::Body, "Body")] {
            if !has(role) {
                return Err(wrong(format!("it has no field `{name}`")));
            }
        }
        Ok(Self { fields })
    }

    /// The `records` events of a block's data, in its order.
    ///
    /// # Errors
    /// The first record that is torn, by its place; what came before it is worth nothing, since
    /// the block isn't what its writer wrote.
    pub(super) fn events(&self, data: &Bytes, records: usize) -> Result<Vec<Event>, RecordError> {
        // The count comes from outside: nothing is reserved on its word.
        let mut events = Vec::with_capacity(records.min(RESERVED_MAX));
        let mut cursor = Cursor { data, at: 0 };
        for record in 0..records {
            events.push(self.event(&mut cursor).map_err(|what| RecordError::Torn { record, what })?);
        }
        match data.len() - cursor.at {
            0 => Ok(events),
            left => Err(RecordError::Surplus { left }),
        }
    }

    /// The first event of a block of which only the beginning is there; none where that isn't enough.
    pub(super) fn first(&self, data: &Bytes) -> Option<Event> {
        self.event(&mut Cursor { data, at: 0 }).ok()
    }

    fn event(&self, cursor: &mut Cursor<'_>) -> Result<Event, &'static str> {
        let mut sequence_number = None;
        let mut offset = String::new();
        let mut enqueued_text = None;
        let mut system = System::default();
        let mut properties = Vec::new();
        let mut body = Bytes::new();
        for (role, shape) in &self.fields {
            match role {
                Role::SequenceNumber => sequence_number = cursor.scalar(shape)?.long(),
                Role::Offset => offset = cursor.scalar(shape)?.text(),
                Role::EnqueuedTime => {
                    if let Scalar::Text(text) = cursor.scalar(shape)? {
                        enqueued_text = Some(text);
                    }
                }
                Role::SystemProperties => cursor.entries(shape, |name, value| system.take(name, &value))?,
                Role::Properties => {
                    cursor.entries(shape, |name, value| properties.push((name.to_owned(), value.property(name))))?;
                }
                Role::Body => {
                    if let Scalar::Bytes(bytes) = cursor.scalar(shape)? {
                        body = cursor.data.slice_ref(bytes);
                    }
                }
                Role::Other => cursor.skip(shape)?,
            }
        }
        let enqueued_at = system.enqueued_at.or_else(|| us_time(enqueued_text?));
        Ok(Event {
            sequence_number: sequence_number.ok_or("its sequence number is no number")?,
            offset,
            enqueued_at: enqueued_at.ok_or("it has no enqueued time that can be read")?,
            body,
            content_type: system.content_type,
            properties,
        })
    }
}

fn role_of(name: &str) -> Role {
    match name {
        "SequenceNumber" => Role::SequenceNumber,
        "Offset" => Role::Offset,
        "EnqueuedTimeUtc" => Role::EnqueuedTime,
        "SystemProperties" => Role::SystemProperties,
        "Properties" => Role::Properties,
        "Body" => Role::Body,
        _ => Role::Other,
    }
}

/// Epoch milliseconds of a time as .NET writes it with a US calendar.
fn us_time(text: &str) -> Option<i64> {
    let time = NaiveDateTime::parse_from_str(text.trim(), US_TIME).ok()?;
    Some(time.and_utc().timestamp_millis())
}

/// What of the system properties an event has a place for.
#[derive(Debug, Default)]
struct System {
    enqueued_at: Option<i64>,
    content_type: Option<String>,
}

impl System {
    fn take(&mut self, name: &str, value: &Scalar<'_>) {
        if name.eq_ignore_ascii_case(ENQUEUED_TIME) {
            self.enqueued_at = value.long();
        } else if name.eq_ignore_ascii_case(CONTENT_TYPE) {
            self.content_type = Some(value.text());
        }
    }
}

impl Shape {
    fn of(schema: &Schema, depth: usize) -> Result<Self, &'static str> {
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply");
        }
        Ok(match schema {
            Schema::Null => Self::Null,
            Schema::Boolean => Self::Boolean,
            Schema::Int
            | Schema::Long
            | Schema::Date
            | Schema::TimeMillis
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::Enum(_) => Self::Long,
            Schema::Float => Self::Float,
            Schema::Double => Self::Double,
            Schema::Bytes => Self::Bytes,
            Schema::String => Self::String,
            Schema::Fixed(fixed) => Self::Fixed(fixed.size),
            Schema::Array(array) => match Self::of(&array.items, depth + 1)? {
                // Nothing would bound their count.
                items if items.is_empty() => return Err("it is an array of what takes no bytes"),
                items => Self::Array(Box::new(items)),
            },
            Schema::Map(map) => Self::Map(Box::new(Self::of(&map.types, depth + 1)?)),
            Schema::Union(union) => Self::Union(
                union.variants().iter().map(|branch| Self::of(branch, depth + 1)).collect::<Result<_, _>>()?,
            ),
            Schema::Record(record) => Self::Record(
                record.fields.iter().map(|field| Self::of(&field.schema, depth + 1)).collect::<Result<_, _>>()?,
            ),
            _ => return Err("Capture has no such type"),
        })
    }
}

impl Shape {
    /// Whether a value takes no bytes.
    fn is_empty(&self) -> bool {
        match self {
            Self::Null | Self::Fixed(0) => true,
            Self::Record(fields) => fields.iter().all(Self::is_empty),
            _ => false,
        }
    }
}

/// A value without parts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scalar<'a> {
    Null,
    Boolean(bool),
    Long(i64),
    Double(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Scalar<'_> {
    fn long(&self) -> Option<i64> {
        match self {
            Self::Long(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As the properties of a live event are written.
    fn property(&self, name: &str) -> String {
        match self {
            Self::Bytes(bytes) => text_of_bytes(name, bytes),
            other => other.text(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Boolean(value) => value.to_string(),
            Self::Long(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
            Self::Text(text) => (*text).to_owned(),
            Self::Bytes(bytes) => STANDARD.encode(bytes),
        }
    }
}

const ENDS: &str = "it ends too early";

struct Cursor<'a> {
    data: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let end = self.at.checked_add(length).ok_or(ENDS)?;
        let taken = self.data.get(self.at..end).ok_or(ENDS)?;
        self.at = end;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, &'static str> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.data.get(self.at).ok_or(ENDS)?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number has more than 64 bits")
    }

    fn sized(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.long()?;
        self.take(usize::try_from(length).map_err(|_| "a length is negative")?)
    }

    fn string(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.sized()?).map_err(|_| "a text isn't UTF-8")
    }

    fn branch<'s>(&mut self, branches: &'s [Shape]) -> Result<&'s Shape, &'static str> {
        let index = usize::try_from(self.long()?).map_err(|_| "a branch of a union is negative")?;
        branches.get(index).ok_or("a union has no such branch")
    }

    fn scalar(&mut self, shape: &Shape) -> Result<Scalar<'a>, &'static str> {
        Ok(match shape {
            Shape::Null => Scalar::Null,
            Shape::Boolean => Scalar::Boolean(self.take(1)?[0] != 0),
            Shape::Long => Scalar::Long(self.long()?),
            Shape::Float => {
                let bytes = self.take(4)?.try_into().map_err(|_| ENDS)?;
                Scalar::Double(f64::from(f32::from_le_bytes(bytes)))
            }
            Shape::Double => Scalar::Double(f64::from_le_bytes(self.take(8)?.try_into().map_err(|_| ENDS)?)),
            Shape::Bytes => Scalar::Bytes(self.sized()?),
            Shape::String => Scalar::Text(self.string()?),
            Shape::Fixed(size) => Scalar::Bytes(self.take(*size)?),
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                return self.scalar(branch);
            }
            Shape::Array(_) | Shape::Map(_) | Shape::Record(_) => {
                // Nothing of an event is made of parts; where a newer Capture has such, it isn't lost by us alone.
                self.skip(shape)?;
                Scalar::Null
            }
        })
    }

    /// Each entry of a map, or nothing where the field is null.
    fn entries(&mut self, shape: &Shape, mut each: impl FnMut(&'a str, Scalar<'a>)) -> Result<(), &'static str> {
        match shape {
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                self.entries(branch, each)
            }
            Shape::Map(values) => self.blocks(|cursor| {
                let name = cursor.string()?;
                each(name, cursor.scalar(values)?);
                Ok(())
            }),
            other => self.skip(other),
        }
    }

    /// The items of an array or a map, block after block. Each takes a byte at least: what is left
    /// bounds every count.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), &'static str>) -> Result<(), &'static str> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            let count = count.unsigned_abs();
            if count > (self.data.len() - self.at) as u64 {
                return Err("it has more items than bytes");
            }
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn skip(&mut self, shape: &Shape) -> Result<(), &'static str> {
        match shape {
            Shape::Array(items) => self.blocks(|cursor| cursor.skip(items)),
            Shape::Map(values) => self.blocks(|cursor| {
                cursor.sized()?;
                cursor.skip(values)
            }),
            Shape::Record(fields) => fields.iter().try_for_each(|field| self.skip(field)),
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                self.skip(branch)
            }
            other => self.scalar(other).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_kafka_is_text_as_in_a_live_event() {
        let bytes = Scalar::Bytes("/Köln".as_bytes());
        assert_eq!(
            (bytes.property("ce_source"), bytes.property("tenant")),
            ("/Köln".to_owned(), "L0vDtmxu".to_owned())
        );
        assert_eq!(Scalar::Long(7).property("ce_attempt"), "7");
    }
}
