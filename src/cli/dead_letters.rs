//! `sluice dead-letters`: what could not become a row; shown, decoded again, or dropped.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};
use comfy_table::CellAlignment;
use serde::Serialize;

use super::backfill::time;
use super::progress::Progress;
use super::rows::{fit_for_a_screen, or_dash, plain_table};
use super::{Exit, Format, Global};
use crate::config::spec::ProjectSpec;
use crate::error::AnyError;
use crate::fault_points::FaultPoints;
use crate::pipeline::dead_letters::{
    ClassCount, DeadLetterError, Dropped, Filter, LetterKey, Listing, Replay, Shown, drop_letters, expire_old, list,
    matching, replay, show,
};
use crate::pipeline::gaps::Target;
use crate::shutdown::Shutdown;
use crate::sink::delta::dead_letters::DeadLetter;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Dead letters of tables, counted by what is wrong with them, and the newest of them
    List(ListArgs),
    /// One dead letter, with its bytes
    Show(ShowArgs),
    /// Decode again with today's schemas: what becomes a row lands once, what doesn't says why
    Replay(ReplayArgs),
    /// Let the bytes go for good; that there were events is accounted for still
    Drop(DropArgs),
    /// Let the bytes go that are older than `dead_letters_retention`, as `sluice run` does by itself
    Expire(ExpireArgs),
}

/// Which letters are meant: all that is said must hold, and of what is said several times one.
#[derive(Debug, clap::Args)]
struct Which {
    /// What is wrong with them, as `list` names it: `framing`, `schema_not_found`, `schema_unusable`, `datum`
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<String>,
    /// Their partition
    #[arg(long = "partition", value_name = "NAME")]
    partitions: Vec<String>,
    /// Their source, where the table has several
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// The schema id that they name
    #[arg(long = "schema-id", value_name = "ID")]
    schema_ids: Vec<String>,
    /// One of them, as `list` names it: `<source>/<partition>/<number>` or `<partition>/<number>`
    #[arg(long = "key", value_name = "KEY", value_parser = key)]
    keys: Vec<LetterKey>,
    /// Rejected from this time on: `2026-01-01` or `2026-01-01T00:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Rejected before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Pipelines, or tables as in `bronze.leads`; those of all pipelines when none is named
    #[arg(value_name = "PIPELINE|TABLE")]
    targets: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// How many are shown, the newest; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Show those, too, that were replayed or have expired
    #[arg(long)]
    all: bool,
    /// End with 1 when a dead letter waits
    #[arg(long)]
    exit_code: bool,
    /// `json` writes `{"tables": [{"table", "pipeline", "waiting", "in_flight", "replayed", "expired", "classes": [{"class",
    /// "waiting", "oldest", "newest"}], "letters": [{"key", "class", "error", …}]}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The table, as in `bronze.leads`, or the pipeline that writes it
    #[arg(value_name = "PIPELINE|TABLE")]
    target: String,
    /// The dead letter, as `list` names it: `<source>/<partition>/<number>` or `<partition>/<number>`
    #[arg(value_name = "KEY", value_parser = key)]
    key: LetterKey,
    /// Write the bytes of the event to stdout, as they came, and nothing else
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// How the bytes are written
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    bytes: Bytes,
    /// `json` writes what `list` says of it, and `{"properties", "body", "body_bytes"}`: the body in the way of `--bytes`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Bytes {
    #[default]
    Hex,
    Base64,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// The pipeline that decodes, or its table
    #[arg(value_name = "PIPELINE|TABLE")]
    target: String,
    #[command(flatten)]
    which: Which,
    /// `json` writes `{"pipeline", "table", "replayed", "rows", "had_row", "failed", "failed_by_class", "in_flight",
    /// "commits", "stopped"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

#[derive(Debug, clap::Args)]
struct DropArgs {
    /// The pipeline, or its table
    #[arg(value_name = "PIPELINE|TABLE")]
    target: String,
    #[command(flatten)]
    which: Which,
    /// Drop all that wait
    #[arg(long)]
    all: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// `json` writes `{"pipeline", "table", "expired", "expired_by_class", "removed", "in_flight", "counted", "deleted_files"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

#[derive(Debug, clap::Args)]
struct ExpireArgs {
    /// Pipelines that declare a retention, or their tables; all of these when none is named
    #[arg(value_name = "PIPELINE|TABLE")]
    targets: Vec<String>,
    /// `json` writes `{"tables": […]}`, each as `drop` writes it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

/// The shapes that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct OfTables<T> {
    tables: Vec<T>,
}

#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    letter: Shown,
    properties: serde_json::Map<String, serde_json::Value>,
    body: Option<String>,
    body_bytes: Option<usize>,
}

/// # Errors
/// What was named wrong, and what tables or registries didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    match args.command {
        Command::List(args) => run_list(args, global).await,
        Command::Show(args) => run_show(args, global).await,
        Command::Replay(args) => run_replay(args, global).await,
        Command::Drop(args) => run_drop(args, global).await,
        Command::Expire(args) => run_expire(args, global).await,
    }
}

