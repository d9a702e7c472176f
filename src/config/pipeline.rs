//! `pipelines/**/*.toml`, from what is declared to what it means.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use sha2::{Digest, Sha256};

use super::address::{endpoint, location};
use super::capture_name::{DEFAULT_TEMPLATE, NameTemplate};
use super::connection_string::ConnectionString;
use super::cron::Cron;
use super::declared::{
    COMMIT_BYTES, COMMIT_EVERY, CONSUMER_GROUP, COVERAGE_EVERY, CaptureTable, EventHubsSourceTable, GenerationTable,
    MAX_IN_FLIGHT_BYTES, PipelineFile, PipelineTable, REJECT_SHARE_MIN_EVENTS, REJECT_SHARE_WINDOW, SWEEP_EVERY,
    ScheduleTable, SinkTable, Start as StartDeclared, StartWord,
};
use super::document::Node;
use super::problem::{Place, Problem, listed, nearest, quoted};
use super::project::{Declared, Shared};
use super::reading::Reading;
use super::source_id::source_id;
use super::spec::{
    CaptureSpec, DecodeSpec, EventHubsAccess, EventHubsSourceSpec, EvolutionSpec, Format, Framing, GenerationSpec,
    OWN_SCHEMA, OnSchemaChange, PipelineSpec, RejectLimit, RouteCondition, RouteSpec, RouteTo, SIDE_TABLES,
    ScheduleSpec, SinkSpec, Start, TableName,
};
use super::transform::{self, Around, BuiltTransform};
use super::{maintenance, route, schema, shape, text};

/// Each sweep lists the container.
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);

/// Capture's own windows last a quarter of an hour at most: what is shorter would miss what was still open.
const SHORTEST_WINDOW: Duration = Duration::from_secs(60 * 60);
const LONGEST_WINDOW: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

const SHORTEST_COMMIT: Duration = Duration::from_millis(10);
/// Longer than this and a crash reads a day again; nobody means it.
const LONGEST_COMMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Shorter, and one slow batch is all that a share is taken of.
const SHORTEST_SHARE_WINDOW: Duration = Duration::from_secs(1);
const SHORTEST_LETTERS_RETENTION: Duration = Duration::from_secs(1);
const LONGEST_LETTERS_RETENTION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// Event Hubs keeps 90 days at most.
const LONGEST_RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A pipeline as far as it could be read, and what must be there once in a project.
#[derive(Debug)]
pub(super) struct Built {
    pub spec: Option<PipelineSpec>,
    pub name: Option<(String, Place)>,
    /// Every table that it writes.
    pub tables: Vec<(String, Place)>,
    /// Hub and consumer group: two readers in one group take partitions from each other.
    pub reader: Option<(String, Place)>,
    pub transforms: Vec<BuiltTransform>,
}

/// The tables of a file that make it more than one of transforms.
const OF_A_PIPELINE: [&str; 6] = ["pipeline", "source", "decode", "sink", "schedule", "route"];

