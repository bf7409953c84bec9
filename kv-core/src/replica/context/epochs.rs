//! What a member knows about epochs besides its own log: the present configuration, who has not heard of it yet, and
//! that there is a later epoch (rules M2, M9 and M13).

use super::digests::Digests;
use super::{Context, Output, Repairs, Votes};
use crate::config::{Configuration, DiskId, Role};
use crate::ids::{Anchor, Epoch, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{AdoptedEpoch, Cut, Entry, EpochRecord, FetchWhat, LogPoint, Message, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::debug;

/// How often a member that does not answer is told of the epoch.
const MOST_TELLINGS: u32 = 100;

/// How many answers with committed entries are left unused while another log is being installed.
const PATIENCE: u32 = 8;

#[derive(Debug)]
pub(crate) struct Epochs {
    /// The configuration of the epoch that this member is in.
    pub(crate) configuration: Configuration,
    /// The id of the own disk.
    pub(crate) disk: DiskId,
    /// The disks that other members have told of, in this life.
    pub(crate) disks: BTreeMap<MemberId, DiskId>,
    /// Nothing was committed in an earlier epoch in a view with a greater number. Whoever tells of a later epoch tells
    /// this too.
    pub(crate) ended: u64,
    /// The stop of the present epoch, once it has been requested from the journal.
    pub(crate) stop_asked: Option<Anchor>,
    /// The members of this epoch and of the one before that are not known to be in this one, and how often they were
    /// told.
    untold: BTreeMap<MemberId, u32>,
    tell_at: Instant,
    /// When each member was last told or asked. One answer per heartbeat is enough.
    spoken: BTreeMap<MemberId, Instant>,
    /// What is known of a later epoch.
    behind: Option<Behind>,
    /// The greatest view that a source of the state that is being fetched was in.
    pub(crate) seen: View,
    /// The write by which the last epoch was adopted.
    adopted: WriteSeq,
    /// The log up to here is committed. It counts as such as soon as it is durable.
    pub(crate) proven: Anchor,
}

/// There is a later epoch. The entries up to its stop are requested from those that have entered it.
#[derive(Debug)]
struct Behind {
    configuration: Configuration,
    /// Nothing was committed before that epoch in a view with a greater number.
    ended: u64,
    /// The last checkpoint that a member of that epoch has told, and its view.
    checkpoint: Option<LogPoint>,
    sources: Vec<MemberId>,
    /// The nonce of all requests.
    nonce: u64,
    /// The number of unanswered requests. Each goes to the next source.
    turns: usize,
    /// How many answers were not used, because another log was being installed.
    unused: u32,
    retry_at: Instant,
    patience: Duration,
}

impl Epochs {
    pub(crate) fn new(configuration: Configuration, disk: DiskId, ended: u64, now: Instant) -> Self {
        Self {
            configuration,
            disk,
            disks: BTreeMap::new(),
            ended,
            stop_asked: None,
            untold: BTreeMap::new(),
            tell_at: now,
            spoken: BTreeMap::new(),
            behind: None,
            seen: View::ZERO,
            adopted: WriteSeq::ZERO,
            proven: Anchor::ZERO,
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let tell = (!self.untold.is_empty()).then_some(self.tell_at);
        let fetch = self.behind.as_ref().map(|behind| behind.retry_at);
        tell.into_iter().chain(fetch).min()
    }

    /// Whether an answer to a request for committed entries has this nonce.
    pub(crate) fn has_asked(&self, nonce: u64) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.nonce == nonce)
    }

    /// Those that may hold the state of the later epoch; `None` if there is no later epoch.
    pub(crate) fn data_sources(&self) -> Option<Vec<MemberId>> {
        let Behind { configuration, sources, .. } = self.behind.as_ref()?;
        // A removed member that has told of the epoch may be the only one that holds its state.
        let holds = |id: &&MemberId| configuration.members.get(id).is_none_or(|it| it.role == Role::Data);
        Some(sources.iter().filter(holds).copied().collect())
    }

    /// Rules T4 and M13: whether a piece of a state may be stored whose source is in a view of a later epoch. The
    /// number of the own view must be greater: then no primary of an earlier view is followed any more, and a restart
    /// knows how far the source was.
    pub(crate) fn is_prepared_for(&self, view: View, own: View) -> bool {
        let told = self.behind.as_ref().map(|behind| behind.configuration.epoch);
        told.is_some_and(|told| view.epoch() <= told) && own.number() > view.number()
    }

    /// An answer is not used. Returns true if that was so for long.
    pub(crate) fn has_waited_enough(&mut self) -> bool {
        let Some(behind) = &mut self.behind else { return false };
        behind.unused += 1;
        behind.unused.is_multiple_of(PATIENCE)
    }

    /// Whether a member of this epoch or a later one has told of it.
    pub(crate) fn is_told_of(&self, epoch: Epoch) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.configuration.epoch >= epoch)
    }

    /// Rule T9c: where the log of a witness may begin, in the later epoch. What is below is committed, and nothing that
    /// this member has acknowledged in the ended epoch is above.
    pub(crate) fn beginning(&self) -> Option<(LogPoint, Configuration)> {
        let Behind { checkpoint, configuration, .. } = self.behind.as_ref()?;
        checkpoint.map(|checkpoint| (checkpoint, configuration.clone()))
    }

    /// This member has entered this epoch. Everybody is told who may not know it (rule M13).
    pub(crate) fn enter(&mut self, configuration: Configuration, me: MemberId, now: Instant) {
        let known: BTreeSet<MemberId> =
            self.configuration.members.keys().chain(configuration.members.keys()).copied().collect();
        self.untold = known.into_iter().filter(|id| *id != me).map(|id| (id, 0)).collect();
        self.tell_at = now;
        self.spoken.clear();
        self.stop_asked = None;
        let epoch = configuration.epoch;
        self.behind.take_if(|behind| behind.configuration.epoch <= epoch);
        self.seen = View::ZERO;
        if let Some(behind) = &mut self.behind {
            behind.retry_at = now;
        }
        self.configuration = configuration;
    }

    /// Rule M13: a new primary tells all members of its epoch that do not show that they are in it. They may not know
    /// where it is reached, so that they cannot ask.
    pub(crate) fn tell_again(&mut self, me: MemberId, now: Instant) {
        if self.configuration.epoch > Epoch::ZERO {
            let members = self.configuration.members.keys().copied();
            self.untold.extend(members.filter(|id| *id != me).map(|id| (id, 0)));
            self.tell_at = now;
        }
    }

    /// Rule M6: whether this configuration, if it names a disk for this member, names this one.
    pub(crate) fn is_own_disk(&self, configuration: &Configuration, me: MemberId) -> bool {
        let named = configuration.members.get(&me).and_then(|member| member.disk);
        named.is_none_or(|disk| disk == self.disk)
    }

    /// A member has shown that it is in this epoch or a later one.
    pub(crate) fn knows(&mut self, member: MemberId) {
        self.untold.remove(&member);
    }
}

