//! `sluice demo` as a newcomer runs it: twice, and then the commands that it names.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const EVENTS: u64 = 2000;

/// Of a hundred events of the story.
const HUBS: [(&str, u64); 5] = [("leads", 36), ("contacts", 35), ("accounts", 14), ("sales", 12), ("products", 3)];

fn sluice(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).current_dir(dir).args(args).output().expect("sluice runs")
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let output = sluice(dir, args);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {words}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {words}"))
}

fn demo(dir: &Path) -> Value {
    let events = EVENTS.to_string();
    json(dir, &["demo", "--events", &events, "--dir", "demo", "--format", "json"])
}

fn check(summary: &Value, runs: u64) {
    assert_eq!(summary["events"], EVENTS);
    let tables = summary["tables"].as_array().expect("tables");
    for (name, of_100) in HUBS {
        let rows = serde_json::json!({ "name": format!("bronze.{name}"), "rows": runs * EVENTS * of_100 / 100 });
        assert!(tables.contains(&rows), "{rows} is not in {tables:?}");
    }
    for name in SILVER_AND_GOLD {
        let found = tables.iter().find(|table| table["name"] == name);
        assert!(found.is_some_and(|table| table["rows"].as_u64() > Some(0)), "{name} is not filled: {tables:?}");
    }
    let audits = summary["audit"].as_array().expect("audits");
    assert_eq!(audits.len(), HUBS.len());
    for audit in audits {
        assert_eq!(audit["complete"], true, "{audit}");
        // The second event of a hub is broken, and one in 2000 after it.
        assert_eq!((&audit["rejected"], &audit["duplicates"]), (&1.into(), &0.into()), "{audit}");
    }
}

const SILVER_AND_GOLD: [&str; 10] = [
    "silver.products",
    "silver.products_history",
    "silver.accounts",
    "silver.contacts",
    "silver.leads",
    "silver.sales",
    "silver.sales_files",
    "gold.conversion_funnel",
    "gold.abandoned_leads",
    "gold.revenue_by_product",
];

#[test]
fn a_second_demo_goes_on_where_the_first_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&demo(folder.path()), 1);
    check(&demo(folder.path()), 2);

    let project = folder.path().join("demo");
    let counted =
        json(&project, &["query", "--format", "json", "SELECT count(DISTINCT _event_id) AS ids FROM bronze.leads"]);
    // Some were sent twice.
    let ids = counted[0]["ids"].as_u64().expect("a count");
    assert!((2 * EVENTS * 30 / 100..2 * EVENTS * 36 / 100).contains(&ids), "{ids}");
    let joined = "SELECT count(DISTINCT l.lead_id) AS leads FROM bronze.leads l \
                  JOIN bronze.contacts c ON c.contact_id = l.contact_id AND c.role IS NOT NULL \
                  JOIN bronze.accounts a ON a.account_id = c.account_id AND a.plan IS NOT NULL";
    let joined = json(&project, &["query", "--format", "json", joined]);
    assert_eq!(joined[0]["leads"], 2 * EVENTS * 28 / 100, "each lead has its contact, and that its account");
    // Every rule had something to do, and no lead was counted twice.
    let rules =
        "SELECT count(*) AS leads, count(DISTINCT lead_id) AS ids, count(DISTINCT status) AS states FROM silver.leads";
    let rules = json(&project, &["query", "--format", "json", rules]);
    assert_eq!((&rules[0]["leads"], &rules[0]["states"]), (&rules[0]["ids"], &4.into()), "{rules}");
    for table in ["silver.products", "silver.accounts", "silver.sales", "silver.leads"] {
        let sql = format!("SELECT count(*) AS rows, count(_expectation) AS reasons FROM {table}__quarantine");
        let quarantined = json(&project, &["query", "--format", "json", &sql]);
        assert!(quarantined[0]["rows"].as_u64() > Some(0), "{table}: {quarantined}");
        assert_eq!(quarantined[0]["rows"], quarantined[0]["reasons"], "{table}");
    }
    let audit = json(&project, &["audit", "bronze.leads", "--offline", "--format", "json"]);
    assert_eq!(audit["complete"], true, "{audit}");
    let ledger = sluice(&project, &["ledger", "bronze.leads"]);
    assert!(ledger.status.success() && !ledger.stdout.is_empty(), "{}", String::from_utf8_lossy(&ledger.stderr));
    assert!(json(&project, &["check", "--format", "json"])["ok"] == true);
    let tested = json(&project, &["test", "--format", "json"]);
    assert_eq!(tested["failed"], 0, "{tested}");
    for table in SILVER_AND_GOLD {
        let sql =
            format!("SELECT count(*) AS runs FROM sluice.runs WHERE transform = '{table}' AND outcome = 'committed'");
        let runs = json(&project, &["query", "--format", "json", &sql]);
        assert_eq!(runs[0]["runs"], 2, "{table} was made once for each demo");
    }
}

#[test]
fn nothing_is_drawn_where_nobody_watches() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = sluice(folder.path(), &["demo", "--events", "10", "--dir", "demo"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let words = String::from_utf8(output.stdout).expect("text");
    assert!(words.contains("bronze.leads: complete: 3 rows, 1 rejected"), "{words}");
    assert!(!words.contains('\x1b'), "{words}");
}

#[test]
fn a_folder_with_something_else_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("thesis.txt"), "…").expect("written");
    let output = sluice(folder.path(), &["demo", "--dir", "."]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("holds something else than a demo") && words.contains("hint:"), "{words}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_cleanly() {
    use std::process::Stdio;

    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .current_dir(folder.path())
        .args(["demo", "--events", "10000000", "--dir", "demo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    // Far more events than can be sent meanwhile: once a hub has some, it is in the midst of it.
    let log = folder.path().join("demo/.emulator/event-hubs/leads/0.log");
    while std::fs::metadata(&log).map_or(0, |log| log.len()) < 10_000 {
        assert!(demo.try_wait().expect("it can be asked").is_none(), "it ended before it sent anything");
        std::thread::yield_now();
    }
    let killed = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let output = demo.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("stopped"), "{words}");
}
