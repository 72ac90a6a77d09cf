//! What is recorded of each token, and what must never happen.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::invalid::Reason;

/// A token, and what callers know of its end. Times are those of this process's monotonic clock.
pub struct TokenHistory {
    pub user: String,
    pub id: String,
    pub secret: String,
    /// Somebody has asked to take its access away, so it may be refused.
    may_be_revoked: AtomicBool,
    /// When the first answer arrived that acknowledged it, in nanoseconds since the start, or [`NEVER`].
    acknowledged: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl TokenHistory {
    pub fn new(user: String, id: String, secret: String) -> Self {
        let (may_be_revoked, acknowledged) = (AtomicBool::new(false), AtomicU64::new(NEVER));
        Self { user, id, secret, may_be_revoked, acknowledged }
    }

    /// To be called before the request is sent.
    pub fn revocation_begins(&self) {
        self.may_be_revoked.store(true, Ordering::SeqCst);
    }

    /// To be called after the answer has arrived.
    pub fn is_acknowledged(&self, since_start: Duration) {
        self.acknowledged.fetch_min(nanos(since_start), Ordering::SeqCst);
    }

    pub fn is_live(&self) -> bool {
        !self.may_be_revoked.load(Ordering::SeqCst)
    }

    pub fn is_revoked(&self) -> bool {
        self.acknowledged.load(Ordering::SeqCst) != NEVER
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// An answer to a validation.
pub struct Validation {
    pub replica: usize,
    /// Taken before the request was sent.
    pub invoked: Duration,
    pub returned: Duration,
    pub verdict: Result<(), Reason>,
}

/// Checks every answer, and keeps what it needs to explain a violation.
pub struct Checker {
    pub start: Instant,
    log: Mutex<Vec<Entry>>,
    violations: Mutex<Vec<Violation>>,
}

/// Something that happened: to all, or to the tokens of one user.
struct Entry {
    at: Duration,
    user: Option<String>,
    what: String,
}

struct Violation {
    at: Duration,
    user: String,
    what: String,
}

/// How much of the history is printed with a violation.
const CONTEXT: Duration = Duration::from_secs(8);

impl Checker {
    pub fn new() -> Self {
        Self { start: Instant::now(), log: Mutex::default(), violations: Mutex::default() }
    }

    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Records a fault.
    pub fn note_fault(&self, what: String) {
        self.log.lock().unwrap().push(Entry { at: self.now(), user: None, what });
    }

    /// Records something that happened to tokens of this user.
    pub fn note(&self, user: &str, what: String) {
        self.log.lock().unwrap().push(Entry { at: self.now(), user: Some(user.to_owned()), what });
    }

    /// Checks an answer. A token whose revocation was acknowledged before the validation began must not be valid; one that
    /// nobody has asked to revoke must be; and none is unknown, since revoked ones are kept.
    pub fn check(&self, token: &TokenHistory, validation: &Validation) {
        let acknowledged = token.acknowledged.load(Ordering::SeqCst);
        let violation = match validation.verdict {
            Ok(()) if nanos(validation.invoked) > acknowledged => "was accepted after its revocation",
            Err(_) if token.is_live() => "was refused although nobody revoked it",
            Err(Reason::Unknown) => "was unknown although it was created",
            _ => return,
        };
        let acknowledged = match acknowledged {
            NEVER => "not acknowledged".to_owned(),
            at => format!("acknowledged at {:?}", Duration::from_nanos(at)),
        };
        let (id, user) = (&token.id, &token.user);
        let Validation { replica, invoked, returned, verdict } = validation;
        let what = format!(
            "token {id} of {user} {violation}: {acknowledged}; replica {replica} said {verdict:?} between \
             {invoked:?} and {returned:?}"
        );
        self.violations.lock().unwrap().push(Violation { at: *returned, user: user.clone(), what });
    }

    /// Returns the violations, each with the faults and what happened to the tokens of its user before it.
    pub fn violations(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let history = |violation: &Violation| {
            let from = violation.at.saturating_sub(CONTEXT);
            let is_related = |entry: &&Entry| {
                (from..=violation.at).contains(&entry.at)
                    && entry.user.as_ref().is_none_or(|user| *user == violation.user)
            };
            let lines =
                log.iter().filter(is_related).map(|Entry { at, what, .. }| format!("  {at:?} {what}\n"));
            lines.collect::<String>()
        };
        let violations = self.violations.lock().unwrap();
        violations.iter().map(|violation| format!("{}\n{}", violation.what, history(violation))).collect()
    }

    pub fn has_failed(&self) -> bool {
        !self.violations.lock().unwrap().is_empty()
    }
}

#[test]
fn a_violation_is_found_and_what_is_allowed_is_not_one() {
    let token = || TokenHistory::new("alice".into(), "id".into(), "secret".into());
    let at = |invoked: u64, verdict| Validation {
        replica: 0,
        invoked: Duration::from_millis(invoked),
        returned: Duration::from_millis(invoked + 1),
        verdict,
    };
    let checker = Checker::new();
    let live = token();
    checker.check(&live, &at(1, Ok(())));
    let revoked = token();
    revoked.revocation_begins();
    checker.check(&revoked, &at(1, Ok(())));
    checker.check(&revoked, &at(1, Err(Reason::Revoked)));
    revoked.is_acknowledged(Duration::from_millis(5));
    revoked.is_acknowledged(Duration::from_millis(9));
    checker.check(&revoked, &at(4, Ok(())));
    checker.check(&revoked, &at(6, Err(Reason::Revoked)));
    assert!(!checker.has_failed());
    checker.check(&revoked, &at(6, Ok(())));
    checker.check(&live, &at(6, Err(Reason::Unknown)));
    checker.check(&revoked, &at(6, Err(Reason::Unknown)));
    assert_eq!(checker.violations().len(), 3);
}
