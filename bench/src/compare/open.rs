//! The open loop: operations are sent at a rate, whether those before are answered or not.
//!
//! The n-th is due at a time that is known before; its latency counts from then, not from when it could be sent. So a server
//! that stalls for 10 ms delays all that are due in that time, as it would delay its users, and not the one that happened
//! to be outstanding (the "coordinated omission" of a closed loop).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{PATIENCE, histogram, nanos};
use crate::codec::{Event, Operation};
use crate::compare::closed::Looped;
use crate::compare::definition::Load;
use crate::compare::work::{Operations, Places};
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;

/// When each operation is due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    rate: f64,
    count: u64,
}

impl Schedule {
    /// So many a second, evenly, for so long.
    pub fn new(start: Instant, rate: f64, time: Duration) -> Schedule {
        let count = (rate * time.as_secs_f64()).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of operations")]
        Schedule { start, rate, count: count as u64 }
    }

    /// When the n-th is due, from 0 on; none if there is no such one.
    pub fn due(&self, number: u64) -> Option<Instant> {
        let after = Duration::from_secs_f64(crate::figure::float(number) / self.rate);
        (number < self.count).then(|| self.start + after)
    }
}

struct Open<'a> {
    operations: &'a mut dyn Operations,
    /// When the operation in each place was due.
    due: Places<Instant>,
    /// Slots that are free, by connection.
    free: Vec<Vec<u16>>,
    outstanding: u64,
    latency: Histogram<u64>,
}

/// Sends at a rate for so long, over all connections in turn, and waits until all is answered. What a full connection
/// cannot take is sent when it can; what is due and not sent at the end is not sent at all, but counted.
///
/// # Errors
/// An answer is wrong, or does not come.
pub fn run(
    engine: &mut Engine,
    load: &Load,
    operations: &mut dyn Operations,
    rate: f64,
    time: Duration,
) -> Result<Looped, Failure> {
    let start = Instant::now();
    let schedule = Schedule::new(start, rate, time);
    let free = vec![(0..load.outstanding).rev().collect(); load.connections];
    let due = Places::new(load, start);
    let mut open = Open { operations, due, free, outstanding: 0, latency: histogram() };
    let (mut number, mut turn, mut asked, mut late) = (0, 0, BTreeSet::new(), histogram());
    while let Some(mut due) = schedule.due(number) {
        let now = Instant::now();
        while due <= now {
            let Some(conn) = open.connection(turn) else { break };
            let Some(slot) = open.free[conn].pop() else { break };
            let place = Place { conn, slot };
            *open.due.at(place) = due;
            open.outstanding += 1;
            late.saturating_record(nanos(now.duration_since(due)));
            engine.ask(&mut open, place);
            asked.insert(conn);
            (number, turn) = (number + 1, conn + 1);
            let Some(next) = schedule.due(number) else { break };
            due = next;
        }
        // What is due at the same time on a connection leaves together.
        while let Some(conn) = asked.pop_first() {
            engine.flush(conn)?;
        }
        if now > start + time {
            break;
        }
        let full = open.connection(turn).is_none();
        let wait = if full { PATIENCE } else { due.saturating_duration_since(Instant::now()) };
        engine.turn(&mut open, wait.min(time))?;
    }
    while open.outstanding > 0 {
        engine.patiently(&mut open)?;
    }
    Ok(Looped { latency: open.latency, wall: start.elapsed(), unasked: schedule.count - number, late: Some(late) })
}

impl Open<'_> {
    /// A connection with a free slot: the one whose turn it is, or the next.
    fn connection(&self, turn: usize) -> Option<usize> {
        let count = self.free.len();
        (0..count).map(|offset| (turn + offset) % count).find(|&conn| !self.free[conn].is_empty())
    }
}

impl Driver for Open<'_> {
    fn operation(&mut self, place: Place) -> Operation<'_> {
        self.operations.next(place)
    }

    fn event(&mut self, conn: usize, event: &Event<'_>, now: Instant, asks: &mut Vec<Place>) -> Result<(), Failure> {
        let Event::Answer { slot, answer } = event else {
            return Err(Failure::new(format!("{event:?} instead of an answer")));
        };
        let place = Place { conn, slot: *slot };
        if self.operations.answered(place, answer)? {
            self.latency.saturating_record(nanos(now.saturating_duration_since(*self.due.at(place))));
            self.free[conn].push(*slot);
            self.outstanding -= 1;
        } else {
            asks.push(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_evenly_and_all_of_them_in_time() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1000.0, Duration::from_secs(2));
        let after = |number| schedule.due(number).map(|due| due.duration_since(start));
        assert_eq!(after(0), Some(Duration::ZERO));
        assert_eq!(after(1), Some(Duration::from_millis(1)));
        assert_eq!(after(1999), Some(Duration::from_millis(1999)));
        assert_eq!(after(2000), None);
        // Rounding does not pile up: the time is computed of the number, not of the one before.
        let odd = Schedule::new(start, 3.0, Duration::from_secs(1000));
        let last = odd.due(2999).unwrap().duration_since(start);
        assert!(last > Duration::from_millis(999_666) && last < Duration::from_secs(1000), "{last:?}");
    }
}
