use latchkey::config::Config;
use serde_json::json;

use crate::support::helm::{
    CHART, DEFAULT_AND_FULL, WITH_FULL, helm, objects, read, read_json, read_yaml, template, variables,
};

fn settings() -> clap::Command {
    <Config as clap::Args>::augment_args(clap::Command::new("serve"))
}

#[test]
fn every_setting_can_be_set() {
    let set = &read_yaml("ci/full-values.yaml")["config"];
    let schema = read_json("values.schema.json");
    let schema = schema["properties"]["config"]["properties"].as_object().unwrap();
    let variables = variables(&objects(WITH_FULL));
    let command = settings();
    for setting in command.get_arguments() {
        let (id, name) = (setting.get_id().as_str(), setting.get_env().unwrap().to_str().unwrap());
        let variable = variables.get(name).unwrap_or_else(|| panic!("{name} cannot be set"));
        if let Some(value) = set.get(id) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(variable["value"], json!(value), "{name}");
            assert!(schema.contains_key(id), "{id} is not in the schema");
        } else {
            // A secret is not a value of the chart.
            let file = variable["value"].as_str().is_some_and(|value| value.starts_with("/etc/latchkey/"));
            assert!(file || variable["valueFrom"]["secretKeyRef"].is_object(), "{name}: {variable}");
            assert!(!schema.contains_key(id), "{id} is in the schema and not in ci/full-values.yaml");
        }
    }
    for name in schema.keys() {
        assert!(
            command.get_arguments().any(|setting| setting.get_id() == name.as_str()),
            "{name} is not a setting"
        );
    }
}

#[test]
fn the_service_accepts_what_the_chart_sets() {
    for values in DEFAULT_AND_FULL {
        let variables = variables(&objects(values));
        let mut arguments = vec!["serve".to_owned()];
        for setting in settings().get_arguments() {
            let variable = variables.get(setting.get_env().unwrap().to_str().unwrap());
            let Some(value) = variable.and_then(|variable| variable["value"].as_str()) else { continue };
            // The file exists only in the pod.
            if setting.get_id() == "config" {
                continue;
            }
            let flag = format!("--{}", setting.get_long().unwrap());
            if setting.get_action().takes_values() {
                arguments.extend([flag, value.to_owned()]);
            } else if value == "true" {
                arguments.push(flag);
            } else {
                assert_eq!(value, "false", "{flag}");
            }
        }
        let config = Config::parse_from(arguments).unwrap();
        config.check().unwrap();
    }
}

#[test]
fn the_values_show_the_default_of_each_setting() {
    let values = read("values.yaml");
    let schema = read_json("values.schema.json");
    let command = settings();
    for name in schema["properties"]["config"]["properties"].as_object().unwrap().keys() {
        let line = values
            .lines()
            .map(str::trim_start)
            .find(|line| line.trim_start_matches("# ").starts_with(&format!("{name}: ")))
            .unwrap_or_else(|| panic!("{name} is missing in values.yaml"));
        let setting = command.get_arguments().find(|setting| setting.get_id() == name.as_str()).unwrap();
        if let (Some(said), Some(default)) = (line.strip_prefix("# "), setting.get_default_values().first()) {
            // YAML takes what begins with '#' for a comment.
            assert_eq!(said.replace('"', ""), format!("{name}: {}", default.to_str().unwrap()));
        }
    }
}

