//! Which rows a state needs: those that can still be read. All members at one op agree on them, however their runs lie.

use super::EngineError;
use super::place::{self, Part};
use crate::ids::Revision;

/// Goes through rows in the order of their places, and decides of each whether it is needed.
#[derive(Debug)]
pub(super) struct Canon {
    /// The oldest revision that can be read.
    floor: Revision,
    /// There is nothing below these rows that a removed key could still hide.
    bottom: bool,
    /// The beginning of the places of the present key.
    key: Vec<u8>,
    /// What is seen at the floor was passed: older versions of the key are not needed.
    below: bool,
}

impl Canon {
    /// Begins behind the place `after`, or with an empty one at the beginning. It may be any bytes: a peer names it.
    pub(super) fn new(floor: Revision, bottom: bool, after: &[u8]) -> Self {
        let passed = place::split_version(after).ok().filter(|_| Part::of(after) == Some(Part::Data));
        let (key, below) = passed.map_or_else(Default::default, |(start, at)| (start.to_vec(), at <= floor));
        Self { floor, bottom, key, below }
    }

    /// How far everything has been gone through when the row at `last` has been. If older versions of its key are not
    /// needed, that is behind them: what removes the key may have been left out, and they must go with it.
    pub(super) fn through(&self, last: Vec<u8>) -> Vec<u8> {
        if self.below && last.starts_with(&self.key) {
            place::version(&self.key, Revision::ZERO)
        } else {
            last
        }
    }

    /// Whether the next row is needed. `removes`: whether it removes its key or row; only called if it matters.
    pub(super) fn needs(
        &mut self,
        place: &[u8],
        removes: impl FnOnce() -> Result<bool, EngineError>,
    ) -> Result<bool, EngineError> {
        match Part::of(place) {
            Some(Part::Rows) => Ok(!(self.bottom && removes()?)),
            Some(Part::Notes) => Ok(place::split_note(place)?.0 > self.floor),
            Some(Part::Data) => {
                let (start, revision) = place::split_version(place)?;
                if self.key != start {
                    self.key.clear();
                    self.key.extend_from_slice(start);
                    self.below = false;
                }
                if self.below {
                    return Ok(false);
                }
                self.below = revision <= self.floor;
                Ok(!(self.below && self.bottom && removes()?))
            }
            None => Err(EngineError::inconsistent("a row is of no known part")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::{DELETED, SET};
    use super::*;

    #[test]
    fn versions_are_needed_down_to_the_one_that_is_seen_at_the_floor() {
        const DEL: &[u8] = &[DELETED];
        const PUT: &[u8] = &[SET, 7];
        type Case = (&'static [u8], u64, &'static [u8], bool, bool);
        let rows: [Case; 9] = [
            (b"a", 9, PUT, true, true),
            (b"a", 5, PUT, true, true),
            (b"a", 4, PUT, false, false),
            (b"b", 9, DEL, true, true),
            (b"b", 4, DEL, false, true),
            (b"b", 3, PUT, false, false),
            (b"c", 5, DEL, false, true),
            (b"d", 1, PUT, true, true),
            (b"e", 6, DEL, true, true),
        ];
        let place = |key, at| place::version(&place::key_start(key), Revision::new(at));
        for bottom in [true, false] {
            let mut canon = Canon::new(Revision::new(5), bottom, b"");
            for (key, at, value, at_bottom, above) in rows {
                let needed = if bottom { at_bottom } else { above };
                assert_eq!(
                    canon.needs(&place(key, at), || Ok(place::removes(value))).unwrap(),
                    needed,
                    "{key:?} {at}"
                );
            }
            // The same, begun anew behind each row.
            for pair in rows.windows(2) {
                let (key, at, value, at_bottom, above) = pair[1];
                let mut canon = Canon::new(Revision::new(5), bottom, &place(pair[0].0, pair[0].1));
                let needed = if bottom { at_bottom } else { above };
                assert_eq!(
                    canon.needs(&place(key, at), || Ok(place::removes(value))).unwrap(),
                    needed,
                    "{key:?} {at}"
                );
            }
        }
        for after in [&b""[..], b"\x01", b"\x01k\0\x01short", b"\x02", b"\x09", b"\x01k\0\x0012345678"] {
            let mut canon = Canon::new(Revision::new(5), true, after);
            assert!(canon.needs(&place(b"k", 1), || Ok(false)).unwrap(), "{after:?}");
        }
        // Whatever is left out of a key, the rest of it goes along.
        let mut canon = Canon::new(Revision::new(5), true, b"");
        let behind = place(b"b", 0);
        for (key, at, through) in [
            (b"b", 9, place(b"b", 9)),
            (b"b", 5, behind.clone()),
            (b"b", 1, behind.clone()),
            (b"c", 6, place(b"c", 6)),
            (b"c", 4, place(b"c", 0)),
        ] {
            let last = place(key, at);
            canon.needs(&last, || Ok(true)).unwrap();
            assert_eq!(canon.through(last), through);
        }
        let note = place::note(Revision::new(6), b"k");
        canon.needs(&note, || Ok(false)).unwrap();
        assert_eq!(canon.through(note.clone()), note);
        assert!(!Canon::new(Revision::new(5), true, &behind).needs(&place(b"b", 4), || Ok(false)).unwrap());
        let mut canon = Canon::new(Revision::new(5), true, b"");
        assert!(!canon.needs(&place::row(b"name"), || Ok(true)).unwrap());
        assert!(canon.needs(&place::row(b"name"), || Ok(false)).unwrap());
        assert!(!canon.needs(&place::note(Revision::new(5), b"k"), || Ok(false)).unwrap());
        assert!(canon.needs(&place::note(Revision::new(6), b"k"), || Ok(false)).unwrap());
    }
}
