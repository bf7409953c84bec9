//! Keys and values are bytes: how they are written on the command line, and how they are printed.

use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

/// The encoding of keys and values.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Encoding {
    /// Accept and print keys and values in hexadecimal.
    #[arg(long, conflicts_with = "base64")]
    hex: bool,
    /// Accept and print keys and values in base64.
    #[arg(long)]
    base64: bool,
}

/// The suffix of field names whose text is hexadecimal.
const HEX: &str = "_hex";
const BASE64: &str = "_base64";

impl Encoding {
    const TEXT: Self = Self { hex: false, base64: false };

    /// Decodes a word of the command line.
    pub(crate) fn read(self, what: &str, word: OsString) -> Result<Vec<u8>, Failure> {
        if self == Self::TEXT {
            return Ok(word.into_encoded_bytes());
        }
        let text = word.to_string_lossy();
        self.decode(&text).map_err(|problem| Failure::usage(format!("the {what} {text:?} {problem}")))
    }

    fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        if self.hex {
            unhex(text).ok_or_else(|| "is not hex: write two digits for each byte, as in 00ff".to_owned())
        } else if self.base64 {
            STANDARD.decode(text).map_err(|error| format!("is not base64 ({error}): write it as in AP8="))
        } else {
            Ok(text.as_bytes().to_vec())
        }
    }

    fn encode(self, bytes: &[u8]) -> Option<String> {
        if self.hex {
            Some(hex(bytes))
        } else if self.base64 {
            Some(STANDARD.encode(bytes))
        } else {
            None
        }
    }

    /// Encodes bytes for a line of output. On a terminal, characters that move the cursor are escaped.
    pub(crate) fn shown(self, bytes: &[u8]) -> Vec<u8> {
        self.show(bytes, false)
    }

    /// The same for output that consists only of this value: it may have several lines.
    pub(crate) fn shown_alone(self, bytes: &[u8]) -> Vec<u8> {
        self.show(bytes, true)
    }

    fn show(self, bytes: &[u8], may_have_lines: bool) -> Vec<u8> {
        match self.encode(bytes) {
            Some(text) => text.into_bytes(),
            None if io::stdout().is_terminal() => escape(bytes, may_have_lines).into_bytes(),
            None => bytes.to_vec(),
        }
    }

    /// A key, for a message.
    pub(crate) fn quoted(self, key: &[u8]) -> String {
        match (self.encode(key), std::str::from_utf8(key)) {
            (Some(text), _) => text,
            (None, Ok(text)) => format!("{text:?}"),
            (None, Err(_)) => format!("{} (in hex)", hex(key)),
        }
    }

    /// Adds bytes to a JSON object: as `name` if they are text, otherwise as `name_hex`; as `name_hex` or `name_base64`
    /// if that was requested.
    pub(crate) fn put(self, object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
        let (ending, text) = match (self.encode(bytes), std::str::from_utf8(bytes)) {
            (Some(text), _) => (if self.hex { HEX } else { BASE64 }, text),
            (None, Ok(text)) => ("", text.to_owned()),
            (None, Err(_)) => (HEX, hex(bytes)),
        };
        object.insert(format!("{name}{ending}"), Value::from(text));
    }
}

/// Replaces each of these fields that is given as `name_hex` or `name_base64` by a field `name`; its strings become
/// lists of bytes.
pub(crate) fn decode_fields(fields: &mut Map<String, Value>, names: &[&str]) -> Result<(), String> {
    for name in names {
        for (ending, encoding) in
            [(HEX, Encoding { hex: true, base64: false }), (BASE64, Encoding { hex: false, base64: true })]
        {
            let field = format!("{name}{ending}");
            let Some(value) = fields.remove(&field) else { continue };
            if fields.contains_key(*name) {
                return Err(format!("duplicate field `{name}`: it is also given as `{field}`"));
            }
            let value = decode_strings(value, encoding).map_err(|problem| format!("`{field}`: {problem}"))?;
            fields.insert((*name).to_owned(), value);
        }
    }
    Ok(())
}

fn decode_strings(value: Value, encoding: Encoding) -> Result<Value, String> {
    match value {
        Value::String(text) => {
            let bytes = encoding.decode(&text).map_err(|problem| format!("{text:?} {problem}"))?;
            Ok(bytes.into())
        }
        Value::Array(values) => values
            .into_iter()
            .map(|value| decode_strings(value, encoding))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        other => Ok(other),
    }
}

