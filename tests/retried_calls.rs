use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::TimeDelta;
use latchkey::{
    proto::latchkey::{CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, invalid::Reason},
    store::{PoolLimits, Store},
};
use prost_types::Timestamp;
use rstest::rstest;
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::support::{
    App, Client,
    Database::{self, Postgres},
    app::{START_SECONDS, manual_clock},
    certificates::private_file,
    client::create_request,
    on_both_databases, soon,
    status::{details, reason, violations},
    until,
};

const REQUEST_ID: &str = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42";
const OTHER_REQUEST_ID: &str = "c0a1f3d2-90b7-4f0e-8a35-7d1f5e2b6c94";

/// Uses stay in memory as long as a test runs, unless it writes them.
const NO_WRITES: [&str; 2] = ["--last-used-interval", "1h"];

fn request(user: &str, name: &str) -> CreateTokenRequest {
    CreateTokenRequest { request_id: REQUEST_ID.into(), ..create_request(user, name) }
}

fn token_id(answer: &CreateTokenResponse) -> &str {
    &answer.token.as_ref().unwrap().id
}

/// Checks that the call is refused because its token is no longer new.
fn is_done(refused: &Status, token_id: &str) {
    assert_eq!((refused.code(), &*reason(refused)), (Code::AlreadyExists, "REQUEST_DONE"), "{refused}");
    assert_eq!(details(refused).error_info().unwrap().metadata["token_id"], token_id);
}

