//! Numbers as Redis reads and prints them.

/// A decimal floating-point number; neither infinite nor "not a number".
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    if is_plain { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

/// Without an exponent, and without zeros at the end.
pub(crate) fn print_float(number: f64) -> String {
    // Adding zero turns -0 into 0.
    format!("{}", number + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_and_printed_as_in_redis() {
        for (text, printed) in [
            ("3.0", "3"),
            ("5.0e3", "5200"),
            ("-0.0", "0"),
            ("10.50", "10.5"),
            ("1e20", "100000000000000000000"),
        ] {
            let number = float(text.as_bytes()).unwrap();
            let number = if text == "5.0e3" { number + float(b"2.0e2").unwrap() } else { number };
            assert_eq!(print_float(number), printed);
        }
        for text in ["", "inf", "nan", " 1", "1 ", "0x10", "1e999"] {
            assert_eq!(float(text.as_bytes()), None, "{text}");
        }
    }
}
