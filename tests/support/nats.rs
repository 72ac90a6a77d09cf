//! A real NATS server with JetStream in a temporary folder, on a free port.

use async_nats::{HeaderMap, jetstream};
use latchkey::proto::identity;
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{App, Database, guarded_process::GuardedProcess, soon, tools, until};

/// The subject of UserDeleted.
pub const SUBJECT: &str = "identity.v1.user_deleted";
pub const DEAD_LETTERS: &str = "LATCHKEY_DEAD_LETTERS";
const DEAD_LETTER_SUBJECT: &str = "latchkey.v1.dead_letter";

/// A broker.
pub struct Nats {
    // Before the folder: the server stops, then its files are removed.
    running: Option<GuardedProcess>,
    pub folder: TempDir,
    port: u16,
    config: String,
}

impl Nats {
    /// Starts a broker.
    pub fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), "")
    }

    /// Starts a broker with further lines of configuration.
    pub fn start_with(folder: TempDir, config: &str) -> Self {
        let mut nats = Self { running: None, folder, port: tools::free_port(), config: config.to_owned() };
        nats.resume();
        nats
    }

    /// Kills the broker.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Starts the broker again, on the same port and with the same streams.
    pub fn resume(&mut self) {
        let config = self.folder.path().join("nats.conf");
        let store = self.folder.path().join("jetstream");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n{}\n",
            self.port,
            store.to_str().unwrap(),
            self.config
        );
        std::fs::write(&config, text).unwrap();
        let server = tools::find("nats-server", tools::INSTALL_NATS);
        let arguments = ["--config", config.to_str().unwrap()];
        self.running = Some(GuardedProcess::start(&server, arguments, None, "KILL", None, "Server is ready"));
    }

    /// The URL of the broker.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Waits until the broker's output contains `text`.
    pub async fn says(&self, text: &str) {
        self.running.as_ref().unwrap().says(text).await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects to the broker.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    /// Publishes a message with a header block that no client library would send, and returns its sequence number.
    pub async fn publish_raw(&self, subject: &str, headers: &[u8], body: &[u8]) -> u64 {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (read, mut write) = connection.split();
        let total = headers.len() + body.len();
        let start = format!(
            "CONNECT {{\"verbose\": false, \"headers\": true}}\r\nSUB inbox.raw 1\r\n\
             HPUB {subject} inbox.raw {} {total}\r\n",
            headers.len()
        );
        write.write_all(&[start.as_bytes(), headers, body, b"\r\n"].concat()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        let answer = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("an answer from the stream");
                if line.starts_with('{') {
                    break serde_json::from_str::<serde_json::Value>(&line).unwrap();
                }
            }
        };
        let answer = soon("the acknowledgement of the stream", answer).await;
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// Creates the stream of the identity service, and returns a client to publish with.
    pub async fn with_identity_stream(&self) -> Identity {
        let identity = Identity(self.jetstream().await);
        identity.create_stream().await;
        identity
    }
}

/// The identity service.
#[derive(Clone)]
pub struct Identity(pub jetstream::Context);

impl Identity {
    /// Creates the stream of the identity service.
    pub async fn create_stream(&self) {
        let config = jetstream::stream::Config {
            name: "IDENTITY".into(),
            subjects: vec!["identity.>".into()],
            ..Default::default()
        };
        self.0.create_stream(config).await.unwrap();
    }

    /// Creates the stream of the dead letters, as the service does.
    pub async fn create_dead_letter_stream(&self) {
        let config = jetstream::stream::Config {
            name: DEAD_LETTERS.into(),
            subjects: vec![DEAD_LETTER_SUBJECT.into()],
            ..Default::default()
        };
        self.0.create_stream(config).await.unwrap();
    }

    /// Publishes a message, and returns its sequence number.
    pub async fn publish(&self, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> u64 {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, *value);
        }
        let body: Vec<u8> = body.into();
        let sent = self.0.publish_with_headers(SUBJECT, all, body.into()).await.unwrap();
        soon("publish", sent.into_future()).await.unwrap().sequence
    }

    /// Publishes UserDeleted in JSON.
    pub async fn delete_user(&self, user: &str) -> u64 {
        self.publish(&[("Content-Type", "application/json")], json(user)).await
    }

    /// The state of the service's consumer.
    pub async fn consumer(&self) -> jetstream::consumer::Info {
        self.try_consumer().await.unwrap()
    }

    async fn try_consumer(&self) -> Option<jetstream::consumer::Info> {
        self.0.get_stream("IDENTITY").await.ok()?.consumer_info("latchkey").await.ok()
    }

    /// Waits until the state of the consumer is as expected.
    pub async fn consumer_shows(&self, what: &str, expected: impl Fn(&jetstream::consumer::Info) -> bool) {
        until(what, || async { self.try_consumer().await.filter(&expected) }).await;
    }

    /// Waits until so many deliveries were made.
    pub async fn redelivered(&self, deliveries: u64) {
        // The sequence numbers of a consumer count deliveries.
        self.consumer_shows("a redelivery", |it| it.delivered.consumer_sequence >= deliveries).await;
    }

    /// Waits until every message was acknowledged or terminated.
    pub async fn all_answered(&self) {
        let done = |it: &jetstream::consumer::Info| it.num_pending == 0 && it.num_ack_pending == 0;
        self.consumer_shows("an answer to every message", done).await;
    }

    /// The headers and the body of each dead letter.
    pub async fn dead_letters(&self) -> Vec<(HeaderMap, Vec<u8>)> {
        let stream = self.0.get_stream(DEAD_LETTERS).await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut letters = Vec::new();
        if state.messages == 0 {
            return letters;
        }
        for sequence in state.first_sequence..=state.last_sequence {
            let letter = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(letter.subject.as_str(), DEAD_LETTER_SUBJECT);
            letters.push((letter.headers, letter.payload.to_vec()));
        }
        letters
    }
}

/// Starts a service and waits until it is attached to the broker.
pub async fn attached(database: Database, nats: &Nats, settings: &[&str]) -> App {
    let url = nats.url();
    let app = App::start_with(database, &[&["--nats-url", &url], settings].concat()).await;
    app.attached().await;
    app
}

/// UserDeleted in protobuf.
pub fn protobuf(user: &str) -> Vec<u8> {
    identity::UserDeleted { user_id: user.into(), delete_time: None }.encode_to_vec()
}

/// UserDeleted in JSON.
pub fn json(user: &str) -> Vec<u8> {
    serde_json::json!({ "userId": user }).to_string().into_bytes()
}

/// An event of type `kind` about `user`, as a structured CloudEvent.
pub fn structured(kind: &str, id: &str, source: &str, user: &str) -> Vec<u8> {
    let event = serde_json::json!({
        "specversion": "1.0", "type": kind, "id": id, "source": source, "data": { "userId": user },
    });
    event.to_string().into_bytes()
}
