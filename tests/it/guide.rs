//! `docs/guide.md` keeps its word: its commands are run in its order.
//!
//! A block ```` ```sh ```` is run by bash where the one before it ended; ```` ```sh background ````
//! is left running, on free ports instead of the usual ones.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Block {
    background: bool,
    script: String,
}

fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let script: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "sh" | "sh background" => {
                blocks.push(Block { background: language != "sh", script: script.join("\n") });
            }
            // What is to be looked at, not run.
            "" | "toml" => {}
            other => panic!("a block of `{other}` is neither run nor known as something to look at"),
        }
    }
    blocks
}

/// A terminal whose folder and variables outlive a block.
struct Terminal {
    folder: PathBuf,
    here: PathBuf,
    variables: Vec<(&'static str, String)>,
    running: Vec<Child>,
}

impl Terminal {
    fn bash(&self, script: &str) -> Command {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_sluice"));
        let mut path = binary.parent().expect("a folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(&self.here).env("PATH", path);
        bash.env_remove("EVENTHUBS_CONNECTION_STRING").env_remove("SCHEMA_REGISTRY_ENDPOINT");
        bash.envs(self.variables.iter().map(|(name, value)| (name, value)));
        bash
    }

    fn run(&mut self, script: &str) {
        let ended_in = self.folder.join("ended-in");
        let script = format!("{script}\npwd > '{}'", ended_in.display());
        let output = self.bash(&script).output().expect("bash runs");
        let (said, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{said}\n{words}");
        self.here = std::fs::read_to_string(&ended_in).expect("a folder").trim().into();
    }

    /// Starts the emulator and takes its addresses for what follows.
    fn leave_running(&mut self, command: &str) {
        let script = format!("exec {command} --port 0 --registry-port 0 --control-port 0");
        let mut child = self.bash(&script).stdout(Stdio::piped()).spawn().expect("bash runs");
        for line in BufReader::new(child.stdout.as_mut().expect("stdout is piped")).lines() {
            let line = line.expect("text");
            if let Some(address) = line.strip_prefix("connection string") {
                self.variables.push(("EVENTHUBS_CONNECTION_STRING", address.trim().to_owned()));
            }
            if let Some(address) = line.strip_prefix("schema registry") {
                self.variables.push(("SCHEMA_REGISTRY_ENDPOINT", address.trim().to_owned()));
                break;
            }
        }
        self.running.push(child);
        assert_eq!(self.variables.len(), 2, "the emulator says where it listens");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It may have ended by itself, and the test says so elsewhere.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn every_command_of_the_guide_works() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide.md")).expect("the guide");
    let blocks = blocks(&guide);
    assert!(blocks.len() > 8 && blocks.iter().filter(|block| block.background).count() == 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal = Terminal {
        folder: folder.path().to_owned(),
        here: folder.path().to_owned(),
        variables: Vec::new(),
        running: Vec::new(),
    };
    for block in blocks {
        if block.background {
            terminal.leave_running(&block.script);
        } else {
            terminal.run(&block.script);
        }
    }
}
