//! Being asked to stop.

use crate::failure::Failure;

/// Waits for SIGINT or SIGTERM, each time anew.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// From here on the signals are caught: they no longer end the process by themselves.
    pub(crate) fn catch() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let catch =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Waits for the next one, and says which it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
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
