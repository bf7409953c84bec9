//! The conventions of this workspace, as a test: it walks the sources and complains of each breach by file and line.
//! Every rule has tests of its own, next to it, which show that it can fail.

mod bounds;
mod circles;
mod documents;
mod modules;
#[allow(unreachable_pub, reason = "it is public in kv-sim")]
#[path = "../../sim/src/mutants.rs"]
mod mutants;
mod rules;
mod source;

use source::{Source, root};
use std::collections::BTreeSet;
use std::sync::LazyLock;

static WORKSPACE: LazyLock<Vec<Source>> = LazyLock::new(source::workspace);

/// Fails with all complaints of `rule` about the workspace.
fn expect_none(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = WORKSPACE.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn modules_use_only_what_their_row_allows() {
    expect_none(modules::forbidden_uses);
}

#[test]
fn files_use_each_other_in_one_direction() {
    let complaints = circles::unexpected_circles(&WORKSPACE);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    expect_none(rules::too_long);
}

#[test]
fn comments_are_wrapped() {
    expect_none(rules::too_wide);
}

#[test]
fn allowed_lints_have_a_reason() {
    expect_none(rules::silenced_without_reason);
}

#[test]
fn clocks_and_randomness_are_arguments_inside() {
    expect_none(rules::clocks_and_randomness);
}

#[test]
fn no_code_is_unfinished() {
    expect_none(rules::unfinished);
}

#[test]
fn no_text_names_a_path_of_one_machine() {
    expect_none(rules::machine_paths);
}

#[test]
fn links_in_documents_are_not_broken() {
    let root = root();
    expect_none(|source| documents::broken_links(source, |path| root.join(path).exists()));
}

/// Documentation tests see all modules, because the tests do: an application sees fewer.
#[test]
fn no_example_uses_a_module_that_applications_do_not_see() {
    let library = WORKSPACE.iter().find(|source| source.path == "kv-core/src/lib.rs").expect("it is there");
    let closed = documents::closed_modules(&library.text);
    assert!(closed.len() > 5, "lib.rs declares its closed modules with the feature `internals`");
    expect_none(|source| documents::uses_of_closed_modules(source, &closed));
}

/// `kv-sim --bugs` describes and runs each; this only checks that it still fits.
#[test]
fn every_mutant_fits_the_file_that_it_edits() {
    let groups = mutants::groups().unwrap_or_else(|error| panic!("{error}"));
    let files: BTreeSet<&str> = groups.iter().flat_map(|it| &it.hunks).map(|hunk| hunk.file).collect();
    let mut complaints = Vec::new();
    for file in files {
        match WORKSPACE.iter().find(|source| source.path == file) {
            Some(source) => {
                complaints.extend(mutants::apply(&groups, file, &source.text).err().unwrap_or_default())
            }
            None => complaints.push(format!("a mutant edits {file}, which does not exist")),
        }
    }
    let what_to_do = "change kv-core/sim/mutants with the code, as CONTRIBUTING.md says";
    assert!(complaints.is_empty(), "{what_to_do}:\n{}", complaints.join("\n"));
    assert!(mutants::names().count() > 40, "their descriptions are in kv-core/sim/mutants");
}

#[test]
fn the_top_level_is_as_designed() {
    let names = documents::top_level();
    let strays = documents::stray_names(names.iter().map(String::as_str));
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

/// A build in a container gets only the folders that its list names.
#[test]
fn a_container_is_built_from_all_crates() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let (workspace, list) = (read("Cargo.toml"), read("kv-bin/packaging/Dockerfile.dockerignore"));
    let missing = documents::missing_in_container(&workspace, &list);
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_table_of_messages_matches_the_code() {
    let text =
        |path: &str| WORKSPACE.iter().find(|source| source.path == path).map_or("", |source| &source.text);
    let message = text("kv-core/src/message/mod.rs");
    let table = documents::message_table(message);
    assert!(!table.is_empty(), "message/mod.rs has no table of messages");
    assert_eq!(
        documents::message_table(text("kv-core/ARCHITECTURE.md")),
        table,
        "ARCHITECTURE.md has another table"
    );
    let protocol = text("kv-core/PROTOCOL.md");
    let wrong = documents::messages_against_table(protocol, &documents::message_fields(message));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let replica = WORKSPACE.iter().filter(|source| source.path.starts_with("kv-core/src/replica/"));
    let code: String = replica.map(|source| source.code.as_str()).collect();
    let complaints = documents::table_against_code(&table, &documents::message_names(message), &code);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_rule_of_the_protocol_has_a_test() {
    let protocol = WORKSPACE
        .iter()
        .find(|source| source.path == "kv-core/PROTOCOL.md")
        .expect("the protocol is written down");
    let rules = documents::protocol_rules(&protocol.text);
    assert!(
        rules.len() >= 20,
        "PROTOCOL.md states its rules as paragraphs that begin with **N4. and the like"
    );
    let complaints = documents::untested_rules(&rules, &WORKSPACE);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_id_of_a_rule_or_a_fault_has_one_meaning() {
    let text = |path: &str| &WORKSPACE.iter().find(|it| it.path == path).expect("it is written down").text;
    let rules = documents::protocol_rules(text("kv-core/PROTOCOL.md"));
    let rows = documents::fault_rows(text("kv-core/FAULTS.md"));
    let mut complaints = documents::ambiguous_faults(&rows, &rules);
    let faults: Vec<String> = rows.into_iter().map(|(id, _)| id).collect();
    complaints.extend(documents::unknown_ids(&rules, &faults, &WORKSPACE));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The table of bounds in ARCHITECTURE.md.
fn table_of_bounds() -> &'static str {
    let text = WORKSPACE.iter().find(|source| source.path == "kv-core/ARCHITECTURE.md").map(|it| &it.text);
    let table = text.and_then(|text| text.split_once("## Bounds")).expect("there is a table of bounds").1;
    table.split_once("\n## ").map_or(table, |(table, _)| table)
}

#[test]
fn every_growing_collection_has_a_bound() {
    expect_none(|source| bounds::unlisted(source, table_of_bounds()));
}

#[test]
fn every_bound_that_clients_share_has_a_test() {
    let complaints = bounds::untested(table_of_bounds(), &WORKSPACE);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_fault_has_tests_that_exist() {
    let faults =
        WORKSPACE.iter().find(|source| source.path == "kv-core/FAULTS.md").expect("the faults are listed");
    let rows = documents::fault_rows(&faults.text);
    assert!(rows.len() >= 40, "FAULTS.md lists its faults in tables of four columns");
    let complaints = documents::unknown_tests(&rows, &WORKSPACE);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
