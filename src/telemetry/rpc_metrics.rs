//! The duration of gRPC calls, by method and status code.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, core::Collector as _, proto::MetricFamily};

/// In seconds, from the duration of a validation from memory to the default maximum duration of a call.
const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A histogram of call durations. Clones share their values.
#[derive(Clone, Debug)]
pub struct RpcDurations(Arc<Histograms>);

#[derive(Debug)]
struct Histograms {
    all: HistogramVec,
    /// Those of successful calls, by method. Kept here because looking one up in `all` is slower.
    ok: Vec<(&'static str, Histogram)>,
}

const OK: &str = "OK";

impl RpcDurations {
    /// Creates an empty histogram for these methods.
    ///
    /// # Errors
    ///
    /// Prometheus refuses the description of the histogram.
    pub fn new(methods: &[&'static str]) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "latchkey_rpc_duration_seconds",
            "Duration of gRPC calls, by method and status code.",
        );
        let all = HistogramVec::new(options.buckets(BUCKETS.into()), &["method", "code"])?;
        let ok = methods.iter().map(|method| (*method, all.with_label_values(&[*method, OK]))).collect();
        Ok(Self(Arc::new(Histograms { all, ok })))
    }

    /// Records that a call of `method` ended with `code` after `duration`. Both must come from closed lists, because
    /// every value of a label is kept in memory.
    pub fn observe(&self, method: &'static str, code: &'static str, duration: Duration) {
        let ok = || self.0.ok.iter().find(|(known, _)| *known == method);
        match if code == OK { ok() } else { None } {
            Some((_, histogram)) => histogram.observe(duration.as_secs_f64()),
            None => self.0.all.with_label_values(&[method, code]).observe(duration.as_secs_f64()),
        }
    }

    /// Returns the histogram in Prometheus' form.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.0.all.collect()
    }
}
