//! The broker that carries UserDeleted, and the acknowledgements of the replicas.

use async_nats::jetstream;
use futures_util::StreamExt as _;

use crate::support::nats::{Identity, Nats};

/// Where consumers acknowledge the messages of the stream, and which part of the subject is the message's number.
const ACKNOWLEDGEMENTS: &str = "$JS.ACK.IDENTITY.latchkey.>";
const SEQUENCE_INDEX: usize = 5;

pub struct AccountMessages {
    nats: Nats,
    client: async_nats::Client,
    identity: Identity,
}

impl AccountMessages {
    pub async fn start() -> Self {
        let nats = Nats::start();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let identity = Identity(jetstream::new(client.clone()));
        identity.create_stream().await;
        Self { nats, client, identity }
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }

    /// Publishes UserDeleted, and returns when a replica has acknowledged it.
    pub async fn delete_user(&self, user: &str) {
        // Before it is published, so that no acknowledgement is missed.
        let mut acknowledgements = self.client.subscribe(ACKNOWLEDGEMENTS).await.unwrap();
        let sequence = self.identity.delete_user(user).await.to_string();
        while let Some(message) = acknowledgements.next().await {
            let is_acknowledged = message.payload.is_empty() || message.payload.starts_with(b"+ACK");
            if is_acknowledged && message.subject.split('.').nth(SEQUENCE_INDEX) == Some(&sequence) {
                return;
            }
        }
        panic!("the connection to the broker is closed");
    }
}
