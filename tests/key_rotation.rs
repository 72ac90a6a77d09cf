use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rstest_reuse::apply;

use crate::support::{
    App, Database,
    latchkey::{self, FAILURE},
    on_both_databases,
    shell::paste_in,
};

/// A key of 32 bytes in base64.
const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// Runs `latchkey keys …` on the ring and returns its standard output and standard error.
fn keys(ring: &Path, arguments: &[&str]) -> (String, String) {
    let output = latchkey::run([&["keys"], arguments, &["--key-ring", ring.to_str().unwrap()]].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Starts a rotation and returns the id of the new key.
fn rotate(ring: &Path) -> String {
    let (printed, notes) = keys(ring, &["rotate"]);
    let id = printed.trim_end().to_owned();
    assert!(notes.starts_with(&format!("key {id} was added")), "{notes}");
    let next = format!("then: latchkey keys promote {id} --key-ring {}\n", ring.display());
    assert!(notes.ends_with(&next), "{notes}");
    id
}

/// Writes a ring whose only key is k1.
fn write_ring(ring: &Path) {
    fs::write(ring, format!("primary = \"k1\"\n[keys]\nk1 = \"{KEY}\"\n")).unwrap();
    fs::set_permissions(ring, Permissions::from_mode(0o600)).unwrap();
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

/// Two replicas with the same key ring, and the tokens that were issued.
struct Replicas {
    apps: Vec<App>,
    ring: PathBuf,
    secrets: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Replicas {
    async fn start(database: Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ring = folder.path().join("ring.toml");
        write_ring(&ring);
        let settings = ["--key-ring", ring.to_str().unwrap()];
        let first = App::start_with(database, &settings).await;
        let second = App::start_on(first.url.clone(), tempfile::tempdir().unwrap(), &settings).await;
        Self { apps: vec![first, second], ring, secrets: Vec::new(), _folder: folder }
    }

    /// Restarts the replicas one after the other, and checks after each restart that only creations run argon2.
    async fn restart_each(&mut self) {
        for _ in 0..self.apps.len() {
            let app = self.apps.remove(0).restart(&["--key-ring", self.ring.to_str().unwrap()]).await;
            self.apps.push(app);
            self.only_creations_run_argon2().await;
        }
    }

    /// Issues a token at each replica and validates all tokens at each. Restarted replicas have nothing in memory.
    async fn only_creations_run_argon2(&mut self) {
        for app in &self.apps {
            let before = self.argon2_runs();
            let name = format!("token {}", self.secrets.len());
            self.secrets.push(app.issue("alice", &name).await.1);
            for app in &self.apps {
                for secret in &self.secrets {
                    app.validate(secret).await.unwrap();
                }
            }
            assert_eq!(self.argon2_runs() - before, 1, "for the new token, and for no validation");
        }
    }

    fn argon2_runs(&self) -> u64 {
        self.apps.iter().map(|app| app.argon2_runs()).sum()
    }

    async fn tagged_under(&self, key: &str) -> i64 {
        self.apps[0].count(&format!("tokens WHERE tag_key_id = '{key}'")).await
    }
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_runs_argon2_at_no_replica(database: Database) {
    let mut replicas = Replicas::start(database).await;
    let idle = replicas.apps[0].issue("bob", "idle").await.1;
    replicas.only_creations_run_argon2().await;

    let new = rotate(&replicas.ring);
    replicas.restart_each().await;
    assert_eq!(replicas.tagged_under(&new).await, 0, "no tag has a key that a replica lacks");

    keys(&replicas.ring, &["promote", &new]);
    replicas.restart_each().await;
    replicas.restart_each().await;
    assert_eq!(replicas.tagged_under("k1").await, 1, "tokens that were used have a tag with the new key");

    keys(&replicas.ring, &["retire", "k1"]);
    replicas.restart_each().await;
    let before = replicas.argon2_runs();
    replicas.apps[0].validate(&idle).await.unwrap();
    assert_eq!(replicas.argon2_runs() - before, 1, "its key was removed");
    assert_eq!(replicas.tagged_under("k1").await, 0);
    replicas.apps[1].validate(&idle).await.unwrap();
    assert_eq!(replicas.argon2_runs() - before, 1, "the new tag is used at every replica");
}

#[test]
fn each_command_says_what_it_did_and_never_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let ring = folder.path().join("keyring.toml");
    write_ring(&ring);
    let new = rotate(&ring);
    // The default is the key ring in the data folder.
    let mut command = latchkey::command();
    let listed = command.args(["keys", "list"]).env("LATCHKEY_DATA_DIR", folder.path()).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), format!("{new}\nk1\n"));
    assert_eq!(String::from_utf8(listed.stderr).unwrap(), "the primary key is k1\n");
    let (printed, promoted) = keys(&ring, &["promote", &new]);
    assert_eq!(printed, format!("{new}\n"));
    assert!(promoted.contains(&format!("key {new} is primary")), "{promoted}");
    assert!(
        promoted.contains(&format!("latchkey keys retire k1 --key-ring {}\n", ring.display())),
        "{promoted}"
    );
    let again = (format!("{new}\n"), format!("key {new} is primary already\n"));
    assert_eq!(keys(&ring, &["promote", &new]), again);
    let both = fs::read_to_string(&ring).unwrap();
    let (printed, retired) = keys(&ring, &["retire", "k1"]);
    assert_eq!(printed, "k1\n");
    assert!(retired.starts_with("key k1 was removed"), "{retired}");
    assert_eq!(keys(&ring, &["list"]), (format!("{new}\n"), format!("the primary key is {new}\n")));
    assert_eq!(mode(&ring), 0o600);
    for key in both.lines().filter_map(|line| line.split('"').nth(3)) {
        assert_eq!(key.len(), KEY.len());
        assert!(![&promoted, &retired].iter().any(|said| said.contains(key)));
    }
}

#[test]
fn the_printed_next_step_can_be_pasted() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    for which in ["", " --key-ring data/other.toml", r" --key-ring 'data/it'\''s a ring; really $(x).toml'"] {
        let paste = |line: String| paste_in(folder.path(), &line, &[]);
        paste(format!("latchkey keys create{which}"));
        let mut notes = paste(format!("latchkey keys rotate{which}")).stderr;
        for word in ["promote", "retire"] {
            let (_, next) = notes.split_once(&format!(": latchkey keys {word} ")).unwrap();
            assert_eq!(next.trim_end().split_once(' ').map_or("", |(_, rest)| rest), which.trim_start());
            notes = paste(format!("latchkey keys {word} {next}")).stderr;
        }
        assert_eq!(paste(format!("latchkey keys list{which}")).stdout.lines().count(), 1);
    }
    // The printed step names the key ring unless it is the default one, data/keyring.toml.
    let mut command = latchkey::command();
    let rotated = command.args(["keys", "rotate", "--data-dir", "data"]).current_dir(folder.path());
    let said = String::from_utf8(rotated.output().unwrap().stderr).unwrap();
    assert!(!said.contains("--key-ring"), "{said}");
    let data = folder.path().join("data");
    let mut command = latchkey::command();
    let rotated = command.args(["keys", "rotate"]).env("LATCHKEY_DATA_DIR", &data).output().unwrap();
    let said = String::from_utf8(rotated.stderr).unwrap();
    assert!(said.ends_with(&format!(" --key-ring {}\n", data.join("keyring.toml").display())), "{said}");
}

#[test]
fn a_new_ring_is_readable_by_its_owner_alone_and_has_a_new_key_id() {
    let folder = tempfile::tempdir().unwrap();
    let ids = ["one.toml", "two.toml"].map(|name| {
        let ring = folder.path().join(name);
        let (id, notes) = keys(&ring, &["create"]);
        assert!(notes.contains(name), "{notes}");
        assert_eq!(mode(&ring), 0o600);
        assert_eq!(keys(&ring, &["list"]), (id.clone(), format!("the primary key is {id}")));
        id
    });
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn an_error_is_printed_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ring = folder.path().join("ring.toml");
    let refused = |arguments: &[&str], message: &str| {
        let all = [&["keys"], arguments, &["--key-ring", ring.to_str().unwrap()]].concat();
        let output = latchkey::run(all, "");
        assert_eq!(output.status.code(), Some(FAILURE), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(message) && !text.contains(KEY), "{text}");
    };
    refused(&["rotate"], "ring.toml cannot be opened: No such file");
    assert!(!ring.exists());
    for text in
        [format!("primary = \"k2\"\n[keys]\nk1 = \"{KEY}\"\n"), format!("primary = \"k1\"\nk1 = \"{KEY}\"")]
    {
        fs::write(&ring, &text).unwrap();
        refused(&["rotate"], "--key-ring (LATCHKEY_KEY_RING): ");
        assert_eq!(fs::read_to_string(&ring).unwrap(), text);
    }
    let text = format!("primary = \"k1\"\n[keys]\nk1 = \"{KEY}\"\n");
    fs::write(&ring, &text).unwrap();
    refused(&["create"], "cannot be written: File exists");
    refused(&["promote", "k2"], "has no key \"k2\"; it has k1");
    refused(&["retire", "k1"], "it is the primary key");
    refused(&["retire", "K 1"], "must be 1 to 32 characters");
    refused(&["retire"], "KEY_ID");
    assert_eq!(fs::read_to_string(&ring).unwrap(), text);
}

#[test]
fn a_script_can_rotate_with_the_printed_ids() {
    let folder = tempfile::tempdir().unwrap();
    let lines = r#"
        old=$(latchkey keys create --key-ring ring.toml)
        new=$(latchkey keys rotate --key-ring ring.toml)
        latchkey keys promote "$new" --key-ring ring.toml
        latchkey keys retire "$old" --key-ring ring.toml
        latchkey keys list --key-ring ring.toml
    "#;
    let printed = paste_in(folder.path(), lines, &[]).stdout;
    let ids: Vec<&str> = printed.lines().collect();
    assert!(ids.len() == 3 && ids[0] != ids[1] && ids[0] == ids[2], "{printed}");
}

#[test]
fn programs_get_json() {
    let folder = tempfile::tempdir().unwrap();
    let ring = folder.path().join("ring.toml");
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (printed, notes) = keys(&ring, &[arguments, &["--json"]].concat());
        assert_eq!(notes, "");
        serde_json::from_str(&printed).unwrap()
    };
    let created = json(&["create"]);
    let old = created["key"].as_str().unwrap();
    let file = ring.display().to_string();
    assert_eq!(created, serde_json::json!({ "keyRing": file, "key": old, "primary": old, "keys": [old] }));
    let new = json(&["rotate"])["key"].as_str().unwrap().to_owned();
    let listed = json(&["list"]);
    assert_eq!((listed.get("key"), &listed["primary"]), (None, &created["primary"]));
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["promote", &new])["primary"], new.as_str());
    let left = serde_json::json!({ "keyRing": file, "key": old, "primary": new, "keys": [new] });
    assert_eq!(json(&["retire", old]), left);
}
