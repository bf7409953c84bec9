//! The commands on keys, as pure functions.

use super::super::overlay::Overlay;
use super::super::reply::Reply;
use super::*;
use kv_core::client::StepResult;

/// The time of these tests, in milliseconds.
const NOW: u64 = 1_000_000;

fn call(line: &str) -> Call {
    Call::new(line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()).unwrap()
}

/// Runs the commands on a space that is empty at first.
fn run(overlay: &mut Overlay, line: &str) -> Reply {
    let call = call(line);
    let Run::Keys(function) = call.spec.run else { panic!("{line} is no command on keys") };
    function(overlay, &call.request).unwrap_or_else(|error| error)
}

/// Each line is a command and its reply: an integer, `nil`, `+status`, `-part of an error` or a value.
fn script(lines: &[(&str, &str)]) {
    let mut overlay = Overlay::new([], NOW, 1000);
    for (line, expected) in lines {
        let reply = run(&mut overlay, line);
        let is_right = match &reply {
            Reply::Integer(number) => *expected == number.to_string(),
            Reply::Null => *expected == "nil",
            Reply::Simple(text) => expected.strip_prefix('+') == Some(text),
            Reply::Error(text) => expected.strip_prefix('-').is_some_and(|part| text.contains(part)),
            Reply::Bulk(value) => value == expected.as_bytes(),
            _ => false,
        };
        assert!(is_right, "{line}: {reply:?}, not {expected}");
    }
}

#[test]
fn set_takes_all_its_options() {
    script(&[
        ("SET k 1", "+OK"),
        ("SET k 2 NX", "nil"),
        ("SET k 2 XX", "+OK"),
        ("SET k 3 GET", "2"),
        ("SET k 4 NX GET", "3"),
        ("SET other 1 XX", "nil"),
        ("SET k 5 EX 10", "+OK"),
        ("PTTL k", "10000"),
        ("SET k 6 KEEPTTL", "+OK"),
        ("TTL k", "10"),
        ("SET k 7", "+OK"),
        ("TTL k", "-1"),
        ("SET k 8 PXAT 1000007", "+OK"),
        ("PTTL k", "7"),
        ("SET k 8 EXAT 1", "+OK"),
        ("GET k", "nil"),
        ("SET k 9 IFNE 1", "+OK"),
        ("SET k 10 IFNE 9", "nil"),
        ("SET k 10 IFEQ 9", "+OK"),
        ("SET k 11 IFEQ 9 GET", "10"),
        ("SET absent 1 IFEQ 1", "nil"),
        ("SET k 11 NX IFEQ 9", "-syntax"),
        ("DELEX k IFEQ 9", "0"),
        ("DELEX k IFNE 10", "0"),
        ("DELEX k IFZZ 10", "-syntax"),
        ("DELEX k IFEQ 10", "1"),
        ("DELEX k", "0"),
        ("SET k 1 NX XX", "-syntax"),
        ("SET k 1 EX 1 PX 1", "-syntax"),
        ("SET k 1 EX 1 KEEPTTL", "-syntax"),
        ("SET k 1 EX", "-syntax"),
        ("SET k 1 EX 0", "-invalid expire time in 'set'"),
        ("SET k 1 EX x", "-not an integer"),
        ("SETEX k 0 v", "-invalid expire time in 'setex'"),
        ("PSETEX k 20 v", "+OK"),
        ("PTTL k", "20"),
    ]);
}

