use chrono::{DateTime, TimeDelta, Utc};
use latchkey::{
    clock::Clock,
    proto::latchkey::{CreateTokenRequest, invalid::Reason},
};
use prost_types::Timestamp;
use rstest::rstest;

use crate::support::{App, Database::Postgres, client::create_request, status::violations};

fn expiring(name: &str, at: DateTime<Utc>) -> CreateTokenRequest {
    let expire_time = Some(Timestamp { seconds: at.timestamp(), nanos: 0 });
    CreateTokenRequest { expire_time, ..create_request("alice", name) }
}

/// A replica with a wrong clock judges expiry by the database's clock, and says that its own is wrong. SQLite has only
/// the machine's clock.
#[rstest]
#[tokio::test]
async fn expiry_is_judged_by_the_clock_of_the_database(#[values(-1, 1)] hours: i64) {
    let right = Clock::system();
    let app = App::start_with_clock(Postgres, Clock::system_with_error(TimeDelta::hours(hours))).await;
    let past = app.create_with(expiring("past", right.now() - TimeDelta::minutes(10))).await.unwrap_err();
    assert_eq!(violations(&past)[0].0, "expire_time");
    let expiry = right.now() + TimeDelta::minutes(10);
    let secret = app.create_with(expiring("future", expiry)).await.unwrap().secret;
    app.validate(&secret).await.unwrap();
    // The database's clock cannot be advanced. The restart evicts the token.
    app.sql("UPDATE tokens SET expires_at = now() - interval '1 minute' WHERE name = 'future'").await;
    let app = app.restart_with_clock(Clock::system_with_error(TimeDelta::hours(hours))).await;
    assert_eq!(app.validate(&secret).await, Err(Reason::Expired));

    let (status, body) = app.get("/readyz").await;
    let side = if hours < 0 { "behind" } else { "ahead of" };
    assert_eq!(status, 200);
    assert!(body.contains(&format!(" s {side} the database's")), "{body}");
}
