//! JSON by a schema: written as a datum of it, which is then walked as any other. So a value is judged in one
//! place, and its column is the same whether it came as Avro or as JSON.
//!
//! | type | JSON |
//! |---|---|
//! | int, long, the times of day | a number without fraction, however written, or a string of one |
//! | float, double | a number; the strings `NaN`, `Infinity`, `-Infinity` |
//! | decimal | a number or a string of one; digits beyond the scale must be zeros |
//! | bytes, fixed | a string, base64 |
//! | date | `YYYY-MM-DD`, or the number of days |
//! | timestamps | RFC 3339, or a number in the unit of the schema; finer digits are cut off |
//! | enum, uuid, string | a string |
//! | duration | an object of `months`, `days`, `millis` |
//! | union | the first branch that the value fits |
//!
//! A field that isn't there takes the schema's default; without one, null where the schema has that. What the
//! schema doesn't know is left, and nothing of it is lost.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, FixedOffset, NaiveDate};

use super::default::{self, long, sized};
use super::plan::{FieldNode, Form, Kind, Node};
use crate::decode::json::{Member, Value, is_number, parse};

/// Bytes of a datum. Defaults make it larger than its JSON, and a hostile body could have many of them.
const DATUM_BYTES_MAX: usize = 64 << 20;

/// Members above which their names are put into a table: looking through them takes longer then.
const LOOKED_THROUGH_MAX: usize = 16;

/// Digits that an exponent may add: no column holds more.
const EXPONENT_MAX: i64 = 1000;

/// What of a value has no place in the schema, as JSON.
type Left = Option<String>;

/// Why a value doesn't fit.
#[derive(Debug, thiserror::Error)]
#[error("{problem}{}", place(path))]
struct Misfit {
    problem: String,
    /// Names of the fields down to it, innermost first.
    path: Vec<String>,
}

fn place(path: &[String]) -> String {
    if path.is_empty() {
        return String::new();
    }
    let names: Vec<_> = path.iter().rev().map(String::as_str).collect();
    format!(", in the field `{}`", names.join("."))
}

impl Misfit {
    fn inside(mut self: Box<Self>, field: &str) -> Box<Self> {
        self.path.push(field.to_owned());
        self
    }
}

#[cold]
fn misfit<T>(problem: impl Into<String>) -> Result<T, Box<Misfit>> {
    Err(Box::new(Misfit { problem: problem.into(), path: Vec::new() }))
}

#[cold]
fn not_a<T>(wanted: &str, found: &Value<'_>) -> Result<T, Box<Misfit>> {
    misfit(format!("{wanted} was expected, and it is {}", found.what()))
}

/// A body as a datum of `root`, and what of it the schema doesn't know.
///
/// # Errors
/// Words that say what is wrong with it.
pub(super) fn datum_of(root: &Node, body: &[u8]) -> Result<(Vec<u8>, Option<String>), String> {
    let value = parse(body)?;
    let mut out = Vec::with_capacity(body.len());
    let left = write(root, &value, &mut out).map_err(|misfit| misfit.to_string())?;
    Ok((out, left))
}

/// The datum of a field that isn't there; none where it has to be.
pub(super) fn absent(node: &Node, default: Option<&serde_json::Value>) -> Option<Vec<u8>> {
    let default = default.and_then(|default| default::datum_of(node, default));
    default.or_else(|| {
        let mut out = Vec::new();
        let is_null = match &node.kind {
            Kind::Null | Kind::Optional { .. } => true,
            Kind::Union(branches) => branches.iter().any(|branch| matches!(branch.node.kind, Kind::Null)),
            _ => false,
        };
        (is_null && write(node, &Value::Null, &mut out).is_ok()).then_some(out)
    })
}

