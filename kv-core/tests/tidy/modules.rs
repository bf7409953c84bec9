//! The allowed dependencies between modules. One row for each module of `kv-core`: a name that is not in the row is a
//! forbidden `use`.

use crate::source::{Source, group_end, is_word, words};

/// A module of `kv-core` and what its code may name: other modules, and these things outside of the crate:
/// `transport` (the crate `kv_transport`), `tokio`, `files` (`std::fs`), `sockets` (`std::net`), `threads`
/// (`std::thread`).
struct Row {
    module: &'static str,
    may_use: &'static [&'static str],
}

const TABLE: &[Row] = &[
    Row { module: "ids", may_use: &[] },
    Row { module: "config", may_use: &["ids"] },
    Row { module: "message", may_use: &["ids", "config", "transport"] },
    Row { module: "error", may_use: &["ids", "config", "message", "wire", "client", "transport"] },
    Row { module: "wire", may_use: &["ids", "config", "message", "transport", "tokio"] },
    Row { module: "replica", may_use: &["ids", "config", "message", "session"] },
    Row { module: "session", may_use: &["ids", "config", "message"] },
    Row { module: "kv", may_use: &["ids", "config", "message", "session", "engine", "storage"] },
    Row { module: "engine", may_use: &["ids", "config", "message", "storage"] },
    Row { module: "storage", may_use: &["files"] },
    Row { module: "journal", may_use: &["ids", "config", "message", "storage"] },
    Row {
        module: "node",
        may_use: &[
            "ids",
            "config",
            "error",
            "message",
            "wire",
            "replica",
            "session",
            "kv",
            "engine",
            "storage",
            "journal",
            "client",
            "transport",
            "tokio",
            "files",
            "threads",
            "detached",
            "lazy_timer",
        ],
    },
    Row { module: "offline", may_use: &["ids", "config", "message", "kv", "engine", "storage", "journal"] },
    Row {
        module: "client",
        may_use: &[
            "ids",
            "config",
            "error",
            "message",
            "detached",
            "lazy_timer",
            "wire",
            "transport",
            "tokio",
        ],
    },
    Row { module: "detached", may_use: &["threads", "tokio"] },
    Row { module: "lazy_timer", may_use: &["tokio"] },
    Row {
        module: "testing",
        may_use: &["config", "message", "wire", "node", "client", "storage", "transport", "tokio"],
    },
];

/// Names outside of the crate that the table speaks of.
const OUTSIDE: &[(&str, &str)] = &[
    ("kv_transport::", "transport"),
    ("tokio::", "tokio"),
    ("std::fs", "files"),
    ("std::net", "sockets"),
    ("std::thread", "threads"),
];

/// Complains of every name in `source` that its module may not use.
pub(crate) fn forbidden_uses(source: &Source) -> Vec<String> {
    if let Some(inside) = source.path.strip_prefix("kv-core/src/") {
        let path: Vec<&str> = inside.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
        return if path == ["lib"] { Vec::new() } else { check_module(source, &path) };
    }
    if source.path.starts_with("kv-core/sim/src/") && !source.path.starts_with("kv-core/sim/src/bin/") {
        return check_simulator(source);
    }
    let transport =
        ["kv-core/transport/", "kv-transport-"].iter().any(|prefix| source.path.starts_with(prefix));
    if !transport {
        return Vec::new();
    }
    let complaint = "a transport never uses kv-core: the trait is in kv-transport";
    if source.path.ends_with(".rs") {
        words(&source.code, "kv_core").map(|at| source.complain(at, complaint)).collect()
    } else if source.path.ends_with("Cargo.toml")
        && source.text.lines().any(|line| line.starts_with("kv-core"))
    {
        vec![format!("{}: {complaint}", source.path)]
    } else {
        Vec::new()
    }
}

fn check_module(source: &Source, path: &[&str]) -> Vec<String> {
    let Some(row) = TABLE.iter().find(|row| row.module == path[0]) else {
        return vec![format!("{}: module {} has no row in {}", source.path, path[0], file!())];
    };
    let uses = inner_uses(&source.code, path).into_iter().chain(outer_uses(&source.code));
    let wrong = uses.filter(|(at, name)| {
        !source.is_test(*at) && name != row.module && !row.may_use.contains(&name.as_str())
    });
    wrong
        .map(|(at, name)| source.complain(at, &format!("{} may not use {name}: see {}", row.module, file!())))
        .collect()
}

/// The simulator drives what decides, on simulated time: it has no node, no runtime, no files and no threads.
fn check_simulator(source: &Source) -> Vec<String> {
    let outside = outer_uses(&source.code).into_iter().filter(|(_, name)| name != "transport");
    let node = words(&source.code, "kv_core::node").map(|at| (at, "node".to_owned()));
    let wrong = outside.chain(node).filter(|(at, _)| !source.is_test(*at));
    wrong.map(|(at, name)| source.complain(at, &format!("the simulator may not use {name}"))).collect()
}