impl Context {
    pub(crate) fn epoch(&self) -> Epoch {
        self.view.epoch()
    }

    /// Rule M12: the epoch has committed an entry of its own.
    pub(crate) fn is_settled(&self) -> bool {
        self.epoch() == Epoch::ZERO || self.commit > self.epochs.configuration.stop.op
    }

    /// Rule M2: whoever has entered an epoch knows that the stop before it is committed, also after a restart. It may
    /// be the only one that can tell.
    pub(crate) fn commit_what_was_entered(&mut self) {
        let stop = self.epochs.configuration.stop;
        if self.log.holds(stop) {
            self.advance_commit(stop.op);
        }
    }

    /// The stop of the present epoch, if the log ends with it.
    pub(crate) fn own_stop(&self) -> Option<Anchor> {
        let is_own = |stop: &Anchor| self.log.meta(stop.op).is_some_and(|meta| meta.epoch() == self.epoch());
        self.log.stop().filter(is_own)
    }

    /// What the state may contain. The stop follows when the next epoch is durable: then a state never contains a
    /// configuration that the superblock does not know (rule M3).
    pub(crate) fn applicable(&self) -> Op {
        let held = self.own_stop().filter(|stop| stop.op <= self.commit);
        held.map_or(self.commit, |stop| stop.op.previous())
    }

    /// Takes a committed entry of this epoch. Returns whether the next one can follow.
    pub(crate) fn take_committed(&mut self, entry: &Entry) -> bool {
        let (at, head) = (entry.header.anchor(), self.log.head().op);
        if entry.header.view.epoch() > self.epoch() || at.op > head.next() {
            return false;
        }
        let differs = self.log.hash(at.op).is_some_and(|ours| ours != at.hash);
        if differs || (at.op > head && self.log.contradicts(at)) {
            debug!(op = %at.op, "cut what was never committed");
            let after = self.anchor(at.op.previous());
            self.log.cut(after.op);
            self.write_view(Some(after));
        }
        self.append_run(vec![entry.clone()], false, |_| true);
        if self.log.holds(at) {
            self.epochs.proven = at;
        }
        self.log.holds(at)
    }

    /// What is proven to be committed, and durable here.
    pub(crate) fn commit_what_is_proven(&mut self) {
        let proven = self.epochs.proven;
        if proven.op > self.commit && self.log.holds(proven) {
            self.advance_commit(proven.op.min(self.log.durable().op));
        }
    }

