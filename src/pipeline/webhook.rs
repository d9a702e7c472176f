//! What Event Grid announces through the webhook: kept in the spool first, then handed to the pipelines.
//!
//! ```text
//! request ─▶ intake ─▶ spool (on the disk) ─▶ 200
//!                        │
//!                        └─▶ notices ─▶ pipelines: read, commit ─▶ tickets settled ─▶ removed from the spool
//! ```
//!
//! The spool takes the place of a queue: what isn't settled in time is handed on again, and what can't
//! be settled at all is set aside. What names no blob of these pipelines is dropped: nobody else
//! will ever ask for it, and a pipeline that starts later lists what there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use super::announcements::{Announcement, HELD_MAX, Heard, LAST_DELETES, Listener, Open, PAUSE, Ticket, heard_by};
use super::partition::report;
use super::spool::{Spool, SpoolError};
use crate::shutdown::Shutdown;
use crate::source::capture::{NoticeError, notices};

/// Blobs that are handed on at a time, as far as one request doesn't announce more: each waits in memory.
const NOTICES_MAX: usize = 5_000;

/// How long one that was given up by a pipeline waits before it is handed on again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How often it is handed on; then it is set aside.
const TRIES_MAX: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the request can't be read")]
    Torn(#[from] NoticeError),
    #[error("the request can't be kept")]
    Spool(#[from] SpoolError),
}

/// Where the server puts requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake(Arc<Spool>);

impl Intake {
    pub fn new(spool: Arc<Spool>) -> Self {
        Self(spool)
    }

    /// Keeps what announces files of Capture; gives how many. What announces none is done with: where the
    /// state lies in storage, each request that is kept is a blob that is announced in its turn.
    ///
    /// # Errors
    /// [`IntakeError::Torn`] for what Event Grid doesn't send; [`IntakeError::Spool`] when there is no room.
    pub async fn take(&self, body: Bytes) -> Result<usize, IntakeError> {
        let announced = notices(&body)?.iter().filter(|notice| is_of_capture(&notice.url)).count();
        if announced > 0 {
            self.0.keep(body).await?;
        }
        Ok(announced)
    }
}

/// Whether an address may be a blob of Capture, whose files are all called so.
fn is_of_capture(url: &str) -> bool {
    url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".avro"))
}

/// Hands on what the spool holds.
pub(super) struct SpoolAttendant {
    spool: Arc<Spool>,
    listeners: Vec<Listener>,
    settled: mpsc::Sender<String>,
    to_remove: mpsc::Receiver<String>,
    held: HashMap<String, Held>,
    /// By when they are handed on again.
    again: BTreeMap<(Instant, String), u32>,
    again_after: Duration,
}

struct Held {
    open: Weak<Open>,
    notices: usize,
    /// How often it was handed on; once more for each time that somebody took it and let it go.
    tries: u32,
}

impl SpoolAttendant {
    pub(super) fn new(spool: Arc<Spool>, listeners: Vec<Listener>) -> Self {
        // Room for all that may be held: a settled one always finds some.
        let (settled, to_remove) = mpsc::channel(HELD_MAX);
        let (held, again) = (HashMap::new(), BTreeMap::new());
        Self { spool, listeners, settled, to_remove, held, again, again_after: AGAIN_AFTER }
    }

    /// What is held in the end waits for the next start.
    pub(super) async fn attend(mut self, shutdown: Shutdown, ended: CancellationToken) {
        self.spool.tell();
        if self.listeners.is_empty() {
            tracing::warn!("no pipeline reads captures alone: nobody hears what the webhook is told");
        }
        let rounds = async {
            loop {
                self.round(&shutdown).await;
            }
        };
        // Nothing is lost in whatever it waits for: the spool has it.
        let _ = ended.run_until_cancelled(rounds).await;
        if tokio::time::timeout(LAST_DELETES, self.remove_settled()).await.is_err() {
            tracing::warn!("settled announcements stay in the spool, and are taken up by the next start");
        }
    }

