//! What the loads of many operations ask, and what has to be answered.

use crate::codec::{Answer, Operation};
use crate::compare::definition::{Load, Work};
use crate::engine::Place;
use crate::failure::Failure;
use crate::traffic::Random;

/// Of how many operations of [`Work::Mixed`] one writes.
const MIX: u64 = 10;

/// A load, operation by operation.
pub trait Operations {
    /// What is asked in a place now: a new operation, or what the one there goes on with.
    fn next(&mut self, place: Place) -> Operation<'_>;

    /// Judges an answer. True if the operation is complete.
    ///
    /// # Errors
    /// It is not what has to be answered.
    fn answered(&mut self, place: Place, answer: &Answer<'_>) -> Result<bool, Failure>;

    /// Attempts that another one has forestalled.
    fn mismatches(&self) -> u64 {
        0
    }
}

/// The operations of a load, on files below `dir`, which are there.
pub fn operations(load: &Load, dir: &str) -> Box<dyn Operations> {
    match load.work {
        Work::CompareAndSet => Box::new(Hot::new(load, dir)),
        _ => Box::new(Files::new(load, dir)),
    }
}

/// A file's path.
pub fn path(dir: &str, number: usize) -> String {
    format!("{dir}/{number:06}")
}

/// What a file always holds: nothing that can be compressed, or shared with another file.
pub fn value(number: usize, size: usize) -> Vec<u8> {
    let mut random = Random::new(number as u64);
    let mut value: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    value.truncate(size);
    value
}

/// Something for each place.
#[derive(Debug)]
pub struct Places<T>(Vec<Vec<T>>);

impl<T: Clone> Places<T> {
    /// `initial` for each.
    pub fn new(load: &Load, initial: T) -> Places<T> {
        Places(vec![vec![initial; usize::from(load.outstanding)]; load.connections])
    }

    /// That of a place.
    ///
    /// # Panics
    /// There is no such place.
    pub fn at(&mut self, place: Place) -> &mut T {
        &mut self.0[place.conn][usize::from(place.slot)]
    }
}

/// Overwrites and reads of random files.
#[derive(Debug)]
struct Files {
    work: Work,
    paths: Vec<String>,
    values: Vec<Vec<u8>>,
    random: Random,
    asked: Places<Asked>,
    number: u64,
    /// The highest revision that was answered.
    highest: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    file: usize,
    writes: bool,
    /// The highest revision that had been answered before it was asked: its own has to be above.
    above: i64,
}

impl Files {
    fn new(load: &Load, dir: &str) -> Files {
        Files {
            work: load.work,
            paths: (0..load.files).map(|number| path(dir, number)).collect(),
            values: (0..load.files).map(|number| value(number, load.value)).collect(),
            random: Random::new(load.files as u64),
            asked: Places::new(load, Asked::default()),
            number: 0,
            highest: 0,
        }
    }
}

impl Operations for Files {
    fn next(&mut self, place: Place) -> Operation<'_> {
        let writes = match self.work {
            Work::Get => false,
            Work::Mixed => self.number.is_multiple_of(MIX),
            _ => true,
        };
        self.number += 1;
        let file = self.random.below(self.paths.len());
        *self.asked.at(place) = Asked { file, writes, above: self.highest };
        let (path, value) = (self.paths[file].as_bytes(), &self.values[file][..]);
        if writes { Operation::Set { path, value } } else { Operation::Get { path } }
    }

    fn answered(&mut self, place: Place, answer: &Answer<'_>) -> Result<bool, Failure> {
        let asked = *self.asked.at(place);
        match *answer {
            Answer::Written { revision, .. } if asked.writes => {
                if revision <= asked.above {
                    let above = asked.above;
                    return Err(Failure::new(format!("revision {revision}; {above} was answered before it was asked")));
                }
                self.highest = self.highest.max(revision);
            }
            Answer::Value { value, .. } if !asked.writes && value == self.values[asked.file] => {}
            other => return Err(Failure::new(format!("{}: not what was set: {other:?}", self.paths[asked.file]))),
        }
        Ok(true)
    }
}

/// Compare-and-set of one file: each place reads it when another one was faster, and tries again.
#[derive(Debug)]
struct Hot {
    path: String,
    value: Vec<u8>,
    /// What each place knows, and the highest revision that had been answered before it asked: its own has to be above.
    known: Places<(Option<i64>, i64)>,
    highest: i64,
    mismatches: u64,
}

impl Hot {
    fn new(load: &Load, dir: &str) -> Hot {
        let known = Places::new(load, (None, 0));
        Hot { path: path(dir, 0), value: value(0, load.value), known, highest: 0, mismatches: 0 }
    }
}

