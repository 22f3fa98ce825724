//! Snapshots: their bytes, which of them is used, and how the log goes on from it.

use super::disk::*;
use crate::limits::{BLOCK, SNAPSHOT_WRITE};
use crate::log::*;

/// Records of sizes around those of a block and of a piece that is written at once.
fn records() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(3);
    let sizes = [0, 1, 4000, 4059, 4064, 4065, 9000, 5, SNAPSHOT_WRITE, 3 * SNAPSHOT_WRITE + 7, 0];
    sizes.map(|size| rng.bytes(size)).to_vec()
}

fn encode(index: u64, term: u64, meta: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = SnapshotWriter::new(index, term, meta);
    let mut bytes = Vec::new();
    let mut take = |writer: &mut SnapshotWriter| {
        while let Some(write) = writer.next_write() {
            assert_eq!(write.offset, bytes.len() as u64);
            assert!(write.bytes().len() <= SNAPSHOT_WRITE);
            bytes.extend_from_slice(write.bytes());
            writer.give_back(write);
        }
        assert_eq!(writer.pending(), 0);
    };
    for record in records {
        writer.push(record);
        take(&mut writer);
    }
    writer.finish();
    take(&mut writer);
    bytes
}

fn decode(bytes: &[u8], step: usize) -> Result<(Summary, Vec<Vec<u8>>), SnapshotDamage> {
    let mut reader = SnapshotReader::new();
    let mut out = Vec::new();
    for piece in bytes.chunks(step) {
        reader.feed(piece, &mut |piece| match piece {
            Piece::Meta { meta, .. } => out.push(meta.to_vec()),
            Piece::Record(record) => out.push(record.to_vec()),
        })?;
    }
    Ok((reader.finish()?, out))
}

/// A snapshot that reads back otherwise than it was written is another tree.
#[test]
fn a_snapshot_reads_back_as_it_was_written_in_pieces_of_any_size() {
    let bytes = encode(77, 5, b"some meta", &records());
    for step in [1, 100, 4095, 4096, 4097, 10_000, 1 << 20, bytes.len()] {
        let (summary, out) = decode(&bytes, step).unwrap();
        assert_eq!((summary.index, summary.term, summary.records), (77, 5, 11));
        assert_eq!(summary.bytes, bytes.len() as u64);
        assert_eq!(out[0], b"some meta");
        assert_eq!(out[1..], records());
    }
}

/// The end of a snapshot may fall on any byte of its last block, the last one included.
#[test]
fn a_snapshot_may_end_at_any_byte_of_a_block() {
    for size in 3900..4200 {
        let bytes = encode(1, 1, b"", &[vec![9; size]]);
        let (summary, out) = decode(&bytes, 5000).unwrap();
        assert_eq!((summary.records, out[1].len()), (1, size));
    }
}

/// A snapshot is the only copy of what the log no longer holds.
#[test]
fn every_cut_and_every_flipped_byte_of_a_snapshot_is_seen() {
    let mut bytes = encode(7, 2, b"m", &[vec![1; 3000], vec![2; 3000]]);
    assert_eq!(bytes.len(), 3 * BLOCK);
    for at in 0..bytes.len() {
        assert!(decode(&bytes[..at], 4096).is_err(), "cut at {at}");
        bytes[at] ^= 8;
        let damage = decode(&bytes, 4096).unwrap_err();
        assert_eq!(damage.offset, (at - at % BLOCK) as u64, "byte {at}");
        bytes[at] ^= 8;
    }
    let whole = bytes.clone();
    bytes.push(0);
    assert_eq!(decode(&bytes, 4096).unwrap_err().fault, SnapshotFault::Long);
    bytes.resize(4 * BLOCK, 0);
    assert_eq!(decode(&bytes, 4096).unwrap_err().fault, SnapshotFault::Long);
    // Whole blocks in another order, or of another snapshot.
    let mut swapped = whole.clone();
    swapped.copy_within(2 * BLOCK.., BLOCK);
    assert_eq!(decode(&swapped, 4096).unwrap_err().fault, SnapshotFault::Astray);
    let mut mixed = whole;
    mixed[BLOCK..].copy_from_slice(&encode(8, 2, b"m", &[vec![1; 3000], vec![2; 3000]])[BLOCK..]);
    assert_eq!(decode(&mixed, 4096).unwrap_err().fault, SnapshotFault::Astray);
}

