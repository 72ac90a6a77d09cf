//! What a replica notes of the others, to find those whose leases are over because they no longer renew them.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use crate::{clock::Moment, store::Replica};

/// How long after its last renewal a replica surely has no lease any more, by the slower clock of this machine: the rates of
/// clocks that nobody adjusts differ by far less than a percent.
pub(super) fn surely_over(lease: Duration) -> Duration {
    lease + lease / 100 + Duration::from_millis(1)
}

/// Of each other replica, how far it has renewed its lease, and since when.
#[derive(Debug, Default)]
pub(super) struct ReplicaNotes {
    /// The registration of this replica under which the notes were made.
    registration: Uuid,
    renewals: HashMap<Uuid, (i64, Moment)>,
}

impl ReplicaNotes {
    /// Notes what was read of the others before `now`, by the replica with this registration. Returns those that have stood
    /// still for so long that their leases are over.
    ///
    /// Notes from before this replica registered count for nothing: with SQLite the others need not renew while no other
    /// replica is registered.
    pub(super) fn note<'a>(
        &mut self,
        registration: Uuid,
        others: &'a [Replica],
        now: Moment,
    ) -> Vec<&'a Replica> {
        if self.registration != registration {
            *self = Self { registration, renewals: HashMap::new() };
        }
        self.renewals.retain(|id, _| others.iter().any(|replica| replica.id == *id));
        others.iter().filter(|replica| self.stands_still(replica, now)).collect()
    }

    fn stands_still(&mut self, replica: &Replica, now: Moment) -> bool {
        let (renewals, since) = self.renewals.entry(replica.id).or_insert((replica.renewals, now));
        if *renewals != replica.renewals {
            (*renewals, *since) = (replica.renewals, now);
        }
        now.at_least_since(*since) > surely_over(replica.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    #[test]
    fn a_replica_that_does_not_renew_for_its_lease_stands_still() {
        let (this, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut notes = ReplicaNotes::default();
        let mut stands_still = |id, renewals, seconds| {
            notes.note(this, &[Replica::of(id, renewals, LEASE)], at(seconds)).len() == 1
        };
        assert!(!stands_still(other, 3, 100));
        assert!(!stands_still(other, 3, 105));
        assert!(stands_still(other, 3, 106));
        assert!(!stands_still(other, 4, 106), "it moves");
        assert!(!stands_still(other, 4, 111));
        assert!(stands_still(other, 4, 112));
    }

    #[test]
    fn what_was_noted_of_one_registration_says_nothing_of_another() {
        let (this, again) = (Uuid::now_v7(), Uuid::now_v7());
        let [first, second] = [Uuid::now_v7(), Uuid::now_v7()].map(|id| Replica::of(id, 0, LEASE));
        let mut notes = ReplicaNotes::default();
        let mut stands_still = |this, replica: &Replica, seconds| {
            notes.note(this, std::slice::from_ref(replica), at(seconds)).len() == 1
        };
        stands_still(this, &first, 100);
        assert!(!stands_still(this, &second, 106), "another registration of the other replica");
        assert!(!stands_still(this, &first, 112), "forgotten meanwhile");
        assert!(!stands_still(again, &first, 118), "this replica has registered anew");
        assert!(stands_still(again, &first, 124));
    }
}
