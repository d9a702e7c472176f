//! Shutdown in two phases: stop reading, drain and commit; then, past the deadline or on a
//! second signal, abort. What is dropped uncommitted is read again by the next start.

use tokio_util::sync::CancellationToken;

/// Both phases, shared by everybody who has to hear of them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// First phase: read no more, commit what was read.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Second phase: drop everything where it stands.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Cancel-safe: it only looks.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Cancel-safe: it only looks.
    pub async fn aborting(&self) {
        self.abort.cancelled().await;
    }

    /// A token that is cancelled with the first phase, or by itself.
    pub fn child(&self) -> CancellationToken {
        self.stop.child_token()
    }
}
