//! What a writer schema means to us: a tree of nodes, each with the type of its column.
//!
//! | rule | why |
//! |---|---|
//! | a node without a column ([`Node::data_type`] is `None`) holds no information: nulls, records without fields | Delta has no void columns |
//! | named types are expanded where they are used | each use is a column of its own |
//! | recursion is refused, and so are more than [`SCHEMA_NODES_MAX`] nodes or [`DEPTH_MAX`] levels, and defaults beyond [`DEFAULTS_BYTES_MAX`] | columns are finite; a few lines of schema may unfold to billions of nodes |

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{
    Alias, InnerDecimalSchema, Name, NamespaceRef, RecordField, RecordSchema, UnionSchema, UuidSchema,
};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields};
use serde_json::Value as Json;

use super::{default, json};
use crate::batch::bronze;
use crate::columns::{self, ColumnNames, Level};

/// Nodes that a schema may unfold to. Smaller would refuse wide real schemas, larger would let a
/// few hostile lines take the memory of the process.
pub const SCHEMA_NODES_MAX: usize = 10_000;

/// What the defaults of all these places may take, as JSON. A record that is used a thousand times has its defaults as often.
const DEFAULTS_BYTES_MAX: usize = 1 << 20;

/// Levels that a schema may have: bounds the recursion of everything that walks it.
pub(super) const DEPTH_MAX: usize = 64;

/// Each branch is a column. More than this is no union that anybody reads, and each value of it would
/// take a null in all others.
const BRANCHES_MAX: usize = 127;

/// A place in a schema.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// What its column holds; `None` where there is nothing to hold.
    pub(super) data_type: Option<DataType>,
    /// The fewest bytes that a datum takes here: bounds the counts that blocks may claim.
    pub(super) bytes_min: usize,
    /// The memory that a null takes here, in bytes: a null record has a slot in every column below.
    pub(super) null_bytes: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Arc<[String]>),
    Decimal {
        precision: u8,
        scale: i8,
        form: Form,
    },
    /// Sixteen bytes that become text; a uuid that is text already is a `String`.
    Uuid(Form),
    Date,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    /// Months, days and milliseconds.
    Duration,
    Array(Box<Node>),
    Map(Box<Node>),
    Record(Vec<FieldNode>),
    /// A union of null and one other.
    Optional {
        null_first: bool,
        inner: Box<Node>,
    },
    /// Any other union. With one branch that has a column it is that column, else a struct of them.
    Union(Vec<BranchNode>),
}

/// How a value lies in the datum: behind its length, or of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Bytes,
    Fixed(usize),
}

#[derive(Debug, Clone)]
pub(super) struct FieldNode {
    pub(super) name: String,
    pub(super) node: Node,
    /// The datum that stands for it in JSON that lacks it; none where it has to be there.
    pub(super) absent: Option<Vec<u8>>,
    pub(super) default: Option<Json>,
}

#[derive(Debug, Clone)]
pub(super) struct BranchNode {
    pub(super) name: String,
    pub(super) node: Node,
}

impl Node {
    /// Whether a datum takes no bytes here, whatever its value.
    pub(super) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Null => true,
            Kind::Record(fields) => fields.iter().all(|field| field.node.is_empty()),
            _ => false,
        }
    }
}

