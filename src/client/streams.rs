//! Streams over answers that come one at a time: walks, directories, watches.
//!
//! A walk asks for offset 0, 1, 2, … of one revision, several at a time, and yields the answers in order until the server says
//! RANGE. The window begins small and doubles, so that a small directory wastes few requests. A watch asks for the next event as
//! soon as the last one has come. Every stream ends after an error, except after [`Error::Stale`].

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::watch;

use super::driver::State;
use super::error::{Error, Stale};
use super::verbs::{Client, Entry, Event, Stat};
use crate::wire::ErrCode;

/// How many requests of a walk are under way at first, and at most.
const WINDOW_MIN: usize = 4;
const WINDOW_MAX: usize = 32;

type Job<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Requests under way whose results are needed in order.
struct Window<T> {
    slots: VecDeque<Slot<T>>,
    width: usize,
}

enum Slot<T> {
    Running(Job<T>),
    Done(Result<T, Error>),
}

impl<T> Window<T> {
    const fn new() -> Self {
        Self { slots: VecDeque::new(), width: WINDOW_MIN }
    }

    fn has_room(&self) -> bool {
        self.slots.len() < self.width
    }

    fn push(&mut self, job: Job<T>) {
        self.slots.push_back(Slot::Running(job));
    }

    /// Returns the oldest request's result, or `None` if there is no request. Polls all requests, because otherwise they would not
    /// be sent.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        for slot in &mut self.slots {
            if let Slot::Running(job) = slot
                && let Poll::Ready(result) = job.as_mut().poll(cx)
            {
                *slot = Slot::Done(result);
            }
        }
        match self.slots.pop_front() {
            None => Poll::Ready(None),
            Some(Slot::Done(result)) => {
                self.width = (self.width * 2).min(WINDOW_MAX);
                Poll::Ready(Some(result))
            }
            Some(running) => {
                self.slots.push_front(running);
                Poll::Pending
            }
        }
    }
}

/// The revision that a walk is pinned to.
enum Pinned {
    /// The walk has asked for the revision.
    Asking(Job<i64>),
    /// The walk knows the revision.
    At(i64),
}

/// The items of one revision at offsets 0, 1, 2, ….
struct Offsets<T> {
    client: Client,
    path: Arc<str>,
    fetch: fn(Client, Arc<str>, i32, i64) -> Job<T>,
    /// `None`: ended.
    pinned: Option<Pinned>,
    window: Window<T>,
    /// The next offset to ask for; `None` after the largest possible one.
    next: Option<i32>,
}

impl<T> Offsets<T> {
    fn new(client: &Client, path: &str, rev: Option<i64>, fetch: fn(Client, Arc<str>, i32, i64) -> Job<T>) -> Self {
        let pinned = match rev {
            Some(rev) => Pinned::At(rev),
            None => {
                let client = client.clone();
                Pinned::Asking(Box::pin(async move { client.rev().await }))
            }
        };
        Self {
            client: client.clone(),
            path: path.into(),
            fetch,
            pinned: Some(pinned),
            window: Window::new(),
            next: Some(0),
        }
    }

    const fn rev(&self) -> Option<i64> {
        match self.pinned {
            Some(Pinned::At(rev)) => Some(rev),
            _ => None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        let rev = match &mut self.pinned {
            None => return Poll::Ready(None),
            Some(Pinned::At(rev)) => *rev,
            Some(Pinned::Asking(job)) => match ready!(job.as_mut().poll(cx)) {
                Ok(rev) => {
                    self.pinned = Some(Pinned::At(rev));
                    rev
                }
                Err(error) => {
                    self.pinned = None;
                    return Poll::Ready(Some(Err(error)));
                }
            },
        };
        while self.window.has_room()
            && let Some(offset) = self.next
        {
            let job = (self.fetch)(self.client.clone(), Arc::clone(&self.path), offset, rev);
            self.window.push(job);
            self.next = offset.checked_add(1);
        }
        let item = ready!(self.window.poll_front(cx));
        if !matches!(item, Some(Ok(_))) {
            self.pinned = None;
            self.window = Window::new();
        }
        Poll::Ready(item.filter(|i| !matches!(i, Err(e) if e.code() == Some(ErrCode::Range))))
    }
}

/// The files that match a glob: see [`Client::walk`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct Walk(Offsets<Entry>);

impl Walk {
    pub(super) fn new(client: &Client, glob: &str, rev: Option<i64>) -> Self {
        let fetch = |client: Client, glob: Arc<str>, offset, rev| -> Job<Entry> {
            Box::pin(async move { client.walk_at(&glob, offset, Some(rev)).await })
        };
        Self(Offsets::new(client, glob, rev, fetch))
    }

