//! Schemas that use types of other schemas, put together into one text that needs no other.
//!
//! A type is written out where it is met first, as the specification wants it, and named from there on. What the
//! text itself defines goes before what others define.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::decode::avro::full_name;

/// How deep a schema may nest once it is put together. JSON alone is read to 128 levels; without a bound, a chain
/// of schemas that each nest deep would run out of stack.
const DEPTH_MAX: usize = 128;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// Named types of many schemas, each written so that it stands for itself in any namespace.
#[derive(Debug, Default)]
pub(super) struct Definitions(HashMap<String, Definition>);

#[derive(Debug)]
struct Definition {
    /// Who defines it.
    origin: String,
    value: Value,
    /// Who else defines it, in other words.
    rival: Option<String>,
}

impl Definitions {
    /// Adds all named types that a schema defines. `origin` is what words call the schema.
    ///
    /// # Errors
    /// Words: a text that is no JSON.
    pub(super) fn add(&mut self, origin: &str, text: &str) -> Result<(), String> {
        let root = parse(text).map_err(|reason| format!("`{origin}` {reason}"))?;
        collect(&root, "", &mut |name, value| match self.0.get_mut(&name) {
            Some(known) if known.value == value => {}
            Some(known) => known.rival = known.rival.take().or_else(|| Some(origin.to_owned())),
            None => {
                let definition = Definition { origin: origin.to_owned(), value, rival: None };
                self.0.insert(name, definition);
            }
        });
        Ok(())
    }

    /// The schema `text` with the definitions of all types that it uses and doesn't define.
    ///
    /// # Errors
    /// Words: a text that is no JSON, a type of which there are two, or too many levels. A type that nobody
    /// defines stays as it is.
    pub(super) fn complete(&self, text: &str) -> Result<String, String> {
        let root = parse(text)?;
        let mut own = HashSet::new();
        collect(&root, "", &mut |name, _| own.extend([name]));
        let mut writing = Writing { definitions: self, own, written: HashSet::new() };
        Ok(writing.schema(&root, "", 0)?.to_string())
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("isn't JSON: {error}"))
}

fn namespace_of(full_name: &str) -> &str {
    full_name.rsplit_once('.').map_or("", |(namespace, _)| namespace)
}

/// The full name of the named type that an object defines.
fn defined_name(object: &Map<String, Value>, namespace: &str) -> Option<String> {
    let kind = object.get("type")?.as_str()?;
    if !["record", "error", "enum", "fixed"].contains(&kind) {
        return None;
    }
    let own = object.get("namespace").and_then(Value::as_str);
    Some(full_name(object.get("name")?.as_str()?, own.unwrap_or(namespace)))
}

/// Each named type of a schema, under its full name. The depth is that of JSON.
fn collect(schema: &Value, namespace: &str, each: &mut impl FnMut(String, Value)) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| collect(branch, namespace, each)),
        Value::Object(object) => match defined_name(object, namespace) {
            Some(name) => {
                let inner = namespace_of(&name).to_owned();
                let mut alone = object.clone();
                alone.insert("name".to_owned(), Value::from(name.rsplit('.').next().unwrap_or_default()));
                alone.insert("namespace".to_owned(), Value::from(inner.as_str()));
                each(name, Value::Object(alone));
                let fields = object.get("fields").and_then(Value::as_array).into_iter().flatten();
                fields.filter_map(|field| field.get("type")).for_each(|schema| collect(schema, &inner, each));
            }
            None => {
                let parts = ["type", "items", "values"].into_iter().filter_map(|key| object.get(key));
                parts.for_each(|schema| collect(schema, namespace, each));
            }
        },
        _ => {}
    }
}

struct Writing<'a> {
    definitions: &'a Definitions,
    /// What the text defines somewhere.
    own: HashSet<String>,
    /// What was written out already.
    written: HashSet<String>,
}