fn key(text: &str) -> Result<LetterKey, String> {
    text.parse().map_err(|error: DeadLetterError| {
        format!("{error}: a key is `<source>/<partition>/<number>` or `<partition>/<number>`")
    })
}

impl Which {
    fn filter(self) -> Filter {
        let Self { classes, partitions, source, schema_ids, keys, since, until } = self;
        Filter { classes, partitions, source, schema_ids, keys, since, until }
    }
}

fn named<'a>(project: &'a ProjectSpec, name: &str) -> Result<Target<'a>, DeadLetterError> {
    Ok(Target::only(project, name)?)
}

async fn run_list(args: ListArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let all = Target::all(&project);
    let named: Result<Vec<_>, _> = args.targets.iter().map(|name| named(&project, name)).collect();
    let targets = if args.targets.is_empty() { all } else { named? };
    let filter = args.which.filter();
    let progress = Progress::new(global);
    progress.spin("reading dead letters");
    let mut tables = Vec::new();
    for target in &targets {
        tables.push(list(&project, target, &filter, args.limit, args.all).await?);
    }
    progress.clear();
    let is_waiting = tables.iter().any(|listing| listing.waiting > 0);
    match args.format {
        Format::Json => global.output().json(&OfTables { tables })?,
        Format::Text => {
            let words: Vec<String> = tables.iter().map(words_of_listing).collect();
            global.output().line(words.join("\n\n"))?;
        }
    }
    Ok(if args.exit_code && is_waiting { Exit::Failed } else { Exit::Well }.into())
}

async fn run_show(args: ShowArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let target = named(&project, &args.target)?;
    let (shown, letter) = show(&project, &target, &args.key).await?;
    let output = global.output();
    if args.raw {
        let Some(body) = &letter.body else {
            let since = shown.expired_at.unwrap_or_else(|| "an unknown time".to_owned());
            return Err(DeadLetterError::NoBytes { key: shown.key, since }.into());
        };
        output.bytes(body)?;
        return Ok(Exit::Well.into());
    }
    match args.format {
        Format::Json => output.json(&whole(shown, &letter, args.bytes))?,
        Format::Text => output.line(words_of_letter(&shown, &letter, args.bytes))?,
    }
    Ok(Exit::Well.into())
}

/// Exit code 0 when every letter that was meant has a row now, else 1.
async fn run_replay(args: ReplayArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let target = named(&project, &args.target)?;
    let filter = args.which.filter();
    let shutdown = Shutdown::new();
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let progress = Progress::new(global);
    progress.spin("replaying dead letters");
    let fault_points = args.crash_at.unwrap_or_default();
    let replayed = tokio::select! {
        replayed = replay(&project, &target, &filter, fault_points, shutdown.clone()) => Some(replayed),
        () = shutdown.aborting() => None,
    };
    progress.clear();
    beside.abort_all();
    let Some(replayed) = replayed else {
        tracing::warn!("cut off: what has landed stays, and the next replay goes on");
        return Ok(Exit::CutOff.into());
    };
    let replayed = replayed?;
    match args.format {
        Format::Json => global.output().json(&replayed)?,
        Format::Text => global.output().line(words_of_replay(&replayed))?,
    }
    Ok(match replayed {
        Replay { stopped: true, .. } => Exit::CutOff,
        replayed if replayed.is_whole() => Exit::Well,
        _ => Exit::Failed,
    }
    .into())
}

