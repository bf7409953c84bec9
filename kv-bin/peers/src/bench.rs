//! `kv bench`, the load generator of kv.

use crate::Result;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any run may take.
const LIMIT: Duration = Duration::from_secs(600);

/// `kv`, without the variables of the user who runs this. It is killed when its handle is dropped.
pub fn kv(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs `kv bench --json`, and returns its summary.
pub async fn run(program: &Path, arguments: &[String]) -> Result<Value> {
    let mut command = kv(program);
    command.args(["bench", "--json"]).args(arguments);
    let output = timeout(LIMIT, command.output()).await.map_err(|_| format!("not done within {LIMIT:?}"))?;
    let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(complaint(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().ok_or("kv bench printed nothing")?)?)
}

/// A number of the summary.
pub fn number(summary: &Value, name: &str) -> Result<f64> {
    summary[name].as_f64().ok_or_else(|| format!("kv bench printed no {name}").into())
}

/// What `kv` complained of: the line that begins with its name, or else the last one.
pub fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let own = text.lines().rev().find_map(|line| line.strip_prefix("kv: "));
    own.or(text.lines().last()).unwrap_or("it failed without a word").to_owned()
}
