//! Writes the log to standard error on a separate thread, so that a reader that stops reading never blocks the service.
//!
//! `tracing_appender::non_blocking` does not fit: it bounds its queue by lines, not bytes, does not count failed
//! writes, flushes at exit with a fixed timeout, and prints to standard output when that fails.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    os::fd::AsFd as _,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::telemetry::LOG_LINES_DROPPED;

/// The log of this process.
pub(super) static LOG: LogQueue = LogQueue::new();

/// Maximum size of the lines that wait to be written, in bytes. Further lines are dropped.
const CAPACITY: usize = 1024 * 1024;

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Debug)]
struct State {
    /// Complete lines, each with its line feed.
    waiting: Vec<u8>,
    is_writing: bool,
}

impl LogQueue {
    const fn new() -> Self {
        let state = State { waiting: Vec::new(), is_writing: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), drained: Condvar::new() }
    }

    /// Starts the thread that writes the lines to standard error.
    ///
    /// # Errors
    ///
    /// The thread cannot be started, or standard error cannot be duplicated.
    pub(super) fn start(&'static self) -> io::Result<()> {
        // Not `io::stderr()`: a blocked write would hold its lock and block every other thread that prints an error.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        thread::Builder::new().name("log".to_owned()).spawn(move || self.write_to(stderr)).map(drop)
    }

    /// Waits until every line has been written, but no longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // Lines that are not written in time are lost, because nobody reads them.
        let _ = self.drained.wait_timeout_while(self.lock(), timeout, is_busy);
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > CAPACITY {
            LOG_LINES_DROPPED.add(1);
            return;
        }
        state.waiting.extend_from_slice(line);
        drop(state);
        self.filled.notify_one();
    }

    fn write_to(&self, mut out: impl Write) {
        let mut reported = 0;
        loop {
            let lines = self.next();
            // One write per line, so that lines of other processes that write to the same pipe stay apart.
            let lines = lines.split_inclusive(|byte| *byte == b'\n');
            let failed = lines.filter(|line| out.write_all(line).is_err()).count() as u64;
            if failed > 0 {
                LOG_LINES_DROPPED.add(failed);
            } else if self.lock().waiting.len() < CAPACITY / 2 {
                // Only while the queue has space: otherwise the report would be dropped too.
                report(&mut reported);
            }
            self.lock().is_writing = false;
            self.drained.notify_all();
        }
    }

    /// Waits for lines and takes all of them.
    fn next(&self) -> Vec<u8> {
        let waiting = self.filled.wait_while(self.lock(), |state| state.waiting.is_empty());
        let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        mem::take(&mut state.waiting)
    }

    /// Ignores poisoning: no invariant spans two changes of the state, so a panic leaves it usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs how many lines were dropped since the last report.
fn report(reported: &mut u64) {
    let dropped = LOG_LINES_DROPPED.get() - *reported;
    if dropped > 0 {
        *reported += dropped;
        tracing::warn!(dropped, "log lines were dropped: standard error was not read quickly enough");
    }
}

impl MakeWriter<'_> for &'static LogQueue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self
    }
}

/// Takes one complete line per write. Never waits and never fails.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// A pipe that is full until the test reads from it.
    struct FullPipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for FullPipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (&'static LogQueue, mpsc::Receiver<Vec<u8>>) {
        let queue: &LogQueue = Box::leak(Box::new(LogQueue::new()));
        let (sender, receiver) = mpsc::sync_channel(0);
        thread::spawn(|| queue.write_to(FullPipe(sender)));
        (queue, receiver)
    }

    #[test]
    fn the_queue_is_bounded_and_drops_complete_lines() {
        let (queue, reader) = start();
        let dropped = LOG_LINES_DROPPED.get();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..4 * CAPACITY / line.len() {
            queue.push(&line);
        }
        assert!(LOG_LINES_DROPPED.get() - dropped >= 2 * (CAPACITY / line.len()) as u64);
        assert!(queue.lock().waiting.len() <= CAPACITY);
        queue.flush(Duration::ZERO);
        assert_eq!(reader.recv().unwrap(), line, "lines are complete");
    }

    #[test]
    fn a_flush_ends_when_all_is_written_or_after_its_timeout() {
        let (queue, reader) = start();
        queue.flush(Duration::from_secs(60));
        queue.push(b"one\n");
        let began = Instant::now();
        queue.flush(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20));
        let read = thread::spawn(move || reader.recv().unwrap());
        queue.flush(Duration::from_secs(60));
        assert_eq!(read.join().unwrap(), b"one\n");
    }

    #[test]
    fn a_closed_pipe_drops_lines_and_stops_nothing() {
        let (queue, reader) = start();
        drop(reader);
        let dropped = LOG_LINES_DROPPED.get();
        queue.push(b"one\ntwo\n");
        queue.flush(Duration::from_secs(60));
        assert!(LOG_LINES_DROPPED.get() - dropped >= 2);
    }
}
