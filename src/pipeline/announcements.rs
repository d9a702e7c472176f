//! What Event Grid announces, handed to the pipelines whose blobs it names: here by Storage Queues, in
//! [`webhook`](super::webhook) by requests.
//!
//! ```text
//! queue ─▶ message ─▶ notices ─┬─▶ pipeline: reads the blob, commits ─▶ ticket settled ─┐
//!    ▲                         └─▶ pipeline …                                           │
//!    └───────── deleted when every ticket of the message is settled ◀──────────────────┘
//! ```
//!
//! One task for each queue, whatever the number of pipelines that it feeds. A message is kept
//! invisible while somebody holds a ticket of it; where the role may not do that, it may come
//! again, and finds its events covered. What comes too often goes to `<queue>-poison`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use object_store::path::Path;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::partition::report;
use super::spool::Spool;
use super::webhook::SpoolAttendant;
use super::{PipelineError, setup};
use crate::config::capture_name::BlobName;
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::source::capture::{Announced, CaptureSource, Notice, Queue, QueueError, QueueMessage, notices};

/// How long a message stays invisible: long enough that a commit comes before, short enough that
/// what a killed process held comes back soon. Renewed at half of it.
const INVISIBLE: Duration = Duration::from_secs(60);

/// How often a message may be received; after the last it goes to the poison queue, as Azure Functions has it.
const DELIVERIES_MAX: u32 = 5;

/// Messages that are held at a time: each announces a blob or a few.
pub(super) const HELD_MAX: usize = 256;

/// How long an empty queue is left alone.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What deleting the last settled messages may take: a queue that hangs doesn't hold the end.
pub(super) const LAST_DELETES: Duration = Duration::from_secs(5);

/// Announcements that wait for a pipeline: room for all that may be held. One that finds none comes again.
const WAITING_MAX: usize = 2 * HELD_MAX;

/// A blob of a pipeline that was announced.
#[derive(Debug)]
pub struct Announcement {
    pub path: Path,
    pub name: BlobName,
    /// What the blob holds, where the announcement says it.
    pub holds: Option<Announced>,
    pub ticket: Ticket,
}

/// One blob's share of a message. The message is deleted when all of them are settled; one that is
/// dropped lets it come back.
#[derive(Debug)]
pub struct Ticket(Arc<Open>);

/// A message whose tickets are out.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: String,
    pub(super) unsettled: AtomicUsize,
    pub(super) settled: mpsc::Sender<String>,
}

impl Ticket {
    pub(super) fn of(open: &Arc<Open>) -> Self {
        Self(Arc::clone(open))
    }

    /// What the blob holds is accounted for.
    pub fn settle(self) {
        if self.0.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            // There is room for every message that may be held; without a listener it comes back.
            let _ = self.0.settled.try_send(self.0.id.clone());
        }
    }
}

/// The tasks that listen.
pub struct Listening {
    tasks: JoinSet<()>,
    ended: CancellationToken,
}

