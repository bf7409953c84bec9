//! A source file as the rules see it: the raw lines, the code without comments and literals, and which lines are test
//! code.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    /// As it stands on disk.
    pub(crate) text: String,
    /// The same lines, with comments and the insides of literals blanked out. Empty for what is not Rust.
    pub(crate) code: String,
    /// For each line whether it is test code.
    pub(crate) test: Vec<bool>,
}

impl Source {
    /// A file with this path and content; its own `#[cfg(test)]` items are marked as test code.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs");
        let code = if rust { blank(text) } else { String::new() };
        let whole = is_test_path(path);
        let mut test = vec![whole; text.lines().count()];
        for (from, to) in test_items(&code) {
            for line in line_of(&code, from)..=line_of(&code, to) {
                test[line - 1] = true;
            }
        }
        Self { path: path.to_owned(), text: text.to_owned(), code, test }
    }

    /// Whether the byte `at` of the code is in test code.
    pub(crate) fn is_test(&self, at: usize) -> bool {
        self.test.get(line_of(&self.code, at) - 1).copied().unwrap_or(false)
    }

    /// The raw lines that are test code.
    pub(crate) fn test_lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().zip(&self.test).filter(|(_, test)| **test).map(|(line, _)| line)
    }

    /// `path:line: complaint` for the byte `at` of the code.
    pub(crate) fn complain(&self, at: usize, complaint: &str) -> String {
        format!("{}:{}: {complaint}", self.path, line_of(&self.code, at))
    }

    /// The modules that this file declares as test code (`#[cfg(test)] mod name;`), as path prefixes.
    fn test_modules(&self) -> Vec<String> {
        let (directory, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let base = match file {
            "mod.rs" | "lib.rs" | "main.rs" => directory.to_owned(),
            _ => format!("{directory}/{}", file.trim_end_matches(".rs")),
        };
        let items = test_items(&self.code);
        let declared = items.iter().filter_map(|&(from, to)| {
            let name = self.code[from..to].rsplit_once("mod ")?.1.trim();
            name.bytes().all(is_word).then(|| format!("{base}/{name}"))
        });
        declared.collect()
    }
}

/// Every text file of the workspace that the rules look at: sources, manifests, documents, the gate.
pub(crate) fn workspace() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(&root).expect("it was found below the root");
        let relative = relative.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("sources are readable UTF-8");
        sources.push(Source::new(&relative, &text));
    }
    let modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let named = |module: &String| source.path == format!("{module}.rs") || below(&source.path, module);
        if modules.iter().any(named) {
            source.test.fill(true);
        }
    }
    sources
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is inside the workspace").to_owned()
}

/// Whether `path` is somewhere below `directory`.
pub(crate) fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a byte can be part of a Rust name.
pub(crate) fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// Where `pattern` stands in `code`, not as the tail of a longer word.
pub(crate) fn words<'a>(code: &'a str, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
    let places = code.match_indices(pattern).map(|(at, _)| at);
    places.filter(|&at| at == 0 || !is_word(code.as_bytes()[at - 1]))
}

/// The line, from 1, of the byte `at`.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The byte after the `{}`, `()` or `[]` group that opens at `at`, in blanked code.
pub(crate) fn group_end(code: &str, at: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + offset + 1;
        }
    }
    code.len()
}

fn is_test_path(path: &str) -> bool {
    let tests = ["tests", "tests.rs", "benches", "scenarios"];
    path.split('/').any(|part| tests.contains(&part))
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("the workspace is readable");
    for entry in entries {
        let path = entry.expect("the workspace is readable").path();
        let name = path.file_name().expect("entries have names").to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git") {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") || name.ends_with(".toml") || name == "run" {
            found.push(path);
        }
    }
}

/// The items behind `#[cfg(test)]`: where the attribute starts, and the `;` or `}` that ends the item.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let bytes = code.as_bytes();
    let starts = code.match_indices("#[cfg(test)]").map(|(at, matched)| (at, at + matched.len()));
    let ends = starts.map(|(start, mut at)| {
        while at < bytes.len() {
            match bytes[at] {
                b'{' => return (start, group_end(code, at) - 1),
                b'(' | b'[' => at = group_end(code, at),
                b';' => return (start, at),
                _ => at += 1,
            }
        }
        (start, bytes.len().saturating_sub(1))
    });
    ends.collect()
}

/// Replaces comments and the insides of string and character literals by spaces; keeps length and lines.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (from, to, next) = literal(text, at);
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// What starts at `at`: the range to blank out, and where to go on.
fn literal(text: &str, at: usize) -> (usize, usize, usize) {
    let bytes = text.as_bytes();
    let rest = &text[at..];
    let in_word = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with("//") {
        let end = rest.find('\n').map_or(bytes.len(), |length| at + length);
        return (at, end, end);
    }
    if rest.starts_with("/*") {
        let end = comment_end(bytes, at);
        return (at, end, end);
    }
    if !in_word && let Some((open, close)) = raw_string(rest) {
        let end = text[at + open..].find(&close).map_or(bytes.len(), |length| at + open + length);
        return (at + open, end, (end + close.len()).min(bytes.len()));
    }
    if bytes[at] == b'"' {
        let end = quoted_end(bytes, at + 1, b'"');
        return (at + 1, end, (end + 1).min(bytes.len()));
    }
    if bytes[at] == b'\'' && is_character(rest) {
        let end = quoted_end(bytes, at + 1, b'\'');
        return (at + 1, end, (end + 1).min(bytes.len()));
    }
    let next = at + rest.chars().next().map_or(1, char::len_utf8);
    (at, at, next)
}

/// For `r"`, `br##"` and their like: how long the opening is, and what closes it.
fn raw_string(rest: &str) -> Option<(usize, String)> {
    let marks =
        rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = marks.bytes().take_while(|&byte| byte == b'#').count();
    let opened = marks.as_bytes().get(hashes) == Some(&b'"');
    opened.then(|| (rest.len() - marks.len() + hashes + 1, format!("\"{}", "#".repeat(hashes))))
}

/// A character literal, not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < bytes.len() {
        let pair = bytes.get(at..at + 2).unwrap_or_default();
        if pair == b"/*" {
            depth += 1;
            at += 2;
        } else if pair == b"*/" {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_are_kept() {
        let text = "a(\"b{\\\"\", 'c', b'\\'', r#\"d\"e\"#); // f {\n/* g /* h */\n i */ j<'k>(\"é\")";
        let blanked = blank(text);
        assert_eq!(blanked, "a(\"    \", ' ', b'  ', r#\"   \"#);       \n            \n      j<'k>(\"  \")");
        assert_eq!(blanked.len(), text.len());
    }

    #[test]
    fn test_items_are_marked_and_code_around_them_is_not() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod util;\nfn d() {}\n";
        let source = Source::new("x/src/mod.rs", text);
        assert_eq!(source.test, [false, true, true, true, true, false, true, true, false]);
        assert_eq!(source.test_modules(), ["x/src/util"]);
    }

    #[test]
    fn files_of_tests_are_test_code_as_a_whole() {
        assert!(Source::new("kv-core/src/journal/tests.rs", "fn a() {}").test[0]);
        assert!(Source::new("kv-core/tests/a.rs", "fn a() {}").test[0]);
        assert!(!Source::new("kv-core/src/testing.rs", "fn a() {}").test[0]);
    }
}
