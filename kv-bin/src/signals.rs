//! Being asked to stop.

use crate::failure::Failure;
use std::time::{Duration, Instant};

/// A signal that comes so soon after another one is the same request, sent twice: to the process and to its group, say.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Waits for SIGINT, SIGTERM or SIGHUP, each time anew.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// None where whoever started this process wants it to go on (`nohup`).
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// From here on the signals are caught: they no longer end the process by themselves.
    pub(crate) fn catch() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let catch =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hang_up: if ends_by_hang_up() { Some(catch(SignalKind::hangup())?) } else { None },
        })
    }

    /// Waits for the next one, and says which it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hang_up => "SIGHUP",
        }
    }
}

/// Whether SIGHUP is not ignored. Where the system does not tell it is left as it is.
#[cfg(unix)]
fn ends_by_hang_up() -> bool {
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    // SIGHUP is the first signal, and so the first bit.
    ignored.is_some_and(|mask| mask & 1 == 0)
}

impl Signals {
    /// Waits for another request to stop, after one that came at `first`. Cancel safe.
    pub(crate) async fn again(&mut self, first: Instant) -> &'static str {
        loop {
            let signal = self.next().await;
            if first.elapsed() >= ONE_REQUEST {
                return signal;
            }
        }
    }
}

/// A command that `signal` has ended before it was done: the code is 128 and the signal's number, as that of a shell.
pub(crate) fn ended_by(signal: &str, message: impl std::fmt::Display) -> Failure {
    let number = match signal {
        "SIGHUP" => 1,
        "SIGTERM" => 15,
        // Ctrl-C.
        _ => 2,
    };
    Failure::passed_on(128 + number, message)
}

/// Waits for Ctrl-C, each time anew.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// From here on Ctrl-C is caught.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Ok(Self)
    }

    /// Waits for the next one, and says which it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}

/// A signal that was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caught {
    name: &'static str,
    number: u8,
}

impl Caught {
    /// What a process ends with that was ended by it, as shells report it.
    pub(crate) fn code(self) -> u8 {
        128 + self.number
    }
}

impl std::fmt::Display for Caught {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Catches what would end this process, and passes it on to a command that it runs.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Passing(Vec<(Caught, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Passing {
    /// From here on the signals are caught: they no longer end the process by themselves.
    pub(crate) fn catch() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [
            ("SIGHUP", SignalKind::hangup()),
            ("SIGINT", SignalKind::interrupt()),
            ("SIGQUIT", SignalKind::quit()),
            ("SIGTERM", SignalKind::terminate()),
            ("SIGUSR1", SignalKind::user_defined1()),
            ("SIGUSR2", SignalKind::user_defined2()),
            ("SIGALRM", SignalKind::alarm()),
        ];
        let caught = kinds.map(|(name, kind)| {
            let signal = signal(kind)?;
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            Ok((Caught { name, number }, signal))
        });
        let caught: std::io::Result<_> = caught.into_iter().collect();
        caught.map(Self).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Caught {
        std::future::poll_fn(|context| {
            for (caught, signal) in &mut self.0 {
                if let std::task::Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return std::task::Poll::Ready(*caught);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Sends it to the command, unless the terminal has done so: what is typed there (Ctrl-C, Ctrl-\\) goes to all processes in front.
    pub(crate) fn pass_on(&self, caught: Caught, child: &tokio::process::Child) {
        use rustix::process::{Pid, Signal, kill_process};
        let typed = matches!(caught.name, "SIGINT" | "SIGQUIT") && is_in_front();
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let signal = Signal::from_named_raw(i32::from(caught.number));
        if let (false, Some(pid), Some(signal)) = (typed, pid, signal) {
            // One that has ended needs none.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Whether this process is in the foreground of a terminal.
#[cfg(unix)]
fn is_in_front() -> bool {
    std::fs::File::open("/dev/tty").is_ok_and(|terminal| {
        rustix::termios::tcgetpgrp(&terminal).is_ok_and(|front| front == rustix::process::getpgrp())
    })
}

/// Catches Ctrl-C. The system passes it on.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct Passing(Signals);

#[cfg(not(unix))]
impl Passing {
    /// From here on Ctrl-C is caught.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Signals::catch().map(Self)
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Caught {
        Caught { name: self.0.next().await, number: 2 }
    }

    /// The system has done it.
    pub(crate) fn pass_on(&self, _: Caught, _: &tokio::process::Child) {}
}
