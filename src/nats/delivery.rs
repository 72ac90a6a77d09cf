//! A message to handle.

use async_nats::jetstream::Message;

/// A message that was delivered by the consumer or fetched from the stream.
pub(super) struct Delivery {
    /// The message, with the headers that can be read.
    pub(super) message: Message,
    /// The raw header block, if the client library cannot deliver the message. It was then fetched from the stream.
    pub(super) undeliverable: Option<Vec<u8>>,
}