/// What the code names outside of the crate.
fn outer_uses(code: &str) -> Vec<(usize, String)> {
    let each =
        OUTSIDE.iter().flat_map(|(pattern, name)| words(code, pattern).map(|at| (at, (*name).to_owned())));
    each.filter(|(at, _)| *at < 2 || &code[at - 2..*at] != "::").collect()
}

/// What the code of module `path` names by `crate::` and by `super::` chains that reach the root.
fn inner_uses(code: &str, path: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate::") {
        let in_macro = at > 0 && code.as_bytes()[at - 1] == b'$';
        if !in_macro {
            found.extend(names(code, at + "crate::".len()).into_iter().map(|name| (at, name)));
        }
    }
    let to_root = "super::".repeat(path.len());
    for at in words(code, &to_root) {
        let whole_chain = at < 2 || &code[at - 2..at] != "::";
        if whole_chain {
            let heads =
                names(code, at + to_root.len()).into_iter().filter(|name| name != "super" && name != "*");
            found.extend(heads.map(|name| (at, name)));
        }
    }
    found
}

/// The first name, or the first names of each part of a `{}` group, that stand at `at`.
pub(crate) fn names(code: &str, at: usize) -> Vec<String> {
    let rest = &code[at..];
    if !rest.starts_with('{') {
        let length = rest.bytes().take_while(|&byte| is_word(byte)).count();
        return vec![if length == 0 { rest.chars().take(1).collect() } else { rest[..length].to_owned() }];
    }
    let end = group_end(code, at) - 1;
    let mut names_found = Vec::new();
    let mut place = at + 1;
    while place < end {
        let byte = code.as_bytes()[place];
        if is_word(byte) {
            names_found.extend(names(code, place));
            while place < end && code.as_bytes()[place] != b',' {
                place = if code.as_bytes()[place] == b'{' { group_end(code, place) } else { place + 1 };
            }
        }
        place += 1;
    }
    names_found
}

mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        forbidden_uses(&Source::new(path, text)).len()
    }

    #[test]
    fn a_module_may_use_its_row_and_itself() {
        let text = "use crate::ids::{Op, View};\nuse crate::{config::Cluster, message};\nuse super::api;\nuse crate::replica::Input;";
        assert_eq!(complaints("kv-core/src/replica/normal.rs", text), 0);
    }

    #[test]
    fn the_replica_may_not_use_the_journal_however_it_is_named() {
        let file = "kv-core/src/replica/normal.rs";
        assert_eq!(complaints(file, "use crate::journal::Journal;"), 1);
        assert_eq!(
            complaints(file, "use crate::{\n    ids::{Op, View},\n    journal,\n    node::Node,\n};"),
            2
        );
        assert_eq!(complaints(file, "use super::super::journal::Journal;"), 1);
        assert_eq!(complaints(file, "fn a() { crate::journal::open() }"), 1);
        assert_eq!(complaints("kv-core/src/replica/mod.rs", "use super::journal::Journal;"), 1);
        assert_eq!(complaints(file, "use super::log::Log;"), 0);
    }

    #[test]
    fn pure_modules_may_not_use_tokio_files_sockets_or_threads() {
        let text = "use tokio::spawn;\nuse std::fs;\nuse std::net::TcpStream;\nuse std::thread;\nuse kv_transport::Lane;";
        assert_eq!(complaints("kv-core/src/replica/mod.rs", text), 5);
        assert_eq!(complaints("kv-core/src/engine/mod.rs", text), 5);
        assert_eq!(complaints("kv-core/src/journal/mod.rs", text), 5);
    }

    #[test]
    fn test_code_may_use_anything() {
        let text = "#[cfg(test)]\nmod tests {\n    use crate::node::Node;\n}\n";
        assert_eq!(complaints("kv-core/src/journal/mod.rs", text), 0);
    }

    #[test]
    fn the_client_may_not_use_the_replica_or_the_journal() {
        assert_eq!(complaints("kv-core/src/client/mod.rs", "use crate::{replica, journal, wire};"), 2);
    }

    #[test]
    fn the_simulator_may_not_use_what_has_a_clock_of_its_own() {
        let text =
            "use tokio::spawn;\nuse std::fs;\nuse std::thread;\nuse kv_core::node::Node;\nuse kv_core::kv;";
        assert_eq!(complaints("kv-core/sim/src/world.rs", text), 4);
        assert_eq!(complaints("kv-core/sim/src/bin/kv-sim/main.rs", text), 0);
    }

    #[test]
    fn a_transport_may_not_use_the_core() {
        assert_eq!(complaints("kv-transport-tcp/src/lib.rs", "use kv_core::ids::Op;"), 1);
        assert_eq!(complaints("kv-core/transport/src/lib.rs", "use kv_core::ids::Op;"), 1);
        assert_eq!(
            complaints("kv-transport-tcp/Cargo.toml", "[dependencies]\nkv-core.workspace = true\n"),
            1
        );
    }

    #[test]
    fn a_module_without_a_row_is_refused() {
        assert_eq!(complaints("kv-core/src/extra/mod.rs", ""), 1);
    }
}