#[test]
fn a_wrong_value_is_refused_by_name() {
    for (value, named) in [
        ("replicaCount=many", "replicaCount"),
        ("replicas=3", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:123", "digest"),
        ("config.cache_entries=0", "cache_entries"),
        ("config.cache_entrys=5", "cache_entrys"),
        ("config.max_staleness=5", "max_staleness"),
        ("config.shutdown_grace=1h", "shutdown_grace"),
        // Helm's functions would read it as octal.
        ("config.shutdown_grace=08s", "shutdown_grace"),
        ("config.request_timeout=0s", "request_timeout"),
        ("config.request_timeout=1m 30s", "request_timeout"),
        ("config.revocation_poll=1h", "revocation_poll"),
        ("config.revocation_poll=9ms", "revocation_poll"),
        ("config.max_staleness=11m", "max_staleness"),
        ("config.last_used_interval=999ms", "last_used_interval"),
        ("config.nats_ack_wait=0s", "nats_ack_wait"),
        ("config.database_timeout=10h", "database_timeout"),
        ("config.database_timeout=61s", "database_timeout"),
        ("config.database_timeout=null", "database_timeout"),
        ("config.grpc_addr=127.0.0.1:50051", "grpc_addr"),
        ("config.grpc_addr=0.0.0.0:99999", "config.grpc_addr has the port 99999"),
        ("config.http_addr=0.0.0.0:80", "config.http_addr has the port 80"),
        ("config.http_addr=0.0.0.0:50052", "config.grpc_addr and config.http_addr have the same port, 50052"),
        ("config.admin_addr=0.0.0.0:8081", "config.admin_addr has the same port as another address, 8081"),
        ("config.tls_client_auth=maybe", "tls_client_auth"),
        ("config.tls_min_version=1.1", "tls_min_version"),
        ("config.insecure=false,callers.secret=", "callers.secret are needed"),
        (
            "config.insecure=false,tls.cert.secret=,tls.key.secret=,tls.clientCa.secret=",
            "tls.cert.secret, tls.key.secret",
        ),
        ("tls.key.secret=", "tls.cert and tls.key belong together"),
        ("tls.certManager.issuerRef.name=", "tls.certManager.issuerRef.name is empty"),
        ("service.adminPort=80", "service.adminPort is the same as another port, 80"),
        ("config.token_prefix=Pat", "token_prefix"),
        ("config.log_format=xml", "log_format"),
        ("config.insecure=maybe", "insecure"),
        ("config.database_url=postgres://u:p@h/d", "database_url"),
        ("database.url.secret=Not A Name", "secret"),
        ("database.url.secret=", "database.url.secret is empty: name a Secret"),
        ("keyRing.key=a/b", "key"),
        ("nats.url.secret=", "nats.url.secret is empty"),
        ("nats.tls.cert.secret=", "nats.tls.cert and nats.tls.key belong together"),
        ("tracing.samplerRatio=2", "samplerRatio"),
        ("tracing.endpoint=collector", "endpoint"),
        ("tracing.endpoint=https://collector/v1:4317", "tracing.endpoint goes to port 443"),
        ("networkPolicy.otlpPort=4318", "networkPolicy.otlpPort lets the pods out to 4318"),
        ("autoscaling.maxReplicas=1", "autoscaling.maxReplicas is below autoscaling.minReplicas"),
        ("service.grpcPort=70000", "grpcPort"),
        ("service.grpcPort=80", "service.grpcPort and service.httpPort are the same, 80"),
        ("service.type=LoadBalancer", "type"),
        ("probes.liveness.successThreshold=2", "liveness/successThreshold"),
        ("probes.startup.successThreshold=2", "startup/successThreshold"),
        (r"podLabels.app\.kubernetes\.io/name=other", "app.kubernetes.io/name"),
        (r"podLabels.helm\.sh/chart=other", "helm.sh/chart"),
        (r"migration.podLabels.app\.kubernetes\.io/component=server", "app.kubernetes.io/component"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        ("drainSeconds=-1", "drainSeconds"),
        ("networkPolicy.grpcFrom[0].anyone=true", "anyone"),
        ("serviceMonitor.interval=often", "interval"),
    ] {
        let said = template(&[WITH_FULL, &["--set", value]].concat());
        assert!(!said.succeeded, "{value} was accepted");
        assert!(said.stderr.contains(named), "{value}: {}", said.stderr);
    }
}

#[test]
fn a_name_that_kubernetes_would_refuse_is_refused_first() {
    for name in ["1st", "first.of.all"] {
        let said = helm(&["template", name, CHART]);
        assert!(!said.succeeded, "{name} was accepted");
        assert!(said.stderr.contains("set fullnameOverride"), "{}", said.stderr);
    }
    helm(&["template", "1st", CHART, "--set", "fullnameOverride=first"]).good();
}

#[test]
fn the_shortest_and_the_longest_of_each_duration_are_accepted() {
    let is_span = |text: &str| humantime::parse_duration(text).is_ok();
    let command = settings();
    let (mut least, mut most) = (Vec::new(), Vec::new());
    for setting in command.get_arguments() {
        if !setting.get_default_values().first().is_some_and(|default| is_span(default.to_str().unwrap())) {
            continue;
        }
        let (id, help) = (setting.get_id(), setting.get_help().unwrap().to_string());
        let words: Vec<&str> = help.split([' ', ',', '.']).collect();
        let bounds =
            words.windows(3).find(|words| is_span(words[0]) && words[1] == "to" && is_span(words[2]));
        let bounds = bounds.unwrap_or_else(|| panic!("{id} does not say what is allowed: {help}"));
        least.push(format!("config.{id}={}", bounds[0]));
        most.push(format!("config.{id}={}", bounds[2]));
    }
    assert!(!least.is_empty());
    for values in [least, most] {
        template(&["--set", &values.join(",")]).good();
    }
}

#[test]
fn the_values_in_the_guide_are_accepted() {
    let guide = include_str!("../docs/kubernetes.md");
    for values in guide.split("```yaml\n").skip(1) {
        let (values, _) = values.split_once("```").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, values).unwrap();
        template(&["--values", file.path().to_str().unwrap()]).good();
    }
}
