//! `kv shell` and `kv top` at a terminal, which is to be afterwards as it was before.

use crate::harness::{Cluster, until, wait};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};

/// What ends the marking of pasted text, gives the cursor back, and leaves the second screen.
const UNMARK_PASTES: &str = "\u{1b}[?2004l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const FIRST_SCREEN: &str = "\u{1b}[?1049l";

/// A terminal with a program on it.
struct Terminal {
    /// The end that types and sees, and the end of the program.
    user: File,
    line: File,
    before: String,
    seen: Arc<Mutex<Vec<u8>>>,
    /// How much of it the test has looked at.
    looked: usize,
    child: Child,
}

impl Terminal {
    /// The terminal controls the program: typed characters interrupt it, and it is notified of a new size.
    fn run(cluster: &Cluster, arguments: &[&str]) -> Self {
        Self::run_under(cluster, &[], arguments)
    }

    /// The same, with `kv` and its arguments behind another program.
    fn run_under(cluster: &Cluster, under: &[&str], arguments: &[&str]) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let line = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let (user, line) = (File::from(user), File::from(line));
        resize(&user, 24, 200);
        let before = modes(&line);
        let under: Vec<_> = [&["setsid", "--ctty"], under].concat().into_iter().map(str::to_owned).collect();
        let mut command = cluster.kv_under(&under, arguments);
        command.env("TERM", "xterm").env("XDG_STATE_HOME", cluster.folder.path());
        let end = || line.try_clone().unwrap();
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut screen, output) = (user.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with an error, when nobody has the program's end any more.
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                output.lock().unwrap().extend_from_slice(&bytes[..len]);
            }
        });
        Self { user, line, before, seen, looked: 0, child }
    }

    fn type_in(&mut self, text: &str) {
        self.user.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is shown, after the text that was waited for before.
    fn shows(&mut self, text: &str) {
        let found = || {
            let seen = self.seen.lock().unwrap();
            let at = seen[self.looked..].windows(text.len()).position(|window| window == text.as_bytes())?;
            Some(self.looked + at + text.len())
        };
        until(&format!("{text:?} is shown"), || found().is_some());
        self.looked = found().unwrap();
    }

    /// Waits until lines are edited, not by the system but by the program.
    fn is_edited(&self) {
        until("the program has the terminal", || {
            !tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ICANON)
        });
    }

    /// A command at the prompt, and the end of its output.
    fn asks(&mut self, command: &str, answer: &str) {
        self.is_edited();
        self.type_in(&format!("{command}\r"));
        self.shows(answer);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the program, which must leave the terminal as it was.
    fn ends(&mut self) -> ExitStatus {
        let status = wait(&mut self.child);
        assert_eq!(modes(&self.line), self.before);
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the terminal: {:?}", String::from_utf8_lossy(&self.seen.lock().unwrap()));
        }
    }
}

fn modes(line: &File) -> String {
    let modes: Termios = tcgetattr(line).unwrap();
    format!("{modes:?}")
}

fn resize(user: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(user, size).unwrap();
}

#[test]
fn a_shell_has_editing_completion_history_and_interrupts() {
    let cluster = Cluster::start(&["data"], &[]);
    let mut terminal = Terminal::run(&cluster, &["shell"]);
    terminal.asks("put greeting hello", "\r\nrevision ");
    terminal.asks("ge\tgreetinX\u{7f}g", "\r\nhello\r\n");
    terminal.asks("get nobody", "the key \"nobody\" does not exist\r\n");
    terminal.asks("\u{1b}[A\u{1b}[A", "\r\nhello\r\n");
    terminal.asks(" put unheard of", "\r\nrevision ");
    terminal.is_edited();
    terminal.type_in("this is dropped\u{3}");
    terminal.shows(UNMARK_PASTES);
    terminal.shows("kv> ");
    terminal.asks("get greeting", "\r\nhello\r\n");
    // Pasted: two commands.
    terminal.asks("\u{1b}[200~put a first\nget a\n\u{1b}[201~", "\r\nfirst\r\n");
    // It is waited for with the line discipline as it was; what is typed then interrupts it.
    terminal.asks("watch", UNMARK_PASTES);
    until("the watch is there", || {
        assert!(cluster.run(&["put", "seen", "it"]).status.success());
        String::from_utf8_lossy(&terminal.seen.lock().unwrap()).contains("\tput\tseen\tit\r\n")
    });
    assert_eq!(modes(&terminal.line), terminal.before);
    terminal.type_in("\u{3}");
    terminal.asks("get greeting", "\r\nhello\r\n");
    terminal.is_edited();
    terminal.type_in("\u{4}");
    assert!(terminal.ends().success());
    let history = fs::read_to_string(cluster.folder.path().join("kv/history")).unwrap();
    assert!(history.contains("\nget greeting\n") && !history.contains("unheard"), "{history}");
}

