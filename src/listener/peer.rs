//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

/// Who is at the other end of a connection. An extension of each request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the connection.
    pub addr: SocketAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The names in the client certificate, which TLS has verified; empty without one.
    pub names: Arc<[PeerName]>,
}

/// A subject alternative name of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A URI, for instance a SPIFFE ID.
    Uri(Box<str>),
    /// A DNS name.
    Dns(Box<str>),
}
