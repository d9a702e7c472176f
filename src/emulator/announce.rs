//! Event Grid on this machine: says to a queue and to a webhook which blobs Capture wrote.
//!
//! ```text
//! capture ─▶ blob ─┬─▶ outbox of the queue   ─▶ base64 of one event ─▶ Storage Queue
//!                  └─▶ outbox of the webhook ─▶ handshake, then one event a request ─▶ HTTP
//! ```
//!
//! What it does on demand: loses a share of what is to be said, says it twice, late, or after what comes next.
//!
//! Each listener has an outbox of its own, as each has a subscription of its own on Azure, so faults and
//! retries of one don't touch the other. Nothing here holds up Capture: what a listener is too slow
//! to take is lost to it, and said.
//!
//! What it leaves out of Event Grid: the manual handshake by `validationUrl`, batches, dead-lettering to
//! a container, the longer minimum pauses after some answers (404, 408, 503).

mod event;
mod outbox;
mod webhook;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;

use self::outbox::{Letter, Outbox, Suffered};
use self::webhook::{Answer, Webhook};
use crate::source::capture::{Queue, QueueError};

pub use self::event::{AnnouncedAs, CapturedBlob, EventSchema};
pub use self::outbox::AnnounceFaults;

/// Blobs that wait for a listener that is busy: more than a slow one needs, a bound all the same.
const WAITING_MAX: usize = 10_000;

/// How often an event is sent at most, as Event Grid has it unless told otherwise.
const ATTEMPTS_MAX: u32 = 30;

/// Event Grid's pauses between two tries, as multiples of the first, which is 10 s on Azure.
const PAUSES: [u32; 9] = [1, 3, 6, 30, 60, 180, 360, 1080, 2160];

/// Between two tries of a handshake. On Azure whoever makes the subscription tries again.
const HANDSHAKE_PAUSE: Duration = Duration::from_secs(1);

/// What an end may take: a listener that hangs doesn't hold it.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What a subscription is told on Azure.
#[derive(Debug, Clone)]
pub struct AnnounceOptions {
    pub queue: Option<Queue>,
    /// May hold a secret in its query.
    pub webhook: Option<Url>,
    pub event: AnnouncedAs,
    pub schema: EventSchema,
    /// The pause before the second try of a webhook, 10 s on Azure; later ones grow as they do there.
    pub retry: Duration,
    pub faults: AnnounceFaults,
    /// Of one seed the n-th announcement of a listener suffers the same each time.
    pub seed: u64,
}

/// What became of the announcements of one listener.
#[derive(Debug, Default)]
pub struct Told {
    announced: AtomicU64,
    sent: AtomicU64,
    retried: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    delayed: AtomicU64,
    reordered: AtomicU64,
}

/// As the control API has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Blobs that were to be announced.
    pub announced: u64,
    /// Messages and requests that were taken.
    pub sent: u64,
    /// Tries beyond the first.
    pub retried: u64,
    /// Given up: refused for good, tried too often, or no room for them.
    pub dropped: u64,
    /// By faults that were ordered.
    pub lost: u64,
    pub duplicated: u64,
    pub delayed: u64,
    pub reordered: u64,
}

impl Told {
    fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            announced: of(&self.announced),
            sent: of(&self.sent),
            retried: of(&self.retried),
            dropped: of(&self.dropped),
            lost: of(&self.lost),
            duplicated: of(&self.duplicated),
            delayed: of(&self.delayed),
            reordered: of(&self.reordered),
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What Capture tells of its blobs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Announcer {
    listeners: Vec<(mpsc::Sender<Arc<CapturedBlob>>, Arc<Told>)>,
}

impl Announcer {
    /// Never waits.
    pub(super) fn announce(&self, blob: CapturedBlob) {
        let blob = Arc::new(blob);
        for (sender, told) in &self.listeners {
            Told::count(&told.announced);
            if sender.try_send(Arc::clone(&blob)).is_err() {
                tracing::warn!(blob = blob.url, "an announcement is lost: its listener is too slow");
                Told::count(&told.dropped);
            }
        }
    }
}

/// The subscriptions at work; dropped, they end at once.
#[derive(Debug)]
pub struct Announcing {
    tasks: Mutex<JoinSet<()>>,
    counts: Vec<(&'static str, Arc<Told>)>,
    faults: Arc<Mutex<AnnounceFaults>>,
}

impl Announcing {
    /// # Errors
    /// When there can be no HTTP client.
    pub fn start(options: AnnounceOptions) -> Result<(Self, Announcer), reqwest::Error> {
        let mut announcer = Announcer::default();
        let mut tasks = JoinSet::new();
        let mut counts = Vec::new();
        let AnnounceOptions { queue, webhook, event, schema, retry, faults, seed } = options;
        let faults = Arc::new(Mutex::new(faults));
        let webhook = webhook.map(|url| Webhook::new(url, schema)).transpose()?;
        let listeners = [queue.map(Listener::Queue), webhook.map(Listener::Webhook)];
        for (index, listener) in listeners.into_iter().enumerate() {
            let Some(listener) = listener else { continue };
            let (sender, blobs) = mpsc::channel(WAITING_MAX);
            let told = Arc::new(Told::default());
            counts.push((listener.name(), Arc::clone(&told)));
            announcer.listeners.push((sender, Arc::clone(&told)));
            let outbox = Outbox::new(seed.wrapping_add(index as u64));
            let faults = Arc::clone(&faults);
            let subscription = Subscription { listener, event, schema, retry, faults, outbox, told };
            tasks.spawn(subscription.attend(blobs));
        }
        Ok((Self { tasks: Mutex::new(tasks), counts, faults }, announcer))
    }

    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        self.counts.iter().map(|(name, told)| (*name, told.counts())).collect()
    }

