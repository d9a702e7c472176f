//! SIGINT and SIGTERM: the first asks for a clean end, the second or the deadline cuts it off.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::error::{Classify, Kind};
use crate::shutdown::Shutdown;

/// SIGINT and SIGTERM, heard from here on.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// The system doesn't let us hear of signals.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for signals")]
pub struct SignalError(#[source] io::Error);

impl Classify for SignalError {
    fn kind(&self) -> Kind {
        Kind::External
    }
}

impl StopSignals {
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> Result<Self, SignalError> {
        let listen = |kind| signal(kind).map_err(SignalError);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for either.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Turns signals into the phases of `shutdown`, in a task that the caller ends.
///
/// # Errors
/// When the system refuses.
pub fn watch(shutdown: Shutdown, deadline: Duration) -> Result<JoinSet<()>, SignalError> {
    let mut signals = StopSignals::listen()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        signals.wait().await;
        shutdown.stop();
        tokio::select! {
            () = signals.wait() => tracing::warn!("a second signal: cutting off"),
            () = tokio::time::sleep(deadline) => tracing::warn!(?deadline, "the deadline has passed: cutting off"),
        }
        shutdown.abort();
    });
    Ok(tasks)
}
