//! A connection, as its requests see it: who sends them, and whether it takes the answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use super::{NewCalls, Peer};

/// A connection. An extension of each of its requests.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// Its calls that are not polled yet.
    pub calls: NewCalls,
    /// The number of the present tick of the watch over the connection, modulo 3.
    tick: AtomicU8,
    /// Answers that are not sent, by the tick in which they began.
    unsent: [AtomicUsize; 3],
    /// What the stream writes.
    writes: Arc<Writes>,
}

/// The writes to a stream.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// How many were taken by the peer.
    pub(super) done: AtomicU64,
    /// Whether one waits for the peer.
    pub(super) blocked: AtomicBool,
}

/// An answer that is not sent yet. Dropped when it is.
#[derive(Debug)]
pub struct Unsent {
    connection: Arc<Connection>,
    tick: usize,
}

impl Connection {
    pub(super) fn new(peer: Peer, writes: Arc<Writes>) -> Self {
        Self { peer, calls: NewCalls::default(), tick: AtomicU8::new(0), unsent: Default::default(), writes }
    }

    /// Begins an answer.
    pub fn begin(self: Arc<Self>) -> Unsent {
        let tick = usize::from(self.tick.load(Ordering::Relaxed));
        self.unsent[tick].fetch_add(1, Ordering::Relaxed);
        Unsent { connection: self, tick }
    }

    /// Ends a tick. Returns whether the peer has taken nothing of a write, or not all of an answer, for a whole tick or
    /// longer. `done` is the number of writes at the last tick.
    pub(super) fn ends_a_tick(&self, done: &mut u64) -> bool {
        let writes = self.writes.done.load(Ordering::Relaxed);
        let is_stalled = self.writes.blocked.load(Ordering::Relaxed) && writes == *done;
        *done = writes;
        let ended = self.tick.load(Ordering::Relaxed);
        self.tick.store((ended + 1) % 3, Ordering::Relaxed);
        is_stalled || self.unsent[usize::from((ended + 2) % 3)].load(Ordering::Relaxed) > 0
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.connection.unsent[self.tick].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        let peer = Peer { addr: "127.0.0.1:1".parse().unwrap(), encrypted: false, names: Arc::default() };
        Arc::new(Connection::new(peer, Arc::default()))
    }

    #[test]
    fn an_answer_is_stalled_after_a_whole_tick_and_at_most_two() {
        let connection = connection();
        let mut done = 0;
        for _ in 0..10 {
            let sent = Arc::clone(&connection).begin();
            assert!(!connection.ends_a_tick(&mut done));
            drop(sent);
        }
        let _unsent = Arc::clone(&connection).begin();
        assert!(!connection.ends_a_tick(&mut done));
        assert!(connection.ends_a_tick(&mut done));
    }

    #[test]
    fn a_write_is_stalled_if_nothing_was_taken_between_two_ticks() {
        let connection = connection();
        let mut done = 0;
        connection.writes.blocked.store(true, Ordering::Relaxed);
        connection.writes.done.store(1, Ordering::Relaxed);
        assert!(!connection.ends_a_tick(&mut done));
        connection.writes.done.store(2, Ordering::Relaxed);
        assert!(!connection.ends_a_tick(&mut done));
        assert!(connection.ends_a_tick(&mut done));
    }
}
