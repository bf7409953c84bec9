//! `kv`: a replicated key-value store, as a server and a command line.

mod args;
mod backup;
mod bench;
#[cfg(feature = "tls")]
mod certs;
mod cli;
mod commands;
mod compact;
mod config;
mod context;
mod count;
mod demo;
mod descendants;
mod dispatch;
mod dump;
mod encoding;
mod environment;
mod failure;
mod folders;
mod handover;
mod leases;
mod load;
mod lock;
mod log;
mod manual;
mod member;
mod members;
mod output;
#[cfg(test)]
mod packaging;
mod progress;
mod reads;
mod redundancy;
mod serve;
mod shell;
mod signals;
mod supervisor;
mod top;
mod touch;
mod txn;
mod watch;

use clap::error::{ContextKind, ErrorKind};
use cli::{Cli, CliCommand, ClientCommand};
use context::Context;
use failure::Failure;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A thread of the runtime polls at most this many tasks before it checks for events and for tasks that other threads
/// have woken. Tokio's default is 61: while a few busy clients keep every thread occupied, all other clients would wait
/// that long.
const EVENT_INTERVAL: u32 = 8;

/// How long connections may take to notify the other end that they close, if the kernel does not do it.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// How long writing the reason of a failure may take.
const COMPLAINT_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match environment::parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(explain(&error)),
    };
    let ended = run(cli);
    log::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.code();
            // This process must end even if nobody reads stderr.
            let (finished, done) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                output::print_error(&failure);
                finished.send(())
            });
            let _ = done.recv_timeout(COMPLAINT_WITHIN);
            code
        }
    }
}

/// Prints help, or what is wrong with the command line; for an invalid value, just the line about it. Returns the exit
/// code.
fn explain(error: &clap::Error) -> u8 {
    if error.kind() == ErrorKind::ValueValidation {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let part = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
        let (option, value) = (part(ContextKind::InvalidArg), part(ContextKind::InvalidValue));
        output::print_error(environment::name_source(line, &option, &value));
    } else {
        // Help goes to stdout, errors to stderr; if that is closed, nobody can be notified.
        let printed = error.print();
        if let (false, Err(failure)) = (error.use_stderr(), commands::still_read(printed)) {
            output::print_error(failure);
            return 1;
        }
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let json = cli.json;
    let log = cli.log.as_deref();
    if !matches!(cli.command, CliCommand::Serve(_)) {
        log::init(log.unwrap_or("error"))?;
    }
    match cli.command {
        CliCommand::Serve(args) => {
            let config = config::ServeConfig::resolve(*args)?;
            log::init(log.or(config.log.as_deref()).unwrap_or("info"))?;
            block_on(serve::run(config, json))
        }
        CliCommand::Client(command) => block_on(once(command, json)),
        CliCommand::Shell(args) => block_on(shell::run(args, json)),
        CliCommand::Top(args) => block_on(top::run(args, json)),
        #[cfg(feature = "tls")]
        CliCommand::Certs(args) => certs::run(&args, json),
        CliCommand::Demo(args) => block_on(demo::run(args, cli.log, json)),
        CliCommand::Bench(args) => block_on(bench::run(*args, json)),
        CliCommand::Verify(args) => backup::verify(&args, json),
        CliCommand::Recover(args) => block_on(backup::recover(args, json)),
        CliCommand::Completions(args) => manual::completions(&args),
        CliCommand::Man(args) => manual::pages(&args, json),
    }
}

/// Runs one command on a connection of its own.
async fn once(mut command: ClientCommand, json: bool) -> Result<(), Failure> {
    let context = Context::new(std::mem::take(command.connect()));
    let result = dispatch::run(&context, command, json).await;
    context.close().await;
    result
}

/// One for two cores. A member's journal, state and reads have threads of their own, which use the others; and threads
/// of a runtime wake each other so often that more of them cost more than they do.
fn runtime_threads() -> usize {
    let chosen = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|threads| threads.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    chosen.filter(|threads| *threads > 0).unwrap_or(cores.div_ceil(2))
}

/// Runs a future to its end.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(runtime_threads())
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(EVENT_INTERVAL)
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    let until = Instant::now() + LAST_WORDS;
    while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    result
}
