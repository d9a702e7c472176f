//! From a folder to a project, or to every problem in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::{LARGEST_FILE_BYTES, Node, overlay, parse};
use super::pipeline::{self, Built};
use super::problem::{ConfigErrors, Place, Problem, quoted};
use super::project::{self, Shared};
use super::spec::ProjectSpec;
use super::test;
use super::test_spec::TestSpec;
use super::variables::{Lookup, resolve};

const PROJECT_FILE: &str = "sluice.toml";
const PIPELINES_FOLDER: &str = "pipelines";
const TESTS_FOLDER: &str = "tests";

/// More files than this are not a project's, but a disk's.
const MOST_FILES: usize = 10_000;

/// Teams are one level; deeper than this is a loop or a mistake.
const DEEPEST_FOLDER: usize = 16;

/// Which project, and what is laid over it.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The project's folder; else `sluice.toml` is searched upwards from the current one.
    pub project: Option<PathBuf>,
    /// Lay `sluice.<env>.toml` over `sluice.toml`.
    pub env: Option<String>,
}

/// Reads a project, with the variables of the process.
///
/// # Errors
/// Every problem of the project's files.
pub fn load(options: &LoadOptions) -> Result<ProjectSpec, ConfigErrors> {
    load_with(options, &|name| std::env::var(name).ok())
}

/// Reads a project, with variables from elsewhere.
///
/// # Errors
/// Every problem of the project's files.
pub fn load_with(options: &LoadOptions, lookup: Lookup<'_>) -> Result<ProjectSpec, ConfigErrors> {
    let dir = find(options).map_err(|problem| ConfigErrors { dir: None, problems: vec![problem] })?;
    let mut problems = Vec::new();
    let root = project_tree(&dir, options.env.as_deref(), lookup, &mut problems);
    let (project, shared) = match &root {
        Some(root) => project::build(root, &dir, &mut problems),
        None => (None, Shared::unknown()),
    };
    let mut built = Vec::new();
    for file in toml_files(&dir, PIPELINES_FOLDER, &mut problems) {
        let name = shown(&file);
        let Some(mut root) = read(&dir.join(&file), &name, &mut problems) else { continue };
        resolve(&mut root, &dir, lookup, &mut problems);
        built.push(pipeline::build(&root, file, &dir, &shared, &mut problems));
    }
    once(&built, &mut problems);
    let mut pipelines = Vec::new();
    let mut transforms = Vec::new();
    for built in built {
        pipelines.extend(built.spec);
        transforms.extend(built.transforms.into_iter().filter_map(|transform| transform.spec));
    }
    match project {
        Some(project) if problems.is_empty() => Ok(ProjectSpec { pipelines, transforms, ..project }),
        _ => {
            if problems.is_empty() {
                // Every way to no project has pushed its problem.
                problems.push(Problem::new(None, "the project can't be read").with_hint("this is a defect of sluice"));
            }
            problems.sort_by_key(order);
            problems.dedup();
            Err(ConfigErrors { dir: Some(dir), problems })
        }
    }
}

/// Reads the tests of a project, with the variables of the process.
///
/// # Errors
/// Every problem of their files.
pub fn load_tests(project: &ProjectSpec) -> Result<Vec<TestSpec>, ConfigErrors> {
    let lookup: Lookup<'_> = &|name| std::env::var(name).ok();
    let dir = &project.dir;
    let mut problems = Vec::new();
    let mut tests = Vec::new();
    for file in toml_files(dir, TESTS_FOLDER, &mut problems) {
        let name = shown(&file);
        let Some(mut root) = read(&dir.join(&file), &name, &mut problems) else { continue };
        resolve(&mut root, dir, lookup, &mut problems);
        tests.extend(test::build(&root, &file, dir, &mut problems));
    }
    test::named_once(&tests, &mut problems);
    if problems.is_empty() {
        return Ok(tests);
    }
    problems.sort_by_key(order);
    problems.dedup();
    Err(ConfigErrors { dir: Some(dir.clone()), problems })
}

/// Project files first, then by name and place.
fn order(problem: &Problem) -> (bool, String, usize) {
    match &problem.place {
        None => (false, String::new(), 0),
        Some(place) => (place.file.name.contains('/'), place.file.name.clone(), place.bytes.start),
    }
}

/// The folder that holds `sluice.toml`.
fn find(options: &LoadOptions) -> Result<PathBuf, Problem> {
    let here = |path: &Path| {
        std::path::absolute(path).map_err(|error| Problem::new(None, format!("can't tell the current folder: {error}")))
    };
    if let Some(dir) = &options.project {
        let dir = here(dir)?;
        if dir.join(PROJECT_FILE).is_file() {
            return Ok(dir);
        }
        let message = format!("there is no `{PROJECT_FILE}` in {}", quoted(&dir.to_string_lossy()));
        return Err(Problem::new(None, message).with_hint("`--project` names the folder that holds it"));
    }
    let start = here(Path::new("."))?;
    let found = start.ancestors().find(|dir| dir.join(PROJECT_FILE).is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        let message = format!("there is no `{PROJECT_FILE}` in {} or above", quoted(&start.to_string_lossy()));
        Problem::new(None, message).with_hint("change to a project's folder, or name it: `--project DIR`")
    })
}

