//! Power cuts of a real server, at any moment: it has to start on whatever they leave, with all that it has promised.
//!
//! A server lives on a file system of the tests' own (`fuse`), which writes down each operation with its beginning and its end
//! (`record`), under a load whose clients note what they are told and when (`run`). Afterwards its power is cut in thought, at
//! hundreds of moments, each with another part of what was not durable yet (`image`). What is left is recovered in this process, as
//! the server does it, and held against what was promised before that moment (`check`); on some of it servers are started, on
//! such a disk again, so that their recovery and their first steps are cut too.
//!
//! What is promised:
//! * the server starts, and finds no damage: a power cut is none;
//! * what was acknowledged is there, with its revision and value; the history is a beginning of what was seen by those who watched,
//!   and the files are those of its last revision;
//! * the node is who it was, and never uses an epoch twice.
//!
//! # What the simulator takes for granted
//! The simulator (`tests/sim`) runs the same replica, log and recovery, but has a shell of its own; each line here is what
//! it counts on, and what fails here if the real shell (`src/server`) does not do so.
//! * `Disk::end` of `Op::Append`: a write of the log is durable before the replica is told that it was written. Else an
//!   acknowledged revision is lost, or there is a hole before a later write; also where O_DIRECT is refused.
//! * `Disk::crash` of `Op::Append`: it leaves whole blocks of the one write that is under way, in any subset, and touches nothing
//!   else. Else a torn write looks like damage.
//! * `Op::Prepare`: a segment is under its name, whole and zeroed behind its preface, durably, before the first write to it; one that
//!   is used again is durably without its old name before its preface changes. Else there is a segment of another length, one
//!   without a preface or with that of another, or an acknowledged write is in a file without a name.
//! * `Op::Commit`: a snapshot is whole, and durable, when it has its name. Else a damaged one is found.
//! * `Op::Remove`: only then older snapshots and segments go. (The simulator removes them one after the other; of a disk any may be
//!   gone. Recovery bears that too.)
//! * `Op::Identity`, and `write` in `boot`: the identity is replaced as a whole, or, on a full disk, written over as one block, and is
//!   durable before its epoch is used. Else there is none, or a damaged one, or an epoch is used twice.
//! * `Disk::step`: the steps of recovery may be cut anywhere, and be carried out again. (That it makes durable what it has read, of
//!   a server that was killed, is hardly ever to be seen: the identity and the first write of the log do the same a moment later.)
//! * `Disk::crash` of what ends in `.tmp`: it may be there in any state.
//!
//! That a page of 4 KiB is written whole or not at all, and that a rename is one step, is taken for granted here too; the log
//! says so itself. What is not seen here is the life of a member among others (a snapshot that comes from the leader, data that is
//! set aside): it goes through the same functions of the shell.
//!
//! It takes FUSE, and the right to mount it; where that is not to be had the tests say so and pass. `DOOZER_CRASH_TIMES=20` makes
//! so many times as many images, `DOOZER_CRASH_SEED` draws the same moments again (of another life: a server is not
//! deterministic). An image that fails is kept, and said where.

#![cfg(feature = "server")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

mod check;
#[path = "../server/common/mod.rs"]
mod common;
mod fuse;
mod image;
mod record;
mod run;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use check::{Found, Known, check};
use common::Random;
use common::process::{temp_dir, text};
use common::wire::*;
use doozer::limits::VALUE_MAX;
use doozer::wire::ErrCode;
use fuse::Hold;
use image::{Image, Lie, Replay, moments};
use libtest_mimic::{Arguments, Failed, Trial};
use record::{Event, Op, PAGE, Record};
use run::Run;

