//! Random schemas and values: our way to Arrow against `apache-avro`, value by value.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::{Days, Decimal, Duration, Millis, Months};
use proptest::test_runner::TestCaseError;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// Enough to meet each pair of types nested in each other; more belongs into a soak by hand.
const CASES: u32 = 400;

/// So many cases, unless `PROPTEST_CASES` says how many.
pub(super) fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

/// Rows of each case: a batch, not a lone value.
const ROWS: i64 = 7;

/// A type of the Avro specification, as far as tables hold it.
#[derive(Debug, Clone)]
pub(super) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(usize),
    DecimalBytes(u8),
    DecimalFixed(u8),
    UuidString,
    UuidFixed,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    LocalTimestampMillis,
    Duration,
    Array(Box<Type>),
    Map(Box<Type>),
    Record(Vec<Type>),
    Optional(bool, Box<Type>),
    /// Null, where it is given, and two or more of different kinds.
    Union(Option<usize>, Vec<Type>),
}

pub(super) fn leaf() -> impl Strategy<Value = Type> {
    use Type::*;
    let plain = prop::sample::select(vec![
        Boolean,
        Int,
        Long,
        Float,
        Double,
        Bytes,
        String,
        UuidString,
        UuidFixed,
        Date,
        TimeMillis,
        TimeMicros,
        TimestampMillis,
        TimestampMicros,
        TimestampNanos,
        LocalTimestampMillis,
        Duration,
    ]);
    prop_oneof![
        8 => plain,
        1 => (1_usize..20).prop_map(Fixed),
        1 => (1_usize..5).prop_map(Enum),
        1 => (1_u8..=38).prop_map(DecimalBytes),
        1 => (1_u8..=38).prop_map(DecimalFixed),
    ]
}

fn any_type() -> impl Strategy<Value = Type> {
    leaf().prop_recursive(4, 24, 5, |inner| {
        // A union doesn't stand in a union, and two branches may not be of one unnamed kind.
        let branch = |inner: BoxedStrategy<Type>| inner.prop_filter("no unions in unions", |t| !matches!(t, Type::Optional(..) | Type::Union(..)));
        let inner = inner.boxed();
        prop_oneof![
            2 => inner.clone().prop_map(|t| Type::Array(Box::new(t))),
            2 => inner.clone().prop_map(|t| Type::Map(Box::new(t))),
            3 => prop::collection::vec(prop_oneof![9 => inner.clone(), 1 => Just(Type::Null)], 1..5)
                .prop_filter("something in it", |fields| fields.iter().any(|t| !matches!(t, Type::Null)))
                .prop_map(Type::Record),
            3 => (any::<bool>(), branch(inner.clone())).prop_map(|(first, t)| Type::Optional(first, Box::new(t))),
            2 => (prop::option::of(0_usize..3), prop::collection::vec(branch(inner), 2..4)).prop_map(|(null, branches)| {
                let mut seen = std::collections::HashSet::new();
                let branches: Vec<_> = branches.into_iter().filter(|t| seen.insert(t.branch_kind())).collect();
                Type::Union(null.map(|at| at.min(branches.len())), branches)
            }),
        ]
    })
}

impl Type {
    /// What tells branches of a union apart; named types are told apart by their names.
    fn branch_kind(&self) -> String {
        let schema = self.schema(&mut 0);
        let kind = schema.get("type").unwrap_or(&schema).as_str().expect("a kind").to_owned();
        if matches!(kind.as_str(), "record" | "enum" | "fixed") { format!("{kind} {self:?}") } else { kind }
    }

