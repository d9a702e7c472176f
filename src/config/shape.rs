//! Whether a file has the shape of its schema: unknown keys, wrong types, missing keys, words
//! that don't exist, and what this version doesn't support. Each is reported at its bytes and
//! left out, so that the rest can still be read and checked.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::document::{Entry, Node, Table, Text, Value};
use super::problem::{Place, Problem, listed, nearest, quoted};
use super::schema;

/// Reads what fits of a document.
pub(super) fn read<T: DeserializeOwned + Default>(root: &Node, schema: &Json, problems: &mut Vec<Problem>) -> T {
    let mut shape = Shape { schema, problems };
    let fits = match &root.value {
        Value::Table(table) => shape.table(table, schema, &[], &root_place(root)),
        _ => Map::new(),
    };
    match serde_json::from_value(Json::Object(fits)) {
        Ok(declared) => declared,
        Err(error) => {
            let message = format!("the file fits its schema but can't be read: {error}");
            problems.push(
                Problem::new(root_place(root), message).with_hint("this is a defect of sluice: please report it"),
            );
            T::default()
        }
    }
}

fn root_place(root: &Node) -> Place {
    root.place(&[])
}

struct Shape<'a> {
    /// Of the whole file.
    schema: &'a Json,
    problems: &'a mut Vec<Problem>,
}

