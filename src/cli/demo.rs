//! `sluice demo`: an insurer's events, tables and audit, all on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use comfy_table::{ContentArrangement, presets};
use indicatif::HumanCount;
use serde::Serialize;
use tokio::sync::watch;

use super::progress::Progress;
use super::{Exit, Format, Global, rows};
use crate::config::spec::ProjectSpec;
use crate::config::{ConfigErrors, LoadOptions, load_with};
use crate::emulator::HubSpec;
use crate::emulator::together::{Emulator, EmulatorOptions};
use crate::error::AnyError;
use crate::pipeline::audit::{Audit, Counted, audit};
use crate::pipeline::demo::facts::Hub;
use crate::pipeline::demo::send::{Sending, send};
use crate::pipeline::demo::tables::{Table, tables};
use crate::pipeline::demo::{DemoError, PARTITIONS, project};
use crate::pipeline::status::{Headway, headway};
use crate::pipeline::supervise::{run_selected, select};
use crate::pipeline::{PipelineError, RunOptions};
use crate::shutdown::Shutdown;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Events that become rows; a few broken ones come beside them
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    events: u64,
    /// The project's folder; a second demo in it goes on where the first ended
    #[arg(long, value_name = "DIR", default_value = "sluice-demo")]
    dir: PathBuf,
    /// Which story is told; the same seed, the same events
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// `json` writes `{"events", "tables": [{"name", "rows"}], "audit": […], "seconds"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    /// Sent by this run, without the broken ones.
    events: u64,
    tables: Vec<TableRows<'a>>,
    audit: &'a [Audit],
    seconds: f64,
    dir: &'a Path,
}

#[derive(Debug, Serialize)]
struct TableRows<'a> {
    name: &'a str,
    rows: u64,
}

/// # Errors
/// When the folder or a port can't be used, and whatever stops a pipeline.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let output = global.output();
    let began = Instant::now();
    let dir = std::path::absolute(&args.dir).map_err(|source| DemoError::Folder { path: args.dir.clone(), source })?;
    let _folder = project::lay_out(&dir)?;
    let emulator = Emulator::start(EmulatorOptions {
        hubs: Hub::ALL.map(|hub| HubSpec::new(hub.name(), PARTITIONS)).to_vec(),
        dir: Some(dir.join(project::EMULATOR_FOLDER)),
        ..EmulatorOptions::default()
    })
    .await?;
    let played = play(&args, &dir, &emulator, global).await;
    emulator.stop().await;
    let played = match played? {
        Ending::Played(played) => played,
        Ending::Stopped => {
            output.say("stopped; what was committed stays");
            return Ok(Exit::Well.into());
        }
        Ending::CutOff => {
            output.say("cut off; what was not committed is read again by the next demo");
            return Ok(Exit::CutOff.into());
        }
    };
    let summary = Summary {
        events: args.events,
        tables: played.tables.iter().map(|table| TableRows { name: &table.name, rows: table.rows }).collect(),
        audit: &played.audits,
        seconds: began.elapsed().as_secs_f64(),
        dir: &dir,
    };
    match args.format {
        Format::Json => output.json(&summary)?,
        Format::Text => output.line(words(&summary, &played.tables, &args.dir)?)?,
    }
    let complete = played.audits.iter().all(|audit| audit.complete);
    Ok(if complete { Exit::Well } else { Exit::Failed }.into())
}

/// How the demo came to its end.
enum Ending {
    Played(Played),
    /// Told to stop, and what was read is committed.
    Stopped,
    CutOff,
}

struct Played {
    tables: Vec<Table>,
    audits: Vec<Audit>,
}

