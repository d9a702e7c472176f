//! `docs/types.md`: a case for each row of the table, and no row without a case.

use buoyant_kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _};
use buoyant_kernel::schema::StructType;
use sluicebox::decode::{arrow_schema_of, field_name, raw_schema, schema_notes};

use super::*;

const TABLE: &str = include_str!("../../../docs/types.md");

struct Case {
    /// The first cell of the row in the table.
    avro: &'static str,
    schema: Json,
    datum: Vec<u8>,
    /// `null` in the schema's columns: no column.
    value: Json,
}

fn case(avro: &'static str, schema: Json, datum: &[u8], value: Json) -> Case {
    Case { avro, schema, datum: datum.to_vec(), value }
}

fn bits(value: f64) -> Json {
    json!(format!("{:016x}", value.to_bits()))
}

fn logical(inner: &str, name: &str) -> Json {
    json!({"type": inner, "logicalType": name})
}

/// 2023-11-14T22:13:20Z in the unit that has `1_700_000_000 * per_second`, as a datum.
fn instant(per_second: i64) -> Vec<u8> {
    encode(&Schema::Long, Value::Long(1_700_000_000 * per_second))
}

const INSTANT_MICROS: i64 = 1_700_000_000_000_000;

fn cases() -> Vec<Case> {
    let fixed =
        |size: usize, logical: &str| json!({"type": "fixed", "name": "F", "size": size, "logicalType": logical});
    let record = |fields: Json| json!({"type": "record", "name": "R", "fields": fields});
    let uuid = [0x55, 0x0e, 0x84, 0x00, 0xe2, 0x9b, 0x41, 0xd4, 0xa7, 0x16, 0x44, 0x66, 0x55, 0x44, 0x00, 0x00];
    let uuid_text = "550e8400-e29b-41d4-a716-446655440000";
    let uuid_behind_length = [&[32], &uuid[..]].concat();
    let duration = [1, 0, 0, 0, 2, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2});
    let decimal_fixed =
        json!({"type": "fixed", "name": "D", "size": 3, "logicalType": "decimal", "precision": 6, "scale": 2});
    let mut uuid_string = vec![72];
    uuid_string.extend(uuid_text.as_bytes());
    vec![
        case("`null`", json!("null"), &[], Json::Null),
        case("`boolean`", json!("boolean"), &[1], json!(true)),
        case("`int`", json!("int"), &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F], json!(i32::MIN)),
        case("`long`", json!("long"), &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], json!(i64::MAX)),
        case("`float`", json!("float"), &1.5_f32.to_le_bytes(), bits(1.5)),
        case("`double`", json!("double"), &0.1_f64.to_le_bytes(), bits(0.1)),
        case("`bytes`", json!("bytes"), &[4, 0, 0xFF], json!("00ff")),
        case("`string`", json!("string"), &[4, 0xC3, 0xBC], json!("ü")),
        case("`fixed`", json!({"type": "fixed", "name": "F", "size": 2}), &[1, 2], json!("0102")),
        case("`enum`", json!({"type": "enum", "name": "E", "symbols": ["A", "B"]}), &[2], json!("B")),
        case("`decimal` in `bytes`", decimal, &[4, 0xFE, 0xD4], json!("-300")),
        case("`decimal` in `fixed`", decimal_fixed, &[0, 1, 0x2C], json!("300")),
        case("`big-decimal`", logical("bytes", "big-decimal"), &[6, 2, 7, 4], json!("020704")),
        case("`uuid` in `string`", logical("string", "uuid"), &uuid_string, json!(uuid_text)),
        case("`uuid` in `fixed` or `bytes`", fixed(16, "uuid"), &uuid, json!(uuid_text)),
        case("`uuid` in `fixed` or `bytes`", logical("bytes", "uuid"), &uuid_behind_length, json!(uuid_text)),
        case("`date`", logical("int", "date"), &[1], json!(-1)),
        case("`time-millis`", logical("int", "time-millis"), &[4], json!(2)),
        case("`time-micros`", logical("long", "time-micros"), &[4], json!(2)),
        case("`timestamp-millis`", logical("long", "timestamp-millis"), &instant(1_000), json!(INSTANT_MICROS)),
        case("`timestamp-micros`", logical("long", "timestamp-micros"), &instant(1_000_000), json!(INSTANT_MICROS)),
        case("`timestamp-nanos`", logical("long", "timestamp-nanos"), &[1], json!(-1)),
        case("`timestamp-nanos`", logical("long", "timestamp-nanos"), &instant(1_000_000_000), json!(INSTANT_MICROS)),
        case("`local-timestamp-*`", logical("long", "local-timestamp-millis"), &instant(1_000), json!(INSTANT_MICROS)),
        case(
            "`local-timestamp-*`",
            logical("long", "local-timestamp-micros"),
            &instant(1_000_000),
            json!(INSTANT_MICROS),
        ),
        case(
            "`local-timestamp-*`",
            logical("long", "local-timestamp-nanos"),
            &instant(1_000_000_000),
            json!(INSTANT_MICROS),
        ),
        case("`duration`", fixed(12, "duration"), &duration, json!({"months": 1, "days": 2, "millis": u32::MAX})),
        case("`array`", json!({"type": "array", "items": "int"}), &[4, 2, 4, 0], json!([1, 2])),
        case("`map`", json!({"type": "map", "values": "int"}), &[2, 2, b'k', 2, 0], json!({"k": 1})),
        case("`record`", record(json!([{"name": "a", "type": "int"}])), &[2], json!({"a": 1})),
        case(
            "`record` without a field that has a column",
            record(json!([{"name": "a", "type": "null"}])),
            &[],
            Json::Null,
        ),
        case("`[\"null\", T]` or `[T, \"null\"]`", json!(["null", "string"]), &[0], Json::Null),
        case("`[\"null\", T]` or `[T, \"null\"]`", json!(["string", "null"]), &[0, 2, b'x'], json!("x")),
        case("`[T]`", json!(["string"]), &[0, 2, b'x'], json!("x")),
        case("another union", json!(["null", "int", "string"]), &[4, 2, b'x'], json!({"int": null, "string": "x"})),
        case("another union", json!(["null", "int", "string"]), &[0], Json::Null),
        case("another logical type", logical("int", "shoe-size"), &[84], json!(42)),
    ]
}

