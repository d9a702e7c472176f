//! `docs/operations.md` says of the code what the code says of itself.

use std::fs;
use std::path::Path;

use sluicebox::telemetry::metrics;

const BEGIN: &str = "<!-- metrics: made from the code -->\n";
const END: &str = "<!-- end of metrics -->";

#[test]
fn the_list_of_metrics_is_made_from_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let held = fs::read_to_string(&path).expect("docs/operations.md is there");
    let (before, rest) = held.split_once(BEGIN).expect("the list has a beginning");
    let (_, after) = rest.split_once(END).expect("the list has an end");
    let made = format!("{before}{BEGIN}{}{END}{after}", metrics::markdown());
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &made).expect("the file is written");
    }
    let held = fs::read_to_string(&path).expect("docs/operations.md is there");
    assert!(held == made, "the metrics aren't current: run `WRITE_DOCS=1 cargo test --test it is_made_from_the_code`");
}