/// Set when this process has a mount namespace of its own.
const INSIDE: &str = "DOOZER_TEST_IN_A_NAMESPACE";
/// So many times as many images as usual.
const TIMES: &str = "DOOZER_CRASH_TIMES";
/// What is left to chance.
const SEED: &str = "DOOZER_CRASH_SEED";

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list && std::env::var_os(INSIDE).is_none() {
        enter_namespace();
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            if can_mount() {
                test();
            }
            Ok::<(), Failed>(())
        })
    };
    let soak = |name: &str, test: fn()| trial(name, test).with_ignored_flag(true);
    let trials = vec![
        trial("a_power_cut_loses_a_write_or_stops_the_next_start", || examine(small(), 120, 5)),
        soak("a_power_cut_amid_segments_and_snapshots_loses_a_write_or_stops_the_next_start", || {
            examine(large(), 40, 3)
        }),
        trial("without_o_direct_a_power_cut_loses_a_write_or_stops_the_next_start", || examine(buffered(), 60, 4)),
        trial("a_directory_whose_making_was_killed_is_lost_with_all_that_is_acknowledged_later", || {
            a_directory_whose_making_was_killed_is_lost_with_all_that_is_acknowledged_later();
        }),
        soak("a_disk_that_lies_is_not_noticed", a_disk_that_lies_is_not_noticed),
        trial("a_stuck_disk_is_not_named_or_stops_reads", a_stuck_disk_is_not_named_or_stops_reads),
        trial("a_file_that_cannot_be_made_stops_the_server", a_file_that_cannot_be_made_stops_the_server),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// Goes on in a mount namespace of its own: nobody else sees what is mounted there, and all of it is gone with this process.
/// Where that is not permitted, goes on without.
fn enter_namespace() {
    for unshare in [["unshare", "-m"].as_slice(), &["unshare", "-r", "-m"]] {
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok_and(|status| status.success()) {
            let mut command = Command::new(unshare[0]);
            command
                .args(&unshare[1..])
                .arg("--")
                .arg(std::env::current_exe().unwrap())
                .args(std::env::args_os().skip(1));
            eprintln!("cannot go on in a namespace: {}", command.env(INSIDE, "1").exec());
        }
    }
}

/// Whether a file system of our own can be mounted here; says so if not.
fn can_mount() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let at = temp_dir();
        match fuse::Disk::mount(at.path(), None, true, 0) {
            Ok(mounted) => {
                mounted.unmount();
                true
            }
            Err(e) => {
                eprintln!(
                    "skipped: a file system of the test's own cannot be mounted here: {e} (it takes /dev/fuse and root)"
                );
                false
            }
        }
    })
}

/// The seed of this process, unless one is given.
fn seed() -> u64 {
    static DRAWN: OnceLock<u64> = OnceLock::new();
    *DRAWN.get_or_init(|| {
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        given.unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()))
    })
}

fn times() -> usize {
    std::env::var(TIMES).ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A life that was recorded.
struct Life {
    name: &'static str,
    direct: bool,
    record: Record,
    known: Known,
    /// Moments of which there are to be images in any case: also those in which a snapshot gets its name.
    windows: Vec<Range<usize>>,
}

impl Life {
    fn new(name: &'static str, direct: bool, live: fn(&mut Run, &mut Random)) -> Life {
        let mut run = Run::new(None, Known::default(), direct, seed());
        live(&mut run, &mut Random(seed()));
        let mut windows = std::mem::take(&mut run.windows);
        let (record, known) = run.end();
        let names = |event: &Event| matches!(record.op(event.op), Op::Rename { to, .. } if to.ends_with(".snap"));
        let named = record.events.iter().zip(0usize..).filter(|(event, _)| !event.ends && names(event));
        windows.extend(named.map(|(_, at)| at.saturating_sub(15)..(at + 15).min(record.events.len())));
        Life { name, direct, record, known, windows }
    }
}

/// A directory that is founded, and crashes of the process in all that a server does, also while it starts; little is written.
fn small() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| Life::new("small", true, many_crashes))
}

/// The same where the file system refuses O_DIRECT.
fn buffered() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| Life::new("buffered", false, many_crashes))
}

