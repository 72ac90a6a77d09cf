//! The durable consumer that all replicas share. It is created if it does not exist, and refused if its settings
//! would lose messages or deliver those of other events.

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::ConsumerInfoErrorKind,
    stream,
};

use super::NatsSettings;

/// How many messages may be delivered and not acknowledged at once, over all replicas.
pub(super) const MAX_ACK_PENDING: i64 = 1_024;

/// The consumer exists with settings that are not safe to use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "consumer {name:?} of stream {stream:?} has settings that lose messages or deliver those of other events: {}; \
     delete it (nats consumer rm {stream} {name}), and Latchkey creates it again, or set LATCHKEY_NATS_DURABLE to \
     another name",
    .differences.join("; ")
)]
pub(super) struct ConsumerRefused {
    name: String,
    stream: String,
    differences: Vec<String>,
}

/// Returns the consumer, and creates it if it does not exist.
///
/// # Errors
///
/// [`ConsumerRefused`] if it exists with other settings; or an error of the broker.
pub(super) async fn find_or_create(
    stream: &stream::Stream,
    settings: &NatsSettings,
) -> Result<PullConsumer, async_nats::Error> {
    // Before the client looks at it: the client's own error for a push consumer does not name the setting.
    match stream.consumer_info(&settings.durable).await {
        Ok(info) => check(&info, &settings.subject)?,
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let wanted = pull::Config {
        durable_name: Some(settings.durable.clone()),
        description: Some("Latchkey: revokes the tokens of deleted users".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        filter_subject: settings.subject.clone(),
        ..pull::Config::default()
    };
    Ok(stream.get_or_create_consumer(&settings.durable, wanted).await?)
}

/// Checks that the consumer delivers the messages of `subject` and no others, each until it is acknowledged.
///
/// # Errors
///
/// Lists each setting that differs.
pub(super) fn check(info: &consumer::Info, subject: &str) -> Result<(), ConsumerRefused> {
    let config = &info.config;
    let mut differences = Vec::new();
    let mut require = |holds: bool, setting: &str, value: String, wanted: &str| {
        if !holds {
            differences.push(format!("{setting} is {value}, must be {wanted}"));
        }
    };
    let wanted = format!("{subject:?}");
    if config.filter_subjects.is_empty() {
        let filter = &config.filter_subject;
        require(filter == subject, "filter_subject", format!("{filter:?}"), &wanted);
    } else {
        let filters = &config.filter_subjects;
        require(filters == &[subject], "filter_subjects", format!("{filters:?}"), &format!("[{wanted}]"));
    }
    let policy = config.deliver_policy;
    require(policy == DeliverPolicy::All, "deliver_policy", name(policy), "\"all\"");
    let policy = config.ack_policy;
    require(policy == AckPolicy::Explicit, "ack_policy", name(policy), "\"explicit\"");
    require(config.max_deliver <= 0, "max_deliver", config.max_deliver.to_string(), "-1");
    require(!config.headers_only, "headers_only", "true".to_owned(), "false");
    if let Some(target) = &config.deliver_subject {
        require(false, "deliver_subject", format!("{target:?}"), "unset (a pull consumer)");
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(ConsumerRefused { name: info.name.clone(), stream: info.stream_name.clone(), differences })
}

/// Returns the name of a policy as JetStream writes it.
fn name(policy: impl serde::Serialize + std::fmt::Debug) -> String {
    match serde_json::to_value(&policy) {
        // A policy with an argument is an object that holds the name under this key.
        Ok(value) => value.get("deliver_policy").unwrap_or(&value).to_string(),
        Err(_) => format!("{policy:?}"),
    }
}