    pub fn faults(&self) -> AnnounceFaults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these are ordered.
    pub fn order(&self, faults: AnnounceFaults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Sends what waits, once more each, and ends. Capture has ended before.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = tokio::time::timeout(END_WITHIN, async { while tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("announcements were still waiting when the emulator ended");
        }
    }
}

enum Listener {
    Queue(Queue),
    Webhook(Webhook),
}

impl Listener {
    fn name(&self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// What came of sending an event.
enum Sent {
    Taken,
    /// Refused for good.
    Refused(String),
    /// To be tried again.
    Failed(String),
}

struct Subscription {
    listener: Listener,
    event: AnnouncedAs,
    schema: EventSchema,
    retry: Duration,
    faults: Arc<Mutex<AnnounceFaults>>,
    outbox: Outbox,
    told: Arc<Told>,
}

enum Next {
    Blob(Option<Arc<CapturedBlob>>),
    Due,
}

impl Subscription {
    async fn attend(mut self, mut blobs: mpsc::Receiver<Arc<CapturedBlob>>) {
        // Event Grid asks before it sends anything.
        let mut handshake_at = matches!(self.listener, Listener::Webhook(_)).then(Instant::now);
        loop {
            let wake_at = handshake_at.or_else(|| self.outbox.next_due());
            let due = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: receiving loses nothing, and a sleep is only looked at.
            let next = tokio::select! {
                biased;
                blob = blobs.recv() => Next::Blob(blob),
                () = due => Next::Due,
            };
            match next {
                Next::Blob(Some(blob)) => self.take(&blob),
                Next::Blob(None) => break,
                Next::Due if handshake_at.is_some() => {
                    let is_agreed = self.shake_hands().await;
                    handshake_at = (!is_agreed).then(|| Instant::now() + HANDSHAKE_PAUSE);
                }
                Next::Due => {
                    for letter in self.outbox.due(Instant::now()) {
                        self.send(letter).await;
                    }
                }
            }
        }
        if handshake_at.is_none() || self.shake_hands().await {
            for letter in self.outbox.all() {
                self.send(letter).await;
            }
        }
    }

    fn take(&mut self, blob: &CapturedBlob) {
        let text = self.event.of(blob, self.schema);
        let faults = *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        for suffered in self.outbox.put(text, &faults, Instant::now()) {
            Told::count(match suffered {
                Suffered::Loss => &self.told.lost,
                Suffered::Duplication => &self.told.duplicated,
                Suffered::Delay => &self.told.delayed,
                Suffered::Reordering => &self.told.reordered,
                Suffered::NoRoom => {
                    let listener = self.listener.name();
                    tracing::warn!(listener, blob = blob.url, "an announcement is lost: too many wait");
                    &self.told.dropped
                }
            });
        }
    }

    async fn shake_hands(&mut self) -> bool {
        let Listener::Webhook(webhook) = &self.listener else { return true };
        match webhook.shake_hands().await {
            Ok(()) => {
                tracing::info!(webhook = %webhook, "the webhook agreed to be told");
                true
            }
            Err(why) => {
                tracing::debug!(webhook = %webhook, why, "the webhook doesn't agree to be told yet");
                false
            }
        }
    }

    async fn send(&mut self, letter: Letter) {
        let sent = match &self.listener {
            Listener::Queue(queue) => match put(queue, &letter.text).await {
                Ok(()) => Sent::Taken,
                Err(error) => Sent::Failed(error.to_string()),
            },
            Listener::Webhook(webhook) => match webhook.send(&letter.text, letter.tries).await {
                Answer::Taken => Sent::Taken,
                Answer::Refused(why) => Sent::Refused(why),
                Answer::Failed(why) => Sent::Failed(why),
            },
        };
        let listener = self.listener.name();
        match sent {
            Sent::Taken => Told::count(&self.told.sent),
            Sent::Failed(why) if letter.tries + 1 < ATTEMPTS_MAX => {
                tracing::debug!(listener, why, "an announcement wasn't taken");
                Told::count(&self.told.retried);
                let pause = PAUSES[(letter.tries as usize).min(PAUSES.len() - 1)];
                self.outbox.put_back(letter, Instant::now() + self.retry * pause);
            }
            Sent::Failed(why) | Sent::Refused(why) => {
                tracing::warn!(listener, why, "an announcement was given up");
                Told::count(&self.told.dropped);
            }
        }
    }
}

/// As Event Grid puts events into queues: one in each message, as base64.
async fn put(queue: &Queue, text: &str) -> Result<(), QueueError> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    match queue.put(&text).await {
        Err(QueueError::Refused { status: 404, .. }) => {
            queue.create().await?;
            queue.put(&text).await
        }
        put => put,
    }
}