#[test]
fn strings_and_counters() {
    script(&[
        ("INCR n", "1"),
        ("INCRBY n 9", "10"),
        ("DECRBY n 20", "-10"),
        ("DECRBY n -9223372036854775808", "-overflow"),
        ("SET n 9223372036854775807", "+OK"),
        ("INCR n", "-overflow"),
        ("SET n abc", "+OK"),
        ("INCR n", "-not an integer"),
        ("APPEND n def", "6"),
        ("GETRANGE n 1 -2", "bcde"),
        ("GETRANGE n 5 1", ""),
        ("GETRANGE n -100 100", "abcdef"),
        ("SETRANGE n 8 x", "9"),
        ("SETRANGE n 1000 x", "-maximum allowed size (1000 bytes)"),
        ("SETRANGE big 999 x", "1000"),
        ("APPEND big x", "-maximum allowed size (1000 bytes)"),
        ("STRLEN n", "9"),
        ("GETSET n new", "abcdef\0\0x"),
        ("GETDEL n", "new"),
        ("GETDEL n", "nil"),
        ("INCRBYFLOAT f 10.5", "10.5"),
        ("INCRBYFLOAT f 0.1", "10.6"),
        ("MSET a 1 b 2", "+OK"),
        ("MSET a 1 b", "-wrong number"),
        ("MSETNX c 1 a 2", "0"),
        ("EXISTS a b c a", "3"),
        ("SETNX c 1", "1"),
        ("SETNX c 1", "0"),
    ]);
}

#[test]
fn the_time_to_live_can_be_changed_on_conditions() {
    script(&[
        ("EXPIRE k 10", "0"),
        ("TTL k", "-2"),
        ("SET k v", "+OK"),
        ("EXPIRE k 10 XX", "0"),
        ("EXPIRE k 10 GT", "0"),
        ("EXPIRE k 10 LT", "1"),
        ("EXPIRE k 20 NX", "0"),
        ("EXPIRE k 20 LT", "0"),
        ("EXPIRE k 20 GT", "1"),
        ("TTL k", "20"),
        ("EXPIRETIME k", "1020"),
        ("PEXPIRETIME k", "1020000"),
        ("EXPIRE k 20 GT LT", "-not compatible"),
        ("EXPIRE k 20 NX XX", "-not compatible"),
        ("EXPIRE k 20 ZZ", "-Unsupported option ZZ"),
        ("EXPIRE k 9223372036854775807", "-invalid expire time"),
        ("PERSIST k", "1"),
        ("PERSIST k", "0"),
        ("GETEX k PX 5", "v"),
        ("PTTL k", "5"),
        ("GETEX k PERSIST", "v"),
        ("TTL k", "-1"),
        ("INCR n", "1"),
        ("PEXPIRE n 100", "1"),
        ("INCR n", "2"),
        ("PTTL n", "100"),
        ("EXPIREAT k 1", "1"),
        ("EXISTS k", "0"),
    ]);
}

#[test]
fn keys_are_renamed_and_copied_with_their_time_to_live() {
    script(&[
        ("RENAME a b", "-no such key"),
        ("SET a 1 PX 50", "+OK"),
        ("RENAME a b", "+OK"),
        ("PTTL b", "50"),
        ("RENAMENX b b", "0"),
        ("SET a 2", "+OK"),
        ("RENAMENX a b", "0"),
        ("COPY b a", "0"),
        ("COPY b a REPLACE", "1"),
        ("PTTL a", "50"),
        ("COPY a a", "-the same"),
        ("COPY a b DB 1", "-out of range"),
        ("TYPE a", "+string"),
        ("DEL a b c", "2"),
        ("TYPE a", "+none"),
        ("COPY a b", "0"),
    ]);
}

#[test]
fn requests_are_checked_before_they_run() {
    let new = |line: &str| Call::new(line.split(' ').map(|word| Bytes::from(word.to_owned())).collect());
    for (line, expected) in [
        ("lpush a b", "ERR unknown command 'lpush', with args beginning with: 'a' 'b' "),
        ("\u{1}aaaaaaaaaaaaaaaaaaaa", "ERR unknown command"),
        ("get", "ERR wrong number of arguments for 'get' command"),
        ("MGET", "ERR wrong number of arguments for 'mget' command"),
    ] {
        let Refusal::Reply(Reply::Error(text)) = new(line).unwrap_err() else { panic!("{line}") };
        assert!(text.contains(expected), "{text}");
    }
    for line in ["POST / HTTP/1.1", "Host: localhost:6379"] {
        assert_eq!(new(line).unwrap_err(), Refusal::Http);
    }
}