/// Events in, rows out, and the proof.
async fn play(args: &Args, dir: &Path, emulator: &Emulator, global: &Global) -> Result<Ending, AnyError> {
    let project = load(dir, emulator)?;
    let shutdown = Shutdown::new();
    let mut signals = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let progress = Progress::new(global);

    let sendings = Hub::ALL.into_iter().map(|hub| sending(args, hub, emulator)).collect::<Result<Vec<_>, _>>()?;
    let hubs = project.event_hubs.as_ref().expect("the demo's project declares its hubs");
    let (sent, watched) = watch::channel(0);
    progress.count("sending", "events");
    let all = sendings.iter().map(Sending::len).sum();
    let began = Instant::now();
    progress.follow(send(hubs, &sendings, &sent, &shutdown), || Headway { done: *watched.borrow(), of: all }).await?;
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "sent");
    if shutdown.is_stopping() {
        return Ok(Ending::Stopped);
    }

    let options = RunOptions { until_caught_up: true, ..RunOptions::default() };
    let selected = select(&project, &options)?;
    let statuses: Vec<_> = selected.iter().map(|(_, status)| status.clone()).collect();
    let began = Instant::now();
    progress.count("reading, decoding, committing", "events");
    let running = run_selected(&project, selected, options, shutdown.clone());
    let ended = progress.follow(running, || headway(&statuses)).await;
    match ended {
        Err(PipelineError::Stopped { source, .. }) if matches!(*source, PipelineError::CutOff) => {
            return Ok(Ending::CutOff);
        }
        ended => drop(ended?),
    }
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "caught up");
    if shutdown.is_stopping() {
        return Ok(Ending::Stopped);
    }

    progress.count("auditing", "numbers");
    let began = Instant::now();
    let mut audits = Vec::new();
    for pipeline in &project.pipelines {
        let counted = Counted::default();
        let audited = audit(&project, pipeline, &pipeline.sink.table, &counted);
        audits.push(progress.follow(audited, || counted.headway()).await?);
    }
    let tables = tables(&project).await?;
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "audited");
    progress.clear();
    signals.abort_all();
    Ok(Ending::Played(Played { tables, audits }))
}

/// The folder's project, with the emulator's addresses in place of the defaults.
fn load(dir: &Path, emulator: &Emulator) -> Result<ProjectSpec, ConfigErrors> {
    let addresses = emulator.addresses();
    let lookup = |name: &str| match name {
        "EVENTHUBS_CONNECTION_STRING" => Some(addresses.connection_string.reveal().to_owned()),
        "SCHEMA_REGISTRY_ENDPOINT" => Some(addresses.schema_registry.clone()),
        other => std::env::var(other).ok(),
    };
    load_with(&LoadOptions { project: Some(dir.to_owned()), env: None }, &lookup)
}

/// What a hub is to be sent: it goes on with the story where it ends.
fn sending(args: &Args, hub: Hub, emulator: &Emulator) -> Result<Sending, AnyError> {
    let mut schema_ids = Vec::new();
    for fact in hub.facts() {
        schema_ids.push((fact, emulator.registry().register(hub.team(), fact.name(), fact.avsc())?));
    }
    let mut position = 0;
    for partition in 0..PARTITIONS {
        let info = emulator.broker().partition(hub.name(), &partition.to_string())?;
        position += u64::try_from(info.last_sequence_number + 1).unwrap_or(0);
    }
    Ok(Sending { hub, schema_ids, seed: args.seed, position, events: hub.share_of(args.events) })
}

fn words(summary: &Summary<'_>, tables: &[Table], dir: &Path) -> Result<String, DemoError> {
    let mut text = String::new();
    for table in tables.iter().filter(|table| !table.first.is_empty()) {
        text.push_str(&format!("{}: {} rows, of which the first\n", table.name, HumanCount(table.rows)));
        text.push_str(&format!("{}\n\n", first_rows(table)?));
    }
    let rest = tables.iter().filter(|table| table.first.is_empty());
    let counted: Vec<_> = rest.map(|table| format!("{} ({} rows)", table.name, HumanCount(table.rows))).collect();
    text.push_str(&format!("Beside them: {}.\n\n", counted.join(", ")));
    text.push_str("audit: is every number of every partition there, once?\n");
    for audit in summary.audit {
        let verdict = if audit.complete { "complete" } else { "NOT COMPLETE" };
        text.push_str(&format!(
            "  {}: {verdict}: {} rows, {} rejected, {} duplicates, {} missing\n",
            audit.table,
            HumanCount(audit.rows),
            audit.rejected,
            audit.duplicates,
            audit.missing
        ));
        for problem in &audit.problems {
            text.push_str(&format!("    {problem}\n"));
        }
    }
    text.push_str(&format!(
        "\n{} events from producer to table, with audit, in {:.1} s. The project stays in `{dir}`; ask it more:\n\n\
         \x20 sluice --project {dir} query \"SELECT status, count(*), avg(score) FROM silver.leads GROUP BY status\"\n\
         \x20 sluice --project {dir} query \"SELECT _sequence_number, error FROM bronze.leads__dead_letters\"\n\
         \x20 sluice --project {dir} ledger bronze.leads\n\
         \x20 sluice demo --dir {dir}",
        HumanCount(summary.events),
        summary.seconds,
        dir = dir.display()
    ));
    Ok(text)
}

fn first_rows(table: &Table) -> Result<comfy_table::Table, DemoError> {
    let mut shown = comfy_table::Table::new();
    shown.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    for batch in &table.first {
        shown.set_header(batch.schema().fields().iter().map(|field| field.name().clone()));
        shown.add_rows(rows::shown(batch).map_err(DemoError::Shown)?);
    }
    Ok(shown)
}
