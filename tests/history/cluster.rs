//! The database: a primary, whose commits wait for a standby that replaces it in a failover.

use crate::support::{
    postgres::{Options, Postgres},
    standby::Standby,
};

/// A standby reconnects soon, and finds what it missed.
const SETTINGS: [&str; 2] = ["wal_retrieve_retry_interval=100ms", "wal_keep_size=64MB"];

pub struct Cluster {
    pub primary: Postgres,
    /// `None` while there is nothing to fail over to.
    pub standby: Option<Standby>,
    /// Replaced by the last failover. It runs and can be read, but its commits wait for the standby that has replaced it.
    replaced: Option<Postgres>,
    standbys: u32,
}

impl Cluster {
    /// Starts a primary without a standby.
    pub fn start() -> Self {
        let primary = Postgres::start_with(&Options { settings: &SETTINGS, ..Default::default() });
        Self { primary, standby: None, replaced: None, standbys: 0 }
    }

    /// Adds a standby for which each commit waits.
    pub async fn add_standby(&mut self) {
        self.standbys += 1;
        let name = format!("standby_{}", self.standbys);
        self.standby = Some(Standby::synchronous(&self.primary, &name).await);
    }

    /// Promotes the standby, and leaves the primary running.
    pub async fn fail_over(&mut self) {
        let promoted = self.standby.take().unwrap().into_primary().await;
        // Stops the one before.
        self.replaced = Some(std::mem::replace(&mut self.primary, promoted));
    }
}
