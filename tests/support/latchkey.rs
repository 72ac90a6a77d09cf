//! The binary, as its users run it.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use super::{PATIENCE, app::CHEAP_ARGON2};

/// The binary with a clean environment.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// The binary with a clean environment, started by another program that is given its name as its next argument.
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
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

/// Runs the binary in `folder` with arguments that it must refuse, and gives what it said.
pub fn refuses(folder: &Path, arguments: &[&str]) -> String {
    refuses_with(folder, arguments, &[])
}

/// The same, with variables.
pub fn refuses_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = command();
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
    assert_eq!(output.status.code(), Some(2), "{arguments:?} {variables:?}: {said}");
    said
}

/// A process that ends with the test.
pub struct Killed(pub Child);

impl Killed {
    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until it has ended.
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

/// `latchkey serve` as a process of its own.
pub struct Process {
    child: Killed,
    /// What it said first: where it listens, and how to try it.
    pub greeting: Vec<String>,
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    output: Vec<JoinHandle<String>>,
}

impl Process {
    /// Starts it in `folder` and waits until it listens.
    pub fn start(folder: &Path, settings: &[&str]) -> Self {
        Self::start_with(folder, settings, &[])
    }

    /// Starts it with these variables too.
    pub fn start_with(folder: &Path, settings: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command();
        command.envs(variables.iter().copied());
        command.current_dir(folder);
        Self::start_by(command, settings)
    }

    /// Starts it by a command that lacks the settings, and waits until it listens.
    pub fn start_by(command: Command, settings: &[&str]) -> Self {
        Self::start_logging_to(Stdio::piped(), command, settings)
    }

    /// The same, with a standard error of the test's own: its output is read only if it is a new pipe.
    pub fn start_logging_to(stderr: impl Into<Stdio>, mut command: Command, settings: &[&str]) -> Self {
        if !settings.contains(&CHEAP_ARGON2[0]) {
            command.args(CHEAP_ARGON2);
        }
        command.args(settings);
        command.args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stderr = child.stderr.take();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_string(&mut text);
            }
            text
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::sync_channel(64);
        let output = std::thread::spawn(move || {
            let mut text = String::new();
            for line in stdout.lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
                let _ = tell.send(line);
            }
            text
        });
        let line = || told.recv_timeout(PATIENCE).ok();
        let (Some(listens), Some(try_it)) = (line(), line()) else {
            let _ = child.kill();
            panic!("it did not start: {}", log.join().unwrap());
        };
        let mut addrs = listens.split(' ').filter_map(|word| word.parse().ok());
        let (grpc_addr, http_addr) = (addrs.next().unwrap(), addrs.next().unwrap());
        let child = Killed(child);
        Self { child, greeting: vec![listens, try_it], grpc_addr, http_addr, output: vec![output, log] }
    }

    /// The URL of its gRPC listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc_addr)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// A field of /proc/PID/status, in bytes: VmRSS is its resident memory, VmHWM the most that there was of it.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Waits until it has ended, and gives all that it emitted.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.ended().await;
        let output = std::mem::take(&mut self.output);
        (status, output.into_iter().map(|reader| reader.join().unwrap()).collect())
    }

    /// Tells it to stop and waits until it has.
    pub async fn stop(self) -> String {
        self.signal("TERM");
        let (status, output) = self.ended().await;
        assert!(status.success(), "{status}: {output}");
        output
    }
}
