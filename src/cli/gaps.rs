//! `sluice gaps`: what tables lack; healed from captures, or accepted by somebody.

use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::progress::Progress;
use super::rows::{or_dash, plain_table};
use super::{Exit, Format, Global};
use crate::checkpoint::Range;
use crate::error::AnyError;
use crate::fault_points::FaultPoints;
use crate::pipeline::gaps::{AskHub, Gap, GapError, GapState, Healed, KnownBy, Target, Wanted, accept, heal, list};
use crate::pipeline::supervise::select;
use crate::pipeline::{PipelineError, RunOptions};
use crate::shutdown::Shutdown;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What tables lack, and what of it was accepted by whom and why
    List(ListArgs),
    /// Take in what Event Hubs Capture has of what is missing, beside the live pipeline
    Heal(HealArgs),
    /// Say that a table can do without numbers, and why: they are no problem any more
    Accept(AcceptArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Pipelines, or tables as in `bronze.leads`; those of all pipelines when none is named
    #[arg(value_name = "PIPELINE|TABLE")]
    targets: Vec<String>,
    /// Ask the hubs, too: what they have no more is missing also past the ledger's end, and of gaps it is
    /// told which they may still have
    #[arg(long)]
    hub: bool,
    /// End with 1 when a gap is open
    #[arg(long)]
    exit_code: bool,
    /// `json` writes `{"gaps": [{"pipeline", "table", "source", "partition", "from", "to", "count",
    /// "known_by", "hub_may_have", "state", "accepted": {"by", "at", "why"}}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct HealArgs {
    /// The pipeline whose `[source.capture]` is read
    #[arg(value_name = "PIPELINE")]
    pipeline: String,
    /// Ask the hub, too: what it has no more is missing also past the ledger's end
    #[arg(long)]
    hub: bool,
    /// `json` writes `{"pipeline", "table", "healed": [{"source", "partition", "from", "to", "count"}],
    /// "gaps": […], "committed", "rejected", "blobs", "torn_blobs"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point of a flush, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

#[derive(Debug, clap::Args)]
struct AcceptArgs {
    /// The table, as in `bronze.leads`, or the pipeline that writes it
    #[arg(value_name = "PIPELINE|TABLE")]
    target: String,
    /// The partition, as `list` names it
    #[arg(long, value_name = "NAME")]
    partition: String,
    /// The first number that is missing
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    from: i64,
    /// The number after the last one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    to: i64,
    /// Why the table can do without them
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Who says so; else the user of this machine
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The source, as `list` names it, where the table has the partition of several
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Ask the hub, too: what it has no more is missing also past the ledger's end
    #[arg(long)]
    hub: bool,
    /// `json` writes `{"gaps": […]}`, as `list` does: what is accepted now
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Shown {
    gaps: Vec<Gap>,
}

/// # Errors
/// What was named wrong, and what the tables, hubs or captures didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    match args.command {
        Command::List(args) => run_list(args, global).await,
        Command::Heal(args) => run_heal(args, global).await,
        Command::Accept(args) => run_accept(args, global).await,
    }
}

fn ask(hub: bool) -> AskHub {
    if hub { AskHub::Yes } else { AskHub::No }
}

async fn run_list(args: ListArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let named: Result<Vec<_>, _> = args.targets.iter().map(|name| Target::named(&project, name)).collect();
    let targets = if args.targets.is_empty() { Target::all(&project) } else { named?.concat() };
    let progress = Progress::new(global);
    progress.spin("reading ledgers");
    let gaps = list(&project, &targets, ask(args.hub)).await?;
    progress.clear();
    let has_open = gaps.iter().any(|gap| gap.state == GapState::Open);
    show(gaps, args.format, global)?;
    Ok(if args.exit_code && has_open { Exit::Failed } else { Exit::Well }.into())
}

