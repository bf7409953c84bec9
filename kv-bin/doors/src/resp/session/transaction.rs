//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`.

use super::super::command::{Call, Run, SessionCommand};
use super::super::door::Watched;
use super::super::reply::Reply;
use super::Session;
use bytes::Bytes;

/// How many keys a connection may watch: a transaction may have this many conditions.
const MAX_WATCHED: usize = 64;

/// How many bytes a word of a queued request takes besides its text, at least.
const WORD_BYTES: usize = 64;

/// The requests of an open transaction.
#[derive(Debug, Default)]
pub(super) struct Queue {
    calls: Vec<Call>,
    pub(super) bytes: usize,
    /// Whether a request was refused, so that `EXEC` will fail.
    pub(super) is_broken: bool,
}

/// Whether a command runs at once, even inside of `MULTI`.
pub(super) const fn is_immediate(call: &Call) -> bool {
    use SessionCommand as C;
    matches!(call.spec.run, Run::Session(C::Multi | C::Exec | C::Discard | C::Watch | C::Quit | C::Reset))
}

/// Whether a command may be part of a transaction.
const fn is_possible(call: &Call) -> bool {
    use SessionCommand as C;
    match call.spec.run {
        Run::Keys(_) => true,
        Run::Space(_) => false,
        // Their replies are small, so that a transaction of many requests has no large reply.
        Run::Session(command) => {
            matches!(command, C::Ping | C::Echo | C::Time | C::Select | C::Role | C::Unwatch)
        }
    }
}

impl Session {
    pub(super) fn multi(&mut self) -> Reply {
        if self.transaction.is_some() {
            return Reply::error("ERR MULTI calls can not be nested");
        }
        self.set_transaction(Some(Queue::default()));
        Reply::OK
    }

    fn set_transaction(&mut self, queue: Option<Queue>) {
        let queued = queue.as_ref().map_or(-1, |queue| i64::try_from(queue.calls.len()).unwrap_or(i64::MAX));
        self.entry.details().queued = queued;
        self.transaction = queue;
    }

    /// Adds a request to the open transaction.
    pub(super) fn enqueue(&mut self, call: Call) -> Reply {
        let options = &self.door.options;
        let Some(queue) = &mut self.transaction else { return Reply::error("ERR EXEC without MULTI") };
        queue.bytes += call.request.iter().map(|word| word.len() + WORD_BYTES).sum::<usize>();
        let refusal = if !is_possible(&call) {
            Some(format!("ERR '{}' is not possible inside MULTI", call.spec.name))
        } else if queue.calls.len() >= options.max_queued || queue.bytes > options.max_request_bytes {
            Some(format!(
                "ERR the transaction is too large: it may have {} requests with {} bytes together, and each word counts \
                 {WORD_BYTES} bytes more",
                options.max_queued, options.max_request_bytes
            ))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            // It will not run, so its requests need no memory.
            (queue.is_broken, queue.calls, queue.bytes) = (true, Vec::new(), 0);
            return Reply::error(refusal);
        }
        // A copy: the arguments are parts of the buffer that was read, which can be much larger.
        let request = call.request.iter().map(|word| Bytes::copy_from_slice(word)).collect();
        if !queue.is_broken {
            queue.calls.push(Call { spec: call.spec, request });
        }
        self.entry.details().queued += 1;
        Reply::Simple("QUEUED")
    }

    pub(super) fn discard(&mut self) -> Reply {
        if self.transaction.is_none() {
            return Reply::error("ERR DISCARD without MULTI");
        }
        self.set_transaction(None);
        self.watched.clear();
        Reply::OK
    }

    pub(super) async fn exec(&mut self) -> Reply {
        let Some(queue) = self.transaction.take() else { return Reply::error("ERR EXEC without MULTI") };
        self.set_transaction(None);
        let watched = std::mem::take(&mut self.watched);
        if queue.is_broken {
            return Reply::error("EXECABORT Transaction discarded because of previous errors.");
        }
        let (on_keys, other): (Vec<_>, Vec<_>) =
            queue.calls.into_iter().enumerate().partition(|(_, call)| matches!(call.spec.run, Run::Keys(_)));
        let (places, calls): (Vec<_>, Vec<_>) = on_keys.into_iter().unzip();
        let replies = if calls.is_empty() && watched.is_empty() {
            Ok(Some(Vec::new()))
        } else {
            self.door.transact(&calls, &watched, self.reads).await
        };
        let mut replies: Vec<_> = match replies {
            Ok(None) => return Reply::NullArray,
            Ok(Some(replies)) => places.into_iter().zip(replies).collect(),
            Err(reply) => return reply,
        };
        for (place, call) in other {
            if let Run::Session(command) = call.spec.run {
                replies.push((place, Box::pin(self.run_about_connection(command, &call.request)).await));
            }
        }
        replies.sort_by_key(|(place, _)| *place);
        Reply::Array(replies.into_iter().map(|(_, reply)| reply).collect())
    }

    pub(super) async fn watch(&mut self, call: &Call) -> Reply {
        if self.transaction.is_some() {
            return Reply::error("ERR WATCH inside MULTI is not allowed");
        }
        // A key that is watched already keeps its revision: a change since then counts.
        let mut keys: Vec<Bytes> =
            call.keys().filter(|key| !self.watched.contains_key(*key)).cloned().collect();
        keys.sort();
        keys.dedup();
        if self.watched.len() + keys.len() > MAX_WATCHED {
            return Reply::error(format!("ERR a connection may watch up to {MAX_WATCHED} keys"));
        }
        if keys.is_empty() {
            return Reply::OK;
        }
        match self.door.revisions(&keys).await {
            Ok(seen) => {
                let copied = seen.into_iter().map(|(key, at)| (Bytes::copy_from_slice(&key), at));
                self.watched.extend(copied);
                Reply::OK
            }
            Err(reply) => reply,
        }
    }

    pub(super) fn unwatch(&mut self) -> Reply {
        self.watched = Watched::new();
        Reply::OK
    }
}