#[test]
fn keys_are_found_among_the_arguments() {
    let keys = |line: &str| {
        call(line).keys().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("GET a"), ["a"]);
    assert_eq!(keys("MSET a 1 b 2"), ["a", "b"]);
    assert_eq!(keys("MSET a 1 b"), ["a", "b"]);
    assert_eq!(keys("DEL a b c"), ["a", "b", "c"]);
    assert_eq!(keys("COPY a b REPLACE"), ["a", "b"]);
    assert!(keys("PING").is_empty());
}

/// Adds lines to a group up to the first that does not fit.
fn group(lines: &[&str]) -> Direct {
    let mut direct = Direct::default();
    let _ = lines.iter().take_while(|line| direct.push(&call(line), NOW)).count();
    direct
}

#[test]
fn requests_that_need_no_read_become_one_transaction() {
    let direct = group(&[
        "INCR n",
        "INCRBY n 4",
        "SET a 1",
        "SET a 2",
        "GET a",
        "GET b",
        "DEL c c d",
        "EXPIRE e 5",
        "GETSET f 2",
        "GETDEL g",
    ]);
    assert_eq!(direct.len(), 10);
    let results = [
        StepResult::Added { sum: 15 },
        StepResult::Put,
        StepResult::Got(None),
        StepResult::Deleted { existed: true },
        StepResult::Deleted { existed: false },
        StepResult::Touched { existed: true },
        StepResult::Got(None),
        StepResult::Put,
        StepResult::Got(None),
        StepResult::Deleted { existed: false },
    ];
    let value = Reply::Bulk(Bytes::from_static(b"2"));
    let ok = Reply::OK;
    let expected = [
        Reply::Integer(11),
        Reply::Integer(15),
        ok.clone(),
        ok,
        value,
        Reply::Null,
        Reply::Integer(1),
        Reply::Integer(1),
        Reply::Null,
        Reply::Null,
    ];
    assert_eq!(direct.replies(&results), expected);
}

/// A transaction has up to 1,000 steps, however many words its requests have.
#[test]
fn steps_are_counted_exactly() {
    let pairs: String = (0..1000).map(|number| format!(" {number} v")).collect();
    assert_eq!(group(&[&format!("MSET{pairs}")]).len(), 1);
    assert_eq!(group(&[&format!("MSET{pairs} 1000 v")]).len(), 0);
    let increments: Vec<String> = (0..999).map(|number| format!("INCR {number}")).collect();
    let mut lines: Vec<&str> = increments.iter().map(String::as_str).collect();
    lines.push("GETDEL x");
    assert_eq!(group(&lines).len(), 999);
    *lines.last_mut().unwrap() = "INCR x";
    assert_eq!(group(&lines).len(), 1000);
}

/// The requests of a transaction belong together, whatever size they have.
#[test]
fn only_groups_have_a_limit_of_bytes() {
    let set = call(&format!("SET a {}", "x".repeat(200_000)));
    let (mut direct, mut transaction) = (Direct::default(), Direct::transaction());
    assert_eq!([0; 3].map(|_| direct.push(&set, NOW)), [true, false, false]);
    assert_eq!([0; 3].map(|_| transaction.push(&set, NOW)), [true; 3]);
}

#[test]
fn requests_that_depend_on_each_other_are_not_combined() {
    for lines in [
        &["SET a 1", "DEL a"][..],
        &["SET a 1", "INCR a"],
        &["INCR a", "GET a"],
        &["INCR a", "DECR a"],
        &["INCRBY a 9223372036854775807", "INCR a"],
        &["DEL a", "SET a 1"],
        &["EXPIRE a 1", "SET a 1"],
        &["SET a 1", "SET b 1 NX"],
        &["SET a 1", "SET b 1 EX 0"],
        &["SET a 1", "APPEND b 1"],
        &["SET a 1", "MSET b 1 c"],
        &["SET a 1", "EXPIRE b -1"],
    ] {
        assert_eq!(group(lines).len(), 1, "{lines:?}");
    }
    assert_eq!(group(&["GET a"]).len(), 0, "only a group that writes is a transaction");
}
