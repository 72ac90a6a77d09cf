use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;

use crate::support::{
    Database::{self, Sqlite},
    nats::{DEAD_LETTERS, Nats, attached, protobuf},
    on_both_databases, soon,
};

/// Each is kept, and messages behind them are handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_dead_letters_are_kept() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut sent = Vec::new();
    const MESSAGES: u64 = 3_000;
    for n in 0..MESSAGES {
        let body = format!("broken {n}");
        sent.push(identity.0.publish("identity.v1.user_deleted", body.into()).await.unwrap());
    }
    for answer in sent {
        soon("publish", answer.into_future()).await.unwrap();
    }
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    let stream = identity.0.get_stream(DEAD_LETTERS).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, MESSAGES);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_message_that_can_never_be_read_becomes_a_dead_letter(database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    type Poison = (&'static [(&'static str, &'static str)], Vec<u8>, &'static str);
    let poison: [Poison; 5] = [
        (&[("Traceparent", "00-trace"), ("Nats-Msg-Id", "m-1")], b"\xff\xff".to_vec(), "in protobuf"),
        (&[("Content-Type", "application/json")], b"{\n!".to_vec(), "in JSON"),
        (&[("Content-Type", "text/plain")], b"alice".to_vec(), "text/plain"),
        (&[], protobuf(&"u".repeat(129)), "user_id has 129 bytes; at most 128 are allowed"),
        (&[], protobuf("a\0"), "user_id has the character U+0000, a control or invisible"),
    ];
    let mut sequences = Vec::new();
    for (headers, body, _) in &poison {
        sequences.push(identity.publish(headers, body.clone()).await);
    }
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted), "the messages behind them are handled");

    let mut letters = identity.dead_letters().await;
    assert_eq!(letters.len(), poison.len());
    letters.sort_by_key(|(headers, _)| {
        headers.get("Latchkey-Stream-Sequence").unwrap().to_string().parse::<u64>().unwrap()
    });
    for (((sent, body, said), sequence), (headers, kept)) in poison.iter().zip(sequences).zip(&letters) {
        let header = |name: &str| headers.get(name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(kept, body);
        assert!(header("Latchkey-Reason").contains(said), "{headers:?}");
        assert_eq!(header("Latchkey-Subject"), "identity.v1.user_deleted");
        assert_eq!(
            (header("Latchkey-Stream"), header("Latchkey-Stream-Sequence")),
            ("IDENTITY".into(), sequence.to_string())
        );
        for (name, value) in *sent {
            let kept = if name.starts_with("Nats-") {
                format!("Latchkey-Original-{name}")
            } else {
                (*name).to_owned()
            };
            assert_eq!(header(&kept), *value);
        }
    }
    assert_eq!(identity.consumer().await.num_redelivered, 0);
}

#[tokio::test]
async fn a_message_too_large_to_copy_is_truncated() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let _app = attached(Sqlite, &nats, &[]).await;
    // The largest message that the broker accepts, less its headers.
    let body = vec![0xff; 1024 * 1024 - 100];
    identity.publish(&[], body.clone()).await;
    identity.all_answered().await;
    let (headers, kept) = identity.dead_letters().await.remove(0);
    assert_eq!(headers.get("Latchkey-Truncated-From").unwrap().to_string(), body.len().to_string());
    assert!(kept.len() > 1_000_000 && body.starts_with(&kept));
}

/// Until the copy is stored, the original stays in the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_terminated_only_after_its_copy_is_stored() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let _app = attached(Sqlite, &nats, &[]).await;
    identity.0.delete_stream(DEAD_LETTERS).await.unwrap();
    identity.publish(&[], b"\xff".to_vec()).await;
    identity.redelivered(2).await;
    assert_eq!(identity.consumer().await.num_ack_pending, 1);
    identity.create_dead_letter_stream().await;
    identity.all_answered().await;
    assert_eq!(identity.dead_letters().await.len(), 1);
}
