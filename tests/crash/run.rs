//! Servers on a disk that is watched, and clients that note what they were told, and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use doozer::limits::VALUE_MAX;
use doozer::log::{self, Identity};
use rustix::process::Signal;
use tempfile::TempDir;

use super::check::{Known, Value};
use super::common::cluster::dying_with_us;
use super::common::process::{Server, Setup, temp_dir};
use super::common::wire::*;
use super::common::{LIMIT, Random, eventually};
use super::fuse::{Disk, Hold, Mounted};
use super::record::*;

/// Revisions that stay readable: few, so that snapshots are small.
pub const READABLE: u64 = 400;
/// Mutations that a writer has outstanding, at most.
const WINDOW: usize = 8;
/// How far the writers may be ahead of the one who watches, in revisions: less than what stays readable.
const AHEAD: usize = 200;
const WRITERS: usize = 3;
/// Revisions that are asked for before the first of them is there.
const WATCHED: i64 = 8;

/// A server's life on one disk, again and again.
pub struct Run {
    mounted: Option<Mounted>,
    setup: Setup,
    notes: Arc<Notes>,
    round: usize,
    seed: u64,
    /// Moments of which there are to be images.
    pub windows: Vec<Range<usize>>,
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
    /// How many revisions there were before.
    before: usize,
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

