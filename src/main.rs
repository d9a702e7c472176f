//! `sluice`: picks the TLS provider, parses the command line, runs the command, picks the exit code.

use std::process::ExitCode;
use std::time::Duration;

use sluicebox::cli::{self, report};

/// An event is many small pieces that one thread allocates and another frees, and the allocator of
/// glibc is at its slowest there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Planning a query recurses deeply in a build without optimisation: with the 2 MiB that
/// tokio gives, a long `WHERE` overflows; more than this only costs address space.
const WORKER_STACK_BYTES: usize = 8 * 1024 * 1024;

/// How long what still runs on a blocking thread (a file being written) may hold the exit.
const EXIT_GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Before anything else: ring and aws-lc are both in the tree, and with two to choose from
    // the Event Hubs client panics over TLS. Plaintext hides it.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has chosen a TLS provider before main");

    let command_line = match cli::parse(std::env::args_os()) {
        Ok(command_line) => command_line,
        Err(shown) => return shown,
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(WORKER_STACK_BYTES).build() {
            Ok(runtime) => runtime,
            Err(error) => return report::no_runtime(&error),
        };
    let exit = runtime.block_on(cli::run(command_line));
    runtime.shutdown_timeout(EXIT_GRACE);
    exit
}
