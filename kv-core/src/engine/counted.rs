//! Values that count how many of them exist, for tests.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Creates such values, all equal.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted(Arc<AtomicUsize>);

struct Value(Counted);

impl Counted {
    /// One more.
    pub(super) fn value(&self) -> Bytes {
        self.0.fetch_add(1, Ordering::SeqCst);
        Bytes::from_owner(Value(self.clone()))
    }

    /// How many exist.
    pub(super) fn held(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        b"value"
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
