//! Numbers that nobody wrote, behind checksums that are right: a process that can write into the data directory can make them.
//!
//! Each field of each header is set to extreme values, at each offset and in each width, so that no field is left out, and every
//! checksum around it is mended. The node then refuses the directory, or salvages what precedes, or runs on. It must not panic, read
//! beyond the end of a file, or read for ever.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use protobuf::Message as _;

use super::super::*;
use crate::limits::{BLOCK, COUNT_MAX};
use crate::log::{Erase, NodeId, Step, bytes_of};
use crate::replica::batch::{Command, Gather, Origin, Registration};
use crate::replica::members::Change;
use crate::replica::snapshot::{Part as Piece, Snapshots};
use crate::replica::{Config, Replica};
use crate::store::Mutation;
use crate::wire::{Request, Verb};

const NODE: NodeId = *b"TESTTESTTESTTEST";
const OTHER: NodeId = *b"OTHEROTHEROTHERX";
const PARAMS: Params = Params { segment_size: 10 * BLOCK as u64, node: NODE };
/// Bytes of a block's header, of a write's opening, and of a record's header.
const HEAD: usize = 32;
const OPENING: usize = 48;
const RECORD: usize = crate::log::RECORD_HEAD;
/// Bytes of a snapshot's piece in front of its data.
const PIECE: usize = 5;

type Files = BTreeMap<String, Vec<u8>>;

fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    bytes[at..at + width].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

