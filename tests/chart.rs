use std::{collections::BTreeMap, time::Duration};

use latchkey::config::Config;
use serde_json::{Value, json};

use crate::support::helm::{
    CHART, DEFAULT_AND_FULL, WITH_FULL, helm, objects, read, read_json, read_yaml, run, template, the,
};

const KUBERNETES_VALIDATE: &str = "install it: pip install kubernetes-validate";
/// The oldest that the chart is for, and the newest that there is a schema of.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

fn settings() -> clap::Command {
    <Config as clap::Args>::augment_args(clap::Command::new("serve"))
}

/// The variables of the serving container, by name.
fn variables(objects: &[Value]) -> BTreeMap<String, Value> {
    let containers = &the("Deployment", objects)["spec"]["template"]["spec"]["containers"];
    let variables = containers[0]["env"].as_array().unwrap();
    variables.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one.clone())).collect()
}

fn is_of_the_operator(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/")
}

#[test]
fn lint_finds_nothing() {
    for values in DEFAULT_AND_FULL {
        helm(&[&["lint", "--strict", CHART][..], values].concat()).good();
    }
}

#[test]
fn kubernetes_knows_every_object_and_every_field() {
    let folder = tempfile::tempdir().unwrap();
    for values in DEFAULT_AND_FULL {
        let file = folder.path().join("objects.yaml");
        std::fs::write(&file, template(values).good()).unwrap();
        let known = objects(values).iter().filter(|object| !is_of_the_operator(object)).count();
        for version in KUBERNETES {
            let arguments = ["--strict", "--kubernetes-version", version, file.to_str().unwrap()];
            let said = run("kubernetes-validate", KUBERNETES_VALIDATE, &arguments).good();
            // Of a kind without a schema it only warns.
            let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
            assert_eq!(passed, known, "{said}");
        }
    }
}

#[test]
fn the_operators_objects_find_what_they_are_for() {
    assert!(!objects(&[]).iter().any(is_of_the_operator), "they are by choice");
    let objects = objects(WITH_FULL);
    let (monitor, service) = (the("ServiceMonitor", &objects), the("Service", &objects));
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    // The rules look for this job.
    assert_eq!(service["metadata"]["labels"][monitor["spec"]["jobLabel"].as_str().unwrap()], "latchkey");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&json!("http"), &json!("/metrics")));
    assert!(service["spec"]["ports"].as_array().unwrap().iter().any(|port| port["name"] == "http"));

    let rule = the("PrometheusRule", &objects);
    assert_eq!(rule["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(rule["spec"], read_yaml("rules/latchkey.yaml"));
    let dashboard = the("ConfigMap", &objects)["data"]["latchkey.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(dashboard).unwrap(), read_json("dashboards/latchkey.json"));
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
            // What holds a secret is no value.
            let file = variable["value"].as_str().is_some_and(|value| value.starts_with("/etc/latchkey/"));
            assert!(file || variable["valueFrom"]["secretKeyRef"].is_object(), "{name}: {variable}");
            assert!(!schema.contains_key(id), "{id} is in the schema and not in ci/full-values.yaml");
        }
    }
    for name in schema.keys() {
        assert!(
            command.get_arguments().any(|setting| setting.get_id() == name.as_str()),
            "{name} is no setting"
        );
    }
}