/// The project file with its overlay and variables; None where one of them can't be read.
fn project_tree(dir: &Path, env: Option<&str>, lookup: Lookup<'_>, problems: &mut Vec<Problem>) -> Option<Node> {
    let base = read(&dir.join(PROJECT_FILE), PROJECT_FILE, problems);
    let over = match env {
        None => None,
        Some(env) => match overlay_name(dir, env) {
            Ok(name) => Some(read(&dir.join(&name), &name, problems)?),
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        },
    };
    let mut root = base?;
    if let Some(over) = over {
        overlay(&mut root, over);
    }
    resolve(&mut root, dir, lookup, problems);
    Some(root)
}

fn overlay_name(dir: &Path, env: &str) -> Result<String, Problem> {
    let is_name = !env.is_empty() && env.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_name {
        let message = format!("{} is not the name of an environment", quoted(env));
        return Err(Problem::new(None, message).with_hint("write letters, digits, `_` and `-`: `--env prod`"));
    }
    let name = format!("sluice.{env}.toml");
    if dir.join(&name).is_file() {
        return Ok(name);
    }
    let message = format!("there is no `{name}` beside `{PROJECT_FILE}`");
    Err(Problem::new(None, message).with_hint("`--env` names what is laid over it"))
}

fn read(path: &Path, name: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    use std::io::Read as _;

    // One byte more than may be there tells that it is too large, whatever it is.
    let limit = LARGEST_FILE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Ok(_) => parse(name, &bytes, problems),
        Err(error) => {
            problems.push(Problem::new(None, format!("can't read `{name}`: {error}")));
            None
        }
    }
}

/// The declarations in a folder and those in it, relative to the project's folder, in order.
fn toml_files(dir: &Path, folder: &str, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![(PathBuf::from(folder), 0)];
    while let Some((open, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(dir.join(&open)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                problems.push(Problem::new(None, format!("can't list `{}`: {error}", shown(&open))));
                continue;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            // Hidden ones are editors' and Kubernetes' own.
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let path = open.join(&name);
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // A project within has files of its own.
            if is_folder && dir.join(&path).join(PROJECT_FILE).is_file() {
                continue;
            }
            if is_folder && depth < DEEPEST_FOLDER {
                folders.push((path, depth + 1));
            } else if is_folder {
                let message = format!("`{}` lies more than {DEEPEST_FOLDER} folders deep", shown(&path));
                problems.push(Problem::new(None, message));
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        if files.len() > MOST_FILES {
            let message = format!("`{folder}` holds more than {MOST_FILES} files");
            problems.push(Problem::new(None, message));
            break;
        }
    }
    files.sort();
    files
}

fn shown(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// What must be there once in a project.
fn once(built: &[Built], problems: &mut Vec<Problem>) {
    let names = built.iter().filter_map(|built| built.name.as_ref());
    twins(names, problems, |name| (format!("two pipelines are named `{name}`"), "give one of them another name"));
    let tables = built.iter().flat_map(|built| &built.tables);
    twins(tables, problems, |table| {
        (format!("two pipelines write the table `{table}`"), "a table has one pipeline: its ledger is that pipeline's")
    });
    let transforms = built.iter().flat_map(|built| &built.transforms).filter_map(|transform| transform.table.as_ref());
    written_once(built.iter().flat_map(|built| &built.tables), transforms, problems);
    let readers = built.iter().filter_map(|built| built.reader.as_ref());
    twins(readers, problems, |reader| {
        let hint = "give each pipeline a consumer group of its own, or they take the partitions from each other";
        (format!("two pipelines read hub {reader}"), hint)
    });
}

/// Two transforms, or a pipeline and a transform, would take each other's rows away.
fn written_once<'a>(
    of_pipelines: impl Iterator<Item = &'a (String, Place)>,
    of_transforms: impl Iterator<Item = &'a (String, Place)>,
    problems: &mut Vec<Problem>,
) {
    let mut first: BTreeMap<&str, (&str, &Place)> = BTreeMap::new();
    for (name, place) in of_pipelines {
        first.entry(name).or_insert(("pipeline", place));
    }
    for (name, place) in of_transforms {
        match first.get(name.as_str()) {
            None => drop(first.insert(name, ("transform", place))),
            Some((what, other)) => {
                let message = format!("another {what} writes the table `{name}` already");
                let hint = format!("it stands at {other}; a table has one pipeline or one transform");
                problems.push(Problem::new(place.clone(), message).with_hint(hint));
            }
        }
    }
}

fn twins<'a>(
    named: impl Iterator<Item = &'a (String, Place)>,
    problems: &mut Vec<Problem>,
    words: impl Fn(&str) -> (String, &'static str),
) {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for (name, place) in named {
        match first.get(name.as_str()) {
            None => drop(first.insert(name, place)),
            Some(other) => {
                let (message, hint) = words(name);
                let hint = format!("the other stands at {other}; {hint}");
                problems.push(Problem::new(place.clone(), message).with_hint(hint));
            }
        }
    }
}
