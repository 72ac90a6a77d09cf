use std::process::Output;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{
    App,
    Database::Sqlite,
    latchkey::{self, FAILURE},
    tools,
};

/// The exit status of `validate` for a token that is not valid.
const INVALID: i32 = 1;

fn token(app: &App, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let server = format!("http://{}", app.grpc_addr);
    let arguments = [&["token"], arguments, &["--server", &server]].concat();
    latchkey::run(arguments, input)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_json() {
    let app = App::start(Sqlite).await;
    let created = token(
        &app,
        &[
            "create",
            "--user",
            "alice",
            "--name",
            "ci bot",
            "--scope",
            "b",
            "--scope",
            "a",
            "--expires",
            "90d",
            "--json",
        ],
        "",
    );
    assert_eq!(created.status.code(), Some(0));
    let created = json_of(&created);
    let token_json = &created["token"];
    assert_eq!((&token_json["userId"], &token_json["name"]), (&json!("alice"), &json!("ci bot")));
    assert_eq!(token_json["scopes"], json!(["a", "b"]));
    let time =
        |field: &str| token_json[field].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let lifetime = time("expireTime") - time("createTime");
    // The command sets the expiry, and the service creates the token a moment later.
    assert!((lifetime - TimeDelta::days(90)).abs() < TimeDelta::minutes(10), "{lifetime}");

    let listed = json_of(&token(&app, &["list", "--user", "alice", "--json"], ""));
    assert_eq!(listed, json!({ "tokens": [token_json] }));

    let secret = created["secret"].as_str().unwrap();
    let valid = token(&app, &["validate", "--json", "--scope", "a"], format!("{secret}\n"));
    assert_eq!(valid.status.code(), Some(0));
    assert_eq!(json_of(&valid), json!({ "valid": token_json }));
    let lacking = token(&app, &["validate", "--json", "--scope", "c"], secret);
    assert_eq!(lacking.status.code(), Some(INVALID));
    assert_eq!(json_of(&lacking), json!({ "invalid": { "reason": "REASON_MISSING_SCOPE" } }));

    let id = token_json["id"].as_str().unwrap();
    let deleted = token(&app, &["delete", "--user", "alice", "--id", id, "--json"], "");
    assert_eq!((deleted.status.code(), json_of(&deleted)), (Some(0), json!({})));
    let revoked = token(&app, &["validate", "--json"], secret);
    assert_eq!(revoked.status.code(), Some(INVALID));
    assert_eq!(json_of(&revoked)["invalid"]["reason"], "REASON_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_get_a_table() {
    let app = App::start(Sqlite).await;
    let created = text(&token(&app, &["create", "--user", "alice", "--name", "ci bot"], ""));
    let lines: Vec<&str> = created.lines().collect();
    assert!(lines[0].starts_with("ID") && lines[0].ends_with("NAME"), "{created}");
    assert!(lines[1].contains("never") && lines[1].ends_with("ci bot"), "{created}");
    assert_eq!(lines[0].find("NAME"), lines[1].find("ci bot"));
    let secret = lines[5];
    assert!(secret.starts_with("pat_"), "{created}");

    let listed = text(&token(&app, &["list", "--user", "alice"], ""));
    assert_eq!(listed.lines().collect::<Vec<_>>(), lines[..2]);
    assert!(text(&token(&app, &["validate"], secret)).starts_with("valid\n"));
    let wrong = token(&app, &["validate"], &secret[1..]);
    assert_eq!(
        (wrong.status.code(), text(&wrong).starts_with("invalid: it does not have the form")),
        (Some(INVALID), true)
    );
    let id = lines[1].split(' ').next().unwrap();
    let deleted = token(&app, &["delete", "--user", "alice", "--id", id], "");
    assert_eq!(text(&deleted), format!("token {id} is deleted\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_gets_the_secret_without_parsing() {
    let app = App::start(Sqlite).await;
    let created = token(&app, &["create", "--user", "alice", "--name", "ci bot", "--secret-only"], "");
    let secret = text(&created);
    assert!(secret.starts_with("pat_") && secret.ends_with('\n') && secret.lines().count() == 1, "{secret}");
    assert!(text(&token(&app, &["validate"], &secret)).starts_with("valid\n"));
    let both = token(&app, &["create", "--user", "u", "--name", "name", "--secret-only", "--json"], "");
    assert_eq!(both.status.code(), Some(FAILURE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_can_repeat_a_command_whose_answer_was_lost() {
    let app = App::start(Sqlite).await;
    let request_id = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42";
    let create = ["create", "--user", "alice", "--name", "ci bot", "--request-id", request_id];
    let with_expiry = |name: &'static str, value: &'static str| {
        token(&app, &[&create[..], &["--json", name, value]].concat(), "")
    };
    let first = json_of(&with_expiry("--expires-at", "2100-01-31T00:00:00Z"));
    let second = json_of(&with_expiry("--expires-at", "2100-01-31T00:00:00Z"));
    assert_eq!(second["token"], first["token"]);
    assert_eq!(second["token"]["expireTime"], "2100-01-31T00:00:00Z");
    assert_ne!(second["secret"], first["secret"]);
    // It would count from another time in the second command.
    assert_eq!(with_expiry("--expires", "90d").status.code(), Some(FAILURE));

    let id = second["token"]["id"].as_str().unwrap();
    let delete = ["delete", "--user", "alice", "--id", id, "--allow-missing"];
    for _ in 0..2 {
        let deleted = token(&app, &delete, "");
        assert_eq!(deleted.status.code(), Some(0));
        assert_eq!(text(&deleted), format!("token {id} is deleted, or the user never had it\n"));
    }
    let done = with_expiry("--expires-at", "2100-01-31T00:00:00Z");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(FAILURE) && said.contains(id), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_is_not_a_token_is_invalid() {
    let app = App::start(Sqlite).await;
    for input in [&b""[..], b"\xff\xfe", &[0xff; 100_000]] {
        let invalid = token(&app, &["validate", "--json"], input);
        assert_eq!(invalid.status.code(), Some(INVALID));
        assert_eq!(json_of(&invalid), json!({ "invalid": { "reason": "REASON_MALFORMED" } }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_many_pages_is_printed_whole() {
    let app =
        App::start_with(Sqlite, &["--max-tokens-per-user", "1000", "--max-creations-per-user", "1000"]).await;
    // Two pages, the second of them not full.
    const TOKENS: usize = 205;
    for n in 0..TOKENS {
        app.issue("alice", &format!("token {n}")).await;
    }
    let listed = json_of(&token(&app, &["list", "--user", "alice", "--json"], ""));
    assert_eq!(listed["tokens"].as_array().unwrap().len(), TOKENS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_printed_and_the_exit_status_is_2() {
    let app = App::start(Sqlite).await;
    let said = |arguments: &[&str], parts: &[&str]| {
        let output = token(&app, arguments, "");
        assert_eq!(output.status.code(), Some(FAILURE), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    said(&["create", "--user", "", "--name", "x"], &["user_id: must not be empty", "name: has 1 characters"]);
    said(&["delete", "--user", "u", "--id", "0193e4a0-0000-7000-8000-000000000000"], &["no such token"]);
    said(&["create", "--user", "u", "--name", "name", "--expires", "soon"], &["--expires", "soon"]);
    said(&["create", "--user", "u", "--name", "name", "--expires", "9000y"], &["9999"]);
    said(&["validate", "pat_secret_on_the_command_line"], &["unexpected argument"]);
    app.issue("u", "name").await;
    said(&["create", "--user", "u", "--name", "name"], &["has a token of this name"]);

    let not_listening = format!("http://127.0.0.1:{}", tools::free_port());
    let output = latchkey::run(["token", "list", "--user", "u", "--server", &not_listening], "");
    assert_eq!(output.status.code(), Some(FAILURE));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&not_listening) && said.contains("latchkey serve"), "{said}");
}
