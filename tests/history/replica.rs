//! A replica with its own connection to the database, which faults can hit apart from the others.

use std::sync::RwLock;

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{Client, latchkey::Process, proxy::Proxy};

pub struct Replica {
    folder: TempDir,
    settings: Vec<String>,
    pub proxy: Proxy,
    /// Held for as long as a fault of the network lasts.
    pub network: Mutex<()>,
    /// Held for as long as a fault of the process lasts; `None` while it does not run.
    pub process: Mutex<Option<Process>>,
    client: RwLock<Client>,
}

impl Replica {
    /// Starts a replica that reaches the database `name` through the proxy.
    pub async fn start(proxy: Proxy, name: &str, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = proxy.url_of(name);
        let settings = [settings, &["--database-url", &url]].concat();
        let process = Process::start(folder.path(), &settings);
        let client = RwLock::new(process.client().await);
        let (network, process) = (Mutex::default(), Mutex::new(Some(process)));
        let settings = settings.into_iter().map(str::to_owned).collect();
        Self { folder, settings, proxy, network, process, client }
    }

    /// A client of the replica, as it runs now.
    pub fn client(&self) -> Client {
        self.client.read().unwrap().clone()
    }

    /// Kills the process, and keeps other faults of it from happening meanwhile.
    pub async fn kill(&self) -> MutexGuard<'_, Option<Process>> {
        let mut process = self.process.lock().await;
        process.take().unwrap().kill();
        process
    }

    /// Starts the process again.
    pub async fn restart(&self, process: &mut Option<Process>) {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let started = tokio::task::block_in_place(|| Process::start(self.folder.path(), &settings));
        let connected = started.client().await;
        *self.client.write().unwrap() = connected;
        *process = Some(started);
    }

    /// Connects it to the database on another port.
    pub async fn redirect_to(&self, port: u16) {
        self.proxy.redirect_to(port);
        let _alone = self.network.lock().await;
        self.proxy.cut();
        self.proxy.pass_requests();
    }
}
