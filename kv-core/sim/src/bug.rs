//! Seeded bugs: known mistakes that the simulator must detect.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A known mistake. Bugs of the product are [mutants](crate::mutants): only a mutated copy of it contains them.
        /// Bugs of the simulator's own parts (the driver, the disk, the clocks) are in every build of the simulator.
        /// Neither has any effect unless a run is given the bug.
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
    /// A read is answered by any member that believes to be the primary, without a read round.
    ReadUnconfirmed,
    /// Entries are applied when they are appended, not when they are committed.
    ApplyUncommitted,
    /// A cut of the log is done in memory, but not made durable.
    CutInMemory,
    /// A checkpoint is made of a state whose entries are not durable here yet.
    CheckpointBeforeLog,
    /// A restarted primary resumes its view.
    ResumeView,
    /// Entries above the head of `StartView` are kept.
    KeepSuffix,
    /// A commit number that arrives while the member catches up is applied to any entry with that op.
    CommitWhileCatchingUp,
    /// The new primary takes its own commit as the base of the log, not the greatest of the quorum.
    OwnCommitAsBase,
    /// Duplicates are detected when a request is proposed, not when it is applied.
    DedupAtProposal,
    /// The client gives a retried request a new number.
    RetryRenumbered,
    /// The client opens a new session when its old one has expired, and retries what was in flight.
    RetryInNewSession,
    /// Recovery cuts the journal at the first bad block, torn or damaged.
    CutAtFirstBad,
    /// A vote to leave a view counts forever.
    VotesNeverExpire,
    /// A member that suspects its primary leaves the view at once, alone.
    LeavesAlone,
    /// An abdicating primary falls silent, and does not vote.
    SilentAbdication,
    /// A member that restarts between views has forgotten the newer one.
    ForgetsItsVote,
    /// A member joins a view of an epoch that it has not entered.
    EpochIgnored,
    /// A member enters an epoch on a stop that is not known to be committed.
    EntersUncommitted,
    /// A member speaks in an epoch before its superblock names the epoch.
    EntersBeforeDurable,
    /// A fetched state is installed without its configuration.
    StateWithoutEpoch,
    /// A member counts by the list of the epoch before.
    OldListCounts,
    /// The primary answers reads although a stop is in its log.
    ReadsBehindStop,
    /// The retry of an old change acts again.
    OldChangeAgain,
    /// An id is given to a second member.
    IdUsedAgain,
    /// A voter that has lost its disk goes on with another one.
    DiskIgnored,
    /// The primary names the disk that a founder has told in epoch 0.
    NamesEarlyDisk,
    /// A change is ordered that relies on members that are away.
    AbsentCountAsLevel,
    /// A removed member stops before the others go on without it.
    RetiresAtOnce,
    /// The first primary of an epoch makes no entry.
    BeginsSilently,
    /// Who has entered an epoch does not tell it.
    NewsNotSpread,
    /// What a standby acknowledges and confirms counts for a quorum.
    StandbyCounts,
    /// A standby votes to leave a view, and its vote counts.
    StandbyVotes,
    /// The new primary ignores `log_view`: the longest log names the entries.
    LongestLogWins,
    /// Of two logs of one `log_view` that differ, the new primary keeps one.
    KeepsOneOfTwo,
    /// An entry that cannot be read counts as one that was never held.
    FaultyCountsAsNack,
    /// One member that never held an entry votes it away.
    OneNackIsEnough,
    /// The new primary sends `StartView` before its log is durable.
    StartViewEarly,
    /// Entries are served from the present log of the member, not from the requested one.
    FetchFromAnyLog,
    /// An op counts as committed one acknowledgement too early.
    QuorumOfOneLess,
    /// The primary counts its own append before it is durable.
    OwnAppendCountsEarly,
    /// A read joins the read round that is in progress.
    ReadRoundReused,
    /// A new primary reads at its commit number, although it has inherited more entries.
    ReadBelowInherited,
    /// A backup takes its state to be as fresh as the message that confirms it.
    FreshSinceHeard,
    /// The primary reports a round as confirmed before it is.
    FreshUnconfirmed,
    /// The primary's lease counts from when a quorum had answered, not from when it asked.
    LeaseFromAnswer,
    /// The primary reads the clock when its lease begins, but not when it reads.
    LeaseSeenOnce,
    /// A member takes part in a view change although it has promised not to.
    PromiseNotKept,
    /// A restarted member does not wait for its earlier promises to end.
    PromiseForgotten,
    /// Monotonic clocks are more wrong than is assumed: the first member's is too slow, and the others' are too fast.
    ClocksTooWrong,
    /// Monotonic clocks stop while their processes pause, as on a suspended machine.
    ClocksPause,
    /// The primary stamps with its own wall clock.
    StampOfOneClock,
    /// A new primary continues from the greatest time that it has ever estimated for a stamp.
    GreatestEstimate,
    /// The age of an entry is kept under its op, so after a cut it is the age of another entry.
    AgeByOp,
    /// An entry that is fetched in place of a cut one keeps the arrival time of the cut one.
    ArrivalOfAnother,
    /// The holder of a lock counts its lease from the answer on, not from before it asked.
    BelievesFromAnswer,
    /// A step of forming is reported before it is durable.
    FormOnWord,
    /// A majority of empty members forms the cluster.
    FormsWithoutAll,
    /// A member with an empty disk joins a formed cluster as if it were new.
    WipedMemberJoins,
    /// The mark that entries may be missing is dropped when the repair begins.
    DamageForgotten,
    /// The superblock records a checkpoint before the engine has made it durable.
    CheckpointRecordedEarly,
    /// A checkpoint leaves out the sessions.
    SessionsNotInCheckpoint,
    /// A checkpoint leaves out how many requests the log had.
    CountNotInCheckpoint,
    /// Sessions and leases are named by the revision, although nothing may have changed it since the last one was
    /// named.
    NamedByRevision,
    /// A request whose outcome was forgotten runs again.
    ForgottenRuns,
    /// A transaction with a failing step keeps the effects of the steps before it.
    HalfATransaction,
    /// A transaction that requires a lock runs for a client that has lost the lock.
    FormerHolderWrites,
    /// A read at a past revision returns the present value of the key.
    PastIsPresent,
    /// A member reads history that counts as dropped, as long as it is stored.
    ReadsWhatWasDropped,
    /// A count ends one key too early.
    CountsOneShort,
    /// A touch removes a key from its lease.
    TouchLosesLease,
    /// The state expires a key that was put again since the expiry was proposed, and ignores the deadline.
    ExpiresOtherPut,
    /// What is due soon is proposed and removed, although the stamp is before the deadline.
    ExpiresEarly,
    /// A checkpoint leaves out the deadlines and the leases.
    DeadlinesNotInCheckpoint,
    /// Member 1 sometimes stores a put with a wrong value.
    AppliesAPutWrongly,
    /// A member that starts with other options than those with which the cluster was formed uses them.
    OptionsOfThisLife,
    /// The client reports *not applied* although an attempt may have been proposed.
    FailedForUnknown,
    /// A watching client that has received a part of a revision continues after the whole revision.
    WatchesSkipTheRest,
    /// A watching client that has received a part of a revision asks for all of it again.
    WatchesAskAgain,
    /// When a watch asks for changes that are no longer kept, they are skipped.
    WatchesSkipWhatIsGone,
    /// A watch at the oldest revision that is kept is told that it is compacted.
    WatchesEndEarly,
    /// A watch delivers puts that are in the log and not committed.
    WatchesTellUncommitted,
    /// A watch is parked although changes after its last poll have woken the others already.
    WatchesOversleep,
    /// Each request for a piece of a state has a nonce of its own, so a late answer does not count.
    OnlyTheLastQuestionCounts,
    /// A damaged state is deleted, not set aside.
    DamagedStateDeleted,
    /// A merge that makes progress is taken for a state machine that hangs.
    MergeTakenForHang,
    /// Nothing is ever synced: the negative control.
    NoSync,
    /// New and renamed files are not made durable in their directory.
    NoDirectorySync,
    /// A failed sync is tried again, and then trusted.
    FailedSyncRetried,
    /// A merge leaves out what removes a key, though older runs still hold the key.
    RemovalsLeftOut,
    /// Files are removed before it is durable that the manifest does not name them any more.
    ManifestUnsynced,
    /// The manifest names files that are not durable.
    FilesUnsynced,
    /// A merge puts its run behind older ones, so that they hide what is newer.
    OldRunsFirst,
}