    /// The last op that is known here to be committed, whether it is durable or not.
    pub(crate) fn proven(&self) -> Op {
        let proven = self.epochs.proven;
        if self.log.holds(proven) { self.commit.max(proven.op) } else { self.commit }
    }

    /// Requests that the next epoch be made durable.
    pub(crate) fn write_epoch(&mut self, configuration: &Configuration) -> WriteSeq {
        self.incarnation = self.incarnation.next();
        self.log.cut(configuration.stop.op);
        let cut = Cut { after: configuration.stop, incarnation: self.incarnation };
        let (disk, ended) = (self.epochs.disk, self.epochs.ended);
        self.write(Write::Enter(Box::new(EpochRecord {
            configuration: configuration.clone(),
            disk,
            ended,
            cut,
        })))
    }

    /// The next epoch is durable. What belongs to the ended one is forgotten.
    pub(crate) fn enter(&mut self, configuration: Configuration) {
        self.log_view = configuration.first;
        let first = configuration.first;
        self.change_epoch(configuration, first);
    }

    fn change_epoch(&mut self, configuration: Configuration, view: View) {
        let (me, now) = (self.me, self.now.monotonic);
        self.cluster = configuration.cluster(self.cluster.name()).expect("a configuration is valid");
        self.view = view;
        self.damage = None;
        self.repairs = Repairs::default();
        self.votes = Votes::new(self.options.heartbeat * 8);
        self.digests = Digests::default();
        // Rule M5: the last primary of the ended epoch answers no read by a lease since it knows of the stop. What was
        // promised in an earlier life may have been promised in this epoch.
        self.promise.take_if(|promise| promise.is_known());
        self.fresh = None;
        (self.sent_vote, self.attempts) = (None, 0);
        self.transfer.run = None;
        self.outputs.push_back(Output::Entered { configuration: Box::new(configuration.clone()) });
        self.epochs.enter(configuration, me, now);
        if let Some(behind) = &self.epochs.behind {
            // Rule M13: those that were asked are not on the list of this epoch.
            let configuration = Box::new(behind.configuration.clone());
            self.outputs.push_back(Output::Reach { configuration });
        }
        let commit = self.commit();
        self.outputs.push_back(Output::Commit { commit });
    }

    /// The state at this point is in a later epoch, and so is this member from now on (rule M3). It has installed the
    /// log of no view there.
    pub(crate) fn adopt(&mut self, point: LogPoint, configuration: Configuration, seen: View) {
        let Epochs { disk, ended, .. } = self.epochs;
        let adopted = AdoptedEpoch::of(configuration.clone(), disk, ended, seen);
        let view = adopted.view;
        self.log.forget_past_gap();
        self.rebase_log(point, Some(Box::new(adopted)));
        self.epochs.adopted = self.writes.last;
        self.change_epoch(configuration, view);
    }

    /// Rule M3: the epoch that a fetched state is in is not durable here yet. Nothing is sent in it.
    pub(crate) fn is_adopting(&self) -> bool {
        !self.is_durable(self.epochs.adopted)
    }

    /// Rule M13: while there is a later epoch, no primary is followed that may lack what an earlier one has committed.
    /// Returns the greatest number of a view that must be left. A log that ends with the committed stop lacks nothing.
    pub(crate) fn view_to_leave(&self) -> Option<u64> {
        let is_complete = self.own_stop().is_some_and(|stop| stop == self.epochs.proven);
        let behind = self.epochs.behind.as_ref().filter(|_| !is_complete)?;
        Some(behind.ended).filter(|ended| self.view.number() <= *ended)
    }

    #[cfg(feature = "internals")]
    pub(crate) fn check_view_of_epoch(&self) {
        assert!(
            self.view_to_leave().is_none(),
            "in normal status in {}; stop {:?}, proven {:?}, {:?}",
            self.view,
            self.own_stop(),
            self.epochs.proven,
            self.epochs.behind
        );
    }

    /// Whether nothing was sent to this member about epochs since the last heartbeat.
    fn may_speak(&mut self, to: MemberId) -> bool {
        let now = self.now.monotonic;
        let heartbeat = self.options.heartbeat;
        let recent = self.epochs.spoken.get(&to).is_some_and(|at| now.since(*at) < heartbeat);
        if !recent {
            self.epochs.spoken.retain(|_, at| now.since(*at) < heartbeat);
            self.epochs.spoken.insert(to, now);
        }
        !recent
    }

    /// Tells a member in which epoch this one is. In epoch 0 there is nothing to tell.
    pub(crate) fn tell_epoch(&mut self, to: MemberId) {
        if self.epoch() > Epoch::ZERO && self.may_speak(to) {
            self.send_epoch(to);
        }
    }

