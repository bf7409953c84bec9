//! Being asked to stop, and signals that are for a command which is run.

use crate::failure::Failure;
use std::fmt;
use std::time::{Duration, Instant};

/// A signal that comes so soon after another one is the same request, sent twice: for example to the process and to its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// A signal that was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caught {
    name: &'static str,
    number: i32,
}

impl Caught {
    /// The failure of a command that it has ended before it was done: the code is 128 and its number, as that of a shell.
    pub(crate) fn ended(self, message: impl fmt::Display) -> Failure {
        Failure::passed_on(u8::try_from(128 + self.number).unwrap_or(u8::MAX), message)
    }

    /// Whether it is Ctrl-C, or was sent as if it were.
    pub(crate) fn is_interrupt(self) -> bool {
        self.number == 2
    }

    /// Whether it is to stop this process for a while (Ctrl-Z): [`stop_for_a_while`] does.
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
    /// Waits for another request to stop, after one that came at `first`. Cancel safe.
    pub(crate) async fn again(&mut self, first: Instant) -> Caught {
        loop {
            let signal = self.next().await;
            if first.elapsed() >= ONE_REQUEST {
                return signal;
            }
        }
    }

    /// Waits for the next one that does not just stop this process for a while; those that do are obeyed. Cancel safe.
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

    /// What asks a process to end.
    const REQUESTS: &[(&str, Signal)] =
        &[("SIGINT", Signal::INT), ("SIGTERM", Signal::TERM), ("SIGHUP", Signal::HUP)];

    /// What else would end it, or stop it for a while.
    const OTHERS: &[(&str, Signal)] = &[
        ("SIGQUIT", Signal::QUIT),
        ("SIGUSR1", Signal::USR1),
        ("SIGUSR2", Signal::USR2),
        ("SIGALRM", Signal::ALARM),
        ("SIGTSTP", Signal::TSTP),
    ];

    /// Waits for signals, for each time anew. From when it is made they do nothing else to this process.
    #[derive(Debug)]
    pub(crate) struct Signals(Vec<(Caught, tokio::signal::unix::Signal)>);

    impl Signals {
        /// Catches what asks a process to end: SIGINT, SIGTERM, and SIGHUP unless that is ignored (`nohup`).
        pub(crate) fn catch() -> Result<Self, Failure> {
            // If the system does not report what is ignored, SIGHUP is left as it is.
            let ignored = ignored().unwrap_or(u64::MAX);
            let is_caught = |signal: &Signal| *signal != Signal::HUP || !has(ignored, *signal);
            Self::of(REQUESTS.iter().filter(|(_, signal)| is_caught(signal)))
        }

        /// Catches all that would end this process, and if `stops` also what stops it for a while, to pass it on to a command. What is ignored
        /// stays so: then the command ignores it as well.
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

    /// Which signals are ignored, a bit for each, if the system reports it.
    fn ignored() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    }

    const fn has(mask: u64, signal: Signal) -> bool {
        mask & 1 << (signal.as_raw() - 1) != 0
    }

    /// Sends it to the command, unless the terminal has done so: what is typed there (Ctrl-C, Ctrl-\) goes to all processes in front.
    pub(crate) fn forward(caught: Caught, child: &tokio::process::Child) {
        let typed = matches!(caught.name, "SIGINT" | "SIGQUIT") && is_in_front();
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let signal = Signal::from_named_raw(caught.number);
        if let (false, Some(pid), Some(signal)) = (typed, pid, signal) {
            // One that has ended needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether this process is in the foreground of a terminal.
    fn is_in_front() -> bool {
        std::fs::File::open("/dev/tty").is_ok_and(|terminal| {
            rustix::termios::tcgetpgrp(&terminal).is_ok_and(|front| front == rustix::process::getpgrp())
        })
    }

    /// Stops this process, as SIGTSTP does where it is not caught. Returns when it is resumed.
    pub(crate) fn stop_for_a_while() {
        // It cannot fail: it is this process.
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

#[cfg(not(unix))]
pub(crate) use other::{Signals, pass_on, stop_for_a_while};

#[cfg(not(unix))]
mod other {
    use super::{Caught, Failure};

    /// Waits for Ctrl-C, each time anew.
    #[derive(Debug)]
    pub(crate) struct Signals;

    impl Signals {
        /// From here on Ctrl-C is caught.
        pub(crate) fn catch() -> Result<Self, Failure> {
            Ok(Self)
        }

        /// The same: there is nothing else.
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
    pub(crate) fn pass_on(_: Caught, _: &tokio::process::Child) {}

    /// There is no such thing.
    pub(crate) fn stop_for_a_while() {}
}