impl Listening {
    /// Deletes what was settled, and ends. The pipelines have ended before.
    pub async fn end(mut self) {
        self.ended.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Listens to the queues of `pipelines` and to the spool of the webhook, in tasks of their own; gives each
/// pipeline what concerns it. With a stop they receive no more, and settle what their pipelines still commit.
///
/// # Errors
/// When a queue or the place of the captures can't be used.
pub fn listen<'a>(
    project: &ProjectSpec,
    pipelines: impl Iterator<Item = &'a PipelineSpec>,
    spool: Option<Arc<Spool>>,
    shutdown: &Shutdown,
) -> Result<(Listening, BTreeMap<String, mpsc::Receiver<Announcement>>), PipelineError> {
    let mut of_queues: BTreeMap<&str, Vec<Listener>> = BTreeMap::new();
    let mut of_webhook = Vec::new();
    let mut receivers = BTreeMap::new();
    for pipeline in pipelines {
        let queue = pipeline.capture.as_ref().and_then(|capture| capture.queue.as_deref());
        // What is read live has the events before their blob is written; its sweeps heal what it lacks.
        // What is read at its times lists what there is then.
        let hears_webhook = spool.is_some() && !pipeline.is_live && pipeline.schedule.is_none();
        if queue.is_none() && !hears_webhook {
            continue;
        }
        let Some(captures) = setup::captures(project, pipeline)? else { continue };
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let listener = Listener::new(captures, sender);
        if hears_webhook {
            of_webhook.push(listener.clone());
        }
        if let Some(queue) = queue {
            of_queues.entry(queue).or_default().push(listener);
        }
        receivers.insert(pipeline.name.clone(), receiver);
    }
    let mut tasks = JoinSet::new();
    let ended = CancellationToken::new();
    for (url, listeners) in of_queues {
        let queue = Queue::open(url, project.storage_azure.as_ref())?;
        let (settled, to_delete) = mpsc::channel(HELD_MAX * 2);
        let attendant = Attendant { queue, listeners, settled, to_delete, held: HashMap::new(), may_renew: true };
        tasks.spawn(attendant.attend(shutdown.clone(), ended.clone()));
    }
    if let Some(spool) = spool {
        tasks.spawn(SpoolAttendant::new(spool, of_webhook).attend(shutdown.clone(), ended.clone()));
    }
    Ok((Listening { tasks, ended }, receivers))
}

/// A pipeline that hears of blobs.
#[derive(Clone)]
pub(super) struct Listener {
    captures: Arc<CaptureSource>,
    pub(super) sender: mpsc::Sender<Announcement>,
}

impl Listener {
    pub(super) fn new(captures: Arc<CaptureSource>, sender: mpsc::Sender<Announcement>) -> Self {
        Self { captures, sender }
    }
}

struct Attendant {
    queue: Queue,
    listeners: Vec<Listener>,
    settled: mpsc::Sender<String>,
    to_delete: mpsc::Receiver<String>,
    held: HashMap<String, Held>,
    may_renew: bool,
}

/// A notice, as it concerns one pipeline.
pub(super) struct Heard {
    pub(super) listener: usize,
    pub(super) path: Path,
    pub(super) name: BlobName,
    pub(super) holds: Option<Announced>,
}

/// Every pipeline that reads the blob of a notice.
pub(super) fn heard_by(listeners: &[Listener], notice: &Notice) -> Vec<Heard> {
    let heard = listeners.iter().enumerate().filter_map(|(listener, other)| {
        let (path, name) = other.captures.blob_of(&notice.url)?;
        Some(Heard { listener, path, name, holds: notice.holds.clone() })
    });
    heard.collect()
}

struct Held {
    message: QueueMessage,
    open: std::sync::Weak<Open>,
    renew_at: Instant,
}

impl Attendant {
    /// What is held in the end comes back to whoever starts next.
    async fn attend(mut self, shutdown: Shutdown, ended: CancellationToken) {
        let mut backoff = Backoff::new(PAUSE, Duration::from_secs(60));
        let rounds = async {
            loop {
                self.round(&shutdown, &mut backoff).await;
            }
        };
        // Whatever call it waits for: a message that is cut off in it comes back.
        let _ = ended.run_until_cancelled(rounds).await;
        if tokio::time::timeout(LAST_DELETES, self.delete_settled()).await.is_err() {
            tracing::warn!(queue = self.queue.name(), "settled messages stay, and come back");
        }
    }

