//! The rules for documents: links are not broken, tables match the code, the top level stays as designed.

use crate::source::{Source, is_word, root, words};
use std::fs;

/// The allowed names at the top level, besides hidden ones.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "examples",
    "kv-bin",
    "kv-core",
    "kv-transport-quic",
    "kv-transport-tcp",
    "target",
];

/// Names at the top level that the design does not have. (The data of a member that was started here is allowed.)
pub(crate) fn stray_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let strays = names
        .into_iter()
        .filter(|name| !name.starts_with('.') && !name.starts_with("kv-data-") && !TOP_LEVEL.contains(name));
    strays.map(|name| format!("{name}: not part of the top level")).collect()
}

/// The folders of crates in the manifest of the workspace that the list of ignored files (`.dockerignore`) does not
/// permit.
pub(crate) fn missing_in_container(workspace: &str, list: &str) -> Vec<String> {
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).unwrap_or_default();
    let mut folders: Vec<&str> =
        quoted(members).map(|path| path.split('/').next().unwrap_or_default()).collect();
    folders.dedup();
    assert!(!folders.is_empty(), "the workspace has members");
    let is_there = |folder: &&str| list.lines().any(|line| line.strip_prefix('!') == Some(*folder));
    folders
        .into_iter()
        .filter(|folder| !is_there(folder))
        .map(|folder| format!("!{folder} is missing"))
        .collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// The names at the top level.
pub(crate) fn top_level() -> Vec<String> {
    let entries = fs::read_dir(root()).expect("the workspace is readable");
    entries
        .map(|entry| entry.expect("the workspace is readable").file_name().to_string_lossy().into_owned())
        .collect()
}

/// Links of a document to files that are not there. Links to the web are not looked at, and those to items are
/// rustdoc's.
pub(crate) fn broken_links(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if !source.path.ends_with(".md") {
        return found;
    }
    let directory = source.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    for (number, line) in source.text.lines().enumerate() {
        for (at, opening) in line.match_indices("](") {
            let target = line[at + opening.len()..].split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.contains("::");
            if !elsewhere && !file.is_empty() && !exists(&resolve(directory, file)) {
                found.push(format!("{}:{}: {target} leads nowhere", source.path, number + 1));
            }
        }
    }
    found
}

/// The modules of the library that are public only with the feature `internals`.
pub(crate) fn closed_modules(library: &str) -> Vec<&str> {
    let behind = library.split("#[cfg(feature = \"internals\")]\npub mod ").skip(1);
    behind.filter_map(|rest| rest.split_once(';')).map(|(name, _)| name).collect()
}

/// Lines of documents, and of documentation in code, that name an item in one of the `closed` modules.
pub(crate) fn uses_of_closed_modules(source: &Source, closed: &[&str]) -> Vec<String> {
    let document = source.path.ends_with(".md");
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let documentation = line.trim_start();
        if !document && !documentation.starts_with("///") && !documentation.starts_with("//!") {
            continue;
        }
        let named = |module: &&&str| line.contains(&format!("kv_core::{module}::"));
        found.extend(closed.iter().find(named).map(|module| {
            format!("{}:{}: applications do not see kv_core::{module}", source.path, number + 1)
        }));
    }
    found
}

/// `relative` as seen from `directory`, both in the workspace.
fn resolve(directory: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The rows of the table of messages, as `Message | from, to | lane | handler`; backquotes and doc slashes aside.
pub(crate) fn message_table(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let rows = lines.skip_while(|line| !line.starts_with("| message |")).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(|line| line.replace('`', "")).collect()
}

/// Handlers of the table that no code defines, and messages of the enum that the table does not have.
pub(crate) fn table_against_code(table: &[String], variants: &[String], code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for row in table {
        let handler = row.trim_end_matches('|').rsplit("::").next().unwrap_or_default().trim();
        if !code.contains(&format!("fn {handler}(")) {
            found.push(format!("the table of messages names {handler}, and no code does"));
        }
    }
    for variant in variants {
        if !table.iter().any(|row| row.starts_with(&format!("| {variant} |"))) {
            found.push(format!("the table of messages lacks {variant}"));
        }
    }
    found
}

/// The variants of `Message`, from the arms of its function `name`.
pub(crate) fn message_names(text: &str) -> Vec<String> {
    let arms =
        text.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" { .. } => \""));
    arms.map(|(variant, _)| variant.to_owned()).collect()
}

