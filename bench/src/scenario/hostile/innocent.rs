//! The clients that mean no harm: how long the longest REV took, how many SETs and GETs were answered, and whether what they wrote is
//! there.
//!
//! A server that dies, or closes a connection of theirs, is a result: they connect again, as long as the scenario lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doozer::wire::ErrCode;

use super::swarm::Stop;
use crate::client::{Client, nanos};
use crate::failure::Failure;
use crate::traffic::value;

/// Time between two REVs.
const PAUSE: Duration = Duration::from_millis(3);
/// Time until a connection that broke is made again.
const AGAIN: Duration = Duration::from_millis(20);

/// Where a server is, and what grants access to it.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its address.
    pub addr: SocketAddr,
    /// The secret; none where none is set.
    pub secret: Option<&'static str>,
}

impl Door {
    /// A connection that may read and write.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn enter(self) -> Result<Client, Failure> {
        let mut client = Client::connect(self.addr)?;
        if let Some(secret) = self.secret {
            client.access(secret.as_bytes())?;
        }
        Ok(client)
    }
}

/// What the innocent have seen up to now; others look on.
#[derive(Debug, Default)]
pub struct Seen {
    /// SETs and GETs that were answered.
    pub answered: AtomicU64,
    /// The longest REV, in nanoseconds, since it was last taken.
    pub longest: AtomicU64,
    /// Connections that broke.
    pub broken: AtomicU64,
    /// Values and revisions that were not what was written.
    pub changed: AtomicU64,
}

impl Seen {
    /// Asks REV again and again; with `fresh`, each time on a connection of its own.
    pub fn probe(&self, door: Door, fresh: bool, stop: &Stop) {
        let mut client = None;
        while !stop.is_set() {
            let start = Instant::now();
            let asked = match client.take() {
                Some(client) => Ok(client),
                None => door.enter(),
            };
            let asked = asked.and_then(|mut client| client.revision().map(|_| client));
            self.longest.fetch_max(nanos(start.elapsed()), Ordering::Relaxed);
            match asked {
                Ok(connected) => client = Some(connected).filter(|_| !fresh),
                Err(_) => self.broke(stop),
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Sets a file of its own and reads it, by turns, each time with the revision of the last answer.
    pub fn work(&self, door: Door, number: usize, stop: &Stop) {
        let mut last = 0;
        while !stop.is_set() {
            if self.try_work(door, number, &mut last, stop).is_err() {
                self.broke(stop);
            }
        }
    }

    /// Works on one connection; `last` is the revision of the last write that was acknowledged.
    fn try_work(&self, door: Door, number: usize, last: &mut i64, stop: &Stop) -> Result<(), Failure> {
        let path = format!("/innocent/{number}");
        let mut client = door.enter()?;
        let (mut rev, found) = client.get(path.as_bytes(), None)?;
        if rev < *last {
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
        let mut count = found.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        while !stop.is_set() {
            count += 1;
            let mut written = value(count);
            written[..8].copy_from_slice(&count.to_le_bytes());
            match client.compare_and_set(path.as_bytes(), &written, rev) {
                Ok(now) => (rev, *last) = (now, now),
                // The cluster has no leader for a moment.
                Err(e) if e.code() == Some(ErrCode::Readonly.code()) => {
                    std::thread::park_timeout(AGAIN);
                    continue;
                }
                Err(e) if e.code() == Some(ErrCode::RevMismatch.code()) => {
                    self.changed.fetch_add(1, Ordering::Relaxed);
                    return Err(e);
                }
                Err(e) => return Err(e),
            }
            if client.get(path.as_bytes(), None)? != (rev, written.to_vec()) {
                self.changed.fetch_add(1, Ordering::Relaxed);
            }
            self.answered.fetch_add(2, Ordering::Relaxed);
        }
        Ok(())
    }

    fn broke(&self, stop: &Stop) {
        if !stop.is_set() {
            self.broken.fetch_add(1, Ordering::Relaxed);
            std::thread::park_timeout(AGAIN);
        }
    }
}

/// Files that nobody touches during an attack.
const WITNESSES: u64 = 200;

fn witness(number: u64) -> String {
    format!("/witness/{number}")
}

/// Writes them, and returns their revisions.
///
/// # Errors
/// One cannot be written.
pub fn write_witnesses(client: &mut Client) -> Result<Vec<i64>, Failure> {
    (0..WITNESSES).map(|number| client.set(witness(number).as_bytes(), &value(number))).collect()
}

/// How many of them are not as they were written.
///
/// # Errors
/// One cannot be read.
pub fn changed(client: &mut Client, revs: &[i64]) -> Result<u64, Failure> {
    let mut changed = 0;
    for (number, rev) in (0..).zip(revs) {
        let found = client.get(witness(number).as_bytes(), None)?;
        changed += u64::from(found != (*rev, value(number).to_vec()));
    }
    Ok(changed)
}
