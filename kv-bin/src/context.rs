//! The state that client commands share: one connection, opened when the first command needs it.

use crate::config::{ConnectArgs, ConnectConfig, without_mark};
use crate::failure::Failure;
use crate::signals::Signals;
use kv_core::Client;
use kv_core::error::ConnectError;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long closing the connection may take. The work is done, and the session would expire anyway.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why `-` is no file in the shell.
const NO_INPUT: &str = "`-` cannot be used here: the shell reads its commands from standard input";

/// The cluster to use, and the content of standard input.
#[derive(Debug)]
pub(crate) struct Context {
    to: ConnectArgs,
    client: OnceCell<Client>,
    is_shell: bool,
}

impl Context {
    /// For a single command.
    pub(crate) fn new(to: ConnectArgs) -> Self {
        Self { to, client: OnceCell::new(), is_shell: false }
    }

    /// For many commands from standard input.
    pub(crate) fn of_shell(to: ConnectArgs) -> Self {
        Self { is_shell: true, ..Self::new(to) }
    }

    /// The connection. If it cannot be opened, the next command tries again.
    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        self.client.get_or_try_init(|| connect(&self.to)).await
    }

    /// The same for a command that handles signals itself, unless a signal arrives first; then nothing was done.
    pub(crate) async fn client_unless(&self, signals: &mut Signals) -> Result<&Client, Failure> {
        tokio::select! {
            client = self.client() => client,
            signal = signals.next() => Err(signal.ended(format!("{signal} before a member answered"))),
        }
    }

    /// How long a command may take.
    pub(crate) const fn timeout(&self) -> Duration {
        self.to.timeout.0
    }

    /// The name of the cluster.
    pub(crate) fn cluster(&self) -> Result<String, Failure> {
        Ok(self.config()?.cluster)
    }

    /// How the cluster is reached.
    pub(crate) fn config(&self) -> Result<ConnectConfig, Failure> {
        ConnectConfig::resolve(&self.to)
    }

    /// All of standard input, if it is used for data.
    pub(crate) fn standard_input(&self) -> Result<Vec<u8>, Failure> {
        if self.is_shell {
            return Err(Failure::usage(NO_INPUT));
        }
        let mut data = Vec::new();
        io::stdin()
            .lock()
            .read_to_end(&mut data)
            .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
        Ok(data)
    }

    /// Standard input, if it is used for data, to be read piece by piece.
    pub(crate) fn piped_input(&self) -> Result<io::StdinLock<'static>, Failure> {
        if self.is_shell { Err(Failure::usage(NO_INPUT)) } else { Ok(io::stdin().lock()) }
    }

    /// The text of a file, or of standard input for `-`, without a byte order mark; and its name for messages.
    pub(crate) fn text_of(&self, file: &Path) -> Result<(String, String), Failure> {
        let (shown, bytes) = if file.as_os_str() == "-" {
            ("standard input".to_owned(), self.standard_input()?)
        } else {
            let shown = file.display().to_string();
            let bytes = fs::read(file);
            let bytes = bytes.map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
            (shown, bytes)
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::usage(format!("{shown} is not UTF-8 at byte {at}: save it as UTF-8"))
        })?;
        let text = without_mark(&text).to_owned();
        Ok((shown, text))
    }

    /// Returns whether there may be more commands: signals that are caught for one stay caught for the others.
    pub(crate) fn is_shell(&self) -> bool {
        self.is_shell
    }

    /// The standard input of a process that a command starts: not the lines of a script.
    pub(crate) fn childs_input(&self) -> Stdio {
        if self.is_shell && !io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() }
    }

    /// Adds what the members report to a failure of a call that was not answered in time. `wanted` is the revision that
    /// it was to read at least.
    pub(crate) async fn explain(&self, failure: Failure, wanted: Option<u64>) -> Failure {
        let Some(client) = self.client.get() else { return failure };
        let reports = client.cluster_status().await;
        let answers: Vec<_> = reports.iter().filter_map(|report| report.status.as_ref().ok()).collect();
        let newest = answers.iter().map(|status| status.revision.get()).max().unwrap_or(u64::MAX);
        let all = answers.len() == reports.len();
        failure.with_hint(match wanted.filter(|wanted| all && *wanted > newest) {
            Some(wanted) => format!("revision {wanted} does not exist yet: the newest is {newest}"),
            None => format!("{} of {} members answered: see kv status", answers.len(), reports.len()),
        })
    }

    /// Closes the session and the connection, if there is one.
    pub(crate) async fn close(&self) {
        if let Some(client) = self.client.get() {
            // Closing late does not matter: the session expires by itself.
            let _ = tokio::time::timeout(FAREWELL, client.close()).await;
        }
    }
}

/// Connects a client as the command line says.
pub(crate) async fn connect(args: &ConnectArgs) -> Result<Client, Failure> {
    let config = ConnectConfig::resolve(args)?;
    let mut builder = Client::builder(&config.cluster)
        .transport(config.transport.transport(config.tls.as_ref())?)
        .name("kv")
        .deadline(args.timeout.0)
        .connect_timeout(args.timeout.0);
    for (member, address) in &config.addresses {
        builder = match member {
            Some(id) => builder.member_address(*id, address),
            None => builder.address(address),
        };
    }
    builder.connect().await.map_err(|error| match error {
        ConnectError::Unreachable(why) if config.tls.is_none() && why.contains("TLS") => Failure::failed(
            format!("no member answers: {why}; name the folder of certificates with --tls-dir or KV_TLS_DIR"),
        ),
        ConnectError::Unreachable(_) => Failure::failed(format!(
            "{error}; is the cluster running? Name its members with --address HOST:PORT or KV_ADDRESS, and \
             their transport with --transport"
        )),
        _ => Failure::failed(error),
    })
}
