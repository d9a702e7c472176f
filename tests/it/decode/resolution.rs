//! Random pairs of a writer's and a reader's schema: our rows in the reader's table against `apache-avro`'s resolution.
//!
//! apache-avro doesn't look at aliases, so its reader has the old name where ours has a new one with an alias: that is
//! what the specification says an alias does.

use apache_avro::reader::datum::GenericDatumReader;
use proptest::test_runner::TestCaseError;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sluicebox::config::spec::OnSchemaChange;
use sluicebox::decode::arrow_schema_of;
use sluicebox::sink::delta::schema::{Defaults, Policy, Rescued, TableColumns};

use super::differential::{Type, cases, leaf};
use super::*;

const CASES: u32 = 200;
const ROWS: i64 = 5;

/// A type, with records whose fields have names.
#[derive(Debug, Clone)]
enum Shape {
    Leaf(Type),
    List(Box<Shape>),
    Map(Box<Shape>),
    Optional(Box<Shape>),
    Record(usize, Vec<Field>),
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    /// What the writer called it.
    alias: Option<String>,
    of: Shape,
    default: Option<Json>,
}

fn shape() -> impl Strategy<Value = Shape> {
    leaf().prop_map(Shape::Leaf).prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|of| Shape::List(Box::new(of))),
            inner.clone().prop_map(|of| Shape::Map(Box::new(of))),
            inner
                .clone()
                .prop_filter("no unions in unions", |of| !matches!(of, Shape::Optional(_)))
                .prop_map(|of| Shape::Optional(Box::new(of))),
            record(inner),
        ]
    })
}

fn record(inner: impl Strategy<Value = Shape>) -> impl Strategy<Value = Shape> {
    prop::collection::vec(inner, 1..5).prop_map(|shapes| {
        let field = |(at, of)| Field { name: format!("f{at}"), alias: None, of, default: None };
        Shape::Record(0, shapes.into_iter().enumerate().map(field).collect())
    })
}

impl Shape {
    /// Gives each record a number, which stays over the versions, as its name.
    fn number(&mut self, next: &mut usize) {
        match self {
            Self::Leaf(_) => {}
            Self::List(of) | Self::Map(of) | Self::Optional(of) => of.number(next),
            Self::Record(number, fields) => {
                *number = *next;
                *next += 1;
                fields.iter_mut().for_each(|field| field.of.number(next));
            }
        }
    }

    /// As a later version may have it, which reads what this one wrote.
    fn later(&self, rng: &mut StdRng) -> Self {
        match self {
            Self::Leaf(of) => {
                let of = match (of, rng.random_range(0..3)) {
                    (Type::Int, 0) => Type::Long,
                    (Type::Int, 1) | (Type::Float, 0) => Type::Double,
                    (Type::String, 0) => Type::Bytes,
                    (Type::Bytes, 0) => Type::String,
                    (Type::Enum(symbols), 0) => Type::Enum(symbols + 2),
                    (of, _) => of.clone(),
                };
                if rng.random_bool(0.2) { Self::Optional(Box::new(Self::Leaf(of))) } else { Self::Leaf(of) }
            }
            Self::List(of) => Self::List(Box::new(of.later(rng))),
            Self::Map(of) => Self::Map(Box::new(of.later(rng))),
            Self::Optional(of) => match of.later(rng) {
                optional @ Self::Optional(_) => optional,
                of => Self::Optional(Box::new(of)),
            },
            Self::Record(number, fields) => {
                let mut kept: Vec<_> = fields.iter().filter_map(|field| field.later(*number, rng)).collect();
                for _ in 0..rng.random_range(0..3) {
                    kept.insert(rng.random_range(0..=kept.len()), Field::new(*number, kept.len(), rng));
                }
                if kept.is_empty() {
                    kept.push(Field::new(*number, 0, rng));
                }
                Self::Record(*number, kept)
            }
        }
    }

    /// With the old names, for a reader that doesn't know aliases.
    fn schema(&self, names: &mut usize, old: bool) -> Json {
        match self {
            Self::Leaf(of) => of.schema(names),
            Self::List(of) => json!({"type": "array", "items": of.schema(names, old)}),
            Self::Map(of) => json!({"type": "map", "values": of.schema(names, old)}),
            Self::Optional(of) => json!(["null", of.schema(names, old)]),
            Self::Record(number, fields) => {
                let fields: Vec<_> = fields.iter().map(|field| field.schema(names, old)).collect();
                json!({"type": "record", "name": format!("R{number}"), "fields": fields})
            }
        }
    }

    fn value(&self, rng: &mut StdRng) -> Value {
        match self {
            Self::Leaf(of) => of.value(rng),
            Self::List(of) => Value::Array((0..rng.random_range(0..3)).map(|_| of.value(rng)).collect()),
            Self::Map(of) => {
                Value::Map((0..rng.random_range(0..3)).map(|at| (format!("k{at}"), of.value(rng))).collect())
            }
            Self::Optional(of) => match rng.random() {
                true => Value::Union(1, Box::new(of.value(rng))),
                false => Value::Union(0, Box::new(Value::Null)),
            },
            Self::Record(_, fields) => {
                Value::Record(fields.iter().map(|field| (field.name.clone(), field.of.value(rng))).collect())
            }
        }
    }

