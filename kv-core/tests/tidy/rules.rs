//! The rules for code: sizes, attributes, clocks and randomness, unfinished code, paths of somebody's machine.

use crate::source::{Source, below, group_end, is_word, line_of, words};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
/// Of a comment, with its indentation. (rustfmt wraps the code.)
const COMMENT_COLUMNS: usize = 120;

/// Where code may read a clock or random numbers: at the edge of the system. (The fault injector delays by tokio's
/// clock, which tests pause, and draws from a seed.)
const EDGES: &[&str] = &[
    "kv-core/src/node",
    "kv-core/src/client",
    "kv-core/src/testing",
    "kv-core/transport/src/conformance",
    "kv-core/transport/src/faulty",
    "kv-core/transport/src/tls",
    "kv-transport-tcp",
    "kv-transport-quic",
    "kv-core/bench/src/bin",
    "kv-core/sim/src/bin",
    "kv-bin",
    "examples",
];

/// The part of the client that decides, and so gets time and seed as arguments like the replica.
const NOT_EDGES: &[&str] = &["kv-core/src/client/protocol"];

const CLOCKS: &[&str] =
    &["Instant::now", "SystemTime", "UNIX_EPOCH", "fastrand::Rng::new", "rand::", "getrandom", "RandomState"];

/// Files and functions, tests aside, that are longer than can be read at one sitting.
pub(crate) fn too_long(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.test.iter().filter(|&&test| !test).count();
    if source.path.ends_with(".rs") && lines > FILE_LINES {
        found.push(format!("{}: {lines} lines, at most {FILE_LINES}: split it by topic", source.path));
    }
    for at in words(&source.code, "fn ") {
        let Some(end) = function_end(&source.code, at) else { continue };
        let length = line_of(&source.code, end) - line_of(&source.code, at) + 1;
        if length > FUNCTION_LINES && !source.is_test(at) {
            let complaint = format!("a function of {length} lines, at most {FUNCTION_LINES}: name its parts");
            found.push(source.complain(at, &complaint));
        }
    }
    found
}

/// The `}` of the function whose `fn` stands at `at`; none for a declaration or a function type.
fn function_end(code: &str, at: usize) -> Option<usize> {
    let bytes = code.as_bytes();
    let mut place = at + "fn ".len();
    if !bytes.get(place).copied().is_some_and(is_word) {
        return None;
    }
    while place < bytes.len() {
        match bytes[place] {
            b'{' => return Some(group_end(code, place) - 1),
            b'(' | b'[' => place = group_end(code, place),
            b';' => return None,
            _ => place += 1,
        }
    }
    None
}

/// Comments that are wider than an editor shows at once. Tables and drawings cannot be wrapped.
pub(crate) fn too_wide(source: &Source) -> Vec<String> {
    if !source.path.ends_with(".rs") {
        return Vec::new();
    }
    let is_wide = |line: &str| {
        let text = line.trim_start().trim_start_matches(['/', '!']).trim_start();
        let is_comment = line.trim_start().starts_with("//");
        is_comment
            && line.chars().count() > COMMENT_COLUMNS
            && !text.starts_with('|')
            && !text.contains("   ")
    };
    let wide = source.text.lines().enumerate().filter(|(_, line)| is_wide(line));
    wide.map(|(number, _)| {
        format!("{}:{}: wrap the comment at {COMMENT_COLUMNS} columns", source.path, number + 1)
    })
    .collect()
}

/// A silenced warning without a reason.
pub(crate) fn silenced_without_reason(source: &Source) -> Vec<String> {
    let starts = source.code.match_indices("#[").chain(source.code.match_indices("#!["));
    let wrong = starts.filter(|(at, opening)| {
        let attribute = &source.code[*at..group_end(&source.code, at + opening.len() - 1)];
        let silences = words(attribute, "allow(").chain(words(attribute, "expect(")).next().is_some();
        silences && words(attribute, "reason").next().is_none()
    });
    wrong.map(|(at, _)| source.complain(at, "a silenced warning says `reason = \"...\"`")).collect()
}

/// A look at a clock, or randomness without a given seed, where the simulator could not repeat it.
pub(crate) fn clocks_and_randomness(source: &Source) -> Vec<String> {
    let edge = EDGES.iter().any(|edge| below(&source.path, edge));
    let decides = NOT_EDGES.iter().any(|part| source.path.starts_with(part));
    if edge && !decides {
        return Vec::new();
    }
    let seedless = words(&source.code, "fastrand::")
        .filter(|at| source.code.as_bytes().get(at + "fastrand::".len()).is_some_and(u8::is_ascii_lowercase));
    let named = CLOCKS.iter().flat_map(|pattern| words(&source.code, pattern));
    let places = named.chain(seedless).filter(|&at| !source.is_test(at));
    places
        .map(|at| source.complain(at, "time and randomness are arguments here: take `now` and a seed"))
        .collect()
}

/// Code that is marked as not finished.
pub(crate) fn unfinished(source: &Source) -> Vec<String> {
    let marks = ["todo!", "unimplemented!", "dbg!"];
    let places = marks.iter().flat_map(|mark| words(&source.code, mark)).filter(|&at| !source.is_test(at));
    places.map(|at| source.complain(at, "unfinished code")).collect()
}

