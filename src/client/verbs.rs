//! The verbs as methods, and the types of their answers.

use tokio::sync::{mpsc, watch};

use super::call::{Answer, Ask, Call, Kind};
use super::driver::State;
use super::error::{Error, Lost};
use super::options::Options;
use super::streams::{Entries, Getdir, Walk, Watch, WhenStale};
use crate::address::Address;
use crate::limits::FRAME_MAX;
use crate::stats::Stats;
use crate::wire::{FLAG_DEL, FLAG_SET, Verb};

/// The revision of a missing file. As an argument of [`Client::set`]: create the file.
pub const MISSING: i64 = 0;
/// As an argument of [`Client::set`] and [`Client::del`]: accept any revision of the file.
pub const CLOBBER: i64 = -1;

/// A file's body and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The revision to pass to a later [`Client::set`]; [`MISSING`] if there is no such file.
    pub rev: i64,
    /// The body; empty if there is no such file.
    pub value: Vec<u8>,
}

impl File {
    /// Returns whether the file exists.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.rev != MISSING
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// Nothing.
    Missing,
    /// A file.
    File {
        /// The revision that wrote the file.
        rev: i64,
        /// Size of the body in bytes.
        len: u32,
    },
    /// A directory.
    Directory {
        /// Number of names in the directory.
        entries: u32,
    },
}

/// A file that a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file's path.
    pub path: String,
    /// The revision that wrote the file.
    pub rev: i64,
    /// The file's body.
    pub value: Vec<u8>,
}

/// The kind of change that a revision made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The revision set a file.
    Set,
    /// The revision deleted a file (which need not have existed).
    Del,
    /// The revision changed nothing.
    Nop,
}

/// The change that a revision made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision.
    pub rev: i64,
    /// The file's path; `/` for a nop.
    pub path: String,
    /// The file's new body; empty unless the change is a `Set`.
    pub value: Vec<u8>,
    /// The kind of change.
    pub change: Change,
}

/// A connection to a cluster. Clones share it and make their calls concurrently.
///
/// * Dropping a call's future abandons the call, without harm to other calls. The server may or may not carry an abandoned write
///   out.
/// * When a connection is lost, the client connects to any of the addresses as soon as a call needs it. It sends reads again. A
///   write whose answer was lost fails with [`Error::OutcomeUnknown`] and is never sent again; a write that certainly did not reach
///   the server is sent again.
/// * A call that a server refuses with `READONLY` was certainly not carried out; the client tries it at the other addresses: see
///   [`Options::readonly_for`].
/// * The client leaves a server that hangs, or that lost the majority while a caller waits for events: see [`Options::slow_after`]
///   and [`WhenStale`].
/// * Callers wait while too much is queued.
/// * The next server may be some revisions behind the last: call [`Client::sync`], then read.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) state: watch::Receiver<State>,
}

impl Client {
    /// Connects with the default [`Options`]. `target` is a doozer URI, or one or more addresses `host[:port]`, separated by
    /// commas.
    ///
    /// # Errors
    /// If `target` is malformed, no address accepts a connection, or the servers refuse the secret.
    pub async fn connect(target: &str) -> Result<Self, Error> {
        Options::parse(target)?.connect().await
    }

    /// Returns the body of the file at `path`, now or as of a past revision. Waits for a future revision.
    ///
    /// # Errors
    /// `ISDIR`, `TOO_LATE`, permission denied.
    pub async fn get(&self, path: &str, rev: Option<i64>) -> Result<File, Error> {
        let mut answer = self.call(Ask::new(Verb::Get).path(path).rev(rev)).await?;
        Ok(File { rev: answer.rev()?, value: answer.value() })
    }

    /// Sets the file at `path` if its revision is not greater than `rev`, or in any case if `rev` is [`CLOBBER`]. Returns the new
    /// revision.
    ///
    /// # Errors
    /// `REV_MISMATCH`, `ISDIR`, `NOTDIR`, `BAD_PATH`, `READONLY` (no majority at any address; not carried out), permission denied;
    /// [`Error::OutcomeUnknown`] if the connection was lost before the answer came.
    pub async fn set(&self, path: &str, rev: i64, value: impl Into<Vec<u8>>) -> Result<i64, Error> {
        let ask = Ask::new(Verb::Set).path(path).rev(Some(rev)).value(value.into());
        self.call(ask).await?.rev()
    }