impl Shape<'_> {
    /// The keys that fit. `header` is where the table is named.
    fn table(&mut self, table: &Table, schema: &Json, path: &[&str], header: &Place) -> Map<String, Json> {
        let mut fits = Map::new();
        let mut has_unsupported = false;
        for (key, entry) in table {
            let path = [path, &[key.as_str()]].concat();
            let known = &schema["properties"][key];
            if known["x-unsupported"] == true {
                has_unsupported = true;
                self.unsupported(&entry.key, &label(&path, &entry.node.value));
            } else if known.is_null() {
                self.unknown(entry, &path, schema);
            } else if let Some(value) = self.value(entry, known, &path) {
                fits.insert(key.clone(), value);
            }
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
        for key in required.filter(|key| !table.contains_key(*key)) {
            // What isn't supported may have been meant in place of what is missing.
            if !has_unsupported {
                self.missing(key, &schema["properties"][key], path, header);
            }
        }
        fits
    }

    fn value(&mut self, entry: &Entry, schema: &Json, path: &[&str]) -> Option<Json> {
        // What it means is not for a schema to say.
        if schema["x-free"] == true {
            return Some(Json::Null);
        }
        if let Value::Table(table) = &entry.node.value
            && let Some(member) = schema::members(schema).into_iter().find(|member| schema::is_table(member))
        {
            return Some(Json::Object(self.table(table, member, path, &entry.key)));
        }
        if let Some(items) = schema::members(schema).into_iter().find_map(schema::table_in_array) {
            return self.array_of_tables(entry, items, path);
        }
        let scalar = schema::members(schema).into_iter().find(|member| !schema::is_table(member));
        self.scalar(&entry.node, scalar, schema, path)
    }

    /// What isn't a table is reported, and empty among those that are: each keeps its number.
    fn array_of_tables(&mut self, entry: &Entry, items: &Json, path: &[&str]) -> Option<Json> {
        let hint = format!("write `[[{}]]`, once for each", path.join("."));
        let wrong = |place: Place, found: &Value| {
            let message = format!("{} must be an array of tables, found {}", name(path), found.what());
            Problem::new(place, message).with_hint(hint.clone())
        };
        let Value::Array(nodes) = &entry.node.value else {
            if !matches!(entry.node.value, Value::Broken) {
                self.problems.push(wrong(entry.key.clone(), &entry.node.value));
            }
            return None;
        };
        let mut tables = Vec::with_capacity(nodes.len());
        for node in nodes {
            let fits = match &node.value {
                Value::Table(table) => self.table(table, items, path, &node.place),
                Value::Broken => Map::new(),
                found => {
                    self.problems.push(wrong(node.place.clone(), found));
                    Map::new()
                }
            };
            tables.push(Json::Object(fits));
        }
        Some(tables.into())
    }

    /// `scalar` is what of the whole `schema` isn't a table.
    fn scalar(&mut self, node: &Node, scalar: Option<&Json>, schema: &Json, path: &[&str]) -> Option<Json> {
        let kind = scalar.and_then(|scalar| scalar["type"].as_str().or(Some("string")));
        match (&node.value, scalar, kind) {
            (Value::Broken, ..) => None,
            (Value::Text(text), Some(scalar), Some("string")) => self.text(node, text, scalar, path),
            (Value::Text(text), Some(scalar), Some(kind @ ("integer" | "number" | "boolean")))
                if text.has_variables =>
            {
                self.variable(node, text, scalar, kind, path)
            }
            (Value::Integer(number), Some(scalar), Some("integer")) => self.integer(node, *number, scalar, path),
            (Value::Float(number), Some(scalar), Some("number")) => self.number(node, *number, scalar, path),
            (Value::Integer(number), Some(scalar), Some("number")) => self.number(node, *number as f64, scalar, path),
            (Value::HugeInteger, Some(_), Some("integer" | "number")) => {
                self.explained(&node.place, format!("{} is too large a number", name(path)), schema);
                None
            }
            (Value::Boolean(boolean), Some(_), Some("boolean")) => Some((*boolean).into()),
            (Value::Time(time), Some(scalar), Some("string")) if scalar["format"] == "date-time" => {
                Some(time.to_string().into())
            }
            (Value::Array(nodes), Some(scalar), Some("array")) => {
                let items = &scalar["items"];
                Some(nodes.iter().filter_map(|node| self.scalar(node, Some(items), items, path)).collect())
            }
            (found, ..) => {
                let message = format!("{} must be {}, found {}", name(path), schema::what(schema), found.what());
                let place = if node.table().is_some() { first_line(&node.place) } else { node.place.clone() };
                self.explained(&place, message, schema);
                None
            }
        }
    }

    /// A problem whose hint is what the manual says first of the key.
    fn explained(&mut self, place: &Place, message: String, schema: &Json) {
        let problem = Problem::new(place.clone(), message);
        self.problems.push(match first_sentence(schema) {
            Some(sentence) => problem.with_hint(sentence),
            None => problem,
        });
    }

    fn text(&mut self, node: &Node, text: &Text, schema: &Json, path: &[&str]) -> Option<Json> {
        let words: Vec<&str> = schema::words(schema).into_iter().map(|(word, _)| word).collect();
        if words.is_empty() || words.contains(&text.value.as_str()) {
            return Some(text.value.clone().into());
        }
        let unsupported = schema["x-unsupported"].as_array().into_iter().flatten();
        if unsupported.filter_map(Json::as_str).any(|word| word == text.value) {
            self.unsupported(&node.place, &format!("`{} = \"{}\"`", last(path), text.value));
            return None;
        }
        let message = format!("{} can't be {}", name(path), quoted(&text.written));
        let hint = match nearest(&text.value, words.iter().copied()) {
            Some(word) if !text.has_variables => format!("did you mean `{word}`?"),
            _ => format!("it must be {}", listed(words, "or")),
        };
        self.problems.push(Problem::new(node.place.clone(), message).with_hint(hint));
        None
    }

    /// A variable is always text: where a number or a truth is wanted, it is read as one.
    fn variable(&mut self, node: &Node, text: &Text, schema: &Json, kind: &str, path: &[&str]) -> Option<Json> {
        match (kind, text.value.parse::<i64>(), text.value.parse::<bool>()) {
            ("number", ..) if text.value.parse::<f64>().is_ok() => {
                self.number(node, text.value.parse().unwrap_or(f64::NAN), schema, path)
            }
            ("integer", Ok(number), _) => self.integer(node, number, schema, path),
            ("boolean", _, Ok(boolean)) => Some(boolean.into()),
            _ => {
                let message = format!("{} must be {}", name(path), schema::what(schema));
                let hint = format!("{} gives something else", quoted(&text.written));
                self.problems.push(Problem::new(node.place.clone(), message).with_hint(hint));
                None
            }
        }
    }

    fn integer(&mut self, node: &Node, number: i64, schema: &Json, path: &[&str]) -> Option<Json> {
        let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
        let most = schema["maximum"].as_i64().unwrap_or(match schema["format"].as_str() {
            Some("uint32") => i64::from(u32::MAX),
            _ => i64::MAX,
        });
        if (least..=most).contains(&number) {
            return Some(number.into());
        }
        let message = if number < least {
            format!("{} must be at least {least}", name(path))
        } else {
            format!("{} must be at most {most}", name(path))
        };
        self.explained(&node.place, message, schema);
        None
    }

    fn number(&mut self, node: &Node, number: f64, schema: &Json, path: &[&str]) -> Option<Json> {
        let least = schema["exclusiveMinimum"].as_f64().unwrap_or(f64::NEG_INFINITY);
        let most = schema["maximum"].as_f64().unwrap_or(f64::INFINITY);
        if number > least && number <= most {
            return Some(number.into());
        }
        let message = format!("{} must be above {least} and at most {most}", name(path));
        self.explained(&node.place, message, schema);
        None
    }

    fn unsupported(&mut self, place: &Place, what: &str) {
        let problem = Problem::new(place.clone(), format!("{what} isn't supported by this version"));
        self.problems.push(problem.with_hint("`docs/configuration.md` has what is"));
    }

    fn unknown(&mut self, entry: &Entry, path: &[&str], schema: &Json) {
        let Some((key, parents)) = path.split_last() else { return };
        let message = match parents {
            [] => format!("unknown {} {}", kind_of(&entry.node.value), label(path, &entry.node.value)),
            _ => format!("unknown key {} in `{}`", quoted(key), schema::header(self.schema, parents)),
        };
        let known: Vec<&str> = supported(schema).collect();
        let hint = nearest(key, known.iter().copied())
            .map(|near| match (parents, is_headed(&schema["properties"][near])) {
                ([], true) => format!("did you mean `{}`?", schema::header(self.schema, &[near])),
                _ => format!("did you mean `{near}`?"),
            })
            .or_else(|| {
                let home = home_of(self.schema, key, &mut Vec::new())?;
                Some(format!("`{key}` belongs in `{}`", schema::header(self.schema, &home)))
            })
            .unwrap_or_else(|| format!("known here: {}", listed(known, "and")));
        self.problems.push(Problem::new(entry.key.clone(), message).with_hint(hint));
    }

    fn missing(&mut self, key: &str, schema: &Json, path: &[&str], header: &Place) {
        let message = match (schema::is_table(schema), path) {
            (true, _) => format!("`[{}]` is missing", [path, &[key]].concat().join(".")),
            (false, []) => format!("`{key}` is missing"),
            (false, _) => format!("`{key}` is missing in `{}`", schema::header(self.schema, path)),
        };
        self.explained(header, message, schema);
    }
}

