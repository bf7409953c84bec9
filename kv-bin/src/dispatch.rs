//! Which function runs which client command.

use crate::args::{CountArgs, Freshness, StatusArgs};
use crate::cli::{ClientCommand, GetArgs, ScanArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::{
    backup, commands, compact, count, dump, handover, leases, load, lock, member, reads, redundancy, touch,
    txn, watch,
};

/// Runs a command. Dropping the future is like dropping the call that it makes: a write may or may not have
/// happened.
pub(crate) async fn run(context: &Context, command: ClientCommand, json: bool) -> Result<(), Failure> {
    let wanted = match &command {
        ClientCommand::Get(GetArgs { freshness: Freshness { at_least, .. }, .. })
        | ClientCommand::Count(CountArgs { freshness: Freshness { at_least, .. }, .. })
        | ClientCommand::Scan(ScanArgs { freshness: Freshness { at_least, .. }, .. }) => *at_least,
        _ => None,
    };
    let done = match command {
        ClientCommand::Put(args) => commands::put(context, args, json).await,
        ClientCommand::Get(args) => reads::get(context, args, json).await,
        ClientCommand::Delete(args) => commands::delete(context, args, json).await,
        ClientCommand::Touch(args) => touch::touch(context, args, json).await,
        ClientCommand::Scan(args) => reads::scan(context, args, json).await,
        ClientCommand::Count(args) => count::count(context, args, json).await,
        ClientCommand::Watch(args) => watch::watch(context, args, json).await,
        ClientCommand::Txn(args) => txn::txn(context, args, json).await,
        ClientCommand::Dump(args) => dump::dump(context, args).await,
        ClientCommand::Load(args) => load::load(context, args, json).await,
        ClientCommand::Lease(command) => leases::lease(context, command, json).await,
        ClientCommand::Lock(args) => lock::run(context, args).await,
        ClientCommand::Backup(args) => backup::backup(context, args, json).await,
        ClientCommand::Restore(args) => backup::restore(context, args, json).await,
        ClientCommand::Compact(args) => compact::compact(context, args, json).await,
        ClientCommand::Member(command) => member::member(context, command, json).await,
        ClientCommand::Members(_) => commands::members(context, json).await,
        ClientCommand::Status(StatusArgs { wait: true, .. }) => redundancy::wait(context, json).await,
        ClientCommand::Status(_) => commands::status(context, json).await,
        ClientCommand::Handover(args) => handover::handover(context, &args, json).await,
    };
    match done {
        Err(failure) if failure.is_late => Err(context.explain(failure, wanted).await),
        done => done,
    }
}
