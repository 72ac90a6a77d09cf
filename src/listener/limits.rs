//! How many connections a listener has, in all and from one peer.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of open connections; further ones wait to be accepted.
    pub total: usize,
    /// Maximum number of open connections of one address, or of one IPv6 network of 64 bits; further ones are closed.
    pub per_peer: usize,
}

/// The open connections of a listener.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    permits: Arc<Semaphore>,
    peers: Mutex<HashMap<IpAddr, usize>>,
    open: AtomicUsize,
    refused: AtomicU64,
}

/// An open connection, as it is counted.
#[derive(Debug)]
pub(super) struct Counted {
    connections: Arc<Connections>,
    network: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// Counts no connections yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.total.min(Semaphore::MAX_PERMITS)));
        Self {
            limits,
            permits,
            peers: Mutex::default(),
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Returns how many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns how many were closed at once because their peer had too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until one more may be accepted.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Counts a connection from `address`; `None` if it has too many.
    pub(super) fn count(self: &Arc<Self>, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Counted> {
        let network = network(address);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(network).or_default();
        if *count >= self.limits.per_peer {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Counted { connections: Arc::clone(self), network, _permit: permit })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        // A number cannot be half-written, so poisoning is ignored.
        let mut peers = self.connections.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.network);
            }
        }
    }
}

/// Returns the address, or for IPv6 its network of 64 bits, all of which one peer has.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// File descriptors that are left for the database, the log, the admin listener and files.
const RESERVED_FILES: u64 = 256;

/// Raises the number of files that the process may open to what the system allows. Returns how many connections each of two
/// listeners may have beside everything else.
pub fn raise_file_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Fails in no known case; then the limit stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let for_each = files.saturating_sub(RESERVED_FILES.min(files / 2)) / 2;
    usize::try_from(for_each).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_has_a_limit_of_its_own_and_ipv6_networks_count_as_one() {
        let connections = Arc::new(Connections::new(ConnectionLimits { total: 10, per_peer: 2 }));
        let mut open = Vec::new();
        let accept = async |address: &str| {
            let permit = connections.permit().await.unwrap();
            connections.count(address.parse().unwrap(), permit)
        };
        for address in ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"] {
            open.push(accept(address).await.unwrap());
        }
        for address in ["10.0.0.1", "2001:db8::3"] {
            assert!(accept(address).await.is_none(), "{address}");
        }
        assert_eq!((connections.open(), connections.refused()), (5, 2));
        open.remove(0);
        open.push(accept("10.0.0.1").await.unwrap());
        drop(open);
        assert_eq!(connections.open(), 0);
        assert!(connections.peers.lock().unwrap().is_empty());
    }
}
