//! `sluice check`: every problem of the project's files, with no network and no data.

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::rows::fit_for_a_screen;
use super::{Exit, Format, Global, Output};
use crate::config::schema;
use crate::config::spec::{ProjectSpec, RouteCondition, RouteSpec, RouteTo};
use crate::config::{self, ConfigErrors, Problem};
use crate::error::AnyError;
use crate::pipeline::{self, unit_tests};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `json` writes `{"ok", "problems": [{"file", "line", "column", "message", "hint"}], "notes": […]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print the JSON Schema of a kind of file instead, for editors
    #[arg(long, value_enum, value_name = "FILE", conflicts_with = "format")]
    json_schema: Option<File>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum File {
    /// `sluice.toml` and `sluice.<env>.toml`
    Project,
    /// `pipelines/**/*.toml`
    Pipeline,
    /// `tests/**/*.toml`
    Test,
}

/// # Errors
/// Every problem of the project's files; with `--format json` they are data, not an error.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let output = global.output();
    if let Some(file) = args.json_schema {
        output.line(match file {
            File::Project => schema::project_json(),
            File::Pipeline => schema::pipeline_json(),
            File::Test => schema::test_json(),
        })?;
        return Ok(Exit::Well.into());
    }
    let checked = match global.load_project() {
        Ok(project) => {
            let checked = pipeline::check::check(&project).await?;
            let mut problems = checked.problems.clone();
            match config::load_tests(&project) {
                // Their columns are known where nothing else is wrong.
                Ok(tests) if problems.is_empty() => {
                    problems.extend(unit_tests::prepare(&project, &checked, &tests).await.1);
                }
                Ok(_) => {}
                Err(errors) => problems.extend(errors.problems),
            }
            let errors = ConfigErrors { dir: Some(project.dir.clone()), problems };
            if errors.problems.is_empty() { Ok((project, checked.notes)) } else { Err((errors, checked.notes)) }
        }
        Err(errors) => Err((errors, Vec::new())),
    };
    match (checked, args.format) {
        (Ok((project, notes)), Format::Text) => {
            say_notes(&notes, &output);
            output.line(summary(&project))?;
        }
        (Ok((_, notes)), Format::Json) => output.json(&Checked::new(&[], &notes))?,
        (Err((errors, notes)), Format::Text) => {
            say_notes(&notes, &output);
            return Err(errors.into());
        }
        (Err((errors, notes)), Format::Json) => {
            output.json(&Checked::new(&errors.problems, &notes))?;
            return Ok(Exit::Failed.into());
        }
    }
    Ok(Exit::Well.into())
}

/// Beside the problems: what isn't wrong, and should be known.
pub(super) fn say_notes(notes: &[Problem], output: &Output) {
    for note in notes {
        let place = note.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let hint = note.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        output.say(format!("note: {place}{}{hint}", note.message));
    }
}

/// What stands in a project without problems.
fn summary(project: &ProjectSpec) -> String {
    let mut lines = vec![format!("project `{}` in {}: no problems", project.name, project.dir.display())];
    for pipeline in &project.pipelines {
        lines.push(format!(
            "  pipeline `{}` of `{}`: hub `{}` to `{}`",
            pipeline.name, pipeline.owner, pipeline.source.hub, pipeline.sink.table
        ));
        for route in &pipeline.routes {
            lines.push(format!("    {}", words_of_route(route)));
        }
    }
    for transform in &project.transforms {
        lines.push(format!(
            "  transform `{}` of `{}`: {}, {}",
            transform.table, transform.owner, transform.mode, transform.trigger
        ));
    }
    if project.pipelines.is_empty() && project.transforms.is_empty() {
        lines.push("  no pipelines yet: declare them in `pipelines/<team>/<name>.toml`".to_owned());
    }
    lines.join("\n")
}

/// A route as a person reads it.
fn words_of_route(route: &RouteSpec) -> String {
    let RouteCondition { schema, event_type, property, predicate } = &route.when;
    let mut when = Vec::new();
    when.extend(schema.as_ref().map(|schema| format!("schema `{schema}`")));
    when.extend(event_type.as_ref().map(|event_type| format!("type `{event_type}`")));
    when.extend(property.as_ref().map(|(name, value)| format!("property `{name}` = `{value}`")));
    when.extend(predicate.as_ref().map(|predicate| format!("when `{}`", predicate.text)));
    let when = if when.is_empty() { "all else".to_owned() } else { fit_for_a_screen(&when.join(" and ")) };
    match &route.to {
        RouteTo::Table(table) => format!("{when}: to `{table}`"),
        RouteTo::Filter => format!("{when}: left out"),
        RouteTo::Reject => format!("{when}: to the dead letters"),
    }
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    ok: bool,
    problems: &'a [Problem],
    /// What could not be checked, and why.
    notes: &'a [Problem],
}

impl<'a> Checked<'a> {
    fn new(problems: &'a [Problem], notes: &'a [Problem]) -> Self {
        Self { ok: problems.is_empty(), problems, notes }
    }
}
