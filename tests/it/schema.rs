//! `sluice schema` against the emulator's registry, a server of Confluent's wire format, and a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use apache_avro::types::Value as Avro;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicebox::decode::ComparedSchema;
use sluicebox::emulator::together::{Emulator, EmulatorOptions};
use sluicebox::emulator::{HubSpec, StoredMessageInput};
use tokio::task::JoinSet;

use crate::lakehouse::{Lakehouse, Said};

const LEAD: &str = r#"{"type":"record","name":"Lead","namespace":"insurer","fields":[
    {"name":"id","type":"string"},{"name":"age","type":"int"},
    {"name":"address","type":{"type":"record","name":"Address","fields":[{"name":"city","type":"string"}]}}]}"#;

/// `age` grows, `address` gains `zip`, `note` comes, `id` becomes a number.
fn lead_2() -> String {
    LEAD.replace(r#""age","type":"int""#, r#""age","type":"long""#)
        .replace(
            r#"{"name":"city","type":"string"}"#,
            r#"{"name":"city","type":"string"},{"name":"zip","type":["null","string"],"default":null}"#,
        )
        .replace(
            r#"{"name":"id","type":"string"}"#,
            r#"{"name":"id","type":"long"},{"name":"note","type":"string","default":""}"#,
        )
}

/// As the first, with an optional field more.
fn lead_3() -> String {
    LEAD.replace(
        r#"{"name":"id","type":"string"}"#,
        r#"{"name":"id","type":"string"},{"name":"note","type":["null","string"],"default":null}"#,
    )
}

fn ran(lake: &Lakehouse, arguments: &[&str], code: i32) -> Said {
    let said = lake.sluice(&[&["schema"], arguments].concat());
    assert_eq!(said.code, Some(code), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said
}

fn told(lake: &Lakehouse, arguments: &[&str], code: i32) -> Value {
    ran(lake, &[arguments, &["--format", "json"]].concat(), code).json()
}

fn file(lake: &Lakehouse, name: &str, text: &str) -> String {
    let path = lake.path().join(name);
    std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a plain path").to_owned()
}

/// A project with this registry, whose pipeline decodes Avro.
fn with_registry(lake: &Lakehouse, registry: &str) {
    let project = lake.path().join("sluice.toml");
    let text = std::fs::read_to_string(&project).expect("the project");
    std::fs::write(&project, format!("{text}\n{registry}\n")).expect("written");
    let pipeline = lake.path().join("pipelines/leads.toml");
    let text = std::fs::read_to_string(&pipeline).expect("the pipeline");
    std::fs::write(&pipeline, text.replace("[decode]\nformat = \"raw\"\n", "")).expect("written");
}

async fn with_emulator() -> (Lakehouse, Emulator) {
    let options = EmulatorOptions { hubs: vec![HubSpec::new("leads", 1)], ..EmulatorOptions::default() };
    let emulator = Emulator::start(options).await.expect("an emulator");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    with_registry(&lake, &format!("[registry.azure]\nendpoint = \"{}\"", emulator.registry().url()));
    (lake, emulator)
}

/// Registers, checks and refuses as every registry has to.
fn registers_and_checks(lake: &Lakehouse, subject: &str) {
    let (one, two, three) =
        (file(lake, "one.avsc", LEAD), file(lake, "two.avsc", &lead_2()), file(lake, "three.avsc", &lead_3()));
    assert!(ran(lake, &["list", subject], 1).stderr.contains("the registry has no"), "it isn't there yet");
    assert_eq!(told(lake, &["check", subject, &one], 0)["against"], json!([]));
    let first = told(lake, &["register", subject, &one], 0);
    assert_eq!((&first["subject"], &first["version"]), (&json!(subject), &json!(1)));
    let again = told(lake, &["register", subject, &one], 0);
    assert_eq!((&again["id"], &again["version"]), (&first["id"], &json!(1)), "the same content is the same version");

    let refused = told(lake, &["register", subject, &two], 1);
    assert_eq!((&refused["compatible"], &refused["against"]), (&json!(false), &json!([1])));
    assert_eq!(
        refused["problems"],
        json!([{"direction": "backward", "version": 1, "path": "id", "kind": "type-mismatch", "message": "`string` can't be read as `long`"}])
    );
    let words = ran(lake, &["check", subject, &two, "--compatibility", "full"], 1).stdout;
    assert!(words.contains("backward, version 1: id: `string` can't be read as `long`"), "{words}");
    assert!(words.contains("forward, version 1: age: `long` can't be read as `int`"), "{words}");
    assert_eq!(
        told(lake, &["list", subject], 0)["versions"].as_array().map(Vec::len),
        Some(1),
        "nothing was registered"
    );

    let second = told(lake, &["register", subject, &two, "--compatibility", "none"], 0);
    assert_eq!(second["version"], 2);
    assert_ne!(second["id"], first["id"]);
    let versions = told(lake, &["list", subject], 0);
    assert_eq!(versions["versions"], json!([{"version": 1, "id": first["id"]}, {"version": 2, "id": second["id"]}]));
    // The third holds against the first, and not against the second.
    for (mode, code, against) in [
        ("backward", 1, json!([2])),
        ("backward-transitive", 1, json!([1, 2])),
        ("forward", 1, json!([2])),
        ("none", 0, json!([2])),
    ] {
        let checked = told(lake, &["check", subject, &three, "--compatibility", mode], code);
        assert_eq!((&checked["mode"], &checked["against"]), (&json!(mode), &against), "{checked}");
        let of: Vec<_> =
            checked["problems"].as_array().expect("a list").iter().map(|problem| &problem["version"]).collect();
        assert!(of.iter().all(|version| **version == json!(2)), "{checked}");
    }
    let checked = told(lake, &["check", subject, &three, "--compatibility", "full", "--against", "1"], 0);
    assert_eq!(checked["compatible"], true);

    let shown = told(lake, &["show", &format!("{subject}@1")], 0);
    let text =
        |shown: &Value| -> Value { serde_json::from_str(shown["schema"].as_str().expect("text")).expect("JSON") };
    assert_eq!(text(&shown), serde_json::from_str::<Value>(LEAD).expect("JSON"));
    assert_eq!(text(&told(lake, &["show", subject], 0)), serde_json::from_str::<Value>(&lead_2()).expect("JSON"));
    let by_id = told(lake, &["show", "--id", first["id"].as_str().expect("an id")], 0);
    assert_eq!(text(&by_id), text(&shown));
    assert!(ran(lake, &["show", &format!("{subject}@7")], 1).stderr.contains("@7"));
    assert!(ran(lake, &["check", subject, "nowhere.avsc"], 1).stderr.contains("`nowhere.avsc` can't be read"));
    let torn = file(lake, "torn.avsc", "{\"type\":");
    assert!(ran(lake, &["register", subject, &torn], 1).stderr.contains("it isn't an Avro schema"));
}

#[tokio::test(flavor = "multi_thread")]
async fn azures_registry_is_listed_checked_and_registered_in() {
    let (lake, emulator) = with_emulator().await;
    registers_and_checks(&lake, "insurer/lead");
    assert_eq!(told(&lake, &["list"], 0), json!({"groups": ["insurer"]}));
    let said = ran(&lake, &["register", "lead", "one.avsc"], 1);
    assert!(said.stderr.contains("it is `group/name`"), "{}", said.stderr);
    // Names and versions beyond a page.
    for number in 0..120 {
        let text = LEAD.replace("Lead", &format!("Lead{number}"));
        emulator.registry().register(&format!("group{number:03}"), "lead", &text).expect("registered");
    }
    assert_eq!(told(&lake, &["list"], 0)["groups"].as_array().map(Vec::len), Some(121));
    emulator.registry().fail_next(1, 503);
    assert_eq!(ran(&lake, &["list"], 3).stdout, "", "an outage isn't an empty registry");
    emulator.stop().await;
}

/// What Confluent's registry is asked here: subjects, versions, registration.
#[derive(Default)]
struct Registry {
    /// Subject, schema; the id is 1 more than the place of the first of this text.
    held: Mutex<Vec<(String, String)>>,
}

impl Registry {
    fn versions(&self, subject: &str) -> Vec<String> {
        let held = self.held.lock().expect("held");
        held.iter().filter(|(of, _)| of == subject).map(|(_, text)| text.clone()).collect()
    }

    fn id(&self, text: &str) -> usize {
        let held = self.held.lock().expect("held");
        held.iter().position(|(_, held)| held == text).map_or(0, |at| at + 1)
    }

    fn told(&self, subject: &str, text: &str) -> Option<Value> {
        let version = self.versions(subject).iter().position(|held| held == text)? + 1;
        Some(json!({"subject": subject, "version": version, "id": self.id(text), "schema": text}))
    }
}

fn not_found() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({"error_code": 40401, "message": "Subject not found."})))
}

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

