//! Counts the lines of the log that were lost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines that were dropped since this process started, because standard error could not be written to in time.
pub static LOG_LINES_DROPPED: LogLines = LogLines(AtomicU64::new(0));

/// A number of lines that only grows.
#[derive(Debug)]
pub struct LogLines(AtomicU64);

impl LogLines {
    /// Adds to the number.
    pub fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
