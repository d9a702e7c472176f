//! Schemas that change under a table: what was written by one version is read right beside another.

use std::path::Path;

use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use futures::TryStreamExt as _;
use sluicebox::catalog::log::log_store;
use sluicebox::catalog::scan::scan;
use sluicebox::checkpoint::Range;
use sluicebox::config::spec::OnSchemaChange;
use sluicebox::sink::delta::SinkError;
use sluicebox::sink::delta::schema::{Defaults, Policy};
use sluicebox::sink::delta::staged::Staged;
use sluicebox::sink::delta::writer::{Flushed, TableWriter};

use super::*;
use crate::ahead::encoded;
use crate::sink::{location, open_with};

/// Schemas by their number, and events that were written with them.
struct Versions(Vec<String>);

impl Versions {
    /// Records of these fields each.
    fn of(versions: &[Json]) -> Self {
        let schema = |fields: &Json| json!({"type": "record", "name": "R", "fields": fields}).to_string();
        Self(versions.iter().map(schema).collect())
    }

    fn id(version: usize) -> String {
        format!("{version:032x}")
    }

    fn decoder(&self) -> Decoder {
        let ids: Vec<_> = (0..self.0.len()).map(Self::id).collect();
        let schemas: Vec<_> = ids.iter().zip(&self.0).map(|(id, avsc)| (id.as_str(), avsc.as_str())).collect();
        by_content_type(Shelf::with(&schemas))
    }

    /// Decoded events from the number `from` on, each of its version.
    async fn staged(&self, from: i64, events: &[(usize, Json)]) -> Staged {
        let events: Vec<_> = (from..)
            .zip(events)
            .map(|(number, (version, value))| {
                let schema = Schema::parse_str(&self.0[*version]).expect("a schema");
                let value = Value::try_from(value.clone()).and_then(|value| value.resolve(&schema)).expect("a value");
                event(number, Some(&Self::id(*version)), encode(&schema, value))
            })
            .collect();
        let numbers = events.iter().map(|event| (event.sequence_number, event.enqueued_at)).collect();
        let range = Range::new(from, from + events.len() as i64);
        let batch = batch(events);
        let decoded = self.decoder().decode(Arc::clone(&batch)).await.expect("decoded");
        assert_eq!(decoded.rejects, []);
        let partition = batch.partition.clone();
        Staged {
            partition,
            range,
            events: numbers,
            elsewhere: Vec::new(),
            batches: decoded.batches,
            encoded: None,
            rejects: Vec::new(),
        }
    }
}

async fn take(writer: &mut TableWriter, staged: Staged) -> Flushed {
    writer.flush(&[staged]).await.expect("a flush lands")
}

/// The payload's columns of each row, in the order of their numbers, without what is null.
async fn rows(dir: &Path) -> Vec<Json> {
    let store = log_store(&location(dir, "leads")).expect("the table has a log");
    let batches: Vec<RecordBatch> = scan(&store, "SELECT * FROM t ORDER BY _sequence_number")
        .await
        .expect("the table can be read")
        .try_collect()
        .await
        .expect("its rows can be read");
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().build::<_, LineDelimited>(&mut bytes);
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("ended");
    let shown = |line: &str| {
        let mut row: serde_json::Map<String, Json> = serde_json::from_str(line).expect("JSON");
        let is_envelope = |name: &str| bronze::fields().iter().any(|field| field.name() == name);
        row.retain(|name, _| !is_envelope(name) || name == bronze::RESCUED);
        Json::Object(row)
    };
    String::from_utf8(bytes).expect("text").lines().map(shown).collect()
}

/// What stands in the `commitInfo` of a version under a key.
fn said(dir: &Path, version: u64, key: &str) -> Json {
    let path = dir.join(format!("leads/_delta_log/{version:020}.json"));
    let text = std::fs::read_to_string(path).expect("a commit");
    let actions = text.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    actions.filter_map(|action| action.get("commitInfo").cloned()).next().expect("it says who made it")[key].clone()
}

const EVOLVE: Policy = Policy { on_schema_change: OnSchemaChange::Evolve, defaults: Defaults::Ignored };
const DEFAULTS: Policy = Policy { on_schema_change: OnSchemaChange::Evolve, defaults: Defaults::Used };
const PIN: Policy = Policy { on_schema_change: OnSchemaChange::Pin, defaults: Defaults::Ignored };
const FAIL: Policy = Policy { on_schema_change: OnSchemaChange::Fail, defaults: Defaults::Ignored };

