//! Accepts the connections of both listeners.

mod accept;
mod peer;

pub(crate) use self::accept::serve;
pub use self::peer::{Peer, PeerName};
