//! What a run did, in numbers.

/// What a run of one pipeline did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PipelineSummary {
    pub name: String,
    pub received: u64,
    pub committed: u64,
    pub rejected: u64,
    pub filtered: u64,
    pub duplicate: u64,
    pub commits: u64,
    pub blobs: u64,
    /// Blobs that could not be read to their end.
    pub torn_blobs: u64,
    /// Numbers that nothing that was asked has.
    pub missing: u64,
    pub seconds: f64,
    pub peak_rss_bytes: u64,
}

impl PipelineSummary {
    /// Whether no blob was torn and no number missing.
    pub fn is_whole(&self) -> bool {
        self.torn_blobs == 0 && self.missing == 0
    }

    /// What keeps it from being whole.
    pub fn lacks(&self) -> String {
        format!("{} torn blobs, {} missing numbers", self.torn_blobs, self.missing)
    }

    /// Takes in what another run of the same pipeline did.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.committed += other.committed;
        self.rejected += other.rejected;
        self.filtered += other.filtered;
        self.duplicate += other.duplicate;
        self.commits += other.commits;
        self.blobs += other.blobs;
        self.torn_blobs += other.torn_blobs;
        self.missing += other.missing;
        self.seconds += other.seconds;
        self.peak_rss_bytes = self.peak_rss_bytes.max(other.peak_rss_bytes);
    }
}

/// The largest resident set of this process so far, in bytes; 0 where the system doesn't tell.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