fn many_crashes(run: &mut Run, random: &mut Random) {
    // Where it makes the directories, where it is founded, and anywhere in its first segment.
    for events in [0, random.below(8), random.below(30), random.below(500)] {
        run.start_and_kill(events);
    }
    for round in 0..6 {
        run.disk().set_full(round == 4);
        let server = run.start();
        let load = run.load(server.addr(), 2);
        run.reach_more(30 + random.below(300));
        if round == 2 {
            server.stop();
        } else {
            server.kill();
        }
        load.join();
        run.start_and_kill(random.below(50));
        run.disk().set_full(false);
    }
}

/// So much is written that segments are made, used again and removed, and snapshots taken, each of them at least three times.
fn large() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| Life::new("large", true, many_segments))
}

fn many_segments(run: &mut Run, random: &mut Random) {
    let has = |end: &'static str, not: Vec<String>| {
        move |files: &record::Files| files.keys().any(|name| name.ends_with(end) && !not.contains(name))
    };
    let mut before = Vec::new();
    for _ in 0..2 {
        let server = run.start();
        let load = run.load(server.addr(), 12);
        run.until("a snapshot is begun", has(".snap.tmp", Vec::new()));
        // In the midst of it, or soon after.
        run.reach_more(random.below(60));
        server.kill();
        load.join();
        let server = run.start();
        let load = run.load(server.addr(), 12);
        run.until("there is a snapshot", has(".snap", before.clone()));
        before.extend(run.disk().files().into_keys());
        run.reach_more(50 + random.below(100));
        server.kill();
        load.join();
    }
    // A snapshot whose name is not durable, when the next server relies on it and removes the one before it.
    let server = run.start();
    let _held = run.disk().hold(Hold::Named(".snap"));
    let load = run.load(server.addr(), 12);
    run.disk().wait_held(|| false);
    run.kill_held(server);
    load.join();
    run.start_closely_watched().kill();
}

/// What was found in images, by what is of interest.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn count(&mut self, found: &Found) {
        let mut one = |what: &'static str, is: bool| *self.0.entry(what).or_default() += usize::from(is);
        one("images", true);
        one("new", found.rev == 0);
        one("torn", found.torn);
        one("with a snapshot", found.snapshot);
    }
}

/// An image that a server cannot go on from.
struct Failure {
    image: Image,
    why: String,
}

/// Makes images of a record, and checks each.
fn check_images(
    record: &Record,
    known: &Known,
    lie: Lie,
    moments: Vec<usize>,
    random: &mut Random,
) -> Result<Tally, Box<Failure>> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let (images, made) = mpsc::sync_channel::<Image>(workers);
    let (made, tally, failed) = (Mutex::new(made), Mutex::new(Tally::default()), OnceLock::new());
    let work = || {
        loop {
            let next = made.lock().unwrap().recv();
            let Ok(image) = next else { return };
            match check(image.files.as_ref(), known, image.at) {
                // The others are only taken, so that their maker comes to an end.
                _ if failed.get().is_some() => {}
                Ok(found) => tally.lock().unwrap().count(&found),
                Err(why) => _ = failed.set(Box::new(Failure { image, why })),
            }
        }
    };
    std::thread::scope(|scope| {
        (0..workers).for_each(|_| _ = scope.spawn(work));
        let mut replay = Replay::new(record, lie);
        for at in moments {
            replay.advance(at);
            images.send(replay.cut(random)).unwrap();
            if failed.get().is_some() {
                break;
            }
        }
        drop(images);
    });
    match failed.into_inner() {
        Some(failure) => Err(failure),
        None => Ok(tally.into_inner().unwrap()),
    }
}

