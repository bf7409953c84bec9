//! The processes that a command has started, directly or indirectly: on Linux all of them, even if their parents have
//! ended. Elsewhere only the command itself.

use std::time::Duration;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

/// How long remaining processes may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How long killed processes may take to disappear: a process that waits for a disk ends when the disk answers.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// How often to look.
const EVERY: Duration = Duration::from_millis(10);

/// The processes below this one.
#[derive(Debug)]
pub(crate) struct Descendants(());

impl Descendants {
    /// From now on, a process below this one whose parent ends becomes a child of this one, so that it can be found.
    pub(crate) fn adopt() -> Self {
        #[cfg(target_os = "linux")]
        // If the system refuses, processes whose parents have ended are not found.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Self(())
    }

    /// Kills the command and all processes that it has started.
    pub(crate) async fn kill(&self, child: &mut Child) {
        // It fails only if the command has ended.
        let _ = child.start_kill();
        let until = Instant::now() + GONE_WITHIN;
        while send(child, What::Kill) && Instant::now() < until {
            sleep(EVERY).await;
        }
        // A process that cannot be killed is not waited for.
        let _ = child.try_wait();
    }

    /// Stops the processes until they are resumed.
    pub(crate) fn freeze(&self, child: &mut Child) {
        send(child, What::Stop);
    }

    /// Resumes the processes.
    pub(crate) fn thaw(&self, child: &mut Child) {
        send(child, What::GoOn);
    }

    /// Asks the remaining processes to end (SIGTERM), and kills those that do not.
    pub(crate) async fn end(&self, child: &mut Child) {
        if !send(child, What::End) {
            return;
        }
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            if !any(child) {
                return;
            }
            sleep(EVERY).await;
        }
        self.kill(child).await;
    }
}

/// What to send to the processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Kill,
    End,
    Stop,
    GoOn,
}

/// Sends it to all. Returns whether there were any.
#[cfg(target_os = "linux")]
fn send(child: &mut Child, what: What) -> bool {
    use rustix::process::{Signal, kill_process};
    let signal = match what {
        What::Kill => Signal::KILL,
        What::End => Signal::TERM,
        What::Stop => Signal::STOP,
        What::GoOn => Signal::CONT,
    };
    let all = linux::running(child);
    for process in &all {
        // The process has ended in the meantime, or belongs to another user.
        let _ = kill_process(*process, signal);
    }
    !all.is_empty()
}

/// Returns whether any process is left.
#[cfg(target_os = "linux")]
fn any(child: &mut Child) -> bool {
    !linux::running(child).is_empty()
}

#[cfg(not(target_os = "linux"))]
fn send(child: &mut Child, what: What) -> bool {
    if what == What::Kill {
        let _ = child.start_kill();
    }
    any(child)
}

#[cfg(not(target_os = "linux"))]
fn any(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::process::{Pid, WaitOptions, getpid, waitpid};
    use std::collections::BTreeMap;
    use std::fs;
    use tokio::process::Child;

    /// A process, as the system reports it.
    #[derive(Debug)]
    struct Process {
        parent: i32,
        has_ended: bool,
    }

    /// All running processes below this one. Also collects its ended children, except the command itself.
    pub(super) fn running(child: &mut Child) -> Vec<Pid> {
        // Only its own handle collects it.
        let _ = child.try_wait();
        let command = child.id().and_then(|id| i32::try_from(id).ok());
        let me = getpid().as_raw_nonzero().get();
        let all = processes();
        let mut running = Vec::new();
        for (id, process) in &all {
            let Some(pid) = Pid::from_raw(*id) else { continue };
            if !is_below(&all, *id, me) {
                continue;
            }
            if !process.has_ended {
                running.push(pid);
            } else if process.parent == me && Some(*id) != command {
                // It has ended, so this does not wait.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        running
    }

    fn is_below(all: &BTreeMap<i32, Process>, id: i32, top: i32) -> bool {
        let mut at = id;
        // A process may have ended in the meantime and its number been reused, so the parents may appear to form a
        // cycle.
        for _ in 0..all.len() {
            match all.get(&at) {
                Some(process) if process.parent == top => return true,
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    }

    fn processes() -> BTreeMap<i32, Process> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that has just ended has no file any more.
            let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
            if let Some(process) = parse(&stat) {
                all.insert(id, process);
            }
        }
        all
    }

    /// Parses `PID (NAME) STATE PARENT ...`, where the name may contain anything.
    fn parse(stat: &[u8]) -> Option<Process> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
        Some(Process { parent: fields.next()?.parse().ok()?, has_ended })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_process_with_any_name_is_parsed() {
            let process = parse(b"17 (a) S 1 (b) ) S 4 17 17 0").expect("it is one");
            assert_eq!((process.parent, process.has_ended), (4, false));
            assert!(parse(b"17 (zombie) Z 4 17").expect("it is one").has_ended);
            for wrong in ["", "17", "17 (name)", "17 (name) S", "17 (name) S x"] {
                assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
            }
        }

        #[test]
        fn only_descendants_are_found() {
            let all = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 7), (7, 6)];
            let all = all.map(|(id, parent)| (id, Process { parent, has_ended: false })).into();
            let below: Vec<i32> = (1..8).filter(|id| is_below(&all, *id, 2)).collect();
            assert_eq!(below, [3, 4]);
        }
    }
}