#[test]
fn a_terminated_shell_restores_the_terminal() {
    let cluster = Cluster::start(&["data"], &[]);
    let nobody = &["shell", "--address", "127.0.0.1:1", "--timeout", "10min"];
    // In the middle of a line, and of a command; and with no member to be found.
    for (options, line, shown, signal) in [
        (&["shell"][..], "get gre", "get gre", Signal::TERM),
        (&["shell"], "get gre", "get gre", Signal::HUP),
        (&["shell"], "watch\r", UNMARK_PASTES, Signal::TERM),
        (&["shell"], "watch\r", UNMARK_PASTES, Signal::HUP),
        (nobody, "get a\r", UNMARK_PASTES, Signal::TERM),
        (nobody, "lock l -- true\r", UNMARK_PASTES, Signal::TERM),
        (nobody, "lock l -- true\r", UNMARK_PASTES, Signal::HUP),
    ] {
        let mut terminal = Terminal::run(&cluster, options);
        terminal.is_edited();
        terminal.type_in(line);
        terminal.shows(shown);
        terminal.signal(signal);
        assert!(terminal.ends().success(), "{line} {signal:?}");
        terminal.line.write_all(b"the end").unwrap();
        terminal.shows("the end");
        let seen = terminal.seen.lock().unwrap();
        let text = String::from_utf8_lossy(&seen);
        let last = text.rfind("\u{1b}[?2004").map(|at| &text[at..]);
        assert!(last.is_some_and(|last| last.starts_with(UNMARK_PASTES)), "{text:?}");
    }
}

#[test]
fn top_fills_the_screen_and_restores_it() {
    let cluster = Cluster::start(&["data"], &[]);
    let leave: [fn(&mut Terminal); 4] = [
        |top| top.type_in("q"),
        |top| top.type_in("\u{3}"),
        |top| top.signal(Signal::TERM),
        |top| top.signal(Signal::HUP),
    ];
    for leave in leave {
        let mut top = Terminal::run(&cluster, &["top", "--interval", "100ms"]);
        top.shows("cluster kv: 1 of 1 members answer");
        top.shows(cluster.address(0));
        resize(&top.user, 2, 200);
        // There is room for the first line only.
        top.shows(", revision 0\u{1b}[K\r\n\u{1b}[J");
        leave(&mut top);
        assert!(top.ends().success());
        top.shows(SHOW_CURSOR);
        top.shows(FIRST_SCREEN);
    }
}

/// Ctrl-C reaches the command once, from the terminal, and the command decides what to do.
#[test]
fn a_command_under_a_lock_receives_ctrl_c_once() {
    let cluster = Cluster::start(&["data"], &[]);
    let script = "trap 'echo interrupted; sleep 0.2; exit 5' INT; echo at work; while :; do sleep 0.05; done";
    let mut terminal = Terminal::run(&cluster, &["lock", "l", "--", "sh", "-c", script]);
    terminal.shows("at work");
    terminal.type_in("\u{3}");
    assert_eq!(terminal.ends().code(), Some(5));
    let seen = String::from_utf8_lossy(&terminal.seen.lock().unwrap()).into_owned();
    assert_eq!(seen.matches("interrupted").count(), 1, "{seen:?}");
    assert!(cluster.run(&["lock", "l", "--wait", "0s", "--", "true"]).status.success(), "it is free");
}