    fn send_epoch(&mut self, to: MemberId) {
        let configuration = Box::new(self.epochs.configuration.clone());
        let (settled, ended, view) = (self.is_settled(), self.epochs.ended, self.view);
        let checkpoint = self.log.point(self.reported_checkpoint());
        let checkpoint = checkpoint.filter(|it| it.anchor.op > configuration.stop.op);
        self.send(to, Message::Epoch { configuration, settled, ended, view, checkpoint });
    }

    /// Asks for a later epoch, and tells the own disk.
    pub(crate) fn ask(&self) -> Message {
        Message::AskEpoch { epoch: self.epoch(), disk: self.epochs.disk }
    }

    /// Asks a member for its epoch, which is a later one.
    pub(crate) fn ask_epoch(&mut self, to: MemberId) {
        // Rule M3: until the adopted epoch is durable, another life would have another disk.
        if !self.is_adopting() && self.may_speak(to) {
            self.send(to, self.ask());
        }
    }

    /// Rule M13: tells those that may not know of this epoch. A primary, which hears of all that are in it, does not
    /// give up a member that it has.
    pub(crate) fn tell_the_untold(&mut self, is_primary: bool) {
        let now = self.now.monotonic;
        if self.epochs.untold.is_empty() || now < self.epochs.tell_at {
            return;
        }
        self.epochs.tell_at = now.after(self.options.heartbeat * 4);
        for to in self.epochs.untold.keys().copied().collect::<Vec<_>>() {
            self.send_epoch(to);
        }
        let Epochs { untold, configuration, .. } = &mut self.epochs;
        untold.retain(|id, times| {
            *times = times.saturating_add(1);
            *times < MOST_TELLINGS || is_primary && configuration.members.contains_key(id)
        });
    }

    /// There is a later epoch, and this member lacks entries up to the end of its own.
    pub(crate) fn fall_behind(
        &mut self,
        from: MemberId,
        (configuration, ended): (&Configuration, u64),
        view: View,
        checkpoint: Option<LogPoint>,
    ) {
        let (now, nonce) = (self.now.monotonic, self.nonce());
        let patience = self.options.failure_timeout_min;
        if let Some(behind) = &mut self.epochs.behind {
            behind.ended = behind.ended.max(ended);
            if behind.configuration.epoch < configuration.epoch {
                behind.configuration = configuration.clone();
                self.outputs.push_back(Output::Reach { configuration: Box::new(configuration.clone()) });
                behind.sources = sources(from, configuration, self.me);
                (behind.checkpoint, self.epochs.seen) = (checkpoint, view);
            } else if behind.configuration.epoch == configuration.epoch {
                self.epochs.seen = self.epochs.seen.max(view);
                behind.checkpoint = behind.checkpoint.max(checkpoint);
                if !behind.sources.contains(&from) {
                    // Those that are known may all be gone.
                    behind.sources.push(from);
                    behind.retry_at = now;
                }
            }
            return;
        }
        debug!(epoch = %configuration.epoch, mine = %self.epoch(), "this member is behind the present epoch");
        let sources = sources(from, configuration, self.me);
        let configuration = configuration.clone();
        self.outputs.push_back(Output::Reach { configuration: Box::new(configuration.clone()) });
        self.epochs.behind = Some(Behind {
            configuration,
            ended,
            checkpoint,
            sources,
            nonce,
            turns: 0,
            unused: 0,
            retry_at: now,
            patience,
        });
        self.epochs.seen = self.epochs.seen.max(view);
    }

    /// Requests committed entries, of any log (rule N6): what is committed is the same in all of them.
    pub(crate) fn fetch_epoch(&mut self) {
        let now = self.now.monotonic;
        let (from, most) = (self.proven().next(), self.options.failure_timeout_max);
        let Some(behind) = self.epochs.behind.as_mut().filter(|behind| now >= behind.retry_at) else {
            return;
        };
        let to = behind.sources[behind.turns % behind.sources.len()];
        behind.turns += 1;
        behind.retry_at = now.after(behind.patience);
        behind.patience = (behind.patience * 2).min(most);
        let (nonce, through) = (behind.nonce, from.advance(u64::from(u32::MAX)).sendable());
        self.send(to, Message::Fetch { from, through, hash: None, nonce, what: FetchWhat::Entries });
    }

    /// An answer has brought committed entries: asks the same source for more, at once.
    pub(crate) fn fetched_epoch(&mut self) {
        let (now, patience) = (self.now.monotonic, self.options.failure_timeout_min);
        if let Some(behind) = &mut self.epochs.behind {
            behind.turns -= 1;
            (behind.retry_at, behind.patience) = (now, patience);
        }
    }
}

/// Whom to ask: who has told of the epoch, then its other members.
fn sources(from: MemberId, configuration: &Configuration, me: MemberId) -> Vec<MemberId> {
    let others = configuration.members.keys().copied().filter(|id| *id != from && *id != me);
    [from].into_iter().chain(others).collect()
}
