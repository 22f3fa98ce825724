//! A disk that is full, and one that fails. Want of space is foreseen: writes are refused with an error that says so, reads
//! go on, and it heals by itself. A failed write ends the process with one line, status 74, and what was acknowledged is
//! safe.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::eventually;
use crate::common::process::{Setup, temp_dir, text};
use crate::common::wire::*;
use doozer::limits::VALUE_MAX;
use doozer::wire::Verb;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// A small file system of its own, in memory, in a mount namespace that a process holds: nobody else sees it, and it
/// takes no privilege where user namespaces are allowed.
struct SmallDisk {
    holder: Child,
    at: TempDir,
}

impl SmallDisk {
    /// `None`, with a word, where it cannot be had.
    fn new(mib: usize) -> Option<SmallDisk> {
        let at = temp_dir();
        let script = format!("mount -t tmpfs -o size={mib}m tmpfs \"$0\" && echo mounted && exec cat");
        let mut unshare = Command::new("unshare");
        unshare.args(["-r", "-m", "sh", "-c", &script]).arg(at.path());
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = match unshare.spawn() {
            Ok(holder) => holder,
            Err(e) => {
                eprintln!("skipped: no small disk can be had: unshare: {e}");
                return None;
            }
        };
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let disk = SmallDisk { holder, at };
        if said != "mounted\n" {
            eprintln!("skipped: no small disk can be had: mounting in a namespace is not permitted here");
            return None;
        }
        Some(disk)
    }

    /// How to start a server on it.
    fn setup(&self) -> Setup {
        let holder = self.holder.id().to_string();
        let enter = ["nsenter", "-t", &holder, "-U", "-m", "--preserve-credentials"];
        Setup::at(self.at.path().join("data")).run_by(enter).flags(["-hist", "10", "--segment", "64"])
    }

    /// The way to a file of it from outside.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.at.path().join(name);
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(inside.strip_prefix("/").unwrap())
    }

    /// Takes so many MiB of its space.
    fn take(&self, name: &str, mib: usize) {
        let mut file = std::fs::File::create(self.path(name)).unwrap();
        (0..mib).for_each(|_| file.write_all(&vec![1; MIB]).unwrap());
    }

    /// Takes all that is left.
    fn take_all(&self, name: &str) {
        let mut file = std::fs::File::create(self.path(name)).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _killed = self.holder.kill();
        let _ended = self.holder.wait();
    }
}

/// Files of 1 MiB that are written over and over, and what was acknowledged of each.
struct Files {
    revs: Vec<i64>,
    next: usize,
}

impl Files {
    fn new(count: usize) -> Files {
        Files { revs: vec![0; count], next: 0 }
    }

    fn value(n: usize) -> Vec<u8> {
        let mut value = vec![u8::try_from(n % 251).unwrap(); VALUE_MAX];
        value[..8].copy_from_slice(&n.to_le_bytes());
        value
    }

    fn path(file: usize) -> String {
        format!("/files/{file}")
    }

    /// Writes the next file: its answer, if that is an error.
    fn write(&mut self, c: &mut Client) -> Option<Reply> {
        let file = self.next % self.revs.len();
        let said = c.call(&set(&Files::path(file), -1, &Files::value(self.next)));
        if said.err_code.is_some() {
            return Some(said);
        }
        self.revs[file] = said.revision();
        self.next += 1;
        None
    }

    /// Writes until the disk is full.
    fn fill(&mut self, c: &mut Client, most: usize) {
        for _ in 0..most {
            if let Some(said) = self.write(c) {
                return full(&said);
            }
        }
        panic!("{most} MiB found their place");
    }

    /// Everything acknowledged is there, and nothing else.
    #[track_caller]
    fn check(&self, c: &mut Client) {
        for (file, rev) in self.revs.iter().enumerate().filter(|(_, rev)| **rev > 0) {
            let said = c.call(&get(&Files::path(file)));
            assert_eq!(said.rev, Some(*rev));
            let n = (0..self.next).rev().find(|n| n % self.revs.len() == file).unwrap();
            assert!(said.value == Some(Files::value(n)), "{file} does not hold write {n}");
        }
    }
}

#[track_caller]
fn full(said: &Reply) {
    let text = said.to_string();
    assert!(text.contains("OTHER \"disk full"), "{text}");
    assert_eq!(said.rev, None);
}

