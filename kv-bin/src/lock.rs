//! `kv lock`: runs a command while it holds a lock.

use crate::cli::LockArgs;
use crate::context::Context;
use crate::descendants::Descendants;
use crate::failure::Failure;
use crate::output::print_error;
use crate::signals::{Caught, Signals, forward, stop_for_a_while};
use kv_core::Client;
use kv_core::client::Lock;
use kv_core::error::LockError;
use std::convert::Infallible;
use std::io;
use std::process::ExitStatus;
use tokio::process::{Child, Command};

/// The exit codes that shells use for a command that cannot be executed, and for one that does not exist.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The pause before the next check whether the lock is held.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// After waiting for this long, `kv lock` prints what it waits for.
const NOTICE_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// `kv lock`.
pub(crate) async fn run(context: &Context, args: LockArgs) -> Result<(), Failure> {
    let name = args.encoding.read("name", args.name)?;
    let value = args.value.map(|value| args.encoding.read("value", value)).transpose()?;
    // Caught from here on, so that no signal arrives between acquiring the lock and its release.
    let mut signals = Signals::catch_all(!context.is_shell())?;
    let until = |caught: Caught| caught.ended(format!("{caught} before the lock was held"));
    let client = tokio::select! {
        client = context.client() => client?,
        caught = signals.next_end() => return Err(until(caught)),
    };
    let shown = args.encoding.quoted(&name);
    let mut acquire = client.lock(&name).ttl(args.ttl.0);
    if let Some(value) = value {
        acquire = acquire.value(value);
    }
    if let Some(wait) = args.wait {
        acquire = acquire.wait(wait.0);
    }
    let lock = tokio::select! {
        lock = acquire => match lock {
            Err(LockError::Held) => return Err(Failure::failed(obstacle(client, &name, &shown).await)),
            lock => lock?,
        },
        never = notice(client, &name, &shown) => match never {},
        caught = signals.next_end() => return Err(until(caught)),
    };
    let descendants = Descendants::adopt();
    let mut command = Command::new(&args.command[0]);
    command
        .args(&args.command[1..])
        .env("KV_LOCK_TOKEN", lock.token().to_string())
        .stdin(context.childs_input());
    let ended = match command.kill_on_drop(true).spawn() {
        Ok(child) => run_child(child, &descendants, &lock, &mut signals).await,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
            Err(Failure::passed_on(code, format!("cannot run {:?}: {error}", args.command[0])))
        }
    };
    let held = lock.is_held().await;
    let released = lock.release().await;
    let status = ended?;
    if let Ok(false) = held {
        return Err(Failure::failed("the command is done, but the lock was lost before its end"));
    }
    if let Err(error) = released {
        return Err(Failure::failed(format!(
            "the command is done, but the lock was lost or not released: {error}"
        )));
    }
    if status.success() {
        return Ok(());
    }
    Err(Failure::passed_on(code_of(status), format!("the command failed: {status}")))
}

/// The exit code of this process after its command has failed: the command's code, or 128 plus the number of the signal
/// that ended it, as in shells.
fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Waits for the command, and forwards signals to it. If the lock may be lost, the command and all processes that it
/// has started are killed. Processes that remain when the command ends are ended too.
async fn run_child(
    mut child: Child,
    descendants: &Descendants,
    lock: &Lock,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let failed = |error| Failure::failed(format!("cannot wait for the command: {error}"));
    let lost = lock.lost();
    tokio::pin!(lost);
    let status = loop {
        tokio::select! {
            biased;
            loss = &mut lost => {
                // At once: another client may hold the lock already.
                descendants.kill(&mut child).await;
                return Err(Failure::failed(format!("{loss}: the command was killed")));
            }
            status = child.wait() => break status.map_err(failed)?,
            caught = signals.next() => if !caught.stops() {
                forward(caught, &child);
            } else if !rest(&mut child, descendants, lock).await {
                descendants.kill(&mut child).await;
                return Err(Failure::failed("the lock was lost while kv lock was stopped: the command was killed"));
            }
        }
    };
    tokio::select! {
        biased;
        _ = &mut lost => descendants.kill(&mut child).await,
        () = descendants.end(&mut child) => {}
    }
    Ok(status)
}

/// Stops (Ctrl-Z) together with the command and all processes that it has started, including those that would not stop
/// by themselves, because nobody renews the lease meanwhile. Afterwards they are resumed only once it is known that the
/// lock is still held. Returns false if it is not.
async fn rest(child: &mut Child, descendants: &Descendants, lock: &Lock) -> bool {
    descendants.freeze(child);
    stop_for_a_while();
    // If something resumed this process, it may have resumed the command as well.
    descendants.freeze(child);
    let lost = lock.lost();
    tokio::pin!(lost);
    loop {
        let held = tokio::select! {
            biased;
            _ = &mut lost => return false,
            held = lock.is_held() => held,
        };
        match held {
            Ok(true) => break,
            Ok(false) => return false,
            // No answer: the deadline decides.
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    descendants.thaw(child);
    true
}

/// Why the lock cannot be acquired now.
async fn obstacle(client: &Client, name: &[u8], shown: &str) -> String {
    match client.get(name).await {
        Ok(Some(record)) if record.lease.is_none() => {
            format!(
                "the key {shown} exists and is not a lock: delete it, or choose another name for the lock"
            )
        }
        _ => LockError::Held.to_string(),
    }
}

/// After a while, prints what this process waits for.
async fn notice(client: &Client, name: &[u8], shown: &str) -> Infallible {
    tokio::time::sleep(NOTICE_AFTER).await;
    let why = obstacle(client, name, shown).await;
    // This process must go on even if nobody reads stderr.
    std::thread::spawn(move || print_error(format!("waiting: {why}")));
    std::future::pending().await
}