    async fn round(&mut self, shutdown: &Shutdown, backoff: &mut Backoff) {
        self.delete_settled().await;
        self.renew_held().await;
        let pause = match self.receive(shutdown).await {
            Ok(0) => PAUSE,
            Ok(_) => {
                backoff.reset();
                Duration::ZERO
            }
            Err(error) => {
                let pause = backoff.pause();
                let queue = self.queue.name();
                tracing::warn!(queue, error = report(&error), ?pause, "the queue can't be asked");
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(id) = self.to_delete.recv() => self.delete(&id).await,
        }
    }

    /// Takes in what waits, as long as there is room; says how many.
    async fn receive(&mut self, shutdown: &Shutdown) -> Result<usize, QueueError> {
        if self.held.len() >= HELD_MAX || shutdown.is_stopping() {
            return Ok(0);
        }
        let messages = self.queue.receive(INVISIBLE).await?;
        let count = messages.len();
        for message in messages {
            self.take(message).await;
        }
        Ok(count)
    }

    async fn take(&mut self, message: QueueMessage) {
        let announced = match notices(message.text.as_bytes()) {
            Ok(announced) => announced,
            Err(error) if message.deliveries >= DELIVERIES_MAX => {
                self.give_up(&message, &error.to_string()).await;
                return;
            }
            Err(error) => {
                tracing::warn!(queue = self.queue.name(), message = message.id, %error, "a message can't be read");
                return;
            }
        };
        let ours: Vec<_> = announced.iter().map(|notice| heard_by(&self.listeners, notice)).collect();
        let nobodys = ours.iter().filter(|listeners| listeners.is_empty()).count();
        if nobodys > 0 && message.deliveries >= DELIVERIES_MAX {
            self.give_up(&message, "it names a blob that no pipeline of this process reads").await;
            return;
        }
        if announced.is_empty() {
            self.delete_message(&message).await;
            return;
        }
        let ours: Vec<_> = ours.into_iter().flatten().collect();
        if ours.iter().any(|heard| self.listeners[heard.listener].sender.is_closed()) {
            // Its pipeline has ended, which is no fault of the message's: it waits for the next start.
            return;
        }
        if message.deliveries > DELIVERIES_MAX {
            self.give_up(&message, "it came too often").await;
            return;
        }
        // A blob of nobody here keeps the message from being settled: somebody else may want it.
        let open = Arc::new(Open {
            id: message.id.clone(),
            unsettled: AtomicUsize::new(ours.len() + nobodys),
            settled: self.settled.clone(),
        });
        for Heard { listener, path, name, holds } in ours {
            let announcement = Announcement { path, name, holds, ticket: Ticket::of(&open) };
            // Without room it is dropped with its ticket, and the message comes again.
            let _ = self.listeners[listener].sender.try_send(announcement);
        }
        let held = Held { message, open: Arc::downgrade(&open), renew_at: Instant::now() + INVISIBLE / 2 };
        self.held.insert(held.message.id.clone(), held);
    }

    /// What can't be settled is kept where somebody may look at it.
    async fn give_up(&mut self, message: &QueueMessage, why: &str) {
        let poison = self.queue.poison();
        let put = match poison.put(&message.text).await {
            Err(QueueError::Refused { status: 404, .. }) => match poison.create().await {
                Ok(()) => poison.put(&message.text).await,
                Err(error) => Err(error),
            },
            put => put,
        };
        match put {
            Ok(()) => {
                tracing::error!(queue = poison.name(), message = message.id, why, "a message was moved away");
                self.delete_message(message).await;
            }
            Err(error) => {
                tracing::error!(
                    queue = poison.name(),
                    message = message.id,
                    error = report(&error),
                    why,
                    "a message can't be moved away, and stays"
                );
            }
        }
    }

    async fn delete_settled(&mut self) {
        while let Ok(id) = self.to_delete.try_recv() {
            self.delete(&id).await;
        }
    }

    async fn delete(&mut self, id: &str) {
        if let Some(held) = self.held.remove(id) {
            self.delete_message(&held.message).await;
        }
    }

    async fn delete_message(&self, message: &QueueMessage) {
        match self.queue.delete(message).await {
            Ok(()) => {}
            // Somebody else received it meanwhile, and will find its events covered.
            Err(error) if error.is_gone() => tracing::debug!(message = message.id, "a message was somebody else's"),
            Err(error) => {
                tracing::warn!(message = message.id, error = report(&error), "a settled message stays for now");
            }
        }
    }

    /// Keeps those invisible whose tickets are held; forgets those whose tickets were dropped.
    async fn renew_held(&mut self) {
        self.held.retain(|_, held| held.open.strong_count() > 0 || held.renew_at > Instant::now());
        if !self.may_renew {
            return;
        }
        let is_due = |held: &&mut Held| held.renew_at <= Instant::now() && held.open.strong_count() > 0;
        for held in self.held.values_mut().filter(is_due) {
            held.renew_at = Instant::now() + INVISIBLE / 2;
            match self.queue.renew(&mut held.message, INVISIBLE).await {
                Ok(()) => {}
                Err(error) if error.is_forbidden() => {
                    tracing::warn!(
                        queue = self.queue.name(),
                        "messages can't be kept while they are worked on: they may come twice"
                    );
                    self.may_renew = false;
                    return;
                }
                Err(error) => {
                    tracing::debug!(message = held.message.id, error = report(&error), "a message could not be kept");
                }
            }
        }
    }
}
