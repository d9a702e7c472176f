//! Values as JSON, wherever somebody reads them: in what a query prints, in what was rescued.
//!
//! | type | written as |
//! |---|---|
//! | integers, floats, booleans | themselves |
//! | what isn't a number, and infinity | as [`NotANumber`] says |
//! | decimals | a string, with all their digits |
//! | timestamps | RFC 3339 in UTC, with `Z` |
//! | dates | `YYYY-MM-DD` |
//! | bytes | base64 |
//! | structs, maps | an object |
//! | lists | an array |

use std::sync::Arc;

use arrow::array::{Array, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, FieldRef, Float64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};

/// JSON has no word for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotANumber {
    Null,
    /// The strings `NaN`, `inf` and `-inf`, as Arrow reads them: nothing may be lost.
    Named,
}

/// How Arrow's encoders are to write values. Nulls in objects are left out unless told otherwise.
pub fn options(not_a_number: NotANumber) -> EncoderOptions {
    EncoderOptions::default().with_encoder_factory(Arc::new(Values(not_a_number)))
}

/// Where our values differ from those that Arrow writes, at any depth.
#[derive(Debug)]
struct Values(NotANumber);

impl EncoderFactory for Values {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        macro_rules! decimal {
            ($type:ty) => {{
                let array = array.as_primitive::<$type>();
                text(array, move |row| array.value_as_string(row))
            }};
        }
        macro_rules! time {
            ($type:ty, $unit:expr) => {{
                let array = array.as_primitive::<$type>();
                text(array, move |row| rfc3339(array.value(row), $unit))
            }};
        }
        macro_rules! bytes {
            ($array:expr) => {{
                let array = $array;
                text(array, move |row| STANDARD.encode(array.value(row)))
            }};
        }
        Ok(Some(match array.data_type() {
            DataType::Decimal32(..) => decimal!(Decimal32Type),
            DataType::Decimal64(..) => decimal!(Decimal64Type),
            DataType::Decimal128(..) => decimal!(Decimal128Type),
            DataType::Decimal256(..) => decimal!(Decimal256Type),
            DataType::Timestamp(TimeUnit::Second, _) => time!(TimestampSecondType, TimeUnit::Second),
            DataType::Timestamp(TimeUnit::Millisecond, _) => time!(TimestampMillisecondType, TimeUnit::Millisecond),
            DataType::Timestamp(TimeUnit::Microsecond, _) => time!(TimestampMicrosecondType, TimeUnit::Microsecond),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => time!(TimestampNanosecondType, TimeUnit::Nanosecond),
            DataType::Binary => bytes!(array.as_binary::<i32>()),
            DataType::LargeBinary => bytes!(array.as_binary::<i64>()),
            DataType::BinaryView => bytes!(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => bytes!(array.as_fixed_size_binary()),
            DataType::Float64 if self.0 == NotANumber::Named => floats(array.as_primitive::<Float64Type>()),
            _ => return Ok(None),
        }))
    }
}

/// A value whose text needs no escapes.
struct Text<F>(F);

impl<F: Fn(usize) -> String> Encoder for Text<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice((self.0)(row).as_bytes());
        out.push(b'"');
    }
}

fn text<'a>(array: &'a dyn Array, of: impl Fn(usize) -> String + 'a) -> NullableEncoder<'a> {
    NullableEncoder::new(Box::new(Text(of)), array.nulls().cloned())
}

/// A time without a zone is in UTC: everything here is.
fn rfc3339(value: i64, unit: TimeUnit) -> String {
    let time: Option<DateTime<Utc>> = match unit {
        TimeUnit::Second => DateTime::from_timestamp(value, 0),
        TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
        TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
        TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
    };
    // Beyond the years that a calendar has, the number is all there is to say.
    time.map_or_else(|| value.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

struct Floats<'a>(&'a PrimitiveArray<Float64Type>);

impl Encoder for Floats<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        match serde_json::Number::from_f64(value) {
            Some(number) => out.extend_from_slice(number.to_string().as_bytes()),
            None => out.extend_from_slice(format!("\"{value}\"").as_bytes()),
        }
    }
}

fn floats(array: &PrimitiveArray<Float64Type>) -> NullableEncoder<'_> {
    NullableEncoder::new(Box::new(Floats(array)), array.nulls().cloned())
}
