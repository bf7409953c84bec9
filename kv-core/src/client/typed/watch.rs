//! Watches of structs.

use super::super::{Update, Watch};
use super::{Entry, TypedError, decode};
use crate::ids::Revision;
use crate::message::{Event, EventKind, Record};
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A builder that watches values: returned by [`Typed::watch`](super::Typed::watch). To run it, call
/// [`stream`](Self::stream) or [`follow`](Self::follow). The watch has the guarantees of a [`Watch`].
///
/// If a value cannot be read as a value of the type `T`, the stream returns [`TypedError::Decode`] and continues. After
/// any other error, the stream ends. If [previous values](Self::previous) are included, the stream also returns
/// `Decode` instead of an event whose previous value cannot be read, even if the new value can be read.
#[must_use = "nothing is followed before this is run"]
pub struct TypedWatch<T> {
    watch: Watch,
    /// The length of the prefix.
    skip: usize,
    values: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for TypedWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedWatch").field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// A change of one value.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TypedEvent<T> {
    /// The revision of the change.
    pub revision: Revision,
    /// The key, without the prefix.
    pub key: Bytes,
    /// The kind of change.
    pub kind: EventKind,
    /// The new value; `None` if the key was removed.
    pub entry: Option<Entry<T>>,
    /// The previous value, if requested; `None` if the key did not exist.
    pub previous: Option<Entry<T>>,
}

/// One step of [`TypedWatch::follow`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TypedUpdate<T> {
    /// A value that was present at the start.
    Present {
        /// The key, without the prefix.
        key: Bytes,
        /// The value.
        entry: Entry<T>,
    },
    /// All present values have been returned. Together, they are the content of the range at this revision.
    UpToDate {
        /// The revision at which the values were read. All events that follow have later revisions.
        revision: Revision,
    },
    /// A later change.
    Event(TypedEvent<T>),
}

impl<T> TypedWatch<T> {
    pub(super) fn new(watch: Watch, skip: usize) -> Self {
        Self { watch, skip, values: PhantomData }
    }

    /// Starts with the first change after this revision: see [`Watch::after`].
    pub fn after(self, revision: Revision) -> Self {
        Self { watch: self.watch.after(revision), ..self }
    }

    /// Includes the previous value in each event.
    pub fn previous(self) -> Self {
        Self { watch: self.watch.previous(), ..self }
    }
}

impl<T: DeserializeOwned + 'static> TypedWatch<T> {
    /// Returns the changes as a stream: see [`Watch::stream`].
    ///
    /// # Cancel safety
    /// Waiting for the next item is cancel safe. Dropping the stream ends the watch.
    #[must_use]
    pub fn stream(self) -> TypedStream<TypedEvent<T>> {
        let skip = self.skip;
        TypedStream { inner: self.watch.stream().map(move |event| typed(skip, event?)).boxed() }
    }

    /// Returns the present values first, and then the changes: see [`Watch::follow`].
    ///
    /// # Cancel safety
    /// The same as for [`stream`](Self::stream).
    #[must_use]
    pub fn follow(self) -> TypedStream<TypedUpdate<T>> {
        let skip = self.skip;
        let updates = self.watch.follow().map(move |update| {
            Ok(match update? {
                Update::Present { key, record } => {
                    let key = key.slice(skip..);
                    let entry = decode(&key, record)?;
                    TypedUpdate::Present { key, entry }
                }
                Update::UpToDate { revision } => TypedUpdate::UpToDate { revision },
                Update::Event(event) => TypedUpdate::Event(typed(skip, event)?),
            })
        });
        TypedStream { inner: updates.boxed() }
    }
}

/// The stream of [`TypedWatch::stream`] or [`TypedWatch::follow`].
pub struct TypedStream<I> {
    inner: BoxStream<'static, Result<I, TypedError>>,
}

impl<I> TypedStream<I> {
    /// Returns the next item; `None` after the watch has ended.
    ///
    /// # Errors
    /// See [`TypedWatch`].
    ///
    /// # Cancel safety
    /// Cancel safe: a cancelled call loses no item.
    pub async fn next(&mut self) -> Option<Result<I, TypedError>> {
        self.inner.next().await
    }
}

impl<I> Stream for TypedStream<I> {
    type Item = Result<I, TypedError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}

impl<I> fmt::Debug for TypedStream<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedStream").finish_non_exhaustive()
    }
}

fn typed<T: DeserializeOwned>(skip: usize, event: Event) -> Result<TypedEvent<T>, TypedError> {
    let Event { revision, key, kind, record, previous, .. } = event;
    let key = key.slice(skip..);
    let entry = |record: Option<Record>| record.map(|record| decode(&key, record)).transpose();
    let (entry, previous) = (entry(record)?, entry(previous)?);
    Ok(TypedEvent { revision, key, kind, entry, previous })
}
