//! A running digest of the effects of every applied entry. Members whose digests are equal at one op have done the same
//! up to there (rule S1). It is part of the replicated state, so checkpoints and transfers contain it.

use super::{Applied, StateMachine};
use crate::ids::{Hash, Op};

/// Members compare their digests at least every this many ops.
const EVERY: u64 = 1024;

/// Whether all members compare their digests at this op: often while the log is short, later at every 1,024th op.
const fn is_compared(op: Op) -> bool {
    let every = op.get().next_power_of_two() / 16;
    let every = if every > EVERY { EVERY } else { every };
    every == 0 || op.get().is_multiple_of(every)
}

impl StateMachine {
    /// Adds what an entry wrote and answered.
    pub(super) fn fold(&mut self, applied: &[Applied]) {
        let mut bytes = std::mem::take(&mut self.folded);
        bytes.clear();
        bytes.extend_from_slice(&self.state_digest.get().to_le_bytes());
        bytes.extend_from_slice(&self.engine.take_write_digest().get().to_le_bytes());
        bytes.extend_from_slice(&self.timestamp.get().to_le_bytes());
        bytes.extend_from_slice(&(self.sessions.len() as u64).to_le_bytes());
        for applied in applied {
            bytes = postcard::to_extend(&applied.result, bytes).expect("plain data always encodes");
        }
        self.state_digest = Hash::of(&bytes);
        self.folded = bytes;
    }

    /// A digest of everything that was ever applied: equal on all members at the same op. It costs nothing to read.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn state_digest(&self) -> Hash {
        self.state_digest
    }

    /// The digest after the last applied op, if members compare their digests there.
    #[must_use]
    pub fn compared(&self) -> Option<(Op, Hash)> {
        let op = self.applied.op;
        is_compared(op).then_some((op, self.state_digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_log_is_compared_often_and_an_old_one_at_every_1024th_op() {
        let next = |op: u64| (op + 1..).find(|next| is_compared(Op::new(*next))).unwrap();
        let gaps = [0, 15, 16, 32, 1024, 16_384, 1 << 40].map(|op| next(op) - op);
        assert_eq!(gaps, [1, 1, 2, 4, 128, 1024, 1024]);
    }
}
