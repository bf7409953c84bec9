//! The JSON form of protocol buffers: what `encoding/json` of proto3 allows in requests, and how answers are written.
//!
//! Fields may be absent or `null`, which is their default. Unknown fields are ignored. Names may be in snake case or in
//! camel case; the messages have an alias for the second. Answers leave out fields that have their default.

use super::super::errors::Failure;
use base64::Engine as _;
use base64::alphabet;
use base64::display::Base64Display;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// Both alphabets are allowed in requests, with and without padding.
const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const USUAL: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Reads a request. No body is an empty request.
pub(super) fn parse<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::invalid("the body is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

/// Reads requests that follow one another, at most `max`.
pub(super) fn parse_all<T: DeserializeOwned>(body: &[u8], max: usize) -> Result<Vec<T>, Failure> {
    let mut requests = Vec::new();
    for request in serde_json::Deserializer::from_slice(body).into_iter() {
        if requests.len() == max {
            return Err(Failure::invalid(format!(
                "the body has more than {max} requests, which is the most"
            )));
        }
        requests.push(request.map_err(|error| malformed(&error))?);
    }
    Ok(requests)
}

fn malformed(error: &serde_json::Error) -> Failure {
    Failure::invalid(format!("the body is not the JSON of this request: {error}"))
}

/// A whole number: `int64` or `uint64`, as a number or as a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Int(pub(super) i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits, or a string with one")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Int, E> {
                Ok(Int(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Int, E> {
                number.try_into().map(Int).map_err(|_| E::custom(format_args!("{number} is too large")))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Int, E> {
                // Above 2^53, a floating-point number may stand for a whole number that it is not.
                let is_exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
                #[allow(clippy::cast_possible_truncation, reason = "it has been checked")]
                if is_exact { Ok(Int(number as i64)) } else { Err(E::custom("not a whole number")) }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Int, E> {
                text.parse().map(Int).map_err(|_| E::custom(format_args!("{text:?} is no whole number")))
            }

            fn visit_unit<E: Error>(self) -> Result<Int, E> {
                Ok(Int(0))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

impl Int {
    /// The number; `None` if it is zero or negative, which has no meaning for ids and revisions.
    pub(super) fn positive(self) -> Option<u64> {
        u64::try_from(self.0).ok().filter(|number| *number > 0)
    }
}

/// A whole number that can be greater than an `int64`: `uint64`, as a number or as a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Unsigned(pub(super) u64);

impl<'de> Deserialize<'de> for Unsigned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Option::deserialize(deserializer)? {
            None => Ok(Self(0)),
            Some(Form::Number(number)) => Ok(Self(number)),
            Some(Form::Text(text)) => text
                .parse()
                .map(Self)
                .map_err(|_| D::Error::custom(format_args!("{text:?} is no whole number"))),
        }
    }
}

/// Bytes, in base64.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Blob(pub(super) Bytes);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl Visitor<'_> for Texts {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string with bytes in base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Blob, E> {
                let engine = if text.contains(['-', '_']) { FOR_URLS } else { USUAL };
                let bytes =
                    engine.decode(text).map_err(|error| E::custom(format_args!("not base64: {error}")))?;
                Ok(Blob(bytes.into()))
            }

            fn visit_unit<E: Error>(self) -> Result<Blob, E> {
                Ok(Blob::default())
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// A truth value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// A list of at most `MAX` elements. Elements can take much more memory than their text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of up to {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format_args!("a list has more than {MAX} elements")));
                    }
                    list.push(element);
                }
                Ok(List(list))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(List::default())
            }
        }
        deserializer.deserialize_any(Elements(PhantomData))
    }
}

/// Defines an enumeration that is written as a name or as a number. The first variant is the default.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal, $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub(super) enum $name {
            #[default]
            $first,
            $($variant),*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const ALL: &[(&str, $name)] = &[($first_text, $name::$first), $(($text, $name::$variant)),*];
                $crate::http::etcd::json::choose(deserializer, ALL)
            }
        }
    };
}

pub(super) use choices;

/// Reads the name or the number of a choice.
pub(super) fn choose<'de, D: Deserializer<'de>, T: Copy + 'static>(
    deserializer: D,
    all: &'static [(&'static str, T)],
) -> Result<T, D::Error> {
    struct Choices<T: 'static>(&'static [(&'static str, T)]);
    impl<T: Copy> Choices<T> {
        fn at<E: Error>(&self, index: Option<usize>) -> Result<T, E> {
            let choice = index.and_then(|index| self.0.get(index));
            choice.map(|(_, choice)| *choice).ok_or_else(|| {
                let names: Vec<_> = self.0.iter().map(|(name, _)| *name).collect();
                E::custom(format_args!("unknown choice: {} are known", names.join(", ")))
            })
        }
    }
    impl<T: Copy> Visitor<'_> for Choices<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name or the number of a choice")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
            self.at(number.try_into().ok())
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
            self.at(number.try_into().ok())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let index = self.0.iter().position(|(name, _)| *name == text);
            self.at(index.or_else(|| text.parse().ok()))
        }

        fn visit_unit<E: Error>(self) -> Result<T, E> {
            self.at(Some(0))
        }
    }
    deserializer.deserialize_any(Choices(all))
}

