//! The faults that happen to the site.

use std::{ops::Range, time::Duration};

use futures_util::future::join_all;
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::time::sleep;

use super::{
    replica::Replica,
    site::{LEASE_MILLIS, REPLICAS, Site},
};
use crate::support::latchkey::Process;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillReplica,
    PauseReplica,
    /// The pause ends near the end of the lease.
    PauseReplicaForALease,
    /// As [`Fault::PauseReplicaForALease`], soon after a start.
    PauseStartedReplica,
    CrashDatabase,
    PauseDatabase,
    /// Commits wait, but everything can be read.
    PauseStandby,
    /// Some replicas stay connected to the replaced primary for some time.
    Failover,
    CutNetwork,
    /// The network is cut and restored many times.
    FlapNetwork,
    LoseRequests,
    LoseAnswers,
    HoldNetwork,
    DelayNetwork,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::KillReplica,
        Self::PauseReplica,
        Self::PauseReplicaForALease,
        Self::PauseStartedReplica,
        Self::CrashDatabase,
        Self::PauseDatabase,
        Self::PauseStandby,
        Self::Failover,
        Self::CutNetwork,
        Self::FlapNetwork,
        Self::LoseRequests,
        Self::LoseAnswers,
        Self::HoldNetwork,
        Self::DelayNetwork,
    ];
}

/// The length of a fault, of a pause that ends near the end of a lease, of the time between a start and a pause, and of the
/// time that a flapping network stays up or down, in milliseconds.
const FAULT: Range<u64> = 100..2_500;
const NEAR_A_LEASE: Range<u64> = LEASE_MILLIS - 150..LEASE_MILLIS + 150;
const AFTER_A_START: Range<u64> = 0..400;
const FLAP: Range<u64> = 10..200;
const DELAY: Duration = Duration::from_millis(75);

fn draw(random: &mut StdRng, millis: Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(millis))
}

impl Site {
    /// Makes a fault happen, to the replica if it is one of a replica, and returns when it is over.
    pub async fn suffer(&self, fault: Fault, replica: usize, random: &mut StdRng) {
        let length = draw(random, FAULT);
        let near_a_lease = draw(random, NEAR_A_LEASE);
        let replica = &self.replicas[replica];
        match fault {
            Fault::KillReplica => {
                let mut process = replica.kill().await;
                sleep(length).await;
                replica.restart(&mut process).await;
            }
            Fault::PauseReplica | Fault::PauseReplicaForALease => {
                let process = replica.process.lock().await;
                let length = if fault == Fault::PauseReplica { length } else { near_a_lease };
                pause(process.as_ref().unwrap(), length).await;
            }
            Fault::PauseStartedReplica => {
                let mut process = replica.kill().await;
                replica.restart(&mut process).await;
                sleep(draw(random, AFTER_A_START)).await;
                pause(process.as_ref().unwrap(), near_a_lease).await;
            }
            Fault::CrashDatabase => {
                let mut cluster = self.cluster.lock().await;
                tokio::task::block_in_place(|| cluster.primary.stop());
                sleep(length).await;
                tokio::task::block_in_place(|| cluster.primary.resume());
            }
            Fault::PauseDatabase => {
                let cluster = self.cluster.lock().await;
                cluster.primary.signal_all("STOP");
                sleep(length).await;
                cluster.primary.signal_all("CONT");
            }
            Fault::PauseStandby => {
                let cluster = self.cluster.lock().await;
                let standby = cluster.standby.as_ref().unwrap();
                standby.signal_all("STOP");
                sleep(length).await;
                standby.signal_all("CONT");
            }
            Fault::Failover => self.fail_over(length, random).await,
            _ => disturb_network(fault, replica, length, random).await,
        }
    }

    /// Promotes the standby and makes a new one. Some replicas are redirected at once, the others after `delay`.
    async fn fail_over(&self, delay: Duration, random: &mut StdRng) {
        let mut cluster = self.cluster.lock().await;
        cluster.fail_over().await;
        let port = cluster.primary.port();
        let mut replicas: Vec<&Replica> = self.replicas.iter().collect();
        replicas.shuffle(random);
        let (at_once, later) = replicas.split_at(random.random_range(1..REPLICAS));
        let redirect = async |replicas: &[&Replica]| {
            join_all(replicas.iter().map(|replica| replica.redirect_to(port))).await;
        };
        tokio::join!(redirect(at_once), async {
            sleep(delay).await;
            redirect(later).await;
        });
        cluster.add_standby().await;
    }
}

async fn pause(process: &Process, length: Duration) {
    process.signal("STOP");
    sleep(length).await;
    process.signal("CONT");
}

async fn disturb_network(fault: Fault, replica: &Replica, length: Duration, random: &mut StdRng) {
    let _alone = replica.network.lock().await;
    let proxy = &replica.proxy;
    match fault {
        Fault::LoseRequests => proxy.swallow_requests(),
        Fault::LoseAnswers => proxy.swallow_answers(),
        Fault::HoldNetwork => proxy.hold(),
        Fault::DelayNetwork => proxy.delay(DELAY),
        _ => proxy.cut(),
    }
    if fault == Fault::FlapNetwork {
        let end = tokio::time::Instant::now() + length;
        while tokio::time::Instant::now() < end {
            proxy.cut();
            sleep(draw(random, FLAP)).await;
            proxy.pass_requests();
            sleep(draw(random, FLAP)).await;
        }
    } else {
        sleep(length).await;
    }
    // No byte of a connection is lost while later ones arrive.
    if matches!(fault, Fault::LoseRequests | Fault::LoseAnswers) {
        proxy.cut();
    }
    proxy.pass_requests();
}