fn renamed() -> Versions {
    Versions::of(&[
        json!([{"name": "name", "type": "string"}]),
        json!([{"name": "full_name", "type": "string", "aliases": ["name"]}]),
        json!([{"name": "called", "type": "string", "aliases": ["full_name"]}]),
    ])
}

#[tokio::test]
async fn a_field_that_is_renamed_keeps_its_column_whichever_version_comes_first() {
    let versions = renamed();
    for (order, column) in [([0, 1, 2], "name"), ([1, 0, 2], "full_name"), ([1, 2, 0], "full_name")] {
        let dir = tempfile::tempdir().expect("a folder");
        for (number, version) in (0..).zip(order.into_iter().cycle().take(6)) {
            // Another process each time: what was learned stands in the table.
            let mut writer = open_with(dir.path(), EVOLVE).await;
            let field = ["name", "full_name", "called"][version];
            let staged = versions.staged(number, &[(version, json!({field: format!("Ada {number}")}))]).await;
            take(&mut writer, staged).await;
        }
        let expected: Vec<_> = (0..6).map(|number| json!({column: format!("Ada {number}")})).collect();
        assert_eq!(rows(dir.path()).await, expected, "{order:?}");
    }
}

#[tokio::test]
async fn versions_within_one_flush_are_joined_in_their_order() {
    let versions = renamed();
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), EVOLVE).await;
    let events = [
        (1, json!({"full_name": "a"})),
        (0, json!({"name": "b"})),
        (2, json!({"called": "c"})),
        (0, json!({"name": "d"})),
    ];
    let staged = versions.staged(0, &events).await;
    assert_eq!(staged.batches.len(), 3, "one for each version");
    let flushed = take(&mut writer, staged).await;
    assert_eq!(flushed.schema_changes, 1, "one commit for all of them");
    let names: Vec<_> = rows(dir.path()).await.into_iter().map(|row| row["full_name"].clone()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_schema_change_is_a_commit_that_says_what_it_brought() {
    let versions = Versions::of(&[
        json!([{"name": "id", "type": "int"}]),
        json!([{"name": "id", "type": "long"}, {"name": "place", "type": ["null", {"type": "record", "name": "P",
            "fields": [{"name": "city", "type": "string", "default": "Ulm"}]}], "default": null}]),
        json!([{"name": "number", "type": "long", "aliases": ["id"]}, {"name": "place", "type": {"type": "record",
            "name": "P", "fields": [{"name": "zip", "type": "string"}]}}]),
    ]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), EVOLVE).await;
    take(&mut writer, versions.staged(0, &[(0, json!({"id": 1}))]).await).await;
    let place = json!({"id": 2, "place": {"city": "Bonn"}});
    let flushed = take(&mut writer, versions.staged(1, &[(1, place)]).await).await;
    let version = flushed.version.expect("it landed") - 1;
    assert_eq!(said(dir.path(), version, "sluiceColumns"), json!({"added": ["place"]}));
    assert_eq!(said(dir.path(), version, "sluiceSchemas"), json!([Versions::id(1)]));

    let place = json!({"number": 3, "place": {"zip": "89073"}});
    let flushed =
        take(&mut writer, versions.staged(2, &[(2, place), (1, json!({"id": 4, "place": null}))]).await).await;
    let version = flushed.version.expect("it landed") - 1;
    assert_eq!(
        said(dir.path(), version, "sluiceColumns"),
        json!({"added": ["place.zip"], "aliases": {"id": ["number"]}})
    );
    assert_eq!(
        rows(dir.path()).await,
        [
            json!({"id": 1}),
            json!({"id": 2, "place": {"city": "Bonn"}}),
            json!({"id": 3, "place": {"zip": "89073"}}),
            json!({"id": 4})
        ]
    );
}

/// A field of each kind of nesting, around records of these fields.
fn nested(fields: &Json) -> Json {
    let record = |name: &str| json!({"type": "record", "name": name, "fields": fields});
    json!([
        {"name": "one", "type": record("One")},
        {"name": "many", "type": {"type": "array", "items": record("Many")}},
        {"name": "by_key", "type": {"type": "map", "values": {"type": "array", "items": ["null", record("Keyed")]}}},
        {"name": "either", "type": ["string", record("Either")]},
    ])
}

