//! The closed loop: in each place, an operation is asked when the one before is answered.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{histogram, nanos};
use crate::codec::{Event, Operation};
use crate::compare::definition::Load;
use crate::compare::work::{Operations, Places};
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;

/// What came of a loop.
#[derive(Debug)]
pub struct Looped {
    /// From when an operation is asked until it is complete, in nanoseconds.
    pub latency: Histogram<u64>,
    /// From the first one's beginning to the last one's end.
    pub wall: Duration,
    /// Those that ought to have been asked in that time, and were not.
    pub unasked: u64,
    /// Of an open loop: how long after they were due the operations were asked, in nanoseconds.
    pub late: Option<Histogram<u64>>,
}

struct Closed<'a> {
    operations: &'a mut dyn Operations,
    begun: Places<Instant>,
    until: Instant,
    outstanding: u64,
    latency: Histogram<u64>,
}

/// Asks for so long, in all places of the load, until all is answered.
///
/// # Errors
/// An answer is wrong, or does not come.
pub fn run(
    engine: &mut Engine,
    load: &Load,
    operations: &mut dyn Operations,
    time: Duration,
) -> Result<Looped, Failure> {
    let start = Instant::now();
    let begun = Places::new(load, start);
    let mut closed = Closed { operations, begun, until: start + time, outstanding: 0, latency: histogram() };
    for conn in 0..engine.len() {
        for slot in 0..load.outstanding {
            let place = Place { conn, slot };
            *closed.begun.at(place) = Instant::now();
            engine.ask(&mut closed, place);
            closed.outstanding += 1;
        }
        engine.flush(conn)?;
    }
    while closed.outstanding > 0 {
        engine.patiently(&mut closed)?;
    }
    Ok(Looped { latency: closed.latency, wall: start.elapsed(), unasked: 0, late: None })
}

impl Driver for Closed<'_> {
    fn operation(&mut self, place: Place) -> Operation<'_> {
        self.operations.next(place)
    }

    fn event(&mut self, conn: usize, event: &Event<'_>, now: Instant, asks: &mut Vec<Place>) -> Result<(), Failure> {
        let Event::Answer { slot, answer } = event else {
            return Err(Failure::new(format!("{event:?} instead of an answer")));
        };
        let place = Place { conn, slot: *slot };
        if self.operations.answered(place, answer)? {
            let begun = self.begun.at(place);
            self.latency.saturating_record(nanos(now.duration_since(*begun)));
            if now >= self.until {
                self.outstanding -= 1;
                return Ok(());
            }
            *begun = now;
        }
        asks.push(place);
        Ok(())
    }
}