fn put_crc(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A data directory in memory.
#[derive(Clone)]
struct Disk {
    files: Files,
    /// How many bytes were read.
    read: u64,
}

impl Disk {
    /// A member that has written some segments, of which the first are gone, and a snapshot; with another node, a standby.
    fn new() -> Disk {
        let mut disk = Disk { files: Files::new(), read: 0 };
        let mut log = Log::create(PARAMS);
        let mut machine = Machine::founding(100);
        let mut gather = Gather::new(Origin { node: 1, epoch: 3 });
        let (mut index, mut snapshot) = (0, 0);
        for turn in 0..40_u8 {
            if turn == 0 {
                for (raft_id, node, addr) in [(1, NODE, b"127.0.0.1:1"), (0, OTHER, b"127.0.0.1:2")] {
                    gather.push(&Command::Register(Registration { raft_id, node, incarnation: 0, addr }));
                }
            }
            let path = format!("/some/{turn}");
            gather.push(&Mutation::Set { path: path.as_bytes(), rev: -1, value: &[turn; 3] }.into());
            let batch = gather.take().expect("a command");
            index += 1;
            log.append_entry(index, 2, 0, &batch);
            machine.apply(&batch, |_, _, _, _| ()).unwrap();
            if turn == 1 {
                let admit = Change::Admit(2);
                index += 1;
                log.append_entry(index, 2, 2, &admit.to_raft().write_to_bytes().unwrap());
                assert!(machine.change(&admit));
            }
            log.append_hard_state(2, 1, index);
            disk.flush(&mut log);
            if turn == 30 {
                snapshot = index;
                disk.snapshot(&mut machine, index);
                log.release(index);
                disk.flush(&mut log);
            }
        }
        assert!(snapshot > 0 && log.last_index() > snapshot);
        let identity = Identity {
            node: NODE,
            raft_id: 1,
            boot_epoch: 3,
            incarnation: 1,
            cluster: "mine".into(),
            cluster_id: 9,
            voters: 1,
            voter: true,
            peers: vec!["127.0.0.1:2".into()],
            advertised: "127.0.0.1:1".into(),
        };
        disk.files.insert(name::IDENTITY.into(), bytes_of(&identity.encode()).to_vec());
        assert!(!disk.files.contains_key(&name::segment(1)), "the log no longer begins with its first segment");
        disk
    }

    fn flush(&mut self, log: &mut Log) {
        loop {
            while let Some(prepare) = log.wants_segment() {
                self.prepare(&prepare);
                log.prepared(prepare.generation);
            }
            for file in log.take_removals() {
                self.files.remove(&file);
            }
            let Some(write) = log.next_write() else { return };
            self.put(&write.file(), write.offset, write.bytes());
            let _durable = log.written(write);
        }
    }

    fn prepare(&mut self, prepare: &log::Prepare) {
        let old = prepare.recycled_file().and_then(|old| self.files.remove(&old));
        let mut bytes = old.unwrap_or_default();
        bytes.resize(usize::try_from(prepare.size).unwrap(), 0);
        bytes[..BLOCK].copy_from_slice(bytes_of(&prepare.header));
        self.files.insert(prepare.file(), bytes);
    }

    fn put(&mut self, file: &str, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        let file = self.files.entry(file.into()).or_default();
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn snapshot(&mut self, machine: &mut Machine, index: u64) {
        let mut snapshots = Snapshots::new(0, 0, crate::limits::SEGMENT);
        snapshots.begin(machine, &NODE, index, 2);
        assert!(snapshots.take_in_hand());
        let name = snapshots.name();
        loop {
            match snapshots.next_part(&mut machine.store) {
                Piece::Nothing => break,
                Piece::Write(part) => self.put(&name, part.offset, part.bytes()),
                Piece::Later => {}
                other => panic!("{other:?}"),
            }
        }
        let _old = snapshots.done(&mut machine.store);
    }

    fn look(&mut self, salvage: bool) -> Result<Plan, Refused> {
        let told = Told { cluster: None, attaches: false, salvage, history: 100, keep: 1 << 20, seed: 1 };
        let listing: Vec<FileInfo> = self
            .files
            .iter()
            .map(|(name, bytes)| FileInfo { name: name.clone(), length: bytes.len() as u64 })
            .collect();
        let Disk { files, read } = self;
        look(&told, &listing, &mut |file: &str, offset: u64, into: &mut [u8]| {
            *read += into.len() as u64;
            let at = usize::try_from(offset).unwrap();
            into.copy_from_slice(
                files[file].get(at..at + into.len()).expect("nothing is read beyond the end of a file"),
            );
            Ok(())
        })
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Erase(erase) => self.erase(erase),
            Step::SetAside(name) | Step::Remove(name) => _ = self.files.remove(name),
            Step::Sync(_) | Step::SyncDirectory => {}
        }
    }

    fn erase(&mut self, erase: &Erase) {
        let zeros = vec![0; usize::try_from(erase.length).unwrap()];
        let length = self.files[&erase.file].len();
        self.put(&erase.file, erase.offset, &zeros);
        assert_eq!(self.files[&erase.file].len(), length, "nothing is erased beyond the end of a file");
    }

    /// Starts as the server does: salvages if it is told to, and runs if the data is good.
    fn start(mut self, salvage: bool) -> &'static str {
        let whole: usize = self.files.values().map(Vec::len).sum();
        let most = self.files.len() + 2;
        for _ in 0..most {
            self.read = 0;
            let plan = self.look(salvage);
            // Each file is read once, and its first block twice more.
            assert!(
                self.read <= (whole + 4 * self.files.len() * BLOCK) as u64,
                "{} bytes of {whole} were read",
                self.read
            );
            match plan {
                Err(refused) => {
                    assert!(refused.line.lines().count() == 1 && refused.line.len() < 1000, "{refused}");
                    assert!(refused.line.contains("file ") || refused.line.contains("of the log"), "{refused}");
                    assert!(refused.line.contains("Nothing was changed"), "{refused}");
                    return "refused";
                }
                Ok(Plan::Salvage(_, damage)) => {
                    let salvage = damage.salvage.expect("a salvage is possible");
                    salvage.set_aside.iter().for_each(|name| _ = self.files.remove(name).expect("a file"));
                    salvage.erase.iter().for_each(|erase| self.erase(erase));
                    if salvage.new_log {
                        self.prepare(&Log::create(PARAMS).wants_segment().unwrap());
                    }
                }
                Ok(Plan::Resume(identity, held)) => {
                    held.found.steps.clone().iter().for_each(|step| self.step(step));
                    self.run(identity, *held);
                    return "runs";
                }
                Ok(Plan::ComeBack(mut identity, _)) => {
                    identity.incarnation += 1;
                    return "comes back";
                }
                Ok(Plan::New | Plan::Join(_) | Plan::Begin(_) | Plan::Attach(_)) => return "begins",
            }
        }
        panic!("salvage comes to no end");
    }

    /// Runs the replica until it has nothing left to do, and writes a file.
    fn run(&mut self, mut identity: Identity, held: Held) {
        let recovered = held.resume(PARAMS);
        identity.begin_boot(recovered.epoch());
        let mut replica = Replica::new(config(&identity), recovered).expect("a configuration that raft takes");
        replica.campaign().expect("it may stand");
        let conn = replica.open();
        let mut request = Vec::new();
        let set =
            Request { path: Some(b"/x"), rev: Some(-1), value: Some(b"y"), tag: Some(1), ..Request::new(Verb::Set) };
        set.encode(&mut request);
        for turn in 0..1000 {
            if turn == 10 {
                let _receipt = replica.receive(conn, &request);
            }
            replica.turn();
            replica.tick(turn * 50);
            if let Some(prepare) = replica.next_prepare() {
                self.prepare(&prepare);
                replica.prepared(prepare.generation);
            }
            match replica.next_write() {
                Some(write) => {
                    self.put(&write.file(), write.offset, write.bytes());
                    replica.written(write);
                }
                None if turn > 20 && !replica.has_work() => return,
                None => {}
            }
        }
        panic!("the replica does not come to rest");
    }

    /// Mends the checksums of a file, from the inside out.
    fn mend(&mut self, file: &str) {
        let bytes = self.files.get_mut(file).unwrap();
        let kind = name::parse(file);
        let (preface, blocks) = bytes.split_at_mut(BLOCK);
        put_crc(preface, 8, crc32fast::hash(&preface[12..]));
        if kind == name::Name::Identity {
            return;
        }
        if matches!(kind, name::Name::Snapshot(_)) {
            mend_pieces(blocks);
        }
        for block in blocks.as_chunks_mut::<BLOCK>().0.iter_mut().filter(|block| block.iter().any(|byte| *byte != 0)) {
            if matches!(kind, name::Name::Segment(_)) {
                mend_records(block);
            }
            let crc = crc32fast::hash(&block[4..]);
            put_crc(block, 0, crc);
        }
    }
}