/// What the enum `Message` in `text` looks like: each variant with the names of its fields.
pub(crate) fn message_fields(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.lines().skip_while(|line| *line != "pub enum Message {").skip(1);
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines.take_while(|line| *line != "}") {
        if let Some(variant) = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(" {")) {
            found.push((variant.to_owned(), Vec::new()));
        } else if let Some((name, _)) = line.strip_prefix("        ").and_then(|rest| rest.split_once(": "))
            && name.bytes().all(is_word)
            && let Some((_, fields)) = found.last_mut()
        {
            fields.push(name.to_owned());
        }
    }
    found
}

/// Where the table of messages in `protocol` differs from the enum: messages without a row, rows without a message,
/// fields, and answers that are no messages.
pub(crate) fn messages_against_table(protocol: &str, messages: &[(String, Vec<String>)]) -> Vec<String> {
    let rows = protocol.lines().skip_while(|line| !line.starts_with("| message | from | to |")).skip(2);
    let rows: Vec<Vec<&str>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
        .collect();
    let mut found = Vec::new();
    for (message, fields) in messages {
        let Some(row) = rows.iter().find(|row| row[0] == format!("`{message}`")) else {
            found.push(format!("PROTOCOL.md has no row for {message}"));
            continue;
        };
        let carried = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
        if row.get(4) != Some(&carried.as_str()) {
            found.push(format!("PROTOCOL.md: {message} carries {carried}"));
        }
    }
    for row in &rows {
        let quoted =
            |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let mut names = quoted(row[0]);
        names.extend(
            quoted(row.get(5).unwrap_or(&"")).into_iter().filter(|name| name.starts_with(char::is_uppercase)),
        );
        for name in names {
            if !messages.iter().any(|(message, _)| *message == name) {
                found.push(format!("PROTOCOL.md: there is no message {name}"));
            }
        }
    }
    found
}

/// The ids of the protocol's rules: paragraphs that begin as in `**N4. An acknowledgement ...` or `**V5c. An entry
/// ...`.
pub(crate) fn protocol_rules(text: &str) -> Vec<String> {
    let heads = text.lines().filter_map(|line| line.strip_prefix("**")?.split_once(". "));
    heads.map(|(head, _)| head).filter(|head| is_rule(head)).map(str::to_owned).collect()
}

/// Whether `id` is a capital letter, a number, and possibly a small letter.
fn is_rule(id: &str) -> bool {
    let Some(rest) = id.strip_prefix(|letter: char| letter.is_ascii_uppercase()) else { return false };
    let number = rest.strip_suffix(|letter: char| letter.is_ascii_lowercase()).unwrap_or(rest);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `id` is an area and a number, as in `F-net-5`.
fn is_fault(id: &str) -> bool {
    let parts = id.strip_prefix("F-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(area, number)| {
        let letters = !area.is_empty() && area.bytes().all(|byte| byte.is_ascii_lowercase());
        letters && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Ids of faults that are malformed, that two rows share, or that the protocol uses for a rule.
pub(crate) fn ambiguous_faults(rows: &[(String, Vec<String>)], rules: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, (id, _)) in rows.iter().enumerate() {
        if !is_fault(id) {
            found.push(format!("{id}: the id of a fault is an area and a number, as in F-net-5"));
        }
        if rows[..at].iter().any(|(other, _)| other == id) {
            found.push(format!("{id}: two faults have this id"));
        }
        if rules.contains(id) {
            found.push(format!("{id}: PROTOCOL.md has a rule with this id"));
        }
    }
    found
}

/// Names of tests that begin with the id of a rule or of a fault (`n4_`, `f_net_5_`) that no document has, and ids of
/// faults in any text that `faults` lacks.
pub(crate) fn unknown_ids(rules: &[String], faults: &[String], sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.path.contains("/tidy/")) {
        for name in source.test_lines().filter_map(|line| line.split_once("fn ")?.1.split_once('(')) {
            if let Some(id) = unknown_prefix(name.0, rules, faults) {
                found.push(format!("{}: {} names {id}, which no document has", source.path, name.0));
            }
        }
        for at in words(&source.text, "F-") {
            let end = source.text[at + 2..].find(|next: char| !next.is_ascii_alphanumeric() && next != '-');
            let id = source.text[at..end.map_or(source.text.len(), |end| at + 2 + end)].trim_end_matches('-');
            if is_fault(id) && !faults.iter().any(|fault| fault == id) {
                found.push(format!("{}: FAULTS.md has no {id}", source.path));
            }
        }
    }
    found
}

/// The id that the name of a test begins with, if it is the id of nothing.
fn unknown_prefix(name: &str, rules: &[String], faults: &[String]) -> Option<String> {
    let mut parts = name.split('_');
    let first = parts.next()?;
    if first == "f" {
        let id = format!("F-{}-{}", parts.next()?, parts.next()?);
        return (is_fault(&id) && !faults.contains(&id)).then_some(id);
    }
    // Types, as in `u64_round_trip`, are no ids.
    let id = first[..1.min(first.len())].to_uppercase() + first.get(1..)?;
    (is_rule(&id) && parts.next().is_some() && !first.starts_with(['u', 'i']) && !rules.contains(&id))
        .then_some(id)
}

/// Rules that no test is named after (`fn n4_...`) and no test code cites.
pub(crate) fn untested_rules(rules: &[String], sources: &[Source]) -> Vec<String> {
    let own = |source: &&Source| source.path.ends_with(".rs") && !source.path.contains("/tidy/");
    let tests: Vec<&str> = sources.iter().filter(own).flat_map(Source::test_lines).collect();
    let cited = |rule: &String| {
        let name = format!("fn {}_", rule.to_lowercase());
        tests.iter().any(|line| {
            let rest = words(line, rule).map(|at| line.as_bytes().get(at + rule.len()).copied());
            line.contains(&name) || rest.into_iter().any(|next| !next.is_some_and(is_word))
        })
    };
    rules.iter().filter(|rule| !cited(rule)).map(|rule| format!("no test cites rule {rule}")).collect()
}

/// What the last column of the tables of faults names: each row's number and the names of tests (in backquotes) and of
/// drills (in quotes).
pub(crate) fn fault_rows(text: &str) -> Vec<(String, Vec<String>)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let rows = rows.filter(|columns| columns.len() == 4 && columns[0] != "id");
    rows.map(|columns| {
        let parts = columns[3].split(", ").map(|part| part.trim_matches(['`', '"']).to_owned());
        (columns[0].to_owned(), parts.collect())
    })
    .collect()
}