async fn kinds(app: &App) -> Vec<String> {
    let rows = app.query("SELECT kind FROM token_events ORDER BY id").await;
    rows.iter().map(|row| row.try_get("", "kind").unwrap()).collect()
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_repeated_creation_answers_the_same_token_with_a_fresh_secret(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let mut request = CreateTokenRequest {
        scopes: vec!["repo:read".into(), "repo:write".into()],
        expire_time: Some(Timestamp { seconds: START_SECONDS + 7_200, nanos: 5_000 }),
        ..request("alice", "caf\u{e9}")
    };
    let first = app.create_with(request.clone()).await.unwrap();
    app.clock.advance(TimeDelta::minutes(30));
    // Only its form differs.
    request.request_id.make_ascii_uppercase();
    request.name = " cafe\u{301}".into();
    request.scopes.reverse();
    request.expire_time.as_mut().unwrap().nanos += 999;
    let second = app.create_with(request.clone()).await.unwrap();
    assert_eq!(app.validate(&first.secret).await, Err(Reason::Unknown));
    let third = app.create_with(request).await.unwrap();
    assert_eq!(app.validate(&second.secret).await, Err(Reason::Unknown));
    assert_eq!([&second.token, &third.token], [&first.token, &first.token]);
    assert_eq!(app.list("alice").await, [first.token.clone().unwrap()]);
    assert_eq!(app.validate(&third.secret).await, Ok(first.token.unwrap()));
    assert_eq!(kinds(&app).await, ["token_issued", "token_secret_replaced", "token_secret_replaced"]);
}

/// How a token stops being new.
#[derive(Clone, Copy, Debug)]
enum End {
    Used,
    UsedAndWritten,
    Deleted,
    Expired,
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_secret_of_a_token_that_is_no_longer_new_is_not_replaced(
    database: Database,
    #[values(End::Used, End::UsedAndWritten, End::Deleted, End::Expired)] end: End,
) {
    const MINUTE: i64 = 60;
    let app = App::start_with_clock_and(database, manual_clock(), &NO_WRITES).await;
    let expire_time = Some(Timestamp { seconds: START_SECONDS + MINUTE, nanos: 0 });
    let request = CreateTokenRequest { expire_time, ..request("alice", "one") };
    let first = app.create_with(request.clone()).await.unwrap();
    let (id, secret) = (token_id(&first), &first.secret);
    match end {
        End::Used => drop(app.validate(secret).await.unwrap()),
        End::UsedAndWritten => {
            app.validate(secret).await.unwrap();
            app.server.registry().flush_last_used().await.unwrap();
        }
        End::Deleted => app.delete("alice", id).await.unwrap(),
        End::Expired => app.clock.advance(TimeDelta::seconds(MINUTE)),
    }
    let runs = app.argon2_runs();
    is_done(&app.create_with(request).await.unwrap_err(), id);
    assert_eq!(app.argon2_runs(), runs, "it is refused before a secret is hashed");
    let expected = match end {
        End::Used | End::UsedAndWritten => None,
        End::Deleted => Some(Reason::Revoked),
        End::Expired => Some(Reason::Expired),
    };
    assert_eq!(app.validate(secret).await.err(), expected, "its secret is the same");
}

/// An expiry that has passed is good only in a request that is repeated.
#[apply(on_both_databases)]
#[tokio::test]
async fn the_expiry_of_a_new_request_must_be_in_the_future(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    for seconds_ago in [0, 1_800, 7_200] {
        let expire_time = Some(Timestamp { seconds: START_SECONDS - seconds_ago, nanos: 0 });
        let new = CreateTokenRequest { expire_time, ..request("alice", "one") };
        let said = violations(&app.create_with(new).await.unwrap_err());
        assert_eq!((said.len(), &*said[0].0), (1, "expire_time"));
        assert!(said[0].1.contains("in the future"), "{said:?}");
    }
    assert_eq!(app.argon2_runs(), 0);
    app.create_with(request("alice", "one")).await.unwrap();
}

#[apply(on_both_databases)]
#[tokio::test]
async fn another_request_with_the_same_id_is_refused(database: Database) {
    let app = App::start(database).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    let runs = app.argon2_runs();
    let far = Some(Timestamp { seconds: 99_999_999_999, nanos: 0 });
    for other in [
        request("alice", "two"),
        CreateTokenRequest { scopes: vec!["a".into()], ..request("alice", "one") },
        CreateTokenRequest { expire_time: far, ..request("alice", "one") },
    ] {
        let said = violations(&app.create_with(other).await.unwrap_err());
        assert_eq!((said.len(), &*said[0].0), (1, "request_id"));
        assert!(said[0].1.contains("choose a new UUID"), "{said:?}");
    }
    assert_eq!(app.argon2_runs(), runs);
    // It is another request for another user.
    let bobs = app.create_with(request("bob", "two")).await.unwrap();
    assert_ne!(token_id(&bobs), token_id(&first));
    app.validate(&first.secret).await.unwrap();
    app.validate(&bobs.secret).await.unwrap();
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_answer_for_a_deleted_account_comes_first(database: Database) {
    let app = App::start(database).await;
    let used = app.create_with(request("alice", "one")).await.unwrap();
    app.validate(&used.secret).await.unwrap();
    app.delete_user("alice").await;
    for repeated in [request("alice", "one"), request("alice", "two")] {
        let refused = app.create_with(repeated).await.unwrap_err();
        assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "USER_DELETED"));
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_request_id_counts_as_new_after_an_hour(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    let just_less = TimeDelta::hours(1) - TimeDelta::microseconds(1);
    app.clock.advance(just_less);
    let repeated = app.create_with(request("alice", "one")).await.unwrap();
    assert_eq!(token_id(&repeated), token_id(&first));

    app.clock.advance(TimeDelta::microseconds(1));
    let refused = app.create_with(request("alice", "one")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::AlreadyExists, "NAME_TAKEN"));
    let second = app.create_with(request("alice", "two")).await.unwrap();
    assert_ne!(token_id(&second), token_id(&first));
    assert_eq!(app.count("create_requests").await, 1, "it replaces the old one");
    app.clock.advance(just_less);
    let repeated = app.create_with(request("alice", "two")).await.unwrap();
    assert_eq!(token_id(&repeated), token_id(&second));
    app.validate(&repeated.secret).await.unwrap();
}

/// A call that failed did nothing, so there is nothing to repeat.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_failed_creation_is_not_remembered(database: Database) {
    let app = App::start_with(database, &["--max-tokens-per-user", "1"]).await;
    let (id, _) = app.issue("alice", "one").await;
    let full = app.create_with(request("alice", "two")).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    app.delete("alice", &id).await.unwrap();
    let created = app.create_with(request("alice", "three")).await.unwrap();
    // The limit does not apply to the token that exists already, nor does its own name stand in its way.
    let repeated = app.create_with(request("alice", "three")).await.unwrap();
    assert_eq!(token_id(&repeated), token_id(&created));
    let other = CreateTokenRequest { request_id: OTHER_REQUEST_ID.into(), ..request("alice", "three") };
    assert_eq!(reason(&app.create_with(other).await.unwrap_err()), "NAME_TAKEN");
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_32_calls_at_once_the_secret_of_the_last_one_works(database: Database) {
    let app = App::start(database).await;
    let replica = app.replica().await;
    let calls: Vec<_> = (0..32)
        .map(|n| {
            let client = if n % 2 == 0 { app.client.clone() } else { replica.client.clone() };
            tokio::spawn(async move { client.create_with(request("alice", "one")).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(soon("a creation", call).await.unwrap().unwrap());
    }
    assert_eq!(app.count("tokens").await, 1);
    assert_eq!(kinds(&app).await, [&["token_issued"][..], &["token_secret_replaced"; 31]].concat());
    let mut valid = Vec::new();
    for answer in &answers {
        match app.validate(&answer.secret).await {
            Ok(token) => valid.push(token),
            Err(reason) => assert_eq!(reason, Reason::Unknown),
        }
    }
    assert_eq!(valid, [answers[0].token.clone().unwrap()]);
}

/// The other replica has used the token, and nobody else knows yet.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_replaced_secret_is_evicted_on_every_replica(database: Database) {
    let app = App::start_with(database, &NO_WRITES).await;
    let replica = app.replica_with(&NO_WRITES).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    replica.validate(&first.secret).await.unwrap();
    let second = app.create_with(request("alice", "one")).await.unwrap();
    replica.refuses(&first.secret, Reason::Unknown).await;
    replica.validate(&second.secret).await.unwrap();
}

/// Starts a repeated creation and waits until it waits for the token's row, which `holder` has locked with `sql`.
async fn repeat_while_locked(
    app: &App,
    holder: &sea_orm::DatabaseConnection,
    sql: &str,
) -> tokio::task::JoinHandle<Result<CreateTokenResponse, Status>> {
    holder.execute_unprepared("BEGIN").await.unwrap();
    holder.execute_unprepared(sql).await.unwrap();
    let client = Client::clone(&app.client);
    let repeated = tokio::spawn(async move { client.create_with(request("alice", "one")).await });
    let waiting = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    until("a wait for the lock", || async { (app.count(waiting).await == 1).then_some(()) }).await;
    repeated
}

/// Between the decision and the commit the first secret still works. This replica polls the revocation log too rarely
/// to learn of its own change from there.
#[tokio::test]
async fn a_secret_that_is_used_while_it_is_replaced_is_dead_at_once() {
    let settings = ["--revocation-poll", "1s", "--last-used-interval", "1h", "--database-timeout", "20s"];
    let app = App::start_with(Postgres, &settings).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    let holder = app.database().await;
    let repeated = repeat_while_locked(&app, &holder, "SELECT FROM tokens FOR UPDATE").await;
    app.validate(&first.secret).await.unwrap();
    holder.execute_unprepared("ROLLBACK").await.unwrap();
    let second = soon("the creation", repeated).await.unwrap().unwrap();
    assert_eq!(app.validate(&first.secret).await, Err(Reason::Unknown));
    app.validate(&second.secret).await.unwrap();
}

/// Neither is done under the account's lock.
#[rstest]
#[case("last_used_at")]
#[case("revoked_at")]
#[tokio::test]
async fn a_use_or_deletion_that_is_committed_meanwhile_is_seen(#[case] column: &str) {
    let app = App::start_with(Postgres, &["--database-timeout", "20s"]).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    let holder = app.database().await;
    let repeated = repeat_while_locked(&app, &holder, &format!("UPDATE tokens SET {column} = now()")).await;
    holder.execute_unprepared("COMMIT").await.unwrap();
    is_done(&soon("the creation", repeated).await.unwrap().unwrap_err(), token_id(&first));
    assert_eq!(kinds(&app).await, ["token_issued"]);
}

/// A validation that began before the replacement may end after it, with a new tag for the old secret.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_late_tag_of_the_replaced_secret_is_not_stored(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let ring = format!("primary = \"k\"\n[keys]\nk = \"{}\"\n", BASE64_STANDARD.encode([7; 32]));
    let ring = private_file(folder.path(), "ring.toml", &ring);
    let app = App::start_with(database, &["--key-ring", ring.to_str().unwrap()]).await;
    let first = app.create_with(request("alice", "one")).await.unwrap();
    let limits = PoolLimits { connections: 1, timeout: Duration::from_secs(20) };
    let store = Store::open(&app.url.parse().unwrap(), limits).await.unwrap();
    let id: Uuid = token_id(&first).parse().unwrap();
    let epoch = *app.server.registry().epochs().borrow();
    let found = store.find_token(id, epoch, latchkey::store::Share::All).await.unwrap().unwrap();
    let second = app.create_with(request("alice", "one")).await.unwrap();
    store.retag_token(id, &found.hash, found.tag.unwrap()).await.unwrap();
    assert_eq!(app.validate(&first.secret).await, Err(Reason::Unknown));
    app.validate(&second.secret).await.unwrap();
}

async fn delete_again(app: &App, user: &str, id: &str) -> Result<(), Status> {
    let (user_id, token_id) = (user.into(), id.into());
    let request = DeleteTokenRequest { user_id, token_id, allow_missing: true };
    app.tokens().delete_token(request).await.map(drop)
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_repeated_deletion_succeeds_if_that_is_allowed(database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    let (bobs_id, bobs) = app.issue("bob", "one").await;
    let unknown = Uuid::now_v7().to_string();
    for _ in 0..2 {
        delete_again(&app, "alice", &id).await.unwrap();
        assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
    }
    delete_again(&app, "alice", &bobs_id).await.unwrap();
    delete_again(&app, "alice", &unknown).await.unwrap();
    app.validate(&bobs).await.unwrap();
    for id in [&id, &bobs_id, &unknown] {
        assert_eq!(app.delete("alice", id).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(kinds(&app).await, ["token_issued", "token_issued", "token_revoked"]);
    app.delete_user("bob").await;
    delete_again(&app, "bob", &bobs_id).await.unwrap();
    let said = violations(&delete_again(&app, "alice", "x").await.unwrap_err());
    assert_eq!(said[0].0, "token_id", "what cannot be a token's id is refused");
}
