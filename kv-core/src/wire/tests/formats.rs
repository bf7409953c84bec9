//! The bytes on the wire: another layout needs another version.

use super::*;
use std::fmt::Write;

const STORED: &str = include_str!("formats.txt");

/// The version, and one line for each frame: how it is read, and its bytes in hexadecimal.
fn listed() -> String {
    let mut text = format!("wire protocol {}\n", PROTOCOL.max);
    for (kind, frame) in frames() {
        write!(text, "{kind:?} ").expect("a text can be written to");
        frame.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text can be written to"));
        text.push('\n');
    }
    text
}

/// Members and clients of one version understand each other, whenever they were built.
#[test]
fn frames_are_encoded_as_before_unless_the_version_is_new() {
    let listed = listed();
    if std::env::var_os("KV_STORE_FORMATS").is_some() {
        assert!(STORED.lines().next() != listed.lines().next(), "raise the version first");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire/tests/formats.txt");
        return std::fs::write(file, listed).expect("it is writable");
    }
    let what_to_do = "raise the version of the wire protocol, and store the new frames: run this test with \
                      KV_STORE_FORMATS=1";
    let differs = STORED.lines().zip(listed.lines()).find(|(stored, now)| stored != now);
    assert!(differs.is_none(), "a frame is encoded differently: {what_to_do}\n{differs:#?}");
    assert_eq!(STORED.lines().count(), listed.lines().count(), "there are other frames: {what_to_do}");
}

/// Members of the earlier version that is still spoken understand every frame that they know.
#[test]
fn frames_of_the_earlier_version_are_encoded_as_then() {
    const EARLIER: &str = include_str!("formats-8.txt");
    let mut lines = EARLIER.lines();
    assert_eq!(lines.next(), Some(&*format!("wire protocol {}", PROTOCOL.min)));
    let listed = listed();
    // The hellos name the versions themselves.
    let lost =
        lines.filter(|line| !line.starts_with("Hello")).find(|line| !listed.lines().any(|now| now == *line));
    assert_eq!(lost, None, "a member with version {} cannot read this frame any more", PROTOCOL.min);
}