    /// Deletes the file at `path`, under the same condition as [`Client::set`].
    ///
    /// # Errors
    /// The errors of [`Client::set`], except `NOTDIR`.
    pub async fn del(&self, path: &str, rev: i64) -> Result<(), Error> {
        self.call(Ask::new(Verb::Del).path(path).rev(Some(rev))).await.map(drop)
    }

    /// Makes a revision that changes nothing.
    ///
    /// # Errors
    /// `READONLY`, permission denied; [`Error::OutcomeUnknown`].
    pub async fn nop(&self) -> Result<(), Error> {
        self.call(Ask::new(Verb::Nop)).await.map(drop)
    }

    /// Returns the server's current revision.
    ///
    /// # Errors
    /// Only errors of the connection.
    pub async fn rev(&self) -> Result<i64, Error> {
        self.call(Ask::new(Verb::Rev)).await?.rev()
    }

    /// Waits until the server has applied every write that any node acknowledged before this call. Returns the server's revision
    /// then.
    ///
    /// # Errors
    /// `UNKNOWN_VERB` from a server of the original; `READONLY` if no server reaches a majority.
    pub async fn sync(&self) -> Result<i64, Error> {
        self.call(Ask::new(Verb::Sync)).await?.rev()
    }

    /// Returns the server's statistics.
    ///
    /// # Errors
    /// `UNKNOWN_VERB` from a server of the original, permission denied.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let mut answer = self.call(Ask::new(Verb::Stats)).await?;
        let text = String::from_utf8(answer.value()).map_err(|_| answer.bad("value"))?;
        Stats::decode(&text).map_err(|_| answer.bad("value"))
    }

    /// Returns the server's id.
    ///
    /// # Errors
    /// Only errors of the connection.
    pub async fn self_id(&self) -> Result<String, Error> {
        let mut answer = self.call(Ask::new(Verb::SelfId)).await?;
        String::from_utf8(answer.value()).map_err(|_| answer.bad("value"))
    }

    /// Returns what is at `path`, now or as of a past revision.
    ///
    /// # Errors
    /// `TOO_LATE`, permission denied.
    pub async fn stat(&self, path: &str, rev: Option<i64>) -> Result<Stat, Error> {
        let answer = self.call(Ask::new(Verb::Stat).path(path).rev(rev)).await?;
        Ok(match answer.rev()? {
            -2 => Stat::Directory { entries: answer.len()? },
            MISSING => Stat::Missing,
            rev => Stat::File { rev, len: answer.len()? },
        })
    }

    /// Waits for the first event at or after `rev` whose path matches `glob`. The call survives lost connections and has no time
    /// limit; use `tokio::time::timeout` to set one. It changes servers as a watch does with [`WhenStale::Move`].
    ///
    /// # Errors
    /// `TOO_LATE`, `OTHER` (a bad glob, permission denied).
    pub async fn wait(&self, glob: &str, rev: i64) -> Result<Event, Error> {
        self.wait_at(glob, rev, true).await
    }

    /// Like [`Client::wait`], as a stream that ends after the first event. With [`WhenStale::Report`] it yields an
    /// [`Error::Stale`] before that event when the server has lost the majority.
    pub fn wait_with(&self, glob: &str, rev: i64, when_stale: WhenStale) -> Watch {
        Watch::new(self, glob, rev, when_stale, true)
    }

    pub(super) async fn wait_at(&self, glob: &str, rev: i64, wants_majority: bool) -> Result<Event, Error> {
        let ask = Ask::new(Verb::Wait).path(glob).rev(Some(rev)).wants_majority(wants_majority);
        let mut answer = self.call(ask).await?;
        let flags = answer.flags()?;
        let change = match (flags & FLAG_SET, flags & FLAG_DEL) {
            (0, 0) => Change::Nop,
            (0, _) => Change::Del,
            _ => Change::Set,
        };
        let event = Event { rev: answer.rev()?, path: answer.path()?, value: answer.value(), change };
        // A watch has already had the events before `rev`.
        if event.rev < rev { Err(answer.bad("rev")) } else { Ok(event) }
    }

    /// Returns the file number `offset`, counted from 0, that matches `glob`. [`Client::walk`] returns all files.
    ///
    /// # Errors
    /// `RANGE` after the last file, `TOO_LATE`, `OTHER` (a bad glob, permission denied).
    pub async fn walk_at(&self, glob: &str, offset: i32, rev: Option<i64>) -> Result<Entry, Error> {
        let mut answer = self.call(Ask::new(Verb::Walk).path(glob).offset(offset).rev(rev)).await?;
        Ok(Entry { path: answer.path()?, rev: answer.rev()?, value: answer.value() })
    }

    /// Returns the name number `offset`, counted from 0, in the directory `path`. [`Client::getdir`] returns all names.
    ///
    /// # Errors
    /// `RANGE` after the last name, `NOENT`, `NOTDIR`, `TOO_LATE`, permission denied.
    pub async fn getdir_at(&self, path: &str, offset: i32, rev: Option<i64>) -> Result<String, Error> {
        self.call(Ask::new(Verb::Getdir).path(path).offset(offset).rev(rev)).await?.path()
    }

    /// Presents a secret, now and on each new connection.
    ///
    /// # Errors
    /// `OTHER`, permission denied; rights that were granted before stay.
    pub async fn access(&self, secret: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.call(Ask::new(Verb::Access).value(secret.into())).await.map(drop)
    }

    /// Streams all files that match `glob`, in walk order, at one revision: `rev`, or the current one.
    pub fn walk(&self, glob: &str, rev: Option<i64>) -> Walk {
        Walk::new(self, glob, rev)
    }

    /// Streams all names in the directory `path`, in byte order, at one revision: `rev`, or the current one.
    pub fn getdir(&self, path: &str, rev: Option<i64>) -> Getdir {
        Getdir::new(self, path, rev)
    }

    /// Like [`Client::getdir`], with the file or directory at each name.
    pub fn entries(&self, path: &str, rev: Option<i64>) -> Entries {
        Entries::new(self, path, rev)
    }

    /// Streams every event from revision `from` on whose path matches `glob`, each once and in order, across lost connections. To
    /// miss nothing after a read, watch from the revision after the one that was read.
    pub fn watch(&self, glob: &str, from: i64) -> Watch {
        self.watch_with(glob, from, WhenStale::Move)
    }

    /// Like [`Client::watch`]; `when_stale` says what the watch does when its server has lost the majority.
    ///
    /// ```no_run
    /// use doozer::client::{Client, Error, WhenStale};
    ///
    /// # async fn example() -> Result<(), Error> {
    /// let client = Client::connect("10.0.0.1,10.0.0.2,10.0.0.3").await?;
    /// let mut changes = client.watch_with("/config/**", 1, WhenStale::Report);
    /// while let Some(event) = changes.next().await {
    ///     match event {
    ///         Ok(event) => println!("{} at {}", event.path, event.rev),
    ///         Err(Error::Stale(why)) => eprintln!("what follows may be late: {why}"),
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_with(&self, glob: &str, from: i64, when_stale: WhenStale) -> Watch {
        Watch::new(self, glob, from, when_stale, false)
    }

    /// Returns the address of the server that serves calls now, or served them last.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), doozer::client::Error> {
    /// let client = doozer::client::Client::connect("10.0.0.1,10.0.0.2").await?;
    /// println!("connected to {}", client.server());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn server(&self) -> Address {
        self.state.borrow().address.clone()
    }

    async fn call(&self, ask: Ask) -> Result<Answer, Error> {
        // The length with the longest tag is an upper bound.
        let len = ask.request(i32::MAX).frame_len() - crate::wire::frame::HEADER;
        if len > FRAME_MAX {
            return Err(Error::TooLarge { len, max: FRAME_MAX });
        }
        let kind = ask.kind();
        let (call, answer) = Call::new(ask);
        self.calls.send(call).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(match kind {
            Kind::Write => Error::OutcomeUnknown { address: None, cause: Lost::Ended },
            Kind::Read | Kind::Wait => Error::Closed,
        }))
    }
}
