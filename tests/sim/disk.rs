//! A disk in memory. What is to be written is under way for a while; only when it has come to its end it is durable. A crash in
//! between leaves all of it, a part, or nothing, as a disk may: a write of the log block by block in any order, other things in
//! the order of their steps.

use std::collections::BTreeMap;

use doozer::limits::BLOCK;
use doozer::log::{Erase, FileInfo, Prepare, SnapshotWrite, Step, Write, bytes_of, name};

use crate::chance::Chance;
use crate::file::File;

/// Time that an operation usually takes, in microseconds.
const LATENCY: (u64, u64) = (100, 500);

/// Something on its way to the disk.
#[derive(Debug)]
pub enum Op {
    /// A write of the log.
    Append(Write),
    /// A segment to be made.
    Prepare(Prepare),
    /// A part of a file in the making.
    Part(String, SnapshotWrite),
    /// A file in the making gets its name.
    Commit(String),
    /// A file in the making is given up.
    Abandon(String),
    /// Files that are of no use any more.
    Remove(Vec<String>),
    /// The identity.
    Identity(Vec<u8>),
}

/// How an operation ended.
#[derive(Debug)]
pub enum Ended {
    Done(Op),
    /// Nothing was done.
    NoRoom(Op),
    /// Nobody knows what was done.
    Failed,
}

/// What an operation is called while it is under way.
pub type OpId = u64;

/// See the module.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<String, File>,
    ops: BTreeMap<OpId, Op>,
    begun: OpId,
    /// No operation comes to its end.
    pub stalled: bool,
    /// No segment that is being made comes to its end.
    pub segments_stalled: bool,
    /// There is no room for another segment; only what is left for the next snapshot.
    pub full: bool,
    /// There is not even that.
    pub brimful: bool,
    /// How many snapshots have been finished.
    pub snapshots: usize,
    /// Operations fail.
    pub failing: bool,
    /// The next write of the log does not arrive as it was sent.
    pub corrupting: bool,
    /// Blocks that were on their way when their process died, and what was there before: the host has them, and the disk may not.
    cached: Vec<(String, usize, Vec<u8>)>,
    /// Where the last write of the log went, and whether some of it may be lost.
    last: (String, std::ops::Range<usize>),
    pub may_have_lost_its_end: bool,
    /// What it holds is not what was written.
    harmed: bool,
    /// Time that an operation takes, in microseconds.
    pub latency: (u64, u64),
}

impl Disk {
    /// An empty disk, of the kind that is found in servers.
    pub fn new() -> Disk {
        Disk { latency: LATENCY, ..Disk::default() }
    }

    /// It is as fast as usual, and has room. One that fails goes on to, until the process that uses it has died of that.
    pub fn heal(&mut self) {
        (self.stalled, self.segments_stalled) = (false, false);
        (self.full, self.brimful, self.latency) = (false, false, LATENCY);
    }

    /// Whether an operation does not come to its end now.
    pub fn holds(&self, id: OpId) -> bool {
        self.stalled || (self.segments_stalled && matches!(self.ops.get(&id), Some(Op::Prepare(_))))
    }

    /// Begins an operation, to be ended by [`Disk::end`].
    pub fn begin(&mut self, op: Op) -> OpId {
        self.begun += 1;
        self.ops.insert(self.begun, op);
        self.begun
    }

