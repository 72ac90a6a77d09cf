//! Three replicas, each with its own way to one database, and the faults that happen to them.

use std::{path::Path, sync::RwLock, time::Duration};

use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::support::{Client, latchkey::Process, postgres::Postgres, proxy::Proxy};

pub const REPLICAS: usize = 3;

/// A lease that is over soon, so that many faults outlast it.
const SETTINGS: [&str; 10] = [
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
];

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillReplica,
    PauseReplica,
    CrashDatabase,
    PauseDatabase,
    CutNetwork,
    LoseRequests,
    LoseAnswers,
    HoldNetwork,
    DelayNetwork,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::KillReplica,
        Self::PauseReplica,
        Self::CrashDatabase,
        Self::PauseDatabase,
        Self::CutNetwork,
        Self::LoseRequests,
        Self::LoseAnswers,
        Self::HoldNetwork,
        Self::DelayNetwork,
    ];
}

pub struct Site {
    postgres: Mutex<Postgres>,
    replicas: Vec<Replica>,
}

struct Replica {
    folder: TempDir,
    url: String,
    proxy: Proxy,
    /// One fault of the network at a time.
    network: Mutex<()>,
    process: Mutex<Option<Process>>,
    client: RwLock<Client>,
}

impl Site {
    pub async fn start() -> Self {
        let postgres = Postgres::start();
        let url = postgres.create_database().await;
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            let folder = tempfile::tempdir().unwrap();
            let proxy = Proxy::to(postgres.port()).await;
            let url = format!("postgres://postgres@{}/{}", proxy.addr, url.rsplit('/').next().unwrap());
            let process = start(folder.path(), &url);
            let client = RwLock::new(process.client().await);
            replicas.push(Replica {
                folder,
                url,
                proxy,
                network: Mutex::default(),
                process: Mutex::new(Some(process)),
                client,
            });
        }
        Self { postgres: Mutex::new(postgres), replicas }
    }

    /// A client of the replica, as it runs now.
    pub fn client(&self, replica: usize) -> Client {
        self.replicas[replica].client.read().unwrap().clone()
    }

    /// Makes a fault happen, for this long.
    pub async fn suffer(&self, fault: Fault, replica: usize, duration: Duration) {
        let pause = tokio::time::sleep(duration);
        let Replica { proxy, process, network, .. } = &self.replicas[replica];
        match fault {
            Fault::KillReplica => {
                let mut process = process.lock().await;
                process.take().unwrap().kill();
                pause.await;
                self.restart(replica, &mut process).await;
            }
            Fault::PauseReplica => {
                let process = process.lock().await;
                process.as_ref().unwrap().signal("STOP");
                pause.await;
                process.as_ref().unwrap().signal("CONT");
            }
            Fault::CrashDatabase => {
                let mut postgres = self.postgres.lock().await;
                tokio::task::block_in_place(|| postgres.stop());
                pause.await;
                tokio::task::block_in_place(|| postgres.resume());
            }
            Fault::PauseDatabase => {
                let postgres = self.postgres.lock().await;
                postgres.signal_all("STOP");
                pause.await;
                postgres.signal_all("CONT");
            }
            _ => {
                let _alone = network.lock().await;
                match fault {
                    Fault::LoseRequests => proxy.swallow_requests(),
                    Fault::LoseAnswers => proxy.swallow_answers(),
                    Fault::HoldNetwork => proxy.hold(),
                    Fault::DelayNetwork => proxy.delay(Duration::from_millis(75)),
                    _ => proxy.cut(),
                }
                pause.await;
                // No byte of a connection is lost while later ones arrive.
                if matches!(fault, Fault::LoseRequests | Fault::LoseAnswers) {
                    proxy.cut();
                }
                proxy.pass_requests();
            }
        }
    }

    async fn restart(&self, replica: usize, process: &mut Option<Process>) {
        let Replica { folder, url, client, .. } = &self.replicas[replica];
        let started = tokio::task::block_in_place(|| start(folder.path(), url));
        let connected = started.client().await;
        *client.write().unwrap() = connected;
        *process = Some(started);
    }

    /// Waits until every replica is ready.
    pub async fn recovers(&self) {
        for replica in 0..REPLICAS {
            self.client(replica).readiness_becomes(true).await;
        }
    }
}

fn start(folder: &Path, url: &str) -> Process {
    Process::start(folder, &[&SETTINGS[..], &["--database-url", url]].concat())
}