    pub(super) fn schema(&self, names: &mut usize) -> Json {
        let logical = |inner: &str, name: &str| json!({"type": inner, "logicalType": name});
        let mut named = |mut schema: Json| {
            *names += 1;
            schema["name"] = json!(format!("T{names}"));
            schema
        };
        match self {
            Self::Null => json!("null"),
            Self::Boolean => json!("boolean"),
            Self::Int => json!("int"),
            Self::Long => json!("long"),
            Self::Float => json!("float"),
            Self::Double => json!("double"),
            Self::Bytes => json!("bytes"),
            Self::String => json!("string"),
            Self::Fixed(size) => named(json!({"type": "fixed", "size": size})),
            Self::Enum(symbols) => {
                let symbols: Vec<_> = (0..*symbols).map(|at| format!("S{at}")).collect();
                named(json!({"type": "enum", "symbols": symbols}))
            }
            Self::DecimalBytes(precision) => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": precision / 2})
            }
            Self::DecimalFixed(precision) => named(json!({
                "type": "fixed", "size": 16, "logicalType": "decimal", "precision": precision, "scale": 0
            })),
            Self::UuidString => logical("string", "uuid"),
            Self::UuidFixed => named(json!({"type": "fixed", "size": 16, "logicalType": "uuid"})),
            Self::Date => logical("int", "date"),
            Self::TimeMillis => logical("int", "time-millis"),
            Self::TimeMicros => logical("long", "time-micros"),
            Self::TimestampMillis => logical("long", "timestamp-millis"),
            Self::TimestampMicros => logical("long", "timestamp-micros"),
            Self::TimestampNanos => logical("long", "timestamp-nanos"),
            Self::LocalTimestampMillis => logical("long", "local-timestamp-millis"),
            Self::Duration => named(json!({"type": "fixed", "size": 12, "logicalType": "duration"})),
            Self::Array(items) => json!({"type": "array", "items": items.schema(names)}),
            Self::Map(values) => json!({"type": "map", "values": values.schema(names)}),
            Self::Record(fields) => {
                let mut record = named(json!({"type": "record"}));
                let fields = fields.iter().enumerate();
                record["fields"] =
                    fields.map(|(at, field)| json!({"name": format!("f{at}"), "type": field.schema(names)})).collect();
                record
            }
            Self::Optional(true, inner) => json!(["null", inner.schema(names)]),
            Self::Optional(false, inner) => json!([inner.schema(names), "null"]),
            Self::Union(null, branches) => {
                let mut schemas: Vec<_> = branches.iter().map(|branch| branch.schema(names)).collect();
                if let Some(at) = null {
                    schemas.insert(*at, json!("null"));
                }
                Json::Array(schemas)
            }
        }
    }

    pub(super) fn value(&self, rng: &mut StdRng) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Boolean => Value::Boolean(rng.random()),
            Self::Int => Value::Int(skewed(rng) as i32),
            Self::Long => Value::Long(skewed(rng)),
            Self::Float => Value::Float(f32::from_bits(rng.random())),
            Self::Double => Value::Double(f64::from_bits(rng.random())),
            Self::Bytes => Value::Bytes(bytes(rng, None)),
            Self::String => Value::String(text(rng)),
            Self::Fixed(size) => Value::Fixed(*size, bytes(rng, Some(*size))),
            Self::Enum(symbols) => {
                let at = rng.random_range(0..*symbols);
                Value::Enum(at as u32, format!("S{at}"))
            }
            Self::DecimalBytes(precision) | Self::DecimalFixed(precision) => {
                let limit = 10_i128.pow(u32::from(*precision)) - 1;
                let number = rng.random_range(-limit..=limit) >> rng.random_range(0..100);
                Value::Decimal(Decimal::from(number.to_be_bytes()))
            }
            Self::UuidString | Self::UuidFixed => {
                Value::Uuid(apache_avro::Uuid::from_slice(&bytes(rng, Some(16))).expect("sixteen bytes"))
            }
            Self::Date => Value::Date(rng.random()),
            Self::TimeMillis => Value::TimeMillis(rng.random()),
            Self::TimeMicros => Value::TimeMicros(skewed(rng)),
            Self::TimestampMillis => Value::TimestampMillis(skewed(rng) / 1000),
            Self::TimestampMicros => Value::TimestampMicros(skewed(rng)),
            Self::TimestampNanos => Value::TimestampNanos(skewed(rng)),
            Self::LocalTimestampMillis => Value::LocalTimestampMillis(skewed(rng) / 1000),
            Self::Duration => {
                let (months, days, millis) = (rng.random(), rng.random(), rng.random());
                Value::Duration(Duration::new(Months::new(months), Days::new(days), Millis::new(millis)))
            }
            Self::Array(items) => Value::Array((0..rng.random_range(0..4)).map(|_| items.value(rng)).collect()),
            Self::Map(values) => {
                Value::Map((0..rng.random_range(0..4)).map(|_| (text(rng), values.value(rng))).collect())
            }
            Self::Record(fields) => {
                let fields = fields.iter().enumerate();
                Value::Record(fields.map(|(at, field)| (format!("f{at}"), field.value(rng))).collect())
            }
            Self::Optional(null_first, inner) => match rng.random::<bool>() {
                true => Value::Union(u32::from(*null_first), Box::new(inner.value(rng))),
                false => Value::Union(u32::from(!null_first), Box::new(Value::Null)),
            },
            Self::Union(null, branches) => {
                let mut all: Vec<_> = branches.iter().collect();
                if let Some(at) = null {
                    all.insert(*at, &Type::Null);
                }
                let at = rng.random_range(0..all.len());
                Value::Union(at as u32, Box::new(all[at].value(rng)))
            }
        }
    }

    /// What apache-avro read, as the table of types has it.
    pub(super) fn expected(&self, value: &Value) -> Json {
        let hex = |bytes: &[u8]| json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        match (self, value) {
            (Self::Null, _) => Json::Null,
            (_, Value::Boolean(value)) => json!(value),
            (_, Value::Int(value) | Value::Date(value) | Value::TimeMillis(value)) => json!(value),
            (_, Value::Long(value) | Value::TimeMicros(value) | Value::TimestampMicros(value)) => json!(value),
            (_, Value::TimestampMillis(value) | Value::LocalTimestampMillis(value)) => json!(value * 1000),
            (_, Value::TimestampNanos(value)) => json!(value.div_euclid(1000)),
            (_, Value::Float(value)) => json!(format!("{:016x}", f64::from(*value).to_bits())),
            (_, Value::Double(value)) => json!(format!("{:016x}", value.to_bits())),
            (_, Value::Bytes(value) | Value::Fixed(_, value)) => hex(value),
            (_, Value::String(value) | Value::Enum(_, value)) => json!(value),
            (_, Value::Uuid(value)) => json!(value.hyphenated().to_string()),
            (_, Value::Decimal(value)) => {
                let bytes = Vec::<u8>::try_from(value).expect("bytes");
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xFF };
                let mut wide = [sign; 16];
                let digits = &bytes[bytes.len().saturating_sub(16)..];
                wide[16 - digits.len()..].copy_from_slice(digits);
                json!(i128::from_be_bytes(wide).to_string())
            }
            (_, Value::Duration(value)) => {
                let (months, days, millis) =
                    (u32::from(value.months()), u32::from(value.days()), u32::from(value.millis()));
                json!({"months": months, "days": days, "millis": millis})
            }
            (Self::Array(items), Value::Array(values)) => values.iter().map(|value| items.expected(value)).collect(),
            (Self::Map(values), Value::Map(entries)) => {
                Json::Object(entries.iter().map(|(key, value)| (key.clone(), values.expected(value))).collect())
            }
            (Self::Record(fields), Value::Record(values)) => {
                let kept = fields.iter().zip(values).filter(|(field, _)| !matches!(field, Self::Null));
                Json::Object(kept.map(|(field, (name, value))| (name.clone(), field.expected(value))).collect())
            }
            (Self::Optional(_, inner), Value::Union(_, value)) => match **value {
                Value::Null => Json::Null,
                ref value => inner.expected(value),
            },
            (Self::Union(null, branches), Value::Union(at, value)) => {
                let at = *at as usize;
                if *null == Some(at) {
                    return Json::Null;
                }
                let at = at - usize::from(null.is_some_and(|null| null < at));
                let value = branches[at].expected(value);
                match branches.len() {
                    1 => value,
                    count => Json::Array(
                        (0..count).map(|branch| if branch == at { value.clone() } else { Json::Null }).collect(),
                    ),
                }
            }
            (declared, read) => panic!("apache-avro read {read:?} as {declared:?}"),
        }
    }
}

