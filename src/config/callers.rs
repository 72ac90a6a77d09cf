//! Settings of who may call.

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;

use crate::registry::CreationRates;

/// Settings of who may call.
#[derive(Args, Clone, Debug)]
pub struct CallersConfig {
    /// Callers file (TOML): who may call, how each is recognised, and what each may do; see docs/security.md. It is read
    /// again when it changes. Default: none, and everyone who reaches the service may do everything.
    #[arg(long, env = "LATCHKEY_CALLERS", value_name = "FILE")]
    pub callers: Option<PathBuf>,

    /// Maximum number of attempts to create a token for one user in a minute: 1 to 1000000. Further ones fail with
    /// RESOURCE_EXHAUSTED.
    #[arg(long, env = "LATCHKEY_MAX_CREATIONS_PER_USER", value_name = "COUNT", default_value = "120",
        value_parser = count)]
    pub max_creations_per_user: NonZeroU32,

    /// Maximum number of attempts to create a token by one caller of the callers file in a minute: 1 to 1000000. Further
    /// ones fail with RESOURCE_EXHAUSTED.
    #[arg(long, env = "LATCHKEY_MAX_CREATIONS_PER_CALLER", value_name = "COUNT", default_value = "6000",
        value_parser = count)]
    pub max_creations_per_caller: NonZeroU32,
}

fn count(text: &str) -> Result<NonZeroU32, &'static str> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= 1_000_000);
    count.ok_or("must be from 1 to 1000000")
}

impl CallersConfig {
    /// Returns how fast tokens may be created.
    pub fn creation_rates(&self) -> CreationRates {
        CreationRates::new(self.max_creations_per_user, self.max_creations_per_caller)
    }
}
