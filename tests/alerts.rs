use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    Database::Sqlite,
    helm::{CHART, read_json, read_yaml, run},
    metrics::names,
    nats::{Nats, attached},
    tools, until,
};

const RULES: &str = "rules/latchkey.yaml";

fn promtool(arguments: &[&str]) {
    run("promtool", tools::INSTALL_PROMTOOL, arguments).good();
}

/// The metrics that the service has.
async fn known_metrics() -> BTreeSet<String> {
    let nats = Nats::start();
    nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    until("all metrics", || async {
        let names = names(&app.metrics().await);
        // The last to appear: the service has to ask the broker first.
        names.contains("latchkey_consumer_lag_messages").then_some(names)
    })
    .await
}

/// The metrics in a query, without the suffixes that Prometheus adds to the name of a histogram.
fn metrics(query: &str) -> BTreeSet<String> {
    query
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("latchkey_"))
        .map(|word| {
            ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| word.strip_suffix(end))
                .unwrap_or(word)
                .to_owned()
        })
        .collect()
}

fn alerts() -> Vec<Value> {
    read_yaml(RULES)["groups"][0]["rules"].as_array().unwrap().clone()
}

fn dashboard() -> Value {
    read_json("dashboards/latchkey.json")
}

/// The queries of all panels, with Grafana's variables filled in.
fn panel_queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m").replace('$', "any-"))
        .collect()
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    promtool(&["check", "rules", &format!("{CHART}/{RULES}")]);
    promtool(&["test", "rules", &format!("{CHART}/rules/latchkey_test.yaml")]);
}

#[test]
fn each_alert_is_tested_to_fire_and_to_be_silent() {
    let tests = read_yaml("rules/latchkey_test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let checks: Vec<Value> =
        tests.flat_map(|test| test["alert_rule_test"].as_array().unwrap().clone()).collect();
    for alert in alerts() {
        let mut of_this = checks.iter().filter(|check| check["alertname"] == alert["alert"]);
        let fires = |check: &Value| check["exp_alerts"].is_array();
        assert!(of_this.clone().any(fires), "no test expects {} to fire", alert["alert"]);
        assert!(of_this.any(|check| !fires(check)), "no test expects {} to be silent", alert["alert"]);
    }
}

#[test]
fn each_alert_says_what_is_wrong_and_has_a_runbook() {
    let runbooks = include_str!("../docs/operations.md");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let annotations = &alert["annotations"];
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{name}");
        assert_eq!(annotations["runbook"], json!(format!("docs/operations.md: {name}")));
        assert!(runbooks.lines().any(|line| line == format!("### {name}")), "{name} has no runbook");
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
    }
}

#[test]
fn every_query_of_the_dashboard_is_valid() {
    let rules: Vec<Value> = panel_queries()
        .iter()
        .enumerate()
        .map(|(number, query)| json!({ "record": "panel:query", "expr": query, "labels": { "number": number.to_string() } }))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

#[tokio::test]
async fn alerts_and_panels_use_metrics_that_exist_and_the_panels_use_them_all() {
    let mut used: BTreeSet<String> = panel_queries().iter().flat_map(|query| metrics(query)).collect();
    let missing: Vec<String> = known_metrics().await.difference(&used).cloned().collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    for variable in dashboard()["templating"]["list"].as_array().unwrap() {
        used.extend(metrics(variable["query"].as_str().unwrap()));
    }
    for alert in alerts() {
        used.extend(metrics(alert["expr"].as_str().unwrap()));
    }
    let unknown: Vec<String> = used.difference(&known_metrics().await).cloned().collect();
    assert!(unknown.is_empty(), "there is no {unknown:?}");
}