fn supported(schema: &Json) -> impl Iterator<Item = &str> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter(|(_, known)| known["x-unsupported"] != true).map(|(key, _)| key.as_str())
}

/// The table that has a key of this name: it is often only in the wrong place.
fn home_of<'a>(schema: &'a Json, key: &str, path: &mut Vec<&'a str>) -> Option<Vec<&'a str>> {
    for (name, known) in schema["properties"].as_object()? {
        for member in schema::members(known) {
            if name == key && !path.is_empty() {
                return Some(path.clone());
            }
            path.push(name);
            let home = home_of(schema::table_in_array(member).unwrap_or(member), key, path);
            path.pop();
            if home.is_some() {
                return home;
            }
        }
    }
    None
}

/// Whether a key of this schema stands as a header: `[name]`, `[[name]]`.
fn is_headed(schema: &Json) -> bool {
    schema::is_table(schema) || schema::table_in_array(schema).is_some()
}

fn name(path: &[&str]) -> String {
    quoted(last(path))
}

fn last<'a>(path: &[&'a str]) -> &'a str {
    path.last().copied().unwrap_or_default()
}

fn kind_of(value: &Value) -> &'static str {
    if value.is_array_of_tables() || matches!(value, Value::Table(_)) { "table" } else { "key" }
}

/// `[[name]]`, `[a.name]` or `name`, as it stands in the file.
fn label(path: &[&str], value: &Value) -> String {
    let joined = path.join(".");
    match value {
        Value::Table(_) => quoted(&format!("[{joined}]")),
        value if value.is_array_of_tables() => quoted(&format!("[[{joined}]]")),
        _ => name(path),
    }
}

/// A caret under a table of many lines says nothing.
fn first_line(place: &Place) -> Place {
    Place { file: place.file.clone(), bytes: place.bytes.start..place.bytes.start + 1 }
}

/// What the manual says first of a key, as a hint: without capital and full stop.
fn first_sentence(schema: &Json) -> Option<String> {
    let description = schema["description"].as_str()?;
    let sentence = description.split(". ").next().unwrap_or(description).trim_end_matches('.');
    let mut letters = sentence.chars();
    let first = letters.next()?;
    Some(first.to_lowercase().chain(letters).collect())
}
