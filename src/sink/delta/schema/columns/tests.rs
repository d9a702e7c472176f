use arrow::array::{Array, AsArray};
use arrow::datatypes::Field;
use arrow::json::writer::LineDelimited;
use arrow::json::{ReaderBuilder, WriterBuilder};
use serde_json::{Value as Json, json};

use super::*;
use crate::columns::{BRANCH, DEFAULT, with, with_aliases};

fn schema(fields: Vec<Field>) -> SchemaRef {
    let envelope = Field::new(bronze::RESCUED, DataType::Utf8, true);
    Arc::new(Schema::new(fields.into_iter().chain([envelope]).collect::<Vec<_>>()))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn record(fields: Vec<Field>) -> DataType {
    DataType::Struct(fields.into())
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(field("element", element)))
}

fn map(value: DataType) -> DataType {
    let pair = vec![Field::new("key", DataType::Utf8, false), field("value", value)];
    DataType::Map(Arc::new(Field::new("key_value", record(pair), false)), false)
}

/// A union of branches that are called as their types.
fn union_of(branches: Vec<(&str, DataType)>) -> DataType {
    record(branches.into_iter().map(|(name, of)| with(field(name, of), BRANCH, name.to_owned())).collect())
}

fn rows(schema: &SchemaRef, rows: &[Json]) -> RecordBatch {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).build_decoder().expect("a decoder");
    decoder.decode(lines.as_bytes()).expect("rows");
    decoder.flush().expect("rows").expect("some")
}

/// Each row as JSON, without what is null; what was rescued is parsed.
fn shown(batch: &RecordBatch) -> Vec<Json> {
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().build::<_, LineDelimited>(&mut bytes);
    writer.write(batch).expect("written");
    writer.finish().expect("ended");
    let lines = String::from_utf8(bytes).expect("text");
    let parsed = |line: &str| {
        let mut row: Json = serde_json::from_str(line).expect("JSON");
        if let Some(rescued) = row.get_mut(bronze::RESCUED) {
            *rescued = serde_json::from_str(rescued.as_str().expect("a text")).expect("an object");
        }
        row
    };
    lines.lines().map(parsed).collect()
}

const PIN: Policy = Policy { on_schema_change: OnSchemaChange::Pin, defaults: Defaults::Ignored };
const FAIL: Policy = Policy { on_schema_change: OnSchemaChange::Fail, defaults: Defaults::Ignored };
const DEFAULTS: Policy = Policy { on_schema_change: OnSchemaChange::Evolve, defaults: Defaults::Used };

/// Rows of fields in a table of columns that doesn't gain any.
fn aligned(columns: Vec<Field>, fields: Vec<Field>, given: &[Json]) -> Vec<Json> {
    let columns = TableColumns::new(schema(columns), PIN);
    let batch = rows(&schema(fields), given);
    shown(&columns.align(&batch, &mut Rescued::new()).expect("aligned"))
}

/// One field in one column of another type.
fn turned(column: DataType, of: DataType, values: &[Json]) -> Vec<Json> {
    let given: Vec<_> = values.iter().map(|value| json!({"f": value})).collect();
    aligned(vec![field("f", column)], vec![field("f", of)], &given)
}

#[test]
fn what_a_writer_lacks_is_null_and_what_has_no_column_is_rescued() {
    let columns = vec![field("id", DataType::Int64), field("more", DataType::Utf8)];
    let fields = vec![field("id", DataType::Int64), field("new", DataType::Utf8)];
    assert_eq!(
        aligned(columns, fields, &[json!({"id": 1, "new": "x"}), json!({"id": 2})]),
        [json!({"id": 1, "_rescued": {"new": "x"}}), json!({"id": 2})]
    );
}

