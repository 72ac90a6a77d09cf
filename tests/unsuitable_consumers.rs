use async_nats::jetstream::consumer;
use futures_util::StreamExt as _;
use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use serde_json::json;

use crate::support::{
    Database::Sqlite,
    health::USER_EVENTS,
    latchkey::Process,
    nats::{Nats, attached, protobuf},
    soon,
};

/// A consumer that would lose messages, or receive the wrong ones, is not used. The log says what is wrong with it.
#[rstest]
#[case::empty_filter("filter_subject is \"\", must be \"identity.v1.user_deleted\"", json!({ "filter_subject": "" }))]
#[case::wider_filter("filter_subject is \"identity.>\"", json!({ "filter_subject": "identity.>" }))]
#[case::more_filters(
    "filter_subjects is [\"identity.v1.user_deleted\", \"identity.v1.x\"]",
    json!({ "filter_subject": "", "filter_subjects": ["identity.v1.user_deleted", "identity.v1.x"] }),
)]
#[case::new("deliver_policy is \"new\", must be \"all\"", json!({ "deliver_policy": "new" }))]
#[case::later(
    "deliver_policy is \"by_start_sequence\"",
    json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 7 }),
)]
#[case::deliveries("max_deliver is 3, must be -1", json!({ "max_deliver": 3 }))]
#[case::headers_only("headers_only is true, must be false", json!({ "headers_only": true }))]
#[case::no_ack("ack_policy is \"none\", must be \"explicit\"", json!({ "ack_policy": "none" }))]
#[case::push("deliver_subject is \"target\"", json!({ "deliver_subject": "target" }))]
#[case::all_that_differs(
    "max_deliver is 3, must be -1; headers_only is true",
    json!({ "max_deliver": 3, "headers_only": true }),
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_other_settings_is_refused(#[case] said: &str, #[case] change: serde_json::Value) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let mut config = json!({
        "durable_name": "latchkey", "deliver_policy": "all", "ack_policy": "explicit",
        "filter_subject": "identity.v1.user_deleted",
    });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: consumer::Config = serde_json::from_value(config).unwrap();
    let stream = identity.0.get_stream("IDENTITY").await.unwrap();
    stream.create_consumer(config).await.unwrap();
    let attempts = identity.0.client().subscribe("$JS.API.CONSUMER.INFO.IDENTITY.latchkey").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--nats-url", &nats.url(), "--log-format", "text"]);
    // By the second attempt the service has refused the consumer.
    soon("two attempts", attempts.take(2).count()).await;
    // It then creates one with the right settings.
    stream.delete_consumer("latchkey").await.unwrap();
    identity.consumer_shows("the new consumer", |it| it.num_waiting > 0).await;
    let log = process.stop().await;
    for part in [
        "consumer \"latchkey\" of stream \"IDENTITY\"",
        said,
        "nats consumer rm IDENTITY latchkey",
        "LATCHKEY_NATS_DURABLE",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// Another event about a user is not a deletion, even if its bytes look like one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_subject_is_never_applied() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    // The filter of the consumer is changed while the service uses it.
    let stream = identity.0.get_stream("IDENTITY").await.unwrap();
    let mut config = stream.consumer_info("latchkey").await.unwrap().config;
    config.filter_subject = "identity.>".into();
    let mut health = app.watch_health(USER_EVENTS).await;
    assert!(health.next().await);
    stream.update_consumer(config).await.unwrap();
    identity.0.publish("identity.v1.user_created", protobuf("alice").into()).await.unwrap().await.unwrap();
    identity.all_answered().await;
    assert!(app.validate(&secret).await.is_ok());
    let (headers, _) = identity.dead_letters().await.remove(0);
    let reason = headers.get("Latchkey-Reason").unwrap().to_string();
    assert!(reason.contains("subject: is \"identity.v1.user_created\""), "{reason}");
    assert!(!health.next().await, "the service refuses the consumer");
}

/// A subject with wildcards does not say what a message is.
#[tokio::test]
async fn on_a_subject_with_wildcards_only_cloud_events_of_the_type_are_applied() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &["--nats-subject", "identity.>"]).await;
    let (_, kept) = app.issue("kept", "one").await;
    let (_, deleted) = app.issue("deleted", "one").await;
    let with_type = |kind: &'static str| {
        [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-id", "event-8"), ("ce-source", "/identity")]
    };
    identity.publish(&[], protobuf("kept")).await;
    identity.delete_user("kept").await;
    identity.publish(&with_type("identity.v1.UserCreated"), protobuf("kept")).await;
    identity.publish(&[("ce-type", "identity.v1.UserDeleted")], protobuf("kept")).await;
    identity.publish(&with_type("identity.v1.UserDeleted"), protobuf("deleted")).await;
    identity.all_answered().await;
    assert!(app.validate(&kept).await.is_ok());
    assert_eq!(app.validate(&deleted).await, Err(Reason::UserDeleted));
    assert_eq!(identity.dead_letters().await.len(), 4);
}