    /// The revision of all items; `None` before the first and after the last item.
    #[must_use]
    pub const fn rev(&self) -> Option<i64> {
        self.0.rev()
    }

    /// Returns the next file. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl Stream for Walk {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

/// The names in a directory: see [`Client::getdir`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct Getdir(Offsets<String>);

impl Getdir {
    pub(super) fn new(client: &Client, path: &str, rev: Option<i64>) -> Self {
        let fetch = |client: Client, path: Arc<str>, offset, rev| -> Job<String> {
            Box::pin(async move { client.getdir_at(&path, offset, Some(rev)).await })
        };
        Self(Offsets::new(client, path, rev, fetch))
    }

    /// The revision of all items; `None` before the first and after the last item.
    #[must_use]
    pub const fn rev(&self) -> Option<i64> {
        self.0.rev()
    }

    /// Returns the next name. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<String, Error>> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl Stream for Getdir {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

/// The names in a directory, with the file or directory at each: see [`Client::entries`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct Entries {
    client: Client,
    /// The directory, with a slash after it.
    prefix: String,
    /// `None`: it has ended.
    names: Option<Getdir>,
    stats: Window<(String, Stat)>,
    /// The error that ended the names, if there was one; it follows the last of them.
    error: Option<Error>,
}

impl Entries {
    pub(super) fn new(client: &Client, path: &str, rev: Option<i64>) -> Self {
        let slash = if path.ends_with('/') { "" } else { "/" };
        Self {
            client: client.clone(),
            prefix: format!("{path}{slash}"),
            names: Some(Getdir::new(client, path, rev)),
            stats: Window::new(),
            error: None,
        }
    }

    /// Returns the next name, and the file or directory there. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<(String, Stat), Error>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(String, Stat), Error>>> {
        while self.stats.has_room()
            && let Some(names) = &mut self.names
            && let Poll::Ready(name) = names.0.poll(cx)
        {
            match name {
                Some(Ok(name)) => {
                    let (client, rev) = (self.client.clone(), names.rev());
                    let path = format!("{}{name}", self.prefix);
                    self.stats.push(Box::pin(async move {
                        let stat = client.stat(&path, rev).await?;
                        Ok((name, stat))
                    }));
                }
                Some(Err(error)) => {
                    self.error = Some(error);
                    self.names = None;
                }
                None => self.names = None,
            }
        }
        match self.stats.poll_front(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(entry))) => Poll::Ready(Some(Ok(entry))),
            Poll::Ready(Some(Err(error))) => {
                (self.names, self.error, self.stats) = (None, None, Window::new());
                Poll::Ready(Some(Err(error)))
            }
            // The names were polled and are pending: they wake us.
            Poll::Ready(None) if self.names.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(self.error.take().map(Err)),
        }
    }
}

impl Stream for Entries {
    type Item = Result<(String, Stat), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

/// What a watch does when its server no longer reaches a majority of its cluster. Such a server still serves reads and waits, but
/// does not learn of new events. No event is ever lost: at any server, a watch asks for the event after the last one that it has
/// seen.
///
/// The client asks the server every [`Options::sync_every`](super::Options::sync_every) whether it reaches a majority. A server
/// that lost the majority knows after about 1.5 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenStale {
    /// Move to another address whose server reaches a majority, with everything else that the client waits for. If there is no such
    /// server, stay, and keep looking for one.
    #[default]
    Move,
    /// Like `Move`. If no server reaches a majority, or no address accepts a connection, yield one [`Error::Stale`]. The watch
    /// continues after that error.
    Report,
    /// Stay, even if the server reaches no majority. Costs no SYNC.
    Stay,
}