async fn confluent() -> (String, JoinSet<()>) {
    type Shared = State<Arc<Registry>>;
    let subjects = |State(registry): Shared| async move {
        let mut subjects: Vec<String> = registry.held.lock().expect("held").iter().map(|(of, _)| of.clone()).collect();
        subjects.dedup();
        Json(subjects)
    };
    let versions = |State(registry): Shared, Path(subject): Path<String>| async move {
        let count = registry.versions(&subject).len();
        if count == 0 { Err(not_found()) } else { Ok(Json((1..=count).collect::<Vec<_>>())) }
    };
    let version = |State(registry): Shared, Path((subject, version)): Path<(String, usize)>| async move {
        let text = registry.versions(&subject).get(version - 1).cloned();
        let told: Answer = text.and_then(|text| registry.told(&subject, &text)).map(Json).ok_or_else(not_found);
        told
    };
    let by_id = |State(registry): Shared, Path(id): Path<usize>| async move {
        let held = registry.held.lock().expect("held").get(id - 1).cloned();
        let told: Answer = held.map(|(_, text)| Json(json!({"schema": text}))).ok_or_else(not_found);
        told
    };
    let look_up = |State(registry): Shared, Path(subject): Path<String>, body: String| async move {
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let told: Answer =
            registry.told(&subject, body["schema"].as_str().expect("text")).map(Json).ok_or_else(not_found);
        told
    };
    let register = |State(registry): Shared, Path(subject): Path<String>, body: String| async move {
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let text = body["schema"].as_str().expect("text").to_owned();
        if subject == "frozen" {
            let why = json!({"error_code": 409, "message": "Schema being registered is incompatible"});
            return Err((StatusCode::CONFLICT, Json(why)));
        }
        if registry.told(&subject, &text).is_none() {
            registry.held.lock().expect("held").push((subject, text.clone()));
        }
        Ok(Json(json!({"id": registry.id(&text)})))
    };
    let app = Router::new()
        .route("/subjects", routing::get(subjects))
        .route("/subjects/{subject}", routing::post(look_up))
        .route("/subjects/{subject}/versions", routing::get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", routing::get(version))
        .route("/schemas/ids/{id}", routing::get(by_id))
        .with_state(Arc::new(Registry::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.expect("served") });
    (format!("http://{address}"), tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn confluents_registry_is_listed_checked_and_registered_in() {
    let (url, _tasks) = confluent().await;
    let lake = Lakehouse::new();
    with_registry(&lake, &format!("[registry.confluent]\nurl = \"{url}\""));
    registers_and_checks(&lake, "lead-value");
    assert_eq!(told(&lake, &["list"], 0), json!({"subjects": ["lead-value"]}));
    let said = ran(&lake, &["register", "frozen", "one.avsc"], 1);
    assert!(
        said.stderr.contains("refused the schema (HTTP 409): Schema being registered is incompatible"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn a_folder_is_listed_checked_and_registered_in() {
    let lake = Lakehouse::new();
    file(&lake, "registry/other.avsc", &LEAD.replace("Lead", "Other"));
    with_registry(&lake, "[registry.folder]\npath = \"registry\"");
    registers_and_checks(&lake, "insurer.Lead");
    assert_eq!(told(&lake, &["list"], 0), json!({"subjects": ["insurer.Lead", "insurer.Other"]}));
    assert!(lake.path().join("registry/insurer.Lead.v002.avsc").is_file());
    let said = ran(&lake, &["register", "insurer.Elsewhere", "one.avsc"], 1);
    assert!(said.stderr.contains("the full name of the record"), "{}", said.stderr);
    // A file's name may be an id, but no fingerprint: that is what its content has.
    let other = told(&lake, &["list", "insurer.Other"], 0)["versions"][0]["id"].clone();
    std::fs::rename(lake.path().join("registry/other.avsc"), lake.path().join("registry/0123456789abcdef.avsc"))
        .expect("renamed");
    assert_eq!(told(&lake, &["list", "insurer.Other"], 0)["versions"], json!([{"version": 1, "id": other}]));
    assert_eq!(told(&lake, &["show", "--id", other.as_str().expect("an id")], 0)["id"], other);
    std::fs::rename(lake.path().join("registry/0123456789abcdef.avsc"), lake.path().join("registry/42.avsc"))
        .expect("renamed");
    assert_eq!(told(&lake, &["list", "insurer.Other"], 0)["versions"], json!([{"version": 1, "id": "42"}]));
}

fn event(schema: &str, id: &str, value: Vec<(&str, Avro)>) -> StoredMessageInput {
    let schema = apache_avro::Schema::parse_str(schema).expect("a schema");
    let record = Avro::Record(value.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().expect("a writer");
    let body = writer.write_value_to_vec(record).expect("it fits");
    StoredMessageInput { body: body.into(), content_type: Some(format!("avro/binary+{id}")), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_says_what_becomes_of_a_table_and_so_it_does() {
    let (lake, emulator) = with_emulator().await;
    let id = emulator.registry().register("insurer", "lead", LEAD).expect("registered");
    let city = |more: Vec<(&str, Avro)>| {
        let fields = [("city", Avro::String("Köln".to_owned()))].into_iter().chain(more);
        Avro::Record(fields.map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let first = vec![("id", Avro::String("a".to_owned())), ("age", Avro::Int(7)), ("address", city(vec![]))];
    emulator.broker().append("leads", "0", vec![event(LEAD, &id, first)]).expect("an event");
    assert_eq!(lake.sluice(&["run", "--until-caught-up"]).code, Some(0));

    let two = file(&lake, "two.avsc", &lead_2());
    let found = told(&lake, &["diff", &two], 0);
    assert_eq!(
        (&found["name"], &found["tables"][0]["known_by"]),
        (&json!("insurer.Lead"), &json!("schema-id")),
        "{found}"
    );
    let change = |column: &str, change: &str, table: Value, schema: Value| json!({"column": column, "change": change, "table_type": table, "schema_type": schema});
    let expected = json!([
        change("id", "rescued", json!("string"), json!("long")),
        change("note", "added", json!(null), json!("string")),
        change("address.zip", "added", json!(null), json!("string")),
    ]);
    assert_eq!(found["tables"][0]["columns"], expected, "{found}");
    assert_eq!(found["tables"][0]["unchanged"], 1, "an int and a long are the same column");
    ran(&lake, &["diff", &two, "--exit-code"], 1);
    insta::assert_snapshot!(ran(&lake, &["diff", &two, "leads"], 0).stdout);
    let other = file(&lake, "other.avsc", &LEAD.replace("Lead", "Other"));
    assert_eq!(told(&lake, &["diff", &other], 0)["tables"], json!([]));
    assert_eq!(told(&lake, &["diff", &other, "bronze.leads"], 0)["tables"][0]["known_by"], "named");

    // And so it is.
    let id = emulator.registry().register("insurer", "lead", &lead_2()).expect("registered");
    let zip = Avro::Union(1, Box::new(Avro::String("50667".to_owned())));
    let second = vec![
        ("id", Avro::Long(8)),
        ("note", Avro::String("n".to_owned())),
        ("age", Avro::Long(9)),
        ("address", city(vec![("zip", zip)])),
    ];
    emulator.broker().append("leads", "0", vec![event(&lead_2(), &id, second)]).expect("an event");
    assert_eq!(lake.sluice(&["run", "--until-caught-up"]).code, Some(0));
    let rows = "SELECT id, age, note, address, _rescued FROM bronze.leads ORDER BY _sequence_number";
    assert_eq!(
        lake.sluice(&["query", rows, "--format", "json"]).json(),
        json!([
            {"id": "a", "age": 7, "note": null, "address": {"city": "Köln", "zip": null}, "_rescued": null},
            {"id": null, "age": 9, "note": "n", "address": {"city": "Köln", "zip": "50667"}, "_rescued": "{\"id\":8}"},
        ])
    );
    assert_eq!(
        told(&lake, &["diff", "insurer/lead@2"], 0)["tables"][0]["columns"],
        json!([change("id", "rescued", json!("string"), json!("long"))])
    );
    let unwritten = told(&lake, &["diff", "insurer/lead@1"], 0)["tables"][0]["columns"].clone();
    assert_eq!(
        unwritten,
        json!([
            change("address.zip", "unwritten", json!("string"), json!(null)),
            change("note", "unwritten", json!("string"), json!(null))
        ])
    );
    emulator.stop().await;
}

/// Transforms over `bronze.leads`, by table: what a new column does to each.
const TRANSFORMS: [(&str, &str); 6] = [
    ("silver.named", "SELECT id, age FROM STREAM(bronze.leads)"),
    ("silver.whole", "SELECT * FROM STREAM(bronze.leads)"),
    ("silver.noted", "SELECT *,\n  'none' AS note\nFROM STREAM(bronze.leads)"),
    ("silver.places", "SELECT address FROM STREAM(bronze.leads)"),
    ("gold.copies", "SELECT * FROM STREAM(silver.whole)"),
    ("gold.notes", "SELECT note FROM STREAM(silver.noted)"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_says_what_becomes_of_the_transforms_and_so_it_does() {
    let (lake, emulator) = with_emulator().await;
    let id = emulator.registry().register("insurer", "lead", LEAD).expect("registered");
    let city = Avro::Record(vec![("city".to_owned(), Avro::String("Köln".to_owned()))]);
    let first = vec![("id", Avro::String("a".to_owned())), ("age", Avro::Int(7)), ("address", city)];
    emulator.broker().append("leads", "0", vec![event(LEAD, &id, first)]).expect("an event");
    let mut declared = String::new();
    for (table, sql) in TRANSFORMS {
        let path = format!("sql/{}.sql", table.replace('.', "_"));
        file(&lake, &path, sql);
        declared += &format!(
            "[[transform]]\ntable = \"{table}\"\nowner = \"conversions\"\nsql = \"{path}\"\nmode = \"append\"\n"
        );
    }
    file(&lake, "pipelines/made.toml", &declared);
    let said = lake.sluice(&["run", "--until-caught-up"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);

    // The same schema again: nothing changes, and nothing is said of transforms.
    let one = file(&lake, "one.avsc", LEAD);
    assert_eq!(told(&lake, &["diff", &one], 0)["transforms"], json!([]));
    // A field that is taken away changes no plan, and what reads it is named.
    let fewer = file(&lake, "fewer.avsc", &LEAD.replace(r#"{"name":"age","type":"int"},"#, ""));
    let found = told(&lake, &["diff", &fewer], 0);
    let nulls: BTreeMap<&str, &Value> = found["transforms"]
        .as_array()
        .expect("transforms")
        .iter()
        .map(|one| (one["transform"].as_str().expect("a name"), &one["nulls"]))
        .collect();
    assert_eq!(nulls["silver.named"], &json!(["bronze.leads.age"]), "{found}");
    assert_eq!((nulls["silver.places"], nulls["gold.copies"]), (&json!([]), &json!([])), "{found}");
    assert!(
        found["transforms"].as_array().expect("transforms").iter().all(|one| one["effect"] == "unaffected"),
        "{found}"
    );

    let two = file(&lake, "two.avsc", &lead_2());
    let found = told(&lake, &["diff", &two], 0);
    let by_name: BTreeMap<&str, &Value> = found["transforms"]
        .as_array()
        .expect("transforms")
        .iter()
        .map(|one| (one["transform"].as_str().expect("a name"), one))
        .collect();
    let effect = |name: &str| by_name[name]["effect"].as_str().expect("an effect");
    assert_eq!(effect("silver.named"), "unaffected", "{found}");
    assert_eq!(by_name["silver.named"]["nulls"], json!(["bronze.leads.id"]), "{found}");
    // The column is there already, in fewer parts: a run refuses that, whole or as one of all.
    for name in ["silver.whole", "silver.places"] {
        assert_eq!(effect(name), "breaks", "{found}");
        let problem = &by_name[name]["problems"][0];
        assert!(problem["message"].as_str().is_some_and(|text| text.contains("column `address`")), "{found}");
    }
    let problem = &by_name["silver.noted"]["problems"][0];
    assert_eq!((&problem["file"], &problem["line"]), (&json!("sql/silver_noted.sql"), &json!(1)), "{found}");
    assert_eq!(effect("gold.notes"), "unknown", "{found}");
    let said = ran(&lake, &["diff", &two, "--exit-code"], 1).stdout;
    insta::assert_snapshot!(said);

    // An optional field alone.
    let three = file(&lake, "three.avsc", &lead_3());
    let found = told(&lake, &["diff", &three], 0);
    ran(&lake, &["diff", &three, "--exit-code"], 1);
    let effects: Vec<_> = found["transforms"]
        .as_array()
        .expect("transforms")
        .iter()
        .map(|one| (one["transform"].as_str().expect("a name"), one["effect"].as_str().expect("an effect")))
        .collect();
    let expected = [
        ("silver.named", "unaffected"),
        ("silver.noted", "breaks"),
        ("silver.places", "unaffected"),
        ("silver.whole", "gains-columns"),
        ("gold.copies", "gains-columns"),
        ("gold.notes", "unknown"),
    ];
    assert_eq!(effects.iter().copied().collect::<BTreeSet<_>>(), expected.into_iter().collect(), "{found}");

    // And so it is.
    let id = emulator.registry().register("insurer", "lead", &lead_3()).expect("registered");
    let city = Avro::Record(vec![("city".to_owned(), Avro::String("Köln".to_owned()))]);
    let note = Avro::Union(1, Box::new(Avro::String("n".to_owned())));
    let second = vec![("id", Avro::String("b".to_owned())), ("note", note), ("age", Avro::Int(8)), ("address", city)];
    emulator.broker().append("leads", "0", vec![event(&lead_3(), &id, second)]).expect("an event");
    let said = lake.sluice(&["run", "--until-caught-up"]);
    assert_eq!(said.code, Some(1), "a transform is refused: {}", said.stderr);
    assert!(said.stderr.contains("silver.noted"), "{}", said.stderr);
    let rows = lake.sluice(&["query", "SELECT id, note FROM gold.copies ORDER BY id", "--format", "json"]);
    assert_eq!(rows.json(), json!([{"id": "a", "note": null}, {"id": "b", "note": "n"}]), "{}", rows.stderr);
    emulator.stop().await;
}

#[tokio::test]
async fn without_a_registry_pinned_schemas_are_known() {
    let lake = Lakehouse::with_leads().await;
    assert!(ran(&lake, &["list"], 1).stderr.contains("the project declares no registry"));
    file(&lake, "schemas/lead.avsc", LEAD);
    let pipeline = lake.path().join("pipelines/leads.toml");
    let text = std::fs::read_to_string(&pipeline).expect("the pipeline");
    let text = text.replace("format = \"raw\"", "schema = \"schemas/lead.avsc\"\nframing = \"bare\"");
    std::fs::write(&pipeline, text).expect("written");
    let two = file(&lake, "two.avsc", &lead_2());
    assert_eq!(told(&lake, &["diff", &two], 0)["tables"][0]["known_by"], "pinned-schema");
}

/// A type of a random schema, within what apache-avro's own check judges as the specification does.
#[derive(Debug, Clone)]
enum Type {
    Primitive(&'static str),
    Array(Box<Type>),
    Map(Box<Type>),
    Optional(Box<Type>),
    Enum(BTreeSet<char>),
    Record(BTreeMap<char, (Type, bool)>),
}

impl Type {
    /// Named types are called by where they stand, so that those of two schemas meet.
    fn json(&self, path: &str) -> Value {
        match self {
            Self::Primitive(name) => json!(name),
            Self::Array(inner) => json!({"type": "array", "items": inner.json(&format!("{path}_a"))}),
            Self::Map(inner) => json!({"type": "map", "values": inner.json(&format!("{path}_m"))}),
            Self::Optional(inner) => json!(["null", inner.json(path)]),
            Self::Enum(symbols) => {
                json!({"type": "enum", "name": format!("E{path}"), "symbols": symbols.iter().collect::<Vec<_>>()})
            }
            Self::Record(fields) => {
                let field = |(name, (of, has_default)): (&char, &(Type, bool))| {
                    let mut field = json!({"name": name, "type": of.json(&format!("{path}_{name}"))});
                    if *has_default && let Self::Optional(_) = of {
                        field["default"] = Value::Null;
                    }
                    field
                };
                json!({"type": "record", "name": format!("R{path}"), "fields": fields.iter().map(field).collect::<Vec<_>>()})
            }
        }
    }
}

fn a_type() -> impl Strategy<Value = Type> {
    let primitives = ["boolean", "int", "long", "float", "double", "bytes", "string"];
    let leaf = prop_oneof![
        4 => prop::sample::select(primitives.to_vec()).prop_map(Type::Primitive),
        1 => prop::collection::btree_set(prop::char::range('A', 'C'), 1..3).prop_map(Type::Enum),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Type::Array(Box::new(inner))),
            inner.clone().prop_map(|inner| Type::Map(Box::new(inner))),
            inner.clone().prop_map(|inner| Type::Optional(Box::new(match inner {
                // A union holds no union.
                Type::Optional(inner) => *inner,
                other => other,
            }))),
            prop::collection::btree_map(prop::char::range('a', 'd'), (inner, any::<bool>()), 1..4)
                .prop_map(Type::Record),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_compatible_is_so_to_apache_avro(
        reader in prop::collection::btree_map(prop::char::range('a', 'd'), (a_type(), any::<bool>()), 0..4).prop_map(Type::Record),
        writer in prop::collection::btree_map(prop::char::range('a', 'd'), (a_type(), any::<bool>()), 0..4).prop_map(Type::Record),
        is_same in any::<bool>(),
    ) {
        // Two of a kind now and then, or hardly any would be compatible.
        let writer = if is_same { reader.clone() } else { writer };
        let (reader, writer) = (reader.json("").to_string(), writer.json("").to_string());
        let parsed = |text: &str| apache_avro::Schema::parse_str(text).expect("a schema");
        let theirs = SchemaCompatibility::can_read(&parsed(&writer), &parsed(&reader));
        let ours = |text: &str| ComparedSchema::parse(text).expect("a schema");
        let found = ours(&reader).reads(&ours(&writer));
        // Partly: some values that may be written can be read. To us, as to Avro for Java, that is none.
        let is_whole = matches!(theirs, Ok(Compatibility::Full));
        prop_assert_eq!(found.is_empty(), is_whole, "{} reads {}: {:?}, {:?}", reader, writer, found, theirs);
    }
}
