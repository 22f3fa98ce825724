//! Writers that keep a server busy until it dies, and know afterwards what it has promised.
//!
//! Each writer pipelines mutations that name themselves: the round, the writer, and their number in its sequence. One
//! connection's mutations are applied in their order, so whatever the moment of a crash, what is found of a writer has
//! to be the beginning of its sequence, at least as long as what was acknowledged, each with just its value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use doozer::wire::Request;

use super::wire::*;
use super::{Random, eventually};

/// Mutations that a writer has outstanding at a time, at most.
const WINDOW: usize = 64;

/// What a writer was told: for each of its mutations in order, the revision, where the answer tells one.
type Told = Vec<Option<i64>>;

/// Who wrote: the round and the number of the writer.
type Writer = (usize, usize);

/// A running load.
pub struct Load {
    round: usize,
    writers: Vec<JoinHandle<Told>>,
    acknowledged: std::sync::Arc<AtomicUsize>,
}

impl Load {
    /// Starts so many writers.
    pub fn start(addr: SocketAddr, round: usize, writers: usize) -> Load {
        let acknowledged = std::sync::Arc::new(AtomicUsize::new(0));
        let writers = (0..writers)
            .map(|writer| {
                let acknowledged = std::sync::Arc::clone(&acknowledged);
                std::thread::spawn(move || write(addr, (round, writer), &acknowledged))
            })
            .collect();
        Load { round, writers, acknowledged }
    }

    /// Waits until so many mutations of all writers are acknowledged.
    pub fn reach(&self, count: usize) {
        eventually("the load gets on", || (self.acknowledged.load(Ordering::Relaxed) >= count).then_some(()));
    }

    /// What was acknowledged, once the server is gone.
    pub fn join(self) -> BTreeMap<Writer, Told> {
        let round = self.round;
        (0..).zip(self.writers).map(|(n, writer)| ((round, n), writer.join().unwrap())).collect()
    }
}

/// A writer's mutation of this number: the path, and the value unless it deletes.
fn mutation((round, writer): Writer, number: usize) -> (String, Option<Vec<u8>>) {
    let mut random = Random((round * 1_000 + writer) as u64 * 1_000_003 + number as u64);
    if number % 11 == 7 {
        return (format!("/none/{round}/{writer}/{number}"), None);
    }
    let len = match random.below(40) {
        0 => 100_000,
        n if n < 10 => 0,
        _ => random.below(3_000),
    };
    let mut value = format!("{round} {writer} {number} ").into_bytes();
    value.extend(random.bytes(len));
    (format!("/load/{writer}/{}", random.below(50)), Some(value))
}

fn write(addr: SocketAddr, writer: Writer, acknowledged: &AtomicUsize) -> Told {
    let mut c = Client::connect(addr);
    let mut told = Vec::new();
    let mut sent = 0;
    loop {
        let mut bytes = Vec::new();
        while sent < told.len() + WINDOW {
            let (path, value) = mutation(writer, sent);
            let request = match &value {
                Some(value) => set(&path, -1, value),
                None => del(&path, 0),
            };
            Request { tag: i32::try_from(sent).ok(), ..request }.encode(&mut bytes);
            sent += 1;
        }
        if !c.try_raw(&bytes) {
            // What was acknowledged before may still be on its way to us.
            while let Some(reply) = c.try_next() {
                told.push(reply.rev);
            }
            return told;
        }
        for _ in 0..WINDOW / 2 {
            let Some(reply) = c.try_next() else { return told };
            assert_eq!(reply.tag, i32::try_from(told.len()).ok(), "answered in order: {reply}");
            assert_eq!(reply.err_code, None, "{reply}");
            told.push(reply.rev);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What must be in the history, over all rounds.
#[derive(Default)]
pub struct Ledger {
    told: BTreeMap<Writer, Told>,
    /// How many mutations of each writer were found.
    found: BTreeMap<Writer, usize>,
    /// The last revision that was checked.
    pub checked: i64,
    /// The last event of each path.
    files: BTreeMap<String, Option<(i64, Vec<u8>)>>,
}

impl Ledger {
    /// Adds what a round has acknowledged.
    pub fn add(&mut self, told: BTreeMap<Writer, Told>) {
        self.told.extend(told);
    }

    /// Forgets what was checked: the next check begins with the first revision.
    pub fn again(&mut self) {
        (self.checked, self.found, self.files) = Default::default();
    }

    /// Compares the history since the last check, then the files, with what was acknowledged.
    #[track_caller]
    pub fn check(&mut self, c: &mut Client) {
        let now = c.rev();
        assert!(now >= self.checked, "the revision went back from {} to {now}", self.checked);
        let from = self.checked + 1;
        let mut next = from;
        while next <= now {
            let until = now.min(next + 499);
            let mut bytes = Vec::new();
            (next..=until).for_each(|rev| wait("/**", rev).encode(&mut bytes));
            c.raw(&bytes);
            for rev in next..=until {
                let event = c.recv();
                assert_eq!(event.rev, Some(rev), "a gap in the history: {event}");
                self.event(&event);
            }
            next = until + 1;
        }
        self.checked = now;
        for (writer, told) in &self.told {
            let found = self.found.get(writer).copied().unwrap_or(0);
            assert!(found >= told.len(), "writer {writer:?}: {} were acknowledged, {found} are there", told.len());
        }
        for (path, last) in &self.files {
            let said = c.call(&get(path));
            match last {
                Some((rev, value)) => {
                    assert!(said.rev == Some(*rev) && said.value.as_ref() == Some(value), "{path} at {rev}: {said}");
                }
                None => assert_eq!(said.to_string(), "rev=0 value=\"\"", "{path}"),
            }
        }
    }

    fn event(&mut self, event: &Reply) {
        let path = event.path();
        let rev = event.rev.unwrap();
        if path.starts_with("/ctl/") {
            return;
        }
        let names = match event.flags {
            Some(4) => String::from_utf8_lossy(event.value.as_ref().unwrap()).into_owned(),
            Some(8) => path.trim_start_matches("/none/").replace('/', " "),
            _ => panic!("nobody wrote this: {event}"),
        };
        let mut names = names.split(' ').map(|word| word.parse::<usize>());
        let mut name = || names.next().and_then(Result::ok).unwrap_or_else(|| panic!("nobody wrote this: {event}"));
        let (writer, number) = ((name(), name()), name());
        let found = self.found.entry(writer).or_default();
        assert_eq!(number, *found, "a mutation of {writer:?} is missing or out of order: {event}");
        *found += 1;
        let (expected, value) = mutation(writer, number);
        assert_eq!(path, expected);
        let written = event.flags.filter(|flags| *flags == 4).and(event.value.clone());
        assert!(written == value, "not the value that was written: {event}");
        let told = self.told.get(&writer).and_then(|told| told.get(number)).copied();
        assert!(matches!(told, None | Some(None)) || told == Some(Some(rev)), "told {told:?}: {event}");
        self.files.insert(path, value.map(|value| (rev, value)));
    }
}
