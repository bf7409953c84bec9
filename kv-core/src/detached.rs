//! Runs work that waits for a disk, on a thread of its own.
//!
//! A runtime that shuts down waits for its own blocking threads (`spawn_blocking`) as long as they take: forever, if a
//! disk does not return. Nobody waits for these threads. A thread that hangs is left behind, and ends with the process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use tokio::sync::oneshot;

/// Runs `work` on a thread of its own with this name. A panic in it is propagated.
///
/// # Errors
/// If the system cannot start a thread.
///
/// # Cancel safety
/// If the future is dropped, the work continues, and its result is dropped.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (give, take) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // The receiver may be gone.
        let _ = give.send(catch_unwind(AssertUnwindSafe(work)));
    })?;
    match take.await.expect("it is given before the thread ends") {
        Ok(done) => Ok(done),
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::mpsc::channel;

    #[test]
    fn a_hanging_thread_does_not_block_the_runtime_and_a_panic_propagates() {
        let (let_go, waits) = channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(run("work", || 7).await.unwrap(), 7);
            let panic = AssertUnwindSafe(run("work", || -> u8 { panic!("in there") })).catch_unwind().await;
            assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"in there"));
            let hangs = run("work", move || waits.recv());
            assert!(hangs.now_or_never().is_none());
        });
        // It would not return before the last line.
        drop(runtime);
        drop(let_go);
    }
}