/// Small and huge numbers alike: varints of every length.
fn skewed(rng: &mut StdRng) -> i64 {
    rng.random::<i64>() >> rng.random_range(0..64)
}

fn bytes(rng: &mut StdRng, length: Option<usize>) -> Vec<u8> {
    let length = length.unwrap_or_else(|| rng.random_range(0..12));
    (0..length).map(|_| rng.random()).collect()
}

fn text(rng: &mut StdRng) -> String {
    (0..rng.random_range(0..8)).map(|_| rng.random::<char>()).collect()
}

/// Structs of branches as arrays, since their names don't matter here; records keep their names.
fn ordered(array: &ArrayRef, row: usize, shape: &Type) -> Json {
    if array.is_null(row) {
        return Json::Null;
    }
    match shape {
        Type::Union(_, branches) if branches.len() == 1 => ordered(array, row, &branches[0]),
        Type::Union(_, branches) => {
            let columns = array.as_struct().columns();
            branches.iter().zip(columns).map(|(branch, column)| ordered(column, row, branch)).collect()
        }
        Type::Optional(_, inner) => ordered(array, row, inner),
        Type::Array(items) => {
            let values = array.as_list::<i32>().value(row);
            (0..values.len()).map(|at| ordered(&values, at, items)).collect()
        }
        Type::Map(values) => {
            let entries = array.as_map().value(row);
            let keys = entries.column(0).as_string::<i32>();
            let pairs =
                (0..entries.len()).map(|at| (keys.value(at).to_owned(), ordered(entries.column(1), at, values)));
            Json::Object(pairs.collect())
        }
        Type::Record(fields) => {
            let kept = fields.iter().enumerate().filter(|(_, field)| !matches!(field, Type::Null));
            let columns = kept.zip(array.as_struct().columns());
            Json::Object(columns.map(|((at, field), column)| (format!("f{at}"), ordered(column, row, field))).collect())
        }
        _ => at(array, row),
    }
}

