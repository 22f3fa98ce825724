//! Servers on a disk that is watched, and clients that note what they were told, and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use doozer::limits::VALUE_MAX;
use doozer::log::{self, Identity};
use tempfile::TempDir;

use super::check::{Known, Value};
use super::common::cluster::dying_with_us;
use super::common::process::{Server, Setup, temp_dir};
use super::common::wire::*;
use super::common::{LIMIT, Random};
use super::fuse::{DATA, Disk, Mounted};
use super::record::*;

/// Revisions that stay readable: few, so that snapshots are small.
pub const READABLE: u64 = 400;
/// Mutations that a writer has outstanding, at most.
const WINDOW: usize = 8;
/// How far the writers may be ahead of the one who watches, in revisions: less than what stays readable.
const AHEAD: usize = 200;
const WRITERS: usize = 3;

/// A server's life on one disk, again and again.
pub struct Run {
    mounted: Option<Mounted>,
    setup: Setup,
    notes: Arc<Notes>,
    round: usize,
    seed: u64,
    /// When each boot that came up began and did so, and as whom.
    boots: Vec<(usize, usize, Identity)>,
    home: TempDir,
}

/// What clients note.
struct Notes {
    disk: Disk,
    noted: Mutex<Noted>,
    changed: Condvar,
}

#[derive(Default)]
struct Noted {
    known: Known,
    /// For each that was acknowledged its revision, and who it was.
    told: Vec<(i64, Name)>,
    sent: BTreeMap<Name, Value>,
    /// Somebody watches all that happens.
    watching: bool,
}

/// The round, the writer, and the number in its sequence.
type Name = (usize, usize, usize);

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap()
    }

    /// Notes the event of a revision.
    fn note(&self, rev: i64, event: &Reply) {
        assert_eq!(event.rev, Some(rev), "a gap in the history: {event}");
        let value = event.flags.filter(|flags| *flags == 4).and(event.value.as_deref()).map(Value::of);
        self.noted().known.history.push((event.path(), value));
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, until: impl Fn(&Noted) -> bool) {
        let (noted, timeout) = self.changed.wait_timeout_while(self.noted(), LIMIT, |noted| !until(noted)).unwrap();
        drop(noted);
        assert!(!timeout.timed_out(), "not within {LIMIT:?}: {what}");
    }
}