#[tokio::test]
async fn records_gain_fields_wherever_they_lie() {
    let versions = Versions::of(&[
        nested(&json!([{"name": "a", "type": "int"}])),
        nested(&json!([{"name": "b", "type": "string", "default": "none"}, {"name": "a", "type": "long"}])),
    ]);
    let old = json!({"one": {"a": 1}, "many": [{"a": 1}], "by_key": {"k": [null, {"a": 1}]}, "either": {"a": 1}});
    let inner = json!({"a": 2, "b": "x"});
    let new = json!({"one": inner, "many": [inner], "by_key": {"k": [inner]}, "either": inner});
    for (policy, more) in [(EVOLVE, json!({"a": 1})), (DEFAULTS, json!({"a": 1, "b": "none"}))] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut writer = open_with(dir.path(), policy).await;
        take(&mut writer, versions.staged(0, &[(0, old.clone())]).await).await;
        take(&mut writer, versions.staged(1, &[(1, new.clone()), (0, old.clone())]).await).await;
        let row = |inner: &Json, before: Vec<Json>| {
            let list: Vec<_> = before.into_iter().chain([inner.clone()]).collect();
            json!({"one": inner, "many": [inner], "by_key": {"k": list}, "either": {"Either": inner}})
        };
        let first = row(&json!({"a": 1}), vec![Json::Null]);
        assert_eq!(rows(dir.path()).await, [first, row(&inner, vec![]), row(&more, vec![Json::Null])]);
    }
}

#[tokio::test]
async fn a_branch_that_is_renamed_keeps_its_column() {
    let point = |name: &str, aliases: Json| {
        json!([{"name": "at", "type": ["null", "string", {"type": "record", "name": name, "aliases": aliases,
            "fields": [{"name": "x", "type": "int"}]}]}])
    };
    let versions = Versions::of(&[point("Point", json!([])), point("Place", json!(["a.b.Point"]))]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), EVOLVE).await;
    for (number, version) in (0..).zip([0, 1, 0]) {
        take(&mut writer, versions.staged(number, &[(version, json!({"at": {"x": number}}))]).await).await;
    }
    let expected: Vec<_> = (0..3).map(|number| json!({"at": {"Point": {"x": number}}})).collect();
    assert_eq!(rows(dir.path()).await, expected);
}