    /// Ends an operation: what it did is durable, if there was room for it and the disk did not fail.
    pub fn end(&mut self, id: OpId, chance: &mut Chance) -> Ended {
        if self.failing {
            return Ended::Failed;
        }
        let op = self.ops.remove(&id).expect("an operation that was begun");
        let no_room = match &op {
            Op::Part(..) => self.brimful,
            Op::Prepare(prepare) => self.full && prepare.recycle.is_none(),
            _ => false,
        };
        if no_room {
            if let Op::Part(name, _) = &op {
                self.carry_out(&Op::Abandon(name.clone()));
            }
            return Ended::NoRoom(op);
        }
        self.carry_out(&op);
        if let Op::Append(write) = &op
            && std::mem::take(&mut self.corrupting)
        {
            let at = size(write.offset) + chance.index(write.bytes().len());
            self.flip(&write.file(), at, chance);
        }
        Ended::Done(op)
    }

    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Append(write) => {
                let at = size(write.offset);
                self.put(&write.file(), at, write.bytes());
                self.last = (write.file(), at..at + write.bytes().len());
            }
            Op::Prepare(prepare) => {
                let mut file = match prepare.recycled_file() {
                    Some(old) => self.take(&old),
                    None => File::of(size(prepare.size)),
                };
                assert_eq!(file.length(), size(prepare.size));
                file.write(0, bytes_of(&prepare.header));
                assert!(self.files.insert(prepare.file(), file).is_none(), "a segment that is there is not made again");
            }
            Op::Part(name, part) => {
                self.files.entry(name::temporary(name)).or_default().write(size(part.offset), part.bytes());
            }
            Op::Commit(name) => {
                self.snapshots += 1;
                let file = self.take(&name::temporary(name));
                self.files.insert(name.clone(), file);
            }
            Op::Abandon(name) => _ = self.files.remove(&name::temporary(name)),
            Op::Remove(names) => {
                for name in names {
                    assert!(self.files.remove(name).is_some(), "{name} is not there to be removed");
                }
            }
            Op::Identity(bytes) => {
                let mut file = File::default();
                file.write(0, bytes);
                self.files.insert(name::IDENTITY.into(), file);
            }
        }
    }

    fn take(&mut self, name: &str) -> File {
        self.synced(name);
        self.files.remove(name).unwrap_or_else(|| panic!("{name} is not there"))
    }

    fn put(&mut self, name: &str, offset: usize, bytes: &[u8]) {
        let file = self.files.get_mut(name).unwrap_or_else(|| panic!("{name} is not there to be written to"));
        assert!(offset + bytes.len() <= file.length(), "a write beyond the end of {name}");
        file.write(offset, bytes);
    }

    /// Nobody waits any more for what is under way: some of it was carried out, some in part, some not at all. The host goes on if
    /// only the process is gone: then what was written already stays as it is.
    pub fn crash(&mut self, host_too: bool, chance: &mut Chance) {
        let ops = std::mem::take(&mut self.ops);
        if !host_too {
            ops.values().for_each(|op| self.cache(op));
        }
        for op in ops.into_values() {
            match (chance.below(4), &op) {
                (0, _) => {}
                (1, Op::Append(write)) => {
                    // Blocks arrive in any order.
                    for (i, block) in write.bytes().chunks(BLOCK).enumerate() {
                        if chance.once_in(2) {
                            self.put(&write.file(), size(write.offset) + i * BLOCK, block);
                        }
                    }
                }
                (2, Op::Append(write)) => {
                    // Or in theirs, some of them.
                    let blocks = chance.index(write.bytes().len() / BLOCK + 1);
                    self.put(&write.file(), size(write.offset), &write.bytes()[..blocks * BLOCK]);
                }
                (1 | 2, Op::Prepare(prepare)) => {
                    let made = prepare.recycle.is_some() || !self.full;
                    let mut file = prepare.recycled_file().map_or(File::default(), |old| self.take(&old));
                    if chance.once_in(2) {
                        file.write(0, bytes_of(&prepare.header));
                    }
                    if made {
                        self.files.insert(prepare.temporary(), file);
                    }
                }
                (1 | 2, Op::Remove(names)) => {
                    // Any of them, as nothing makes an order between them durable.
                    let gone = names.iter().filter(|_| chance.once_in(2)).cloned().collect();
                    self.carry_out(&Op::Remove(gone));
                }
                (1 | 2, _) => {}
                (_, Op::Prepare(prepare)) if self.full && prepare.recycle.is_none() => {}
                (_, Op::Part(..)) if self.brimful => {}
                _ => self.carry_out(&op),
            }
        }
        if host_too {
            self.lose_unsynced(chance);
        }
        (self.stalled, self.segments_stalled, self.failing, self.corrupting) = (false, false, false, false);
    }

    /// Remembers what is where an operation of a process that dies writes.
    fn cache(&mut self, op: &Op) {
        let Op::Append(write) = op else { return };
        let Some(file) = self.files.get(&write.file()) else { return };
        for i in 0..write.bytes().len() / BLOCK {
            let at = size(write.offset) + i * BLOCK;
            let mut before = vec![0; BLOCK];
            if file.read(at, &mut before).is_ok() {
                self.cached.push((write.file(), at, before));
            }
        }
    }

    /// What was not made durable under its name may be there in part.
    fn lose_unsynced(&mut self, chance: &mut Chance) {
        for (name, at, before) in std::mem::take(&mut self.cached) {
            if self.files.contains_key(&name) && chance.once_in(2) {
                self.put(&name, at, &before);
            }
        }
        let drafts: Vec<String> = self.files.keys().filter(|name| name.ends_with(".tmp")).cloned().collect();
        for name in drafts {
            match chance.below(4) {
                0 => _ = self.files.remove(&name),
                1 => {
                    let mut file = self.take(&name);
                    file.truncate(chance.index(file.length() + 1));
                    self.files.insert(name, file);
                }
                2 => {
                    let file = self.files.get_mut(&name).expect("it was just named");
                    for block in 0..file.written().div_ceil(BLOCK) {
                        if chance.once_in(2) {
                            file.fill(block * BLOCK, BLOCK);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether it holds something else than what was written.
    pub fn is_harmed(&self) -> bool {
        self.harmed
    }

    /// All files are lost.
    pub fn wipe(&mut self) {
        self.harmed = false;
        self.files.clear();
        self.cached.clear();
    }

    // ---- what a node does before it runs: carried out at once ----

    pub fn listing(&self) -> Vec<FileInfo> {
        let info = |(name, file): (&String, &File)| FileInfo { name: name.clone(), length: file.length() as u64 };
        self.files.iter().map(info).collect()
    }

    pub fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<(), String> {
        self.files.get(name).ok_or("no such file")?.read(size(offset), into)
    }

    /// Whether there is a whole snapshot.
    pub fn has_snapshot(&self) -> bool {
        self.files.keys().any(|file| file.ends_with(".snap"))
    }

    pub fn do_now(&mut self, op: &Op) {
        self.carry_out(op);
    }

    /// Writes the identity after all that is under way to it.
    pub fn write_identity(&mut self, bytes: Vec<u8>) {
        self.ops.retain(|_, op| !matches!(op, Op::Identity(_)));
        self.carry_out(&Op::Identity(bytes));
    }

    /// Carries out a step of recovery. What is set aside is of no interest any more.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Erase(Erase { file, offset, length }) => {
                self.put(file, size(*offset), &vec![0; size(*length)]);
                self.synced(file);
            }
            Step::Remove(name) | Step::SetAside(name) => _ = self.take(name),
            Step::Sync(name) => {
                assert!(self.files.contains_key(name));
                self.synced(name);
            }
            Step::SyncDirectory => {}
        }
    }

    /// What a file holds is durable, or the file is gone.
    fn synced(&mut self, name: &str) {
        self.cached.retain(|(cached, ..)| cached != name);
    }

    /// How many snapshots are there.
    pub fn snapshots_kept(&self) -> usize {
        self.files.keys().filter(|file| file.ends_with(".snap")).count()
    }

    /// Moves everything out of the way but the identity.
    pub fn set_all_aside(&mut self) {
        self.cached.clear();
        self.harmed = false;
        self.files.retain(|name, _| name == name::IDENTITY);
    }

    /// How it is, for a test that has failed.
    pub fn describe(&self) -> String {
        let Disk { stalled, full, failing, latency, .. } = self;
        let files: Vec<&String> = self.files.keys().collect();
        format!(
            "stalled {stalled}, full {full}, failing {failing}, latency {latency:?}, {} under way, {files:?}",
            self.ops.len()
        )
    }

    // ---- damage ----

    /// A file that something of the log or of a snapshot was written to, and how much of it.
    fn any_written(&self, chance: &mut Chance) -> Option<(String, usize)> {
        let written = self.files.iter().filter(|(name, file)| *name != name::IDENTITY && file.written() > 0);
        let written: Vec<(&String, usize)> = written.map(|(name, file)| (name, file.written())).collect();
        if written.is_empty() {
            return None;
        }
        let (name, length) = written[chance.index(written.len())];
        Some((name.clone(), length))
    }

    /// Flips a bit somewhere in what was written of the log or of a snapshot. Where it was, if there was anything.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<String> {
        let (name, length) = self.any_written(chance)?;
        let at = chance.index(length);
        self.flip(&name, at, chance);
        Some(format!("{name} at {at}"))
    }

    /// Loses a sector in the same way.
    pub fn lose_sector(&mut self, chance: &mut Chance) -> Option<String> {
        let (name, length) = self.any_written(chance)?;
        let sector = chance.pick(&[512, BLOCK]);
        let at = chance.index(length) / sector * sector;
        let file = self.files.get_mut(&name)?;
        self.harmed = true;
        // A snapshot is sometimes cut short there.
        if name.ends_with(".snap") && chance.once_in(3) {
            file.truncate(at);
            return Some(format!("{name} behind {at}"));
        }
        file.fill(at, sector);
        self.may_have_lost_its_end |= self.last.0 == name && self.last.1.contains(&at);
        Some(format!("{name} at {at}"))
    }

    fn flip(&mut self, name: &str, at: usize, chance: &mut Chance) {
        let file = self.files.get_mut(name).unwrap_or_else(|| panic!("{name} is not there to rot"));
        file.flip(at, chance.below(8));
        self.harmed = true;
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("less than the memory")
}
