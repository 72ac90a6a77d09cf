use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::{DeleteTokenRequest, invalid::Reason};
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres},
    database::SOME_TIME,
    latchkey::Process,
    on_both_databases, postgres,
    proxy::Proxy,
    soon, until,
};

/// The lease of these tests, and how long a revocation may take that waits for its end.
const LEASE: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];
const LEASE_ENDS_WITHIN: Duration = Duration::from_millis(1_500);
/// Less than the lease: nobody has waited for its end.
const PROMPTLY: Duration = Duration::from_millis(600);

/// No answer "valid" after the call has returned, without any waiting on the side of the caller.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_deletion_returns_no_replica_accepts_the_token(database: Database) {
    const ROUNDS: usize = 30;
    let app = App::start(database).await;
    let replicas = [app.replica().await, app.replica().await];
    for round in 0..ROUNDS {
        let user = format!("user {round}");
        let (id, one) = app.issue(&user, "one").await;
        let (_, two) = app.issue(&user, "two").await;
        for secret in [&one, &two, &one, &two] {
            for replica in &replicas {
                replica.validate(secret).await.unwrap();
            }
        }
        app.delete(&user, &id).await.unwrap();
        for replica in &replicas {
            assert_eq!(replica.validate(&one).await, Err(Reason::Revoked), "round {round}");
        }
        app.delete_user(&user).await;
        for replica in &replicas {
            assert_eq!(replica.validate(&two).await, Err(Reason::UserDeleted), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_delays_a_revocation_by_its_lease_and_then_answers_nothing() {
    let app = App::start_with(Postgres, &LEASE).await;
    let (proxy, cut_off) = Proxy::before(&app, &LEASE).await;
    let (id, secret) = app.issue("alice", "one").await;
    cut_off.validate(&secret).await.unwrap();
    proxy.swallow_requests();
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    assert!(began.elapsed() > PROMPTLY, "it waited: {:?}", began.elapsed());
    assert!(began.elapsed() < LEASE_ENDS_WITHIN, "{:?}", began.elapsed());
    let answer = cut_off.try_validate(&secret, &[]).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    proxy.pass_requests();
    let reason = until("an answer", || async { cut_off.try_validate(&secret, &[]).await.ok()?.err() }).await;
    assert_eq!(reason, Reason::Revoked);
}

/// Every wait suits a database that is far away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_of_150_milliseconds_costs_time_and_nothing_else() {
    let app = App::start(Postgres).await;
    let (proxy, url) = Proxy::to_database_of(&app).await;
    proxy.delay(Duration::from_millis(75));
    let far = App::start_on(url, tempfile::tempdir().unwrap(), &[]).await;
    far.readiness_becomes(true).await;
    let (_, kept) = app.issue("alice", "kept").await;
    let began = Instant::now();
    for round in 0.. {
        let (id, secret) = app.issue("alice", &format!("token {round}")).await;
        far.validate(&secret).await.unwrap();
        far.validate(&kept).await.unwrap();
        app.delete("alice", &id).await.unwrap();
        assert_eq!(far.validate(&secret).await, Err(Reason::Revoked));
        assert!(far.is_ready().await);
        // Longer than a lease.
        if began.elapsed() > Duration::from_secs(6) {
            break;
        }
    }
    let (id, secret) = app.issue("alice", "last").await;
    app.validate(&secret).await.unwrap();
    far.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
}

/// The clock that leases use also counts the time in which the process did not run.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_paused_does_not_accept_what_was_revoked_meanwhile(database: Database) {
    let app = App::start_with(database, &LEASE).await;
    let (id, secret) = app.issue("alice", "one").await;
    let folder = tempfile::tempdir().unwrap();
    let paused = Process::start(folder.path(), &[&LEASE[..], &["--database-url", &app.url]].concat());
    let client = paused.client().await;
    client.validate(&secret).await.unwrap();
    paused.signal("STOP");
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    assert!(began.elapsed() < LEASE_ENDS_WITHIN + Duration::from_secs(1), "{:?}", began.elapsed());
    paused.signal("CONT");
    for _ in 0..20 {
        match client.try_validate(&secret, &[]).await {
            Ok(verdict) => assert_eq!(verdict, Err(Reason::Revoked)),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_crashed_delays_revocations_only_until_its_lease_is_over(database: Database) {
    let app = App::start_with(database, &LEASE).await;
    let folder = tempfile::tempdir().unwrap();
    let crashed = Process::start(folder.path(), &[&LEASE[..], &["--database-url", &app.url]].concat());
    crashed.kill();
    assert_eq!(app.count("replicas").await, 2);
    let (id, _) = app.issue("alice", "one").await;
    app.delete("alice", &id).await.unwrap();
    until("the removal of the replica", || async { (app.count("replicas").await == 1).then_some(()) }).await;
    let (id, _) = app.issue("alice", "two").await;
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    assert!(began.elapsed() < PROMPTLY, "{:?}", began.elapsed());
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_in_order_delays_nothing(database: Database) {
    let app = App::start_with(database, &LEASE).await;
    let folder = tempfile::tempdir().unwrap();
    let stopped = Process::start(folder.path(), &[&LEASE[..], &["--database-url", &app.url]].concat());
    stopped.stop().await;
    assert_eq!(app.count("replicas").await, 1);
    let (id, _) = app.issue("alice", "one").await;
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    assert!(began.elapsed() < PROMPTLY, "{:?}", began.elapsed());
}

/// A replica whose row is gone is not waited for, so it must use nothing from before.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_removed_forgets_everything_and_registers_anew(database: Database) {
    let app = App::start_with(database, &LEASE).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("DELETE FROM replicas").await;
    until("an answer from the database", || async {
        let token = app.try_validate(&secret, &[]).await.ok()?.unwrap();
        (token.name == "changed").then_some(())
    })
    .await;
    until("its row", || async { (app.count("replicas").await == 1).then_some(()) }).await;
}

/// The deletion stands; a second call waits again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whose_deadline_comes_first_can_ask_again() {
    let app = App::start_with(Postgres, &LEASE).await;
    let (proxy, _cut_off) = Proxy::before(&app, &LEASE).await;
    let (id, secret) = app.issue("alice", "one").await;
    proxy.swallow_requests();
    let cut_short = app.delete_within(Duration::from_millis(200), "alice", &id).await;
    // The client may notice first.
    assert!(matches!(cut_short.unwrap_err().code(), Code::DeadlineExceeded | Code::Cancelled));
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
    // The same holds for the account, whose deletion is repeated until it is acknowledged.
    let began = Instant::now();
    app.delete_user("alice").await;
    assert!(began.elapsed() < LEASE_ENDS_WITHIN, "{:?}", began.elapsed());
    let began = Instant::now();
    app.delete_user("alice").await;
    assert!(began.elapsed() < LEASE_ENDS_WITHIN, "{:?}", began.elapsed());
}

#[apply(on_both_databases)]
#[tokio::test]
async fn operators_see_the_replicas_that_revocations_wait_for(database: Database) {
    let app = App::start(database).await;
    let _replica = app.replica().await;
    let (status, page) = app.get("/replicas").await;
    assert_eq!(status, 200, "{page}");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let replicas = page["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 2, "{page}");
    assert_eq!(replicas.iter().filter(|replica| replica["is_this"] == true).count(), 1, "{page}");
    for replica in replicas {
        assert_eq!(replica["lease_seconds"], 5.0, "{page}");
        assert!(replica["renewed_seconds_ago"].as_f64().unwrap() < 5.0, "{page}");
    }
    assert!(page["epoch"].is_string(), "{page}");
}

/// The replica that revoked it may have crashed before it told anybody. The one that is asked next has not read it yet.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_repeated_call_is_complete_too(database: Database) {
    let settings = ["--revocation-poll", "5s", "--max-staleness", "30s"];
    let app = App::start_with(database, &settings).await;
    let (id, token) = app.issue("alice", "one").await;
    let (_, account) = app.issue("bob", "two").await;
    app.validate(&token).await.unwrap();
    app.validate(&account).await.unwrap();
    let literal = database.id(&id);
    for sql in [
        format!("UPDATE tokens SET revoked_at = {SOME_TIME}, revoke_reason = 'deleted' WHERE id = {literal}"),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             VALUES ({SOME_TIME}, 'token_revoked', {literal}, 'alice', 'alice')"
        ),
        format!("UPDATE users SET deleted_at = {SOME_TIME} WHERE user_id = 'bob'"),
        format!(
            "INSERT INTO token_events (at, kind, user_id, actor) \
             VALUES ({SOME_TIME}, 'user_deleted', 'bob', 'identity')"
        ),
    ] {
        app.sql(&sql).await;
    }
    let (user_id, token_id) = ("alice".into(), id);
    app.tokens().delete_token(DeleteTokenRequest { user_id, token_id, allow_missing: true }).await.unwrap();
    assert_eq!(app.validate(&token).await, Err(Reason::Revoked));
    app.delete_user("bob").await;
    assert_eq!(app.validate(&account).await, Err(Reason::UserDeleted));
}

/// However many revocations wait, they leave validations their permits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_a_replica_keeps_no_validation_out() {
    let app = App::start_with(Postgres, &[&LEASE[..], &["--max-concurrent-requests", "1"]].concat()).await;
    let (proxy, _cut_off) = Proxy::before(&app, &LEASE).await;
    let (id, revoked) = app.issue("alice", "one").await;
    let (_, kept) = app.issue("alice", "two").await;
    app.validate(&kept).await.unwrap();
    proxy.swallow_requests();
    let client = app.client.clone();
    let waits = tokio::spawn(async move { client.delete("alice", &id).await });
    app.refuses(&revoked, Reason::Revoked).await;
    app.validate(&kept).await.unwrap();
    assert!(!waits.is_finished());
    waits.await.unwrap().unwrap();
}

/// Neither a call that waits nor a lease holds the stop up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_a_replica_does_not_hold_up_the_stop() {
    let app = App::start_with(Postgres, &["--max-staleness", "30s"]).await;
    let (proxy, _cut_off) = Proxy::before(&app, &["--max-staleness", "30s"]).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--max-staleness", "30s", "--shutdown-grace", "1s", "--database-url", &app.url];
    let stopped = Process::start(folder.path(), &settings);
    let client = stopped.client().await;
    let (id, secret) = app.issue("alice", "one").await;
    proxy.swallow_requests();
    let waits = tokio::spawn(async move { client.delete("alice", &id).await });
    app.refuses(&secret, Reason::Revoked).await;
    let began = Instant::now();
    stopped.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(soon("the end of the call", waits).await.unwrap().is_err());
}

