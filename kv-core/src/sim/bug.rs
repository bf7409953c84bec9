//! Planted bugs: known-wrong variants that the simulator must catch.

/// A known-wrong variant. Exists with the feature `sim` only, and does nothing unless it is given to a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Bug {
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
}

impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::DoViewChangeBeforeView,
        Self::LogViewLate,
        Self::LogViewEarly,
        Self::ReadUnconfirmed,
        Self::ApplyUncommitted,
        Self::CutInMemory,
        Self::CheckpointBeforeLog,
        Self::ResumeView,
        Self::KeepSuffix,
        Self::CommitWhileCatchingUp,
        Self::OwnCommitAsBase,
        Self::DedupAtProposal,
        Self::RetryRenumbered,
        Self::RetryInNewSession,
        Self::CutAtFirstBad,
    ];
}