/// The rows of the first table: Avro, Arrow, Delta.
fn rows() -> Vec<[String; 3]> {
    let table =
        TABLE.lines().skip_while(|line| !line.starts_with("| Avro |")).skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    table.map(|line| cells(line)[1..4].to_vec().try_into().expect("three cells")).collect()
}

fn schema_of(case: &Case) -> String {
    json!({"type": "record", "name": "Root", "fields": [{"name": "f", "type": case.schema}, {"name": "end", "type": "boolean"}]}).to_string()
}

#[test]
fn each_row_of_the_table_has_a_case_and_each_case_a_row() {
    let rows: Vec<_> = rows().into_iter().map(|[avro, ..]| avro).collect();
    let mut cases: Vec<_> = cases().into_iter().map(|case| case.avro).collect();
    cases.dedup();
    assert_eq!(rows, cases);
}

#[test]
fn each_type_becomes_what_the_table_says() {
    let rows = rows();
    for case in cases() {
        let [_, arrow, delta] = rows.iter().find(|[avro, ..]| avro == case.avro).expect("a row");
        let avsc = schema_of(&case);
        let decoder = by_content_type(Shelf::with(&[(LEAD_ID, &avsc)]));
        let body = [case.datum.as_slice(), &[1]].concat();
        let decoded = decode_now(&decoder, batch(vec![event(0, Some(LEAD_ID), body)]));
        assert_eq!(decoded.rejects, [], "{avsc}");
        let batch = &decoded.batches[0];
        let Some(column) = batch.column_by_name("f") else {
            assert_eq!(arrow, "no column", "{avsc}");
            let notes = schema_notes(&avsc).expect("notes");
            assert_eq!(notes.last().map(String::as_str), Some("the field `f` holds only nulls and has no column"));
            continue;
        };
        assert_eq!(at(column, 0), case.value, "{avsc}");
        let shown = |data_type: &DataType| match data_type {
            DataType::Timestamp(..) => "`Timestamp(µs, \"UTC\")`".to_owned(),
            DataType::Decimal128(..) => "`Decimal128(p, s)`".to_owned(),
            DataType::List(_) => "`List`".to_owned(),
            DataType::Map(..) => "`Map`".to_owned(),
            DataType::Struct(_) => "`Struct`".to_owned(),
            other => format!("`{other}`"),
        };
        let schema = batch.schema();
        let kernel: StructType = schema.as_ref().try_into_kernel().expect("a Delta schema");
        let found = kernel.field("f").expect("a field").data_type().to_string();
        let delta_name = found.split(['(', '<', ':']).next().expect("a name").to_owned();
        if arrow.starts_with('`') {
            assert_eq!(&shown(column.data_type()), arrow, "{avsc}");
            let first = delta.trim_start_matches('`').split(['(', '<', '`']).next().expect("a name");
            assert_eq!(delta_name, first, "{avsc}: {found}");
        }
    }
}

