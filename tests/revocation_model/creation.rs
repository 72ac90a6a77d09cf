//! Creation of the token.

use super::{
    database::{Server, Token},
    replica::LEASE,
    setup::{Rule, Setup},
    state::State,
};

/// How far the creation is.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Creation {
    Idle,
    /// It was committed `age` ticks ago, when there were rows of other epochs.
    Waiting {
        age: u8,
    },
    /// The token was returned.
    Acknowledged,
    /// The failover has lost the token.
    Lost,
}

impl Creation {
    pub fn age(&mut self) -> Option<&mut u8> {
        match self {
            Self::Waiting { age } => Some(age),
            _ => None,
        }
    }
}

impl State {
    /// Commits the token on the primary.
    pub fn create_token(&mut self, setup: &Setup) {
        let must_wait = setup.has(Rule::CreationWaits) && self.has_rows_of_other_epochs(self.primary());
        let database = self.writable();
        database.token = Token::Live;
        database.commit();
        self.creation = if must_wait { Creation::Waiting { age: 0 } } else { Creation::Acknowledged };
    }

    /// Whether the creation is acknowledged after a read of the rows on this server.
    pub fn may_end_creation(&self, server: Server) -> bool {
        match self.creation {
            Creation::Waiting { age } => age == LEASE || !self.has_rows_of_other_epochs(server),
            _ => false,
        }
    }

    /// Whether there are rows on this server that are not of the present epoch.
    fn has_rows_of_other_epochs(&self, server: Server) -> bool {
        self.database(server).is_some_and(|database| {
            let is_of_other = database.row.as_ref().is_some_and(|row| row.epoch != self.primary());
            is_of_other || database.placeholder.is_some()
        })
    }

    /// Whether a validation may begin that may find no token. None begins before the acknowledgement, because nobody
    /// knows the secret; so none joins a lookup from before.
    pub fn may_check_lease(&self) -> bool {
        let is_missing = self.servers().any(|(_, database)| database.token == Token::Missing);
        self.creation == Creation::Acknowledged && is_missing && !self.has_checked
    }

    /// Whether that validation may find no token. That is not wrong if the failover has lost the token.
    pub fn may_answer_unknown(&self) -> bool {
        self.creation == Creation::Acknowledged && self.has_checked
    }
}