/// Mends the checksums of a block's records, and of the batches in them.
fn mend_records(block: &mut [u8; BLOCK]) {
    let end = (HEAD + number(block, 4, 2)).min(BLOCK);
    let mut at = HEAD + OPENING;
    while at + RECORD <= end {
        let length = number(block, at + 4, 4);
        if at + RECORD + length > end {
            return;
        }
        let (head, data) = block[at..at + RECORD + length].split_at_mut(RECORD);
        // An entry that raft does not interpret is a batch.
        if (head[32], head[33]) == (1, 0) && data.len() > 4 {
            put_crc(data, 0, crc32fast::hash(&data[4..]));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[4..]);
        crc.update(data);
        put_crc(head, 0, crc.finalize());
        at += RECORD + length;
    }
}

/// Mends the checksum at the end of a snapshot of one block.
fn mend_pieces(blocks: &mut [u8]) {
    assert_eq!(blocks.len(), BLOCK, "a small snapshot");
    let end = (HEAD + number(blocks, 4, 2)).min(BLOCK);
    let mut at = HEAD;
    while at + PIECE <= end {
        let (kind, length) = (blocks[at], number(blocks, at + 1, 4));
        if at + PIECE + length > end {
            return;
        }
        if kind == 3 && length == 20 {
            put_crc(blocks, at + PIECE + 16, crc32fast::hash(&blocks[HEAD..at]));
        }
        at += PIECE + length;
    }
}

fn config(identity: &Identity) -> Config {
    Config {
        id: identity.node.escape_ascii().to_string(),
        node: identity.node,
        raft_id: identity.raft_id,
        epoch: identity.boot_epoch,
        incarnation: identity.incarnation,
        cluster: identity.cluster.clone(),
        cluster_id: identity.cluster_id,
        earlier: identity.peers.clone(),
        addr: "127.0.0.1:1".into(),
        history: 100,
        segment: PARAMS.segment_size,
        ..crate::replica::tests::config()
    }
}

/// Values that code is not prepared for, of each width: the least, the most, where a sign is, and where the server's own bound is.
fn extremes(width: usize) -> Vec<u64> {
    let most = u64::MAX >> (64 - 8 * width);
    let mut values = vec![0, 1, most / 2, most / 2 + 1, most - 1, most];
    if width == 8 {
        values.extend([COUNT_MAX, COUNT_MAX + 1]);
    }
    values
}

/// The parts of a file that are forged: where something was written.
fn forgeable(file: &str, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    match name::parse(file) {
        name::Name::Identity => vec![12..32, 32..150],
        name::Name::Snapshot(_) => vec![12..32, BLOCK + 4..BLOCK + HEAD + 420, bytes.len() - 200..bytes.len()],
        // The first writes, and the last one.
        _ => {
            let used = bytes.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap();
            let blocks: std::collections::BTreeSet<usize> =
                [1, 2, used].into_iter().filter(|&at| at > 0 && at <= used).collect();
            let written = |at: usize| at * BLOCK + 4..at * BLOCK + HEAD + number(&bytes[at * BLOCK..], 4, 2);
            std::iter::once(12..48).chain(blocks.into_iter().map(written)).collect()
        }
    }
}

