//! A server that ends with the tests, however those end.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use super::PATIENCE;

/// A server whose standard input is a pipe from the test: the shell that watches it stops the server when the pipe
/// closes, which it does even if the test is killed.
#[derive(Debug)]
pub struct GuardedProcess {
    shell: Child,
    output: Arc<Mutex<String>>,
}

/// A line that is read before the end of the pipe says that the test has gone on and cleans up by itself.
const WATCH: &str = r#"signal=$1; folder=$2; shift 2; "$@" 2>&1 & read -r line; kill -s "$signal" $!; wait $!
    [ -n "$line" ] || [ -z "$folder" ] || rm -rf "$folder""#;

impl GuardedProcess {
    /// Starts `program` as user `uid` and waits until a line of its output contains `ready`. If the tests end without
    /// dropping it, `folder` is removed.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        uid: Option<u32>,
        stop_signal: &str,
        folder: Option<&Path>,
        ready: &str,
    ) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCH, "sh", stop_signal])
            .arg(folder.unwrap_or(Path::new("")))
            .arg(program)
            .args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut shell = command.spawn().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (sender, started) = mpsc::sync_channel(1);
        let ready = ready.to_owned();
        // The thread reads to the end, so that a full pipe never blocks the server.
        let seen = Arc::new(Mutex::new(String::new()));
        std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    let mut seen = seen.lock().unwrap();
                    seen.push_str(&line);
                    seen.push('\n');
                    if line.contains(&ready) {
                        let _ = sender.try_send(true);
                    }
                }
                let _ = sender.try_send(false);
            }
        });
        match started.recv_timeout(PATIENCE) {
            Ok(true) => Self { shell, output: seen },
            Ok(false) => panic!("{} did not start:\n{}", program.display(), seen.lock().unwrap()),
            Err(_) => {
                panic!("{} was not ready within {PATIENCE:?}:\n{}", program.display(), seen.lock().unwrap())
            }
        }
    }
}

impl GuardedProcess {
    /// Waits until the output contains `text`.
    pub async fn says(&self, text: &str) {
        super::until(text, || async { self.output.lock().unwrap().contains(text).then_some(()) }).await;
    }

    /// The output since the start.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }
}

impl Drop for GuardedProcess {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.shell.stdin.take() {
            // Fails if the server, and with it the shell, has ended by itself.
            let _ = stdin.write_all(b"dropped\n");
        }
        let _ = self.shell.wait();
    }
}