/// Cuts the power of a life at many moments, and has servers start on some of what is left, whose power is cut again.
fn examine(life: &Life, count: usize, starts: usize) {
    let mut random = Random(seed() ^ count as u64);
    let mut at = moments(&life.record, count * times(), &mut random);
    at.extend(life.windows.iter().flat_map(|window| (0..16).map(|n| window.start + n * window.len() / 16)));
    at.sort_unstable();
    let tally = check_images(&life.record, &life.known, Lie::None, at, &mut random);
    let mut tally = tally.unwrap_or_else(|failure| report(life.name, &life.record, &failure));
    let mut again = Tally::default();
    let mut replay = Replay::new(&life.record, Lie::None);
    for at in moments(&life.record, starts * times(), &mut random) {
        replay.advance(at);
        let image = replay.cut(&mut random);
        let found = check(image.files.as_ref(), &life.known, at);
        let found = found.unwrap_or_else(|why| report(life.name, &life.record, &Failure { image: image.clone(), why }));
        tally.count(&found);
        let (record, known) = start_again(life, &image, &found);
        let moments = moments(&record, 8, &mut random);
        match check_images(&record, &known, Lie::None, moments, &mut random) {
            Ok(more) => more.0.into_iter().for_each(|(what, count)| *again.0.entry(what).or_default() += count),
            Err(failure) => report(&format!("{}, again after {:?} at {at}", life.name, image.luck), &record, &failure),
        }
    }
    let (events, revisions) = (life.record.events.len(), life.known.history.len());
    eprintln!(
        "{}, seed {}: {events} events, {revisions} revisions, {} boots: {:?}; after a start on {} of them, {:?}",
        life.name,
        seed(),
        life.known.boots.len(),
        tally.0,
        starts * times(),
        again.0
    );
}

/// Starts a server on what is left, which is killed and started again. What came to the disk, and what is known.
fn start_again(life: &Life, image: &Image, found: &Found) -> (Record, Known) {
    let known = Known {
        history: life.known.history[..usize::try_from(found.rev).unwrap()].to_vec(),
        acknowledged: vec![(0, life.known.acknowledged_at(image.at))],
        boots: life.known.boot_at(image.at).map(|identity| (0, identity.clone())).into_iter().collect(),
        readable: life.known.readable,
    };
    let mut run = Run::new(image.files.clone(), known, life.direct, seed());
    let server = run.start();
    let said = server.stderr();
    assert!(said.contains(&format!("recovered revision {}", found.rev)), "not {}: {said}", found.rev);
    assert_eq!(said.contains("never acknowledged"), found.torn, "{said}");
    assert!(!said.contains("damage"), "{said}");
    let load = run.load(server.addr(), 2);
    run.reach_more(40);
    server.kill();
    load.join();
    run.end()
}

/// Says all that there is to say about an image, and keeps it.
fn report(life: &str, record: &Record, failure: &Failure) -> ! {
    let Failure { image, why } = failure;
    let mut text = format!("{why}\n{life}, seed {}, at event {}, {:?}\n", seed(), image.at, image.luck);
    let from = image.at.saturating_sub(30);
    for (event, at) in record.events[from..record.events.len().min(image.at + 5)].iter().zip(from..) {
        let what = match record.op(event.op) {
            Op::Write { ino, first, pages, end, synced, role } => {
                format!(
                    "Write {role:?} {{ ino: {ino}, first: {first}, pages: {}, end: {end}, synced: {synced} }}",
                    pages.len()
                )
            }
            op => format!("{op:?}"),
        };
        let mark = if at == image.at { "---- here\n" } else { "" };
        writeln!(text, "{mark}{at} {} {}: {what}", if event.ends { "end" } else { "begin" }, event.op).unwrap();
    }
    let dir: PathBuf = temp_dir().keep();
    for (name, content) in image.files.iter().flatten() {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        file.set_len(content.size).unwrap();
        for at in 0..content.size.div_ceil(PAGE as u64) {
            if let Some(page) = content.page(record::index(at)) {
                use std::os::unix::fs::FileExt as _;
                let end = (content.size - at * PAGE as u64).min(PAGE as u64);
                file.write_all_at(&page[..record::index(end)], at * PAGE as u64).unwrap();
            }
        }
    }
    panic!("{text}the image is in {}", dir.display());
}

