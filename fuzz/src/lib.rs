//! What must hold of any bytes: the very functions of the property tests.

use std::path::PathBuf;

#[path = "../../tests/it/decode/ends.rs"]
mod ends;

pub use ends::*;

/// A folder for the schemas that decoders are opened with; every run has the same.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join("sluicebox-fuzz-schemas");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