fn write(node: &Node, value: &Value<'_>, out: &mut Vec<u8>) -> Result<Left, Box<Misfit>> {
    if out.len() > DATUM_BYTES_MAX {
        return misfit(format!("with its defaults it takes more than {DATUM_BYTES_MAX} bytes"));
    }
    match (&node.kind, value) {
        (Kind::Null, Value::Null) => {}
        (Kind::Boolean, Value::Boolean(value)) => out.push(u8::from(*value)),
        (Kind::Int, value) => match i32::try_from(integer(value)?) {
            Ok(value) => long(i64::from(value), out),
            Err(_) => return misfit("a number that has more than 32 bits"),
        },
        (Kind::Long, value) => long(whole(value)?, out),
        (Kind::Float, value) => {
            let wide = double(value)?;
            let value = wide as f32;
            if value.is_infinite() && wide.is_finite() {
                return misfit("a number that is out of the range of floats");
            }
            out.extend(value.to_le_bytes());
        }
        (Kind::Double, value) => out.extend(double(value)?.to_le_bytes()),
        (Kind::Bytes, Value::Text(text)) => sized(&bytes(text)?, out),
        (Kind::Fixed(size), Value::Text(text)) => fixed(&bytes(text)?, *size, out)?,
        (Kind::String, Value::Text(text)) => sized(text.as_bytes(), out),
        (Kind::Enum(symbols), Value::Text(text)) => match symbols.iter().position(|symbol| *symbol == **text) {
            Some(index) => long(index as i64, out),
            None => return misfit(format!("`{}` is none of the symbols", crate::error::quoted(text))),
        },
        (Kind::Decimal { scale, form, .. }, Value::Number(text)) => decimal(text, *scale, *form, out)?,
        (Kind::Decimal { scale, form, .. }, Value::Text(text)) if is_number(text) => {
            decimal(text, *scale, *form, out)?;
        }
        (Kind::Uuid(form), Value::Text(text)) => {
            let Ok(uuid) = uuid::Uuid::try_parse(text) else { return misfit("a string that is no uuid") };
            match form {
                Form::Bytes => sized(uuid.as_bytes(), out),
                Form::Fixed(size) => fixed(uuid.as_bytes(), *size, out)?,
            }
        }
        (Kind::Date, Value::Text(text)) if !is_number(text) => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10);
            let Some(date) = date else { return misfit("a string that is no date, as `2026-01-31`") };
            long(date.signed_duration_since(NaiveDate::default()).num_days(), out);
        }
        (Kind::Date, value) => match i32::try_from(integer(value)?) {
            Ok(days) => long(i64::from(days), out),
            Err(_) => return misfit("a number that has more than 32 bits"),
        },
        (Kind::TimestampMillis, value) => long(time(value, |time| Some(time.timestamp_millis()))?, out),
        (Kind::TimestampMicros, value) => long(time(value, |time| Some(time.timestamp_micros()))?, out),
        (Kind::TimestampNanos, value) => long(time(value, DateTime::timestamp_nanos_opt)?, out),
        (Kind::Duration, Value::Object(members)) => return duration(members, out).map(|()| None),
        (Kind::Array(items), Value::List(values)) => {
            let mut left = Vec::new();
            blocks(values.len(), out);
            for (index, value) in values.iter().enumerate() {
                if let Some(json) = write(items, value, out)? {
                    left.resize(index, "null".to_owned());
                    left.push(json);
                }
            }
            out.extend((!values.is_empty()).then_some(0));
            return Ok((!left.is_empty()).then(|| format!("[{}]", left.join(","))));
        }
        (Kind::Map(values), Value::Object(members)) => {
            let mut left = Object::default();
            blocks(members.len(), out);
            for member in members {
                sized(member.name.as_bytes(), out);
                let json = write(values, &member.value, out).map_err(|misfit| misfit.inside(&member.name))?;
                left.take(&member.name, json);
            }
            out.extend((!members.is_empty()).then_some(0));
            return Ok(left.json());
        }
        (Kind::Record(fields), Value::Object(members)) => return record(fields, members, out),
        (Kind::Optional { null_first, inner }, value) => {
            let is_null = *value == Value::Null;
            long(i64::from(is_null != *null_first), out);
            if !is_null {
                return write(inner, value, out);
            }
        }
        (Kind::Union(branches), value) => {
            let before = out.len();
            for (index, branch) in branches.iter().enumerate() {
                long(index as i64, out);
                match write(&branch.node, value, out) {
                    Ok(left) => return Ok(left),
                    Err(_) => out.truncate(before),
                }
            }
            return misfit(format!("{} that fits no branch of the union", value.what()));
        }
        (kind, value) => return not_a(wanted(kind), value),
    }
    Ok(None)
}

fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "a boolean",
        Kind::Bytes | Kind::Fixed(_) => "a string of base64",
        Kind::Decimal { .. } => "a decimal",
        Kind::Duration => "an object of `months`, `days` and `millis`",
        Kind::Array(_) => "an array",
        Kind::Map(_) | Kind::Record(_) => "an object",
        _ => "a string",
    }
}

fn record(fields: &[FieldNode], members: &[Member<'_>], out: &mut Vec<u8>) -> Result<Left, Box<Misfit>> {
    let table: Option<HashMap<&str, usize>> = (members.len() > LOOKED_THROUGH_MAX)
        .then(|| members.iter().enumerate().map(|(at, member)| (&*member.name, at)).collect());
    let mut is_known = vec![false; members.len()];
    let mut left = Object::default();
    for (at, field) in fields.iter().enumerate() {
        // As a rule they stand in the order of the schema.
        let is_next = members.get(at).is_some_and(|member| *member.name == field.name);
        let found = is_next.then_some(at).or_else(|| match &table {
            Some(table) => table.get(field.name.as_str()).copied(),
            None => members.iter().position(|member| *member.name == field.name),
        });
        match (found, &field.absent) {
            (Some(found), _) => {
                is_known[found] = true;
                let json = write(&field.node, &members[found].value, out);
                left.take(&field.name, json.map_err(|misfit| misfit.inside(&field.name))?);
            }
            (None, Some(absent)) => out.extend_from_slice(absent),
            (None, None) => return misfit(format!("the field `{}` is missing", field.name)),
        }
    }
    for (member, _) in members.iter().zip(is_known).filter(|(_, is_known)| !is_known) {
        left.take(&member.name, Some(member.written.to_owned()));
    }
    Ok(left.json())
}

/// An object in the making.
#[derive(Default)]
struct Object(String);

impl Object {
    fn take(&mut self, name: &str, json: Left) {
        if let Some(json) = json {
            self.0.push(if self.0.is_empty() { '{' } else { ',' });
            self.0.push_str(&serde_json::Value::from(name).to_string());
            self.0.push(':');
            self.0.push_str(&json);
        }
    }

    fn json(mut self) -> Left {
        self.0.push('}');
        (self.0.len() > 1).then_some(self.0)
    }
}

/// The beginning of an array or a map, which is one block; without items it is its end too.
fn blocks(items: usize, out: &mut Vec<u8>) {
    long(items as i64, out);
}

fn fixed(bytes: &[u8], size: usize, out: &mut Vec<u8>) -> Result<(), Box<Misfit>> {
    if bytes.len() != size {
        return misfit(format!("{} bytes, where there must be {size}", bytes.len()));
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn bytes(text: &str) -> Result<Vec<u8>, Box<Misfit>> {
    STANDARD.decode(text).or_else(|_| misfit("a string that isn't base64"))
}

/// A number without fraction, however it was written.
fn integer(value: &Value<'_>) -> Result<i128, Box<Misfit>> {
    let text = match value {
        Value::Number(text) => text,
        Value::Text(text) if is_number(text) => &**text,
        other => return not_a("a number", other),
    };
    match unscaled(text, 0) {
        Some(number) => Ok(number),
        None => misfit("a number that has a fraction or is out of range"),
    }
}

fn whole(value: &Value<'_>) -> Result<i64, Box<Misfit>> {
    i64::try_from(integer(value)?).or_else(|_| misfit("a number that has more than 64 bits"))
}

fn double(value: &Value<'_>) -> Result<f64, Box<Misfit>> {
    match value {
        Value::Number(text) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => misfit("a number that is out of the range of doubles"),
        },
        Value::Text(text) => match &**text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => not_a("a number", value),
        },
        other => not_a("a number", other),
    }
}

fn time(value: &Value<'_>, of: impl Fn(&DateTime<FixedOffset>) -> Option<i64>) -> Result<i64, Box<Misfit>> {
    match value {
        Value::Text(text) if !is_number(text) => match DateTime::parse_from_rfc3339(text).ok().as_ref().map(of) {
            Some(Some(time)) => Ok(time),
            Some(None) => misfit("a time that is out of range"),
            None => misfit("a string that is no RFC 3339 time, as `2026-01-31T12:00:00Z`"),
        },
        number => whole(number),
    }
}

fn decimal(text: &str, scale: i8, form: Form, out: &mut Vec<u8>) -> Result<(), Box<Misfit>> {
    let Some(number) = unscaled(text, scale) else {
        return misfit(format!("a decimal that has too many digits, or more than {scale} behind the point"));
    };
    let wide = number.to_be_bytes();
    match form {
        Form::Bytes => {
            // The first byte that is needed: those before it, and its own sign, say nothing new.
            let sign = if number < 0 { 0xFF } else { 0 };
            let needed = wide.iter().position(|byte| *byte != sign).unwrap_or(15);
            let is_of_sign = (wide[needed] ^ sign) & 0x80 == 0;
            sized(&wide[if is_of_sign { needed } else { needed.saturating_sub(1) }..], out);
        }
        Form::Fixed(size) => {
            let sign: u8 = if number < 0 { 0xFF } else { 0 };
            let cut = wide.len().saturating_sub(size);
            let is_whole = wide[..cut].iter().all(|byte| *byte == sign)
                && wide.get(cut).is_none_or(|first| cut == 0 || (first ^ sign) & 0x80 == 0);
            if !is_whole {
                return misfit(format!("a decimal that doesn't fit {size} bytes"));
            }
            out.extend(std::iter::repeat_n(sign, size.saturating_sub(wide.len())));
            out.extend_from_slice(&wide[cut..]);
        }
    }
    Ok(())
}

/// A number of JSON times ten to the power of `scale`, where that is whole and has no more than 128 bits.
fn unscaled(text: &str, scale: i8) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent),
        None => (text, "0"),
    };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let exponent = exponent.parse::<i64>().ok().filter(|exponent| exponent.abs() <= EXPONENT_MAX)?;
    let shift = exponent + i64::from(scale) - fraction.len() as i64;
    let places = usize::try_from(shift.unsigned_abs()).ok()?;
    let digits = if shift < 0 {
        let kept = digits.len().checked_sub(places).filter(|kept| *kept > 0)?;
        let (digits, zeros) = digits.split_at(kept);
        zeros.bytes().all(|digit| digit == b'0').then(|| digits.to_owned())?
    } else {
        format!("{digits}{}", "0".repeat(places))
    };
    format!("{sign}{digits}").parse().ok()
}

fn duration(members: &[Member<'_>], out: &mut Vec<u8>) -> Result<(), Box<Misfit>> {
    for name in ["months", "days", "millis"] {
        let Some(member) = members.iter().find(|member| member.name == name) else {
            return misfit(format!("the field `{name}` is missing"));
        };
        let number = integer(&member.value).map_err(|misfit| misfit.inside(name))?;
        match u32::try_from(number) {
            Ok(number) => out.extend(number.to_le_bytes()),
            Err(_) => {
                return misfit("a number that has more than 32 bits, or a sign")
                    .map_err(|m: Box<Misfit>| m.inside(name));
            }
        }
    }
    match members.iter().find(|member| !["months", "days", "millis"].contains(&&*member.name)) {
        Some(other) => misfit(format!("a duration has no `{}`", crate::error::quoted(&other.name))),
        None => Ok(()),
    }
}
