//! Mutants: seeded bugs that are edits to the sources of other crates, so that those contain none.
//!
//! The files in `kv-core/sim/mutants` describe them. `kv-sim --bugs` copies the workspace, applies all edits to the
//! copy, each behind a switch (`crate::mutant::is("Name")`), builds the copy once, and runs it with one bug after the
//! other.
//!
//! # Format
//! Text before the first `==` is a comment. A group begins with one or more `== Name` lines, each followed by what the
//! bug is and which rule it breaks. Then come its hunks: `@ FILE`, and lines that begin with a space (they are in the
//! file), `-` (they are removed) or `+` (they are added). The first two kinds must be found in the file, one after the
//! other, exactly once; indentation does not count. A hunk that only adds is appended to the file.

/// The descriptions, by the names of their files.
const FILES: &[(&str, &str)] = &[
    ("client.txt", include_str!("../mutants/client.txt")),
    ("engine.txt", include_str!("../mutants/engine.txt")),
    ("journal.txt", include_str!("../mutants/journal.txt")),
    ("kv.txt", include_str!("../mutants/kv.txt")),
    ("members.txt", include_str!("../mutants/members.txt")),
    ("replica.txt", include_str!("../mutants/replica.txt")),
    ("switch.txt", include_str!("../mutants/switch.txt")),
];

/// Bugs that share their edits.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Their names. `-` stands for the switch, which is not a bug.
    pub names: Vec<&'static str>,
    /// The edits.
    pub hunks: Vec<Hunk>,
}

/// One edit of one file.
#[derive(Clone, Debug)]
pub struct Hunk {
    /// The path of the file in the workspace, with `/`.
    pub file: &'static str,
    lines: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    There(&'static str),
    Removed(&'static str),
    Added(&'static str),
}

/// All groups in the descriptions.
///
/// # Errors
/// If a description violates the format: the file, the line, and what is wrong.
pub fn groups() -> Result<Vec<Group>, String> {
    let mut groups = Vec::new();
    for (file, text) in FILES {
        parse(text, &mut groups).map_err(|(line, what)| format!("mutants/{file}:{line}: {what}"))?;
    }
    Ok(groups)
}

/// The names of all mutants.
pub fn names() -> impl Iterator<Item = &'static str> {
    descriptions().map(|(name, _)| name)
}

/// All mutants, each with its description.
pub fn descriptions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let pairs = FILES.iter().flat_map(|(_, text)| text.lines().zip(text.lines().skip(1)));
    let named = pairs.filter_map(|(head, says)| Some((head.strip_prefix("== ")?, says)));
    named.filter(|(name, _)| *name != "-")
}

fn parse(text: &'static str, groups: &mut Vec<Group>) -> Result<(), (usize, &'static str)> {
    let mut group: Option<Group> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(name) = line.strip_prefix("== ") {
            match &mut group {
                Some(group) if group.hunks.is_empty() => group.names.push(name),
                _ => groups.extend(group.replace(Group { names: vec![name], hunks: Vec::new() })),
            }
            continue;
        }
        // The comment at the beginning.
        let Some(group) = &mut group else { continue };
        if let Some(file) = line.strip_prefix("@ ") {
            group.hunks.push(Hunk { file, lines: Vec::new() });
        } else if let Some(hunk) = group.hunks.last_mut() {
            let parts = line.split_at_checked(1);
            hunk.lines.push(match parts {
                None => continue,
                Some((" ", rest)) => Line::There(rest),
                Some(("-", rest)) => Line::Removed(rest),
                Some(("+", rest)) => Line::Added(rest),
                Some(_) => return Err((number, "a line of a hunk begins with a space, - or +")),
            });
        }
    }
    let last = group.ok_or((1, "it describes no mutant"))?;
    groups.push(last);
    Ok(())
}

/// The text of a file with all its edits.
///
/// # Errors
/// Which mutants do not fit the file any more, and why.
pub fn apply(groups: &[Group], file: &str, text: &str) -> Result<String, Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    // What is added before each line, and at the end.
    let mut added: Vec<Vec<&str>> = vec![Vec::new(); lines.len() + 1];
    let mut removed = vec![false; lines.len()];
    let mut errors = Vec::new();
    for group in groups {
        for hunk in group.hunks.iter().filter(|hunk| hunk.file == file) {
            if let Err(what) = hunk.apply(&lines, &mut added, &mut removed) {
                errors.push(format!("mutant {}: {file}: {what}", group.names.join(", ")));
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut out = String::new();
    for (at, added) in added.iter().enumerate() {
        let kept = lines.get(at).filter(|_| !removed[at]);
        added.iter().chain(kept).for_each(|line| out.extend([line, "\n"]));
    }
    Ok(out)
}

impl Hunk {
    fn apply<'a>(
        &self,
        lines: &[&'a str],
        added: &mut [Vec<&'a str>],
        removed: &mut [bool],
    ) -> Result<(), String> {
        let wanted = self.lines.iter().filter_map(|line| match line {
            Line::There(text) | Line::Removed(text) => Some(text.trim()),
            Line::Added(_) => None,
        });
        let wanted: Vec<&str> = wanted.collect();
        let mut at = lines.len();
        if let Some(first) = wanted.first() {
            let fits = |at: &usize| {
                let found = lines[*at..].iter().map(|line| line.trim());
                found.take(wanted.len()).eq(wanted.iter().copied())
            };
            let found: Vec<usize> = (0..lines.len()).filter(fits).collect();
            let [only] = found[..] else {
                return Err(format!("the lines from {first:?} on are there {} times, not once", found.len()));
            };
            at = only;
        }
        for line in &self.lines {
            match line {
                Line::There(_) => at += 1,
                Line::Removed(text) => {
                    if std::mem::replace(&mut removed[at], true) {
                        return Err(format!("another mutant removes {text:?} too"));
                    }
                    at += 1;
                }
                Line::Added(text) => added[at].push(text),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "A comment.\n\n== One\nBreaks rule A1: one.\n== Two\nBreaks rule A2: two.\n@ a.rs\n let a;\n-    let b;\n+    let c;\n@ a.rs\n+let end;\n";

    fn one() -> Vec<Group> {
        let mut groups = Vec::new();
        parse(TEXT, &mut groups).unwrap();
        groups
    }

    #[test]
    fn a_mutant_is_an_edit_that_ignores_indentation() {
        let groups = one();
        assert_eq!(groups[0].names, ["One", "Two"]);
        let edited = apply(&groups, "a.rs", "fn a() {\n    let a;\n    let b;\n}\n");
        assert_eq!(edited.unwrap(), "fn a() {\n    let a;\n    let c;\n}\nlet end;\n");
        assert_eq!(apply(&groups, "b.rs", "let a;\n").unwrap(), "let a;\n");
    }

    #[test]
    fn a_mutant_that_does_not_fit_is_named_with_its_file() {
        for (text, times) in [("let a;\n", 0), ("let a;\nlet b;\nlet a;\nlet b;\n", 2)] {
            let errors = apply(&one(), "a.rs", text).unwrap_err();
            let expected = format!(
                "mutant One, Two: a.rs: the lines from \"let a;\" on are there {times} times, not once"
            );
            assert_eq!(errors, [expected]);
        }
    }

    #[test]
    fn two_mutants_may_not_remove_the_same_line() {
        let groups: Vec<Group> = one().into_iter().chain(one()).collect();
        assert!(apply(&groups, "a.rs", "let a;\nlet b;\n").is_err());
    }
}
