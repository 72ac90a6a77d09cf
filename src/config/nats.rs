//! Settings of the subscriber to account events.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use secrecy::SecretString;

use super::values::{duration, nats_name, nats_subject, secret, switch};
use crate::nats::NatsSettings;

/// Settings of the subscriber to the identity service's events.
#[derive(Args, Clone, Debug)]
pub struct NatsConfig {
    /// NATS server that carries the identity service's events: nats://USER:PASSWORD@HOST:PORT, or tls://…; several
    /// with commas between. Default: none, and no subscriber.
    #[arg(long, env = "LATCHKEY_NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub nats_url: Option<SecretString>,

    /// JetStream stream of the identity service.
    #[arg(long, env = "LATCHKEY_NATS_STREAM", value_name = "NAME", default_value = "IDENTITY",
        value_parser = nats_name)]
    pub nats_stream: String,

    /// Subject of UserDeleted on that stream.
    #[arg(long, env = "LATCHKEY_NATS_SUBJECT", value_name = "SUBJECT",
        default_value = "identity.v1.user_deleted", value_parser = nats_subject)]
    pub nats_subject: String,

    /// Name of the durable consumer that all replicas share.
    #[arg(long, env = "LATCHKEY_NATS_DURABLE", value_name = "NAME", default_value = "latchkey",
        value_parser = nats_name)]
    pub nats_durable: String,

    /// Make the stream where there is none. It is the identity service's: for development.
    #[arg(long, env = "LATCHKEY_NATS_CREATE_STREAM", value_parser = switch)]
    pub nats_create_stream: bool,

    /// How long the broker waits for an answer before it delivers a message again: 1s to 10m. Of a consumer that
    /// exists it is not changed.
    #[arg(long, env = "LATCHKEY_NATS_ACK_WAIT", value_name = "DURATION", default_value = "30s",
        value_parser = duration::<1_000, 600_000>)]
    pub nats_ack_wait: Duration,

    /// File with NATS credentials (.creds).
    #[arg(long, env = "LATCHKEY_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,

    /// Insist on TLS.
    #[arg(long, env = "LATCHKEY_NATS_TLS", value_parser = switch)]
    pub nats_tls: bool,

    /// PEM file with certificate authorities to trust beside the machine's.
    #[arg(long, env = "LATCHKEY_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,

    /// PEM file with this client's certificate.
    #[arg(long, env = "LATCHKEY_NATS_TLS_CERT", value_name = "FILE", requires = "nats_tls_key")]
    pub nats_tls_cert: Option<PathBuf>,

    /// PEM file with the key of this client's certificate.
    #[arg(long, env = "LATCHKEY_NATS_TLS_KEY", value_name = "FILE", requires = "nats_tls_cert")]
    pub nats_tls_key: Option<PathBuf>,
}

impl NatsConfig {
    /// Where the events come from, if they come by NATS.
    pub fn settings(&self) -> Option<NatsSettings> {
        Some(NatsSettings {
            url: self.nats_url.clone()?,
            stream: self.nats_stream.clone(),
            subject: self.nats_subject.clone(),
            durable: self.nats_durable.clone(),
            create_stream: self.nats_create_stream,
            ack_wait: self.nats_ack_wait,
            credentials: self.nats_credentials.clone(),
            tls: self.nats_tls,
            tls_ca: self.nats_tls_ca.clone(),
            tls_identity: self.nats_tls_cert.clone().zip(self.nats_tls_key.clone()),
        })
    }
}
