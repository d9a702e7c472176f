//! What the code keeps to and the compiler can't see: floors, homes of vendor crates, length,
//! nothing left for later, a reason for every dependency.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Imports run strictly downward; modules of one floor never import one another.
const FLOORS: [(&str, u8); 24] = [
    ("cli", 6),
    ("serve", 6),
    ("pipeline", 5),
    ("emulator", 5),
    ("source", 4),
    ("decode", 4),
    ("transform", 4),
    ("sink", 4),
    ("catalog", 3),
    ("storage", 2),
    ("columns", 2),
    ("config", 1),
    ("telemetry", 1),
    ("avro_container", 1),
    ("batch", 1),
    ("compute", 1),
    ("json", 1),
    ("memory", 1),
    ("retry", 1),
    ("shutdown", 1),
    ("checkpoint", 0),
    ("clock", 0),
    ("error", 0),
    ("fault_points", 0),
];

/// Level steps that are meant: from, to, why.
const LEVEL_STEPS: [(&str, &str, &str); 1] = [("cli", "serve", "`sluice run` starts the server")];

/// A vendor crate and the folders or files of `src` that may name it.
const HOMES: [(&str, &[&str]); 19] = [
    ("azure_messaging_eventhubs", &["source/event_hubs", "emulator"]),
    ("azure_core_amqp", &["source/event_hubs"]),
    ("deltalake", &["catalog", "sink/delta", "transform"]),
    ("buoyant_kernel", &["catalog"]),
    ("fe2o3_amqp", &["emulator"]),
    ("fe2o3_amqp_types", &["emulator"]),
    ("serde_amqp", &["emulator"]),
    ("rcgen", &["emulator"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("indicatif", &["cli"]),
    ("miette", &["cli"]),
    ("axum", &["serve", "emulator"]),
    ("metrics_exporter_prometheus", &["telemetry", "serve"]),
    ("tracing_subscriber", &["telemetry"]),
    ("schemars", &["config"]),
    ("strsim", &["config"]),
    ("croner", &["config"]),
    ("toml", &["config", "emulator"]),
];

/// Longer than this and a file holds more than one thing.
const LONGEST_FILE_LINES: usize = 700;

/// Direct dependencies that no source file names, and why they are there all the same.
const NAMED_NOWHERE: [(&str, &str); 1] = [("tokio-util", "pinned: 0.7.20 breaks the build of fe2o3-amqp")];

struct File {
    /// Relative to the package, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under these folders.
fn files(folders: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry can be read").path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root()).expect("a path below the package");
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                files.push(File { path: relative.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!files.is_empty(), "source files are found");
    files
}

impl File {
    /// The top-level module that a file of `src` belongs to; None for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let first = path.split('/').next()?.trim_end_matches(".rs");
        (!matches!(first, "lib" | "main")).then_some(first)
    }

    /// The code without its comments.
    fn code(&self) -> String {
        self.text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }
}

/// Every crate or keyword that a path of the code starts with: `serde` of `serde::Serialize`.
fn path_roots(code: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices("::")
        .filter_map(|(at, _)| {
            let before = code[..at].trim_end();
            let start = before.rfind(|c| !is_name(c)).map_or(0, |other| other + 1);
            // A root has no path before it: `a` of `a::b::c`, not `b`.
            (start < before.len() && !code[..start].trim_end().ends_with("::")).then(|| &before[start..])
        })
        .collect()
}

/// What stands right after each `crate::`, within braces too.
fn crate_imports(code: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut imports = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        if let Some(inside) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut start = 0;
            for (at, c) in inside.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if (c == ',' && depth == 1) || depth == 0 {
                    imports.insert(inside[start..at].trim().split(|c| !is_name(c)).next().unwrap_or_default());
                    start = at + 1;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            imports.insert(rest.split(|c| !is_name(c)).next().unwrap_or_default());
        }
    }
    imports
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::config::spec;\nuse crate::{batch::{Event, X}, error, sink};\nlet x = crate::cli::run();";
    assert_eq!(crate_imports(code), BTreeSet::from(["config", "batch", "error", "sink", "cli"]));
    let code = "use clap::Parser; let x = deltalake :: open(a::b::c());";
    assert_eq!(path_roots(code), BTreeSet::from(["clap", "deltalake", "a"]));
}

#[test]
fn imports_run_strictly_downward() {
    let mut wrong = Vec::new();
    for file in files(&["src"]) {
        let Some(module) = file.module() else { continue };
        let Some(own) = floor(module) else {
            wrong.push(format!("{}: module `{module}` has no floor", file.path));
            continue;
        };
        let code = file.code();
        for import in crate_imports(&code).into_iter().filter(|import| *import != module) {
            let meant = LEVEL_STEPS.iter().any(|(from, to, _)| (*from, *to) == (module, import));
            if !meant && floor(import).is_some_and(|other| other >= own) {
                wrong.push(format!("{}: `{module}` imports `{import}`, which isn't below it", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn vendor_crates_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for file in files(&["src"]) {
        let code = file.code();
        let roots = path_roots(&code);
        for (name, homes) in HOMES {
            let path = file.path.strip_prefix("src/").expect("a file of src");
            let at_home = homes
                .iter()
                .any(|home| path.strip_prefix(home).is_some_and(|rest| rest.starts_with('/') || rest == ".rs"));
            if roots.contains(name) && !at_home {
                wrong.push(format!("{}: `{name}` lives in {homes:?}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = files(&["src", "tests", "benches", "examples"])
        .iter()
        .map(|file| (file.text.lines().count(), &file.path))
        .filter(|(lines, _)| *lines > LONGEST_FILE_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "more than {LONGEST_FILE_LINES} lines: {long:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut left = Vec::new();
    for file in files(&["src", "tests", "benches", "examples"]) {
        for (number, line) in file.text.lines().enumerate().filter(|(_, line)| marks.iter().any(|m| line.contains(m))) {
            left.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

/// The direct dependencies in these sections of `Cargo.toml`.
fn dependencies(sections: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    let manifest: toml::Table = text.parse().expect("the manifest is TOML");
    let names = sections.iter().filter_map(|section| manifest.get(*section)?.as_table()).flat_map(|table| table.keys());
    names.cloned().collect()
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).expect("docs/dependencies.md is there");
    let told: BTreeSet<&str> = reasons
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, reason)| reason.len() > 10)
        .map(|(name, _)| name)
        .collect();
    let direct = dependencies(&["dependencies", "dev-dependencies", "build-dependencies"]);
    let direct: BTreeSet<&str> = direct.iter().map(String::as_str).collect();
    let untold: Vec<_> = direct.difference(&told).collect();
    assert!(untold.is_empty(), "`docs/dependencies.md` says nothing of {untold:?}");
    let gone: Vec<_> = told.difference(&direct).collect();
    assert!(gone.is_empty(), "`docs/dependencies.md` still has {gone:?}");
}

#[test]
fn every_direct_dependency_is_used() {
    let named_in = |folders: &[&str]| -> BTreeSet<String> {
        files(folders)
            .iter()
            .flat_map(|file| path_roots(&file.code()).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let unused = |names: Vec<String>, named: &BTreeSet<String>| -> Vec<String> {
        let is_unused = |name: &String| {
            !named.contains(&name.replace('-', "_")) && !NAMED_NOWHERE.iter().any(|(exempt, _)| exempt == name)
        };
        names.into_iter().filter(is_unused).collect()
    };
    let mut left = unused(dependencies(&["dependencies"]), &named_in(&["src"]));
    left.extend(unused(dependencies(&["dev-dependencies"]), &named_in(&["src", "tests", "benches"])));
    assert!(left.is_empty(), "no source file names {left:?}");
}
