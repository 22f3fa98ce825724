//! Many clients watch one file; it is set; how long until the last one is told?
//!
//! Each watches on a connection of its own, for that is what clients are, and ZooKeeper has one watch of a path in a
//! session. A watch that ends when it is woken is renewed before the next round begins, and not in the time that counts.

use std::time::{Duration, Instant};

use crate::client::{histogram, nanos};
use crate::codec::{Answer, Event, Operation};
use crate::compare::closed::Looped;
use crate::compare::definition::Load;
use crate::compare::turn::Effects;
use crate::compare::work::{path, value};
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;

/// The writer's connection. The watches are on those behind it.
const WRITER: usize = 0;

/// The clients.
pub struct FanOut {
    path: String,
    value: Vec<u8>,
    watchers: usize,
    /// Whether a watch goes on after it was woken.
    stays: bool,
    watching: usize,
    /// Which were told of the change that was made last.
    told: Vec<bool>,
    count: usize,
    /// Of that change, as the writer was told and as a watcher was.
    revision: Option<i64>,
    watched: Option<i64>,
    last: Option<Instant>,
}

impl FanOut {
    /// One watcher for each connection of the load; the file is there.
    pub fn new(load: &Load, dir: &str, stays: bool) -> FanOut {
        FanOut {
            path: path(dir, 0),
            value: value(0, load.value),
            watchers: load.connections,
            stays,
            watching: 0,
            told: vec![false; load.connections + 1],
            count: 0,
            revision: None,
            watched: None,
            last: None,
        }
    }

    /// Sets the file again and again, for so long.
    ///
    /// # Errors
    /// A watcher is not told, or told twice, or of something else.
    pub fn run(&mut self, engine: &mut Engine, effects: &mut Effects, time: Duration) -> Result<Looped, Failure> {
        let (begun, mut latency) = (Instant::now(), histogram());
        while latency.is_empty() || begun.elapsed() < time {
            self.register(engine)?;
            (self.count, self.revision, self.watched, self.last) = (0, None, None, None);
            self.told.fill(false);
            let start = Instant::now();
            engine.ask(self, Place { conn: WRITER, slot: 0 });
            engine.flush(WRITER)?;
            while self.count < self.watchers || self.revision.is_none() {
                engine.patiently(self)?;
            }
            if self.watched.is_some_and(|watched| Some(watched) != self.revision) {
                return Err(Failure::new(format!("told of revision {:?}; it was {:?}", self.watched, self.revision)));
            }
            let last = self.last.map_or(Duration::ZERO, |last| last.duration_since(start));
            latency.saturating_record(nanos(last));
            effects.operations += 1;
            effects.wakes += self.count as u64;
        }
        Ok(Looped { latency, wall: begun.elapsed(), unasked: 0, late: None })
    }

    fn register(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        if !self.stays {
            self.watching = 0;
        }
        if self.watching == self.watchers {
            return Ok(());
        }
        for conn in 1..=self.watchers {
            engine.ask(self, Place { conn, slot: 0 });
            engine.flush(conn)?;
        }
        while self.watching < self.watchers {
            engine.patiently(self)?;
        }
        Ok(())
    }
}

impl Driver for FanOut {
    fn operation(&mut self, place: Place) -> Operation<'_> {
        let path = self.path.as_bytes();
        if place.conn == WRITER { Operation::Set { path, value: &self.value } } else { Operation::Watch { path } }
    }

    fn event(&mut self, conn: usize, event: &Event<'_>, now: Instant, _: &mut Vec<Place>) -> Result<(), Failure> {
        let wrong = || Err(Failure::new(format!("a watcher or the writer: {event:?}")));
        match *event {
            Event::Watching { .. } if conn != WRITER => self.watching += 1,
            Event::Answer { answer: Answer::Written { revision, .. }, .. } if conn == WRITER => {
                self.revision = Some(revision);
            }
            Event::Woken { revision, deleted: false, .. } if conn != WRITER && !self.told[conn] => {
                if self.watched.is_some() && revision != self.watched {
                    return wrong();
                }
                (self.watched, self.last, self.told[conn]) = (revision, Some(now), true);
                self.count += 1;
            }
            _ => return wrong(),
        }
        Ok(())
    }
}