    /// What apache-avro read, as the reader's column has it.
    fn expected(&self, value: &Value) -> Json {
        match (self, value) {
            (Self::Leaf(of), value) => of.expected(value),
            (Self::List(of), Value::Array(items)) => items.iter().map(|item| of.expected(item)).collect(),
            (Self::Map(of), Value::Map(entries)) => {
                Json::Object(entries.iter().map(|(key, value)| (key.clone(), of.expected(value))).collect())
            }
            (Self::Optional(of), Value::Union(_, value)) => match **value {
                Value::Null => Json::Null,
                ref value => of.expected(value),
            },
            (Self::Record(_, fields), Value::Record(values)) => {
                let pairs = fields.iter().zip(values);
                Json::Object(pairs.map(|(field, (_, value))| (field.name.clone(), field.of.expected(value))).collect())
            }
            (shape, value) => panic!("apache-avro read {value:?} as {shape:?}"),
        }
    }
}

impl Field {
    fn later(&self, record: usize, rng: &mut StdRng) -> Option<Self> {
        let of = self.of.later(rng);
        match rng.random_range(0..6) {
            0 => None,
            1 => {
                let name = format!("now_{record}_{}", self.name);
                Some(Self { name, alias: Some(self.name.clone()), of, default: None })
            }
            _ => Some(Self { of, ..self.clone() }),
        }
    }

    /// One that the writer lacks.
    fn new(record: usize, at: usize, rng: &mut StdRng) -> Self {
        let list = |of: Type| Shape::List(Box::new(Shape::Leaf(of)));
        let (of, default) = match rng.random_range(0..9) {
            0 => (Shape::Leaf(Type::Int), json!(-7)),
            1 => (Shape::Leaf(Type::Long), json!(i64::MAX)),
            2 => (Shape::Leaf(Type::Double), json!(0.1)),
            3 => (Shape::Leaf(Type::String), json!("ü \"x\"")),
            4 => (Shape::Leaf(Type::Boolean), json!(true)),
            5 => (Shape::Optional(Box::new(Shape::Leaf(Type::Date))), Json::Null),
            6 => (list(Type::String), json!(["a", "b"])),
            7 => (Shape::Leaf(Type::Enum(3)), json!("S1")),
            _ => (Shape::Map(Box::new(Shape::Leaf(Type::Long))), json!({"k": 1})),
        };
        Self { name: format!("new_{record}_{at}_{}", rng.random::<u32>()), alias: None, of, default: Some(default) }
    }

    fn schema(&self, names: &mut usize, old: bool) -> Json {
        let mut field = json!({"name": self.name, "type": self.of.schema(names, old)});
        if let Some(alias) = &self.alias {
            if old {
                field["name"] = json!(alias);
            } else {
                field["aliases"] = json!([alias]);
            }
        }
        if let Some(default) = &self.default {
            field["default"] = default.clone();
        }
        field
    }
}

fn compare(mut writer: Shape, seed: u64) -> Result<(), TestCaseError> {
    let mut rng = StdRng::seed_from_u64(seed);
    writer.number(&mut 0);
    let reader = writer.later(&mut rng);
    let written = writer.schema(&mut 0, false).to_string();
    let [ours, theirs] = [false, true].map(|old| reader.schema(&mut 0, old).to_string());
    let [schema, theirs] = [&written, &theirs].map(|avsc| Schema::parse_str(avsc).expect("a schema"));
    let bodies: Vec<_> = (0..ROWS).map(|_| encode(&schema, writer.value(&mut rng))).collect();

    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, &written)]));
    let events = bodies.iter().zip(0..).map(|(body, number)| event(number, Some(LEAD_ID), body.clone())).collect();
    let decoded = decode_now(&decoder, batch(events));
    prop_assert_eq!(&decoded.rejects, &[], "{}", written);
    let policy = Policy { on_schema_change: OnSchemaChange::Pin, defaults: Defaults::Used };
    let table = TableColumns::new(arrow_schema_of(&ours).expect("a schema"), policy);
    let rows = table.align(&decoded.batches[0], &mut Rescued::new()).expect("aligned");

    let reading = GenericDatumReader::builder(&schema).reader_schema(&theirs).build().expect("a reader");
    for (row, body) in bodies.iter().enumerate() {
        match reading.read_value(&mut body.as_slice()) {
            Ok(value) => {
                prop_assert_eq!(payload(&rows, row), reader.expected(&value), "{} as {} row {}", written, ours, row);
            }
            // Bytes that are no text: the others of the row are there all the same.
            Err(error) => {
                prop_assert!(
                    rows[bronze::RESCUED].is_valid(row),
                    "{} as {}: {} {:?}",
                    written,
                    ours,
                    error,
                    payload(&rows, row)
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(CASES)))]

    #[test]
    fn a_readers_table_holds_what_apache_avro_resolves(writer in record(shape()), seed in any::<u64>()) {
        compare(writer, seed)?;
    }
}
