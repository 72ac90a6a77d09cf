//! The binary, as its users run it.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use super::{
    Client, PATIENCE,
    app::{CHEAP_ARGON2, FREE_PORTS},
};

/// The exit status of a command that was not carried out.
pub const FAILURE: i32 = 2;

/// The binary with a clean environment.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Another program, with a clean environment, that is given the path of the binary as its last argument.
pub fn command_by(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(env!("CARGO_BIN_EXE_latchkey"));
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// Runs the binary with `input` as its standard input until it ends.
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, input: impl AsRef<[u8]>) -> Output {
    let mut command = command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The binary may end before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

/// Runs the binary in `folder` with arguments that it must refuse, and returns its output.
pub fn refuses(folder: &Path, arguments: &[&str]) -> String {
    refuses_with(folder, arguments, &[])
}

/// Runs the binary as [`refuses`] does, with environment variables.
pub fn refuses_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = command();
    // Some commands would otherwise listen on the default ports, which another test may be using.
    command
        .env("LATCHKEY_GRPC_ADDR", "127.0.0.1:0")
        .env("LATCHKEY_HTTP_ADDR", "127.0.0.1:0")
        .env("LATCHKEY_ADMIN_ADDR", "127.0.0.1:0");
    command.envs(variables.iter().copied());
    command.current_dir(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let started = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(FAILURE), "{arguments:?} {variables:?}: {said}");
    said
}

/// A process that is killed when the test ends.
pub struct Killed(pub Child);

impl Killed {
    /// Sends the process a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        super::until("exit", || {
            let status = self.0.try_wait().unwrap();
            async move { status }
        })
        .await
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of standard output that are kept until the test reads them; it reads the first two.
const QUEUED_LINES: usize = 64;

/// `latchkey serve` in a process.
pub struct Process {
    child: Killed,
    /// The first lines of its output: the addresses, and a command to try.
    pub greeting: Vec<String>,
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    output: Vec<JoinHandle<String>>,
    written: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the service in `folder` and waits until it listens.
    pub fn start(folder: &Path, settings: &[&str]) -> Self {
        Self::start_with(folder, settings, &[])
    }

    /// Starts the service as [`Process::start`] does, with environment variables.
    pub fn start_with(folder: &Path, settings: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command();
        command.envs(variables.iter().copied());
        command.current_dir(folder);
        Self::start_by(command, settings)
    }

    /// Adds the settings to `command`, runs it, and waits until the service listens.
    pub fn start_by(command: Command, settings: &[&str]) -> Self {
        Self::start_logging_to(Stdio::piped(), command, settings)
    }

    /// Starts the service as [`Process::start_by`] does, with another standard error; it is read if it is a new pipe.
    pub fn start_logging_to(stderr: impl Into<Stdio>, mut command: Command, settings: &[&str]) -> Self {
        if !settings.contains(&CHEAP_ARGON2[0]) {
            command.args(CHEAP_ARGON2);
        }
        command.args(settings);
        for address in FREE_PORTS.chunks(2).filter(|address| !settings.contains(&address[0])) {
            command.args(address);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stderr = child.stderr.take();
        let written = Arc::<Mutex<String>>::default();
        let so_far = Arc::clone(&written);
        let log = std::thread::spawn(move || {
            for line in
                stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok)
            {
                let mut text = so_far.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
            std::mem::take(&mut *so_far.lock().unwrap())
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, first_lines) = mpsc::sync_channel(QUEUED_LINES);
        let output = std::thread::spawn(move || {
            let mut text = String::new();
            for line in stdout.lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
                let _ = sender.try_send(line);
            }
            text
        });
        let line = || first_lines.recv_timeout(PATIENCE).ok();
        let (Some(addresses), Some(example)) = (line(), line()) else {
            let _ = child.kill();
            panic!("the service did not start: {}", log.join().unwrap());
        };
        let mut addrs = addresses.split(' ').filter_map(|word| word.parse().ok());
        let [grpc_addr, http_addr, admin_addr] = std::array::from_fn(|_| addrs.next().unwrap());
        let child = Killed(child);
        let (greeting, output) = (vec![addresses, example], vec![output, log]);
        Self { child, greeting, grpc_addr, http_addr, admin_addr, output, written }
    }

    /// Connects to the service.
    pub async fn client(&self) -> Client {
        Client::connect([self.grpc_addr, self.http_addr, self.admin_addr]).await
    }

    /// Whether the log has this text so far.
    pub fn log_has(&self, text: &str) -> bool {
        self.written.lock().unwrap().contains(text)
    }

    /// Whether the admin listener says that the service is alive.
    pub async fn admin_is_alive(&self) -> bool {
        super::http::send(self.admin_addr, "GET /livez", &[], b"").await.0 == 200
    }

    /// The URL of the gRPC listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc_addr)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// A field of /proc/PID/status in bytes: VmRSS is the resident memory, VmHWM its peak.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Kills the process, as a crash would.
    pub fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Sends the process a signal.
    pub fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Waits until the process has ended, and returns its exit status and its output.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.ended().await;
        let output = std::mem::take(&mut self.output);
        (status, output.into_iter().map(|reader| reader.join().unwrap()).collect())
    }

    /// Stops the service with SIGTERM, and returns its output.
    pub async fn stop(self) -> String {
        self.signal("TERM");
        let (status, output) = self.ended().await;
        assert!(status.success(), "{status}: {output}");
        output
    }
}