/// Names in the tables of faults that no test and no drill has. *Seeds* are the simulator's.
pub(crate) fn unknown_tests(rows: &[(String, Vec<String>)], sources: &[Source]) -> Vec<String> {
    let own = |source: &&Source| source.path.ends_with(".rs") && !source.path.contains("/tidy/");
    let tests: Vec<&str> = sources.iter().filter(own).flat_map(Source::test_lines).collect();
    let known = |name: &str| {
        let (function, drill) = (format!("fn {name}("), format!("\"{name}\""));
        name == "seeds" || tests.iter().any(|line| line.contains(&function) || line.contains(&drill))
    };
    let names = rows.iter().flat_map(|(row, names)| names.iter().map(move |name| (row, name)));
    names
        .filter(|(_, name)| !known(name))
        .map(|(row, name)| format!("{row}: no test or drill is named {name}"))
        .collect()
}

mod tests {
    use super::*;

    #[test]
    fn a_crate_that_a_container_does_not_get_is_reported() {
        let workspace = "[workspace]\nmembers = [\"a\", \"a/b\", \"c\", \"d\"]\n";
        assert_eq!(missing_in_container(workspace, "*\n!a\n!c\n!d\n"), [""; 0]);
        assert_eq!(missing_in_container(workspace, "*\n!a\n!cc\nd\n"), ["!c is missing", "!d is missing"]);
    }

    #[test]
    fn an_example_that_names_a_closed_module_is_reported() {
        let library = "#[cfg(not(feature = \"internals\"))]\nmod ids;\n#[cfg(feature = \"internals\")]\npub mod ids;\npub mod node;\n";
        let closed = closed_modules(library);
        assert_eq!(closed, ["ids"]);
        let complaints = |path, text| uses_of_closed_modules(&Source::new(path, text), &closed).len();
        assert_eq!(complaints("a.md", "kv_core::node::Node, kv_core::ids::Op"), 1);
        assert_eq!(complaints("a/src/lib.rs", "/// # use kv_core::ids::Op;\nuse kv_core::ids::Op;"), 1);
    }

    #[test]
    fn a_fault_whose_test_does_not_exist_is_found() {
        let rows = fault_rows(
            "| id | what | then | by |\n|---|---|---|---|\n| F-disk-1 | a | b | `f_disk_1_cut`, \"pull the plug\", seeds |\n| F-disk-2 | a | b | `gone` |\n",
        );
        assert_eq!(rows.len(), 2);
        let tests = Source::new("a/tests/a.rs", "fn f_disk_1_cut() {}\ndrill!(\"pull the plug\")\n");
        assert_eq!(unknown_tests(&rows, &[tests]), ["F-disk-2: no test or drill is named gone"]);
    }