/// Ctrl-Z stops the command together with its lock, even if the command ignores it. Afterwards it continues only if the
/// lock is still held.
#[test]
fn a_stopped_command_continues_only_if_the_lock_is_still_held() {
    let cluster = Cluster::start(&["data"], &[]);
    for lost in [false, true] {
        // A shell with jobs, which runs kv, and prints when it has stopped.
        let shell = "\"$0\" \"$@\"; echo stopped; read go; fg >/dev/null; echo code $?";
        let script = "trap '' TSTP; echo at work; read word; echo got $word";
        let lock = ["lock", "l", "--ttl", "1h", "--", "sh", "-c", script];
        let mut terminal = Terminal::run_under(&cluster, &["bash", "-mc", shell], &lock);
        terminal.shows("at work");
        terminal.type_in("\u{1a}");
        terminal.shows("stopped\r\n");
        if lost {
            assert!(cluster.run(&["delete", "l"]).status.success());
        }
        terminal.type_in("go\r");
        if lost {
            terminal.shows("lock was");
            terminal.shows("killed");
            terminal.shows("code 1\r\n");
        } else {
            terminal.type_in("word\r");
            terminal.shows("got word\r\n");
            terminal.shows("code 0\r\n");
        }
        wait(&mut terminal.child);
    }
}

#[test]
fn a_backup_is_not_printed_on_a_terminal() {
    let cluster = Cluster::start(&["data"], &[]);
    let mut terminal = Terminal::run(&cluster, &["backup", "-o", "-"]);
    terminal.shows("not printed on a terminal");
    assert_eq!(terminal.ends().code(), Some(2));
}

#[test]
fn stored_bytes_cannot_control_the_terminal() {
    let cluster = Cluster::start(&["data"], &[]);
    // A key and a value that would clear the screen, ring, and forge a line.
    let (key, value) = ("6b1b5b324a07", "761b5b324a0a66c29b316d");
    assert!(cluster.run(&["put", "--hex", key, value]).status.success());
    assert!(cluster.run(&["put", "file", "value"]).status.success());
    for (command, shown) in [
        (&["get", "k\u{1b}[2J\u{7}"][..], "v\\x1b[2J\r\nf\\u{9b}1m\r\n"),
        (&["scan", "k"], "k\\x1b[2J\\x07\tv\\x1b[2J\\nf\\u{9b}1m\r\n"),
        (&["scan", "k", "--keys-only"], "k\\x1b[2J\\x07\r\n"),
        (&["scan", "k", "--json"], "\"key\":\"k\\u001b[2J\\u0007\""),
        (&["watch", "k", "--from", "1", "--limit", "1"], "\tput\tk\\x1b[2J\\x07\tv\\x1b"),
        (&["watch", "k", "--from", "1", "--limit", "1", "--json"], "\"value\":\"v\\u001b"),
        (&["get", "none\u{1b}[2J"], "none\\u{1b}[2J"),
        (&["put", "k", "v", "--address", "a\u{1b}[2J:1"], "a\\u{1b}[2J"),
    ] {
        let mut terminal = Terminal::run(&cluster, command);
        terminal.shows(shown);
        terminal.ends();
        let seen = terminal.seen.lock().unwrap();
        assert!(!seen.contains(&0x1b) && !seen.contains(&7), "{:?}", String::from_utf8_lossy(&seen));
    }
    // Elsewhere, bytes are bytes.
    assert_eq!(cluster.run(&["get", "--hex", key]).stdout, format!("{value}\n").into_bytes());
    assert!(cluster.run(&["scan", "k"]).stdout.starts_with(b"k\x1b[2J\x07\tv\x1b[2J\nf"));
}
