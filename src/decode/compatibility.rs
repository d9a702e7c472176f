//! Whether what was written with one schema can be read with another, by the Avro rules, and if not, why.
//!
//! | mode | asks |
//! |---|---|
//! | backward | can the new schema read what the old one wrote? |
//! | forward | can the old schema read what the new one wrote? |
//! | full | both |
//! | transitive | against every version, instead of the last |
//!
//! Source: the Avro specification 1.11, "Schema Resolution". Names match without their namespace, or by an alias of the
//! reader; decimals match when precision and scale do. Other logical types don't count, only what carries them.
//!
//! These are the rules of Avro's readers. Our tables ask for less: they keep the union of all versions, and each
//! event is decoded with the schema that it was written with.

mod shape;

use std::collections::HashSet;

use serde::Serialize;

use self::shape::{Decimal, Named, NamedKind, Primitive, Schema, Shape};

/// Steps that one comparison may take. A few hostile lines unfold to billions of them.
const STEPS_MAX: usize = 200_000;

/// How many problems one comparison names.
const PROBLEMS_MAX: usize = 100;

/// Which way it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Backward,
    Forward,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backward => "backward",
            Self::Forward => "forward",
        }
    }
}

/// What of two schemas can't be read. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incompatibility {
    /// Where in the reader: `address.zip`, `tags[]`, `answers{}`; empty is the schema itself.
    pub path: String,
    pub kind: Why,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    TypeMismatch,
    NameMismatch,
    MissingDefault,
    MissingSymbols,
    MissingBranch,
    SizeMismatch,
    DecimalMismatch,
    TooComplex,
}

/// A schema, to be held against others.
#[derive(Debug)]
pub struct ComparedSchema(Schema);

impl ComparedSchema {
    /// # Errors
    /// Words that name what isn't a schema.
    pub fn parse(avsc: &str) -> Result<Self, String> {
        apache_avro::Schema::parse_str(avsc).map_err(|error| format!("it isn't an Avro schema: {error}"))?;
        Ok(Self(Schema::parse(avsc)?))
    }

    /// The full name of the record, enum or fixed at the root; none of any other schema.
    pub fn full_name(&self) -> Option<&str> {
        match self.0.root {
            Shape::Named(at) => Some(&self.0.named[at].full_name),
            _ => None,
        }
    }

    /// Why `self` can't read what `writer` wrote; nothing when it can.
    pub fn reads(&self, writer: &ComparedSchema) -> Vec<Incompatibility> {
        let mut reading =
            Reading { reader: &self.0, writer: &writer.0, met: HashSet::new(), steps: 0, found: Vec::new() };
        reading.shape(&self.0.root, &writer.0.root, "");
        reading.found
    }
}

struct Reading<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    /// Pairs of named types that are compared already, or being compared: they are taken to fit.
    met: HashSet<(usize, usize)>,
    steps: usize,
    found: Vec<Incompatibility>,
}