/// Bytes in a JSON file: a string, or the result of [`decode_fields`].
#[derive(serde::Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(untagged, expecting = "keys and values must be strings, as in \"1\"")]
pub(crate) enum Blob {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Blob> for Vec<u8> {
    fn from(blob: Blob) -> Self {
        match blob {
            Blob::Text(text) => text.into_bytes(),
            Blob::Bytes(bytes) => bytes,
        }
    }
}

/// One line of JSON. Characters that control a terminal are escaped, in addition to those that JSON requires.
pub(crate) fn json_line(value: &Value) -> String {
    let text = value.to_string();
    if !text.chars().any(is_control) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut line, char| {
        if is_control(char) {
            write!(line, "\\u{:04x}", u32::from(char)).expect("writing to a string does not fail");
        } else {
            line.push(char);
        }
        line
    })
}

/// Makes any text safe for a terminal.
pub(crate) fn printable(text: &str) -> String {
    escape(text.as_bytes(), true)
}

/// Escapes what is not text, and what controls a terminal, as `\x1b` and the like.
fn escape(bytes: &[u8], may_have_lines: bool) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' | '\t' if may_have_lines => shown.push(char),
                '\n' | '\t' | '\r' => shown.extend(char.escape_default()),
                char if char.is_ascii_control() => {
                    write!(shown, "\\x{:02x}", u32::from(char)).expect("writing to a string does not fail");
                }
                char if is_control(char) => shown.extend(char.escape_unicode()),
                char => shown.push(char),
            }
        }
        shown += &chunk.invalid().escape_ascii().to_string();
    }
    shown
}

/// Whether a character moves the cursor or changes the order of the text on the line.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(&pair[0])? << 4 | digit(&pair[1])?)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ENCODINGS: [Encoding; 3] =
        [Encoding::TEXT, Encoding { hex: true, base64: false }, Encoding { hex: false, base64: true }];

    #[test]
    fn printed_bytes_can_be_parsed_again() {
        for len in 0..70_u8 {
            let bytes: Vec<u8> = (0..len).map(|at| at.wrapping_mul(37).wrapping_add(len)).collect();
            for encoding in &ENCODINGS[1..] {
                let shown = String::from_utf8(encoding.shown(&bytes)).expect("text");
                assert_eq!(encoding.read("key", shown.into()), Ok(bytes.clone()), "{encoding:?}");
            }
            for encoding in ENCODINGS {
                let mut object = Map::new();
                encoding.put(&mut object, "value", &bytes);
                let line = json_line(&Value::Object(object));
                let mut read: Map<String, Value> = serde_json::from_str(&line).expect("JSON");
                decode_fields(&mut read, &["value"]).expect("it is encoded well");
                let blob: Blob =
                    serde_json::from_value(read.remove("value").expect("it is there")).expect("bytes");
                assert_eq!(Vec::from(blob), bytes, "{encoding:?} {line}");
            }
        }
    }

    #[test]
    fn invalid_encoding_is_refused_with_the_expected_one() {
        for (encoding, word, fragment) in [
            (ENCODINGS[1], "0", "not hex"),
            (ENCODINGS[1], "0g", "not hex"),
            (ENCODINGS[1], "0x00", "not hex"),
            (ENCODINGS[1], "é0", "not hex"),
            (ENCODINGS[2], "AP8", "not base64"),
            (ENCODINGS[2], "A P8=", "not base64"),
        ] {
            let text = encoding.read("value", word.into()).expect_err(word).to_string();
            assert!(text.contains(fragment) && text.contains(word) && text.contains("value"), "{text}");
        }
        assert_eq!(ENCODINGS[1].read("key", "00fF".into()), Ok(vec![0, 0xff]));
        let mut twice = json!({ "put": "a", "put_hex": "61" }).as_object().cloned().expect("an object");
        assert!(decode_fields(&mut twice, &["put"]).expect_err("twice").contains("`put_hex`"));
    }

    #[test]
    fn control_characters_are_escaped_for_a_terminal() {
        let nasty = b"a\x1b[2J\x07\x7f\xff\xc2\x9b1m\r\nb\t\xe2\x80\xae";
        let line = escape(nasty, false);
        assert_eq!(line, "a\\x1b[2J\\x07\\x7f\\xff\\u{9b}1m\\r\\nb\\t\\u{202e}");
        assert!(escape(nasty, true).contains("\\r\nb\t\\u"));
        let text = json_line(&json!({ "key": "a\u{1b}\u{7f}\u{9b}\u{202e}\n" }));
        assert_eq!(text, r#"{"key":"a\u001b\u007f\u009b\u202e\n"}"#);
        assert_eq!(escape("grüße, 世界".as_bytes(), false), "grüße, 世界");
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_in_hex() {
        let mut object = Map::new();
        Encoding::TEXT.put(&mut object, "key", b"a");
        Encoding::TEXT.put(&mut object, "value", &[0xff, 0x00]);
        assert_eq!(Value::Object(object).to_string(), r#"{"key":"a","value_hex":"ff00"}"#);
        assert_eq!(Encoding::TEXT.quoted(&[0xff]), "ff (in hex)");
        assert_eq!(Encoding::TEXT.quoted(b"a\x1b"), "\"a\\u{1b}\"");
    }
}
