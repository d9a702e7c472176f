//! The fingerprints that single-object encoding names schemas by.
//!
//! Source: the Avro specification 1.11, "Parsing Canonical Form" and "Schema Fingerprints".

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use serde_json::{Map, Value};

/// What the fingerprint of nothing is.
const EMPTY: u64 = 0xC15D_213A_A4D7_A795;

/// CRC-64-AVRO of a schema's canonical form, the least byte first: as the specification has it; and as
/// apache-avro's writers have it, in whose form a logical type leaves traces.
///
/// # Errors
/// Words that name what isn't a schema.
pub(in crate::decode) fn fingerprints(avsc: &str) -> Result<[[u8; 8]; 2], String> {
    let schema = Schema::parse_str(avsc).map_err(|error| format!("it isn't an Avro schema: {error}"))?;
    let json = serde_json::from_str(avsc).map_err(|error| format!("it isn't JSON: {error}"))?;
    let mut form = String::new();
    // Before the other one, which takes for granted that sizes are such.
    canonical(&json, "", &mut form)?;
    let other = schema.fingerprint::<Rabin>().bytes;
    let other = other.try_into().map_err(|_| "its fingerprint doesn't have eight bytes".to_owned())?;
    Ok([crc_64(form.as_bytes()).to_le_bytes(), other])
}

fn crc_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(EMPTY, |fingerprint, byte| {
        (0..8).fold(fingerprint ^ u64::from(*byte), |rest, _| (rest >> 1) ^ (EMPTY & (rest & 1).wrapping_neg()))
    })
}

/// Writes the canonical form of a sound schema. The depth is that of JSON.
fn canonical(schema: &Value, namespace: &str, form: &mut String) -> Result<(), String> {
    match schema {
        Value::String(name) => quoted(&referred(name, namespace), form),
        Value::Array(branches) => list(branches, form, |branch, form| canonical(branch, namespace, form))?,
        Value::Object(object) => match object.get("type") {
            Some(Value::String(kind)) => match kind.as_str() {
                "record" | "error" | "enum" | "fixed" => named(kind, object, namespace, form)?,
                "array" => part("array", "items", object, namespace, form)?,
                "map" => part("map", "values", object, namespace, form)?,
                name => quoted(&referred(name, namespace), form),
            },
            Some(inner) => canonical(inner, namespace, form)?,
            None => return Err("a part of it has no type".to_owned()),
        },
        _ => return Err("a part of it is no schema".to_owned()),
    }
    Ok(())
}

fn named(kind: &str, object: &Map<String, Value>, namespace: &str, form: &mut String) -> Result<(), String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let items = |key: &str| object.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = full_name(text("name").unwrap_or_default(), text("namespace").unwrap_or(namespace));
    let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
    form.push_str("{\"name\":");
    quoted(&name, form);
    match kind {
        "enum" => {
            form.push_str(",\"type\":\"enum\",\"symbols\":");
            list(items("symbols"), form, |symbol, form| {
                quoted(symbol.as_str().unwrap_or_default(), form);
                Ok(())
            })?;
        }
        "fixed" => {
            let size = object.get("size").and_then(|size| size.as_i64().or_else(|| size.as_str()?.parse().ok()));
            let size = size.ok_or_else(|| format!("the size of `{name}` is no number"))?;
            form.push_str(&format!(",\"type\":\"fixed\",\"size\":{size}"));
        }
        _ => {
            form.push_str(",\"type\":\"record\",\"fields\":");
            list(items("fields"), form, |field, form| {
                form.push_str("{\"name\":");
                quoted(field.get("name").and_then(Value::as_str).unwrap_or_default(), form);
                form.push_str(",\"type\":");
                canonical(field.get("type").unwrap_or(&Value::Null), inner, form)?;
                form.push('}');
                Ok(())
            })?;
        }
    }
    form.push('}');
    Ok(())
}

fn part(kind: &str, key: &str, object: &Map<String, Value>, namespace: &str, form: &mut String) -> Result<(), String> {
    form.push_str(&format!("{{\"type\":\"{kind}\",\"{key}\":"));
    canonical(object.get(key).unwrap_or(&Value::Null), namespace, form)?;
    form.push('}');
    Ok(())
}