impl Reading<'_> {
    fn wrong(&mut self, path: &str, kind: Why, message: String) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(Incompatibility { path: path.to_owned(), kind, message });
        }
    }

    fn shape(&mut self, reader: &Shape, writer: &Shape, path: &str) {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            if self.found.iter().all(|found| found.kind != Why::TooComplex) {
                self.found.truncate(PROBLEMS_MAX - 1);
                self.wrong(path, Why::TooComplex, "the schemas unfold to more than can be compared".to_owned());
            }
            return;
        }
        match (reader, writer) {
            // Whatever branch was written, the reader must take it.
            (_, Shape::Union(branches)) => branches.iter().for_each(|branch| self.shape(reader, branch, path)),
            (Shape::Union(branches), _) => self.branch_of(branches, writer, path),
            (Shape::Primitive(reader), Shape::Primitive(writer)) => {
                if !reader.reads(*writer) {
                    self.mismatch(&reader.to_string(), &writer.to_string(), path);
                }
            }
            (Shape::Bytes(reader), Shape::Bytes(writer)) => self.decimal(*reader, *writer, path),
            // Bytes and strings are read as one another.
            (Shape::Bytes(None), Shape::Primitive(Primitive::String))
            | (Shape::Primitive(Primitive::String), Shape::Bytes(None)) => {}
            (Shape::Array(reader), Shape::Array(writer)) => self.shape(reader, writer, &format!("{path}[]")),
            (Shape::Map(reader), Shape::Map(writer)) => self.shape(reader, writer, &format!("{path}{{}}")),
            (Shape::Named(reader), Shape::Named(writer)) => self.named(*reader, *writer, path),
            (reader, writer) => self.mismatch(&self.reader.words(reader), &self.writer.words(writer), path),
        }
    }

    fn mismatch(&mut self, reader: &str, writer: &str, path: &str) {
        self.wrong(path, Why::TypeMismatch, format!("`{writer}` can't be read as `{reader}`"));
    }

    fn decimal(&mut self, reader: Option<Decimal>, writer: Option<Decimal>, path: &str) {
        if let (Some(reader), Some(writer)) = (reader, writer)
            && reader != writer
        {
            self.wrong(path, Why::DecimalMismatch, format!("{writer} can't be read as {reader}"));
        }
    }

    /// One branch must take it. Where none does, the one of the same kind says why.
    fn branch_of(&mut self, branches: &[Shape], writer: &Shape, path: &str) {
        let mut closest = None;
        for branch in branches {
            let mut trial = Reading {
                reader: self.reader,
                writer: self.writer,
                met: self.met.clone(),
                steps: self.steps,
                found: Vec::new(),
            };
            trial.shape(branch, writer, path);
            self.steps = trial.steps;
            if trial.found.is_empty() {
                self.met = trial.met;
                return;
            }
            if self.is_same_kind(branch, writer) {
                closest = Some(trial.found);
            }
        }
        match closest {
            Some(found) => found.into_iter().for_each(|found| self.wrong(&found.path, found.kind, found.message)),
            None => {
                let named: Vec<String> = branches.iter().map(|branch| self.reader.words(branch)).collect();
                let words = self.writer.words(writer);
                let message = format!("no branch of `[{}]` reads `{words}`", named.join(", "));
                self.wrong(path, Why::MissingBranch, message);
            }
        }
    }

    fn is_same_kind(&self, reader: &Shape, writer: &Shape) -> bool {
        match (reader, writer) {
            (Shape::Named(reader), Shape::Named(writer)) => {
                let (reader, writer) = (&self.reader.named[*reader], &self.writer.named[*writer]);
                reader.kind.word() == writer.kind.word() && reader.is_named_as(writer)
            }
            (Shape::Array(_), Shape::Array(_))
            | (Shape::Map(_), Shape::Map(_))
            | (Shape::Bytes(_), Shape::Bytes(_)) => true,
            _ => false,
        }
    }

    fn named(&mut self, reader_at: usize, writer_at: usize, path: &str) {
        if !self.met.insert((reader_at, writer_at)) {
            return;
        }
        let (reader_schema, writer_schema) = (self.reader, self.writer);
        let (reader, writer) = (&reader_schema.named[reader_at], &writer_schema.named[writer_at]);
        match (&reader.kind, &writer.kind) {
            (NamedKind::Record(_), NamedKind::Record(_))
            | (NamedKind::Enum { .. }, NamedKind::Enum { .. })
            | (NamedKind::Fixed { .. }, NamedKind::Fixed { .. }) => {}
            _ => return self.mismatch(&reader.words(), &writer.words(), path),
        }
        if !reader.is_named_as(writer) {
            let message = format!("it is called `{}`, and was written as `{}`", reader.full_name, writer.full_name);
            self.wrong(path, Why::NameMismatch, message);
        }
        match (&reader.kind, &writer.kind) {
            (NamedKind::Record(_), NamedKind::Record(_)) => self.record(reader, writer, path),
            (NamedKind::Enum { symbols, default }, NamedKind::Enum { symbols: written, .. }) => {
                let lacking: Vec<&str> =
                    written.iter().filter(|symbol| !symbols.contains(symbol)).map(String::as_str).collect();
                if !lacking.is_empty() && default.is_none() {
                    let message = format!("it has neither `{}` nor a default", lacking.join("`, `"));
                    self.wrong(path, Why::MissingSymbols, message);
                }
            }
            (NamedKind::Fixed { size, decimal }, NamedKind::Fixed { size: written, decimal: of_writer }) => {
                if size != written {
                    let message = format!("it has {size} bytes, and was written with {written}");
                    self.wrong(path, Why::SizeMismatch, message);
                }
                self.decimal(*decimal, *of_writer, path);
            }
            _ => {}
        }
    }

    fn record(&mut self, reader: &Named, writer: &Named, path: &str) {
        let (NamedKind::Record(fields), NamedKind::Record(written)) = (&reader.kind, &writer.kind) else { return };
        for field in fields {
            let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            let by_name = |name: &str| written.iter().find(|written| written.name == name);
            match by_name(&field.name).or_else(|| field.aliases.iter().find_map(|alias| by_name(alias))) {
                Some(found) => self.shape(&field.shape, &found.shape, &path),
                None if field.has_default => {}
                None => {
                    let message = "it wasn't written, and has no default".to_owned();
                    self.wrong(&path, Why::MissingDefault, message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reader: &str, writer: &str) -> Vec<(String, Why)> {
        let parsed = |avsc: &str| ComparedSchema::parse(avsc).unwrap_or_else(|error| panic!("{avsc}: {error}"));
        parsed(reader).reads(&parsed(writer)).into_iter().map(|found| (found.path, found.kind)).collect()
    }

    fn record(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"Lead","namespace":"a","fields":[{fields}]}}"#)
    }

    #[test]
    fn what_is_promoted_is_read_and_nothing_else() {
        let types = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
        let promoted = [
            ("int", "long"),
            ("int", "float"),
            ("int", "double"),
            ("long", "float"),
            ("long", "double"),
            ("float", "double"),
            ("string", "bytes"),
            ("bytes", "string"),
        ];
        for writer in types {
            for reader in types {
                let expected = reader == writer || promoted.contains(&(writer, reader));
                let is_read = found(&format!("\"{reader}\""), &format!("\"{writer}\"")).is_empty();
                assert_eq!(is_read, expected, "{writer} as {reader}");
                let (reader, writer) =
                    (format!(r#"{{"name":"x","type":"{reader}"}}"#), format!(r#"{{"name":"x","type":"{writer}"}}"#));
                let problems = found(&record(&reader), &record(&writer));
                assert_eq!(problems.is_empty(), expected);
                assert!(problems.iter().all(|(path, kind)| path == "x" && *kind == Why::TypeMismatch));
            }
        }
    }

    #[test]
    fn each_problem_is_named_by_its_path() {
        let address = |fields: &str| {
            format!(r#"{{"name":"address","type":{{"type":"record","name":"Address","fields":[{fields}]}}}}"#)
        };
        let zip = r#"{"name":"zip","type":"string"}"#;
        let optional = r#"{"name":"zip","type":["null","string"],"default":null}"#;
        for (reader, writer, expected) in [
            (record(zip), record(""), vec![("zip", Why::MissingDefault)]),
            (record(optional), record(""), vec![]),
            (record(""), record(zip), vec![]),
            (record(&address(zip)), record(&address("")), vec![("address.zip", Why::MissingDefault)]),
            (
                record(r#"{"name":"tags","type":{"type":"array","items":"int"}}"#),
                record(r#"{"name":"tags","type":{"type":"array","items":"string"}}"#),
                vec![("tags[]", Why::TypeMismatch)],
            ),
            (
                record(r#"{"name":"m","type":{"type":"map","values":"int"}}"#),
                record(r#"{"name":"m","type":{"type":"map","values":"long"}}"#),
                vec![("m{}", Why::TypeMismatch)],
            ),
            (
                record(r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["A"]}}"#),
                record(r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}}"#),
                vec![("e", Why::MissingSymbols)],
            ),
            (
                record(r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["A"],"default":"A"}}"#),
                record(r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}}"#),
                vec![],
            ),
            (
                record(r#"{"name":"f","type":{"type":"fixed","name":"F","size":4}}"#),
                record(r#"{"name":"f","type":{"type":"fixed","name":"F","size":8}}"#),
                vec![("f", Why::SizeMismatch)],
            ),
            (
                record(r#"{"name":"new","aliases":["old"],"type":"long"}"#),
                record(r#"{"name":"old","type":"int"}"#),
                vec![],
            ),
            (record(zip).replace("Lead", "Other"), record(zip), vec![("", Why::NameMismatch)]),
            (record(zip).replace(r#""name":"Lead","#, r#""name":"Other","aliases":["Lead"],"#), record(zip), vec![]),
            (record(zip).replace(r#""namespace":"a""#, r#""namespace":"b""#), record(zip), vec![]),
            (record(&optional.replace("zip", "x")), record(&zip.replace("zip", "x")), vec![]),
            (record(&zip.replace("zip", "x")), record(&optional.replace("zip", "x")), vec![("x", Why::TypeMismatch)]),
            (
                record(r#"{"name":"x","type":["null","int"]}"#),
                record(r#"{"name":"x","type":"string"}"#),
                vec![("x", Why::MissingBranch)],
            ),
            (
                record(r#"{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}"#),
                record(r#"{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}}"#),
                vec![("d", Why::DecimalMismatch)],
            ),
            (
                record(r#"{"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}}"#),
                record(r#"{"name":"t","type":{"type":"long","logicalType":"timestamp-millis"}}"#),
                vec![],
            ),
            (
                record(r#"{"name":"x","type":"int"}"#),
                record(r#"{"name":"x","type":{"type":"array","items":"int"}}"#),
                vec![("x", Why::TypeMismatch)],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(path, kind)| (path.to_owned(), kind)).collect();
            assert_eq!(found(&reader, &writer), expected, "{reader} reads {writer}");
        }
    }

    #[test]
    fn the_branch_of_the_same_name_says_why() {
        let lead = |fields: &str| {
            record(&format!(r#"{{"name":"who","type":["null",{{"type":"record","name":"Who","fields":[{fields}]}}]}}"#))
        };
        let reader = lead(r#"{"name":"id","type":"long"},{"name":"age","type":"int"}"#);
        assert_eq!(
            found(&reader, &lead(r#"{"name":"id","type":"long"}"#)),
            [("who.age".to_owned(), Why::MissingDefault)]
        );
    }

    #[test]
    fn recursion_ends_and_what_unfolds_too_far_is_said() {
        let list = record(r#"{"name":"v","type":"long"},{"name":"next","type":["null","Lead"]}"#);
        assert_eq!(found(&list, &list), []);
        let other = list.replace(r#""type":"long""#, r#""type":"string""#);
        assert_eq!(found(&list, &other), [("v".to_owned(), Why::TypeMismatch)]);
        // Each record is looked at twice as often as the one above it.
        let unfolding = |leaf: &str| {
            let last = format!(r#"{{"type":"record","name":"R30","fields":[{{"name":"v","type":"{leaf}"}}]}}"#);
            (0..30).rev().fold(last, |below, level| {
                let named = format!("R{}", level + 1);
                format!(
                    r#"{{"type":"record","name":"R{level}","fields":[{{"name":"a","type":["null",{below}]}},{{"name":"b","type":["null","{named}"]}}]}}"#
                )
            })
        };
        let parsed = |avsc: &str| ComparedSchema::parse(avsc).expect("a schema");
        let found = parsed(&unfolding("int")).reads(&parsed(&unfolding("string")));
        assert!(found.iter().any(|found| found.kind == Why::TooComplex), "{found:?}");
        assert!(found.len() <= PROBLEMS_MAX);
    }
}
