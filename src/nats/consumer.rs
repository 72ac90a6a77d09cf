//! The durable consumer that all replicas share: made when it is missing, refused when its settings would lose messages
//! or deliver others.

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::ConsumerInfoErrorKind,
    stream,
};

use super::NatsSettings;

/// How many unanswered messages the broker lets the replicas have together.
pub(super) const MAX_ACK_PENDING: i64 = 1_024;

/// A consumer that cannot be used as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "consumer {name:?} of stream {stream:?} has settings that lose messages or deliver others: {}; delete the consumer \
     (nats consumer rm {stream} {name}), which is then made anew, or name another one in LATCHKEY_NATS_DURABLE",
    .differences.join("; ")
)]
pub(super) struct ConsumerRefused {
    name: String,
    stream: String,
    differences: Vec<String>,
}

/// Returns the consumer, making it where there is none.
///
/// # Errors
///
/// It exists with other settings ([`ConsumerRefused`]), or the broker does not answer.
pub(super) async fn find_or_create(
    stream: &stream::Stream,
    settings: &NatsSettings,
) -> Result<PullConsumer, async_nats::Error> {
    // Checked before the client is made: the client's own error for a push consumer names no setting.
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

/// Checks that the consumer delivers every message of `subject`, and no other, until it is acknowledged.
///
/// # Errors
///
/// The settings that differ from this.
pub(super) fn check(info: &consumer::Info, subject: &str) -> Result<(), ConsumerRefused> {
    let config = &info.config;
    let mut differences = Vec::new();
    let mut demand = |holds: bool, setting: &str, value: String, wanted: &str| {
        if !holds {
            differences.push(format!("{setting} is {value}, must be {wanted}"));
        }
    };
    let wanted = format!("{subject:?}");
    if config.filter_subjects.is_empty() {
        let filter = &config.filter_subject;
        demand(filter == subject, "filter_subject", format!("{filter:?}"), &wanted);
    } else {
        let filters = &config.filter_subjects;
        demand(filters == &[subject], "filter_subjects", format!("{filters:?}"), &format!("[{wanted}]"));
    }
    let policy = config.deliver_policy;
    demand(policy == DeliverPolicy::All, "deliver_policy", name(policy), "\"all\"");
    let policy = config.ack_policy;
    demand(policy == AckPolicy::Explicit, "ack_policy", name(policy), "\"explicit\"");
    demand(config.max_deliver <= 0, "max_deliver", config.max_deliver.to_string(), "-1");
    demand(!config.headers_only, "headers_only", "true".to_owned(), "false");
    if let Some(target) = &config.deliver_subject {
        demand(false, "deliver_subject", format!("{target:?}"), "unset (a pull consumer)");
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(ConsumerRefused { name: info.name.clone(), stream: info.stream_name.clone(), differences })
}

/// The name of a policy, as JetStream and its tools write it.
fn name(policy: impl serde::Serialize + std::fmt::Debug) -> String {
    match serde_json::to_value(&policy) {
        // A policy with an argument is an object whose values tell all.
        Ok(value) => value.get("deliver_policy").unwrap_or(&value).to_string(),
        Err(_) => format!("{policy:?}"),
    }
}
