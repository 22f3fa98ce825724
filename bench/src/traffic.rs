//! The requests of Doozer's protocol that a pool sends, and what their answers have to be.

use std::sync::atomic::{AtomicU64, Ordering};

use doozer::wire::frame::{self, Split};
use doozer::wire::{Request, Response, Verb};

use crate::client::checked;
use crate::failure::{Context, Failure};
use crate::pool::{Answer, Place, Traffic};

/// Bytes of every value.
pub const VALUE: usize = 128;

/// Where a frame has its tag, when that is the slot: behind the length and the key of field 1.
const TAG_AT: usize = frame::HEADER + 1;

/// A sequence of numbers that looks random (SplitMix64, by Sebastiano Vigna).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below `bound`, which is far below 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

/// The value of the file with this number: nothing that can be compressed, or shared with another file.
pub fn value(number: u64) -> [u8; VALUE] {
    let mut random = Random::new(number);
    let mut value = [0; VALUE];
    for chunk in value.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    value
}

/// Requests that are sent again and again, made once.
#[derive(Debug)]
pub struct Keys {
    sets: Vec<Vec<u8>>,
    gets: Vec<Vec<u8>>,
}

impl Keys {
    /// For `count` files `/bench/keys/NNNNNN`.
    pub fn new(count: usize) -> Keys {
        let mut keys = Keys { sets: Vec::new(), gets: Vec::new() };
        for number in 0..count {
            let path = format!("/bench/keys/{number:06}");
            let value = value(number as u64);
            let get = Request { tag: Some(0), path: Some(path.as_bytes()), ..Request::new(Verb::Get) };
            let set = Request { value: Some(&value), rev: Some(-1), verb: Some(Verb::Set.code()), ..get };
            keys.sets.push(template(&set));
            keys.gets.push(template(&get));
        }
        keys
    }
}

/// A frame whose tag is yet to be put in.
fn template(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    request.encode(&mut frame);
    assert_eq!(frame[TAG_AT - 1..=TAG_AT], [0x08, 0], "the tag comes first, in one byte");
    frame
}

fn put(output: &mut Vec<u8>, template: &[u8], slot: u8) {
    let at = output.len();
    output.extend_from_slice(template);
    output[at + TAG_AT] = slot;
}

/// The answer at the front of `input`, which is no error.
fn front(input: &[u8]) -> Result<Option<(Response<'_>, Answer)>, Failure> {
    let Split::Whole { body, consumed } = frame::split(input).context("from the server")? else { return Ok(None) };
    let response = checked(Response::decode(&input[body]).context("from the server")?)?;
    let slot = response.tag.and_then(|tag| u8::try_from(tag).ok());
    let slot = slot.ok_or_else(|| Failure::new(format!("an answer to nothing that was asked: {response:?}")))?;
    Ok(Some((response, Answer { slot, consumed })))
}

/// The answer to a SET at the front of `input`.
fn front_of_set(input: &[u8]) -> Result<Option<Answer>, Failure> {
    let Some((response, answer)) = front(input)? else { return Ok(None) };
    if response.rev.is_none_or(|rev| rev <= 0) {
        return Err(Failure::new(format!("an answer to SET without a revision: {response:?}")));
    }
    Ok(Some(answer))
}

/// Overwrites of random keys.
#[derive(Debug)]
pub struct Sets<'a> {
    keys: &'a Keys,
    left: u64,
    random: Random,
    /// Those that are answered; others may look on.
    done: &'a AtomicU64,
}

impl<'a> Sets<'a> {
    /// `count` of them; `done` counts those that are answered.
    pub fn new(keys: &'a Keys, count: u64, done: &'a AtomicU64) -> Sets<'a> {
        Sets { keys, left: count, random: Random::new(count), done }
    }
}

