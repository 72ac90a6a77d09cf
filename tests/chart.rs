use std::time::Duration;

use serde_json::{Value, json};

use crate::support::helm::{
    CHART, DEFAULT_AND_FULL, WITH_FULL, helm, objects, read_json, read_yaml, run, template, the, variables,
};

const KUBERNETES_VALIDATE: &str = "install it: pip install kubernetes-validate";
/// The oldest version that the chart supports, and the newest for which there is a schema.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

fn belongs_to_the_operator(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap();
    version.starts_with("monitoring.coreos.com/") || version.starts_with("cert-manager.io/")
}

#[test]
fn helm_lint_finds_nothing() {
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
        let known = objects(values).iter().filter(|object| !belongs_to_the_operator(object)).count();
        for version in KUBERNETES {
            let arguments = ["--strict", "--kubernetes-version", version, file.to_str().unwrap()];
            let said = run("kubernetes-validate", KUBERNETES_VALIDATE, &arguments).good();
            // For a kind without a schema the tool only warns.
            let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
            assert_eq!(passed, known, "{said}");
        }
    }
}

#[test]
fn the_objects_of_the_prometheus_operator_select_the_service() {
    assert!(!objects(&[]).iter().any(belongs_to_the_operator), "they are optional");
    let objects = objects(WITH_FULL);
    let (monitor, service) = (the("ServiceMonitor", &objects), the("Service", &objects));
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    // The rules select this job.
    assert_eq!(service["metadata"]["labels"][monitor["spec"]["jobLabel"].as_str().unwrap()], "latchkey");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&json!("admin"), &json!("/metrics")));
    assert!(service["spec"]["ports"].as_array().unwrap().iter().any(|port| port["name"] == "admin"));

    let rule = the("PrometheusRule", &objects);
    assert_eq!(rule["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(rule["spec"], read_yaml("rules/latchkey.yaml"));
    let dashboard = the("ConfigMap", &objects)["data"]["latchkey.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(dashboard).unwrap(), read_json("dashboards/latchkey.json"));
}

#[test]
fn pods_have_no_privileges() {
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
fn a_database_that_is_away_restarts_no_pod() {
    let objects = objects(&[]);
    let container = &the("Deployment", &objects)["spec"]["template"]["spec"]["containers"][0];
    for (probe, path) in
        [("livenessProbe", "/livez"), ("startupProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "admin" }), "{probe}");
    }
    let ports = container["ports"].as_array().unwrap();
    assert!(ports.contains(&json!({ "name": "admin", "containerPort": 9090 })));
}

#[test]
fn a_pod_has_time_for_the_drain_the_calls_in_flight_and_the_database() {
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
        // Each duration is rounded up to whole seconds.
        assert!(given >= needed + seconds(5) && given < needed + seconds(9), "{given:?} for {needed:?}");
    }
}

#[test]
fn either_the_autoscaler_or_the_chart_sets_the_number_of_replicas() {
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
fn selectors_of_the_serving_pods_select_no_others() {
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
        // Each has its own policy.
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
fn a_service_mesh_can_be_kept_out_of_the_migration_alone() {
    let objects = objects(WITH_FULL);
    let job = &the("Job", &objects)["spec"]["template"]["metadata"];
    assert_eq!(job["annotations"], json!({ "linkerd.io/inject": "disabled" }));
    assert_eq!(job["labels"]["sidecar.istio.io/inject"], "false");
    assert_eq!(job["labels"]["team"], "databases", "it has precedence over podLabels");
    let server = &the("Deployment", &objects)["spec"]["template"]["metadata"];
    assert!(server["annotations"].get("linkerd.io/inject").is_none());
    assert_eq!(server["labels"]["team"], "platform");
    let further = &read_yaml("ci/full-values.yaml")["networkPolicy"]["extraEgress"][0];
    for policy in objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
        assert!(policy["spec"]["egress"].as_array().unwrap().contains(further), "{policy}");
    }
}

#[test]
fn the_migration_needs_nothing_that_the_release_creates() {
    for values in DEFAULT_AND_FULL {
        let objects = objects(values);
        let job = the("Job", &objects);
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["args"], json!(["migrate"]));
        assert_eq!(pod["serviceAccountName"], "default");
        assert!(!objects.iter().any(|object| object["kind"] == "Secret"), "Secrets are the operator's");
        // Otherwise the Service would send it calls, and the disruption budget would count it.
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        let selector = the("Service", &objects)["spec"]["selector"].as_object().unwrap();
        assert!(selector.iter().any(|(label, value)| &labels[label] != value));
    }
}

#[test]
fn only_named_peers_may_connect() {
    for values in DEFAULT_AND_FULL {
        for policy in objects(values).iter().filter(|object| object["kind"] == "NetworkPolicy") {
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
            // A rule without peers would allow everyone.
            for rule in policy["spec"]["ingress"].as_array().unwrap_or(&vec![]) {
                assert!(!rule["from"].as_array().unwrap().is_empty(), "{rule}");
            }
        }
    }
    let no_peers = ["--set-json", "networkPolicy.grpcFrom=[]", "--show-only", "templates/networkpolicy.yaml"];
    assert_eq!(the("NetworkPolicy", &objects(&no_peers))["spec"]["ingress"], json!([]));
}

/// Metrics and probes are on a port of their own, which callers do not reach.
#[test]
fn each_port_has_its_own_peers() {
    let objects = objects(WITH_FULL);
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let rules: Vec<&Value> =
        policies.flat_map(|policy| policy["spec"]["ingress"].as_array().into_iter().flatten()).collect();
    let values = read_yaml("ci/full-values.yaml");
    for (port, peers) in [("grpc", "grpcFrom"), ("http", "httpFrom"), ("admin", "adminFrom")] {
        let of_port: Vec<_> = rules.iter().filter(|rule| rule["ports"][0]["port"] == port).collect();
        assert_eq!(of_port.len(), 1, "{port}");
        assert_eq!(of_port[0]["from"], values["networkPolicy"][peers]);
    }
}

#[test]
fn the_service_is_encrypted_and_knows_its_callers_unless_insecure_is_set() {
    let objects_of = |values: &[&str]| objects(values);
    for values in DEFAULT_AND_FULL {
        let objects = objects_of(values);
        let pod = &the("Deployment", &objects)["spec"]["template"]["spec"];
        let variables = variables(&objects);
        for (name, file) in [
            ("LATCHKEY_TLS_CERT", "tls.crt"),
            ("LATCHKEY_TLS_KEY", "tls.key"),
            ("LATCHKEY_CALLERS", "callers.toml"),
        ] {
            assert_eq!(variables[name]["value"], format!("/etc/latchkey/{file}"));
        }
        // Others in the pod cannot read the key.
        let volume = &pod["volumes"].as_array().unwrap()[0]["projected"];
        assert_eq!(volume["defaultMode"], 0o440);
        assert!(pod["securityContext"]["fsGroup"].is_number());
    }
    assert!(!variables(&objects_of(&[])).contains_key("LATCHKEY_INSECURE"));
    let certificate = objects_of(WITH_FULL);
    let certificate = the("Certificate", &certificate);
    assert_eq!(certificate["spec"]["secretName"], "tokens-certificate");
    assert_eq!(certificate["spec"]["dnsNames"], json!(["tokens.example.com"]));
    let by_default = objects_of(&["--set", "tls.certManager.enabled=true,tls.certManager.issuerRef.name=ca"]);
    let names = &the("Certificate", &by_default)["spec"]["dnsNames"];
    assert!(names.as_array().unwrap().contains(&json!("latchkey.prod.svc.cluster.local")), "{names}");
}

#[test]
fn the_notes_show_a_first_call_and_what_is_missing() {
    let notes = helm(&["install", "latchkey", CHART, "--dry-run=client"]).good();
    let (_, notes) = notes.split_once("NOTES:").unwrap();
    for part in [
        "kubectl --namespace default port-forward deployment/latchkey 50051:50051 9090:9090",
        "curl http://127.0.0.1:9090/readyz",
        "latchkey token list --user alice --server https://127.0.0.1:50051",
    ] {
        assert!(notes.contains(part), "{notes}: not {part}");
    }
}

#[test]
fn the_chart_has_this_version() {
    assert_eq!(read_yaml("Chart.yaml")["appVersion"], env!("CARGO_PKG_VERSION"));
}