/// Forges every field of a file, and starts from each forgery, with and without `--salvage`.
fn forge(pick: impl Fn(&str) -> bool) -> BTreeMap<&'static str, usize> {
    let whole = Disk::new();
    let mut mended = whole.clone();
    whole.files.keys().for_each(|file| mended.mend(file));
    assert!(mended.files == whole.files, "checksums are mended as they were");
    assert_eq!(whole.clone().start(false), "runs");
    let mut outcomes = BTreeMap::new();
    for (file, bytes) in whole.files.iter().filter(|(file, _)| pick(file)) {
        let places = forgeable(file, bytes).into_iter().flatten();
        let fields = places.flat_map(|at| [1, 2, 4, 8].map(|width| (at, width)));
        for (at, width) in fields.filter(|(at, width)| at + width <= bytes.len()) {
            for value in extremes(width) {
                let mut disk = whole.clone();
                disk.files.get_mut(file).unwrap()[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                disk.mend(file);
                for salvage in [false, true] {
                    let outcome = catch_unwind(AssertUnwindSafe(|| disk.clone().start(salvage)));
                    let outcome = outcome.unwrap_or_else(|_| {
                        panic!(
                            "file {file}, byte {at} ({} of its block), {width} bytes = {value:#x}, salvage {salvage}",
                            at % BLOCK
                        )
                    });
                    *outcomes.entry(outcome).or_default() += 1;
                }
            }
        }
    }
    outcomes
}

/// From a forged identity the node would number its boots from the beginning, or take another's name.
#[test]
fn a_forged_number_in_the_identity_is_believed() {
    let outcomes = forge(|file| file == name::IDENTITY);
    assert!(outcomes["refused"] > 0 && outcomes["runs"] > 0, "{outcomes:?}");
}

/// The lengths, counts, indices and terms of the log: its prefaces, blocks, openings, records, batches.
#[test]
fn a_forged_number_in_the_log_is_believed() {
    let outcomes = forge(|file| matches!(name::parse(file), name::Name::Segment(_)));
    assert!(outcomes["refused"] > 0 && outcomes["runs"] > 0, "{outcomes:?}");
}

/// Those of a snapshot: its preface, pieces, meta (revisions, members, what was seen of each node) and records.
#[test]
fn a_forged_number_in_a_snapshot_is_believed() {
    let outcomes = forge(|file| matches!(name::parse(file), name::Name::Snapshot(_)));
    assert!(outcomes["refused"] > 0 && outcomes["runs"] > 0, "{outcomes:?}");
}

/// A leader that lost had sent entries; its successor wrote over them, up to just where the next snapshot ends. The entries behind
/// were voided, too: a node that held them again after a restart would vote for others that never had what was committed.
#[test]
fn entries_of_a_leader_that_lost_come_back_behind_a_snapshot() {
    let mut disk = Disk { files: Files::new(), read: 0 };
    let mut log = Log::create(PARAMS);
    let mut machine = Machine::founding(100);
    let batch = |value: &[u8]| {
        let mut gather = Gather::new(Origin { node: 1, epoch: 1 });
        gather.push(&Mutation::Set { path: b"/x", rev: -1, value }.into());
        gather.take().unwrap()
    };
    let good = batch(b"good");
    for index in 1..=4 {
        log.append_entry(index, 1, 0, &batch(b"lost"));
    }
    log.append_hard_state(2, 0, 0);
    for index in 1..=2 {
        log.append_entry(index, 2, 0, &good);
    }
    log.append_hard_state(2, 0, 2);
    disk.flush(&mut log);
    machine.apply(&good, |_, _, _, _| ()).unwrap();
    disk.snapshot(&mut machine, 2);
    let identity = Identity { voters: 3, ..Identity::decode(&Disk::new().files[name::IDENTITY]).unwrap() };
    disk.files.insert(name::IDENTITY.into(), bytes_of(&identity.encode()).to_vec());
    match disk.look(false) {
        Ok(Plan::Resume(_, held)) => {
            assert_eq!((held.found.last_index, held.found.last_term), (2, 2));
            assert_eq!(held.start.entries, []);
        }
        other => panic!("{other:?}"),
    }
}
