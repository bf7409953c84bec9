//! F-input-5: an extreme integer anywhere in any message is refused or in range.

use super::*;

/// The numbers of views within an epoch are below this.
const NUMBER_END: u64 = 1 << 39;
/// The first view of the second epoch.
const EPOCH: u64 = 1 << 40;

/// Zero, the ends of each width, and both sides of the ends of counters, of the numbers of views and of an epoch.
const EXTREMES: [u64; 13] = [
    0,
    u8::MAX as u64,
    u16::MAX as u64,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    NUMBER_END - 1,
    NUMBER_END,
    EPOCH - 1,
    EPOCH,
    FAR - 1,
    FAR,
    i64::MAX as u64,
    u64::MAX,
];

/// The longest encoding of an integer of 64 bits.
const LONGEST: usize = 10;

/// The bodies that come about where the integer at any place is another. Which bytes are integers is not looked at:
/// each run of bytes that could be one is replaced.
fn changed(body: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let cuts =
        (0..body.len()).flat_map(move |at| (1..=LONGEST.min(body.len() - at)).map(move |len| (at, len)));
    cuts.filter(|(at, len)| {
        let (last, rest) = body[*at..at + len].split_last().expect("it is not empty");
        last & 0x80 == 0 && rest.iter().all(|byte| byte & 0x80 != 0)
    })
    .flat_map(move |(at, len)| {
        EXTREMES.into_iter().map(move |value| {
            let value = postcard::to_stdvec(&value).unwrap();
            [&body[..at], &value, &body[at + len..]].concat()
        })
    })
}

/// The counters in a message, as its text shows them: a letter and digits. A view of a later epoch shows the epoch and
/// a number.
fn counters(text: &str) -> Vec<(char, u64)> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    for at in 1..bytes.len() {
        let starts = bytes[at].is_ascii_digit() && b"vornscT".contains(&bytes[at - 1]);
        if !starts || at.checked_sub(2).is_some_and(|before| bytes[before].is_ascii_alphanumeric()) {
            continue;
        }
        let digits =
            |from: usize| text[from..].split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
        let number = |digits: &str| digits.parse::<u64>().expect("a number of 64 bits");
        let (letter, first) = (char::from(bytes[at - 1]), digits(at));
        let point = at + first.len();
        let counter = match letter == 'v' && text[point..].starts_with('.') {
            true => number(first) * EPOCH + number(digits(point + 1)),
            false => number(first),
        };
        found.push((letter, counter));
    }
    found
}

fn is_in_range((letter, counter): (char, u64)) -> bool {
    counter < FAR && (letter != 'v' || counter % EPOCH < NUMBER_END)
}

fn assert_in_range(accepted: &impl std::fmt::Debug) {
    let text = format!("{accepted:?}");
    assert!(counters(&text).into_iter().all(is_in_range), "out of range: {text}");
}

#[test]
fn the_text_of_a_message_shows_its_counters() {
    for view in [5, NUMBER_END, EPOCH, 3 * EPOCH + 5, FAR, i64::MAX as u64] {
        let message =
            Message::PrepareOk { view: View::new(view), log: Anchor::new(Op::new(FAR), Hash::ZERO) };
        assert_eq!(counters(&format!("{message:?}")), [('v', view), ('o', FAR)]);
    }
    for far in [NUMBER_END, EPOCH - 1, FAR, i64::MAX as u64] {
        assert!(!is_in_range(('v', far)), "{far:x}");
    }
    assert!(is_in_range(('v', EPOCH)) && is_in_range(('v', FAR - EPOCH)) && is_in_range(('o', NUMBER_END)));
}

#[test]
fn f_input_5_a_message_with_an_extreme_integer_anywhere_is_refused_or_in_range() {
    let mut tried = 0;
    for (kind, frame) in frames() {
        for body in changed(&frame[HEADER_BYTES..]) {
            let frame = Frame::parse(sealed(kind, &body), kind, DEFAULT_MAX_FRAME).unwrap();
            tried += 1;
            match kind {
                Kind::Message => {
                    let Ok(message) = frame.message() else { continue };
                    assert_in_range(&message);
                    assert_eq!(decode_message(encode_message(&message)).unwrap(), message);
                }
                Kind::Client => {
                    let Ok(message) = frame.client_message() else { continue };
                    assert_in_range(&message);
                    if let ClientCall::Write(request) = &message.what
                        && let Ok(Request { session, number, acked_through, .. }) = Request::decode(request)
                    {
                        assert_in_range(&(session, number, acked_through));
                    }
                }
                Kind::Server => {
                    let Ok(message) = frame.server_message() else { continue };
                    assert_in_range(&message);
                }
                Kind::Hello => {
                    // Whatever its value, it is only compared.
                    let Ok(hello) = frame.hello() else { continue };
                    let _ = expectation().check(&hello, hello.lane, &Peer::Unauthenticated);
                }
                Kind::HelloReply => {
                    let Ok(HelloReply::Ok(welcome)) = frame.hello_reply() else { continue };
                    assert!(PROTOCOL.common(VersionRange::just(welcome.protocol)).is_some(), "{welcome:?}");
                }
                Kind::Alive => drop(frame.alive()),
            }
        }
    }
    assert!(tried > 1_000, "only {tried} frames were tried");
}
