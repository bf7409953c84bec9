//! Seeded bugs: known mistakes that the simulator must detect.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A known mistake. Those of the product are [mutants](crate::mutants): only a mutated copy of it has them. Those of the half that the
        /// simulator has itself (the driver, the disk, the clocks) are in every build of the simulator. Neither does anything unless a run is
        /// given the bug.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[non_exhaustive]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

bugs! {
    /// An entry is acknowledged when its write is issued, not when it is durable.
    AckBeforeSync,
    /// `DoViewChange` is sent before the new view is durable.
    DoViewChangeBeforeView,
    /// Acknowledges in a view before `log_view` is durable.
    LogViewLate,
    /// `log_view` is made durable together with `view`, before the log of the view is installed.
    LogViewEarly,
    /// A read is answered by whoever takes itself for the primary, without a round of confirmation.
    ReadUnconfirmed,
    /// Entries are applied when they are appended, not when they are committed.
    ApplyUncommitted,
    /// A cut of the log is carried out in memory, but not made durable.
    CutInMemory,
    /// A checkpoint is taken of state whose entries are not durable here yet.
    CheckpointBeforeLog,
    /// A restarted primary resumes its view.
    ResumeView,
    /// What stands above the head of `StartView` is kept.
    KeepSuffix,
    /// A commit number heard while catching up is applied to whatever entry stands there.
    CommitWhileCatchingUp,
    /// The new primary takes its own commit as the base of the log, not the greatest of the quorum.
    OwnCommitAsBase,
    /// Duplicates are looked for when a request is proposed, not when it is applied.
    DedupAtProposal,
    /// The client gives a retried request a new number.
    RetryRenumbered,
    /// The client opens a new session when its old one has expired, and retries what was in flight.
    RetryInNewSession,
    /// Recovery cuts the journal at the first bad block, torn or damaged.
    CutAtFirstBad,
    /// A vote to leave a view counts for ever.
    VotesNeverExpire,
    /// A member that suspects its primary leaves the view at once, alone.
    LeavesAlone,
    /// An abdicating primary falls silent, and does not vote.
    SilentAbdication,
    /// A member that restarts between views has forgotten the newer one.
    ForgetsItsVote,
    /// The new primary does not look at `log_view`: the longest log names the entries.
    LongestLogWins,
    /// Of two logs of one `log_view` that differ, the new primary keeps one.
    KeepsOneOfTwo,
    /// An entry that cannot be read counts as one that was never held.
    FaultyCountsAsNack,
    /// One member that never held an entry votes it away.
    OneNackIsEnough,
    /// The new primary says `StartView` before its log is durable.
    StartViewEarly,
    /// Entries are served from whatever log the member has now, not from the one that was asked for.
    FetchFromAnyLog,
    /// An op counts as committed one acknowledgement too early.
    QuorumOfOneLess,
    /// The primary counts its own append before it is durable.
    OwnAppendCountsEarly,
    /// A read joins the round of confirmation that is under way.
    ReadRoundReused,
    /// A new primary reads at its commit number, though it has inherited more.
    ReadBelowInherited,
    /// A backup takes its state to be as fresh as the message that tells it so.
    FreshSinceHeard,
    /// The primary tells that a round is confirmed before it is.
    FreshUnconfirmed,
    /// The primary's lease counts from when a quorum had answered, not from when it asked.
    LeaseFromAnswer,
    /// The primary looks at the clock when its lease begins, and not when it reads.
    LeaseSeenOnce,
    /// A member takes part in a view change though it has promised not to.
    PromiseNotKept,
    /// A member that restarts does not wait for what it has promised.
    PromiseForgotten,
    /// Monotonic clocks go wronger than is assumed of them: the first member's slowly, the others' fast.
    ClocksTooWrong,
    /// Monotonic clocks stand still while their processes pause, as on a machine that is suspended.
    ClocksPause,
    /// The primary stamps with its own wall clock.
    StampOfOneClock,
    /// A new primary goes on from the greatest time that it has ever taken a stamp for.
    GreatestEstimate,
    /// The age of an entry is kept under its op: after a cut, that of another one.
    AgeByOp,
    /// An entry that is fetched where another one was cut keeps the arrival of that.
    ArrivalOfAnother,
    /// The holder of a lock believes in its lease from the answer on, not from before it asked.
    BelievesFromAnswer,
    /// A step of forming is told before it is durable.
    FormOnWord,
    /// A majority of empty members forms the cluster.
    FormsWithoutAll,
    /// A member with an empty disk joins a formed cluster as if it were new.
    WipedMemberJoins,
    /// The mark that entries may be missing is dropped when the repair begins.
    DamageForgotten,
    /// The superblock hears of a checkpoint before the engine has made it durable.
    CheckpointRecordedEarly,
    /// A checkpoint leaves the sessions out.
    SessionsNotInCheckpoint,
    /// A checkpoint leaves out how many requests the log had.
    CountNotInCheckpoint,
    /// Sessions and leases are named by the revision, though nothing may have moved it since the last one was named.
    NamedByRevision,
    /// A request whose outcome was forgotten runs again.
    ForgottenRuns,
    /// A transaction with a step that cannot be done leaves the steps before it done.
    HalfATransaction,
    /// A read at a past revision is answered by what the key holds now.
    PastIsPresent,
    /// The state expires what was put anew since the expiry was proposed, and does not look at the deadline.
    ExpiresOtherPut,
    /// What is due soon is proposed and removed, though the stamp is before the deadline.
    ExpiresEarly,
    /// A checkpoint leaves out the deadlines and the leases.
    DeadlinesNotInCheckpoint,
    /// Member 1 stores a put with a wrong value now and then.
    AppliesAPutWrongly,
    /// A member that starts with other options than the cluster was formed with lives by them.
    OptionsOfThisLife,
    /// The client says *not applied* though an attempt may have been proposed.
    FailedForUnknown,
    /// A client that follows takes a revision that it was told a part of for the whole, and goes on after it.
    WatchesSkipTheRest,
    /// A client that follows asks once more for all of a revision that it was told a part of.
    WatchesAskAgain,
    /// What is not kept any more is passed over when a watch asks for it.
    WatchesSkipWhatIsGone,
    /// A watch is told of puts that are in the log and not committed.
    WatchesTellUncommitted,
    /// A watch waits, though what has come since it was looked at has woken the others already.
    WatchesOversleep,
    /// Each question for a piece of a state has a nonce of its own: what comes late does not count.
    OnlyTheLastQuestionCounts,
    /// A damaged state is deleted, not set aside.
    DamagedStateDeleted,
    /// A merge that gets on is taken for a state machine that hangs.
    MergeTakenForHang,
    /// Nothing is ever synced: the negative control.
    NoSync,
    /// New and renamed files are not made durable in their directory.
    NoDirectorySync,
    /// What the system's cache shows of the state is believed, though a failed sync may have dropped it.
    CacheBelieved,
    /// A sync that failed is tried again, and then believed.
    FailedSyncRetried,
}