impl Operations for Hot {
    fn next(&mut self, place: Place) -> Operation<'_> {
        let path = self.path.as_bytes();
        let (token, above) = self.known.at(place);
        *above = self.highest;
        match *token {
            None => Operation::Get { path },
            Some(token) => Operation::CompareAndSet { path, value: &self.value, token },
        }
    }

    fn answered(&mut self, place: Place, answer: &Answer<'_>) -> Result<bool, Failure> {
        let (known, above) = self.known.at(place);
        match (*answer, *known) {
            (Answer::Value { token, value }, None) if value == self.value => {
                *known = Some(token);
                Ok(false)
            }
            (Answer::Mismatch, Some(_)) => {
                *known = None;
                self.mismatches += 1;
                Ok(false)
            }
            (Answer::Written { revision, token }, Some(before)) if token > before && revision > *above => {
                *known = Some(token);
                self.highest = self.highest.max(revision);
                Ok(true)
            }
            (other, _) => Err(Failure::new(format!("a compare-and-set: {other:?} after {known:?}"))),
        }
    }

    fn mismatches(&self) -> u64 {
        self.mismatches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(work: &str) -> Load {
        let text = format!("name='a'\nwork='{work}'\nfiles=4\noutstanding=8\nassert.revisions=1.0\n");
        toml::from_str(&text).unwrap()
    }

    const PLACE: Place = Place { conn: 0, slot: 0 };
    const OTHER: Place = Place { conn: 0, slot: 7 };

    fn written(revision: i64) -> Answer<'static> {
        Answer::Written { revision, token: revision }
    }

    /// A write that was answered before another was asked comes before it. One that was asked at the same time need not.
    #[test]
    fn a_revision_that_goes_back_ends_the_run() {
        let mut sets = operations(&load("set"), "/d");
        sets.next(PLACE);
        sets.next(OTHER);
        assert!(sets.answered(OTHER, &written(6)).unwrap());
        assert!(sets.answered(PLACE, &written(5)).unwrap());
        sets.next(PLACE);
        let e = sets.answered(PLACE, &written(6)).unwrap_err().to_string();
        assert!(e.contains("revision 6; 6 was answered before"), "{e}");
    }

    #[test]
    fn a_value_that_was_not_set_ends_the_run() {
        let mut gets = operations(&load("get"), "/d");
        for wrong in [Answer::Value { token: 1, value: b"no" }, Answer::Mismatch, written(3)] {
            gets.next(PLACE);
            assert!(gets.answered(PLACE, &wrong).is_err(), "{wrong:?}");
        }
        let Operation::Get { path } = gets.next(PLACE) else { panic!("a read") };
        let number: usize = std::str::from_utf8(&path[3..]).unwrap().parse().unwrap();
        let held = value(number, 128);
        assert!(gets.answered(PLACE, &Answer::Value { token: 1, value: &held }).unwrap());
    }

    /// What is asserted of the revisions takes for granted that this share is exact.
    #[test]
    fn one_of_ten_writes() {
        let mut mixed = operations(&load("mixed"), "/d");
        let writes = (0..1000).filter(|_| matches!(mixed.next(PLACE), Operation::Set { .. })).count();
        assert_eq!(writes, 100);
    }

    /// An attempt that came too late is no operation; its place has to read before the next.
    #[test]
    fn a_compare_and_set_is_tried_until_it_succeeds() {
        let mut hot = operations(&load("compare-and-set"), "/d");
        let held = value(0, 128);
        for place in [PLACE, OTHER] {
            assert!(matches!(hot.next(place), Operation::Get { .. }));
            assert!(!hot.answered(place, &Answer::Value { token: 4, value: &held }).unwrap());
        }
        assert!(matches!(hot.next(PLACE), Operation::CompareAndSet { token: 4, .. }));
        assert!(hot.answered(PLACE, &written(5)).unwrap());
        assert!(matches!(hot.next(OTHER), Operation::CompareAndSet { token: 4, .. }));
        assert!(!hot.answered(OTHER, &Answer::Mismatch).unwrap());
        assert!(matches!(hot.next(OTHER), Operation::Get { .. }));
        assert_eq!(hot.mismatches(), 1);
        // One that succeeds although the file had changed.
        hot.next(PLACE);
        assert!(hot.answered(PLACE, &written(5)).is_err());
    }

    #[test]
    fn values_differ_and_have_their_size() {
        let all: std::collections::BTreeSet<_> = (0..1000).map(|number| value(number, 129)).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|value| value.len() == 129));
    }
}
