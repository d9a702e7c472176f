//! A TOML file as a tree whose every key and value knows its bytes.
//!
//! ```text
//! bytes ─▶ Node (places) ─▶ overlay ─▶ variables ─▶ shape ─▶ spec
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mask::mask;
use super::problem::{Place, Problem, SourceFile};

/// A declaration is written by hand: what is larger is another kind of file, and parsing it
/// would only cost memory.
pub(super) const LARGEST_FILE_BYTES: usize = 1024 * 1024;

/// A broken file is repaired from its top: more than this of it only scrolls that away.
const MOST_SYNTAX_PROBLEMS: usize = 10;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Text),
    Integer(i64),
    /// Beyond 64 bits.
    HugeInteger,
    Float(f64),
    Boolean(bool),
    Time(toml::value::Datetime),
    Array(Vec<Node>),
    Table(Table),
    /// Its problem has been reported already.
    Broken,
}

/// A text, and how it was written before its variables were put in.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub value: String,
    /// For reports: what came from outside is never printed.
    pub written: String,
    pub has_variables: bool,
}

pub(super) type Table = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Place,
    pub node: Node,
}

impl Value {
    /// What it is, with its article, for "found …".
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::HugeInteger => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Time(_) => "a time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Broken => "nothing",
        }
    }

    /// `[[name]]` in TOML.
    pub(super) fn is_array_of_tables(&self) -> bool {
        matches!(self, Self::Array(nodes) if matches!(nodes.first(), Some(Node { value: Self::Table(_), .. })))
    }
}

impl Node {
    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What stands at a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Entry> {
        let (last, parents) = path.split_last()?;
        parents.iter().try_fold(self, |node, key| node.table()?.get(*key).map(|entry| &entry.node))?.table()?.get(*last)
    }

    /// The bytes of the value at a path; of the key for tables; where it isn't there, of the
    /// nearest table around it.
    pub(super) fn place(&self, path: &[&str]) -> Place {
        match self.at(path) {
            Some(entry) if entry.node.table().is_some() => entry.key.clone(),
            Some(entry) => entry.node.place.clone(),
            None => match path.split_last() {
                Some((_, parents)) => self.place(parents),
                None => self.place.clone(),
            },
        }
    }

    /// What stands at a path of keys, and of numbers from 0 in arrays.
    pub(super) fn within(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::Table(table) => table.get(*step).map(|entry| &entry.node),
            Value::Array(nodes) => nodes.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// What stands at a path as it was written.
    pub(super) fn written(&self, path: &[&str]) -> &str {
        match self.at(path).map(|entry| &entry.node) {
            Some(Node { value: Value::Text(text), .. }) => &text.written,
            Some(Node { place, .. }) => place.file.shown.get(place.bytes.clone()).unwrap_or_default(),
            None => "",
        }
    }
}

/// Reads a file's bytes into a tree; what can't be read at all is reported, and None.
pub(super) fn parse(name: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> Option<Node> {
    let nameless = |shown: String| Arc::new(SourceFile { name: name.to_owned(), shown });
    if bytes.len() > LARGEST_FILE_BYTES {
        let place = Place { file: nameless(String::new()), bytes: 0..0 };
        let message = format!("the file has {} bytes, more than {LARGEST_FILE_BYTES}", bytes.len());
        problems.push(Problem::new(place, message).with_hint("is it a declaration at all?"));
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let readable = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let file = nameless(mask(&readable));
            let end = file.shown.len();
            let place = Place { file, bytes: end..end };
            problems.push(Problem::new(place, "the file is not UTF-8 text from here on").with_hint("save it as UTF-8"));
            return None;
        }
    };
    let file = nameless(mask(text));
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        // Of a whole file, what is missing is missing at its start.
        let place = Place { file: Arc::clone(&file), bytes: 0..0 };
        return Some(Node { place, value: Value::Table(table(root.into_inner(), &file)) });
    }
    let count = errors.len();
    for error in errors.into_iter().take(MOST_SYNTAX_PROBLEMS) {
        let bytes = error.span().unwrap_or(text.len()..text.len());
        problems.push(Problem::new(Place { file: Arc::clone(&file), bytes }, format!("not TOML: {}", error.message())));
    }
    if count > MOST_SYNTAX_PROBLEMS {
        let place = Place { file, bytes: text.len()..text.len() };
        problems.push(Problem::new(place, format!("not TOML: {} more such places", count - MOST_SYNTAX_PROBLEMS)));
    }
    None
}

fn table(table: DeTable<'_>, file: &Arc<SourceFile>) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let place = Place { file: Arc::clone(file), bytes: key.span() };
            (key.into_inner().into_owned(), Entry { key: place, node: node(value, file) })
        })
        .collect()
}

fn node(value: Spanned<DeValue<'_>>, file: &Arc<SourceFile>) -> Node {
    let bytes: Range<usize> = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => {
            let written = text.into_owned();
            Value::Text(Text { value: written.clone(), written, has_variables: false })
        }
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Value::HugeInteger, Value::Integer)
        }
        DeValue::Float(number) => Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Datetime(time) => Value::Time(time),
        DeValue::Array(array) => Value::Array(array.into_iter().map(|value| node(value, file)).collect()),
        DeValue::Table(inner) => Value::Table(table(inner, file)),
    };
    Node { place: Place { file: Arc::clone(file), bytes }, value }
}

/// Keys of one table of which only one may be there: an overlay that sets one of them takes
/// the others away, or a `connection_string` of the base could never become a `namespace`.
const ALTERNATIVES: [(&[&str], &[&str]); 3] = [
    (&["event_hubs"], &["connection_string", "namespace"]),
    (&["storage", "azure"], &["account_key", "sas_token"]),
    (&["registry"], &["azure", "confluent", "folder"]),
];

/// Lays one project file over another: tables are joined, all else is replaced.
pub(super) fn overlay(base: &mut Node, over: Node) {
    for (path, keys) in ALTERNATIVES {
        let chosen = |key: &str| over.at(&[path, &[key]].concat()).is_some();
        if keys.iter().any(|key| chosen(key))
            && let Some(table) = table_mut(base, path)
        {
            table.retain(|key, _| !keys.contains(&key.as_str()) || chosen(key));
        }
    }
    join(base, over);
}

fn join(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Table(base), Value::Table(over)) => {
            for (key, entry) in over {
                match base.get_mut(&key) {
                    Some(held) if held.node.table().is_some() && entry.node.table().is_some() => {
                        join(&mut held.node, entry.node);
                    }
                    _ => drop(base.insert(key, entry)),
                }
            }
        }
        (held, value) => {
            *held = value;
            base.place = over.place;
        }
    }
}

fn table_mut<'a>(node: &'a mut Node, path: &[&str]) -> Option<&'a mut Table> {
    let Value::Table(table) = &mut node.value else { return None };
    match path.split_first() {
        None => Some(table),
        Some((key, rest)) => table_mut(&mut table.get_mut(*key)?.node, rest),
    }
}
