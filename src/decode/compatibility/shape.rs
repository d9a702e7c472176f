//! A schema as far as it decides what can be read as what: a tree whose named types stand in a table.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::decode::avro::full_name;

/// How deep a schema may nest. JSON alone is read to 128 levels.
const DEPTH_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Schema {
    pub(super) root: Shape,
    pub(super) named: Vec<Named>,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Primitive(Primitive),
    /// Bytes, which may carry a decimal.
    Bytes(Option<Decimal>),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    Named(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    precision: u64,
    scale: u64,
}

#[derive(Debug)]
pub(super) struct Named {
    pub(super) full_name: String,
    /// As they are written: without the namespace they count.
    aliases: Vec<String>,
    pub(super) kind: NamedKind,
}

#[derive(Debug)]
pub(super) enum NamedKind {
    Record(Vec<FieldShape>),
    Enum { symbols: Vec<String>, default: Option<String> },
    Fixed { size: u64, decimal: Option<Decimal> },
}

#[derive(Debug)]
pub(super) struct FieldShape {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) shape: Shape,
    pub(super) has_default: bool,
}

impl Schema {
    /// # Errors
    /// Words that name what can't be understood.
    pub(super) fn parse(avsc: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(avsc).map_err(|error| format!("it isn't JSON: {error}"))?;
        let mut parsing = Parsing { named: Vec::new(), by_name: HashMap::new() };
        let root = parsing.shape(&json, "", 0)?;
        Ok(Self { root, named: parsing.named })
    }

    /// What people call a type.
    pub(super) fn words(&self, shape: &Shape) -> String {
        match shape {
            Shape::Primitive(primitive) => primitive.to_string(),
            Shape::Bytes(None) => "bytes".to_owned(),
            Shape::Bytes(Some(decimal)) => decimal.to_string(),
            Shape::Array(_) => "array".to_owned(),
            Shape::Map(_) => "map".to_owned(),
            Shape::Union(_) => "union".to_owned(),
            Shape::Named(at) => self.named[*at].words(),
        }
    }
}

impl Named {
    pub(super) fn words(&self) -> String {
        format!("{} {}", self.kind.word(), self.full_name)
    }

    /// Whether a reader of this type reads what was written as `writer`: by name, or by an alias.
    pub(super) fn is_named_as(&self, writer: &Named) -> bool {
        let written = short(&writer.full_name);
        short(&self.full_name) == written || self.aliases.iter().any(|alias| short(alias) == written)
    }
}

impl NamedKind {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Record(_) => "record",
            Self::Enum { .. } => "enum",
            Self::Fixed { .. } => "fixed",
        }
    }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

impl Primitive {
    /// Whether `self` reads what was written as `writer`.
    pub(super) fn reads(self, writer: Self) -> bool {
        self == writer
            || matches!(
                (writer, self),
                (Self::Int, Self::Long | Self::Float | Self::Double)
                    | (Self::Long, Self::Float | Self::Double)
                    | (Self::Float, Self::Double)
            )
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
        })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "decimal({}, {})", self.precision, self.scale)
    }
}

struct Parsing {
    named: Vec<Named>,
    by_name: HashMap<String, usize>,
}

impl Parsing {
    fn shape(&mut self, schema: &Value, namespace: &str, depth: usize) -> Result<Shape, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests deeper than {DEPTH_MAX} levels"));
        }
        match schema {
            Value::String(name) => self.referred(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.shape(branch, namespace, depth + 1));
                Ok(Shape::Union(branches.collect::<Result<_, _>>()?))
            }
            Value::Object(object) => self.object(object, namespace, depth),
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn referred(&self, name: &str, namespace: &str) -> Result<Shape, String> {
        let primitive = match name {
            "null" => Primitive::Null,
            "boolean" => Primitive::Boolean,
            "int" => Primitive::Int,
            "long" => Primitive::Long,
            "float" => Primitive::Float,
            "double" => Primitive::Double,
            "string" => Primitive::String,
            "bytes" => return Ok(Shape::Bytes(None)),
            _ => {
                let full = full_name(name, namespace);
                let held = self.by_name.get(&full).or_else(|| self.by_name.get(name));
                return held.map(|at| Shape::Named(*at)).ok_or_else(|| format!("nothing defines the type `{name}`"));
            }
        };
        Ok(Shape::Primitive(primitive))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str, depth: usize) -> Result<Shape, String> {
        let kind = object.get("type").ok_or("a type without `type`")?;
        let Value::String(kind) = kind else { return self.shape(kind, namespace, depth + 1) };
        let part = |key: &str| object.get(key).ok_or_else(|| format!("`{kind}` without `{key}`"));
        match kind.as_str() {
            "array" => Ok(Shape::Array(Box::new(self.shape(part("items")?, namespace, depth + 1)?))),
            "map" => Ok(Shape::Map(Box::new(self.shape(part("values")?, namespace, depth + 1)?))),
            "bytes" => Ok(Shape::Bytes(decimal(object))),
            "record" | "error" | "enum" | "fixed" => self.define(kind, object, namespace, depth),
            name => self.referred(name, namespace),
        }
    }

    fn define(
        &mut self,
        kind: &str,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Shape, String> {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let name = text("name").ok_or_else(|| format!("`{kind}` without `name`"))?;
        let full_name = full_name(name, text("namespace").unwrap_or(namespace));
        let inner = full_name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let at = self.named.len();
        self.by_name.insert(full_name.clone(), at);
        // Its place is taken before its fields are read: they may name it.
        let empty = NamedKind::Record(Vec::new());
        self.named.push(Named { full_name, aliases: texts(object.get("aliases")), kind: empty });
        self.named[at].kind = match kind {
            "enum" => {
                NamedKind::Enum { symbols: texts(object.get("symbols")), default: text("default").map(str::to_owned) }
            }
            "fixed" => NamedKind::Fixed {
                size: object.get("size").and_then(Value::as_u64).ok_or("`fixed` without `size`")?,
                decimal: decimal(object),
            },
            _ => {
                let mut fields = Vec::new();
                for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    let name = field.get("name").and_then(Value::as_str).ok_or("a field without `name`")?;
                    let schema = field.get("type").ok_or_else(|| format!("field `{name}` without `type`"))?;
                    fields.push(FieldShape {
                        name: name.to_owned(),
                        aliases: texts(field.get("aliases")),
                        shape: self.shape(schema, &inner, depth + 1)?,
                        has_default: field.get("default").is_some(),
                    });
                }
                NamedKind::Record(fields)
            }
        };
        Ok(Shape::Named(at))
    }
}

fn decimal(object: &Map<String, Value>) -> Option<Decimal> {
    if object.get("logicalType").and_then(Value::as_str) != Some("decimal") {
        return None;
    }
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    Some(Decimal { precision: number("precision")?, scale: number("scale").unwrap_or(0) })
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
