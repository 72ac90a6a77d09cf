use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    health::USER_EVENTS,
    json_log,
    latchkey::Process,
    nats::{Nats, SUBJECT, attached, json, protobuf, structured},
    on_both_databases, until,
};

/// Header blocks that the client library cannot read, or does not take for those of a message.
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

/// Short, because these tests wait for redeliveries.
const ACK_WAIT: Duration = Duration::from_secs(1);
const SHORT_ACK_WAIT: [&str; 2] = ["--nats-ack-wait", "1s"];

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
    // The messages behind it are handled.
    let (_, secret) = app.issue("bob", "one").await;
    identity.delete_user("bob").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

/// When the headers cannot be read, the body is tried in each form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_of_the_body_is_found_without_headers() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
    let bodies = [
        ("protobuf", protobuf("protobuf")),
        ("json", json("json")),
        ("structured", structured("identity.v1.UserDeleted", "event-6", "/identity", "structured")),
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
async fn a_damaged_message_that_names_no_deleted_user_is_a_dead_letter() {
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
        (
            b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n",
            structured("identity.v1.UserCreated", "event-6", "/identity", "alice"),
        ),
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
    assert_eq!(header(first, "Traceparent"), "00-trace", "readable headers are kept");
    assert_eq!(header(first, "Latchkey-Original-Nats-Msg-Id"), "m");
}

/// Good messages are between the damaged ones.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_handle_all_damaged_and_good_messages(database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let one = attached(database, &nats, &SHORT_ACK_WAIT).await;
    let url = nats.url();
    let settings = [&["--nats-url", &url], &SHORT_ACK_WAIT[..]].concat();
    let two = App::start_on(one.url.clone(), tempfile::tempdir().unwrap(), &settings).await;
    two.attached().await;
    const MESSAGES: usize = 20;
    const BETWEEN_POISON: usize = 5;
    for n in 0..MESSAGES {
        let (_, headers) = DAMAGED[n % DAMAGED.len()];
        nats.publish_raw(SUBJECT, headers, &protobuf(&format!("damaged {n}"))).await;
        identity.delete_user(&format!("good {n}")).await;
        if n % BETWEEN_POISON == 0 {
            nats.publish_raw(SUBJECT, headers, b"\xff").await;
        }
    }
    identity.all_answered().await;
    assert_eq!(one.count("users WHERE deleted_at IS NOT NULL").await, 2 * MESSAGES as i64);
    assert_eq!(identity.dead_letters().await.len(), MESSAGES / BETWEEN_POISON);
}

/// Some of the damaged messages were delivered before the start, and some were not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_starts_handles_the_damaged_messages_in_the_stream() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
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
    app.attached().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(identity.dead_letters().await.len(), DAMAGED.len());
}

/// Otherwise each redelivery by the broker would break the connection again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_message_that_cannot_be_handled_yet_breaks_the_connection_once() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let settings = [&SHORT_ACK_WAIT[..], &["--database-timeout", "200ms"]].concat();
    let app = attached(Postgres, &nats, &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    let mut health = app.watch_health(USER_EVENTS).await;
    assert!(health.next().await);
    nats.publish_raw(SUBJECT, DAMAGED[2].1, &protobuf("alice")).await;
    assert!(!health.next().await, "the connection breaks");
    assert!(health.next().await, "the service connects again");
    // The messages behind it are handled, for several times as long as the broker waits for an answer.
    const OTHERS: u64 = 4;
    for n in 0..OTHERS {
        identity.delete_user(&format!("other {n}")).await;
        let deleted = "token_events WHERE kind = 'user_deleted' AND user_id = 'other";
        until("another user's deletion", || async {
            (app.count(&format!("{deleted} {n}'")).await == 1).then_some(())
        })
        .await;
        tokio::time::sleep(ACK_WAIT).await;
    }
    let consumer = identity.consumer().await;
    assert_eq!((consumer.num_ack_pending, consumer.delivered.consumer_sequence), (1, 1 + OTHERS));
    lock.release().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert!(identity.dead_letters().await.is_empty());
}