/// A load that is under way.
pub struct Load {
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Run {
    /// On a disk that holds these files, with what is known of the history up to there.
    pub fn new(before: Option<Files>, history: Known, direct: bool, seed: u64) -> Run {
        let home = temp_dir();
        let mounted = Disk::mount(home.path(), before, direct, seed).expect("it could be mounted before");
        let disk = mounted.disk().clone();
        let noted = Noted { known: Known { readable: READABLE, ..history }, ..Noted::default() };
        let notes = Arc::new(Notes { disk, noted: Mutex::new(noted), changed: Condvar::new() });
        let setup = Setup::at(home.path().join(DATA)).flags(["-hist", &READABLE.to_string()]).run_by(dying_with_us());
        Run { mounted: Some(mounted), setup, notes, round: 0, seed, boots: Vec::new(), home }
    }

    pub fn disk(&self) -> &Disk {
        &self.notes.disk
    }

    /// Starts a server that takes connections.
    pub fn start(&mut self) -> Server {
        self.round += 1;
        let began = self.disk().position();
        let server = self.setup.start();
        let identity = &self.disk().files()[log::name::IDENTITY];
        let identity = Identity::decode(&identity.read(0, index(identity.size))).unwrap();
        self.boots.push((began, self.disk().position(), identity));
        server
    }

    /// Starts a server, and kills it before it has done so many things to the disk, or soon after.
    pub fn start_and_kill(&mut self, events: usize) {
        let began = self.disk().position();
        let server = self.setup.spawn();
        self.disk().reach(began + events);
        server.kill();
    }

    /// Starts writers, of small values and now and then one of the largest size, and one who watches all that happens.
    /// `large` is how many of a hundred.
    pub fn load(&self, addr: SocketAddr, large: usize) -> Load {
        self.notes.noted().watching = true;
        let notes = Arc::clone(&self.notes);
        let mut threads = vec![std::thread::spawn(move || watch(&notes, addr))];
        for writer in 0..WRITERS {
            let (notes, seed, round) = (Arc::clone(&self.notes), self.seed, self.round);
            threads.push(std::thread::spawn(move || write(&notes, addr, seed, (round, writer), large)));
        }
        Load { threads }
    }

    /// Waits until so many mutations were acknowledged, in all rounds.
    pub fn reach(&self, count: usize) {
        self.notes.wait("the load gets on", |noted| noted.told.len() >= count);
    }

    pub fn acknowledged(&self) -> usize {
        self.notes.noted().told.len()
    }

    /// Waits until the disk shows something.
    pub fn until(&self, what: &str, shows: impl Fn(&Files) -> bool) {
        self.notes.wait(what, |_| shows(&self.disk().files()));
    }

    /// Ends it all: what came to the disk, and what is known.
    pub fn end(mut self) -> (Record, Known) {
        // Once more, for what nobody was told.
        let server = self.start();
        let mut c = server.connect();
        let last = c.rev();
        let seen = self.notes.noted().known.history.len() as i64;
        for rev in seen + 1..=last {
            let event = c.call(&wait("/**", rev));
            self.notes.note(rev, &event);
        }
        server.stop();
        let record = self.mounted.take().expect("until the end").unmount();
        let mut noted = self.notes.noted();
        verify(&noted);
        let mut known = std::mem::take(&mut noted.known);
        let boots = self.boots.iter().map(|(began, up, identity)| (first_act(&record, *began, *up), identity.clone()));
        known.boots.extend(boots);
        drop(noted);
        drop(self.home);
        (record, known)
    }
}

impl Load {
    /// Waits until the server is gone for all.
    pub fn join(self) {
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// When a boot that began and came up at these moments first wrote to its log as who it is: until then, its epoch is nobody's.
fn first_act(record: &Record, began: usize, up: usize) -> usize {
    let begins = |at: &usize| !record.events[*at].ends;
    let op = |at: &usize| record.op(record.events[*at].op);
    let named = |at: &usize| matches!(op(at), Op::Rename { to, .. } if to == log::name::IDENTITY);
    let identity = (began..up).filter(begins).filter(named).last().expect("it writes down who it is");
    let acts = |at: &usize| matches!(op(at), Op::Write { role: Role::Log, .. });
    (identity..record.events.len()).filter(begins).find(acts).unwrap_or(record.events.len())
}

fn value((round, writer, number): Name, seed: u64, large: usize) -> Vec<u8> {
    let mut random = Random(seed ^ (((round * 100 + writer) * 1_000_000 + number) as u64));
    let mut value = format!("{round} {writer} {number} ").into_bytes();
    let length = match random.below(100) {
        n if n < large => VALUE_MAX - 64,
        n if n < 80 => random.below(300),
        _ => random.below(9_000),
    };
    value.extend(random.bytes(length));
    value
}

fn path((_, writer, number): Name) -> String {
    format!("/crash/{writer}/{}", number % 17)
}

/// Writes until the server is gone.
fn write(notes: &Notes, addr: SocketAddr, seed: u64, (round, writer): (usize, usize), large: usize) {
    let mut c = Client::connect(addr);
    let mut sent = BTreeMap::new();
    for told in 0.. {
        while sent.len() < WINDOW {
            let name = (round, writer, told + sent.len());
            let value = value(name, seed, large);
            // Noted before it is sent, for the one who watches may see it first.
            notes.noted().sent.insert(name, Value::of(&value));
            sent.insert(name, ());
            if !c.try_raw(&framed(&set(&path(name), -1, &value))) {
                break;
            }
        }
        let Some(reply) = c.try_next() else { return };
        // It was acknowledged before this moment.
        let at = notes.disk.position();
        let rev = reply.revision();
        let mut noted = notes.noted();
        noted.known.acknowledged.push((at, rev));
        noted.told.push((rev, (round, writer, told)));
        drop(noted);
        notes.changed.notify_all();
        sent.remove(&(round, writer, told));
        notes.wait("the one who watches gets on", |noted| {
            !noted.watching || noted.known.history.len() + AHEAD > index(rev.unsigned_abs())
        });
    }
}

/// Watches all that happens, from what was seen last on, until the server is gone.
fn watch(notes: &Notes, addr: SocketAddr) {
    let mut c = Client::connect(addr);
    let seen = notes.noted().known.history.len() as i64;
    (1..=WINDOW as i64).for_each(|n| c.send(&wait("/**", seen + n)));
    for rev in seen + 1.. {
        let Some(event) = c.try_next() else { break };
        notes.note(rev, &event);
        if !c.try_raw(&framed(&wait("/**", rev + WINDOW as i64))) {
            break;
        }
    }
    notes.noted().watching = false;
    notes.changed.notify_all();
}

/// What was told to the writers is in the history, and what is in the history was sent by one of them, once, in their order.
fn verify(noted: &Noted) {
    let history = &noted.known.history;
    for (rev, name) in &noted.told {
        let made = &history[index(rev.unsigned_abs()) - 1];
        assert!(made.0 == path(*name) && made.1.as_ref() == Some(&noted.sent[name]), "told {name:?} at {rev}: {made:?}");
    }
    let mut next: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for made in history.iter().filter(|(path, _)| path.starts_with("/crash/")) {
        let words = made.1.iter().flat_map(|value| value.head.split(|byte| *byte == b' '));
        let numbers: Vec<usize> =
            words.map_while(|word| std::str::from_utf8(word).ok()?.parse().ok()).take(3).collect();
        let [round, writer, number] = numbers[..] else { panic!("nobody wrote this: {made:?}") };
        let due = next.entry((round, writer)).or_default();
        assert_eq!(number, *due, "a mutation is missing or out of order: {made:?}");
        *due += 1;
        assert_eq!(made.1.as_ref(), noted.sent.get(&(round, writer, number)), "nobody sent this: {made:?}");
    }
}
