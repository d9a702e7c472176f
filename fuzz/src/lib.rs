//! What must hold of any bytes: the very functions of the property tests.

use std::path::PathBuf;

#[path = "../../tests/it/decode/ends.rs"]
mod ends;

pub use ends::*;

/// A folder for the schemas that decoders are opened with; each process has its own, since some run beside others.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("sluicebox-fuzz-schemas-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