#[test]
fn a_batch_equals_the_arrow_schema_of_its_table() {
    let nested = json!({"type": "record", "name": "Root", "fields": [
        {"name": "deep", "type": ["null", {"type": "array", "items": {"type": "map", "values": {
            "type": "record", "name": "Inner", "fields": [
                {"name": "at", "type": logical("long", "timestamp-micros")},
                {"name": "either", "type": ["int", "null", "string"]},
                {"name": "money", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10}]}
            ]}}}]}
    ]});
    let cases = cases();
    let schemas = cases.iter().map(schema_of).chain([nested.to_string(), LEAD.to_owned()]);
    for schema in schemas.map(|avsc| arrow_schema_of(&avsc).expect("a schema")).chain([raw_schema()]) {
        let table: StructType = schema.as_ref().try_into_kernel().expect("a Delta schema");
        let back: arrow::datatypes::Schema = (&table).try_into_arrow().expect("an Arrow schema");
        assert_eq!(back, *schema);
    }
}

#[test]
fn what_no_table_can_hold_is_refused_by_name() {
    let refused = |field: Json| {
        let avsc = json!({"type": "record", "name": "Root", "fields": [{"name": "f", "type": field}]}).to_string();
        let text = arrow_schema_of(&avsc).expect_err("refused").to_string();
        text.strip_prefix("the schema can't be used: ").expect("the words").to_owned()
    };
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 39, "scale": 2});
    assert_eq!(refused(decimal), "the field `f` is a decimal of 39 digits, and Delta holds at most 38");
    let tree = json!({"type": "record", "name": "Tree", "fields": [{"name": "twigs", "type": {"type": "array", "items": "Tree"}}]});
    assert_eq!(refused(tree), "the field `f.twigs` is of the recursive type `Tree`, which no table can hold");
    assert_eq!(
        refused(json!({"type": "array", "items": "null"})),
        "the field `f` is an array or a map of nothing but nulls"
    );
    assert_eq!(refused(json!({"type": "fixed", "name": "Z", "size": 0})), "the field `f` is a fixed of 0 bytes");
    let empty = json!(["null", "int", {"type": "record", "name": "Gone", "fields": []}]);
    assert_eq!(refused(empty), "the field `f.Gone` is a record that holds nothing, as a branch of a union");
    let mut deep = json!("int");
    for _ in 0..70 {
        deep = json!({"type": "array", "items": deep});
    }
    assert!(refused(deep).ends_with("lies deeper than 64 levels"));
    assert!(
        arrow_schema_of("{\"type\": \"object\"}").expect_err("refused").to_string().contains("it isn't an Avro schema")
    );
}