async fn run_drop(args: DropArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let target = named(&project, &args.target)?;
    let filter = args.which.filter();
    if filter.is_empty() && !args.all {
        return Err(DeadLetterError::Unfiltered.into());
    }
    if !args.yes {
        let classes = matching(&project, &target, &filter).await?;
        confirm(&target, &classes, global)?;
    }
    let progress = Progress::new(global);
    progress.spin("dropping dead letters");
    let dropped = drop_letters(&project, &target, &filter, args.crash_at.unwrap_or_default()).await?;
    progress.clear();
    match args.format {
        Format::Json => global.output().json(&dropped)?,
        Format::Text => global.output().line(words_of_dropping(&dropped))?,
    }
    Ok(Exit::Well.into())
}

async fn run_expire(args: ExpireArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let mut pipelines = Vec::new();
    for name in &args.targets {
        let target = named(&project, name)?;
        let table = target.table.to_string();
        let pipeline = target.pipeline.ok_or(DeadLetterError::NoPipeline { table })?;
        pipelines.push((pipeline, target.table));
    }
    if args.targets.is_empty() {
        let with_retention = project.pipelines.iter().filter(|spec| spec.sink.dead_letters_retention.is_some());
        let tables = with_retention.flat_map(|spec| spec.sinks().map(move |sink| (spec, sink.table.clone())));
        pipelines.extend(tables);
    }
    let progress = Progress::new(global);
    progress.spin("looking for old dead letters");
    let mut tables = Vec::new();
    let fault_points = args.crash_at.unwrap_or_default();
    for (pipeline, table) in pipelines {
        tables.push(expire_old(&project, pipeline, &table, fault_points.clone()).await?);
    }
    progress.clear();
    match args.format {
        Format::Json => global.output().json(&OfTables { tables })?,
        Format::Text if tables.is_empty() => global.output().line("no pipeline declares `dead_letters_retention`")?,
        Format::Text => {
            let words: Vec<String> = tables.iter().map(words_of_dropping).collect();
            global.output().line(words.join("\n"))?;
        }
    }
    Ok(Exit::Well.into())
}

/// Asks on a terminal; where nobody can be asked, nobody has said yes.
fn confirm(target: &Target<'_>, classes: &[ClassCount], global: &Global) -> Result<(), DeadLetterError> {
    let output = global.output();
    let waiting: u64 = classes.iter().map(|class| class.waiting).sum();
    output.say(format!("{}: the bytes of {} go for good:", target.table, letters(waiting)));
    for class in classes {
        output.say(format!("  {}: {}", fit_for_a_screen(&class.class), class.waiting));
    }
    if !std::io::stdin().is_terminal() {
        return Err(DeadLetterError::Unconfirmed);
    }
    output.say("drop them? [y/N]");
    let mut answer = String::new();
    let is_read = std::io::stdin().read_line(&mut answer).is_ok();
    let is_yes = is_read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if is_yes { Ok(()) } else { Err(DeadLetterError::Unconfirmed) }
}

fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

