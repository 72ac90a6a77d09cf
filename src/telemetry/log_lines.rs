//! Counts the log lines that were dropped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines dropped since this process started, because standard error was closed or not read quickly enough.
pub static LOG_LINES_DROPPED: LogLines = LogLines(AtomicU64::new(0));

/// A counter of lines.
#[derive(Debug)]
pub struct LogLines(AtomicU64);

impl LogLines {
    /// Adds `lines` to the counter.
    pub fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Relaxed);
    }

    /// Returns the value of the counter.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