/// A database that can be read but not written to may have been replaced by another: what it says may be out of date.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_to_answers_nothing() {
    let postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &LEASE).await);
    let (_, hot) = app.issue("alice", "hot").await;
    let (_, cold) = app.issue("alice", "cold").await;
    app.validate(&hot).await.unwrap();
    let without = [
        // Commits wait for a standby that is not there.
        ("synchronous_standby_names", "absent"),
        ("default_transaction_read_only", "on"),
    ];
    for (setting, value) in without {
        let admin = app.database().await;
        admin.execute_unprepared(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await.unwrap();
        admin.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
        let began = Instant::now();
        until("refusals", || async { app.try_validate(&hot, &[]).await.err() }).await;
        assert!(began.elapsed() < LEASE_ENDS_WITHIN, "{setting}: {:?}", began.elapsed());
        for secret in [&hot, &cold] {
            let answer = app.try_validate(secret, &[]).await;
            assert_eq!(answer.unwrap_err().code(), Code::Unavailable, "{setting}");
        }
        app.readiness_becomes(false).await;
        // Longer than a renewal may take, so that more than one has failed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let stuck = app.count("pg_stat_activity WHERE wait_event = 'SyncRep'").await;
        assert!(stuck <= 2, "{stuck} backends wait for the standby");

        admin.execute_unprepared("SET synchronous_commit = local").await.unwrap();
        admin.execute_unprepared("SET default_transaction_read_only = off").await.unwrap();
        admin.execute_unprepared(&format!("ALTER SYSTEM RESET {setting}")).await.unwrap();
        admin.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
        let back = Instant::now();
        until("an answer", || async { app.try_validate(&hot, &[]).await.ok()?.ok() }).await;
        assert!(back.elapsed() < Duration::from_secs(1), "{setting}: {:?}", back.elapsed());
        app.readiness_becomes(true).await;
    }
}

