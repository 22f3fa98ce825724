//! A lock that two clients take from each other.
//!
//! The lock is a file: who makes it holds it, and who removes it gives it away. The other one watches it, is told, and makes
//! it. That is what all three systems can do with the same three operations: two writes and a watch. It is not the
//! recipe of any of their libraries, which know of queues and of holders that have died.

use std::time::{Duration, Instant};

use crate::client::{histogram, nanos};
use crate::codec::{Answer, Event, Operation};
use crate::compare::closed::Looped;
use crate::compare::turn::Effects;
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;

/// Slots of a connection: of its writes, and of its watch.
const WRITE: u16 = 0;
const WATCH: u16 = 1;

/// The lock and its two clients, who are the connections 0 and 1.
pub struct Lock {
    path: String,
    holder: usize,
    state: State,
    /// Whether what was removed last was answered.
    removed: bool,
    /// Revision at which the lock was made last.
    made: i64,
    /// Who watches for good.
    watches: [bool; 2],
    wakes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has it; the holder-to-be makes it for the first time.
    Taking,
    /// The other one begins to watch.
    Watching,
    /// The holder removes it.
    Releasing,
    /// The holder has it.
    Held(Instant),
    /// It is removed for the last time.
    Ending,
}

impl Lock {
    /// A lock below `dir`, which nobody holds.
    pub fn new(dir: &str) -> Lock {
        let path = format!("{dir}/lock");
        Lock { path, holder: 0, state: State::Ending, removed: true, made: 0, watches: [false; 2], wakes: 0 }
    }

    /// Hands it over again and again, for so long.
    ///
    /// # Errors
    /// It is not to be had when it was released, or nobody is told.
    pub fn run(&mut self, engine: &mut Engine, effects: &mut Effects, time: Duration) -> Result<Looped, Failure> {
        let (begun, mut latency) = (Instant::now(), histogram());
        self.state = State::Taking;
        self.write(engine)?;
        self.until(engine, |lock| matches!(lock.state, State::Held(_)))?;
        loop {
            let other = 1 - self.holder;
            if !(self.watches[other] && engine.watch_stays()) {
                self.state = State::Watching;
                engine.ask(self, Place { conn: other, slot: WATCH });
                engine.flush(other)?;
                self.until(engine, |lock| lock.state == State::Releasing)?;
                self.watches[other] = true;
            }
            let (start, woken) = (Instant::now(), self.wakes);
            self.remove(engine, State::Releasing)?;
            self.until(engine, |lock| lock.removed && matches!(lock.state, State::Held(_)))?;
            if let State::Held(at) = self.state {
                latency.saturating_record(nanos(at.duration_since(start)));
            }
            effects.operations += 1;
            effects.wakes += self.wakes - woken;
            if begun.elapsed() >= time {
                break;
            }
        }
        self.remove(engine, State::Ending)?;
        self.until(engine, |lock| lock.removed)?;
        effects.besides += 2;
        Ok(Looped { latency, wall: begun.elapsed(), unasked: 0, late: None })
    }

    fn remove(&mut self, engine: &mut Engine, state: State) -> Result<(), Failure> {
        (self.state, self.removed) = (state, false);
        self.write(engine)
    }

    fn write(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        let conn = self.holder;
        engine.ask(self, Place { conn, slot: WRITE });
        engine.flush(conn)
    }

    fn until(&mut self, engine: &mut Engine, reached: impl Fn(&Lock) -> bool) -> Result<(), Failure> {
        while !reached(self) {
            engine.patiently(self)?;
        }
        Ok(())
    }
}

impl Driver for Lock {
    fn operation(&mut self, place: Place) -> Operation<'_> {
        let path = self.path.as_bytes();
        match (place.slot, self.state) {
            (WATCH, _) => Operation::Watch { path },
            (_, State::Releasing | State::Ending) if place.conn == self.holder => Operation::Delete { path },
            _ => Operation::Create { path, value: b"held" },
        }
    }

    fn event(&mut self, conn: usize, event: &Event<'_>, now: Instant, asks: &mut Vec<Place>) -> Result<(), Failure> {
        let wrong = |lock: &Lock| {
            let Lock { state, holder, .. } = lock;
            Err(Failure::new(format!("client {conn}: {event:?} in state {state:?}, held by {holder}")))
        };
        match *event {
            Event::Watching { .. } if self.state == State::Watching => self.state = State::Releasing,
            Event::Answer { answer: Answer::Deleted, .. } if !self.removed => self.removed = true,
            Event::Answer { answer: Answer::Written { revision, .. }, .. } => {
                match self.state {
                    State::Taking if conn == self.holder => {}
                    State::Releasing if conn != self.holder => {}
                    _ => return wrong(self),
                }
                (self.holder, self.state, self.made) = (conn, State::Held(now), revision);
            }
            // A watch that stays tells of what is no news, too: of the making, and of one's own writes.
            Event::Woken { revision, deleted, .. } => {
                let news = deleted && revision.is_none_or(|revision| revision > self.made);
                if news && self.state == State::Releasing && conn != self.holder {
                    self.wakes += 1;
                    asks.push(Place { conn, slot: WRITE });
                }
            }
            _ => return wrong(self),
        }
        Ok(())
    }
}