#[test]
fn a_few_lines_that_unfold_to_billions_of_columns_are_refused() {
    let mut fields =
        vec![json!({"name": "f0", "type": {"type": "record", "name": "R0", "fields": [{"name": "x", "type": "int"}]}})];
    for level in 1..40 {
        let inner = format!("R{}", level - 1);
        let doubled = json!([{"name": "a", "type": inner}, {"name": "b", "type": inner}]);
        fields.push(json!({"name": format!("f{level}"), "type": {"type": "record", "name": format!("R{level}"), "fields": doubled}}));
    }
    let avsc = json!({"type": "record", "name": "Root", "fields": fields}).to_string();
    let text = arrow_schema_of(&avsc).expect_err("refused").to_string();
    assert!(text.ends_with("it unfolds to more than 10000 places"), "{text}");
}

#[test]
fn a_root_that_is_no_record_is_the_column_value() {
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, r#"{"type": "array", "items": "int"}"#)]));
    let decoded = decode_now(&decoder, batch(vec![event(0, Some(LEAD_ID), vec![2, 14, 0])]));
    assert_eq!(payload(&decoded.batches[0], 0), json!({"value": [7]}));
}

#[test]
fn a_root_without_columns_still_gives_rows() {
    for avsc in [r#""null""#, r#"{"type": "record", "name": "Ping", "fields": []}"#] {
        let decoder = by_content_type(Shelf::with(&[(LEAD_ID, avsc)]));
        let decoded =
            decode_now(&decoder, batch(vec![event(0, Some(LEAD_ID), vec![]), event(1, Some(LEAD_ID), vec![0])]));
        assert_eq!(sequence_numbers(&decoded.batches[0]), [0], "{avsc}");
        assert_eq!(decoded.rejects[0].text, "the datum ends here, and 1 bytes follow, at byte 0");
    }
}

#[test]
fn named_types_are_found_wherever_they_are_used() {
    let avsc = r#"{"type": "record", "name": "Root", "namespace": "a.b", "fields": [
        {"name": "one", "type": {"type": "record", "name": "c.Point", "fields": [
            {"name": "x", "type": {"type": "enum", "name": "Axis", "symbols": ["P", "Q"]}}]}},
        {"name": "two", "type": ["null", "c.Point"]},
        {"name": "three", "type": {"type": "array", "items": "c.Axis"}},
        {"name": "sum", "type": {"type": "fixed", "name": "Sum", "size": 2, "logicalType": "decimal", "precision": 4}},
        {"name": "total", "type": "Sum"}
    ]}"#;
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, avsc)]));
    let body = vec![0, 2, 2, 2, 0, 0, 0, 7, 0xFF, 0xFF];
    let decoded = decode_now(&decoder, batch(vec![event(0, Some(LEAD_ID), body)]));
    assert_eq!(decoded.rejects, []);
    assert_eq!(
        payload(&decoded.batches[0], 0),
        json!({"one": {"x": "P"}, "two": {"x": "Q"}, "three": ["P"], "sum": "7", "total": "-1"})
    );
}

#[test]
fn clashing_fields_get_columns_of_their_own_and_a_note() {
    let avsc = r#"{"type": "record", "name": "Root", "fields": [
        {"name": "_offset", "type": "int"}, {"name": "id", "type": "int"}, {"name": "ID", "type": "int"},
        {"name": "inner", "type": {"type": "record", "name": "I", "fields": [{"name": "_offset", "type": "int"}]}}]}"#;
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, avsc)]));
    let decoded = decode_now(&decoder, batch(vec![event(3, Some(LEAD_ID), vec![2, 4, 6, 8])]));
    let rows = &decoded.batches[0];
    assert_eq!(payload(rows, 0), json!({"_x005F_offset": 1, "id": 2, "_x0049_D": 3, "inner": {"_offset": 4}}));
    assert_eq!(rows[bronze::OFFSET].as_string::<i32>().value(0), "300");
    assert_eq!(field_name("_x0049_D"), "ID");
    assert_eq!(
        schema_notes(avsc).expect("notes"),
        ["the field `_offset` is the column `_x005F_offset`", "the field `ID` is the column `_x0049_D`"]
    );
}