/// Without room for the log, the original's kind of server hangs or dies. Ours refuses writes, and goes on by itself when
/// there is room.
#[test]
fn a_full_disk_stops_reads_or_loses_a_write() {
    // Without the ballast there is room for the log, the last snapshot and the next one, whenever they are made.
    let Some(disk) = SmallDisk::new(1_000) else { return };
    disk.take("ballast", 800);
    let setup = disk.setup();
    let server = setup.start();
    let (mut c, mut other) = (server.connect(), server.connect());
    // Each a file of its own: a snapshot of them would find no room either.
    let mut files = Files::new(1_000);
    files.fill(&mut c, 220);
    assert!(files.next > 100, "full after {} MiB", files.next);
    server.says("disk full");
    // What is smaller may still have found its place behind them.
    let mut small = None;
    eventually("small writes find no place either", || {
        let said = c.call(&set("/small", -1, b"x"));
        small = said.rev.or(small);
        said.err_code.map(|_| full(&said))
    });
    let now = c.rev();
    for request in [set("/small", -1, b"x"), del("/files/0", -1), bare(Verb::Nop)] {
        full(&c.call(&request));
    }
    // What is wrong with a request is still said.
    assert_eq!(c.ask(&set("bad", -1, b"")), "BAD_PATH");
    // Reads go on, with not a byte left.
    disk.take_all("rest");
    assert_eq!(c.rev(), now, "a refused write makes no revision");
    files.check(&mut other);
    assert_eq!(other.ask(&getdir("/files", 0)), "path=\"0\"");
    assert_eq!(other.ask(&bare(Verb::Sync)), format!("rev={now}"));
    let last = c.call(&wait("/**", now));
    assert_eq!(last.rev, Some(now));
    assert_eq!(small.is_some(), last.path.as_deref() == Some(b"/small"), "{last}, and a small write made {small:?}");
    other.send(&wait("/later", now + 1).tag(9));
    // A full disk is no reason not to start. (A snapshot may have made room for some more.)
    let setup = server.kill();
    let server = setup.start();
    let mut c = server.connect();
    files.check(&mut c);
    files.fill(&mut c, 220);
    server.says("disk full");
    files.check(&mut c);
    // With room, writes go on by themselves; what waited for them is woken.
    let mut other = server.connect();
    let now = other.rev();
    other.send(&wait("/later", now + 1).tag(9));
    disk.free("rest");
    disk.free("ballast");
    let made = eventually("writes go on", || c.call(&set("/later", -1, b"x")).rev);
    assert_eq!(other.recv().to_string(), format!("tag=9 flags=4 rev={made} path=\"/later\" value=\"x\""));
    server.says("there is room");
    // There may be a moment in which the next segment is not there yet.
    for _ in 0..80 {
        eventually("writes go on", || files.write(&mut c).is_none().then_some(()));
    }
    files.check(&mut c);
    let setup = server.kill();
    let server = setup.start();
    files.check(&mut server.connect());
    assert_eq!(server.stop().status, Some(0));
}

/// A snapshot that finds no room is given up and taken later; the log holds what it would have covered.
#[test]
fn a_full_disk_leaves_half_a_snapshot() {
    let Some(disk) = SmallDisk::new(640) else { return };
    disk.take("ballast", 260);
    let setup = disk.setup();
    let server = setup.start();
    let mut c = server.connect();
    let mut files = Files::new(80);
    files.fill(&mut c, 400);
    let said = server.says("no room for a snapshot");
    assert!(said.contains("disk full"), "{said}");
    let data = |end: &str| Setup::at(disk.path("data")).files(end);
    assert_eq!(data(".snap"), [""; 0]);
    files.check(&mut c);
    // It takes no room in the meantime. (Another attempt may be under way.)
    eventually("half a snapshot is removed", || data(".snap.tmp").is_empty().then_some(()));
    let said = server.stderr();
    assert_eq!(said.matches("no room for a snapshot").count(), 1, "said at each attempt: {said}");
    let setup = server.kill();
    let server = setup.start();
    let mut c = server.connect();
    files.check(&mut c);
    disk.free("ballast");
    eventually("writes go on", || files.write(&mut c).is_none().then_some(()));
    eventually("the snapshot is taken", || data(".snap").pop());
    // There may be a moment in which the next segment is not there yet.
    for _ in 0..100 {
        eventually("writes go on", || files.write(&mut c).is_none().then_some(()));
    }
    files.check(&mut c);
    let setup = server.kill();
    files.check(&mut setup.start().connect());
}