fn compare(shape: &Type, seed: u64) -> Result<(), TestCaseError> {
    let root = json!({"type": "record", "name": "Root", "fields": [{"name": "value", "type": shape.schema(&mut 0)}]});
    let avsc = root.to_string();
    let schema = Schema::parse_str(&avsc).expect("a schema");
    let mut rng = StdRng::seed_from_u64(seed);
    let bodies: Vec<_> =
        (0..ROWS).map(|_| encode(&schema, Value::Record(vec![("value".to_owned(), shape.value(&mut rng))]))).collect();
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, &avsc)]));
    let mut rows = Vec::new();
    // In two batches: what the first leaves behind must not reach the second.
    for (bodies, from) in [(&bodies[..3], 0), (&bodies[3..], 3)] {
        let events = bodies.iter().zip(from..).map(|(body, n)| event(n, Some(LEAD_ID), body.clone())).collect();
        let decoded = decode_now(&decoder, batch(events));
        prop_assert_eq!(&decoded.rejects, &[], "{}", avsc);
        let column = &decoded.batches[0]["value"];
        rows.extend((0..column.len()).map(|row| ordered(column, row, shape)));
    }
    let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
    for (row, body) in bodies.iter().enumerate() {
        let Value::Record(read) = reader.read_value(&mut body.as_slice()).expect("read") else { panic!("a record") };
        prop_assert_eq!(&rows[row], &shape.expected(&read[0].1), "{} row {}", avsc, row);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(CASES)))]

    #[test]
    fn our_way_to_arrow_reads_what_apache_avro_reads(shape in any_type(), seed in any::<u64>()) {
        compare(&shape, seed)?;
    }

    #[test]
    fn damaged_datums_of_any_schema_end_as_a_row_or_as_a_reject(shape in any_type(), seed in any::<u64>(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let root = json!({"type": "record", "name": "Root", "fields": [{"name": "value", "type": shape.schema(&mut 0)}]});
        let avsc = root.to_string();
        let schema = Schema::parse_str(&avsc).expect("a schema");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bodies = Vec::new();
        let events: Vec<_> = places.iter().zip(0..).map(|((place, byte), n)| {
            let mut body = encode(&schema, Value::Record(vec![("value".to_owned(), shape.value(&mut rng))]));
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] ^= byte;
            }
            bodies.push(body.clone());
            event(n, Some(LEAD_ID), body)
        }).collect();
        let decoder = by_content_type(Shelf::with(&[(LEAD_ID, &avsc)]));
        let decoded = decode_now(&decoder, batch(events));
        let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
        prop_assert_eq!(rows + decoded.rejects.len(), places.len());
        // What became a row is what apache-avro reads, damaged or not.
        let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
        for rows in &decoded.batches {
            let numbers = rows[bronze::SEQUENCE_NUMBER].as_primitive::<Int64Type>().values();
            for (row, number) in numbers.iter().enumerate() {
                let body = &bodies[usize::try_from(*number).expect("a place")];
                let Ok(Value::Record(read)) = reader.read_value(&mut body.as_slice()) else { continue };
                let Some((_, value)) = read.first() else { continue };
                // A uuid that is text stays the text that it is.
                let ours = format!("{:?}", ordered(&rows["value"], row, &shape)).to_ascii_lowercase();
                let theirs = format!("{:?}", shape.expected(value)).to_ascii_lowercase();
                prop_assert_eq!(ours, theirs, "{} {:?}", avsc, body);
            }
        }
    }
}
