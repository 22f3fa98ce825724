//! A disk in memory. What is to be written is under way for a while; only when it has come to its end it is durable. A crash in
//! between leaves all of it, a part, or nothing, as a disk may: a write of the log block by block in any order, other things in
//! the order of their steps.

use std::collections::BTreeMap;

use doozer::limits::BLOCK;
use doozer::log::{Erase, FileInfo, Prepare, SnapshotWrite, Step, Write, bytes_of, name};

use crate::chance::Chance;

/// A file: its length, and what it begins with. Zeros come behind that.
#[derive(Clone, Debug, Default)]
pub struct File {
    length: usize,
    bytes: Vec<u8>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.length = self.length.max(end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), String> {
        if offset + into.len() > self.length {
            return Err("the end of the file".into());
        }
        let there = self.bytes.get(offset..).unwrap_or_default();
        let there = &there[..there.len().min(into.len())];
        into[..there.len()].copy_from_slice(there);
        into[there.len()..].fill(0);
        Ok(())
    }
}

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
    /// There is no room for another segment.
    pub full: bool,
    /// Time that an operation takes, in microseconds.
    pub latency: (u64, u64),
}

impl Disk {
    /// An empty disk, of the kind that is found in servers.
    pub fn new() -> Disk {
        Disk { latency: (100, 500), ..Disk::default() }
    }

    /// Begins an operation, to be ended by [`Disk::end`].
    pub fn begin(&mut self, op: Op) -> OpId {
        self.begun += 1;
        self.ops.insert(self.begun, op);
        self.begun
    }

    /// Ends an operation: what it did is durable. `None` for a segment for which there is no room: nothing was done.
    pub fn end(&mut self, id: OpId) -> (Op, bool) {
        let op = self.ops.remove(&id).expect("an operation that was begun");
        if self.full && matches!(&op, Op::Prepare(prepare) if prepare.recycle.is_none()) {
            return (op, false);
        }
        self.carry_out(&op);
        (op, true)
    }

    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Append(write) => self.put(&write.file(), size(write.offset), write.bytes()),
            Op::Prepare(prepare) => {
                let mut file = match prepare.recycled_file() {
                    Some(old) => self.take(&old),
                    None => File { length: size(prepare.size), bytes: Vec::new() },
                };
                assert_eq!(file.length, size(prepare.size));
                file.write(0, bytes_of(&prepare.header));
                assert!(self.files.insert(prepare.file(), file).is_none(), "a segment that is there is not made again");
            }
            Op::Part(name, part) => {
                self.files.entry(name::temporary(name)).or_default().write(size(part.offset), part.bytes());
            }
            Op::Commit(name) => {
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
        self.files.remove(name).unwrap_or_else(|| panic!("{name} is not there"))
    }

    fn put(&mut self, name: &str, offset: usize, bytes: &[u8]) {
        let file = self.files.get_mut(name).unwrap_or_else(|| panic!("{name} is not there to be written to"));
        assert!(offset + bytes.len() <= file.length, "a write beyond the end of {name}");
        file.write(offset, bytes);
    }

    /// Nobody waits any more for what is under way: some of it was carried out, some in part, some not at all.
    pub fn crash(&mut self, chance: &mut Chance) {
        for op in std::mem::take(&mut self.ops).into_values() {
            match (chance.below(3), &op) {
                (0, _) => {}
                (1, Op::Append(write)) => {
                    // Blocks arrive in any order.
                    for (i, block) in write.bytes().chunks(BLOCK).enumerate() {
                        if chance.once_in(2) {
                            self.put(&write.file(), size(write.offset) + i * BLOCK, block);
                        }
                    }
                }
                (1, Op::Prepare(prepare)) => {
                    let file = prepare.recycled_file().map_or(File::default(), |old| self.take(&old));
                    self.files.insert(prepare.temporary(), file);
                }
                (1, Op::Remove(names)) => {
                    let left = chance.index(names.len());
                    self.carry_out(&Op::Remove(names[..left].to_vec()));
                }
                (1, _) => {}
                (_, Op::Prepare(prepare)) if self.full && prepare.recycle.is_none() => {}
                _ => self.carry_out(&op),
            }
        }
        // What was not made durable under its name may be there in part.
        let drafts: Vec<String> = self.files.keys().filter(|name| name.ends_with(".tmp")).cloned().collect();
        for name in drafts {
            match chance.below(3) {
                0 => _ = self.files.remove(&name),
                1 => {
                    let mut file = self.take(&name);
                    file.length /= 2;
                    file.bytes.truncate(file.length);
                    self.files.insert(name, file);
                }
                _ => {}
            }
        }
        self.stalled = false;
    }

    /// All files are lost.
    pub fn wipe(&mut self) {
        self.files.clear();
    }

    // ---- what a node does before it runs: carried out at once ----

    pub fn listing(&self) -> Vec<FileInfo> {
        let info = |(name, file): (&String, &File)| FileInfo { name: name.clone(), length: file.length as u64 };
        self.files.iter().map(info).collect()
    }

    pub fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<(), String> {
        self.files.get(name).ok_or("no such file")?.read(size(offset), into)
    }

    /// Whether there is a whole snapshot.
    pub fn has_snapshot(&self) -> bool {
        self.files.keys().any(|file| file.ends_with(".snap"))
    }

    /// All of a file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.files.get(name)?;
        let mut bytes = vec![0; file.length];
        file.read(0, &mut bytes).expect("all of it is there");
        Some(bytes)
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
            Step::Erase(Erase { file, offset, length }) => self.put(file, size(*offset), &vec![0; size(*length)]),
            Step::Remove(name) | Step::SetAside(name) => _ = self.take(name),
            Step::Sync(name) => assert!(self.files.contains_key(name)),
            Step::SyncDirectory => {}
        }
    }

    /// Moves everything out of the way but the identity.
    pub fn set_all_aside(&mut self) {
        self.files.retain(|name, _| name == name::IDENTITY);
    }

    // ---- damage ----

    /// Flips a bit somewhere in what was written of the log or of a snapshot. Whether there was anything.
    pub fn rot(&mut self, chance: &mut Chance) -> bool {
        let names: Vec<String> = self.files.keys().filter(|name| *name != name::IDENTITY).cloned().collect();
        if names.is_empty() {
            return false;
        }
        let file = self.files.get_mut(&names[chance.index(names.len())]).expect("it was just named");
        if file.bytes.is_empty() {
            return false;
        }
        let at = chance.index(file.bytes.len());
        file.bytes[at] ^= 1 << chance.below(8);
        true
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("less than the memory")
}