/// A node that is to get the leader's snapshot, and has no room for it, says so, and the leader says it of that node: each once. It is
/// sent the snapshot again when it has room, by itself.
#[test]
fn a_receiver_without_room_drops_the_snapshot_without_a_word() {
    let Some(disk) = SmallDisk::new(420) else { return };
    disk.take("ballast", 320);
    let leader = Setup::new().flags(["-hist", "10"]).start();
    let mut files = Files::new(100);
    let mut c = leader.connect();
    for _ in 0..100 {
        assert_eq!(files.write(&mut c).map(|said| said.to_string()), None);
    }
    let standby = disk.setup().flags(["-a", &leader.addr().to_string()]).spawn();
    let said = standby.says("disk full: no room in");
    assert!(said.contains("for the snapshot from") && said.contains("make room there"), "{said}");
    leader.says("did not take a snapshot: there is no room for it on its disk");
    disk.free("ballast");
    standby.says("there is room for a snapshot again");
    standby.says("went on from the leader's snapshot");
    standby.says("say hello");
    let count = |said: String, what: &str| said.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count(standby.stderr(), "disk full: no room in"), 1);
    assert_eq!(count(standby.stderr(), "receiving a snapshot"), 2);
    leader.says("sent a snapshot");
    assert_eq!(count(leader.stderr(), "did not take a snapshot"), 1);
    assert_eq!(count(leader.stderr(), "sending a snapshot of revision"), 1);
}

/// A server whose writes fail beyond a length: the limit on the size of its files falls while it runs.
fn limited() -> Setup {
    Setup::new()
}

fn limit_files(pid: u32, bytes: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// A write of the log that fails must end the server, with one line that says why and a status of its own: nobody knows what
/// is durable now. It must not be acknowledged, nor tried again.
#[test]
fn a_failed_write_is_acknowledged() {
    let setup = limited();
    let server = setup.start();
    let (mut c, mut other) = (server.connect(), server.connect());
    let kept = c.put("/kept", b"x");
    other.send(&wait("/lost", 1));
    setup.is_settled();
    limit_files(server.pid(), 8192);
    c.send(&set("/lost", 0, b"x"));
    c.ends();
    other.ends();
    let ended = server.exited();
    assert_eq!(ended.status, Some(74), "{}", ended.stderr);
    let fatal: Vec<&str> = ended.stderr.lines().skip_while(|line| !line.contains("say hello")).skip(1).collect();
    assert_eq!(fatal.len(), 1, "{}", ended.stderr);
    for word in ["fatal", "0000000000000001.log", text(&setup.dir), "too large"] {
        assert!(fatal[0].contains(word), "{word:?} is not in: {}", fatal[0]);
    }
    let server = setup.start();
    let mut c = server.connect();
    assert_eq!(c.ask(&get("/kept")), format!("rev={kept} value=\"x\""));
    assert_eq!(c.ask(&get("/lost")), "rev=0 value=\"\"");
    assert!(c.put("/lost", b"x") > kept);
}

/// A write of which only the first part reached the disk: it was never acknowledged, and is cut at the next start.
#[test]
fn a_write_that_failed_half_way_is_applied_or_stops_the_start() {
    let setup = limited();
    let server = setup.start();
    let mut c = server.connect();
    let kept = c.put("/kept", b"x");
    setup.is_settled();
    let log = setup.read("0000000000000001.log");
    let end = log.chunks(4096).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
    limit_files(server.pid(), (end as u64 + 1) * 4096);
    c.send_all(&[set("/lost", 0, &[b'l'; 10_000]), set("/kept", -1, b"y")]);
    c.ends();
    assert_eq!(server.exited().status, Some(74));
    let server = setup.start();
    let mut c = server.connect();
    let said = server.stderr();
    assert!(said.contains("never acknowledged"), "{said}");
    assert_eq!(c.ask(&get("/kept")), format!("rev={kept} value=\"x\""));
    assert_eq!(c.ask(&get("/lost")), "rev=0 value=\"\"");
}

/// A data directory that is moved away under the server ends it when it needs a new file there, and is whole when it comes
/// back.
#[test]
fn a_directory_that_goes_away_loses_a_write() {
    let home = temp_dir();
    let (dir, away) = (home.path().join("data"), home.path().join("away"));
    let setup = Setup::at(&dir).flags(["-hist", "10"]);
    let server = setup.start();
    setup.is_settled();
    let mut c = server.connect();
    let value = vec![b'v'; VALUE_MAX];
    let mut last = c.put("/large", &value);
    std::fs::rename(&dir, &away).unwrap();
    loop {
        if !c.try_raw(&framed(&set("/large", -1, &value))) {
            break;
        }
        let Some(reply) = c.try_next() else { break };
        last = reply.revision();
    }
    let ended = server.exited();
    assert_eq!(ended.status, Some(74), "{}", ended.stderr);
    assert!(ended.stderr.lines().last().unwrap().contains("fatal"), "{}", ended.stderr);
    std::fs::rename(&away, &dir).unwrap();
    let server = setup.start();
    let said = server.connect().call(&stat("/large"));
    assert_eq!(said.len, Some(i32::try_from(VALUE_MAX).unwrap()));
    assert!(said.revision() >= last, "{said} after {last}");
}
