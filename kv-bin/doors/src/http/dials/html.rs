//! Text in HTML, and numbers as people read them.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

/// Text that may contain anything.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // The template of the page contains `{{names}}`.
                '{' => f.write_str("&#123;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A whole number with separators: `1 234 567`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // It does not break a line.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A rate: three digits are enough.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        small if small < 0.05 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.1}"),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive and not huge"
        )]
        large => number(large.round() as u64),
    }
}

/// A duration of a call, or a dash.
pub(super) fn latency(took: Option<Duration>) -> String {
    let Some(took) = took else { return "–".to_owned() };
    let ms = took.as_secs_f64() * 1000.0;
    match ms {
        _ if ms < 1.0 => format!("{} µs", took.as_micros()),
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// A long time, in its largest unit: `3 h`.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A size: `1.4 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let unit = UNITS[unit];
    if bytes < 1024 || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_place_in_the_page() {
        let text = "<script>alert('x')</script> & \"y\" {{content}}";
        let wanted =
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot; &#123;&#123;content}}";
        assert_eq!(Escaped(text).to_string(), wanted);
    }

    #[test]
    fn numbers_are_short() {
        let spaced = |text: String| text.replace('\u{202f}', " ");
        assert_eq!([0, 999, 1000, 1_234_567].map(number).map(spaced), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([0.0, 0.5, 9.99, 12_345.6].map(rate).map(spaced), ["0", "0.5", "10.0", "12 346"]);
        assert_eq!(
            [0, 1023, 1024, 150 << 20, 3 << 30].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "150 MiB", "3.0 GiB"]
        );
        let micros = |micros| latency(Some(Duration::from_micros(micros)));
        assert_eq!([700, 1500, 15_000, 2_000_000].map(micros), ["700 µs", "1.5 ms", "15 ms", "2.0 s"]);
        assert_eq!(latency(None), "–");
        let ages = [5, 119, 120, 7200, 200_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
