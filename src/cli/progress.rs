//! What long work does now, drawn on stderr while somebody watches.
//!
//! There is one terminal, so there is one place that draws on it; the log writes
//! through it ([`LogWriter`]), or its lines and the bar would overwrite one another.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use super::Global;
use crate::pipeline::status::{Headway, PipelineStatus, headway};

/// How often a bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Over how long the rate of a run without end is measured: shorter jumps, longer lags behind.
const RATE_OVER: Duration = Duration::from_secs(5);

fn drawn() -> &'static MultiProgress {
    static DRAWN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
    &DRAWN
}

/// Where the log goes: stderr, with whatever is drawn there out of its way.
#[derive(Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drawn().suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// One line on stderr that says what happens now; nothing when nobody watches, or with `-q`.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(global: &Global) -> Self {
        let is_watched = global.output().stderr_is_terminal() && global.quiet == 0;
        Self(if is_watched { drawn().add(ProgressBar::new(0)) } else { ProgressBar::hidden() })
    }

    /// A bar towards an end that is known, or becomes known while it is drawn.
    pub fn count(&self, stage: &str, unit: &'static str) {
        self.0.reset();
        self.0.set_style(style(&format!("{{msg}} {{bar:30}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left")));
        self.0.set_message(stage.to_owned());
    }

    /// Work of which nobody knows how much is left.
    pub fn spin(&self, stage: &str) {
        self.0.set_style(style("{spinner} {msg} {elapsed}"));
        self.0.set_message(stage.to_owned());
        self.0.enable_steady_tick(DRAW_EVERY);
    }

    /// Draws how far the work has come until it is done.
    pub async fn follow<T>(&self, work: impl Future<Output = T>, come: impl Fn() -> Headway) -> T {
        self.draw_beside(work, || {
            let Headway { done, of } = come();
            self.0.set_length(of);
            self.0.set_position(done);
        })
        .await
    }

    /// Draws what pipelines without an end do, until they are stopped.
    pub async fn watch<T>(&self, work: impl Future<Output = T>, statuses: &[PipelineStatus]) -> T {
        self.0.set_style(style("{spinner} {msg}"));
        let mut rate = Rate::new(Instant::now());
        self.draw_beside(work, || {
            let Headway { done, .. } = headway(statuses);
            self.0.set_message(doing(statuses, done, rate.at(Instant::now(), done)));
            self.0.tick();
        })
        .await
    }

    /// Draws how far the reading of captures has come: blobs, events, their rate, and the time that is left.
    pub async fn follow_captures<T>(&self, work: impl Future<Output = T>, statuses: &[PipelineStatus]) -> T {
        self.count("listing captures", "blobs");
        let mut rate = Rate::new(Instant::now());
        self.draw_beside(work, || {
            let (mut blobs, mut events) = (Headway::default(), 0);
            for snapshot in statuses.iter().map(PipelineStatus::snapshot) {
                blobs.done += snapshot.blobs_read;
                blobs.of += snapshot.blobs;
                events += snapshot.received;
            }
            if blobs.of > 0 {
                self.0.set_message(reading(events, rate.at(Instant::now(), events)));
            }
            self.0.set_length(blobs.of);
            self.0.set_position(blobs.done);
        })
        .await
    }

    async fn draw_beside<T>(&self, work: impl Future<Output = T>, mut draw: impl FnMut()) -> T {
        let mut ticks = tokio::time::interval(DRAW_EVERY);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    // How it ended is drawn however short it was.
                    if !self.0.is_hidden() {
                        draw();
                        self.0.abandon();
                    }
                    return done;
                }
                // With nobody to see it, there is nothing to work out.
                _ = ticks.tick(), if !self.0.is_hidden() => draw(),
            }
        }
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How fast something goes, over the last seconds.
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn new(now: Instant) -> Self {
        Self(VecDeque::from([(now, 0)]))
    }

    /// A second, with `done` as of `now`.
    fn at(&mut self, now: Instant, done: u64) -> f64 {
        self.0.push_back((now, done));
        // One from before is kept, or there would be nothing to measure from.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
        let (since, from) = self.0.front().copied().unwrap_or((now, done));
        let passed = now.saturating_duration_since(since).as_secs_f64();
        done.saturating_sub(from) as f64 / passed.max(DRAW_EVERY.as_secs_f64())
    }
}

/// What comes out of captures, in words.
fn reading(events: u64, rate: f64) -> String {
    format!("reading captures: {} events, {}/s", HumanCount(events), HumanCount(rate.round() as u64))
}

/// A run without end, on one line.
fn doing(statuses: &[PipelineStatus], done: u64, rate: f64) -> String {
    let snapshots: Vec<_> = statuses.iter().map(PipelineStatus::snapshot).collect();
    let lag: i64 = snapshots.iter().flat_map(|held| held.partitions.values()).filter_map(|held| held.lag_events).sum();
    let rate = HumanCount(rate.round() as u64);
    let mut text = format!("{} events taken in, {rate}/s, {} behind", HumanCount(done), HumanCount(lag.unsigned_abs()));
    let commits = snapshots.iter().filter_map(|held| held.last_commit.as_ref());
    let last = commits.filter_map(|commit| chrono::DateTime::parse_from_rfc3339(&commit.at).ok()).max();
    if let Some(ago) = last.and_then(|at| (chrono::Utc::now() - at.to_utc()).to_std().ok()) {
        text.push_str(&format!(", last commit {} ago", HumanDuration(ago)));
    }
    text
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of ours is well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let mut at = |ms, done| rate.at(start + Duration::from_millis(ms), done).round() as u64;
        assert_eq!(at(0, 10), 100, "no moment is too short to divide by");
        assert_eq!(at(1_000, 500), 500);
        assert_eq!(at(5_000, 5_000), 998);
        assert_eq!(at(6_000, 5_500), 1_000, "the first second is forgotten");
        assert_eq!(at(10_000, 5_500), 100, "measured from where the last five seconds began");
        assert_eq!(at(15_000, 5_500), 0);
    }

    #[test]
    fn captures_are_told_by_their_events_and_rate() {
        assert_eq!(reading(1_234_567, 98_765.4), "reading captures: 1,234,567 events, 98,765/s");
    }
}
