//! `kv lease` and `kv lock`.

use crate::cli::{GrantArgs, LeaseArgs, LeaseCommand, LeaseIdArgs, LockArgs};
use crate::commands::{tell, write_failure};
use crate::context::Context;
use crate::failure::Failure;
use crate::signals::Signals;
use kv_core::Client;
use kv_core::client::Lock;
use kv_core::error::{LockError, WriteError};
use kv_core::ids::LeaseId;
use kv_core::message::LeaseInfo;
use serde_json::json;
use std::process::ExitStatus;
use tokio::process::{Child, Command};

/// `kv lease`.
pub(crate) async fn lease(context: &Context, args: LeaseArgs, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let told = told(client, &args.command, json).await;
    match told.map_err(|error| write_failure(&error))? {
        Some(line) => tell(&line),
        None => {
            if json {
                tell("null")?;
            }
            Err(Failure::failed("the lease has ended, or never was"))
        }
    }
}

/// Does it, and says what was done; `None`: there is no such lease to be shown.
async fn told(client: &Client, command: &LeaseCommand, json: bool) -> Result<Option<String>, WriteError> {
    let by_id = |id: &u64| client.lease_by_id(LeaseId::new(*id));
    let (object, text) = match command {
        LeaseCommand::Grant(GrantArgs { ttl, .. }) => {
            let id = client.lease(ttl.0).detached().await?.id().get();
            (json!({ "lease": id }), format!("lease {id}"))
        }
        LeaseCommand::KeepAlive(LeaseIdArgs { id, .. }) => {
            by_id(id).keep_alive().await?;
            (json!({ "lease": id }), format!("lease {id} lives"))
        }
        LeaseCommand::Revoke(LeaseIdArgs { id, .. }) => {
            let keys = by_id(id).revoke().await?;
            (json!({ "keys": keys }), format!("keys removed with it: {keys}"))
        }
        LeaseCommand::Show(LeaseIdArgs { id, .. }) => {
            let Some(LeaseInfo { ttl_ms, deadline, keys, .. }) = by_id(id).look().await? else {
                return Ok(None);
            };
            let object = json!({ "ttl_ms": ttl_ms, "deadline_ms": deadline.get(), "keys": keys });
            (object, format!("lease {id}: {ttl_ms} ms, keys: {keys}"))
        }
    };
    Ok(Some(if json { object.to_string() } else { text }))
}

/// `kv lock`.
pub(crate) async fn lock(context: &Context, args: LockArgs) -> Result<(), Failure> {
    let name = args.encoding.read("name", args.name)?;
    let value = args.value.map(|value| args.encoding.read("value", value)).transpose()?;
    // From here on, so that no signal comes between the lock and its release.
    let mut signals = Signals::catch()?;
    let client = context.client_unless(&mut signals).await?;
    let mut acquire = client.lock(name).ttl(args.ttl.0);
    if let Some(value) = value {
        acquire = acquire.value(value);
    }
    if let Some(wait) = args.wait {
        acquire = acquire.wait(wait.0);
    }
    let lock = tokio::select! {
        lock = acquire => lock.map_err(lock_failure)?,
        signal = signals.next() => return Err(Failure::failed(format!("{signal} while the lock was waited for"))),
    };
    let mut command = Command::new(&args.command[0]);
    command
        .args(&args.command[1..])
        .env("KV_LOCK_TOKEN", lock.token().to_string())
        .stdin(context.childs_input());
    let ended = match command.kill_on_drop(true).spawn() {
        Ok(child) => attend(child, &lock, &mut signals).await,
        Err(error) => Err(Failure::failed(format!("cannot run {:?}: {error}", args.command[0]))),
    };
    let released = lock.release().await;
    let status = ended?;
    if let Err(error) = released {
        return Err(Failure::failed(format!(
            "the command is done, but the lock was lost or not let go: {error}"
        )));
    }
    if status.success() {
        return Ok(());
    }
    Err(Failure::passed_on(code_of(status), format!("the command failed: {status}")))
}

/// What this process ends with when its command has failed: the command's code, or 128 and the number of the signal that has ended it,
/// as shells do.
fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Waits for the command. If the lock may be lost meanwhile, it is killed.
async fn attend(mut child: Child, lock: &Lock, signals: &mut Signals) -> Result<ExitStatus, Failure> {
    let failed = |error| Failure::failed(format!("cannot wait for the command: {error}"));
    loop {
        tokio::select! {
            status = child.wait() => return status.map_err(failed),
            () = lock.lease().doubtful() => {
                child.kill().await.map_err(failed)?;
                return Err(Failure::failed(
                    "no sign of life got through for the lock's time: the command was killed, for somebody else may have the lock",
                ));
            }
            // From a terminal the command has got an interrupt too; it decides.
            signal = signals.next() => if signal == "SIGTERM" {
                terminate(&mut child).map_err(failed)?;
            }
        }
    }
}

#[cfg(unix)]
fn terminate(child: &mut Child) -> std::io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    Ok(pid.map_or(Ok(()), |pid| kill_process(pid, Signal::TERM))?)
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) -> std::io::Result<()> {
    child.start_kill()
}

fn lock_failure(error: LockError) -> Failure {
    match error {
        LockError::Write(error) => write_failure(&error),
        error => Failure::failed(error),
    }
}