/// Exit code 0 when nothing is missing any more but what was accepted, else 1.
async fn run_heal(args: HealArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let options = RunOptions { pipelines: vec![args.pipeline], ..RunOptions::default() };
    let Some((spec, status)) = select(&project, &options)?.pop() else { return Ok(Exit::Well.into()) };
    let shutdown = Shutdown::new();
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let progress = Progress::new(global);
    let fault_points = args.crash_at.unwrap_or_default();
    let healing = heal(&project, (spec, status.clone()), ask(args.hub), fault_points, shutdown.clone());
    let ended = progress.follow_captures(healing, &[status]).await;
    progress.clear();
    beside.abort_all();
    match ended {
        Ok(healed) => {
            match args.format {
                Format::Json => output.json(&healed)?,
                Format::Text => output.line(words_of_healing(&healed))?,
            }
            Ok(if healed.is_whole() { Exit::Well } else { Exit::Failed }.into())
        }
        Err(GapError::Pipeline(PipelineError::Stopped { source, .. })) if matches!(*source, PipelineError::CutOff) => {
            tracing::warn!("cut off: what was not committed is missing still");
            Ok(Exit::CutOff.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn run_accept(args: AcceptArgs, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let target = Target::only(&project, &args.target)?;
    let wanted = Wanted {
        source: args.source,
        partition: args.partition,
        range: Range::new(args.from, args.to),
        by: args.by.map_or_else(user, Ok)?,
        why: args.why,
    };
    let accepted = accept(&project, &target, wanted, ask(args.hub)).await?;
    show(accepted, args.format, global)?;
    Ok(Exit::Well.into())
}

/// Who runs this. It is written down, so nobody is made up where the system doesn't say.
fn user() -> Result<String, GapError> {
    let named = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|variable| std::env::var(variable).ok());
    named.filter(|name| !name.trim().is_empty()).ok_or_else(|| GapError::Words {
        flag: "--by",
        reason: "is needed: the system doesn't say who you are".to_owned(),
    })
}

fn show(gaps: Vec<Gap>, format: Format, global: &Global) -> Result<(), AnyError> {
    let output = global.output();
    match format {
        Format::Json => output.json(&Shown { gaps })?,
        Format::Text => output.line(words(&gaps))?,
    }
    Ok(())
}

fn words(gaps: &[Gap]) -> String {
    if gaps.is_empty() {
        return "no gaps".to_owned();
    }
    let of = |state: GapState| {
        let gaps = gaps.iter().filter(|gap| gap.state == state);
        gaps.fold((0, 0), |(ranges, numbers), gap| (ranges + 1, numbers + gap.count))
    };
    let ((open, lacking), (accepted, lived_without)) = (of(GapState::Open), of(GapState::Accepted));
    let (lacking, lived_without) = (numbers(lacking), numbers(lived_without));
    format!("{open} open, {lacking}; {accepted} accepted, {lived_without}\n\n{}", table(gaps))
}

fn numbers(count: u64) -> String {
    if count == 1 { "1 number".to_owned() } else { format!("{count} numbers") }
}

fn table(gaps: &[Gap]) -> Table {
    let mut table =
        plain_table(["table", "source", "partition", "from", "to", "numbers", "known by", "state", "by", "at", "why"]);
    for gap in gaps {
        let accepted = gap.accepted.as_ref();
        table.add_row([
            gap.table.clone(),
            gap.source.clone(),
            gap.partition.clone(),
            gap.from.to_string(),
            gap.to.to_string(),
            gap.count.to_string(),
            match (gap.known_by, gap.hub_may_have) {
                (KnownBy::Ledger, true) => "ledger; the hub may have it",
                (KnownBy::Ledger, false) => "ledger",
                (KnownBy::Hub, _) => "hub",
            }
            .to_owned(),
            match gap.state {
                GapState::Open => "open",
                GapState::Accepted => "accepted",
            }
            .to_owned(),
            or_dash(accepted.map(|accepted| &accepted.by)),
            or_dash(accepted.map(|accepted| &accepted.at)),
            or_dash(accepted.map(|accepted| &accepted.why)),
        ]);
    }
    for column in table.column_iter_mut().skip(3).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn words_of_healing(healed: &Healed) -> String {
    let landed = numbers(healed.healed.iter().map(|range| range.count).sum());
    let mut text = format!(
        "{}: {landed} healed, from {} blobs: {} committed, {} rejected\n",
        healed.table, healed.blobs, healed.committed, healed.rejected
    );
    for range in &healed.healed {
        let (source, partition) = (&range.source, &range.partition);
        let of = if range.table == healed.table { String::new() } else { format!(" of {}", range.table) };
        text.push_str(&format!("  healed: partition `{source}/{partition}`{of}: [{}, {})\n", range.from, range.to));
    }
    if healed.torn_blobs > 0 {
        text.push_str(&format!("  {} torn blobs: the log names them\n", healed.torn_blobs));
    }
    if healed.gaps.is_empty() {
        text.push_str("nothing is missing any more");
        return text;
    }
    text.push_str(&format!("still missing: {}", words(&healed.gaps)));
    text
}