impl Writing<'_> {
    fn schema(&mut self, schema: &Value, namespace: &str, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("nests deeper than {DEPTH_MAX} levels"));
        }
        match schema {
            Value::String(name) => self.named(name, namespace, depth),
            Value::Array(branches) => branches.iter().map(|branch| self.schema(branch, namespace, depth + 1)).collect(),
            Value::Object(object) => self.object(object, namespace, depth),
            other => Ok(other.clone()),
        }
    }

    fn named(&mut self, name: &str, namespace: &str, depth: usize) -> Result<Value, String> {
        let full = full_name(name, namespace);
        if PRIMITIVES.contains(&name) || self.own.contains(&full) || self.written.contains(&full) {
            return Ok(Value::from(name));
        }
        match self.definitions.0.get(&full) {
            None => Ok(Value::from(name)),
            Some(Definition { origin, rival: Some(rival), .. }) => {
                Err(format!("uses the type `{full}`, which `{origin}` and `{rival}` define each in its way"))
            }
            Some(definition) => self.schema(&definition.value, "", depth + 1),
        }
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str, depth: usize) -> Result<Value, String> {
        let mut whole = object.clone();
        let Some(name) = defined_name(object, namespace) else {
            for key in ["type", "items", "values"] {
                if let Some(schema) = object.get(key) {
                    whole.insert(key.to_owned(), self.schema(schema, namespace, depth + 1)?);
                }
            }
            return Ok(Value::Object(whole));
        };
        // Two definitions may bring the same third one along.
        if !self.written.insert(name.clone()) && name.contains('.') {
            return Ok(Value::from(name));
        }
        if let Some(fields) = whole.get_mut("fields").and_then(Value::as_array_mut) {
            for schema in fields.iter_mut().filter_map(|field| field.get_mut("type")) {
                *schema = self.schema(schema, namespace_of(&name), depth + 1)?;
            }
        }
        Ok(Value::Object(whole))
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use proptest::prelude::*;

    use super::*;

    const EMAIL: &str = r#"{"type":"record","name":"Email","namespace":"a.mail","fields":[
        {"name":"address","type":"string"},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["HOME"]}}]}"#;
    const CONTACT: &str = r#"{"type":"record","name":"a.Contact","fields":[
        {"name":"first","type":"a.mail.Email"},{"name":"others","type":{"type":"array","items":"a.mail.Email"}}]}"#;
    const LEAD: &str = r#"{"type":"record","name":"Lead","namespace":"a","fields":[
        {"name":"contact","type":["null","Contact"]},{"name":"kind","type":"a.mail.Kind"},
        {"name":"again","type":{"type":"map","values":"Contact"}}]}"#;

    fn of(parts: &[(&str, &str)]) -> Definitions {
        let mut definitions = Definitions::default();
        parts.iter().for_each(|(origin, text)| definitions.add(origin, text).expect("JSON"));
        definitions
    }

    #[test]
    fn a_type_is_written_out_where_it_is_met_first_and_named_from_there_on() {
        let whole = of(&[("email", EMAIL), ("contact", CONTACT)]).complete(LEAD).expect("a schema");
        let schema = Schema::parse_str(&whole).expect("it stands for itself");
        let [once, named] = [r#""name":"Contact""#, r#""values":"Contact""#].map(|part| whole.matches(part).count());
        assert_eq!((once, named), (1, 1), "{whole}");
        assert_eq!(whole.matches(r#""symbols""#).count(), 1, "{whole}");
        // A parser that is given all parts at once says the same.
        let (root, parts) = Schema::parse_str_with_list(LEAD, [EMAIL, CONTACT]).expect("a schema");
        assert_eq!(schema.canonical_form(), root.independent_canonical_form(&parts).expect("a form"));
    }

    #[test]
    fn what_a_text_defines_itself_goes_before_what_others_define() {
        let lead = r#"{"type":"record","name":"Lead","fields":[
            {"name":"a","type":{"type":"fixed","name":"Id","size":2}},{"name":"b","type":"Id"}]}"#;
        let whole = of(&[("id", r#"{"type":"fixed","name":"Id","size":3}"#)]).complete(lead).expect("a schema");
        assert!(Schema::parse_str(&whole).is_ok() && whole.contains(r#""size":2"#) && !whole.contains("3"), "{whole}");
    }

    #[test]
    fn a_type_of_which_there_are_two_is_told_by_both() {
        let definitions = of(&[
            ("one", r#"{"type":"fixed","name":"Id","size":3}"#),
            ("again", r#"{"type":"fixed","name":"Id","size":3}"#),
            ("two", r#"{"type":"fixed","name":"Id","size":4}"#),
        ]);
        let reason = definitions.complete(r#"{"type":"array","items":"Id"}"#).expect_err("there are two");
        assert_eq!(reason, "uses the type `Id`, which `one` and `two` define each in its way");
        assert!(definitions.complete(r#"{"type":"array","items":"string"}"#).is_ok(), "it isn't used");
    }

    #[test]
    fn a_chain_of_schemas_can_not_run_out_of_stack() {
        let mut definitions = Definitions::default();
        for number in 0..1_000 {
            let next = number + 1;
            let text = format!(r#"{{"type":"record","name":"N{number}","fields":[{{"name":"n","type":"N{next}"}}]}}"#);
            definitions.add("chain", &text).expect("JSON");
        }
        assert_eq!(definitions.complete(r#"["N0"]"#).expect_err("deep"), "nests deeper than 128 levels");
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in ".{0,200}", other in r#"[\[\]{}:,"a-z]{0,40}"#) {
            let mut definitions = Definitions::default();
            let _ = definitions.add("other", &other);
            let _ = definitions.complete(&text);
        }
    }
}
