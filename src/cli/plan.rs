//! `sluice plan`: what is made of what, and what a deploy would change.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::check::say_notes;
use super::{Exit, Format, Global};
use crate::config::ConfigErrors;
use crate::error::AnyError;
use crate::pipeline::plan::{Change, Plan, PlannedColumn, PlannedTable, counts, plan};
use crate::pipeline::{self, roles::Role};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `json` writes `{"tables": [{"name", "owner", "file", "source", "mode", "keys", "trigger", "reads", "change",
    /// "columns", "columns_added", "change_feed_added", "config_changed"}], "roles": [{"role", "scope", "why"}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// # Errors
/// Every problem of the project's files and SQL; a lake that can't be read.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let checked = pipeline::check::check(&project).await?;
    say_notes(&checked.notes, &output);
    if !checked.problems.is_empty() {
        return Err(ConfigErrors { dir: Some(project.dir.clone()), problems: checked.problems }.into());
    }
    let plan = plan(&project, &checked).await?;
    match args.format {
        Format::Json => output.json(&plan)?,
        Format::Text => output.line(words(&project.name, &plan))?,
    }
    Ok(Exit::Well.into())
}

fn words(name: &str, plan: &Plan) -> String {
    let mut text = format!("project `{name}`\n");
    for table in &plan.tables {
        let _ = write!(text, "\n{} of `{}`\n  {}\n  {}\n", table.name, table.owner, from(table), changes(table));
    }
    if plan.tables.is_empty() {
        text.push_str("\nno tables yet: declare them in `pipelines/<team>/<name>.toml`\n");
    }
    let counts = counts(plan);
    let told: Vec<String> =
        [("create", "to be made"), ("change", "to be changed"), ("keep", "as declared"), ("unknown", "unknown")]
            .into_iter()
            .filter_map(|(key, words)| Some(format!("{} {words}", counts.get(key)?)))
            .collect();
    if !told.is_empty() {
        let _ = writeln!(text, "\ntables: {}", told.join(", "));
    }
    text.push_str(&of_roles(&plan.roles));
    text.trim_end().to_owned()
}

fn from(table: &PlannedTable) -> String {
    let reads: Vec<String> = table
        .reads
        .iter()
        .map(|read| match (read.streamed, read.changes) {
            (true, true) => format!("changes of STREAM({})", read.table),
            (true, false) => format!("STREAM({})", read.table),
            (false, _) => read.table.clone(),
        })
        .collect();
    let mut text = match &table.source {
        Some(source) => format!("from {source}"),
        None => format!("from {}", reads.join(", ")),
    };
    if let Some(mode) = table.mode {
        let _ = write!(text, "; {mode}");
        if !table.keys.is_empty() {
            let _ = write!(text, " by {}", table.keys.join(", "));
        }
    }
    if let Some(trigger) = &table.trigger {
        let _ = write!(text, "; {trigger}");
    }
    text
}

fn changes(table: &PlannedTable) -> String {
    let count = |columns: &[PlannedColumn]| match columns.len() {
        1 => "1 column".to_owned(),
        count => format!("{count} columns"),
    };
    let mut text = match (table.change, &table.columns) {
        (Change::Create, Some(columns)) => format!("+ is made, with {}", count(columns)),
        (Change::Create, None) => "+ is made, with the columns of its first events".to_owned(),
        (Change::Alter, _) => {
            let names: Vec<String> =
                table.columns_added.iter().map(|column| format!("{} {}", column.name, column.r#type)).collect();
            format!("~ gains {}: {}", count(&table.columns_added), names.join(", "))
        }
        (Change::None, Some(columns)) => format!("= has its {}", count(columns)),
        (Change::None, None) => "= is there".to_owned(),
        (Change::Unknown, _) => "? is there; what its events add is not known".to_owned(),
    };
    if table.change_feed_added {
        text.push_str("; with a change feed");
    }
    if table.config_changed == Some(true) {
        text.push_str("; SQL or declaration have changed since its last run");
    }
    text
}

fn of_roles(roles: &[Role]) -> String {
    if roles.is_empty() {
        return String::new();
    }
    let mut text = "\nroles on Azure\n".to_owned();
    for Role { role, scope, why } in roles {
        let _ = writeln!(text, "  {role}: {scope} ({why})");
    }
    text
}
