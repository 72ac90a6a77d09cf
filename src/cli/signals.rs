//! The signals that end the service.

use std::{fmt, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the signals that end the service: SIGTERM and SIGINT (Ctrl-C).
///
/// SIGHUP is logged and otherwise ignored: settings are read at start only, and a closed terminal is no reason to drop
/// calls.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// A signal that ends the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

impl StopSignals {
    /// Takes over the handling of the signals from the operating system, for the rest of the process.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal that ends the service.
    pub async fn next(&mut self) -> StopSignal {
        loop {
            tokio::select! {
                // Biased, so that a SIGHUP right before a SIGTERM is logged too.
                biased;
                _ = self.hangup.recv() => tracing::info!("SIGHUP ignored: settings are read at start only"),
                _ = self.terminate.recv() => return StopSignal::Terminate,
                _ = self.interrupt.recv() => return StopSignal::Interrupt,
            }
        }
    }
}

impl StopSignal {
    /// Returns the exit status that shells report for a process that the signal ended: 128 plus the signal's number.
    pub fn exit_status(self) -> u8 {
        128 + match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}