#[test]
fn numbers_and_texts_go_where_they_are_held_exactly() {
    use DataType::{Binary, Float64, Int32, Int64, Utf8};
    assert_eq!(
        turned(Float64, Int64, &[json!(7), json!(9_007_199_254_740_993_i64), Json::Null, json!(i64::MAX)]),
        [
            json!({"f": 7.0}),
            json!({"_rescued": {"f": 9_007_199_254_740_993_i64}}),
            json!({}),
            json!({"_rescued": {"f": i64::MAX}})
        ]
    );
    assert_eq!(
        turned(Int32, Int64, &[json!(7), json!(1_i64 << 40)]),
        [json!({"f": 7}), json!({"_rescued": {"f": 1_i64 << 40}})]
    );
    assert_eq!(turned(Int64, Float64, &[json!(7.0)]), [json!({"_rescued": {"f": 7.0}})]);
    assert_eq!(turned(Int64, Utf8, &[json!("7")]), [json!({"_rescued": {"f": "7"}})]);
    assert_eq!(turned(Utf8, Int64, &[json!(7)]), [json!({"_rescued": {"f": 7}})]);
    assert_eq!(
        turned(Utf8, Binary, &[json!("c3bc"), json!("ff")]),
        [json!({"f": "ü"}), json!({"_rescued": {"f": "/w=="}})]
    );
    assert_eq!(turned(Binary, Utf8, &[json!("ü")]), [json!({"f": "c3bc"})]);
    let decimal = |precision, scale| DataType::Decimal128(precision, scale);
    assert_eq!(
        turned(decimal(6, 2), decimal(5, 1), &[json!("12.5"), json!("9999.9")]),
        [json!({"f": 12.50}), json!({"f": 9999.90})]
    );
    assert_eq!(
        turned(decimal(4, 1), decimal(5, 2), &[json!("12.50"), json!("12.55"), json!("999.99")]),
        [json!({"f": 12.5}), json!({"_rescued": {"f": "12.55"}}), json!({"_rescued": {"f": "999.99"}})]
    );
}

