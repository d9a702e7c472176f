//! CPU per event of one table, and of the same events routed to many.
//!
//! ```text
//! child process: sluice emulator ◀── events of N types in turn are sent once
//!        │
//!        ├─▶ this process, run A: client ─▶ decode ─▶ one route takes all ─▶ one table
//!        └─▶ this process, run B: client ─▶ decode ─▶ a route for each type ─▶ N tables
//! ```
//!
//! Types that take turns are the worst case: each batch has events of all tables. All types have one schema, so
//! that the rows have to be taken apart, too. The runs alternate, so that both see the same machine; medians
//! are compared. Opening and closing fifty tables costs something, whatever comes: what a further event costs is
//! told by runs over a part of the events, where `--events` is large enough.
//!
//! `cargo bench --bench routes -- [--events N] [--runs N] [--routes N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod emulated;

use self::emulated::{Azure, Measured, PARTITIONS, machine, peak_rss_mib};

/// As the program itself has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Options {
    events: u64,
    runs: usize,
    routes: u64,
}

fn options() -> Options {
    let mut options = Options { events: 400_000, runs: 3, routes: 50 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--events" => options.events = number(),
            "--runs" => options.runs = number() as usize,
            "--routes" => options.routes = number(),
            // What cargo itself passes.
            _ => {}
        }
    }
    options
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    let options = options();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 * 1024 * 1024)
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&options));
}

async fn measure(options: &Options) {
    println!("{}", machine());
    let all = options.events;
    // The events of the shorter runs, which have the same fixed costs.
    let few = all / 5;
    let (long, short) = (Azure::start(), Azure::start());
    let sizes = long.fill(all, options.routes).await;
    short.fill(few, options.routes).await;
    println!(
        "{all} and {few} events of {} types over {PARTITIONS} partitions; Avro body {:.0} bytes, with content type and \
         properties {:.0}",
        options.routes, sizes.body, sizes.whole
    );
    println!("{:>16} {:>8} {:>11} {:>12} {:>15}", "run", "seconds", "events/s", "CPU µs/event", "emulator µs");
    let mut measured: [[Vec<Measured>; 2]; 2] = Default::default();
    for run in 1..=options.runs {
        for (which, (azure, events)) in [(&long, all), (&short, few)].into_iter().enumerate() {
            for (tables, routes) in [1, options.routes].into_iter().enumerate() {
                let name = format!("{routes} routes {run}");
                let work = azure.run_pipeline(events, routes, options.routes);
                measured[which][tables].push(azure.timed(&name, events, work).await);
            }
        }
    }
    let [long, short] = measured.map(|runs| runs.map(|runs| Measured::median(&runs)));
    let further =
        |tables: usize| (long[tables].cpu_seconds - short[tables].cpu_seconds) * 1e6 / (all - few).max(1) as f64;
    println!();
    for (tables, routes) in [1, options.routes].into_iter().enumerate() {
        long[tables].print(&format!("{routes} routes, median"), all);
        println!("{:>16} {:.2} µs", "a further event", further(tables));
    }
    println!(
        "CPU per event, {} routes against one:   {:.2}",
        options.routes,
        long[1].cpu_seconds / long[0].cpu_seconds
    );
    println!("CPU per further event, against one:     {:.2}", further(1) / further(0));
    println!("peak RSS of this process:               {} MiB", peak_rss_mib());
}