    /// The first revision that was not seen.
    fn next(&self) -> i64 {
        i64::try_from(self.noted().known.history.len()).expect("a small number") + 1
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
    /// On a disk that holds these files, with what is known of what came before.
    pub fn new(before: Option<Files>, known: Known, direct: bool, seed: u64) -> Run {
        let home = temp_dir();
        let mounted = Disk::mount(home.path(), before, direct, seed).expect("it could be mounted before");
        let disk = mounted.disk().clone();
        let before = known.history.len();
        let noted = Noted { known: Known { readable: READABLE, ..known }, before, ..Noted::default() };
        let notes = Arc::new(Notes { disk, noted: Mutex::new(noted), changed: Condvar::new() });
        // Files of the usual size: what is written while one cannot be made finds room.
        let flags = ["-hist", &READABLE.to_string(), "--segment", "64"];
        let setup = Setup::at(home.path().join(DATA.join("/"))).flags(flags).run_by(dying_with_us());
        Run { mounted: Some(mounted), setup, notes, round: 0, seed, windows: Vec::new(), home }
    }

    pub fn disk(&self) -> &Disk {
        &self.notes.disk
    }

    /// Starts a server that takes connections.
    pub fn start(&mut self) -> Server {
        self.round += 1;
        self.setup.start()
    }

    /// Starts a server, and kills it before anything ends that it does to the disk after so many events; or when it is up.
    pub fn start_and_kill(&mut self, events: usize) {
        let _held = self.disk().hold(Hold::After(self.disk().position() + events));
        let server = self.setup.spawn();
        self.disk().wait_held(|| server.stderr().contains("say hello"));
        self.kill_held(server);
    }

    /// Kills a server before anything ends that is held.
    pub fn kill_held(&self, server: Server) {
        server.signal(Signal::KILL);
        self.disk().release();
        server.exited();
    }

    /// Starts a server, as [`Run::start`]; of the moments until it is up there are to be images in any case.
    pub fn start_closely_watched(&mut self) -> Server {
        let began = self.disk().position();
        let server = self.start();
        self.windows.push(began..self.disk().position());
        server
    }

    /// Starts writers, of small values and now and then one of the largest size, and one who watches all that happens.
    /// `large` is how many of a hundred.
    pub fn load(&self, addr: SocketAddr, large: usize) -> Load {
        self.notes.noted().watching = true;
        let (notes, c) = (Arc::clone(&self.notes), Client::connect(addr));
        let mut threads = vec![std::thread::spawn(move || watch(&notes, c))];
        // All are connected before the first gets on, for then the server may be killed.
        let clients: Vec<Client> = (0..WRITERS).map(|_| Client::connect(addr)).collect();
        for (writer, c) in clients.into_iter().enumerate() {
            let (notes, seed, round) = (Arc::clone(&self.notes), self.seed, self.round);
            threads.push(std::thread::spawn(move || write(&notes, c, seed, (round, writer), large)));
        }
        Load { threads }
    }

    /// Waits until so many mutations were acknowledged, in all rounds.
    pub fn reach(&self, count: usize) {
        self.notes.wait("the load gets on", |noted| noted.told.len() >= count);
    }

    /// Waits until so many more were.
    pub fn reach_more(&self, count: usize) {
        let before = self.notes.noted().told.len();
        self.reach(before + count);
    }

    /// Waits until the disk shows something. The disk may change without an event of the server.
    pub fn until(&self, what: &str, shows: impl Fn(&Files) -> bool) {
        eventually(what, || shows(&self.disk().files()).then_some(()));
    }

    /// Ends it all: what came to the disk, and what is known.
    pub fn end(mut self) -> (Record, Known) {
        // Once more, for what nobody was told.
        let server = self.start();
        let mut c = server.connect();
        let last = c.rev();
        for rev in self.notes.next()..=last {
            let event = c.call(&wait("/**", rev));
            self.notes.note(rev, &event);
        }
        server.stop();
        let record = self.mounted.take().expect("until the end").unmount();
        let mut noted = self.notes.noted();
        verify(&noted);
        let mut known = std::mem::take(&mut noted.known);
        known.boots.extend(boots(&record));
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

/// Who the node was, by what it wrote down of itself, each from the moment that it first wrote to its log as such: until then,
/// nobody has heard of its epoch.
fn boots(record: &Record) -> Vec<(usize, Identity)> {
    let mut written: BTreeMap<Ino, Identity> = BTreeMap::new();
    let (mut boots, mut file, mut is) = (Vec::new(), None, None);
    for (event, at) in record.events.iter().zip(0..).filter(|(event, _)| !event.ends) {
        match record.op(event.op) {
            // Zeros are of a recovery that is under way.
            Op::Write { role: Role::Log, pages, .. } if pages.iter().any(Option::is_some) => {
                boots.extend(is.take().map(|identity| (at, identity)));
            }
            Op::Write { ino, first: 0, pages, .. } => {
                let page = pages.first().and_then(Option::as_ref);
                written.extend(page.and_then(|page| Identity::decode(page).ok()).map(|identity| (*ino, identity)));
                // On a full disk, in its place.
                is = if file == Some(*ino) { written.get(ino).cloned() } else { is };
            }
            Op::Rename { to, ino, .. } if to == log::name::IDENTITY => {
                (file, is) = (Some(*ino), written.get(ino).cloned());
            }
            _ => {}
        }
    }
    boots
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
fn write(notes: &Notes, mut c: Client, seed: u64, (round, writer): (usize, usize), large: usize) {
    let mut sent = 0;
    for told in 0.. {
        while sent < told + WINDOW {
            let name = (round, writer, sent);
            let value = value(name, seed, large);
            // Noted before it is sent, for the one who watches may see it first.
            notes.noted().sent.insert(name, Value::of(&value));
            sent += 1;
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
        notes.wait("the one who watches gets on", |noted| {
            !noted.watching || noted.known.history.len() + AHEAD > index(rev.unsigned_abs())
        });
    }
}

/// Watches all that happens, from what was seen last on, until the server is gone.
fn watch(notes: &Notes, mut c: Client) {
    let mut asked = notes.next();
    for rev in notes.next().. {
        while asked < rev + WATCHED && c.try_raw(&framed(&wait("/**", asked))) {
            asked += 1;
        }
        let Some(event) = c.try_next() else { break };
        notes.note(rev, &event);
    }
    notes.noted().watching = false;
    notes.changed.notify_all();
}

/// What was told to the writers is in the history, and what is in the history was sent by one of them, once, in their order.
fn verify(noted: &Noted) {
    let history = &noted.known.history;
    for (rev, name) in &noted.told {
        let made = &history[index(rev.unsigned_abs()) - 1];
        assert!(
            made.0 == path(*name) && made.1.as_ref() == Some(&noted.sent[name]),
            "told {name:?} at {rev}: {made:?}"
        );
    }
    let mut next: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for made in history[noted.before..].iter().filter(|(path, _)| path.starts_with("/crash/")) {
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