#[test]
fn what_is_not_a_number_is_rescued_by_its_name() {
    let batch = RecordBatch::try_new(
        Arc::new(Schema::new(vec![field("f", DataType::Float64)])),
        vec![Arc::new(arrow::array::Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY, 0.1]))],
    )
    .expect("rows");
    let columns = TableColumns::new(schema(vec![field("f", DataType::Utf8)]), Policy::default());
    let mut rescued = Rescued::new();
    let rows = columns.align(&batch, &mut rescued).expect("aligned");
    let texts: Vec<_> = rows.column(1).as_string::<i32>().iter().flatten().collect();
    assert_eq!(texts, [r#"{"f":"NaN"}"#, r#"{"f":"-inf"}"#, r#"{"f":0.1}"#]);
    assert_eq!(rescued, Rescued::from([("f".to_owned(), 3)]));
}

#[test]
fn of_a_record_only_what_does_not_fit_is_rescued() {
    let column = record(vec![field("city", DataType::Utf8), field("zip", DataType::Int64)]);
    let of = record(vec![field("zip", DataType::Utf8), field("city", DataType::Utf8), field("floor", DataType::Int64)]);
    assert_eq!(
        turned(
            column,
            of,
            &[
                json!({"city": "Ulm", "zip": "89073", "floor": 2}),
                json!({"city": "Ulm"}),
                Json::Null,
                json!({"zip": "1"})
            ]
        ),
        [
            json!({"f": {"city": "Ulm"}, "_rescued": {"f": {"zip": "89073", "floor": 2}}}),
            json!({"f": {"city": "Ulm"}}),
            json!({}),
            json!({"f": {}, "_rescued": {"f": {"zip": "1"}}})
        ]
    );
}

#[test]
fn lists_and_maps_keep_what_fits_and_rescue_the_rest_at_its_place() {
    let column = || record(vec![field("a", DataType::Int64)]);
    let of = || record(vec![field("a", DataType::Int64), field("b", DataType::Utf8)]);
    assert_eq!(
        turned(
            list(column()),
            list(of()),
            &[json!([{"a": 1}, {"a": 2, "b": "x"}]), json!([{"a": 3}]), json!([]), Json::Null]
        ),
        [
            json!({"f": [{"a": 1}, {"a": 2}], "_rescued": {"f": [null, {"b": "x"}]}}),
            json!({"f": [{"a": 3}]}),
            json!({"f": []}),
            json!({})
        ]
    );
    assert_eq!(
        turned(map(column()), map(of()), &[json!({"k": {"a": 1}, "l": {"a": 2, "b": "x"}}), json!({"k": {"a": 3}})]),
        [
            json!({"f": {"k": {"a": 1}, "l": {"a": 2}}, "_rescued": {"f": {"l": {"b": "x"}}}}),
            json!({"f": {"k": {"a": 3}}})
        ]
    );
    // A list of what can't be held is rescued as a whole, also where it is empty.
    assert_eq!(
        turned(list(DataType::Int64), list(DataType::Utf8), &[json!(["1"]), json!([])]),
        [json!({"_rescued": {"f": ["1"]}}), json!({"_rescued": {"f": []}})]
    );
    assert_eq!(turned(map(DataType::Float64), map(DataType::Int64), &[json!({"k": 1})]), [json!({"f": {"k": 1.0}})]);
}

#[test]
fn a_union_gives_the_branch_that_its_column_holds() {
    let of = || union_of(vec![("string", DataType::Utf8), ("int", DataType::Int64)]);
    assert_eq!(
        turned(DataType::Int64, of(), &[json!({"int": 1}), json!({"string": "x"}), Json::Null]),
        [json!({"f": 1}), json!({"_rescued": {"f": {"string": "x"}}}), json!({})]
    );
    // No branch is of the column's type, and the nearest is promoted.
    assert_eq!(turned(DataType::Float64, of(), &[json!({"int": 1})]), [json!({"f": 1.0})]);
    assert_eq!(turned(DataType::Boolean, of(), &[json!({"int": 1})]), [json!({"_rescued": {"f": {"int": 1}}})]);
}

#[test]
fn a_unions_column_takes_values_into_the_branch_that_holds_them() {
    let column = || union_of(vec![("string", DataType::Utf8), ("double", DataType::Float64)]);
    assert_eq!(turned(column(), DataType::Utf8, &[json!("x"), Json::Null]), [json!({"f": {"string": "x"}}), json!({})]);
    assert_eq!(
        turned(column(), DataType::Int64, &[json!(2), json!(i64::MAX)]),
        [json!({"f": {"double": 2.0}}), json!({"_rescued": {"f": i64::MAX}})]
    );
    assert_eq!(turned(column(), DataType::Boolean, &[json!(true)]), [json!({"_rescued": {"f": true}})]);
    // Branches of a union go to the branches of their names.
    let of = union_of(vec![("double", DataType::Float64), ("boolean", DataType::Boolean)]);
    assert_eq!(
        turned(column(), of, &[json!({"double": 0.5}), json!({"boolean": true})]),
        [json!({"f": {"double": 0.5}}), json!({"f": {}, "_rescued": {"f": {"boolean": true}}})]
    );
    // Which of two records is meant can't be told.
    let point = |name: &'static str| (name, record(vec![field("x", DataType::Int64)]));
    let column = union_of(vec![point("P"), point("Q")]);
    assert_eq!(
        turned(column, record(vec![field("y", DataType::Int64)]), &[json!({"y": 1})]),
        [json!({"_rescued": {"f": {"y": 1}}})]
    );
}

#[test]
fn an_old_name_leads_to_the_same_column() {
    let columns = || vec![with_aliases(field("full_name", DataType::Utf8), &["name".to_owned()])];
    let old = aligned(columns(), vec![field("name", DataType::Utf8)], &[json!({"name": "Ada"})]);
    assert_eq!(old, [json!({"full_name": "Ada"})]);
    let renamed = with_aliases(field("called", DataType::Utf8), &["full_name".to_owned()]);
    let new = aligned(columns(), vec![renamed], &[json!({"called": "Ada"})]);
    assert_eq!(new, [json!({"full_name": "Ada"})]);
}

#[test]
fn a_missing_field_takes_its_default_where_that_is_declared() {
    let inner =
        record(vec![field("a", DataType::Int64), with(field("b", DataType::Utf8), DEFAULT, "\"x\"".to_owned())]);
    let columns = schema(vec![
        with(field("n", DataType::Int64), DEFAULT, "5".to_owned()),
        with(field("tags", list(DataType::Utf8)), DEFAULT, r#"["new"]"#.to_owned()),
        with(field("torn", DataType::Int64), DEFAULT, "nonsense".to_owned()),
        field("inner", list(inner)),
    ]);
    let fields = schema(vec![field("inner", list(record(vec![field("a", DataType::Int64)])))]);
    let batch = rows(&fields, &[json!({"inner": [{"a": 1}, null]}), json!({})]);
    let of = |policy| {
        let rows = TableColumns::new(Arc::clone(&columns), policy).align(&batch, &mut Rescued::new());
        shown(&rows.expect("aligned"))
    };
    assert_eq!(
        of(DEFAULTS),
        [json!({"n": 5, "tags": ["new"], "inner": [{"a": 1, "b": "x"}, null]}), json!({"n": 5, "tags": ["new"]})]
    );
    assert_eq!(of(Policy::default()), [json!({"inner": [{"a": 1}, null]}), json!({})]);
    // What was written as null is null.
    let with_null = rows(&schema(vec![field("n", DataType::Int64)]), &[json!({"n": null})]);
    let kept = TableColumns::new(columns, DEFAULTS).align(&with_null, &mut Rescued::new()).expect("aligned");
    assert!(kept.column(0).is_null(0));
}

#[test]
fn what_was_rescued_before_stays() {
    let columns = TableColumns::new(schema(vec![field("id", DataType::Int64)]), PIN);
    let batch = rows(
        &schema(vec![field("new", DataType::Int64)]),
        &[json!({"new": 1, "_rescued": "{\"old\":2}"}), json!({"_rescued": "{\"old\":3}"})],
    );
    let rows = columns.align(&batch, &mut Rescued::new()).expect("aligned");
    assert_eq!(shown(&rows), [json!({"_rescued": {"old": 2, "new": 1}}), json!({"_rescued": {"old": 3}})]);
}

#[test]
fn a_fixed_table_gains_nothing_once_it_has_columns() {
    let known = schema(vec![field("id", DataType::Int64)]);
    let new = schema(vec![field("id", DataType::Int64), field("new", DataType::Utf8)]);
    let batch = rows(&new, &[json!({"id": 1, "new": "x"})]);
    let nothing = Schema::empty();
    for policy in [PIN, FAIL] {
        let columns = TableColumns::new(Arc::clone(&known), policy);
        assert!(!columns.grow_by(batch.schema_ref()));
        assert_eq!(columns.grown(&nothing, [&batch]), None);
        let (declared, _) = columns.grown(&new, [&batch]).expect("what is declared is added");
        assert_eq!(declared, *new);
        let empty = TableColumns::new(schema(vec![]), policy);
        assert!(empty.grow_by(batch.schema_ref()));
        assert_eq!(empty.misfit(&batch).expect("sound arrays"), None);
    }
}

#[test]
fn the_policy_fail_names_the_field() {
    let columns = || {
        vec![
            field("id", DataType::Int64),
            field("score", DataType::Float64),
            field("lines", list(record(vec![field("zip", DataType::Int64)]))),
        ]
    };
    let misfit = |fields: Vec<Field>, row: Json| {
        let batch = rows(&schema(fields), &[row]);
        let columns = TableColumns::new(schema(columns()), FAIL);
        columns.misfit(&batch).expect("sound arrays").map(|misfit| misfit.to_string())
    };
    assert_eq!(misfit(columns(), json!({"id": 1})), None);
    assert_eq!(misfit(vec![field("id", DataType::Int64)], json!({"id": 1})), None);
    assert_eq!(misfit(vec![field("score", DataType::Int64)], json!({"score": 1})), None);
    assert_eq!(
        misfit(vec![field("score", DataType::Int64)], json!({"score": i64::MAX})).as_deref(),
        Some("the field `score` has values that its column can't hold")
    );
    assert_eq!(
        misfit(vec![field("new", DataType::Int64)], json!({})).as_deref(),
        Some("the field `new` has no column")
    );
    let lines = |inner: Field| vec![field("lines", list(record(vec![inner])))];
    assert_eq!(
        misfit(lines(field("zip", DataType::Utf8)), json!({})).as_deref(),
        Some("the field `lines.zip` is `string`, and its column is `long`")
    );
    assert_eq!(
        misfit(lines(field("city", DataType::Utf8)), json!({})).as_deref(),
        Some("the field `lines.city` has no column")
    );
    // What decoding has rescued is JSON that its schema doesn't know.
    let rescued = |left: Json| misfit(columns(), json!({"id": 1, "_rescued": left}));
    assert_eq!(rescued(Json::Null), None);
    assert_eq!(
        rescued(json!(r#"{"city":"Bern"}"#)).as_deref(),
        Some("the field `city` holds what the schema has no field for")
    );
}

#[test]
fn a_table_does_not_grow_beyond_what_can_be_read() {
    let wide = |from: usize| {
        let inner = (from..from + COLUMNS_MAX / 2).map(|at| field(&format!("f{at}"), DataType::Int64)).collect();
        let batch = schema(vec![field("wide", record(inner))]);
        rows(&batch, &[json!({"wide": {format!("f{from}"): 1}})])
    };
    let (one, two) = (wide(0), wide(COLUMNS_MAX));
    let columns = TableColumns::new(schema(vec![]), Policy::default());
    let (grown, changes) = columns.grown(&Schema::empty(), [&one, &two]).expect("the first fits");
    assert_eq!((grown, changes.added.as_slice()), (one.schema().as_ref().clone(), &["wide".to_owned()][..]));
    let columns = columns.with_schema(&one.schema());
    assert!(!columns.grow_by(two.schema_ref()));
    let mut rescued = Rescued::new();
    let kept = columns.align(&two, &mut rescued).expect("aligned");
    assert_eq!(shown(&kept)[0][bronze::RESCUED], json!({"wide": {format!("f{COLUMNS_MAX}"): 1}}));
}
