//! Files of one folder that use each other, directly or through others: neither can be understood without the other.

use crate::modules::names;
use crate::source::{Source, words};
use std::collections::{BTreeMap, BTreeSet};

/// The folders that still contain circles.
const EXCEPTIONS: &[&str] = &["kv-core/src/node"];

/// The files of a folder, without `mod.rs` and the like, and what each one uses of the others.
type Uses<'a> = BTreeMap<&'a str, BTreeSet<String>>;

/// Complains of each folder that contains a circle and is no exception, and of each exception without one.
pub(crate) fn circles(sources: &[Source], exceptions: &[&str]) -> Vec<String> {
    let mut folders: BTreeMap<&str, Uses<'_>> = BTreeMap::new();
    for source in sources {
        let Some((folder, file)) = source.path.rsplit_once('/') else { continue };
        let Some(name) = file.strip_suffix(".rs") else { continue };
        if !format!("{folder}/").contains("/src/") || source.test.iter().all(|test| *test) {
            continue;
        }
        if !["mod", "lib", "main"].contains(&name) {
            let mut used = uses(source, "super::");
            if folder.ends_with("/src") {
                used.extend(uses(source, "crate::"));
            }
            used.remove(name);
            folders.entry(folder).or_default().insert(name, used);
        }
        // A folder counts as one file of the folder that it is in. The folders in the root of a crate have a table.
        if let Some((outer, inner)) = folder.rsplit_once('/').filter(|(outer, _)| outer.contains("/src/")) {
            let used = uses(source, if name == "mod" { "super::" } else { "super::super::" });
            folders.entry(outer).or_default().entry(inner).or_default().extend(used);
        }
    }
    let mut complaints = Vec::new();
    for (folder, files) in &folders {
        let circle: Vec<&str> = files.keys().copied().filter(|name| reaches_itself(files, name)).collect();
        let is_exception = exceptions.contains(folder);
        if !circle.is_empty() && !is_exception {
            complaints
                .push(format!("{folder}: these files use each other in a circle: {}", circle.join(", ")));
        }
        if circle.is_empty() && is_exception {
            complaints.push(format!("{folder} contains no circle any more: remove it from the exceptions"));
        }
    }
    complaints
}

/// See [`circles`].
pub(crate) fn unexpected_circles(sources: &[Source]) -> Vec<String> {
    circles(sources, EXCEPTIONS)
}

/// What a file names by the path `to_siblings`, for example `super::`.
fn uses(source: &Source, to_siblings: &str) -> BTreeSet<String> {
    let places = words(&source.code, to_siblings).filter(|&at| {
        let is_chained = at >= 2 && &source.code[at - 2..at] == "::";
        !is_chained && !source.is_test(at)
    });
    places.flat_map(|at| names(&source.code, at + to_siblings.len())).collect()
}

fn reaches_itself(files: &Uses<'_>, name: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = files[name].iter().collect();
    while let Some(used) = next.pop() {
        if used == name {
            return true;
        }
        if let Some(uses) = files.get(used.as_str()).filter(|_| seen.insert(used)) {
            next.extend(uses);
        }
    }
    false
}

mod tests {
    use super::*;

    fn complaints(files: &[(&str, &str)], exceptions: &[&str]) -> usize {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        circles(&sources, exceptions).len()
    }

    #[test]
    fn files_that_use_each_other_are_found() {
        let a = ("x/src/m/a.rs", "use super::b::B;\n");
        let b = ("x/src/m/b.rs", "use super::{c, d::D};\n");
        assert_eq!(complaints(&[a, b, ("x/src/m/c.rs", "use super::a;\n")], &[]), 1);
        assert_eq!(complaints(&[a, b, ("x/src/m/d.rs", "fn d() { super::a::a() }\n")], &[]), 1);
        assert_eq!(complaints(&[a, b, ("x/src/m/c.rs", "use super::e;\n")], &[]), 0);
        assert_eq!(complaints(&[a, b, ("x/src/n/c.rs", "use super::a;\n")], &[]), 0);
        assert_eq!(
            complaints(&[("x/src/a.rs", "use crate::b;\n"), ("x/src/b.rs", "use super::a;\n")], &[]),
            1
        );
        assert_eq!(complaints(&[("x/src/a.rs", "use crate::a::A;\n")], &[]), 0);
    }

    #[test]
    fn a_folder_counts_as_a_file_of_the_folder_that_it_is_in() {
        let above = ("x/src/m/a.rs", "use super::inner::B;\n");
        for (path, text) in
            [("x/src/m/inner/mod.rs", "use super::a;\n"), ("x/src/m/inner/b.rs", "use super::super::a::A;\n")]
        {
            assert_eq!(complaints(&[above, (path, text)], &[]), 1, "{path}");
            assert_eq!(complaints(&[above, (path, "use super::c;\n")], &[]), 0, "{path}");
        }
    }

    #[test]
    fn tests_may_use_anything() {
        let a = ("x/src/m/a.rs", "use super::b::B;\n");
        assert_eq!(
            complaints(&[a, ("x/src/m/b.rs", "#[cfg(test)]\nmod tests {\n    use super::a;\n}\n")], &[]),
            0
        );
        assert_eq!(complaints(&[a, ("x/src/m/b.rs", "mod inner {\n    use super::super::a;\n}\n")], &[]), 0);
    }

    #[test]
    fn an_exception_must_be_needed() {
        let circle = [("x/src/m/a.rs", "use super::b::B;\n"), ("x/src/m/b.rs", "use super::a;\n")];
        assert_eq!(complaints(&circle, &["x/src/m"]), 0);
        assert_eq!(complaints(&circle[..1], &["x/src/m"]), 1);
    }
}
