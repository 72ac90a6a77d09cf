//! The bytes of answers that wait to be sent, of all connections together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prost::Message;
use tonic::{Response, Status};

use super::status;

/// How many bytes may wait.
const MAX: usize = 32 * 1024 * 1024;

/// Counts the bytes of large answers that wait to be sent.
#[derive(Clone, Debug, Default)]
pub(super) struct UnsentTotal(Arc<AtomicUsize>);

/// The share of one answer. Dropped when it is sent.
#[derive(Debug)]
pub(super) struct UnsentBytes {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl UnsentTotal {
    /// Returns an answer that is counted until it is sent.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED: too many bytes wait.
    pub(super) fn answer<M: Message>(&self, message: M) -> Result<Response<M>, Status> {
        let bytes = message.encoded_len();
        let share = UnsentBytes { total: Arc::clone(&self.0), bytes };
        if self.0.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX {
            return Err(status::overloaded());
        }
        let mut response = Response::new(message);
        response.extensions_mut().insert(Arc::new(share));
        Ok(response)
    }
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