/// A COMMIT may take longer than any timeout, and later ones overtake it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_is_held_in_its_commit_is_not_missed() {
    let app = App::start_with(Postgres, &LEASE).await;
    let (id, early) = app.issue("alice", "early").await;
    app.validate(&early).await.unwrap();
    // Held by a constraint that is checked at the COMMIT, until the lock is free.
    for sql in [
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON token_events DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW WHEN (NEW.actor = 'held') EXECUTE FUNCTION hold()",
    ] {
        app.sql(sql).await;
    }
    let holder = app.database().await;
    holder.execute_unprepared("SELECT pg_advisory_lock(1)").await.unwrap();
    let held = app.database().await;
    let revoke = format!(
        "BEGIN; UPDATE tokens SET revoked_at = now(), revoke_reason = 'deleted' WHERE id = '{id}'; \
         INSERT INTO token_events (at, kind, token_id, user_id, actor) \
         VALUES (now(), 'token_revoked', '{id}', 'alice', 'held'); COMMIT"
    );
    let committing = tokio::spawn(async move { held.execute_unprepared(&revoke).await });
    let waiting = "pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()";
    until("the COMMIT to wait", || async { (app.count(waiting).await == 1).then_some(()) }).await;
    for name in ["late", "later", "latest"] {
        let (id, secret) = app.issue("alice", name).await;
        app.validate(&secret).await.unwrap();
        app.delete("alice", &id).await.unwrap();
        assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
    }
    app.validate(&early).await.unwrap();
    holder.execute_unprepared("SELECT pg_advisory_unlock(1)").await.unwrap();
    committing.await.unwrap().unwrap();
    app.refuses(&early, Reason::Revoked).await;
}