/// Reads a pipeline file, with its variables in place. `file` is relative to `dir`.
pub(super) fn build(root: &Node, file: PathBuf, dir: &Path, shared: &Shared, problems: &mut Vec<Problem>) -> Built {
    let has_pipeline = OF_A_PIPELINE.iter().any(|key| root.at(&[key]).is_some()) || root.at(&["transform"]).is_none();
    let declared: PipelineFile = if has_pipeline {
        shape::read(root, &schema::PIPELINE, problems)
    } else {
        shape::read(root, &schema::TRANSFORMS, problems)
    };
    let mut reading = Reading { root, problems };

    let (name, owner) = pipeline(declared.pipeline, shared, &mut reading);
    let around = Around { file: &file, dir, shared, owner: owner.as_deref(), has_pipeline };
    let transforms = transform::build(root, declared.transforms.unwrap_or_default(), &around, reading.problems);
    let has_source = declared.source.is_some();
    let (hubs, generation, captured) =
        declared.source.map(|source| (source.event_hubs, source.generation, source.capture)).unwrap_or_default();
    let generation = generation.map(|table| generation_of(table, &mut reading));
    let is_live = hubs.is_some();
    let source = match (hubs, &captured) {
        (Some(table), _) => source(table, generation, dir, shared, &mut reading),
        (None, Some(table)) => source_of_captures(table, generation, shared, &mut reading),
        (None, None) => {
            if has_source {
                let hint = "declare `[source.event_hubs]`, `[source.capture]`, or both";
                reading.wrong(&["source"], "`[source]` has nothing to read from", hint);
            }
            None
        }
    };
    let has_captures = captured.is_some();
    let captured = captured.map(|table| capture(table, source.as_ref(), dir, shared, &mut reading));
    let decode = declared.decode.unwrap_or_default();
    let evolution = super::decode::evolution(&decode);
    let decode = has_pipeline.then(|| super::decode::build(decode, dir, shared, &mut reading)).flatten();
    let sink = declared.sink.and_then(|table| sink(table, shared, &mut reading));
    let scheduled = declared.schedule.map(|table| schedule(table, is_live, has_captures, &mut reading));

    let routed = route::build(root, declared.routes.unwrap_or_default(), sink.as_ref(), reading.problems);
    let mut tables = Vec::new();
    tables.extend(sink.as_ref().map(|sink| (sink.table.to_string(), reading.place(&["sink", "table"]))));
    tables.extend(routed.places.iter().cloned());
    let reader = source.as_ref().filter(|_| is_live).map(|source| {
        let reader = format!("`{}` with consumer group `{}`", source.hub, source.consumer_group).to_lowercase();
        (reader, reading.place(&["source", "event_hubs", "consumer_group"]))
    });
    let named = name.clone().map(|name| (name, reading.place(&["pipeline", "name"])));
    let spec = (|| {
        let (source, (decode, schema), sink) = (source?, decode?, sink?);
        // A capture that is wrong must not become none.
        let capture = match captured {
            Some(captured) => Some(captured?),
            None => None,
        };
        let schedule = match scheduled {
            Some(scheduled) => Some(scheduled?),
            None => None,
        };
        let route::Built { routes, sinks: routed_sinks, is_broken: false, .. } = routed else { return None };
        let config_hash = config_hash(&source, &decode, evolution, schema.as_deref(), &sink, &routes);
        let (name, owner) = (name?, owner?);
        Some(PipelineSpec {
            file,
            name,
            owner,
            source,
            is_live,
            capture,
            decode,
            evolution,
            sink,
            routes,
            routed_sinks,
            schedule,
            config_hash,
        })
    })();
    Built { spec, name: named, tables, reader, transforms }
}

fn pipeline(
    table: Option<PipelineTable>,
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> (Option<String>, Option<String>) {
    let Some(table) = table else { return (None, None) };
    let name = table.name.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&["pipeline", "name"], name, "a name", text::name);
    let owner = owner_of(table.owner.map(|owner| owner.0), &["pipeline", "owner"], shared, reading);
    (name, owner)
}

