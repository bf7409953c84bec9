//! Patterns such as `user:*`, as in Redis.

/// Whether the whole text matches the pattern. `*` stands for any bytes, `?` for one byte, `[a-c]` for one of these
/// bytes, `[^a]` for any other byte, and `\` makes the next byte stand for itself.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if the text does not match: behind the last star, which then takes one more byte. An earlier star
    // never needs to take more, so the time is at most the product of both lengths.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (None, Some(_)) | (Some(_), None) => None,
            (Some(_), Some(&byte)) => one(&pattern[p..], byte),
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, taken))) if taken < text.len() => {
                retry = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            (None, _) => return false,
        }
    }
}

/// The longest pattern: matching takes time in proportion to its length.
pub(crate) const MAX_PATTERN: usize = 1024;

/// Matches many patterns or texts, and lets other tasks of the thread run in between.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// How many steps there were, at most, since other tasks could run.
    steps: usize,
}

impl Matcher {
    /// So many steps take about a millisecond.
    const TURN: usize = 1 << 18;

    /// Like [`matches`].
    ///
    /// # Cancel safety
    /// Cancel safe: before the result, nothing has happened.
    pub(crate) async fn matches(&mut self, pattern: &[u8], text: &[u8]) -> bool {
        if self.steps > Self::TURN {
            self.steps = 0;
            tokio::task::yield_now().await;
        }
        let product = pattern.len().saturating_mul(text.len());
        self.steps = self.steps.saturating_add(if pattern.contains(&b'*') { product } else { text.len() });
        matches(pattern, text)
    }
}

/// If the first element of the pattern matches the byte, how long the element is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', ..] => {
            let (length, is_match) = class(pattern, byte);
            is_match.then_some(length)
        }
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

/// The length of a class such as `[a-c]`, and whether it contains the byte. A class without an end reaches to the end
/// of the pattern.
fn class(pattern: &[u8], byte: u8) -> (usize, bool) {
    let is_negated = pattern.get(1) == Some(&b'^');
    let mut at = if is_negated { 2 } else { 1 };
    let mut found = false;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => return (pattern.len(), found != is_negated),
            [b']', ..] => return (at + 1, found != is_negated),
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] if *to != b']' => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= *plain == byte;
                at += 1;
            }
        }
    }
}

/// The bytes with which everything that matches the pattern begins.
pub(crate) fn prefix(pattern: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = pattern;
    loop {
        match rest {
            [b'\\', escaped, after @ ..] => {
                found.push(*escaped);
                rest = after;
            }
            [] | [b'*' | b'?' | b'[', ..] => return found,
            [plain, after @ ..] => {
                found.push(*plain);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, yes, no) in [
            ("*", &["", "abc"][..], &[][..]),
            ("a*c", &["ac", "abc", "abcc"], &["a", "abd", "bc"]),
            ("a?c", &["abc"], &["ac", "abbc"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "hllo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            ("h[^a]llo", &["hbllo"], &["hallo"]),
            ("h[ae]llo", &["hallo", "hello"], &["hillo"]),
            ("a\\*", &["a*"], &["ab"]),
            ("[\\]]", &["]"], &["["]),
            ("[a", &["a"], &["b"]),
            ("a\\", &["a\\"], &["a"]),
            ("*a*b*c*", &["xxaxxbxxcxx"], &["xxcxxbxxa"]),
            ("", &[""], &["a"]),
        ] {
            for text in yes {
                assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
            for text in no {
                assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_exponential_time() {
        let (pattern, text) = ("a*".repeat(1000), "a".repeat(10_000));
        assert!(!matches(format!("{pattern}b").as_bytes(), text.as_bytes()));
    }

    #[test]
    fn everything_that_matches_begins_with_the_prefix() {
        for (pattern, expected) in
            [("user:*", "user:"), ("a\\*b?", "a*b"), ("[ab]", ""), ("abc", "abc"), ("", "")]
        {
            assert_eq!(prefix(pattern.as_bytes()), expected.as_bytes());
        }
    }
}