/// A log of `last` committed entries over several segments.
fn node(last: u64) -> Node {
    let mut node = Node::create();
    for index in 1..=last {
        node.entry(index, 1, 3000);
    }
    node.log.append_hard_state(1, 1, last);
    node.flush();
    node
}

/// The usual restart.
#[test]
fn the_newest_snapshot_is_used_and_older_ones_removed() {
    let mut node = node(30);
    node.disk.snapshot(10, 1, &[b"old"]);
    node.disk.snapshot(20, 1, &[b"new", b"er"]);
    let outcome = node.disk.recover().unwrap();
    assert_eq!(outcome.recovered.snapshot, Some((20, 1)));
    assert_eq!(outcome.snapshot, [&b"meta"[..], b"new", b"er"]);
    assert_eq!(outcome.recovered.statistics.snapshot_records, 2);
    assert_eq!(outcome.recovered.last_index, 30);
    assert!(outcome.recovered.steps.contains(&Step::Remove(name::snapshot(10))));
}

/// The newest snapshot rotted, but the one before it is still there and the log goes back to it: nothing is lost.
#[test]
fn a_damaged_snapshot_is_replaced_by_an_older_one_if_the_log_allows() {
    let mut node = node(30);
    node.disk.snapshot(10, 1, &[b"old"]);
    node.disk.snapshot(20, 1, &[b"new"]);
    node.disk.files.get_mut(&name::snapshot(20)).unwrap()[BLOCK + 40] ^= 1;
    let outcome = node.disk.recover().unwrap();
    assert_eq!(outcome.recovered.snapshot, Some((10, 1)));
    assert_eq!(outcome.snapshot, [&b"meta"[..], b"old"]);
    let (file, damage) = outcome.recovered.fell_back.clone().unwrap();
    assert_eq!((file, damage.offset), (name::snapshot(20), BLOCK as u64));
    assert!(outcome.recovered.steps.contains(&Step::SetAside(name::snapshot(20))));
    // Without an older one the log itself goes back to the empty state.
    node.disk.files.remove(&name::snapshot(10));
    let outcome = node.disk.recover().unwrap();
    assert_eq!((outcome.recovered.snapshot, outcome.snapshot.len()), (None, 0));
    assert_eq!(outcome.entries().len(), 30);
    Node::start(node.disk);
}

/// A snapshot came from the leader and rotted, and the log ends before it: an older one is not the same.
#[test]
fn a_damaged_snapshot_that_is_ahead_of_the_log_is_refused() {
    let mut node = node(10);
    node.disk.snapshot(5, 1, &[b"old"]);
    node.disk.snapshot(100, 2, &[b"sent"]);
    node.disk.files.get_mut(&name::snapshot(100)).unwrap()[BLOCK] ^= 1;
    let damage = node.disk.damage();
    assert_eq!((damage.file, damage.last), (name::snapshot(100), Some(10)));
    node.disk.salvage(&damage.salvage.unwrap());
    assert_eq!(Node::start(node.disk).log.last_index(), 10);
}

/// The log no longer holds what the damaged snapshot held.
#[test]
fn a_damaged_snapshot_that_nothing_stands_in_for_is_refused() {
    let mut node = node(30);
    node.disk.snapshot(20, 1, &[b"new"]);
    node.log.release(20);
    node.prepare();
    let whole = node.disk.clone();
    node.disk.files.get_mut(&name::snapshot(20)).unwrap()[2 * BLOCK - 1] ^= 1;
    let damage = node.disk.damage();
    assert_eq!((damage.file, damage.offset), (name::snapshot(20), BLOCK as u64));
    assert!(matches!(damage.wrong, Wrong::Snapshot(_)));
    assert_eq!(damage.salvage, None, "nothing precedes it");
    // An older one can be salvaged, at the price of all that came after it.
    node.disk.snapshot(3, 1, &[b"old"]);
    let damage = node.disk.damage();
    assert_eq!(damage.last, Some(3));
    node.disk.salvage(&damage.salvage.unwrap());
    let node = Node::start(node.disk);
    assert_eq!((node.log.last_index(), node.log.hard_state().commit), (3, 3));
    // A lost snapshot is as bad as a damaged one.
    let mut lost = whole;
    lost.files.remove(&name::snapshot(20));
    assert_eq!(lost.fault(), Fault::Gap);
}