fn list(
    items: &[Value],
    form: &mut String,
    mut each: impl FnMut(&Value, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    form.push('[');
    for (at, item) in items.iter().enumerate() {
        form.push_str(if at == 0 { "" } else { "," });
        each(item, form)?;
    }
    form.push(']');
    Ok(())
}

/// Names have no characters that would have to be escaped.
fn quoted(name: &str, form: &mut String) {
    form.extend(["\"", name, "\""]);
}

fn referred(name: &str, namespace: &str) -> String {
    const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
    if PRIMITIVES.contains(&name) { name.to_owned() } else { full_name(name, namespace) }
}

/// The full name of a type, by the rules of the Avro specification ("Names").
pub(in crate::decode) fn full_name(name: &str, namespace: &str) -> String {
    match name.strip_prefix('.') {
        Some(name) => name.to_owned(),
        None if name.contains('.') || namespace.is_empty() => name.to_owned(),
        None => format!("{namespace}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fingerprints are those of fastavro 1.13.1.
    #[test]
    fn fingerprints_are_those_of_an_implementation_by_others() {
        let rich = r#"{"type":"record","name":"R","namespace":"a.b","doc":"x","fields":[
            {"name":"t","type":{"type":"long","logicalType":"timestamp-millis"},"default":0},
            {"name":"d","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}]},
            {"name":"f","type":{"type":"fixed","name":"F","namespace":"c","size":4,"aliases":["G"]}},
            {"name":"again","type":{"type":"array","items":"c.F"}},
            {"name":"n","type":{"type":"record","name":"N","fields":[{"name":"r","type":["null","N"]}]}},
            {"name":"m","type":{"type":"map","values":"N"}}]}"#;
        for (avsc, expected) in [
            (r#""null""#, "8a8f25cce724dd63"),
            (r#"{"type":"int"}"#, "8f5c393f1ad57572"),
            (r#"{"size":15,"type":"fixed","name":"Foo"}"#, "8daa7e486b20e930"),
            (rich, "756f055ba59468e7"),
        ] {
            let [found, _] = fingerprints(avsc).expect("a schema");
            assert_eq!(found.map(|byte| format!("{byte:02x}")).concat(), expected, "{avsc}");
        }
    }

    /// The Avro project's own vectors: each schema, its canonical form, its fingerprint as a signed number.
    #[test]
    fn canonical_forms_and_fingerprints_are_those_of_the_avro_project() {
        let text = include_str!("../../../tests/data/avro/schema-tests.txt");
        // `<<INPUT` alone begins lines of it, which a line of that word ends.
        let (mut held, mut vectors) = (String::new(), 0);
        let mut lines = text.lines().filter(|line| !line.starts_with("//"));
        while let Some(line) = lines.next() {
            if let Some(input) = line.strip_prefix("<<INPUT") {
                held = input.trim().to_owned();
                if held.is_empty() {
                    held = lines.by_ref().take_while(|line| *line != "INPUT").collect();
                }
            } else if let Some(expected) = line.strip_prefix("<<canonical ") {
                let mut form = String::new();
                canonical(&serde_json::from_str(&held).expect("JSON"), "", &mut form).expect("a schema");
                assert_eq!(form, expected.trim(), "{held}");
                vectors += 1;
            } else if let Some(expected) = line.strip_prefix("<<fingerprint ") {
                let [found, _] = fingerprints(&held).expect("a schema");
                assert_eq!(i64::from_le_bytes(found), expected.trim().parse::<i64>().expect("a number"), "{held}");
            }
        }
        assert_eq!(vectors, text.matches("<<canonical").count());
        assert!(vectors > 20, "{vectors}");
    }

    #[test]
    fn a_size_that_no_number_holds_is_refused() {
        for size in ["18446744073709551615", "\"x\"", "1e3"] {
            assert!(fingerprints(&format!(r#"{{"type":"fixed","name":"F","size":{size}}}"#)).is_err());
        }
    }
}