/// Who answers for something: one of the teams.
pub(super) fn owner_of(
    owner: Option<String>,
    path: &[&str],
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> Option<String> {
    if let (Some(owner), Declared::As(teams)) = (&owner, &shared.teams)
        && !teams.contains(owner)
    {
        let message = format!("owner {} is not one of the teams", quoted(reading.root.written(path)));
        let hint = match nearest(owner, teams.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add it to `teams` in `sluice.toml`, which has {}", listed_teams(teams)),
        };
        reading.wrong(path, message, hint);
    }
    owner
}

fn listed_teams(teams: &[String]) -> String {
    listed(teams.iter().map(String::as_str), "and")
}

/// A hub that isn't read live: captures alone say what it had.
fn source_of_captures(
    table: &CaptureTable,
    generation: Option<Option<GenerationSpec>>,
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> Option<EventHubsSourceSpec> {
    const PATH: [&str; 2] = ["source", "capture"];
    if matches!(shared.event_hubs, Declared::Absent) {
        let hint = "declare `[event_hubs]` there: it gives the captured hub its name in the ledger";
        reading.wrong(&PATH, "`sluice.toml` has no `[event_hubs]` that was captured", hint);
    }
    if table.hub.is_none() && reading.root.at(&[PATH[0], PATH[1], "hub"]).is_none() {
        let hint = "write `hub = \"leads\"`, or declare `[source.event_hubs]` beside it";
        reading.wrong(&PATH, "captures that are read alone need the name of their hub", hint);
    }
    let hub = reading.parse(&[PATH[0], PATH[1], "hub"], table.hub.as_deref(), "the name of a hub", entity_name);
    Some(EventHubsSourceSpec {
        hub: hub?,
        consumer_group: CONSUMER_GROUP.to_owned(),
        start: Start::Capture,
        dense: true,
        generation: match generation {
            Some(generation) => Some(generation?),
            None => None,
        },
        retention: None,
        max_events_per_second: None,
        checkpoint_store: None,
    })
}

fn source(
    table: EventHubsSourceTable,
    generation: Option<Option<GenerationSpec>>,
    dir: &Path,
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> Option<EventHubsSourceSpec> {
    const PATH: [&str; 2] = ["source", "event_hubs"];
    let at = |key: &'static str| [PATH[0], PATH[1], key];
    if matches!(shared.event_hubs, Declared::Absent) {
        let hint = "declare `[event_hubs]` there, with `connection_string` or `namespace`";
        reading.wrong(&PATH, "`sluice.toml` has no `[event_hubs]` to read from", hint);
    }
    let hub = reading.parse(&at("hub"), table.hub.as_deref(), "the name of a hub", entity_name);
    if let Some(hub) = &hub {
        fits_entity_path(hub, shared, reading);
    }
    let group = table.consumer_group.as_deref().unwrap_or(CONSUMER_GROUP);
    let consumer_group = reading.parse(&at("consumer_group"), Some(group), "the name of a consumer group", |text| {
        if text.eq_ignore_ascii_case(CONSUMER_GROUP) { Ok(CONSUMER_GROUP.to_owned()) } else { entity_name(text) }
    });
    let start = start(table.start, &at("start"), reading);
    let retention = table.retention.as_ref().map(|retention| retention.0.as_str());
    let retention = reading.parse(&at("retention"), retention, "a retention", |text| {
        text::duration(text, Duration::from_secs(1), LONGEST_RETENTION)
    });
    let store = table.checkpoint_store.as_ref().map(|store| store.0.as_str());
    let checkpoint_store =
        reading.address(&at("checkpoint_store"), store, |text| location(text, dir, shared.has_account));
    Some(EventHubsSourceSpec {
        hub: hub?,
        consumer_group: consumer_group?,
        start: start?,
        dense: table.dense.unwrap_or(true),
        // A generation that is wrong must not become none.
        generation: match generation {
            Some(generation) => Some(generation?),
            None => None,
        },
        retention,
        max_events_per_second: table.max_events_per_second,
        checkpoint_store,
    })
}

/// What Event Hubs takes as the name of a hub or a consumer group.
fn entity_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 256;
    let ends_well = |c: char| c.is_ascii_alphanumeric();
    let fits = text.starts_with(ends_well)
        && text.ends_with(ends_well)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && text.len() <= LONGEST;
    let hint = "Event Hubs takes letters, digits, `.`, `-` and `_`, with a letter or digit at both ends";
    if fits { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

/// A connection string may be for one hub alone.
fn fits_entity_path(hub: &str, shared: &Shared, reading: &mut Reading<'_>) {
    let Declared::As(event_hubs) = &shared.event_hubs else { return };
    let EventHubsAccess::ConnectionString(text) = &event_hubs.access else { return };
    let only = text.reveal().parse::<ConnectionString>().ok().and_then(|parsed| parsed.entity_path);
    if let Some(only) = only
        && !only.eq_ignore_ascii_case(hub)
    {
        let hint = "use a connection string of the namespace, without `EntityPath`";
        let message = format!("the connection string is for hub {} alone", quoted(&only));
        reading.wrong(&["source", "event_hubs", "hub"], message, hint);
    }
}

fn start(declared: Option<StartDeclared>, path: &[&str], reading: &mut Reading<'_>) -> Option<Start> {
    let table = match declared {
        None => return reading.root.at(path).is_none().then_some(Start::Earliest),
        Some(StartDeclared::Word(StartWord::Earliest)) => return Some(Start::Earliest),
        Some(StartDeclared::Word(StartWord::Latest)) => return Some(Start::Latest),
        Some(StartDeclared::Word(StartWord::Capture)) => {
            if reading.root.at(&["source", "capture"]).is_none() {
                let hint = "declare `[source.capture]` with the `url` that Capture writes to";
                reading.wrong(path, "`start = \"capture\"` needs the blobs of Capture", hint);
            }
            return Some(Start::Capture);
        }
        Some(StartDeclared::At(table)) => table,
    };
    let has = |key| reading.root.at(&[path, &[key]].concat()).is_some();
    match (has("sequence_number"), has("enqueued_at")) {
        (true, false) => table.sequence_number.map(Start::SequenceNumber),
        (false, true) => {
            let text = table.enqueued_at.as_ref().map(|time| time.0.as_str());
            reading.parse(&[path, &["enqueued_at"]].concat(), text, "a time", text::time).map(Start::EnqueuedAt)
        }
        _ => {
            let hint = "write `{ sequence_number = 42 }` or `{ enqueued_at = 2026-01-01T00:00:00Z }`";
            reading.wrong(path, "`start` must have exactly one of `sequence_number` and `enqueued_at`", hint);
            None
        }
    }
}

fn capture(
    table: CaptureTable,
    source: Option<&EventHubsSourceSpec>,
    dir: &Path,
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> Option<CaptureSpec> {
    let at = |key: &'static str| ["source", "capture", key];
    let url = table.url.as_ref().map(|url| url.0.as_str());
    let url = reading.address(&at("url"), url, |text| location(text, dir, shared.has_account));
    let template = table.template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    let template = reading.parse(&at("template"), Some(template), "a template of Capture", |text| {
        NameTemplate::parse(text).map_err(|error| error.to_string())
    });
    let sweep_every = table.sweep_every.as_ref().map_or(SWEEP_EVERY, |every| every.0.as_str());
    let sweep_every = reading.parse(&at("sweep_every"), Some(sweep_every), "a duration that fits", |text| {
        text::duration(text, SHORTEST_SWEEP, LONGEST_COMMIT)
    });
    let queue = table.queue.as_ref().map(|queue| queue.0.as_str());
    let queue = reading.address(&at("queue"), queue, |text| endpoint(text, "https", "http"));
    let Declared::As(event_hubs) = &shared.event_hubs else { return None };
    let hub = &source?.hub;
    let id = source_id(event_hubs, hub, None);
    let namespace = id.as_str().split('/').next().unwrap_or_default().to_owned();
    Some(CaptureSpec {
        url: url?,
        template: template?,
        namespace: table.namespace.unwrap_or(namespace),
        hub: table.hub.unwrap_or_else(|| hub.clone()),
        sweep_every: sweep_every?,
        queue,
    })
}

fn schedule(
    table: ScheduleTable,
    is_live: bool,
    has_captures: bool,
    reading: &mut Reading<'_>,
) -> Option<ScheduleSpec> {
    if !has_captures && reading.root.at(&["source", "capture"]).is_none() {
        let hint = "declare `[source.capture]` with the `url` that Capture writes to";
        reading.wrong(&["schedule"], "`[schedule]` has no captures to backfill from", hint);
    }
    if !is_live {
        for (key, why) in [("queue", "it has blobs read as they come"), ("sweep_every", "it says when they are listed")]
        {
            let place = ["source", "capture", key];
            if reading.root.at(&place).is_some() {
                let hint = format!("{why}: keep one of the two, or declare `[source.event_hubs]`");
                reading.wrong(
                    &place,
                    format!("`{key}` does nothing where captures are read on a schedule alone"),
                    hint,
                );
            }
        }
    }
    let cron = table.cron.as_ref().map(|cron| cron.0.as_str());
    let cron = reading.parse(&["schedule", "cron"], cron, "a time in cron's words", Cron::parse);
    let window = table.window.as_ref().map(|window| window.0.as_str());
    let window = window.map(|window| {
        reading.parse(&["schedule", "window"], Some(window), "a duration that fits", |text| {
            text::duration(text, SHORTEST_WINDOW, LONGEST_WINDOW)
        })
    });
    Some(ScheduleSpec {
        cron: cron?,
        // A window that is wrong must not become none.
        window: match window {
            Some(window) => Some(window?),
            None => None,
        },
    })
}

fn generation_of(table: GenerationTable, reading: &mut Reading<'_>) -> Option<GenerationSpec> {
    let name = table.name.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&["source", "generation", "name"], name, "a name", text::name);
    let since = table.since.as_ref().map(|since| since.0.as_str());
    let since = reading.parse(&["source", "generation", "since"], since, "a time", text::time);
    Some(GenerationSpec { name: name?, since: since? })
}

/// The name of a table that a pipeline or a transform may write.
pub(super) fn table_name(text: &str) -> Result<TableName, String> {
    let form = "write `schema.table` in lower case letters, digits and underscores: `bronze.leads`";
    let name: TableName = text.parse().map_err(|_| form.to_owned())?;
    if let Some((suffix, what)) = SIDE_TABLES.iter().find(|(suffix, _)| name.table.ends_with(suffix)) {
        return Err(format!("`…{suffix}` is where {what} {}", if what.starts_with("what") { "goes" } else { "go" }));
    }
    if name.schema == OWN_SCHEMA {
        return Err(format!("the schema `{OWN_SCHEMA}` is for tables of sluice itself: take another one"));
    }
    if name.schema == "information_schema" {
        return Err("the schema `information_schema` is that of SQL itself: take another one".to_owned());
    }
    Ok(name)
}

/// How long something may wait for a commit.
pub(super) fn commit_duration(path: &[&str], text: &str, reading: &mut Reading<'_>) -> Option<Duration> {
    reading
        .parse(path, Some(text), "a duration that fits", |text| text::duration(text, SHORTEST_COMMIT, LONGEST_COMMIT))
}

pub(super) fn commit_size(path: &[&str], text: &str, reading: &mut Reading<'_>) -> Option<ByteSize> {
    reading.parse(path, Some(text), "a size", text::size)
}

fn sink(table: SinkTable, shared: &Shared, reading: &mut Reading<'_>) -> Option<SinkSpec> {
    let at = |key: &'static str| ["sink", key];
    let name = table.table.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&at("table"), name, "the name of a table", table_name);
    let mut duration = |key: &'static str, text: Option<text::DurationText>, default: &str| {
        let text = text.as_ref().map_or(default, |text| text.0.as_str());
        commit_duration(&at(key), text, reading)
    };
    let commit_every = duration("commit_every", table.commit_every, COMMIT_EVERY);
    let coverage_every = duration("coverage_every", table.coverage_every, COVERAGE_EVERY);
    let dead_letters_retention = table.dead_letters_retention.as_ref().map(|text| {
        reading.parse(&at("dead_letters_retention"), Some(&text.0), "a duration that fits", |text| {
            text::duration(text, SHORTEST_LETTERS_RETENTION, LONGEST_LETTERS_RETENTION)
        })
    });
    let window = table.reject_share_window.as_ref().map_or(REJECT_SHARE_WINDOW, |text| text.0.as_str());
    let window = reading.parse(&at("reject_share_window"), Some(window), "a duration that fits", |text| {
        text::duration(text, SHORTEST_SHARE_WINDOW, LONGEST_COMMIT)
    });
    if reading.root.at(&at("max_reject_share")).is_none() {
        for key in ["reject_share_window", "reject_share_min_events"] {
            if reading.root.at(&at(key)).is_some() {
                reading.wrong(
                    &at(key),
                    format!("`{key}` does nothing without `max_reject_share`"),
                    "declare both, or none",
                );
            }
        }
    }
    let min_events = table.reject_share_min_events.unwrap_or(REJECT_SHARE_MIN_EVENTS);
    let mut size = |key: &'static str, text: Option<text::SizeText>, default: &str| {
        let text = text.as_ref().map_or(default, |text| text.0.as_str());
        commit_size(&at(key), text, reading)
    };
    let max_in_flight_bytes = size("max_in_flight_bytes", table.max_in_flight_bytes, MAX_IN_FLIGHT_BYTES);
    let commits_by_default = table.commit_bytes.is_none();
    let mut commit_bytes = size("commit_bytes", table.commit_bytes, COMMIT_BYTES);
    if let (Some(commit), Some(most)) = (&mut commit_bytes, max_in_flight_bytes)
        && *commit > most
    {
        if commits_by_default {
            *commit = most;
        } else {
            let message = format!("`commit_bytes` ({commit}) is more than `max_in_flight_bytes` ({most})");
            reading.wrong(&at("commit_bytes"), message, "reading would pause before a commit is full");
        }
    }
    let maintenance = maintenance::build(table.maintenance, &["sink", "maintenance"], &shared.maintenance, reading);
    Some(SinkSpec {
        table: name?,
        commit_every: commit_every?,
        commit_bytes: commit_bytes?,
        max_in_flight_bytes: max_in_flight_bytes?,
        coverage_every: coverage_every?,
        maintenance,
        dead_letters_retention: match dead_letters_retention {
            Some(retention) => Some(retention?),
            None => None,
        },
        reject_limit: match table.max_reject_share {
            Some(share) => Some(RejectLimit { share, window: window?, min_events }),
            None => None,
        },
    })
}

/// Hex SHA-256 over what decides the rows. How often and how fast they are written doesn't,
/// and neither does the path of the schema, but its bytes do.
fn config_hash(
    source: &EventHubsSourceSpec,
    decode: &DecodeSpec,
    evolution: EvolutionSpec,
    schema: Option<&[u8]>,
    sink: &SinkSpec,
    routes: &[RouteSpec],
) -> String {
    let start = match source.start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::Capture => "capture".to_owned(),
        Start::SequenceNumber(number) => format!("sequence_number {number}"),
        Start::EnqueuedAt(time) => format!("enqueued_at {}", time.to_rfc3339()),
    };
    let generation = source.generation.as_ref();
    let generation = generation.map(|generation| format!("{} {}", generation.name, generation.since.to_rfc3339()));
    let format = match decode.format {
        Format::Avro => "avro",
        Format::Json => "json",
        Format::Raw => "raw",
    };
    let framing = match decode.framing {
        Framing::Auto => "auto",
        Framing::ContentType => "content-type",
        Framing::Preamble => "preamble",
        Framing::Confluent => "confluent",
        Framing::Container => "container",
        Framing::SingleObject => "single-object",
        Framing::Bare => "bare",
        Framing::CloudEvents => "cloudevents",
        Framing::Json => "json",
    };
    let require: Vec<_> = decode.require.iter().map(|attribute| attribute.as_str()).collect();
    let on_schema_change = match evolution.on_schema_change {
        OnSchemaChange::Evolve => "evolve",
        OnSchemaChange::Pin => "pin",
        OnSchemaChange::Fail => "fail",
    };
    let mut decides = serde_json::json!({
        "hub": source.hub,
        "consumer_group": source.consumer_group,
        "start": start,
        "dense": source.dense,
        "generation": generation,
        "format": format,
        "framing": framing,
        "require": require,
        "schema": schema.map(hex_sha256),
        "on_schema_change": on_schema_change,
        "defaults": evolution.defaults,
        "table": sink.table.to_string(),
    });
    if !routes.is_empty() {
        decides["routes"] = routes.iter().map(decides_route).collect();
    }
    hex_sha256(decides.to_string().as_bytes())
}

fn decides_route(route: &RouteSpec) -> serde_json::Value {
    let RouteCondition { schema, event_type, property, predicate } = &route.when;
    let to = match &route.to {
        RouteTo::Table(table) => table.to_string(),
        RouteTo::Filter => "filter".to_owned(),
        RouteTo::Reject => "reject".to_owned(),
    };
    let when = predicate.as_ref().map(|predicate| &predicate.text);
    serde_json::json!({ "schema": schema, "type": event_type, "property": property, "when": when, "to": to })
}

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
