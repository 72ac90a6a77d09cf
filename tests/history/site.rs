//! Three replicas, each with its own connection to the database, and the broker of the identity service.

use tokio::sync::Mutex;

use super::{account_messages::AccountMessages, cluster::Cluster, replica::Replica};
use crate::support::{Client, proxy::Proxy};

pub const REPLICAS: usize = 3;
/// Shorter than many faults.
pub const LEASE_MILLIS: u64 = 1_000;

const SETTINGS: [&str; 12] = [
    "--max-staleness",
    "1s",
    "--database-timeout",
    "500ms",
    "--revocation-poll",
    "50ms",
    "--request-timeout",
    "4s",
    "--shutdown-grace",
    "0s",
    "--nats-ack-wait",
    "1s",
];

pub struct Site {
    pub cluster: Mutex<Cluster>,
    pub replicas: Vec<Replica>,
    pub messages: AccountMessages,
}

impl Site {
    pub async fn start() -> Self {
        let mut cluster = Cluster::start();
        let url = cluster.primary.create_database().await;
        let name = url.rsplit('/').next().unwrap();
        let messages = AccountMessages::start().await;
        let broker = messages.url();
        let settings = [&SETTINGS[..], &["--nats-url", &broker]].concat();
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            let proxy = Proxy::to(cluster.primary.port()).await;
            replicas.push(Replica::start(proxy, name, &settings).await);
        }
        cluster.add_standby().await;
        Self { cluster: Mutex::new(cluster), replicas, messages }
    }

    /// A client of the replica, as it runs now.
    pub fn client(&self, replica: usize) -> Client {
        self.replicas[replica].client()
    }

    /// Waits until every replica is ready.
    pub async fn recovers(&self) {
        for replica in &self.replicas {
            replica.client().readiness_becomes(true).await;
        }
    }
}
