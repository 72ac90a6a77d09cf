use base64::{Engine as _, prelude::BASE64_STANDARD};
use latchkey::proto::{identity, latchkey::invalid::Reason};
use prost::Message as _;
use rstest::rstest;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    nats::{Nats, SUBJECT, attached, wait_until_attached},
};

/// Header blocks that a client library cannot read, or takes for something else than a message.
const DAMAGED: [(&str, &[u8]); 11] = [
    ("a lone carriage return", b"NATS/1.0\r\nX-Note: a\rb\r\n\r\n"),
    ("a lone carriage return in a continuation", b"NATS/1.0\r\nX-Note: a\r\n b\rc\r\n\r\n"),
    ("Latin-1", b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n"),
    ("a name that is not ASCII", "NATS/1.0\r\nX-N\u{e4}me: a\r\n\r\n".as_bytes()),
    ("no colon", b"NATS/1.0\r\nX-Note\r\n\r\n"),
    ("no version", b"X-Note: a\r\n\r\n"),
    ("a heartbeat", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
    ("no messages", b"NATS/1.0 404 No Messages\r\n\r\n"),
    ("a timeout", b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: x\r\n\r\n"),
    ("a deleted consumer", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"),
    ("no responders", b"NATS/1.0 503\r\n\r\n"),
];

/// Redelivery after a second: these tests wait for it.
const SHORT_ACK_WAIT: [&str; 2] = ["--nats-ack-wait", "1s"];

fn protobuf(user: &str) -> Vec<u8> {
    identity::UserDeleted { user_id: user.into(), delete_time: None }.encode_to_vec()
}

fn json(user: &str) -> Vec<u8> {
    serde_json::json!({ "userId": user }).to_string().into_bytes()
}

fn structured(user: &str, kind: &str) -> Vec<u8> {
    let event = serde_json::json!({
        "specversion": "1.0", "type": kind, "id": "event-6", "source": "/identity", "data": { "userId": user },
    });
    event.to_string().into_bytes()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_damaged_headers_still_deletes(
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] case: usize,
) {
    let (name, headers) = DAMAGED[case];
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
    let (_, secret) = app.issue("alice", "one").await;
    nats.publish_raw(SUBJECT, headers, &protobuf("alice")).await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted), "{name}");
    assert!(identity.dead_letters().await.is_empty());
    // It is still there for others.
    let (_, secret) = app.issue("bob", "one").await;
    identity.delete_user("bob").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

/// Whatever the headers were, the body is tried in each form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_of_the_body_is_found_without_headers() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
    let bodies = [
        ("protobuf", protobuf("protobuf")),
        ("json", json("json")),
        ("structured", structured("structured", "identity.v1.UserDeleted")),
        ("typed", json("typed")),
        ("binary", protobuf("binary")),
    ];
    let headers: [&[u8]; 5] = [
        b"NATS/1.0\r\nContent-Type: application/\xe9\r\n\r\n",
        b"NATS/1.0\r\nContent-Type: application/\xe9\r\n\r\n",
        b"NATS/1.0\r\nContent-Type: application/\xe9\r\n\r\n",
        b"NATS/1.0\r\nContent-Type: application/json\r\nX-Name: Jos\xe9\r\n\r\n",
        b"NATS/1.0\r\nce-specversion: 1.0\r\nce-type: identity.v1.UserDeleted\r\nce-id: event-7\r\n\
          ce-source: /identity/\xe9\r\n\r\n",
    ];
    let mut secrets = Vec::new();
    for ((user, body), headers) in bodies.iter().zip(headers) {
        secrets.push(app.issue(user, "one").await.1);
        nats.publish_raw(SUBJECT, headers, body).await;
    }
    identity.all_answered().await;
    for secret in &secrets {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(identity.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_say_who_was_deleted_is_a_dead_letter() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
    let (_, secret) = app.issue("alice", "one").await;
    let of_another_type = b"NATS/1.0\r\nce-type: identity.v1.UserCreated\r\nX-Name: Jos\xe9\r\n\r\n";
    let sent: [(&[u8], Vec<u8>); 5] = [
        (
            b"NATS/1.0\r\nX-Note: a\rb\r\nTraceparent: 00-trace\r\nNats-Msg-Id: m\r\n\r\n",
            b"\xff\xff".to_vec(),
        ),
        (b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n", vec![]),
        (b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n", b"{".to_vec()),
        (b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n", structured("alice", "identity.v1.UserCreated")),
        (of_another_type, protobuf("alice")),
    ];
    let mut sequences = Vec::new();
    for (headers, body) in &sent {
        sequences.push(nats.publish_raw(SUBJECT, headers, body).await);
    }
    identity.all_answered().await;
    assert!(app.validate(&secret).await.is_ok());
    let mut letters = identity.dead_letters().await;
    assert_eq!(letters.len(), sent.len());
    let header = |letter: &async_nats::HeaderMap, name: &str| {
        letter.get(name).map(ToString::to_string).unwrap_or_default()
    };
    letters.sort_by_key(|(headers, _)| header(headers, "Latchkey-Stream-Sequence"));
    for (((headers, body), sequence), (letter, kept)) in sent.iter().zip(sequences).zip(&letters) {
        assert_eq!(kept, body);
        assert_eq!(header(letter, "Latchkey-Stream-Sequence"), sequence.to_string());
        assert_eq!(header(letter, "Latchkey-Subject"), SUBJECT);
        let block = BASE64_STANDARD.decode(header(letter, "Latchkey-Original-Headers-Base64")).unwrap();
        assert_eq!(block, *headers);
        assert!(header(letter, "Latchkey-Reason").contains("headers"), "{letter:?}");
    }
    let first = &letters[0].0;
    assert_eq!(header(first, "Traceparent"), "00-trace", "headers that can be read are kept as they were");
    assert_eq!(header(first, "Latchkey-Original-Nats-Msg-Id"), "m");
}

/// Two replicas, damaged messages one after the other, and good ones between.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_good_messages_are_all_handled_by_replicas(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let one = attached(database, &nats, &SHORT_ACK_WAIT).await;
    let url = nats.url();
    let settings = [&["--nats-url", &url], &SHORT_ACK_WAIT[..]].concat();
    let two = App::start_on(one.url.clone(), tempfile::tempdir().unwrap(), &settings).await;
    wait_until_attached(&two).await;
    for n in 0..20 {
        let (_, headers) = DAMAGED[n % DAMAGED.len()];
        nats.publish_raw(SUBJECT, headers, &protobuf(&format!("damaged {n}"))).await;
        identity.delete_user(&format!("good {n}")).await;
        if n % 5 == 0 {
            nats.publish_raw(SUBJECT, headers, b"\xff").await;
        }
    }
    identity.all_answered().await;
    assert_eq!(one.count("users WHERE deleted_at IS NOT NULL").await, 40);
    assert_eq!(identity.dead_letters().await.len(), 4);
}

/// The service starts with damaged messages first in the stream: some delivered before, some not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_starts_finds_damaged_messages_of_before() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    nats.publish_raw(SUBJECT, DAMAGED[0].1, &protobuf("alice")).await;
    identity.consumer_shows("the delivery", |it| it.num_ack_pending == 1).await;
    app.server.stopper().cancel();
    for (_, headers) in DAMAGED {
        nats.publish_raw(SUBJECT, headers, b"\xff").await;
    }
    lock.release().await;
    let app = app.restart(&[&["--nats-url", &nats.url()], &SHORT_ACK_WAIT[..]].concat()).await;
    wait_until_attached(&app).await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(identity.dead_letters().await.len(), DAMAGED.len());
}
