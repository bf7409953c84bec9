//! The preface: the first bytes on a socket or stream. It contains the lane (the class of traffic) that the connecting
//! end chose. Transports that have no other way to send the lane use a preface.
//!
//! ```text
//! offset  bytes  meaning
//! 0       4      "kvt" and a line feed
//! 4       1      version of this preface, 1
//! 5       1      lane: 1 control, 2 log, 3 bulk, 4 client
//! 6       2      zero, reserved
//! ```

use crate::Lane;

const MAGIC: [u8; 4] = *b"kvt\n";
const VERSION: u8 = 1;

/// The length of a preface, in bytes.
pub const BYTES: usize = 8;

/// Returns the preface for `lane`.
pub fn encode(lane: Lane) -> [u8; BYTES] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, VERSION, lane.code(), 0, 0]
}

/// Decodes a preface, and returns its lane.
///
/// # Errors
/// A text that states what is wrong with the preface.
pub fn decode(bytes: [u8; BYTES]) -> Result<Lane, &'static str> {
    let [a, b, c, d, version, lane, reserved @ ..] = bytes;
    if [a, b, c, d] != MAGIC {
        return Err("it does not speak kv");
    }
    if version != VERSION {
        return Err("it speaks another version of kv's transports");
    }
    if reserved != [0, 0] {
        return Err("its preface is malformed");
    }
    Lane::of_code(lane).ok_or("it asks for an unknown lane")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_round_trips_with_stable_bytes() {
        for (lane, code) in Lane::ALL.into_iter().zip(1..) {
            assert_eq!(encode(lane), [b'k', b'v', b't', b'\n', 1, code, 0, 0]);
            assert_eq!(decode(encode(lane)), Ok(lane));
        }
    }

    #[test]
    fn any_other_byte_anywhere_is_refused_or_is_another_lane() {
        let good = encode(Lane::Log);
        for at in 0..BYTES {
            for byte in 0..=u8::MAX {
                let mut bytes = good;
                bytes[at] = byte;
                let is_lane = at == 5 && (1..=4).contains(&byte);
                assert_eq!(decode(bytes).is_ok(), byte == good[at] || is_lane, "{bytes:?}");
            }
        }
    }
}