/// A writer schema, understood.
#[derive(Debug)]
pub(super) struct Plan {
    /// The full name of the root, where it has one.
    pub(super) name: Option<Arc<str>>,
    /// Always a record; a schema whose root isn't one is its field `value`.
    pub(super) root: Node,
    /// The payload's columns.
    pub(super) columns: Fields,
    /// What a user should know: columns that are called otherwise than their fields, fields without a column.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// # Errors
    /// Words that name what can't be used.
    pub(super) fn parse(avsc: &str) -> Result<Self, String> {
        let schema = Schema::parse_str(avsc).map_err(|error| format!("it isn't an Avro schema: {error}"))?;
        let mut builder = Builder::default();
        builder.collect(&schema, None)?;
        let root = match builder.node(&schema, None, Level::Top)? {
            record @ Node { kind: Kind::Record(_), .. } => record,
            other => {
                let columns = other.data_type.clone().map(|data_type| column("value", data_type));
                Node {
                    data_type: columns.map(|field| DataType::Struct(Fields::from(vec![field]))),
                    bytes_min: other.bytes_min,
                    null_bytes: other.null_bytes,
                    kind: Kind::Record(vec![FieldNode {
                        name: "value".to_owned(),
                        node: other,
                        absent: None,
                        default: None,
                    }]),
                }
            }
        };
        let columns = match &root.data_type {
            Some(DataType::Struct(fields)) => fields.clone(),
            _ => Fields::empty(),
        };
        let name = schema.name().map(|name| name.fullname(None).into());
        Ok(Self { name, root, columns, notes: builder.notes })
    }
}

/// Every column of a payload is nullable, at every level: a later schema may lack it.
fn column(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// The names that Delta's Arrow schemas use.
fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(column("element", element)))
}