fn words_of_listing(listing: &Listing) -> String {
    let mut text = format!("{}: {} waiting", listing.table, listing.waiting);
    for (count, what) in
        [(listing.in_flight, "in flight"), (listing.replayed, "replayed"), (listing.expired, "expired")]
    {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    if !listing.classes.is_empty() {
        let mut table = plain_table(["class", "waiting", "oldest", "newest"]);
        for class in &listing.classes {
            table.add_row([
                fit_for_a_screen(&class.class),
                class.waiting.to_string(),
                or_dash(class.oldest.as_ref()),
                or_dash(class.newest.as_ref()),
            ]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = write!(text, "\n\n{table}");
    }
    if !listing.letters.is_empty() {
        let mut table = plain_table(["key", "state", "class", "attempt", "schema id", "rejected at", "error"]);
        for letter in &listing.letters {
            table.add_row([
                fit_for_a_screen(&letter.key),
                letter.state.to_owned(),
                or_dash(letter.class.as_ref()),
                letter.attempt.to_string(),
                or_dash(letter.schema_id.as_ref()),
                or_dash(letter.rejected_at.as_ref()),
                or_dash(letter.error.as_ref()),
            ]);
        }
        let _ = write!(text, "\n\n{table}");
    }
    text
}

fn whole(letter: Shown, held: &DeadLetter, bytes: Bytes) -> Whole {
    let properties = held.properties.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    Whole {
        letter,
        properties,
        body: held.body.as_deref().map(|body| encoded(body, bytes)),
        body_bytes: held.body.as_ref().map(|body| body.len()),
    }
}

fn encoded(body: &[u8], bytes: Bytes) -> String {
    match bytes {
        Bytes::Base64 => STANDARD.encode(body),
        Bytes::Hex => body.iter().fold(String::with_capacity(body.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

fn words_of_letter(shown: &Shown, letter: &DeadLetter, bytes: Bytes) -> String {
    let mut text = format!("{}: {}", fit_for_a_screen(&shown.key), shown.state);
    let attempt = shown.attempt.to_string();
    let lines = [
        ("class", shown.class.as_ref()),
        ("error", shown.error.as_ref()),
        ("framing", shown.framing.as_ref()),
        ("schema id", shown.schema_id.as_ref()),
        ("content type", shown.content_type.as_ref()),
        ("attempt", Some(&attempt)),
        ("pipeline", shown.pipeline.as_ref()),
        ("config hash", shown.config_hash.as_ref()),
        ("origin", shown.origin.as_ref()),
        ("offset", shown.offset.as_ref()),
        ("enqueued at", shown.enqueued_at.as_ref()),
        ("rejected at", shown.rejected_at.as_ref()),
        ("tried at", shown.tried_at.as_ref()),
        ("replayed at", shown.replayed_at.as_ref()),
        ("replayed to", shown.replayed_to.as_ref()),
        ("expired at", shown.expired_at.as_ref()),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            let _ = write!(text, "\n  {name:<13}{}", fit_for_a_screen(value));
        }
    }
    for (name, value) in &letter.properties {
        let _ = write!(text, "\n  property     {} = {}", fit_for_a_screen(name), fit_for_a_screen(value));
    }
    match (&letter.body, bytes) {
        (None, _) => text.push_str("\n  its bytes are gone"),
        (Some(body), Bytes::Base64) => {
            let _ = write!(text, "\n\n{}", encoded(body, bytes));
        }
        (Some(body), Bytes::Hex) => {
            let _ = write!(text, "\n\n{} bytes\n{}", body.len(), dump(body));
        }
    }
    text
}

/// Sixteen bytes a line: where they stand, the bytes, and the letters among them.
fn dump(body: &[u8]) -> String {
    let line = |(at, bytes): (usize, &[u8])| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String =
            bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        format!("{:08x}  {:<47}  {shown}", at * 16, hex.join(" "))
    };
    body.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn words_of_replay(done: &Replay) -> String {
    let mut text = format!(
        "{}: {} replayed, as {} rows in {} commits; {} failed",
        done.table, done.replayed, done.rows, done.commits, done.failed
    );
    if done.had_row > 0 {
        let _ = write!(text, "; {} had a row already", done.had_row);
    }
    if done.in_flight > 0 {
        let _ = write!(text, "; {} in flight, for their pipeline to come first", done.in_flight);
    }
    for (table, landed) in &done.replayed_to {
        let _ = write!(text, "\n  of these in {table}, by today's routes: {landed}");
    }
    for (table, left) in &done.left_for {
        match done.refused_by.get(table) {
            Some(why) => {
                let _ = write!(text, "\n  belongs to {table}, which refuses it: {left}; {}", fit_for_a_screen(why));
            }
            None => {
                let _ = write!(text, "\n  belongs to {table}, which has no place for it: {left}");
            }
        }
    }
    if done.filtered > 0 {
        let _ = write!(text, "\n  filtered by today's routes: {}", done.filtered);
    }
    for (class, failed) in &done.failed_by_class {
        let _ = write!(text, "\n  still {class}: {failed}");
    }
    if done.stopped {
        text.push_str("\n  stopped before the end: the next replay goes on");
    }
    text
}

fn words_of_dropping(done: &Dropped) -> String {
    let mut text = format!("{}: the bytes of {} are gone", done.table, letters(done.expired));
    for (class, expired) in &done.expired_by_class {
        let _ = write!(text, "\n  {}: {expired}", fit_for_a_screen(class));
    }
    if done.removed > 0 {
        let _ = write!(text, "\n  {} of events that have a row went altogether", letters(done.removed));
    }
    if done.in_flight > 0 {
        let _ = write!(text, "\n  {} in flight stay, for their pipeline to come first", letters(done.in_flight));
    }
    text
}