/// An absolute path that exists on one machine only.
pub(crate) fn machine_paths(source: &Source) -> Vec<String> {
    let folders = ["home", "root", "Users", "tmp", "work"];
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let named = folders.iter().map(|folder| format!("/{folder}/")).find(|path| {
            line.match_indices(path.as_str()).any(|(at, _)| at == 0 || !is_word(line.as_bytes()[at - 1]))
        });
        if let Some(path) = named {
            found.push(format!("{}:{}: {path} is a path of one machine", source.path, number + 1));
        }
    }
    found
}

mod tests {
    use super::*;

    fn code(text: &str) -> Source {
        Source::new("kv-core/src/replica/mod.rs", text)
    }

    #[test]
    fn a_file_of_601_lines_is_too_long_and_tests_do_not_count() {
        let lines = "const A: u8 = 0;\n".repeat(600);
        assert_eq!(too_long(&code(&lines)).len(), 0);
        assert_eq!(too_long(&code(&format!("{lines}const B: u8 = 0;\n"))).len(), 1);
        assert_eq!(too_long(&code(&format!("{lines}#[cfg(test)]\nmod tests {{\n\n}}\n"))).len(), 0);
        assert_eq!(too_long(&Source::new("kv-core/src/replica/tests.rs", &lines.repeat(2))).len(), 0);
    }

    #[test]
    fn a_function_of_71_lines_is_too_long_and_tests_do_not_count() {
        let function = |lines: usize| format!("fn a<'b>(c: [u8; 2])\n{{\n{}}}\n", "\n".repeat(lines - 3));
        assert_eq!(too_long(&code(&function(70))).len(), 0);
        assert_eq!(too_long(&code(&function(71))).len(), 1);
        assert_eq!(too_long(&code(&format!("impl A {{\n{}\n}}", function(71)))).len(), 1);
        assert_eq!(too_long(&code(&format!("#[cfg(test)]\nmod tests {{\n{}\n}}", function(71)))).len(), 0);
        assert_eq!(too_long(&code(&format!("type F = fn (u8);\nfn b();\n{}", "\n".repeat(100)))).len(), 0);
    }

    #[test]
    fn a_comment_of_121_columns_is_too_wide_and_tables_are_not() {
        let words = "a ".repeat(60);
        assert_eq!(too_wide(&code(&format!("// {}", &words[..117]))).len(), 0);
        assert_eq!(too_wide(&code(&format!("// {}", &words[..118]))).len(), 1);
        assert_eq!(too_wide(&code(&format!("    //! {}", &words[..113]))).len(), 1);
        assert_eq!(too_wide(&code(&format!("/// | {words}"))).len(), 0);
        assert_eq!(too_wide(&code(&format!("// cargo   {words}"))).len(), 0);
        assert_eq!(too_wide(&Source::new("README.md", &format!("// {words}"))).len(), 0);
    }

    #[test]
    fn a_silenced_warning_needs_a_reason() {
        assert_eq!(silenced_without_reason(&code("#[allow(dead_code)]\nfn a() {}")).len(), 1);
        assert_eq!(silenced_without_reason(&code("#![expect(dead_code)]")).len(), 1);
        assert_eq!(silenced_without_reason(&code("#[cfg_attr(x, allow(dead_code))]")).len(), 1);
        assert_eq!(
            silenced_without_reason(&code("#[allow(\n    dead_code,\n    reason = \"b\"\n)]")).len(),
            0
        );
        assert_eq!(silenced_without_reason(&code("// #[allow(dead_code)]\n#[derive(Debug)]")).len(), 0);
    }

    #[test]
    fn clocks_and_randomness_stay_at_the_edge() {
        for text in [
            "std::time::Instant::now()",
            "use std::time::SystemTime;",
            "fastrand::Rng::new()",
            "fastrand::u64(..)",
            "rand::random()",
        ] {
            let text = format!("fn a() {{ {text} }}");
            assert_eq!(clocks_and_randomness(&code(&text)).len(), 1, "{text}");
            assert_eq!(clocks_and_randomness(&Source::new("kv-core/src/client/protocol.rs", &text)).len(), 1);
            assert_eq!(clocks_and_randomness(&Source::new("kv-core/src/node/a.rs", &text)).len(), 0);
            assert_eq!(clocks_and_randomness(&Source::new("kv-core/tests/a.rs", &text)).len(), 0);
        }
        assert_eq!(clocks_and_randomness(&code("fn a() { fastrand::Rng::with_seed(1) }")).len(), 0);
    }

    #[test]
    fn unfinished_code_is_found_outside_of_tests() {
        assert_eq!(
            unfinished(&code("fn a() { todo!() }\nfn b() { unimplemented!() }\nfn c() { dbg!(1) }")).len(),
            3
        );
        assert_eq!(
            unfinished(&code("// todo!\nfn a() { \"todo!\" }\n#[cfg(test)]\nfn b() { todo!() }")).len(),
            0
        );
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_text() {
        let path = format!("/{}/a", "home");
        assert_eq!(machine_paths(&Source::new("README.md", &format!("see {path}"))).len(), 1);
        assert_eq!(machine_paths(&code(&format!("// {path}\n"))).len(), 1);
        assert_eq!(machine_paths(&Source::new("README.md", &format!("see x{path} and ./data"))).len(), 0);
    }
}
