//! The command line: the only code that prints or picks an exit code. One file per command.
//!
//! A command is a file `src/cli/<command>.rs` with `pub struct Args` (clap) and
//! `pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError>`, a `pub mod`
//! line and a line in `commands!` below. Data goes to stdout and words to stderr, both through
//! [`Output`]; an error becomes words, a hint and an exit code in [`report`].

pub mod audit;
pub mod backfill;
pub mod check;
pub mod dead_letters;
pub mod demo;
pub mod emulator;
pub mod gaps;
pub mod ledger;
pub mod maintain;
pub mod output;
pub mod plan;
pub mod problems;
pub mod progress;
pub mod query;
pub mod report;
pub mod rows;
pub mod run;
pub mod schema;
pub mod signals;
pub mod status;
pub mod test;
pub mod transform;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

pub use output::{Output, OutputError};
pub use report::Exit;

use crate::config::spec::ProjectSpec;
use crate::config::{self, ConfigErrors, LoadOptions};
use crate::error::AnyError;
use crate::telemetry::logging;

/// One line per command: its variant (whose kebab-case name is the command's), a shorter name if it has one, and its
/// module.
macro_rules! commands {
    ($($variant:ident $(or $alias:literal)? => $module:ident, $about:literal;)+) => {
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $(#[command(about = $about $(, visible_alias = $alias)?)] $variant($module::Args),)+
        }

        impl Command {
            async fn run(self, global: &Global) -> Result<ExitCode, AnyError> {
                match self {
                    // Boxed, or the largest command would decide the size of all on the stack.
                    $(Self::$variant(args) => Box::pin($module::run(args, global)).await,)+
                }
            }
        }
    };
}

commands! {
    Demo => demo, "See it work on this machine: events in, tables out, and the proof that nothing is missing";
    Check => check, "Find every problem of the project's files, offline";
    Plan => plan, "Show what is made of what, and what a deploy would change";
    Test => test, "Run the project's tests of its transforms, in a lake of their own";
    Run => run, "Run pipelines, until stopped or until nothing is left";
    Backfill => backfill, "Take in what Event Hubs Capture kept, beside the live pipeline";
    Transform => transform, "Run transforms once, each after those whose tables it reads";
    Query => query, "Ask the tables, in SQL";
    Status => status, "Where each pipeline stands: positions, lag, last commit";
    Audit => audit, "Prove that a table accounts for every event once, or name those that are missing";
    Gaps => gaps, "What tables lack: list it, heal it from captures, or accept it";
    DeadLetters or "dlq" => dead_letters, "What could not become a row: list it, replay it once that is mended, or drop it";
    Ledger => ledger, "Show what a table accounts for, as its log holds it";
    Maintain => maintain, "Rewrite small files as large ones, and delete what nobody needs any more";
    Schema => schema, "The schemas of the registry: list, register, check what is compatible, and what a new one does to tables";
    Emulator => emulator, "Azure on this machine: Event Hubs and Schema Registry, on loopback";
}

/// Event Hubs to Delta tables, each event exactly once.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 100, arg_required_else_help = true)]
pub struct CommandLine {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The project's folder; else `sluice.toml` is searched from here upwards
    #[arg(long, global = true, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Lay `sluice.<ENV>.toml` over `sluice.toml`
    #[arg(long, global = true, value_name = "ENV")]
    pub env: Option<String>,
    /// Log more: -v debug, -vv trace, -vvv the dependencies too
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Log less: -q warnings, -qq errors, -qqq nothing
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Colours on stderr; `auto` means on a terminal, unless `NO_COLOR` is set
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// The form of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// How a reading command writes what it found, for its `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl Global {
    /// Loads the project that the flags name.
    ///
    /// # Errors
    /// Every problem of the project's files.
    pub fn load_project(&self) -> Result<ProjectSpec, ConfigErrors> {
        config::load(&self.load_options())
    }

    pub fn load_options(&self) -> LoadOptions {
        LoadOptions { project: self.project.clone(), env: self.env.clone() }
    }

    pub fn output(&self) -> Output {
        Output::new(self.color)
    }
}

/// Reads the command line; where that ends it (help, version, a usage error), it has been
/// answered and the exit code comes back.
///
/// # Errors
/// The exit code: 0 after help or version, 2 after a usage error.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<CommandLine, ExitCode> {
    CommandLine::try_parse_from(args).map_err(report::usage)
}

/// Sets up the log, runs the command and reports its error.
pub async fn run(command_line: CommandLine) -> ExitCode {
    let CommandLine { global, command } = command_line;
    let output = global.output();
    let logging = logging::Logging {
        // The demo shows its progress where others log theirs, and what tests commit is of no interest.
        verbosity: i16::from(global.verbose)
            - i16::from(global.quiet)
            - i16::from(matches!(command, Command::Demo(_) | Command::Test(_))),
        form: match global.log_format {
            LogFormat::Text => logging::Form::Text { color: output.color_on_stderr() },
            LogFormat::Json => logging::Form::Json,
        },
    };
    logging::install(&logging, progress::LogWriter::default);
    match command.run(&global).await {
        Ok(exit) => exit,
        Err(error) => report::report(&error, &output),
    }
}
