//! Words as people write them: times (`25ms`), sizes (`16MiB`), yes or no, lists.

use crate::failure;
use serde::Deserialize;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// A span of time, written as a number and a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default, Deserialize)]
#[serde(try_from = "TimeText")]
pub(crate) struct DurationArg(pub(crate) Duration);

#[derive(Deserialize)]
#[serde(untagged, expecting = "write a time as a string with a number and a unit, as in \"25ms\" or \"2s\"")]
enum TimeText {
    Text(String),
}

impl DurationArg {
    pub(crate) const DAY: Self = Self::ms(24 * 3600 * 1000);

    pub(crate) const fn ms(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl fmt::Display for DurationArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failure::time(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a time: write a number and a unit, as in 25ms, 2s, 10min, 1h or 30d");
        amount(text, &failure::TIMES).map(Self::ms).ok_or_else(wrong)
    }
}

impl From<DurationArg> for Duration {
    fn from(span: DurationArg) -> Self {
        span.0
    }
}

impl TryFrom<TimeText> for DurationArg {
    type Error = String;

    fn try_from(TimeText::Text(text): TimeText) -> Result<Self, String> {
        text.parse()
    }
}

/// A number of bytes: plain, or with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "SizeText")]
pub(crate) struct SizeArg(pub(crate) u64);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "write a number of bytes, plain or with a unit, as in 4096, \"64KiB\" or \"16MiB\""
)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a size: write a number of bytes, as in 4096, 64KiB, 16MiB or 1GiB");
        let units = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        amount(text, &units).map(Self).ok_or_else(wrong)
    }
}

impl From<SizeArg> for u64 {
    fn from(size: SizeArg) -> Self {
        size.0
    }
}

/// A size that does not fit exceeds every limit, so the range check refuses it.
impl From<SizeArg> for usize {
    fn from(size: SizeArg) -> Self {
        Self::try_from(size.0).unwrap_or(Self::MAX)
    }
}

impl TryFrom<SizeText> for SizeArg {
    type Error = String;

    fn try_from(size: SizeText) -> Result<Self, String> {
        match size {
            SizeText::Number(bytes) => Ok(Self(bytes)),
            SizeText::Text(text) => text.parse(),
        }
    }
}

/// A number and one of the units, as in `"25ms"`, multiplied by the factor of the unit.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A word that means yes or no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("write true or false (1 or 0, yes or no, on or off)".to_owned()),
    }
}

/// Parses one item of a comma-separated list, possibly with spaces around it.
pub(crate) fn listed(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the list has an empty element: remove the extra comma".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// A parser of whole numbers in this range.
pub(crate) fn whole<T: Ranged>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone {
    within("whole number", range)
}

/// A parser of times in this range.
pub(crate) fn time(
    range: RangeInclusive<DurationArg>,
) -> impl Fn(&str) -> Result<DurationArg, String> + Clone {
    within("time", range)
}

pub(crate) trait Ranged: FromStr + PartialOrd + fmt::Display + Clone {}

impl<T: FromStr + PartialOrd + fmt::Display + Clone> Ranged for T {}

fn within<T: Ranged>(what: &str, range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone {
    let wrong = format!("write a {what} from {} to {}", range.start(), range.end());
    move |text| text.trim().parse().ok().filter(|value| range.contains(value)).ok_or_else(|| wrong.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, millis) in [("25ms", 25), ("2s", 2000), ("10 min", 600_000), ("1h", 3_600_000), ("0ms", 0)]
        {
            assert_eq!(text.parse::<DurationArg>().unwrap().0, Duration::from_millis(millis), "{text}");
        }
        for text in ["", "25", "ms", "-1s", "1.5s", "25 years", "99999999999999999d"] {
            assert!(text.parse::<DurationArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_or_without_a_unit() {
        for (text, bytes) in [("4096", 4096), ("64KiB", 65_536), ("16 MiB", 16 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(text.parse::<SizeArg>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "KiB", "16MB", "-1", "99999999999GiB"] {
            assert!(text.parse::<SizeArg>().is_err(), "{text}");
        }
    }
}
