//! Work that only computes: decoding, encoding, inflating.
//!
//! It has threads of its own, one for each core. On the reactor's it would hold up sockets and timers;
//! on those for blocking calls, which are as many as calls, each would keep the memory of its last job.
//!
//! What has time, and does I/O as well, has one thread of its own: see [`leisure`].

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// As the program's own threads have it: columns and schemas may be nested deeply.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// The runtime to compute on, for a `JoinSet`. What runs there does no I/O.
///
/// # Panics
/// Outside of a runtime, when the system has no more threads.
pub fn handle() -> Handle {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let built = Builder::new_multi_thread().thread_name("compute").thread_stack_size(STACK_BYTES).build();
        built.inspect_err(|error| tracing::warn!(%error, "no threads to compute on: the reactor's are used")).ok()
    });
    runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

/// The runtime for queries, which compute and read files in one: apart from the reactor that sockets
/// and timers of pipelines are served by.
///
/// # Panics
/// Outside of a runtime, when the system has no more threads.
pub fn queries() -> Handle {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let built = builder.thread_name("query").thread_stack_size(STACK_BYTES).enable_all().build();
        built.inspect_err(|error| tracing::warn!(%error, "no threads for queries: the reactor's are used")).ok()
    });
    runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

/// The runtime for what has time: it computes and does I/O, all of it on one thread, so that it takes one core at
/// most and holds up nobody's commit.
///
/// # Panics
/// Outside of a runtime, when the system has no more threads.
pub fn leisure() -> Handle {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).enable_all().thread_name("leisure").thread_stack_size(STACK_BYTES);
        let built = builder.build();
        built.inspect_err(|error| tracing::warn!(%error, "no thread for what has time: the reactor's are used")).ok()
    });
    runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

/// Runs `work` on a thread that computes.
///
/// # Cancel safety
/// Work that has begun runs to its end, whoever waits for it.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_async(async move { work() })
}

/// The same for work that a library has made `async` and that waits for nothing outside of it.
pub fn spawn_async<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    handle().spawn(work)
}
