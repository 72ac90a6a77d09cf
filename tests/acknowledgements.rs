use std::time::Duration;

use latchkey::proto::latchkey::{DeleteTokenRequest, invalid::Reason};
use rstest::rstest;
use tonic::Code;

use crate::support::{App, Client, Database::Postgres, postgres, proxy::Proxy, until};

const LEASE: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];

/// How a caller may try again after it gave up.
#[derive(Clone, Copy, Debug)]
enum Repeat {
    Delete,
    DeleteAllowingMissing,
    RevokeByTheHolder,
    DeleteTheAccount,
}

/// A token, as those who take its access away know it.
struct Token {
    user: &'static str,
    id: String,
    secret: String,
}

impl Repeat {
    /// Returns whether the answer says that access is gone; `None` if it says that this is not known.
    async fn try_again(self, client: &Client, token: &Token) -> Option<()> {
        match self {
            Self::Delete | Self::DeleteAllowingMissing => {
                let allow_missing = matches!(self, Self::DeleteAllowingMissing);
                let (user_id, token_id) = (token.user.to_owned(), token.id.clone());
                let request = DeleteTokenRequest { user_id, token_id, allow_missing };
                match client.tokens().delete_token(request).await {
                    Ok(_) => Some(()),
                    Err(status) if status.code() == Code::NotFound => Some(()),
                    Err(_) => None,
                }
            }
            Self::RevokeByTheHolder => {
                (client.revoke_as_holder(&token.secret).await == Some(200)).then_some(())
            }
            Self::DeleteTheAccount => (client.try_delete_user(token.user).await == 202).then_some(()),
        }
    }
}

/// The first call was cut off before all replicas had seen it. "It is revoked already" must not come before that.
#[rstest]
#[case(Repeat::Delete)]
#[case(Repeat::DeleteAllowingMissing)]
#[case(Repeat::RevokeByTheHolder)]
#[case(Repeat::DeleteTheAccount)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_access_is_gone_already_waits_too(#[case] repeat: Repeat) {
    let app = App::start_with(Postgres, &LEASE).await;
    let (proxy, cut_off) = Proxy::before(&app, &LEASE).await;
    let (id, secret) = app.issue("alice", "one").await;
    let token = Token { user: "alice", id, secret };
    cut_off.validate(&token.secret).await.unwrap();
    proxy.swallow_requests();
    if matches!(repeat, Repeat::DeleteTheAccount) {
        let given_up = tokio::time::timeout(Duration::from_millis(200), app.post_deletion(token.user));
        given_up.await.unwrap_err();
    } else {
        app.delete_within(Duration::from_millis(200), token.user, &token.id).await.unwrap_err();
    }
    assert!(app.validate(&token.secret).await.is_err(), "it is committed");
    assert!(cut_off.validate(&token.secret).await.is_ok(), "or the test proves nothing");
    until("an acknowledgement", || repeat.try_again(&app, &token)).await;
    match cut_off.try_validate(&token.secret, &[]).await {
        Ok(verdict) => assert!(verdict.is_err(), "accepted after {repeat:?} was acknowledged"),
        Err(status) => assert_eq!(status.code(), Code::Unavailable),
    }
}

/// The tokens of a deleted account are revoked too, also if their holder says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_account_is_being_deleted_is_answered_when_that_is_complete() {
    let app = App::start_with(Postgres, &LEASE).await;
    let (proxy, cut_off) = Proxy::before(&app, &LEASE).await;
    let (id, secret) = app.issue("alice", "one").await;
    cut_off.validate(&secret).await.unwrap();
    proxy.swallow_requests();
    let given_up = tokio::time::timeout(Duration::from_millis(200), app.post_deletion("alice"));
    given_up.await.unwrap_err();
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    let token = Token { user: "alice", id, secret };
    until("an acknowledgement", || Repeat::RevokeByTheHolder.try_again(&app, &token)).await;
    if let Ok(verdict) = cut_off.try_validate(&token.secret, &[]).await {
        assert!(verdict.is_err());
    }
}

/// PostgreSQL reports a COMMIT as done whose wait for a standby was cancelled, though the standby may lack it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_wait_for_the_standby_was_cancelled_is_not_acknowledged() {
    let postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--max-staleness", "3s"]).await;
    let (id, _) = app.issue("alice", "one").await;
    postgres.wait_for_standby("absent").await;
    let client = app.client.clone();
    let deletion = tokio::spawn(async move { client.delete("alice", &id).await });
    until("the COMMIT to wait", || async {
        let cancelled = "pg_stat_activity WHERE CASE WHEN wait_event = 'SyncRep' AND query ~* 'commit' \
                         THEN pg_cancel_backend(pid) END";
        (app.count(cancelled).await > 0).then_some(())
    })
    .await;
    let answer = deletion.await.unwrap();
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
}