/// A server that is killed between making its directory and syncing the one above leaves a directory that is there for the
/// next server, which has nothing to make, and not for the disk.
fn a_directory_whose_making_was_killed_is_lost_with_all_that_is_acknowledged_later() {
    let mut random = Random(seed());
    for events in [0, 2, 4, 6] {
        let mut run = Run::new(None, Known::default(), true, seed());
        run.start_and_kill(events);
        let server = run.start();
        let load = run.load(server.addr(), 0);
        run.reach_more(5);
        server.kill();
        load.join();
        let (record, known) = run.end();
        let moments = moments(&record, 12, &mut random);
        if let Err(failure) = check_images(&record, &known, Lie::None, moments, &mut random) {
            report(&format!("killed after {events} events"), &record, &failure);
        }
    }
}

/// A disk that does not answer returns no error. The server says which one it is, refuses what it has not begun, and serves reads.
fn a_stuck_disk_is_not_named_or_stops_reads() {
    let mut run = Run::new(None, Known::default(), true, seed());
    let server = run.start();
    let (mut c, mut other) = (server.connect(), server.connect());
    let before = c.put("/before", b"x");
    let _held = run.disk().hold(Hold::After(run.disk().position()));
    other.send(&set("/under-way", -1, b"x"));
    run.disk().wait_held(|| false);
    let line = server.says("the disk is stuck: a write of the log");
    let dir = text(&server.setup.dir).to_owned();
    assert!(line.contains(&dir), "{line}");
    let said = c.call(&set("/refused", -1, b"x"));
    assert_eq!(said.err_code, Some(ErrCode::Readonly.code()), "{said}");
    assert!(String::from_utf8_lossy(&said.err_detail.unwrap()).contains(&dir));
    assert_eq!(c.ask(&get("/before")), format!("rev={before} value=\"x\""));
    run.disk().release();
    assert_eq!(other.recv().rev, Some(before + 1), "what was under way is done");
    c.put("/after", b"x");
    assert_eq!(c.ask(&get("/refused")), "rev=0 value=\"\"");
    server.says("the disk works again: a write of the log");
    server.kill();
}

/// The next segment is made while clients are served: a disk that does not answer to that must not hold up the loop.
fn a_file_that_cannot_be_made_stops_the_server() {
    let mut run = Run::new(None, Known::default(), true, seed());
    let server = run.start();
    let (mut writer, mut c) = (server.connect(), server.connect());
    run.until("the second segment is there", |files| files.keys().filter(|name| name.ends_with(".log")).count() == 2);
    let _held = run.disk().hold(Hold::Made(".log.tmp"));
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // The third segment is begun when the second is written to. From then on nothing comes to an end.
        let writing = scope.spawn(|| {
            let value = vec![b'v'; VALUE_MAX];
            while writer.call(&set("/large", -1, &value)).err_code.is_none() {
                if written.fetch_add(1, Ordering::Relaxed) > 100 {
                    return;
                }
            }
        });
        run.disk().wait_held(|| writing.is_finished());
        let rev = c.rev();
        assert!(rev > 60, "it is held at revision {rev}");
        server.says("the disk is stuck: the making of a log segment");
        c.rev();
        run.disk().release();
        server.says("the disk works again: the making of a log segment");
    });
    c.put("/after", b"x");
    server.kill();
}

/// Were these images too kind, or what they are held against too little, nothing would be proved: a disk that lies has to
/// be found out.
fn a_disk_that_lies_is_not_noticed() {
    let mut random = Random(seed());
    let lies = [
        (small(), Lie::Writes),
        (small(), Lie::SomeWrites(20)),
        (small(), Lie::Files),
        (small(), Lie::Directories),
        (buffered(), Lie::Files),
        (large(), Lie::Snapshots),
    ];
    for (life, lie) in lies {
        let moments = moments(&life.record, 100, &mut random);
        match check_images(&life.record, &life.known, lie, moments, &mut random) {
            Ok(tally) => panic!("{lie:?} was not noticed in {}: {:?}", life.name, tally.0),
            Err(failure) => eprintln!("{lie:?}, {}: {}", life.name, failure.why),
        }
    }
}