#[tokio::test]
async fn what_a_column_can_not_hold_is_rescued_counted_and_told() {
    let versions = Versions::of(&[
        json!([{"name": "id", "type": "long"}, {"name": "score", "type": "double"}]),
        json!([{"name": "id", "type": "string"}, {"name": "score", "type": "long"}]),
    ]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), EVOLVE).await;
    take(&mut writer, versions.staged(0, &[(0, json!({"id": 1, "score": 0.5}))]).await).await;
    let events = [(1, json!({"id": "one", "score": 7})), (1, json!({"id": "two", "score": 9_007_199_254_740_993_i64}))];
    // By the flush, and ahead of it.
    let flushed = take(&mut writer, versions.staged(1, &events).await).await;
    let ahead = encoded(&writer, vec![versions.staged(3, &events).await]).await;
    let again = writer.flush(&ahead).await.expect("a flush lands");
    for flushed in [flushed, again] {
        assert_eq!((flushed.schema_changes, flushed.rescued.len()), (0, 2));
        assert_eq!((flushed.rescued["id"], flushed.rescued["score"]), (2, 1));
        let version = flushed.version.expect("it landed");
        assert_eq!(said(dir.path(), version, "sluiceRescued"), json!({"id": 2, "score": 1}));
    }
    let rescued = [
        json!({"score": 7.0, "_rescued": r#"{"id":"one"}"#}),
        json!({"_rescued": r#"{"id":"two","score":9007199254740993}"#}),
    ];
    let expected: Vec<_> = [json!({"id": 1, "score": 0.5})].into_iter().chain(rescued.clone()).chain(rescued).collect();
    assert_eq!(rows(dir.path()).await, expected);
}

#[tokio::test]
async fn a_pinned_table_keeps_its_columns_and_a_failing_one_its_rows() {
    let versions = Versions::of(&[
        json!([{"name": "id", "type": "long"}]),
        json!([{"name": "id", "type": "long"}, {"name": "more", "type": ["null", "string"]}]),
    ]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), PIN).await;
    // The first rows give the table its columns.
    take(&mut writer, versions.staged(0, &[(0, json!({"id": 0}))]).await).await;
    let more = [(1, json!({"id": 1, "more": "x"})), (1, json!({"id": 2, "more": null}))];
    let flushed = take(&mut writer, versions.staged(1, &more).await).await;
    assert_eq!((flushed.schema_changes, flushed.rescued["more"]), (0, 1));
    let expected = [json!({"id": 0}), json!({"id": 1, "_rescued": r#"{"more":"x"}"#}), json!({"id": 2})];
    assert_eq!(rows(dir.path()).await, expected);

    let mut writer = open_with(dir.path(), FAIL).await;
    let staged = versions.staged(3, &[(1, json!({"id": 3, "more": null}))]).await;
    assert!(!writer.encoder().fits(&staged), "it isn't encoded ahead");
    let refused = writer.flush(&[staged]).await.expect_err("refused");
    let SinkError::SchemaChange { schema, misfit, .. } = &refused else { panic!("{refused}") };
    assert_eq!((schema.as_str(), misfit.to_string().as_str()), (&*Versions::id(1), "the field `more` has no column"));
    take(&mut writer, versions.staged(3, &[(0, json!({"id": 3}))]).await).await;
    assert_eq!(rows(dir.path()).await.len(), 4);
}

#[tokio::test]
async fn rows_that_were_encoded_before_a_rival_changed_the_columns_come_out_right() {
    let versions = Versions::of(&[
        json!([{"name": "id", "type": "long"}, {"name": "n", "type": "string"}]),
        json!([{"name": "id", "type": "long"}, {"name": "n", "type": "long"}]),
        json!([{"name": "key", "type": "long", "aliases": ["id"]}, {"name": "new", "type": "string", "default": "d"}]),
    ]);
    let dir = tempfile::tempdir().expect("a folder");
    let (mut one, mut rival) = (open_with(dir.path(), DEFAULTS).await, open_with(dir.path(), DEFAULTS).await);
    take(&mut one, versions.staged(0, &[(0, json!({"id": 0, "n": "x"}))]).await).await;
    let ahead = encoded(&one, vec![versions.staged(1, &[(1, json!({"id": 1, "n": 5}))]).await]).await;
    take(&mut rival, versions.staged(2, &[(2, json!({"key": 2, "new": "y"}))]).await).await;
    let flushed = one.flush(&ahead).await.expect("a flush lands");
    assert_eq!(flushed.rescued.get("n"), None, "it was rescued when it was encoded, and is told by nobody twice");
    assert_eq!(
        rows(dir.path()).await,
        [
            json!({"id": 0, "n": "x"}),
            json!({"id": 1, "new": "d", "_rescued": r#"{"n":5}"#}),
            json!({"id": 2, "new": "y"})
        ]
    );
}

#[tokio::test]
async fn two_writers_that_bring_different_nested_columns_keep_both() {
    let nested = |field: &str| {
        json!([{"name": "place", "type": {"type": "record", "name": "P",
        "fields": [{"name": field, "type": "string"}]}}])
    };
    let versions = Versions::of(&[nested("city"), nested("zip")]);
    let dir = tempfile::tempdir().expect("a folder");
    let (mut one, mut two) = (open_with(dir.path(), EVOLVE).await, open_with(dir.path(), EVOLVE).await);
    take(&mut one, versions.staged(0, &[(0, json!({"place": {"city": "Ulm"}}))]).await).await;
    take(&mut two, versions.staged(1, &[(1, json!({"place": {"zip": "89073"}}))]).await).await;
    take(&mut one, versions.staged(2, &[(0, json!({"place": {"city": "Bonn"}}))]).await).await;
    assert_eq!(
        rows(dir.path()).await,
        [json!({"place": {"city": "Ulm"}}), json!({"place": {"zip": "89073"}}), json!({"place": {"city": "Bonn"}})]
    );
}

#[tokio::test]
async fn fields_of_one_name_but_for_case_stay_apart_over_versions() {
    let versions = Versions::of(&[
        json!([{"name": "id", "type": "long"}]),
        json!([{"name": "ID", "type": "string"}]),
        json!([{"name": "ID", "type": "string"}, {"name": "id", "type": "long"}]),
    ]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = open_with(dir.path(), EVOLVE).await;
    let events = [(0, json!({"id": 1})), (1, json!({"ID": "x"})), (2, json!({"ID": "y", "id": 2}))];
    for (number, event) in (0..).zip(events) {
        take(&mut writer, versions.staged(number, &[event]).await).await;
    }
    assert_eq!(rows(dir.path()).await, [json!({"id": 1}), json!({"_x0049_D": "x"}), json!({"id": 2, "_x0049_D": "y"})]);
}
