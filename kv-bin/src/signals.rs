//! Requests to stop, and signals for a command that is run.

use crate::failure::Failure;
use std::fmt;
use std::time::{Duration, Instant};

/// A signal this soon after another one is the same request, sent twice: for example to the process and to its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// A signal that was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caught {
    name: &'static str,
    number: i32,
}

impl Caught {
    /// The failure of a command that the signal ended before it was done. The code is 128 plus the number of the
    /// signal, as in shells.
    pub(crate) fn ended(self, message: impl fmt::Display) -> Failure {
        Failure::passed_on(u8::try_from(128 + self.number).unwrap_or(u8::MAX), message)
    }

    /// Returns whether it is SIGINT, as sent by Ctrl-C.
    pub(crate) fn is_interrupt(self) -> bool {
        self.number == 2
    }

    /// Returns whether it stops this process temporarily (Ctrl-Z): [`stop_for_a_while`] does that.
    pub(crate) fn stops(self) -> bool {
        self.name == "SIGTSTP"
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Signals {
    /// Waits for another request to stop, after one that arrived at `first`. Cancel safe.
    pub(crate) async fn again(&mut self, first: Instant) -> Caught {
        loop {
            let signal = self.next().await;
            if first.elapsed() >= ONE_REQUEST {
                return signal;
            }
        }
    }

    /// Waits for the next signal that does not only stop this process temporarily; those are obeyed. Cancel safe.
    pub(crate) async fn next_end(&mut self) -> Caught {
        loop {
            let caught = self.next().await;
            if !caught.stops() {
                return caught;
            }
            stop_for_a_while();
        }
    }
}

#[cfg(unix)]
pub(crate) use unix::{Signals, forward, stop_for_a_while};

#[cfg(unix)]
mod unix {
    use super::{Caught, Failure};
    use rustix::process::{Pid, Signal, getpid, kill_process};
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::signal::unix::{SignalKind, signal};

    /// The signals that ask a process to end.
    const REQUESTS: &[(&str, Signal)] =
        &[("SIGINT", Signal::INT), ("SIGTERM", Signal::TERM), ("SIGHUP", Signal::HUP)];

    /// The other signals that would end it, or stop it temporarily.
    const OTHERS: &[(&str, Signal)] = &[
        ("SIGQUIT", Signal::QUIT),
        ("SIGUSR1", Signal::USR1),
        ("SIGUSR2", Signal::USR2),
        ("SIGALRM", Signal::ALARM),
        ("SIGTSTP", Signal::TSTP),
    ];

    /// Waits for signals. From its creation on, these signals have no other effect on this process.
    #[derive(Debug)]
    pub(crate) struct Signals(Vec<(Caught, tokio::signal::unix::Signal)>);

    impl Signals {
        /// Catches the signals that ask a process to end: SIGINT, SIGTERM, and SIGHUP unless that is ignored (`nohup`).
        pub(crate) fn catch() -> Result<Self, Failure> {
            // If the system does not report which signals are ignored, SIGHUP is left as it is.
            let ignored = ignored().unwrap_or(u64::MAX);
            let is_caught = |signal: &Signal| *signal != Signal::HUP || !has(ignored, *signal);
            Self::of(REQUESTS.iter().filter(|(_, signal)| is_caught(signal)))
        }

        /// Catches all signals that would end this process and, if `stops`, those that stop it temporarily, to forward
        /// them to a command. Ignored signals stay ignored, and the command inherits that.
        pub(crate) fn catch_all(stops: bool) -> Result<Self, Failure> {
            let ignored = ignored().unwrap_or(0);
            let is_caught = |signal: Signal| !has(ignored, signal) && (stops || signal != Signal::TSTP);
            Self::of(REQUESTS.iter().chain(OTHERS).filter(|(_, signal)| is_caught(*signal)))
        }

        fn of(which: impl Iterator<Item = &'static (&'static str, Signal)>) -> Result<Self, Failure> {
            let caught = which.map(|(name, which)| {
                let number = which.as_raw();
                Ok((Caught { name, number }, signal(SignalKind::from_raw(number))?))
            });
            let caught: std::io::Result<_> = caught.collect();
            caught.map(Self).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))
        }

        /// Waits for the next one. Cancel safe.
        pub(crate) async fn next(&mut self) -> Caught {
            poll_fn(|context| {
                for (caught, signal) in &mut self.0 {
                    if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                        return Poll::Ready(*caught);
                    }
                }
                Poll::Pending
            })
            .await
        }
    }

    /// The ignored signals, one bit each, if the system reports them.
    fn ignored() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    }

    const fn has(mask: u64, signal: Signal) -> bool {
        mask & 1 << (signal.as_raw() - 1) != 0
    }

    /// Sends it to the command, unless the terminal has done so: Ctrl-C and Ctrl-\ are sent to all foreground
    /// processes.
    pub(crate) fn forward(caught: Caught, child: &tokio::process::Child) {
        let typed = matches!(caught.name, "SIGINT" | "SIGQUIT") && is_in_front();
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let signal = Signal::from_named_raw(caught.number);
        if let (false, Some(pid), Some(signal)) = (typed, pid, signal) {
            // A process that has ended needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether this process is in the foreground of a terminal.
    fn is_in_front() -> bool {
        std::fs::File::open("/dev/tty").is_ok_and(|terminal| {
            rustix::termios::tcgetpgrp(&terminal).is_ok_and(|front| front == rustix::process::getpgrp())
        })
    }

    /// Stops this process, as SIGTSTP does by default. Returns when it is resumed.
    pub(crate) fn stop_for_a_while() {
        // It cannot fail: the target is this process.
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

#[cfg(not(unix))]
pub(crate) use other::{Signals, forward, stop_for_a_while};

#[cfg(not(unix))]
mod other {
    use super::{Caught, Failure};

    /// Waits for Ctrl-C.
    #[derive(Debug)]
    pub(crate) struct Signals;

    impl Signals {
        /// From here on, Ctrl-C is caught.
        pub(crate) fn catch() -> Result<Self, Failure> {
            Ok(Self)
        }

        /// The same: there are no other signals.
        pub(crate) fn catch_all(_: bool) -> Result<Self, Failure> {
            Self::catch()
        }

        /// Waits for the next one. Cancel safe.
        pub(crate) async fn next(&mut self) -> Caught {
            match tokio::signal::ctrl_c().await {
                Ok(()) => Caught { name: "Ctrl-C", number: 2 },
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// The system has done it.
    pub(crate) fn forward(_: Caught, _: &tokio::process::Child) {}

    /// There is no such thing.
    pub(crate) fn stop_for_a_while() {}
}