#[test]
fn the_service_takes_what_the_chart_sets() {
    for values in DEFAULT_AND_FULL {
        let variables = variables(&objects(values));
        let mut arguments = vec!["serve".to_owned()];
        for setting in settings().get_arguments() {
            let variable = variables.get(setting.get_env().unwrap().to_str().unwrap());
            let Some(value) = variable.and_then(|variable| variable["value"].as_str()) else { continue };
            // The file is not here.
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
fn the_values_say_what_each_setting_is_when_it_is_not_set() {
    let values = read("values.yaml");
    let schema = read_json("values.schema.json");
    let command = settings();
    for name in schema["properties"]["config"]["properties"].as_object().unwrap().keys() {
        let line = values
            .lines()
            .map(str::trim_start)
            .find(|line| line.trim_start_matches("# ").starts_with(&format!("{name}: ")))
            .unwrap_or_else(|| panic!("{name} does not stand in values.yaml"));
        let setting = command.get_arguments().find(|setting| setting.get_id() == name.as_str()).unwrap();
        if let (Some(said), Some(default)) = (line.strip_prefix("# "), setting.get_default_values().first()) {
            assert_eq!(said, format!("{name}: {}", default.to_str().unwrap()));
        }
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    for (value, named) in [
        ("replicaCount=many", "replicaCount"),
        ("replicas=3", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:123", "digest"),
        ("config.cache_entries=0", "cache_entries"),
        ("config.cache_entrys=5", "cache_entrys"),
        ("config.max_staleness=5", "max_staleness"),
        ("config.shutdown_grace=1h", "shutdown_grace"),
        // Helm's functions read it as octal.
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
        assert!(!said.content, "{value} was taken");
        assert!(said.stderr.contains(named), "{value}: {}", said.stderr);
    }
}

#[test]
fn a_name_that_kubernetes_would_refuse_is_refused_first() {
    for name in ["1st", "first.of.all"] {
        let said = helm(&["template", name, CHART]);
        assert!(!said.content, "{name} was taken");
        assert!(said.stderr.contains("set fullnameOverride"), "{}", said.stderr);
    }
    helm(&["template", "1st", CHART, "--set", "fullnameOverride=first"]).good();
}

#[test]
fn the_least_and_the_most_of_each_time_span_are_taken() {
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
fn pods_may_do_nothing_that_they_need_not() {
    for values in DEFAULT_AND_FULL {
        let objects = objects(values);
        for kind in ["Deployment", "Job"] {
            let pod = &the(kind, &objects)["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["enableServiceLinks"], false);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            let container = &pod["containers"][0];
            let allowed = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], allowed);
            assert!(container["resources"]["requests"]["cpu"].is_string());
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
}

#[test]
fn a_restart_is_never_asked_for_because_the_database_is_away() {
    let objects = objects(&[]);
    let container = &the("Deployment", &objects)["spec"]["template"]["spec"]["containers"][0];
    for probe in ["livenessProbe", "startupProbe"] {
        let asked = json!({ "port": 50051, "service": latchkey::grpc::LIVENESS });
        assert_eq!(container[probe]["grpc"], asked);
    }
    assert_eq!(
        container["readinessProbe"]["grpc"],
        json!({ "port": 50051, "service": latchkey::grpc::TOKEN_SERVICE })
    );
}

#[test]
fn a_pod_has_time_for_the_drain_the_calls_under_way_and_the_database() {
    let short = ["--set", "drainSeconds=1,config.shutdown_grace=0s,config.database_timeout=100ms"];
    let long = ["--set", "drainSeconds=300,config.shutdown_grace=10m,config.database_timeout=1m"];
    let odd = ["--set", "config.shutdown_grace=9s,config.database_timeout=1001ms"];
    let all: [&[&str]; 5] = [&[], WITH_FULL, &short, &long, &odd];
    for values in all {
        let objects = objects(values);
        let pod = &the("Deployment", &objects)["spec"]["template"]["spec"];
        let drain = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let variables = variables(&objects);
        let span =
            |name: &str| humantime::parse_duration(variables[name]["value"].as_str().unwrap()).unwrap();
        let seconds = Duration::from_secs;
        let needed = seconds(drain) + span("LATCHKEY_SHUTDOWN_GRACE") + 3 * span("LATCHKEY_DATABASE_TIMEOUT");
        let given = seconds(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
        // Each span is rounded up to whole seconds.
        assert!(given >= needed + seconds(5) && given < needed + seconds(9), "{given:?} for {needed:?}");
    }
}

#[test]
fn how_many_replicas_there_are_is_said_by_the_autoscaler_or_by_the_chart_and_not_by_both() {
    let without = objects(&["--set", "replicaCount=0"]);
    assert_eq!(the("Deployment", &without)["spec"]["replicas"], 0);
    assert!(!without.iter().any(|object| object["kind"] == "HorizontalPodAutoscaler"));

    let with = objects(WITH_FULL);
    let deployment = the("Deployment", &with);
    assert!(deployment["spec"].get("replicas").is_none());
    let target = &the("HorizontalPodAutoscaler", &with)["spec"]["scaleTargetRef"];
    assert_eq!((&target["kind"], &target["name"]), (&deployment["kind"], &deployment["metadata"]["name"]));
}

#[test]
fn what_is_for_the_serving_pods_selects_them_and_no_others() {
    let selects = |selector: &Value, labels: &Value| {
        let selector = selector.as_object().unwrap();
        !selector.is_empty() && selector.iter().all(|(label, value)| &labels[label] == value)
    };
    for values in DEFAULT_AND_FULL {
        let objects = objects(values);
        let pod = |kind| &the(kind, &objects)["spec"]["template"];
        let mut selectors = vec![
            &the("Deployment", &objects)["spec"]["selector"]["matchLabels"],
            &the("Service", &objects)["spec"]["selector"],
            &the("PodDisruptionBudget", &objects)["spec"]["selector"]["matchLabels"],
        ];
        let spread = pod("Deployment")["spec"]["topologySpreadConstraints"].as_array().unwrap();
        selectors.extend(spread.iter().map(|constraint| &constraint["labelSelector"]["matchLabels"]));
        for selector in selectors {
            assert!(selects(selector, &pod("Deployment")["metadata"]["labels"]), "{selector}");
            assert!(!selects(selector, &pod("Job")["metadata"]["labels"]), "{selector}");
        }
        // Each has a policy of its own.
        for kind in ["Deployment", "Job"] {
            let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
            let labels = &pod(kind)["metadata"]["labels"];
            let of_this =
                policies.filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], labels));
            assert_eq!(of_this.count(), 1, "{kind}");
        }
    }
}

#[test]
fn a_mesh_can_be_kept_out_of_the_migration_and_let_in_elsewhere() {
    let objects = objects(WITH_FULL);
    let job = &the("Job", &objects)["spec"]["template"]["metadata"];
    assert_eq!(job["annotations"], json!({ "linkerd.io/inject": "disabled" }));
    assert_eq!(job["labels"]["sidecar.istio.io/inject"], "false");
    assert_eq!(job["labels"]["team"], "databases", "it outweighs podLabels");
    let server = &the("Deployment", &objects)["spec"]["template"]["metadata"];
    assert!(server["annotations"].get("linkerd.io/inject").is_none());
    assert_eq!(server["labels"]["team"], "platform");
    let further = &read_yaml("ci/full-values.yaml")["networkPolicy"]["extraEgress"][0];
    for policy in objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
        assert!(policy["spec"]["egress"].as_array().unwrap().contains(further), "{policy}");
    }
}

#[test]
fn the_migration_relies_on_nothing_that_the_release_makes() {
    for values in DEFAULT_AND_FULL {
        let objects = objects(values);
        let job = the("Job", &objects);
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["args"], json!(["migrate"]));
        assert_eq!(pod["serviceAccountName"], "default");
        assert!(!objects.iter().any(|object| object["kind"] == "Secret"), "Secrets are the operator's");
        // Else the Service would send it calls, and the budget count it.
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        let selector = the("Service", &objects)["spec"]["selector"].as_object().unwrap();
        assert!(selector.iter().any(|(label, value)| &labels[label] != value));
    }
}

#[test]
fn nobody_comes_in_who_is_not_named() {
    for values in DEFAULT_AND_FULL {
        for policy in objects(values).iter().filter(|object| object["kind"] == "NetworkPolicy") {
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
            // A rule without peers would be for everyone.
            for rule in policy["spec"]["ingress"].as_array().unwrap_or(&vec![]) {
                assert!(!rule["from"].as_array().unwrap().is_empty(), "{rule}");
            }
        }
    }
    let nobody = ["--set-json", "networkPolicy.grpcFrom=[]", "--show-only", "templates/networkpolicy.yaml"];
    assert_eq!(the("NetworkPolicy", &objects(&nobody))["spec"]["ingress"], json!([]));
}

#[test]
fn the_notes_show_the_first_call_and_what_is_missing() {
    let notes = helm(&["install", "latchkey", CHART, "--dry-run=client"]).good();
    let (_, notes) = notes.split_once("NOTES:").unwrap();
    for part in [
        "kubectl --namespace default port-forward deployment/latchkey 50051:50051",
        "grpcurl -plaintext -d",
        "127.0.0.1:50051 latchkey.v1.TokenService/CreateToken",
        "TLS and caller authentication come later",
    ] {
        assert!(notes.contains(part), "{notes}: not {part}");
    }
}

#[test]
fn the_chart_is_of_this_version() {
    assert_eq!(read_yaml("Chart.yaml")["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_values_of_the_guide_are_good() {
    let guide = include_str!("../docs/kubernetes.md");
    for values in guide.split("```yaml\n").skip(1) {
        let (values, _) = values.split_once("```").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, values).unwrap();
        template(&["--values", file.path().to_str().unwrap()]).good();
    }
}