    async fn round(&mut self, shutdown: &Shutdown) {
        self.sort_out().await;
        while !shutdown.is_stopping() && self.has_room() {
            let Some((id, tries)) = self.next() else { break };
            self.hand_on(id, tries).await;
        }
        // Cancel-safe: receiving loses nothing, the others only say when to look.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = self.spool.arrived(), if self.has_room() => {}
            Some(id) = self.to_remove.recv() => self.remove(&id).await,
        }
    }

    fn has_room(&self) -> bool {
        let notices: usize = self.held.values().map(|held| held.notices).sum();
        self.held.len() < HELD_MAX && notices < NOTICES_MAX
    }

    fn next(&mut self) -> Option<(String, u32)> {
        if let Some(entry) = self.again.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            let ((_, id), tries) = entry.remove_entry();
            return Some((id, tries));
        }
        self.spool.take().map(|id| (id, 0))
    }

    async fn hand_on(&mut self, id: String, tries: u32) {
        let body = match self.spool.read(&id).await {
            Ok(Some(body)) => body,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(id, error = report(&error), "an announcement of the spool can't be read now");
                self.again.insert((Instant::now() + self.again_after, id), tries);
                return;
            }
        };
        let announced = match notices(&body) {
            Ok(announced) => announced,
            Err(error) => return self.spool.set_aside(&id, &error.to_string()).await,
        };
        let heard = announced.iter().flat_map(|notice| heard_by(&self.listeners, notice));
        // A pipeline that has ended lists what there is when it starts again.
        let ours: Vec<Heard> = heard.filter(|heard| !self.listeners[heard.listener].sender.is_closed()).collect();
        if ours.is_empty() {
            let url = announced.first().map_or("", |notice| notice.url.as_str());
            tracing::warn!(url, "an announcement names no blob that a pipeline of this run reads");
            return self.spool.remove(&id).await;
        }
        if tries >= TRIES_MAX {
            return self.spool.set_aside(&id, "no pipeline could settle it").await;
        }
        let notices = ours.len();
        let open =
            Arc::new(Open { id: id.clone(), unsettled: AtomicUsize::new(notices), settled: self.settled.clone() });
        let mut has_room = true;
        for Heard { listener, path, name, holds } in ours {
            let announcement = Announcement { path, name, holds, ticket: Ticket::of(&open) };
            match self.listeners[listener].sender.try_send(announcement) {
                Ok(()) => {}
                Err(TrySendError::Closed(returned)) => returned.ticket.settle(),
                // One that has no room holds up nobody else: it hears of it again, and that counts as no try.
                Err(TrySendError::Full(_)) => has_room = false,
            }
        }
        let tries = tries + u32::from(has_room);
        self.held.insert(id, Held { open: Arc::downgrade(&open), notices, tries });
    }

    /// Removes what was settled; what was let go unsettled is handed on again later.
    async fn sort_out(&mut self) {
        let is_let_go = |(_, held): &(&String, &Held)| held.open.strong_count() == 0;
        let let_go: Vec<String> = self.held.iter().filter(is_let_go).map(|(id, _)| id.clone()).collect();
        // A ticket says that it is settled before it goes.
        self.remove_settled().await;
        for id in let_go {
            if let Some(held) = self.held.remove(&id) {
                self.again.insert((Instant::now() + self.again_after, id), held.tries);
            }
        }
    }

    async fn remove_settled(&mut self) {
        while let Ok(id) = self.to_remove.try_recv() {
            self.remove(&id).await;
        }
    }

    async fn remove(&mut self, id: &str) {
        if self.held.remove(id).is_some() {
            self.spool.remove(id).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::capture_name::{DEFAULT_TEMPLATE, NameTemplate};
    use crate::config::spec::CaptureSpec;
    use crate::source::capture::CaptureSource;
    use crate::storage::Location;

    struct Place {
        attendant: SpoolAttendant,
        receiver: mpsc::Receiver<Announcement>,
        folder: tempfile::TempDir,
    }

    impl Place {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let at = |name: &str| {
                let path = folder.path().join(name);
                std::fs::create_dir_all(&path).expect("made");
                Location::resolve(&path.to_string_lossy(), None).expect("an absolute folder")
            };
            let spec = CaptureSpec {
                url: at("captures").url().to_string(),
                template: NameTemplate::parse(DEFAULT_TEMPLATE).expect("a template"),
                namespace: "emulator".to_owned(),
                hub: "leads".to_owned(),
                sweep_every: Duration::from_secs(1),
                queue: None,
            };
            let captures = Arc::new(CaptureSource::open(&spec, &at("captures")).expect("a folder"));
            let (sender, receiver) = mpsc::channel(100);
            let spool = Arc::new(Spool::open(&at("state")).await.expect("a folder"));
            let listeners = vec![Listener::new(captures, sender)];
            let attendant = SpoolAttendant { again_after: Duration::ZERO, ..SpoolAttendant::new(spool, listeners) };
            Self { attendant, receiver, folder }
        }

        async fn take(&self, blobs: &[&str]) {
            let below = self.folder.path().join("captures").display().to_string();
            let event = |blob: &&str| {
                let url = format!("file://{below}/{blob}");
                serde_json::json!({"type": "Microsoft.Storage.BlobCreated", "data": {"url": url}})
            };
            let events: Vec<_> = blobs.iter().map(event).collect();
            let body = serde_json::Value::from(events).to_string();
            Intake::new(Arc::clone(&self.attendant.spool)).take(Bytes::from(body)).await.expect("kept");
        }

        /// What one round does, without its pause.
        async fn round(&mut self) {
            self.attendant.sort_out().await;
            while let Some((id, tries)) = self.attendant.next() {
                self.attendant.hand_on(id, tries).await;
            }
        }

        fn heard(&mut self) -> Vec<Announcement> {
            std::iter::from_fn(|| self.receiver.try_recv().ok()).collect()
        }

        fn files(&self, below: &str) -> usize {
            let files = std::fs::read_dir(self.folder.path().join("state/webhook").join(below));
            files.map_or(0, |files| files.flatten().filter(|file| file.path().is_file()).count())
        }
    }

    const FIRST: &str = "emulator/leads/0/2026/11/25/10/00/00.avro";
    const SECOND: &str = "emulator/leads/1/2026/11/25/10/00/00.avro";
    const FOREIGN: &str = "emulator/claims/0/2026/11/25/10/00/00.avro";

    #[tokio::test]
    async fn a_request_is_removed_when_each_of_its_blobs_is_settled() {
        let mut place = Place::new().await;
        place.take(&[FIRST, FOREIGN, SECOND]).await;
        place.round().await;
        let mut heard = place.heard();
        let paths: Vec<_> = heard.iter().map(|heard| heard.path.as_ref()).collect();
        assert_eq!(paths, [FIRST, SECOND]);
        heard.remove(0).ticket.settle();
        place.round().await;
        assert_eq!(place.files(""), 1);
        heard.remove(0).ticket.settle();
        place.round().await;
        assert_eq!((place.files(""), place.attendant.held.len()), (0, 0));
    }

    #[tokio::test]
    async fn one_that_nobody_settles_comes_again_and_is_set_aside_at_last() {
        let mut place = Place::new().await;
        place.take(&[FIRST, SECOND]).await;
        for _ in 0..TRIES_MAX {
            place.round().await;
            let mut heard = place.heard();
            assert_eq!(heard.len(), 2);
            // One half of it is not enough.
            heard.remove(0).ticket.settle();
        }
        place.round().await;
        assert_eq!((place.heard().len(), place.files(""), place.files("poison")), (0, 0, 1));
    }

    #[tokio::test]
    async fn one_of_nobody_here_or_of_a_pipeline_that_ended_is_done_with() {
        let mut place = Place::new().await;
        place.take(&[FOREIGN]).await;
        place.round().await;
        assert_eq!((place.heard().len(), place.files("")), (0, 0));
        place.receiver.close();
        place.take(&[FIRST]).await;
        place.round().await;
        assert_eq!((place.files(""), place.files("poison")), (0, 0));
    }

    #[tokio::test]
    async fn one_without_room_holds_up_nobody_and_hears_again() {
        let mut place = Place::new().await;
        let (sender, receiver) = mpsc::channel(1);
        place.attendant.listeners[0].sender = sender;
        place.receiver = receiver;
        place.take(&[FIRST, SECOND]).await;
        for _ in 0..2 * TRIES_MAX {
            place.round().await;
            assert_eq!(place.heard().len(), 1, "the other one found no room");
        }
        assert_eq!((place.files(""), place.files("poison")), (1, 0), "and that was no try");
    }

    #[tokio::test]
    async fn what_is_no_file_of_capture_is_not_kept() {
        let mut place = Place::new().await;
        place.take(&["lake/_sluice/webhook/20261125T100000-1.json", "part-0.zstd.parquet"]).await;
        assert_eq!(place.files(""), 0, "each that is kept would be announced in its turn");
        place.take(&["part-0.zstd.parquet", FIRST]).await;
        place.round().await;
        assert_eq!((place.heard().len(), place.files("")), (1, 1));
    }

    #[tokio::test]
    async fn what_became_unreadable_is_set_aside() {
        let mut place = Place::new().await;
        place.attendant.spool.keep(Bytes::from("torn")).await.expect("kept");
        place.round().await;
        assert_eq!((place.files(""), place.files("poison")), (0, 1));
    }
}
