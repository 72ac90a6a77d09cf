//! The metrics of a service in Prometheus' text format.

use std::collections::BTreeSet;

use super::{Client, http, until};

impl Client {
    /// The text at `/metrics`.
    pub async fn metrics(&self) -> String {
        let (status, head, text) = http::send(self.admin_addr, "GET /metrics", &[], b"").await;
        assert_eq!(status, 200, "{text}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        text
    }

    /// The present value of a series.
    pub async fn metric(&self, series: &str) -> f64 {
        value(&self.metrics().await, series)
    }

    /// Waits until a series has this value.
    pub async fn metric_becomes(&self, series: &str, expected: f64) {
        until(series, || async { (find(&self.metrics().await, series) == Some(expected)).then_some(()) })
            .await;
    }
}

/// The value of a series, which is given as the text has it.
pub fn value(text: &str, series: &str) -> f64 {
    find(text, series).unwrap_or_else(|| panic!("no {series}: {text}"))
}

/// The value of a series, if there is one.
pub fn find(text: &str, series: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// The names of the metrics.
pub fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}
