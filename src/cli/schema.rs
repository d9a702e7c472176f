//! `sluice schema`: the schemas of the project's registry.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use serde::Serialize;

use super::rows::{fit_for_a_screen, or_dash, plain_table};
use super::{Exit, Format, Global};
use crate::config::spec::ProjectSpec;
use crate::decode::{Listed, SubjectVersion};
use crate::error::AnyError;
use crate::pipeline::gaps::Target;
use crate::pipeline::schemas::{
    Change, Checked, Diff, GainedColumn, KnownBy, Mode, Registry, SchemaError, SubjectName, TransformDiff,
    TransformEffect, check, diff, find, read_file, register,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The subjects of the registry (of Azure's, its groups), or the versions of one
    List(ListArgs),
    /// A version of a subject, or the schema of an id
    Show(ShowArgs),
    /// Register a new version, if it is compatible
    Register(RegisterArgs),
    /// Whether a new version is compatible, by the Avro rules, and where it isn't
    Check(CheckArgs),
    /// What a new version does to the tables, columns that are added, widened, rescued; and to the transforms that read them
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The subject: `group/name` of Azure's registry, the full name of a record in a folder
    #[arg(value_name = "SUBJECT")]
    subject: Option<String>,
    /// `json` writes `{"subjects": […]}` or `{"groups": […]}`; of a subject `{"subject", "versions": [{"version", "id"}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The subject, the last version of it; or one version, as `subject@3`
    #[arg(value_name = "SUBJECT[@VERSION]", required_unless_present = "id")]
    subject: Option<String>,
    /// The id that events name, instead of a subject
    #[arg(long, value_name = "ID", conflicts_with = "subject")]
    id: Option<String>,
    /// `json` writes `{"subject", "version", "id", "schema"}`, the schema as text; `text` writes the schema alone
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct RegisterArgs {
    /// The subject; a new one begins with version 1
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// The schema
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it has to hold against before it is registered
    #[arg(long, value_enum, default_value_t = Compatibility::Backward, value_name = "MODE")]
    compatibility: Compatibility,
    /// `json` writes `{"subject", "version", "id", "schema"}`; of what isn't compatible, what `check` writes
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The subject
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// The new version
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it has to hold against
    #[arg(long, value_enum, default_value_t = Compatibility::Backward, value_name = "MODE")]
    compatibility: Compatibility,
    /// The one version that it is held against, instead of the last, or of all
    #[arg(long, value_name = "VERSION")]
    against: Option<u32>,
    /// `json` writes `{"subject", "mode", "compatible", "against", "problems": [{"direction", "version", "path", "kind",
    /// "message"}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// The new version: a file, or `subject[@version]`
    #[arg(value_name = "FILE|SUBJECT")]
    schema: String,
    /// Pipelines, or tables as in `bronze.leads`; else those that have events of a schema of this name
    #[arg(value_name = "PIPELINE|TABLE")]
    targets: Vec<String>,
    /// End with 1 when a column can't hold what it gets, or a transform breaks
    #[arg(long)]
    exit_code: bool,
    /// `json` writes `{"name", "tables": [{"table", "pipeline", "known_by", "unchanged", "columns": [{"column", "change",
    /// "table_type", "schema_type"}]}], "transforms": [{"transform", "owner", "reads", "effect", "columns": [{"column", "type"}],
    /// "nulls", "problems": [{"file", "line", "column", "message", "hint"}], "why"}], "notes"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compatibility {
    /// Nothing
    None,
    /// The new version reads what the last one wrote
    Backward,
    /// The last version reads what the new one writes
    Forward,
    /// Both
    Full,
    /// The new version reads what any wrote
    BackwardTransitive,
    /// Every version reads what the new one writes
    ForwardTransitive,
    /// Both
    FullTransitive,
}

impl From<Compatibility> for Mode {
    fn from(compatibility: Compatibility) -> Self {
        match compatibility {
            Compatibility::None => Self::None,
            Compatibility::Backward => Self::Backward,
            Compatibility::Forward => Self::Forward,
            Compatibility::Full => Self::Full,
            Compatibility::BackwardTransitive => Self::BackwardTransitive,
            Compatibility::ForwardTransitive => Self::ForwardTransitive,
            Compatibility::FullTransitive => Self::FullTransitive,
        }
    }
}

/// The shapes that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum ShownList {
    Subjects(Vec<String>),
    Groups(Vec<String>),
}

#[derive(Debug, Serialize)]
struct ShownVersions {
    subject: String,
    versions: Vec<ShownVersion>,
}

#[derive(Debug, Serialize)]
struct ShownVersion {
    version: u32,
    id: String,
}

#[derive(Debug, Serialize)]
struct ShownSchema {
    id: String,
    schema: String,
}

/// # Errors
/// What was named wrong, and what the registry or the tables didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    match args.command {
        Command::List(args) => run_list(args, &project, global).await,
        Command::Show(args) => run_show(args, &project, global).await,
        Command::Register(args) => run_register(args, &project, global).await,
        Command::Check(args) => run_check(args, &project, global).await,
        Command::Diff(args) => run_diff(args, &project, global).await,
    }
}

