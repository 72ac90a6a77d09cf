//! Removal of the row of the validating replica, by another replica or by itself.

use super::{
    replica::LEASE,
    setup::{Rule, Setup},
    state::State,
};

/// What the remover has noted of the row. Ids and renewals are only compared for equality, and are not used again. So
/// the model keeps neither, and drops a note when the row no longer agrees with it.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Note {
    /// Ticks since the row was first read as it is.
    pub age: u8,
    /// The row was renewed.
    pub is_renewed: bool,
}

impl State {
    pub fn may_note_row(&self) -> bool {
        self.note.is_none() && self.primary_database().row.is_some()
    }

    pub fn note_row(&mut self) {
        let row = self.primary_database().row.as_ref();
        self.note = row.map(|row| Note { age: 0, is_renewed: row.is_renewed });
    }

    pub fn may_remove_row(&self, setup: &Setup) -> bool {
        let is_registered = self.other || !setup.has(Rule::RemoverIsRegistered);
        let stands_still = self.note.as_ref().is_some_and(|note| note.age == LEASE);
        is_registered && stands_still && self.primary_database().row.is_some()
    }

    pub fn remove_row(&mut self, setup: &Setup) {
        self.writable().row = None;
        if setup.has(Rule::NewIdPerRegistration) {
            self.note = None;
        }
    }

    /// The replica leaves, and may register anew.
    pub fn leave(&mut self, setup: &Setup) {
        if setup.has(Rule::LeaseEndsBeforeLeaving) {
            self.replica.void(setup);
        }
        self.remove_row(setup);
    }

    /// The note no longer agrees with the row. Without the rule, the remover does not notice if it has just read that
    /// the row stands still.
    pub fn row_is_renewed(&mut self, setup: &Setup) {
        let is_conditional = setup.has(Rule::RemovalIsConditional);
        self.note.take_if(|note| is_conditional || note.age < LEASE);
    }

    /// The row has a new id. Without the rule, it has the old id, and renewals start from 0 again.
    pub fn row_is_registered(&mut self, setup: &Setup) {
        let is_used_again = !setup.has(Rule::NewIdPerRegistration);
        self.note.take_if(|note| !is_used_again || note.is_renewed);
    }

    pub fn register_other(&mut self, setup: &Setup) {
        self.other = true;
        if setup.has(Rule::NotesEndWithRegistration) {
            self.note = None;
        }
    }
}
