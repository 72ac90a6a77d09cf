//! How long calls take, by method and status code.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, core::Collector as _, proto::MetricFamily};

/// From the tenth of a millisecond of a validation from memory to the longest time that a call has by default.
const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A histogram of the calls; clones are of the same one.
#[derive(Clone, Debug)]
pub struct RpcDurations {
    all: HistogramVec,
    /// The parts that nearly every call goes to, so that they need not be looked up.
    good: Arc<[(&'static str, Histogram)]>,
}

const GOOD: &str = "OK";

impl RpcDurations {
    /// A histogram that has seen no call, but knows of these methods.
    ///
    /// # Errors
    ///
    /// Its description is none that Prometheus takes.
    pub fn new(methods: &[&'static str]) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "latchkey_rpc_duration_seconds",
            "How long gRPC calls took, by method and status code.",
        );
        let all = HistogramVec::new(options.buckets(BUCKETS.into()), &["method", "code"])?;
        let good = methods.iter().map(|method| (*method, all.with_label_values(&[*method, GOOD]))).collect();
        Ok(Self { all, good })
    }

    /// Notes that a call of `method` ended with `code` after `duration`. Both come from closed lists: a label's values
    /// are kept for ever.
    pub fn observe(&self, method: &'static str, code: &'static str, duration: Duration) {
        let good = || self.good.iter().find(|(known, _)| *known == method);
        match if code == GOOD { good() } else { None } {
            Some((_, histogram)) => histogram.observe(duration.as_secs_f64()),
            None => self.all.with_label_values(&[method, code]).observe(duration.as_secs_f64()),
        }
    }

    /// What it has seen.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.all.collect()
    }
}
