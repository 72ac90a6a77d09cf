use chrono::TimeDelta;
use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use prost_types::Timestamp;
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Sqlite},
    app::{START_SECONDS, manual_clock},
    bearer_token::{forge, with_a_typo},
    client::create_request,
    on_both_databases,
    status::violations,
};

/// The order in which reasons are checked, and therefore given.
const ORDER: [Reason; 6] = [
    Reason::Malformed,
    Reason::Unknown,
    Reason::Revoked,
    Reason::UserDeleted,
    Reason::Expired,
    Reason::MissingScope,
];

/// How long tokens live that are meant to expire.
const LIFETIME: i64 = 60;

/// A token of a user of its own, to which reasons apply one after the other.
struct Subject {
    user: String,
    id: String,
    /// What is presented: the bearer token, or a damaged one.
    bearer: String,
    required_scopes: Vec<&'static str>,
}

impl Subject {
    /// Issues a token that expires if `reasons` say so, and that is in memory.
    async fn issue(app: &App, reasons: &[Reason]) -> Self {
        let user = format!("{reasons:?}");
        let expire_time = Timestamp { seconds: START_SECONDS + LIFETIME, nanos: 0 };
        let request = CreateTokenRequest {
            expire_time: reasons.contains(&Reason::Expired).then_some(expire_time),
            ..create_request(&user, "token")
        };
        let answer = app.create_with(request).await.unwrap();
        app.validate(&answer.secret).await.unwrap();
        Self { user, id: answer.token.unwrap().id, bearer: answer.secret, required_scopes: Vec::new() }
    }

    /// Makes a reason apply. An expiry comes later, for all subjects at once.
    async fn apply(&mut self, app: &App, reason: Reason) {
        match reason {
            Reason::Malformed => self.bearer = with_a_typo(&self.bearer),
            Reason::Unknown => {
                let (_, other) = app.issue("other", &self.user).await;
                self.bearer = forge(&self.bearer, &other);
            }
            Reason::Revoked => app.delete(&self.user, &self.id).await.unwrap(),
            Reason::UserDeleted => app.delete_user(&self.user).await,
            Reason::MissingScope => self.required_scopes = vec!["admin"],
            Reason::Expired | Reason::Unspecified => {}
        }
    }

    async fn is_refused(&self, app: &App, reason: Reason, memory: &str) {
        let verdict = app.validate_for(&self.bearer, &self.required_scopes).await;
        assert_eq!(verdict, Err(reason), "{} with {memory} memory", self.user);
    }
}

/// For each reason alone, and for each two that apply to one token at once.
#[apply(on_both_databases)]
#[tokio::test]
async fn of_two_reasons_the_first_in_the_order_is_given(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let mut subjects = Vec::new();
    for (index, first) in ORDER.into_iter().enumerate() {
        for second in &ORDER[index..] {
            let reasons = if *second == first { vec![first] } else { vec![first, *second] };
            subjects.push((Subject::issue(&app, &reasons).await, reasons));
        }
    }
    for (subject, reasons) in &mut subjects {
        // A token of a deleted account cannot be revoked any more.
        for reason in
            [Reason::Revoked, Reason::UserDeleted, Reason::MissingScope, Reason::Unknown, Reason::Malformed]
        {
            if reasons.contains(&reason) {
                subject.apply(&app, reason).await;
            }
        }
    }
    app.clock.advance(TimeDelta::seconds(LIFETIME));
    // Once as they are in memory, and once as that leaves them.
    for _ in 0..2 {
        for (subject, reasons) in &subjects {
            subject.is_refused(&app, reasons[0], "filled").await;
        }
    }
    let app = app.restart(&[]).await;
    for (subject, reasons) in &subjects {
        subject.is_refused(&app, reasons[0], "empty").await;
    }
}

/// The order above is the service's, and every reason of the contract is in it.
#[test]
fn the_order_covers_every_reason() {
    let names =
        latchkey::registry::Reason::ALL.map(|reason| format!("REASON_{}", reason.name().to_uppercase()));
    assert_eq!(ORDER.map(|reason| reason.as_str_name().to_owned()), names);
    assert!(
        Reason::try_from(ORDER.len() as i32 + 1).is_err(),
        "the contract has more reasons than the order"
    );
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_wrong_secret_reveals_nothing(database: Database) {
    let app = App::start(database).await;
    let (id, revoked) = app.issue("alice", "one").await;
    let (_, live) = app.issue("alice", "two").await;
    assert_eq!(forge(&live, &live), live, "the parts of a token give the token");
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&forge(&revoked, &live)).await, Err(Reason::Unknown));
    assert_eq!(app.validate(&forge(&live, &revoked)).await, Err(Reason::Unknown));
    let elsewhere = App::start(Sqlite).await;
    assert_eq!(elsewhere.validate(&live).await, Err(Reason::Unknown));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_text_without_the_form_of_a_token_is_malformed(database: Database) {
    let app = App::start(database).await;
    let (_, bearer) = app.issue("alice", "one").await;
    let typo = with_a_typo(&bearer);
    // Just below the limit of a message.
    let long = "x".repeat(60_000);
    for text in
        ["", "pat_", "hunter2", &typo, &bearer[1..], &format!("{bearer} "), &bearer.to_uppercase(), &long]
    {
        assert_eq!(app.validate(text).await, Err(Reason::Malformed));
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_token_needs_every_required_scope(database: Database) {
    const TOO_MANY: usize = 65;
    let app = App::start(database).await;
    let scopes = ["a", "b:read"].map(str::to_owned).into();
    let request = CreateTokenRequest { scopes, ..create_request("alice", "scoped") };
    let bearer = app.create_with(request).await.unwrap().secret;
    for scopes in [&[][..], &["a"], &["b:read", "a"], &["a", "a"]] {
        assert!(app.validate_for(&bearer, scopes).await.is_ok(), "{scopes:?}");
    }
    for scopes in [&["c"][..], &["a", "c"], &["b"], &["b:read:x"]] {
        assert_eq!(app.validate_for(&bearer, scopes).await, Err(Reason::MissingScope), "{scopes:?}");
    }
    let said = violations(&app.try_validate(&bearer, &["a", "B"]).await.unwrap_err());
    assert_eq!(said[0].0, "required_scopes[1]");
    let said = violations(&app.try_validate(&bearer, &["a"; TOO_MANY]).await.unwrap_err());
    assert_eq!(said[0].0, "required_scopes");
}