async fn run_list(args: ListArgs, project: &ProjectSpec, global: &Global) -> Result<ExitCode, AnyError> {
    let registry = Registry::of(project)?;
    let output = global.output();
    let Some(subject) = args.subject else {
        let listed = match registry.subjects.list().await? {
            Listed::Subjects(subjects) => ShownList::Subjects(subjects),
            Listed::Groups(groups) => ShownList::Groups(groups),
        };
        match (args.format, &listed) {
            (Format::Json, listed) => output.json(listed)?,
            (Format::Text, ShownList::Subjects(subjects)) => output.line(lines(subjects, "no subjects"))?,
            (Format::Text, ShownList::Groups(groups)) => {
                output.line(lines(groups, "no groups"))?;
                output.say("these are groups: Azure's registry doesn't list names; `sluice schema list GROUP/NAME` lists versions");
            }
        }
        return Ok(Exit::Well.into());
    };
    let versions = registry.subjects.all(&subject).await?;
    let versions: Vec<ShownVersion> =
        versions.into_iter().map(|SubjectVersion { version, id, .. }| ShownVersion { version, id }).collect();
    match args.format {
        Format::Json => output.json(&ShownVersions { subject, versions })?,
        Format::Text => {
            let mut table = plain_table(["version", "id"]);
            for version in versions {
                table.add_row([version.version.to_string(), fit_for_a_screen(&version.id)]);
            }
            output.line(table.to_string())?;
        }
    }
    Ok(Exit::Well.into())
}

async fn run_show(args: ShowArgs, project: &ProjectSpec, global: &Global) -> Result<ExitCode, AnyError> {
    let registry = Registry::of(project)?;
    let output = global.output();
    if let Some(id) = args.id {
        let schema = registry.by_id.schema(&id).await.map_err(SchemaError::from)?;
        let shown = ShownSchema { id: schema.id.to_string(), schema: schema.text.clone() };
        match args.format {
            Format::Json => output.json(&shown)?,
            Format::Text => output.line(pretty(&shown.schema))?,
        }
        return Ok(Exit::Well.into());
    }
    let name = SubjectName::parse(&args.subject.unwrap_or_default());
    let shown = find(&registry, &name).await?;
    match args.format {
        Format::Json => output.json(&shown)?,
        Format::Text => output.line(pretty(&shown.text))?,
    }
    Ok(Exit::Well.into())
}

async fn run_register(args: RegisterArgs, project: &ProjectSpec, global: &Global) -> Result<ExitCode, AnyError> {
    let registry = Registry::of(project)?;
    let text = read_file(&args.file)?;
    let output = global.output();
    match (register(&registry, &args.subject, &text, args.compatibility.into()).await?, args.format) {
        (Ok(registered), Format::Json) => output.json(&registered)?,
        (Ok(registered), Format::Text) => {
            let (subject, id) = (fit_for_a_screen(&registered.subject), fit_for_a_screen(&registered.id));
            output.line(format!("{subject}: version {}, id {id}", registered.version))?;
        }
        (Err(checked), Format::Json) => {
            output.json(&checked)?;
            return Ok(Exit::Failed.into());
        }
        (Err(checked), Format::Text) => {
            output.line(words_of_check(&checked))?;
            output.say("nothing was registered");
            return Ok(Exit::Failed.into());
        }
    }
    Ok(Exit::Well.into())
}

/// Exit code 0 when it is compatible, else 1.
async fn run_check(args: CheckArgs, project: &ProjectSpec, global: &Global) -> Result<ExitCode, AnyError> {
    let registry = Registry::of(project)?;
    let text = read_file(&args.file)?;
    let checked = check(&registry, &args.subject, &text, args.compatibility.into(), args.against).await?;
    match args.format {
        Format::Json => global.output().json(&checked)?,
        Format::Text => global.output().line(words_of_check(&checked))?,
    }
    Ok(if checked.compatible { Exit::Well } else { Exit::Failed }.into())
}

async fn run_diff(args: DiffArgs, project: &ProjectSpec, global: &Global) -> Result<ExitCode, AnyError> {
    let registry = match Registry::of(project) {
        Ok(registry) => Some(registry),
        Err(SchemaError::NoRegistry) => None,
        Err(error) => return Err(error.into()),
    };
    let file = Path::new(&args.schema);
    let text = match &registry {
        Some(registry) if !file.is_file() => find(registry, &SubjectName::parse(&args.schema)).await?.text,
        _ => read_file(file)?,
    };
    let targets: Result<Vec<_>, _> = args.targets.iter().map(|name| Target::named(project, name)).collect();
    let found = diff(project, registry.as_ref(), &text, &targets.map_err(SchemaError::from)?.concat()).await?;
    let changes = found.tables.iter().flat_map(|table| &table.columns);
    let rescues = changes.into_iter().any(|column| column.change == Change::Rescued);
    let breaks = found.transforms.iter().any(|transform| transform.effect == TransformEffect::Breaks);
    match args.format {
        Format::Json => global.output().json(&found)?,
        Format::Text => global.output().line(words_of_diff(&found))?,
    }
    Ok(if args.exit_code && (rescues || breaks) { Exit::Failed } else { Exit::Well }.into())
}