type Notice = Pin<Box<dyn Future<Output = Option<(watch::Receiver<State>, Stale)>> + Send>>;

/// Completes when events may be missing. If `again`, the present case does not count: it completes at the next one.
async fn notice(mut state: watch::Receiver<State>, again: bool) -> Option<(watch::Receiver<State>, Stale)> {
    if again {
        state.wait_for(|state| state.stale.is_none()).await.ok()?;
    }
    let stale = state.wait_for(|state| state.stale.is_some()).await.ok()?.stale.clone()?;
    Some((state, stale))
}

/// A stream of events as they happen: see [`Client::watch`].
///
/// It ends only after an error other than [`Error::Stale`]: `TOO_LATE` if it was too slow for the history, a bad glob, or a refused
/// secret. [`Watch::next_rev`] then says from which revision another watch can continue.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Watch {
    client: Client,
    glob: Arc<str>,
    /// The revision after that of the last returned event.
    next_rev: i64,
    when_stale: WhenStale,
    /// The stream ends after one event.
    once: bool,
    /// `None`: ended.
    wait: Option<Slot<Event>>,
    /// `None`: the caller does not want a report, or the driver has ended.
    notice: Option<Notice>,
}

impl Watch {
    pub(super) fn new(client: &Client, glob: &str, from: i64, when_stale: WhenStale, once: bool) -> Self {
        let notice = (when_stale == WhenStale::Report).then(|| -> Notice {
            let state = client.state.clone();
            Box::pin(notice(state, false))
        });
        let (client, glob) = (client.clone(), Arc::from(glob));
        let mut watch = Self { client, glob, next_rev: from, when_stale, once, wait: None, notice };
        watch.wait = Some(watch.ask(from));
        watch
    }

    fn ask(&self, rev: i64) -> Slot<Event> {
        let (client, glob) = (self.client.clone(), Arc::clone(&self.glob));
        let moves = self.when_stale != WhenStale::Stay;
        Slot::Running(Box::pin(async move { client.wait_at(&glob, rev, moves).await }))
    }

    /// Returns the first revision whose events this watch has not returned yet.
    #[must_use]
    pub const fn next_rev(&self) -> i64 {
        self.next_rev
    }

    /// Returns the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let result = match self.wait.take() {
            None => return Poll::Ready(None),
            Some(Slot::Done(result)) => result,
            Some(Slot::Running(mut job)) => match job.as_mut().poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => {
                    self.wait = Some(Slot::Running(job));
                    return self.poll_notice(cx);
                }
            },
        };
        if let Ok(event) = &result
            && let Some(next) = event.rev.checked_add(1)
        {
            self.next_rev = next;
            if self.once {
                return Poll::Ready(Some(result));
            }
            let mut slot = self.ask(next);
            // Polled once, the next wait is on its way while the caller is busy with this event.
            if let Slot::Running(job) = &mut slot
                && let Poll::Ready(result) = job.as_mut().poll(cx)
            {
                slot = Slot::Done(result);
            }
            self.wait = Some(slot);
        }
        Poll::Ready(Some(result))
    }

    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let Some(job) = &mut self.notice else { return Poll::Pending };
        let told = ready!(job.as_mut().poll(cx));
        self.notice = None;
        let Some((state, stale)) = told else { return Poll::Pending };
        self.notice = Some(Box::pin(notice(state, true)));
        Poll::Ready(Some(Err(Error::Stale(stale))))
    }
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_and_its_streams_may_move_between_threads() {
        fn is_send<T: Send + Unpin>() {}
        is_send::<Client>();
        is_send::<Walk>();
        is_send::<Getdir>();
        is_send::<Entries>();
        is_send::<Watch>();
    }
}