    #[test]
    fn an_id_with_two_meanings_is_found() {
        let rows = ["N1", "F-net-1", "F-net-2", "F-net-1"].map(|id| (id.to_owned(), Vec::new()));
        let found = ambiguous_faults(&rows, &["N1".to_owned()]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1].contains("PROTOCOL.md") && found[2].contains("two faults"), "{found:?}");
    }

    #[test]
    fn a_test_named_after_an_unknown_id_is_found() {
        let names = "fn n4_a() {}\nfn v5c_b() {}\nfn f_net_5_c() {}\nfn u64_d() {}\nfn a_e() {}\n";
        let wrong = "fn n5_a() {}\nfn v5_b() {}\nfn f_net_6_c() {}\n// F-net-6, F-net-5.\n";
        let (rules, faults) = (["N4", "V5c"].map(str::to_owned), ["F-net-5".to_owned()]);
        let sources = |text| [Source::new("a/tests/a.rs", text)];
        assert_eq!(unknown_ids(&rules, &faults, &sources(names)), [""; 0]);
        assert_eq!(unknown_ids(&rules, &faults, &sources(wrong)).len(), 4);
    }

    #[test]
    fn a_new_name_at_the_top_level_is_found() {
        assert_eq!(stray_names(["Cargo.toml", ".ci", "kv-core"]), [""; 0]);
        assert_eq!(stray_names(["docs"]).len(), 1);
    }

    #[test]
    fn a_broken_link_is_found() {
        let text = "[a](src/lib.rs) [b](../README.md#top) [c](https://x.invalid/y) [d](#here) [e](gone.md)";
        let exists = |path: &str| ["kv-core/src/lib.rs", "README.md"].contains(&path);
        let found = broken_links(&Source::new("kv-core/ARCHITECTURE.md", text), exists);
        assert_eq!(found, ["kv-core/ARCHITECTURE.md:1: gone.md leads nowhere"]);
    }

    #[test]
    fn the_table_of_messages_must_name_real_handlers_and_all_messages() {
        let table = message_table(
            "//! | message | by |\n//! |---|---|\n//! | `A` | `R::on_a` |\n//! | `B` | `R::on_b` |\n\nrest",
        );
        assert_eq!(table, ["| A | R::on_a |", "| B | R::on_b |"]);
        let variants =
            message_names("match self {\n    Self::A { .. } => \"A\",\n    Self::C { .. } => \"C\",\n}");
        assert_eq!(variants, ["A", "C"]);
        assert_eq!(table_against_code(&table, &variants, "fn on_a(&mut self) {}").len(), 2);
    }

    #[test]
    fn a_message_that_differs_from_its_row_is_found() {
        let code = "pub enum Message {\n    /// Doc: it.\n    A {\n        /// The: op.\n        op: Op,\n        hash: Hash,\n    },\n    B {\n        op: Op,\n    },\n}\n";
        let messages = message_fields(code);
        let fields = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(messages, [("A".to_owned(), fields(&["op", "hash"])), ("B".to_owned(), fields(&["op"]))]);
        let table =
            |rows: &str| format!("| message | from | to | when | carries | answered by |\n|---|\n{rows}");
        let good = "| `A` | x | y | z | `op`, `hash` | `B`, if `ask` |\n| `B` | x | y | z | `op` | none |\n";
        assert_eq!(messages_against_table(&table(good), &messages), [""; 0]);
        let bad = "| `A` | x | y | z | `op` | `D` |\n| `C` | x | y | z | `op` | none |\n";
        assert_eq!(messages_against_table(&table(bad), &messages).len(), 4);
    }

    #[test]
    fn a_rule_without_a_test_is_found() {
        let rules = protocol_rules(
            "# Rules\n**N4. First.** text\n**V10. Second.**\n**bold** N5. text\n**E1. Third.**\n**V5c. Fourth.**\n",
        );
        assert_eq!(rules, ["N4", "V10", "E1", "V5c"]);
        let tests =
            Source::new("a/src/tests.rs", "fn n4_counts() {}\n// rules V10, N1\nfn a() { \"E12\" }\n");
        let code = Source::new("a/src/lib.rs", "// rule E1\n");
        assert_eq!(
            untested_rules(&rules, &[tests, code]),
            ["no test cites rule E1", "no test cites rule V5c"]
        );
    }
}