fn lines(names: &[String], none: &str) -> String {
    if names.is_empty() {
        return none.to_owned();
    }
    names.iter().map(|name| fit_for_a_screen(name)).collect::<Vec<_>>().join("\n")
}

/// As it is, where it isn't JSON.
fn pretty(text: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    json.and_then(|json| serde_json::to_string_pretty(&json).ok()).unwrap_or_else(|| text.to_owned())
}

fn words_of_check(checked: &Checked) -> String {
    let subject = fit_for_a_screen(&checked.subject);
    if checked.against.is_empty() {
        return format!("{subject}: compatible: there is no version to hold against");
    }
    let against: Vec<String> = checked.against.iter().map(ToString::to_string).collect();
    let verdict = if checked.compatible { "compatible" } else { "NOT COMPATIBLE" };
    let mut text = format!("{subject}: {verdict}, held against version {}", against.join(", "));
    for problem in &checked.problems {
        let path = if problem.found.path.is_empty() { "the schema itself" } else { &problem.found.path };
        let (path, message) = (fit_for_a_screen(path), fit_for_a_screen(&problem.found.message));
        let _ = write!(text, "\n  {}, version {}: {path}: {message}", problem.direction.as_str(), problem.version);
    }
    text
}

fn words_of_diff(found: &Diff) -> String {
    let mut text = String::new();
    if found.tables.is_empty() {
        let name =
            found.name.as_ref().map_or_else(|| "this name".to_owned(), |name| format!("`{}`", fit_for_a_screen(name)));
        let _ = write!(text, "no table is known to have events of {name}: name the pipelines or tables");
    }
    for (at, table) in found.tables.iter().enumerate() {
        let known_by = match table.known_by {
            KnownBy::Named => "",
            KnownBy::PinnedSchema => ", whose pipeline pins a schema of this name",
            KnownBy::SchemaId => ", which has events of a schema of this name",
        };
        let end = if at > 0 { "\n" } else { "" };
        let stay = if table.unchanged == 1 { "1 column stays as it is" } else { "columns stay as they are" };
        let count = if table.unchanged == 1 { String::new() } else { format!("{} ", table.unchanged) };
        let _ = write!(text, "{end}{}{known_by}: {count}{stay}", table.table);
        if table.columns.is_empty() {
            continue;
        }
        let mut columns = plain_table(["column", "change", "in the table", "in the schema"]);
        for column in &table.columns {
            columns.add_row([
                fit_for_a_screen(&column.column),
                column.change.as_str().to_owned(),
                or_dash(column.table_type.as_ref()),
                or_dash(column.schema_type.as_ref()),
            ]);
        }
        let _ = write!(text, "\n{columns}");
    }
    for transform in &found.transforms {
        let _ = write!(text, "\n{}", words_of_transform(transform));
    }
    for note in &found.notes {
        let _ = write!(text, "\n  note: {}", fit_for_a_screen(note));
    }
    text
}

fn words_of_transform(transform: &TransformDiff) -> String {
    let effect = match transform.effect {
        TransformEffect::Unaffected => "unaffected",
        TransformEffect::GainsColumns => "gains columns",
        TransformEffect::Breaks => "BREAKS",
        TransformEffect::Unknown => "can't be told",
    };
    let mut text = format!("{}, which reads {}: {effect}", transform.transform, transform.reads.join(", "));
    if let Some(why) = &transform.why {
        let _ = write!(text, ": {}", fit_for_a_screen(why));
    }
    if !transform.columns.is_empty() {
        let mut columns = plain_table(["column", "type"]);
        for GainedColumn { column, data_type } in &transform.columns {
            columns
                .add_row([fit_for_a_screen(column), data_type.as_deref().map_or_else(String::new, fit_for_a_screen)]);
        }
        let _ = write!(text, "\n{columns}");
    }
    for null in &transform.nulls {
        let _ = write!(text, "\n  it reads {}, which is null for the new events", fit_for_a_screen(null));
    }
    for problem in &transform.problems {
        let place = problem.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let _ = write!(text, "\n  {place}{}", fit_for_a_screen(&problem.message));
        if let Some(hint) = &problem.hint {
            let _ = write!(text, "\n    hint: {}", fit_for_a_screen(hint));
        }
    }
    text
}