fn map_of(value: DataType) -> DataType {
    let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

fn duration() -> DataType {
    DataType::Struct(
        ["months", "days", "millis"].into_iter().map(|name| column(name, DataType::Int64)).collect::<Vec<_>>().into(),
    )
}

#[derive(Default)]
struct Builder<'s> {
    named: HashMap<String, (&'s Schema, Option<String>)>,
    /// Named types that are being expanded: meeting one again is recursion.
    open: Vec<String>,
    /// Field names down to the place in hand, for words.
    path: Vec<String>,
    nodes: usize,
    /// What the defaults take so far.
    default_bytes: usize,
    depth: usize,
    notes: Vec<String>,
}

impl<'s> Builder<'s> {
    /// Finds the definitions of all named types, since a reference may stand anywhere.
    fn collect(&mut self, schema: &'s Schema, namespace: NamespaceRef) -> Result<(), String> {
        let name = match schema {
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Fixed(fixed) => Some(&fixed.name),
                InnerDecimalSchema::Bytes => None,
            },
            Schema::Uuid(UuidSchema::Fixed(fixed)) | Schema::Duration(fixed) => Some(&fixed.name),
            other => other.name(),
        };
        if matches!(schema, Schema::Ref { .. }) {
            return Ok(());
        }
        let mut inner = namespace.map(str::to_owned);
        if let Some(name) = name {
            let full = name.fully_qualified_name(namespace);
            inner = full.namespace().map(str::to_owned);
            self.named.insert(full.fullname(None), (schema, namespace.map(str::to_owned)));
        }
        match schema {
            Schema::Array(array) => self.collect(&array.items, namespace),
            Schema::Map(map) => self.collect(&map.types, namespace),
            Schema::Union(union) => union.variants().iter().try_for_each(|branch| self.collect(branch, namespace)),
            Schema::Record(record) => {
                record.fields.iter().try_for_each(|field| self.collect(&field.schema, inner.as_deref()))
            }
            _ => Ok(()),
        }
    }

    fn node(&mut self, schema: &'s Schema, namespace: NamespaceRef, level: Level) -> Result<Node, String> {
        self.nodes += 1;
        if self.nodes > SCHEMA_NODES_MAX {
            return Err(format!("it unfolds to more than {SCHEMA_NODES_MAX} places"));
        }
        if self.depth == DEPTH_MAX {
            return Err(format!("{} lies deeper than {DEPTH_MAX} levels", self.place()));
        }
        self.depth += 1;
        let node = self.node_at(schema, namespace, level);
        self.depth -= 1;
        node
    }

    fn node_at(&mut self, schema: &'s Schema, namespace: NamespaceRef, level: Level) -> Result<Node, String> {
        let leaf = |kind, data_type, bytes_min| Node { kind, data_type: Some(data_type), bytes_min, null_bytes: 8 };
        Ok(match schema {
            Schema::Null => Node { kind: Kind::Null, data_type: None, bytes_min: 0, null_bytes: 0 },
            Schema::Boolean => leaf(Kind::Boolean, DataType::Boolean, 1),
            Schema::Int => leaf(Kind::Int, DataType::Int64, 1),
            Schema::Long => leaf(Kind::Long, DataType::Int64, 1),
            Schema::Float => leaf(Kind::Float, DataType::Float64, 4),
            Schema::Double => leaf(Kind::Double, DataType::Float64, 8),
            Schema::Bytes => leaf(Kind::Bytes, DataType::Binary, 1),
            Schema::BigDecimal => {
                self.notes.push(format!("{} is a `big-decimal`: its column holds the bytes", self.place()));
                leaf(Kind::Bytes, DataType::Binary, 1)
            }
            Schema::String => leaf(Kind::String, DataType::Utf8, 1),
            Schema::Fixed(fixed) => self.fixed(fixed.size, Kind::Fixed(fixed.size), DataType::Binary)?,
            Schema::Enum(symbols) => leaf(Kind::Enum(symbols.symbols.clone().into()), DataType::Utf8, 1),
            Schema::Decimal(decimal) => self.decimal(decimal.precision, decimal.scale, &decimal.inner)?,
            Schema::Uuid(UuidSchema::String) => leaf(Kind::String, DataType::Utf8, 1),
            Schema::Uuid(UuidSchema::Bytes) => leaf(Kind::Uuid(Form::Bytes), DataType::Utf8, 17),
            Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                self.fixed(fixed.size, Kind::Uuid(Form::Fixed(fixed.size)), DataType::Utf8)?
            }
            Schema::Date => leaf(Kind::Date, DataType::Date32, 1),
            Schema::TimeMillis => leaf(Kind::Int, DataType::Int64, 1),
            Schema::TimeMicros => leaf(Kind::Long, DataType::Int64, 1),
            Schema::TimestampMillis | Schema::LocalTimestampMillis => {
                leaf(Kind::TimestampMillis, bronze::timestamp(), 1)
            }
            Schema::TimestampMicros | Schema::LocalTimestampMicros => {
                leaf(Kind::TimestampMicros, bronze::timestamp(), 1)
            }
            Schema::TimestampNanos | Schema::LocalTimestampNanos => leaf(Kind::TimestampNanos, bronze::timestamp(), 1),
            Schema::Duration(fixed) => self.fixed(fixed.size, Kind::Duration, duration())?,
            Schema::Array(array) => self.container(&array.items, namespace, list_of, Kind::Array)?,
            Schema::Map(map) => self.container(&map.types, namespace, map_of, Kind::Map)?,
            Schema::Union(union) => self.union(union, namespace)?,
            Schema::Record(record) => self.record(record, namespace, level)?,
            Schema::Ref { name } => return self.reference(name, namespace, level),
        })
    }

    fn reference(&mut self, name: &Name, namespace: NamespaceRef, level: Level) -> Result<Node, String> {
        let full = name.fully_qualified_name(namespace).fullname(None);
        if self.open.contains(&full) {
            return Err(format!("{} is of the recursive type `{full}`, which no table can hold", self.place()));
        }
        let Some((schema, outer)) = self.named.get(&full).cloned() else {
            return Err(format!("{} is of the type `{full}`, which is defined nowhere", self.place()));
        };
        self.node(schema, outer.as_deref(), level)
    }

    fn record(&mut self, record: &'s RecordSchema, namespace: NamespaceRef, level: Level) -> Result<Node, String> {
        let name = record.name.fully_qualified_name(namespace).into_owned();
        self.open.push(name.fullname(None));
        let mut names = ColumnNames::new(level);
        let (mut fields, mut columns) = (Vec::with_capacity(record.fields.len()), Vec::<Field>::new());
        let (mut bytes_min, mut null_bytes) = (0_usize, 0_usize);
        for field in &record.fields {
            self.path.push(field.name.clone());
            self.default_bytes += field.default.as_ref().map_or(0, |default| default.to_string().len());
            if self.default_bytes > DEFAULTS_BYTES_MAX {
                return Err(format!("the defaults of its fields unfold to more than {DEFAULTS_BYTES_MAX} bytes"));
            }
            let node = self.node(&field.schema, name.namespace(), Level::Nested)?;
            match &node.data_type {
                Some(data_type) => {
                    let renamed = names.name(&field.name);
                    if renamed != field.name {
                        self.notes.push(format!("{} is the column `{renamed}`", self.place()));
                    }
                    columns.push(self.remembered(column(&renamed, data_type.clone()), field, &node));
                }
                None => self.notes.push(format!("{} holds only nulls and has no column", self.place())),
            }
            self.path.pop();
            bytes_min = bytes_min.saturating_add(node.bytes_min);
            null_bytes = null_bytes.saturating_add(node.null_bytes);
            let absent = json::absent(&node, field.default.as_ref());
            fields.push(FieldNode { name: field.name.clone(), node, absent, default: field.default.clone() });
        }
        self.open.pop();
        let data_type = (!columns.is_empty()).then(|| DataType::Struct(columns.into()));
        Ok(Node { kind: Kind::Record(fields), data_type, bytes_min, null_bytes })
    }

    /// The column with what it is to remember of its field.
    fn remembered(&mut self, column: Field, field: &RecordField, node: &Node) -> Field {
        let column = columns::with_aliases(column, &field.aliases);
        match field.default.as_ref().map(|default| default::json_of(node, default)) {
            None | Some(Ok(None)) => column,
            Some(Ok(Some(json))) => columns::with(column, columns::DEFAULT, json),
            Some(Err(problem)) => {
                self.notes.push(format!("the default of {} can't be used: {problem}", self.place()));
                column
            }
        }
    }

    fn union(&mut self, union: &'s UnionSchema, namespace: NamespaceRef) -> Result<Node, String> {
        let variants = union.variants();
        let nulls = variants.iter().filter(|branch| matches!(branch, Schema::Null)).count();
        if let ([Schema::Null, other], 1) | ([other, Schema::Null], 1) = (variants, nulls) {
            let inner = self.node(other, namespace, Level::Nested)?;
            return Ok(Node {
                data_type: inner.data_type.clone(),
                bytes_min: 1,
                null_bytes: inner.null_bytes,
                kind: Kind::Optional { null_first: variants[0] == Schema::Null, inner: Box::new(inner) },
            });
        }
        if variants.is_empty() || variants.len() > BRANCHES_MAX {
            return Err(format!("{} is a union of {} branches", self.place(), variants.len()));
        }
        let mut branches = Vec::with_capacity(variants.len());
        let mut names = ColumnNames::new(Level::Nested);
        let mut columns = Vec::<Field>::new();
        for variant in variants {
            let name = branch_name(variant);
            self.path.push(name.clone());
            let node = self.node(variant, namespace, Level::Nested)?;
            if node.is_empty() && !matches!(node.kind, Kind::Null) {
                return Err(format!("{} is a record that holds nothing, as a branch of a union", self.place()));
            }
            self.path.pop();
            if let Some(data_type) = &node.data_type {
                let column = column(&names.name(&name), data_type.clone());
                let column = columns::with_aliases(column, &self.branch_aliases(variant, namespace));
                columns.push(columns::with(column, columns::BRANCH, name.clone()));
            }
            branches.push(BranchNode { name, node });
        }
        let null_bytes = branches.iter().map(|branch| branch.node.null_bytes).fold(8_usize, usize::saturating_add);
        let data_type = match columns.as_slice() {
            [] => None,
            [one] => Some(one.data_type().clone()),
            _ => Some(DataType::Struct(columns.into())),
        };
        Ok(Node { kind: Kind::Union(branches), data_type, bytes_min: 1, null_bytes })
    }

    /// Other names of the named type that a branch is, without their namespaces, as its column is called.
    fn branch_aliases(&self, branch: &'s Schema, namespace: NamespaceRef) -> Vec<String> {
        let defined = match branch {
            Schema::Ref { name } => {
                let full = name.fully_qualified_name(namespace).fullname(None);
                self.named.get(&full).map_or(branch, |(schema, _)| *schema)
            }
            other => other,
        };
        defined.aliases().into_iter().flatten().map(|alias: &Alias| alias.name().to_owned()).collect()
    }

    fn container(
        &mut self,
        items: &'s Schema,
        namespace: NamespaceRef,
        type_of: fn(DataType) -> DataType,
        kind: fn(Box<Node>) -> Kind,
    ) -> Result<Node, String> {
        let inner = self.node(items, namespace, Level::Nested)?;
        if inner.is_empty() {
            return Err(format!("{} is an array or a map of nothing but nulls", self.place()));
        }
        let data_type = inner.data_type.clone().map(type_of);
        Ok(Node { kind: kind(Box::new(inner)), data_type, bytes_min: 1, null_bytes: 8 })
    }

    fn decimal(&mut self, precision: usize, scale: usize, inner: &InnerDecimalSchema) -> Result<Node, String> {
        let fits = u8::try_from(precision).ok().filter(|precision| *precision <= DECIMAL128_MAX_PRECISION);
        let (Some(precision), Ok(scale)) = (fits, i8::try_from(scale)) else {
            return Err(format!(
                "{} is a decimal of {precision} digits, and Delta holds at most {DECIMAL128_MAX_PRECISION}",
                self.place()
            ));
        };
        let data_type = DataType::Decimal128(precision, scale);
        match inner {
            InnerDecimalSchema::Bytes => Ok(Node {
                kind: Kind::Decimal { precision, scale, form: Form::Bytes },
                data_type: Some(data_type),
                bytes_min: 2,
                null_bytes: 16,
            }),
            InnerDecimalSchema::Fixed(fixed) => {
                let kind = Kind::Decimal { precision, scale, form: Form::Fixed(fixed.size) };
                self.fixed(fixed.size, kind, data_type)
            }
        }
    }

    fn fixed(&mut self, size: usize, kind: Kind, data_type: DataType) -> Result<Node, String> {
        if size == 0 || i32::try_from(size).is_err() {
            return Err(format!("{} is a fixed of {size} bytes", self.place()));
        }
        Ok(Node { kind, data_type: Some(data_type), bytes_min: size, null_bytes: 16 })
    }

    fn place(&self) -> String {
        if self.path.is_empty() { "the root".to_owned() } else { format!("the field `{}`", self.path.join(".")) }
    }
}

/// What the column of a branch is called: its type, or the name of its type without namespace.
fn branch_name(schema: &Schema) -> String {
    let name = match schema {
        Schema::Decimal(_) | Schema::BigDecimal => "decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Duration(_) => "duration",
        Schema::Date => "date",
        Schema::TimeMillis => "time_millis",
        Schema::TimeMicros => "time_micros",
        Schema::TimestampMillis | Schema::LocalTimestampMillis => "timestamp_millis",
        Schema::TimestampMicros | Schema::LocalTimestampMicros => "timestamp_micros",
        Schema::TimestampNanos | Schema::LocalTimestampNanos => "timestamp_nanos",
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes",
        Schema::String => "string",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "union",
        Schema::Record(_) | Schema::Enum(_) | Schema::Fixed(_) | Schema::Ref { .. } => {
            schema.name().map_or("named", Name::name)
        }
    };
    name.to_owned()
}
