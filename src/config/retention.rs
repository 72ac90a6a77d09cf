//! Settings of retention: how long rows are kept in the database.

use std::time::Duration;

use clap::Args;

use super::values::duration;
use crate::registry::Retention;

const DAY: u64 = 24 * 60 * 60 * 1_000;
/// As humantime counts 100 years, of 365.25 days each.
const CENTURY: u64 = 36_525 * DAY;

/// How long rows are kept in the database.
#[derive(Args, Clone, Debug)]
pub struct RetentionConfig {
    /// How long events are kept in the audit log: 1d to 100y, which is as good as forever. Keep them for longer than
    /// you keep backups: see "Restore a backup" in docs/operations.md.
    #[arg(long, env = "LATCHKEY_AUDIT_RETENTION", value_name = "DURATION", default_value = "400d",
        value_parser = duration::<DAY, CENTURY>)]
    pub audit_retention: Duration,

    /// How long tokens are kept after they were deleted or have expired, or their account was deleted: 1d to 100y, which
    /// is as good as forever. After that, they validate as UNKNOWN.
    #[arg(long, env = "LATCHKEY_TOKEN_RETENTION", value_name = "DURATION", default_value = "90d",
        value_parser = duration::<DAY, CENTURY>)]
    pub token_retention: Duration,

    /// How often rows are purged. Not a setting; tests shorten it.
    #[arg(skip = Duration::from_secs(60 * 60))]
    pub purge_interval: Duration,
}

impl RetentionConfig {
    /// Returns how long rows are kept.
    pub fn retention(&self) -> Retention {
        Retention { events: self.audit_retention, tokens: self.token_retention }
    }
}