impl Traffic for Sets<'_> {
    fn request(&mut self, place: Place, output: &mut Vec<u8>) -> bool {
        let more = self.left > 0;
        if more {
            self.left -= 1;
            put(output, &self.keys.sets[self.random.below(self.keys.sets.len())], place.slot);
        }
        more
    }

    fn answer(&mut self, _: usize, input: &[u8]) -> Result<Option<Answer>, Failure> {
        let answer = front_of_set(input)?;
        if answer.is_some() {
            // There is one writer.
            self.done.store(self.done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// Reads of random keys, whose values have to be those that were set.
#[derive(Debug)]
pub struct Gets<'a> {
    keys: &'a Keys,
    left: u64,
    random: Random,
    /// Which key each outstanding request asks for, by connection and slot.
    asked: Vec<[u32; 128]>,
    values: Vec<[u8; VALUE]>,
}

impl<'a> Gets<'a> {
    /// `count` of them.
    pub fn new(keys: &'a Keys, count: u64) -> Gets<'a> {
        let values = (0..keys.gets.len()).map(|number| value(number as u64)).collect();
        Gets { keys, left: count, random: Random::new(count), asked: Vec::new(), values }
    }
}

impl Traffic for Gets<'_> {
    fn request(&mut self, place: Place, output: &mut Vec<u8>) -> bool {
        let more = self.left > 0;
        if more {
            self.left -= 1;
            let key = self.random.below(self.keys.gets.len());
            if self.asked.len() <= place.conn {
                self.asked.resize(place.conn + 1, [0; 128]);
            }
            self.asked[place.conn][usize::from(place.slot)] = u32::try_from(key).unwrap_or(u32::MAX);
            put(output, &self.keys.gets[key], place.slot);
        }
        more
    }

    fn answer(&mut self, conn: usize, input: &[u8]) -> Result<Option<Answer>, Failure> {
        let Some((response, answer)) = front(input)? else { return Ok(None) };
        let key = self.asked.get(conn).and_then(|asked| asked.get(usize::from(answer.slot)));
        let value = key.and_then(|&key| self.values.get(usize::try_from(key).ok()?));
        if value.is_none() || response.value != value.map(|v| &v[..]) || response.rev.is_none_or(|rev| rev <= 0) {
            return Err(Failure::new(format!("an answer to GET that is not what was set: {response:?}")));
        }
        Ok(Some(answer))
    }
}

/// Where the files of a large tree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many files.
    pub files: u64,
    /// How many a directory holds; all if there is one directory only.
    pub per_directory: u64,
}

impl Layout {
    /// Directories that hold files.
    pub fn directories(self) -> u64 {
        self.files.div_ceil(self.per_directory)
    }

    /// Path of a file.
    pub fn path(self, number: u64) -> String {
        format!("{}/{:06}", self.directory(number / self.per_directory), number)
    }

    /// Path of a directory.
    pub fn directory(self, number: u64) -> String {
        format!("/bench/{number:03}")
    }
}

/// Makes the files of a layout; none may be there yet.
#[derive(Debug)]
pub struct Creates {
    layout: Layout,
    next: u64,
}

impl Creates {
    /// All files of the layout.
    pub fn new(layout: Layout) -> Creates {
        Creates { layout, next: 0 }
    }
}

impl Traffic for Creates {
    fn request(&mut self, place: Place, output: &mut Vec<u8>) -> bool {
        let more = self.next < self.layout.files;
        if more {
            let (path, value) = (self.layout.path(self.next), value(self.next));
            self.next += 1;
            let tag = Some(i32::from(place.slot));
            Request { tag, path: Some(path.as_bytes()), value: Some(&value), rev: Some(0), ..Request::new(Verb::Set) }
                .encode(output);
        }
        more
    }

    fn answer(&mut self, _: usize, input: &[u8]) -> Result<Option<Answer>, Failure> {
        front_of_set(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::fake::Fake;
    use crate::pool::Pool;

    #[test]
    fn all_is_asked_answered_and_counted() {
        let fake = Fake::start();
        let keys = Keys::new(100);
        let done = AtomicU64::new(0);
        let mut pool = Pool::connect(fake.addr(), 8, 16).unwrap();
        // Each key has to be there before it is read.
        for (sets, gets) in [(5000, 3000), (7, 3)] {
            done.store(0, Ordering::Relaxed);
            let before = Client::connect(fake.addr()).unwrap().revision().unwrap();
            let driven = pool.drive(&mut Sets::new(&keys, sets, &done)).unwrap();
            assert_eq!((driven.count, driven.latency.len(), done.load(Ordering::Relaxed)), (sets, sets, sets));
            let after = Client::connect(fake.addr()).unwrap().revision().unwrap();
            assert_eq!(after, before + i64::try_from(sets).unwrap());
            assert_eq!(pool.drive(&mut Gets::new(&keys, gets)).unwrap().count, gets);
        }
    }

    /// A server that loses a file must not get a figure for it.
    #[test]
    fn a_value_that_was_not_set_ends_the_run() {
        let fake = Fake::start();
        let mut pool = Pool::connect(fake.addr(), 2, 4).unwrap();
        let e = pool.drive(&mut Gets::new(&Keys::new(10), 100)).unwrap_err().to_string();
        assert!(e.contains("not what was set"), "{e}");
    }

    /// Files that are there already are not created: the load would be smaller than it says.
    #[test]
    fn creating_twice_ends_the_run() {
        let fake = Fake::start();
        let layout = Layout { files: 2500, per_directory: 1000 };
        let mut pool = Pool::connect(fake.addr(), 4, 16).unwrap();
        assert_eq!(pool.drive(&mut Creates::new(layout)).unwrap().count, 2500);
        let e = pool.drive(&mut Creates::new(layout)).unwrap_err().to_string();
        assert!(e.contains("error 5"), "{e}");
    }

    /// A full socket must not lose or reorder what is to be sent: 127 large requests outstanding on one connection.
    #[test]
    fn a_full_socket_is_waited_for() {
        struct Large(u64);
        impl Traffic for Large {
            fn request(&mut self, place: Place, output: &mut Vec<u8>) -> bool {
                let more = self.0 > 0;
                self.0 -= u64::from(more);
                if more {
                    let value = vec![place.slot; 100_000];
                    let tag = Some(i32::from(place.slot));
                    Request {
                        tag,
                        path: Some(b"/large"),
                        value: Some(&value),
                        rev: Some(-1),
                        ..Request::new(Verb::Set)
                    }
                    .encode(output);
                }
                more
            }
            fn answer(&mut self, _: usize, input: &[u8]) -> Result<Option<Answer>, Failure> {
                front_of_set(input)
            }
        }
        let fake = Fake::start();
        let mut pool = Pool::connect(fake.addr(), 1, 127).unwrap();
        assert_eq!(pool.drive(&mut Large(300)).unwrap().count, 300);
    }

    #[test]
    fn a_layout_names_each_file_once() {
        let layout = Layout { files: 1_000_000, per_directory: 1000 };
        assert_eq!(layout.directories(), 1000);
        assert_eq!(layout.path(0), "/bench/000/000000");
        assert_eq!(layout.path(999_999), "/bench/999/999999");
        let flat = Layout { files: 1_000_000, per_directory: 1_000_000 };
        assert_eq!((flat.directories(), flat.path(123_456)), (1, "/bench/000/123456".to_string()));
    }

    #[test]
    fn values_differ() {
        let all: std::collections::BTreeSet<_> = (0..1000).map(value).collect();
        assert_eq!(all.len(), 1000);
    }
}
