//! A server of the tests that ends with them, however they end.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use super::PATIENCE;

/// A server whose standard input is a pipe from the test: the shell that watches it stops the server when the pipe
/// closes, which it does even if the test is killed.
#[derive(Debug)]
pub struct GuardedProcess {
    shell: Child,
}

const WATCH: &str = r#"signal=$1; ready=$2; shift 2; "$@" 2>&1 & read -r _; kill -s "$signal" $!; wait $!"#;

impl GuardedProcess {
    /// Starts `program` as user `uid` and waits until a line of its output contains `ready`.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        uid: Option<u32>,
        stop_signal: &str,
        ready: &str,
    ) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh", stop_signal, ready]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut shell = command.spawn().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        let ready = ready.to_owned();
        // Reads to the end, so that the server never waits for its reader.
        std::thread::spawn(move || {
            let mut seen = String::new();
            for line in output.lines().map_while(Result::ok) {
                if line.contains(&ready) {
                    let _ = tell.send(Ok(()));
                }
                seen.push_str(&line);
                seen.push('\n');
            }
            let _ = tell.send(Err(seen));
        });
        match told.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Self { shell },
            Ok(Err(output)) => panic!("{} did not start:\n{output}", program.display()),
            Err(_) => panic!("{} was not ready within {PATIENCE:?}", program.display()),
        }
    }
}

impl Drop for GuardedProcess {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
