//! Accepts the connections of the listeners: their number, their encryption, and how long their peers may keep them waiting.
//! It knows no protocol.

mod accept;
mod connection;
mod limits;
mod new_calls;
mod peer;
mod preface;
mod stream;
mod tls;

pub(crate) use self::{
    accept::{Listener, serve},
    limits::network,
    stream::Stream,
};
pub use self::{
    connection::{Connection, Unsent},
    limits::{ConnectionLimits, Connections, raise_file_limit},
    new_calls::NewCalls,
    peer::{Peer, PeerName},
    tls::{ClientAuth, Tls, TlsError, TlsFiles, TlsVersion},
};
