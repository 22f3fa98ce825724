//! A data directory in memory, a node that writes to it, and what recovery makes of it.

use crate::limits::BLOCK;
use crate::log::*;
use std::collections::BTreeMap;

pub const NODE: NodeId = *b"TESTTESTTESTTEST";
/// Small segments, so that tests see many.
pub const SEGMENT: u64 = (BLOCKS * BLOCK) as u64;
pub const BLOCKS: usize = 10;

/// A small generator; its seed is all that a test's run depends on.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound as u64).unwrap()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256).to_le_bytes()[0]).collect()
    }
}

/// A record that outlives its buffer.
#[derive(Clone, PartialEq, Eq)]
pub enum Kept {
    Entry(u64, u64, u8, Vec<u8>),
    HardState(HardState),
    Restart(u64, u64),
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kept::Entry(index, term, _, data) => write!(f, "{index}@{term}: {} bytes", data.len()),
            Kept::HardState(hard) => hard.fmt(f),
            Kept::Restart(index, term) => write!(f, "restart {index}@{term}"),
        }
    }
}

impl Kept {
    pub fn of(record: &Record<'_>) -> Kept {
        match *record {
            Record::Entry { index, term, entry_type, data } => Kept::Entry(index, term, entry_type, data.to_vec()),
            Record::HardState(hard) => Kept::HardState(hard),
            Record::Restart { index, term } => Kept::Restart(index, term),
        }
    }

    pub fn stage(&self, log: &mut Log) -> Position {
        match self {
            Kept::Entry(index, term, entry_type, data) => log.append_entry(*index, *term, *entry_type, data),
            Kept::HardState(hard) => log.append_hard_state(hard.term, hard.vote, hard.commit),
            Kept::Restart(index, term) => log.restart(*index, *term),
        }
    }
}

/// What recovery handed out and answered.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub recovered: Recovered,
    /// Records of the log with their positions.
    pub records: Vec<(u64, Kept)>,
    /// Records of the snapshot.
    pub snapshot: Vec<Vec<u8>>,
}

impl Outcome {
    pub fn kept(&self) -> Vec<Kept> {
        self.records.iter().map(|(_, kept)| kept.clone()).collect()
    }

    /// Entries as raft sees them: index, term, data.
    pub fn entries(&self) -> Vec<(u64, u64, Vec<u8>)> {
        let mut entries: Vec<(u64, u64, Vec<u8>)> = Vec::new();
        for (_, record) in &self.records {
            match record {
                Kept::Entry(index, term, _, data) => {
                    entries.retain(|(at, ..)| at < index);
                    entries.push((*index, *term, data.clone()));
                }
                Kept::Restart(..) => entries.clear(),
                Kept::HardState(_) => {}
            }
        }
        entries
    }
}