/// A snapshot of a later program is not damage, and must not be passed over for an older one.
#[test]
fn a_snapshot_of_a_later_version_is_named_as_such() {
    let mut node = node(30);
    node.disk.snapshot(10, 1, &[]);
    node.disk.snapshot(20, 1, &[]);
    let file = node.disk.files.get_mut(&name::snapshot(20)).unwrap();
    let first: [u8; BLOCK] = file[..BLOCK].try_into().unwrap();
    file[..BLOCK].copy_from_slice(&preface::with_version(Block(first), 3).0);
    match node.disk.recover() {
        Err(Refusal::UnknownVersion { file, version: 3 }) => assert_eq!(file, name::snapshot(20)),
        other => panic!("{other:?}"),
    }
}

/// A follower was sent a snapshot; the crash came before, or after, its log was told to go on behind it.
#[test]
fn the_log_goes_on_behind_a_snapshot_from_the_leader() {
    let mut node = node(10);
    node.disk.snapshot(100, 4, &[b"sent"]);
    let outcome = node.disk.recover().unwrap();
    assert_eq!(outcome.recovered.restart, Some((100, 4)));
    assert_eq!(outcome.entries(), []);
    let hard = HardState { term: 4, vote: 0, commit: 100 };
    assert_eq!(outcome.recovered.hard_state, hard);

    let mut early = Node::start(node.disk.clone());
    early.entry(101, 4, 10);
    node.log.restart(100, 4);
    node.log.append_hard_state(4, 0, 100);
    node.entry(101, 4, 10);
    for node in [early, node] {
        let outcome = node.disk.recover().unwrap();
        assert_eq!(outcome.recovered.restart, None);
        assert_eq!(outcome.recovered.hard_state, hard);
        let indexes: Vec<_> = outcome.entries().iter().map(|entry| entry.0).collect();
        assert_eq!(indexes, [101]);
        // Without its snapshot the log hangs in the air.
        let mut lost = node.disk.clone();
        lost.files.remove(&name::snapshot(100));
        assert_eq!(lost.fault(), Fault::NoSnapshot);
        lost.snapshot(5, 1, &[]);
        lost.salvage(&lost.damage().salvage.unwrap());
        assert_eq!(Node::start(lost).log.last_index(), 5);
    }
}

/// The log holds entries of a leader that lost, beyond the snapshot that the new leader sent.
#[test]
fn entries_that_the_snapshot_contradicts_are_dropped_unless_committed() {
    let mut node = node(10);
    for index in 11..=20 {
        node.entry(index, 1, 10);
    }
    let mut disk = node.disk.clone();
    disk.snapshot(15, 2, &[]);
    let outcome = disk.recover().unwrap();
    assert_eq!((outcome.recovered.restart, outcome.recovered.last_index), (Some((15, 2)), 15));
    let mut after = Node::start(disk);
    after.entry(16, 2, 10);
    assert_eq!(after.disk.recover().unwrap().entries().len(), 1);
    // The same term: the entries behind the snapshot are kept.
    let mut disk = node.disk.clone();
    disk.snapshot(15, 1, &[]);
    assert_eq!(disk.recover().unwrap().recovered.last_index, 20);
    // Committed entries do not change.
    let mut disk = node.disk;
    disk.snapshot(9, 2, &[]);
    let damage = disk.damage();
    assert_eq!((damage.wrong, damage.salvage), (Wrong::Log(Fault::Disagree), None));
}