/// JetStream accepts headers of 64 KiB and messages of 1 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_damaged_messages_are_handled_or_kept_as_far_as_they_fit() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &SHORT_ACK_WAIT).await;
    let (_, secret) = app.issue("alice", "one").await;
    const PADDING: usize = 1_000_000;
    let mut large = protobuf("alice");
    // The key of field 15, which this version does not know.
    large.push(b'\x7a');
    prost::encoding::encode_varint(PADDING as u64, &mut large);
    large.extend(vec![b'x'; PADDING]);
    nats.publish_raw(SUBJECT, DAMAGED[2].1, &large).await;
    let long =
        |last: &str| format!("NATS/1.0\r\nA: b\r\nX-Long: {}{last}\r\n\r\n", "x".repeat(65_000)).into_bytes();
    let damaged = nats.publish_raw(SUBJECT, &long("\r."), b"\xff").await;
    let good = nats.publish_raw(SUBJECT, &long(""), b"\xff").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    let letters = identity.dead_letters().await;
    assert_eq!(letters.len(), 2);
    for (headers, body) in letters {
        let header = |name: &str| headers.get(name).map(ToString::to_string);
        assert_eq!((header("A").as_deref(), body.as_slice()), (Some("b"), &b"\xff"[..]));
        match header("Latchkey-Stream-Sequence").unwrap().parse::<u64>().unwrap() {
            sequence if sequence == damaged => {
                let kept =
                    BASE64_STANDARD.decode(header("Latchkey-Original-Headers-Base64").unwrap()).unwrap();
                assert!(kept.len() > 10_000 && long("\r.").starts_with(&kept));
                let length = long("\r.").len().to_string();
                assert_eq!(header("Latchkey-Headers-Truncated-From"), Some(length));
            }
            sequence => {
                assert_eq!(sequence, good);
                assert_eq!(header("Latchkey-Headers-Omitted").as_deref(), Some("1"));
            }
        }
    }
}

/// With wildcards in the configured subject, the client library also reads the subjects of messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_an_unreadable_subject_is_a_dead_letter() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let settings = [&SHORT_ACK_WAIT[..], &["--nats-subject", "identity.>"]].concat();
    let app = attached(Sqlite, &nats, &settings).await;
    nats.publish_raw("identity.a\u{a0}b", b"NATS/1.0\r\nA: b\r\n\r\n", &protobuf("alice")).await;
    identity.all_answered().await;
    assert_eq!(identity.dead_letters().await.len(), 1);
    assert_eq!(app.count("users").await, 0);
}

/// The service does not log the same message in a loop, and no line has a key twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_message_is_logged_once() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let url = nats.url();
    let settings = [&["--nats-url", &url, "--log-format", "json"], &SHORT_ACK_WAIT[..]].concat();
    let process = Process::start(folder.path(), &settings);
    identity.consumer_shows("a request for messages", |it| it.num_waiting > 0).await;
    nats.publish_raw(SUBJECT, DAMAGED[2].1, &protobuf("alice")).await;
    nats.publish_raw(SUBJECT, DAMAGED[2].1, b"\xff").await;
    identity.publish(&[], b"\xff".to_vec()).await;
    identity
        .publish(&[("Content-Type", "application/json")], br#"{"userId": "bob", "deleteTime": "now"}"#)
        .await;
    identity.all_answered().await;
    let log = process.stop().await;
    for line in json_log::lines(&log) {
        assert!(line.contains_key("message"), "{line:?}");
    }
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("\"message\":\"a message can never be read"), 2, "{log}");
    assert_eq!(count("a message with damaged headers was handled by its body"), 1, "{log}");
    assert_eq!(count("delete_time: is \\\"\\\\\\\"now"), 1, "{log}");
    assert!(count("\"message\":\"disconnected from NATS\"") <= 3, "{log}");
}