/// Files by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    pub fn listing(&self) -> Vec<FileInfo> {
        let info = |(name, bytes): (&String, &Vec<u8>)| FileInfo { name: name.clone(), length: bytes.len() as u64 };
        self.files.iter().map(info).collect()
    }

    pub fn recover(&self) -> Result<Outcome, Refusal<String>> {
        let mut records = Vec::new();
        let mut snapshot = Vec::new();
        let mut read = |name: &str, offset: u64, into: &mut [u8]| {
            let offset = usize::try_from(offset).unwrap();
            let file = self.files.get(name).ok_or("no such file")?;
            let bytes = file.get(offset..offset + into.len()).ok_or("end of file")?;
            into.copy_from_slice(bytes);
            Ok::<(), String>(())
        };
        let recovered = recover(&NODE, &self.listing(), &mut read, &mut |event| match event {
            Event::Void => snapshot.clear(),
            Event::Snapshot { meta, .. } => snapshot = vec![meta.to_vec()],
            Event::SnapshotRecord(record) => snapshot.push(record.to_vec()),
            Event::Record { position, record } => {
                records.push((position.0, Kept::of(&record)));
            }
        })?;
        Ok(Outcome { recovered, records, snapshot })
    }

    /// The damage that recovery must find.
    pub fn damage(&self) -> Damage {
        match self.recover() {
            Err(Refusal::Damage(damage)) => *damage,
            Err(refusal) => panic!("not damage, but {refusal}"),
            Ok(outcome) => panic!("recovered: {:?}", outcome.recovered),
        }
    }

    /// The fault that recovery must find.
    pub fn fault(&self) -> Fault {
        match self.damage().wrong {
            Wrong::Log(fault) => fault,
            other => panic!("not the log: {other}"),
        }
    }

    pub fn write(&mut self, write: &Write) {
        self.put(&write.file(), write.offset, write.bytes());
    }

    /// A write of which only some blocks reached the disk.
    pub fn tear(&mut self, write: &Write, arrived: impl Fn(usize) -> bool) {
        for (i, block) in write.bytes().chunks(BLOCK).enumerate() {
            if arrived(i) {
                self.put(&write.file(), write.offset + (i * BLOCK) as u64, block);
            }
        }
    }

    pub fn put(&mut self, file: &str, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        let file = self.files.get_mut(file).unwrap();
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn prepare(&mut self, prepare: &Prepare) {
        let recycled = prepare.recycled_file();
        let mut bytes = match recycled {
            Some(old) => self.files.remove(&old).unwrap(),
            None => vec![0; usize::try_from(prepare.size).unwrap()],
        };
        assert_eq!(bytes.len() as u64, prepare.size);
        bytes[..BLOCK].copy_from_slice(bytes_of(&prepare.header));
        assert_eq!(self.files.insert(prepare.file(), bytes), None);
    }

    pub fn erase(&mut self, erase: &Erase) {
        let zeros = vec![0; usize::try_from(erase.length).unwrap()];
        self.put(&erase.file, erase.offset, &zeros);
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Erase(erase) => self.erase(erase),
            Step::Remove(file) | Step::SetAside(file) => assert!(self.files.remove(file).is_some()),
            Step::Sync(file) => assert!(self.files.contains_key(file)),
            Step::SyncDirectory => {}
        }
    }

    /// Carries out a salvage, as the server does when it is asked to.
    pub fn salvage(&mut self, salvage: &Salvage) {
        assert!(salvage.copy.iter().all(|file| self.files.contains_key(file)));
        salvage.erase.iter().for_each(|erase| self.erase(erase));
        for file in &salvage.set_aside {
            assert!(self.files.remove(file).is_some(), "{file}");
        }
        if salvage.new_log {
            let mut log = Log::create(PARAMS);
            self.prepare(&log.wants_segment().unwrap());
        }
    }

    /// Puts a snapshot there as a whole.
    pub fn snapshot(&mut self, index: u64, term: u64, records: &[&[u8]]) {
        let mut writer = SnapshotWriter::new(index, term, b"meta");
        records.iter().for_each(|record| writer.push(record));
        writer.finish();
        let mut bytes = Vec::new();
        while let Some(write) = writer.next_write() {
            assert_eq!(write.offset, bytes.len() as u64);
            bytes.extend_from_slice(write.bytes());
            writer.give_back(write);
        }
        self.files.insert(writer.file(), bytes);
    }
}

pub const PARAMS: Params = Params { segment_size: SEGMENT, node: NODE };

/// A node: its log and its disk.
pub struct Node {
    pub disk: Disk,
    pub log: Log,
}

impl Node {
    pub fn create() -> Node {
        let mut node = Node { disk: Disk::default(), log: Log::create(PARAMS) };
        node.prepare();
        node
    }

    /// Starts again from what is on the disk.
    pub fn start(disk: Disk) -> Node {
        let recovered = disk.recover().unwrap().recovered;
        let mut disk = disk;
        recovered.steps.iter().for_each(|step| disk.step(step));
        let log = Log::resume(PARAMS, &recovered);
        Node { disk, log }
    }

    /// Prepares every segment that is wanted, and removes what is of no use.
    pub fn prepare(&mut self) {
        while let Some(prepare) = self.log.wants_segment() {
            self.disk.prepare(&prepare);
            self.log.prepared(prepare.generation);
        }
        for file in self.log.take_removals() {
            assert!(self.disk.files.remove(&file).is_some());
        }
    }

    /// Writes all that is staged.
    pub fn flush(&mut self) {
        while self.log.staged() {
            self.prepare();
            let write = self.log.next_write().unwrap();
            self.disk.write(&write);
            _ = self.log.written(write);
        }
        self.prepare();
    }

    /// One write with one entry.
    pub fn entry(&mut self, index: u64, term: u64, bytes: usize) {
        let data = Rng::new(index).bytes(bytes);
        self.log.append_entry(index, term, 0, &data);
        self.flush();
    }

    /// Writes entries of one block each until the segment of this generation is the current one and holds one.
    pub fn fill_to(&mut self, generation: u64) {
        loop {
            let index = self.log.last_index() + 1;
            self.log.append_entry(index, 1, 0, b"filler");
            while self.log.staged() {
                self.prepare();
                let write = self.log.next_write().unwrap();
                self.disk.write(&write);
                let reached = write.generation == generation;
                _ = self.log.written(write);
                if reached && !self.log.staged() {
                    return self.prepare();
                }
            }
        }
    }
}