/// Writes a number as a string.
pub(super) fn number<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Writes a number, which may be negative, as a string.
pub(super) fn signed<S: Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Writes bytes in base64.
pub(super) fn blob<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(bytes, &STANDARD))
}

/// Writes a list of bytes in base64.
pub(super) fn blobs<S: Serializer>(list: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
}

/// Whether a value is the default of its type, which is left out.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    choices!(
        /// A direction.
        Direction { None = "NONE", Up = "UP", Down = "DOWN" }
    );

    #[derive(Deserialize, PartialEq, Debug, Default)]
    #[serde(default)]
    struct Message {
        #[serde(alias = "someNumber")]
        some_number: Int,
        key: Blob,
        flag: Flag,
        direction: Direction,
        list: List<Int, 3>,
    }

    fn read(text: &str) -> Option<Message> {
        parse(text.as_bytes()).ok()
    }

    #[test]
    fn absent_and_null_are_the_default_and_unknown_fields_are_ignored() {
        let none = Some(Message::default());
        for text in [
            "",
            " \n",
            "{}",
            r#"{"some_number":null,"key":null,"flag":null,"direction":null,"list":null}"#,
            r#"{"other":{"deep":[1,{"x":null}]},"SOME_NUMBER":7}"#,
            r#"{"some_number":0,"key":"","flag":false,"direction":"NONE","list":[]}"#,
        ] {
            assert_eq!(read(text), none, "{text}");
        }
        for text in ["null", "[]", "[\"7\"]", "[]x", "{", "7", r#"{"some_number":}"#, "{}{}", "\u{0}"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_numbers_or_strings() {
        let number = |text: &str| read(&format!(r#"{{"some_number":{text}}}"#)).map(|it| it.some_number.0);
        assert_eq!(number("7"), Some(7));
        assert_eq!(number(r#""7""#), Some(7));
        assert_eq!(number("-7"), Some(-7));
        assert_eq!(number("7.0"), Some(7));
        assert_eq!(number("1e3"), Some(1000));
        assert_eq!(number(r#""9223372036854775807""#), Some(i64::MAX));
        assert_eq!(number("9223372036854775807"), Some(i64::MAX));
        assert_eq!(read(r#"{"someNumber":"8"}"#).map(|it| it.some_number.0), Some(8));
        for wrong in ["7.5", "1e300", "9223372036854775808", r#""""#, r#"" 7""#, r#""x""#, "true", "[]", "{}"]
        {
            assert_eq!(number(wrong), None, "{wrong}");
        }
        assert_eq!(read(r#"{"someNumber":1,"some_number":1}"#), None, "the same field twice");
    }

    #[test]
    fn bytes_are_base64_of_both_alphabets_with_and_without_padding() {
        let key = |text: &str| read(&format!(r#"{{"key":"{text}"}}"#)).map(|it| it.key.0.to_vec());
        assert_eq!(key("Zm9v"), Some(b"foo".to_vec()));
        assert_eq!(key("AA=="), Some(vec![0]));
        assert_eq!(key("AA"), Some(vec![0]));
        assert_eq!(key("+/8="), Some(vec![0xfb, 0xff]));
        assert_eq!(key("-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(key(r"Zm9v"), Some(b"foo".to_vec()));
        for wrong in ["A", "AA=A", "+_8=", "Zm9v!", "Zm 9v"] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn choices_are_names_or_numbers() {
        let direction = |text: &str| read(&format!(r#"{{"direction":{text}}}"#)).map(|it| it.direction);
        assert_eq!(direction(r#""DOWN""#), Some(Direction::Down));
        assert_eq!(direction("1"), Some(Direction::Up));
        assert_eq!(direction(r#""2""#), Some(Direction::Down));
        for wrong in ["3", "-1", r#""down""#, r#""""#, "1.5", "true"] {
            assert_eq!(direction(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        assert_eq!(read(r#"{"list":[1,"2",3]}"#).map(|it| it.list.0.len()), Some(3));
        assert_eq!(read(r#"{"list":[1,2,3,4]}"#), None);
        assert_eq!(parse_all::<Message>(b"{} {}\n{}", 3).map(|all| all.len()), Ok(3));
        assert!(parse_all::<Message>(b"{}{}{}{}", 3).is_err());
    }

    #[test]
    fn random_bytes_are_no_request_and_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(5);
        let pieces = [
            "{", "}", "[", "]", ":", ",", "\"key\"", "\"list\"", "\"Zm9v\"", "7", "-", "null", "\\u", "\"",
            "\u{7f}", "1e9", " ",
        ];
        for _ in 0..20_000 {
            let text: String =
                (0..random.usize(..20)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let _ = read(&text);
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let _ = parse::<Message>(&bytes);
        }
        assert!(read(&"[".repeat(100_000)).is_none());
        assert!(read(&format!(r#"{{"x":{}"#, "[".repeat(100_000))).is_none());
    }
}
