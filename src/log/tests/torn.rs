//! What a crash leaves is cut, and nothing that was acknowledged with it.

use super::disk::*;
use crate::limits::BLOCK;
use crate::log::*;

/// A node with some history, and a write of `blocks` blocks in flight.
fn in_flight(blocks: usize, recycled: bool) -> (Node, Write) {
    let mut node = Node::create();
    if recycled {
        node.fill_to(3);
        let index = node.log.last_index();
        node.log.append_hard_state(1, 0, index);
        node.flush();
        node.disk.snapshot(index, 1, &[]);
        node.log.release(index);
        node.prepare();
        node.fill_to(6);
    }
    let index = node.log.last_index() + 1;
    node.entry(index, 1, 5000);
    node.log.append_hard_state(1, 2, index);
    node.flush();
    let data = Rng::new(7).bytes(blocks * BLOCK - 500 * blocks);
    node.log.append_entry(index + 1, 1, 0, &data[..data.len() / 2]);
    node.log.append_entry(index + 2, 1, 3, &data[data.len() / 2..]);
    let mut write = node.log.next_write().unwrap();
    if write.blocks[0].0[6] != 0 {
        // It does not fit, so the seal comes first.
        node.disk.write(&write);
        _ = node.log.written(write);
        write = node.log.next_write().unwrap();
    }
    assert_eq!(write.blocks.len(), blocks);
    (node, write)
}

/// The power went while a write was in flight. The device had written some of its blocks, in no order. The write was
/// never acknowledged; all before it was.
#[test]
fn a_torn_write_is_cut_whichever_of_its_blocks_arrived() {
    for recycled in [false, true] {
        for blocks in 1..=5 {
            let (node, write) = in_flight(blocks, recycled);
            let before = node.disk.recover().unwrap();
            for arrived in 0_u32..(1 << blocks) {
                let mut disk = node.disk.clone();
                disk.tear(&write, |i| arrived & (1 << i) != 0);
                let outcome = disk.recover().unwrap();
                let whole = arrived + 1 == 1 << blocks;
                let more = if whole { 2 } else { 0 };
                assert_eq!(outcome.records.len(), before.records.len() + more);
                assert_eq!(outcome.records[..before.records.len()], before.records);
                assert_eq!(outcome.recovered.torn.is_some(), arrived != 0 && !whole);

                // It is erased, and the log goes on as if it had never been.
                let mut node = Node::start(disk);
                assert!(node.disk.recover().unwrap().recovered.torn.is_none());
                let index = node.log.last_index() + 1;
                node.entry(index, 2, 100);
                let kept = node.disk.recover().unwrap().kept();
                assert_eq!(kept[..outcome.records.len()], outcome.kept());
                assert_eq!(kept.len(), outcome.records.len() + 1);
            }
        }
    }
}

/// A node that was elected, or has voted, must not forget its vote because of a torn write after it, and vote again in the same
/// term. Nor may it take a term and a vote from the torn write, which it told nobody about.
#[test]
fn term_and_vote_are_forgotten_with_a_torn_write_or_taken_from_it() {
    for sizes in [&[9_000][..], &[6_000, 6_000]] {
        let mut node = Node::create();
        node.entry(1, 1, 10);
        let before = HardState { term: 4, vote: 3, commit: 1 };
        node.log.append_hard_state(before.term, before.vote, before.commit);
        node.flush();
        // The write in progress contains entries of a later term, and then that term with another vote.
        for (index, size) in (2..).zip(sizes) {
            node.log.append_entry(index, 6, 0, &vec![7; *size]);
        }
        let after = HardState { term: 6, vote: 2, commit: node.log.last_index() };
        node.log.append_hard_state(after.term, after.vote, after.commit);
        let write = node.log.next_write().unwrap();
        let blocks = write.blocks.len();
        assert!(blocks > 2);
        for arrived in 0_u32..(1 << blocks) {
            let mut disk = node.disk.clone();
            disk.tear(&write, |i| arrived & (1 << i) != 0);
            let expected = if arrived + 1 == 1 << blocks { after } else { before };
            assert_eq!(disk.recover().unwrap().recovered.hard_state, expected, "blocks {arrived:b} of {blocks}");
            // The same holds after the torn write is cut and the log has continued.
            let mut node = Node::start(disk);
            assert_eq!(node.log.hard_state(), expected);
            node.flush();
            assert_eq!(node.disk.recover().unwrap().recovered.hard_state, expected);
            node.entry(node.log.last_index() + 1, expected.term, 10);
            assert_eq!(node.disk.recover().unwrap().recovered.hard_state, expected);
        }
    }
}

/// The power went again while the blocks of a torn write were being erased: any of them may still be there.
#[test]
fn a_crash_while_a_torn_write_is_erased_changes_nothing() {
    let (node, write) = in_flight(5, true);
    for arrived in 1_u32..31 {
        for erased in 0_u32..32 {
            let mut disk = node.disk.clone();
            disk.tear(&write, |i| arrived & (1 << i) != 0);
            let first = disk.recover().unwrap();
            let torn = first.recovered.torn.clone().unwrap();
            for i in (0..5_u64).filter(|i| erased & (1 << i) != 0) {
                let offset = torn.offset + i * BLOCK as u64;
                disk.put(&torn.file, offset, &[0; BLOCK]);
            }
            let second = disk.recover().unwrap();
            assert_eq!(first.records, second.records);
            assert_eq!(first.recovered.durable, second.recovered.durable);
        }
    }
}

/// A torn write whose blocks are not erased could be completed by those of a later write with the same number.
#[test]
fn what_a_torn_write_left_is_erased_before_its_number_is_used_again() {
    let (node, write) = in_flight(3, false);
    let mut disk = node.disk.clone();
    disk.tear(&write, |i| i > 0);
    let steps = disk.recover().unwrap().recovered.steps;
    let erase = Erase { file: write.file(), offset: write.offset, length: 3 * BLOCK as u64 };
    assert_eq!(steps[0], Step::Erase(erase));
    assert_eq!(steps[1], Step::Sync(write.file()));
}

/// A process that was killed, not a power cut: a whole write may be in a cache only. Before it is relied on it is synced.
#[test]
fn what_was_read_is_synced_before_it_is_relied_on() {
    let mut node = Node::create();
    node.fill_to(2);
    let steps = node.disk.recover().unwrap().recovered.steps;
    let names = [name::segment(1), name::segment(2)];
    let syncs = names.map(Step::Sync);
    assert_eq!(steps[..2], syncs);
    assert_eq!(steps.last(), Some(&Step::SyncDirectory));
}

/// A leader that lost its term is overwritten by the next one: the later record counts.
#[test]
fn an_uncommitted_suffix_is_replaced() {
    let mut node = Node::create();
    for index in 1..=5 {
        node.entry(index, 1, 10);
    }
    node.log.append_hard_state(1, 0, 2);
    node.flush();
    node.entry(3, 2, 20);
    node.entry(4, 2, 20);
    let outcome = node.disk.recover().unwrap();
    let terms: Vec<_> = outcome.entries().iter().map(|&(index, term, _)| (index, term)).collect();
    assert_eq!(terms, [(1, 1), (2, 1), (3, 2), (4, 2)]);
    assert_eq!((outcome.recovered.last_index, outcome.recovered.last_term), (4, 2));
}

/// A crash at each point of the way from one segment to the next.
#[test]
fn every_point_of_the_way_into_the_next_segment_is_recovered() {
    let mut node = Node::create();
    for (records, index) in (1..60).enumerate() {
        node.log.append_entry(index, 1, 0, b"x");
        while node.log.staged() {
            for segments in [false, true] {
                if segments {
                    node.prepare();
                }
                let outcome = node.disk.recover().unwrap();
                assert_eq!(outcome.records.len(), records);
            }
            let write = node.log.next_write().unwrap();
            node.disk.write(&write);
            _ = node.log.written(write);
        }
    }
    assert!(node.disk.files.len() > 6);
}

/// A directory right after its founding, and one whose first write is torn.
#[test]
fn an_empty_log_is_recovered() {
    let node = Node::create();
    let outcome = node.disk.recover().unwrap();
    assert_eq!(outcome.recovered.last_index, 0);
    assert_eq!(outcome.recovered.hard_state, HardState::default());
    let mut node = Node::start(node.disk);
    node.log.append_entry(1, 1, 0, &[1; 9000]);
    let write = node.log.next_write().unwrap();
    node.disk.tear(&write, |i| i == 1);
    let mut node = Node::start(node.disk);
    assert_eq!(node.log.last_index(), 0);
    node.entry(1, 1, 10);
    assert_eq!(node.disk.recover().unwrap().records.len(), 1);
}

/// Files in the making mean nothing, whatever they hold; a stranger's file is left alone.
#[test]
fn files_in_the_making_are_removed_and_strangers_left_alone() {
    let mut node = Node::create();
    node.entry(1, 1, 10);
    let temporary = name::temporary(&name::segment(3));
    node.disk.files.insert(temporary.clone(), vec![7; 5]);
    node.disk.files.insert("notes.txt".to_owned(), vec![7; 5]);
    let steps = node.disk.recover().unwrap().recovered.steps;
    assert!(steps.contains(&Step::Remove(temporary)));
    assert!(!format!("{steps:?}").contains("notes"));
}

/// A crash in the midst of removing old segments, which a device may carry out in any order, leaves a gap before the
/// first segment that is needed.
#[test]
fn what_an_interrupted_removal_left_is_removed() {
    let mut node = Node::create();
    node.fill_to(6);
    let index = node.log.last_index();
    node.log.append_hard_state(1, 0, index);
    node.flush();
    node.disk.snapshot(index, 1, &[]);
    node.disk.files.remove(&name::segment(2));
    node.disk.files.remove(&name::segment(4));
    let recovered = node.disk.recover().unwrap().recovered;
    for gone in [1, 3] {
        assert!(recovered.steps.contains(&Step::Remove(name::segment(gone))));
    }
    let mut node = Node::start(node.disk);
    node.entry(index + 1, 1, 10);
    assert_eq!(node.disk.recover().unwrap().recovered.last_index, index + 1);
}

/// A hard state was lost with the write that held it, while an entry of its term was in the write before: the node must
/// neither fall back behind that term, nor believe that it voted in it.
#[test]
fn the_term_is_at_least_that_of_the_last_entry() {
    let mut node = Node::create();
    node.entry(1, 1, 10);
    node.log.append_hard_state(1, 3, 1);
    node.flush();
    node.entry(2, 5, 10);
    let hard = node.disk.recover().unwrap().recovered.hard_state;
    assert_eq!(hard, HardState { term: 5, vote: 0, commit: 1 });
    let mut node = Node::start(node.disk);
    node.flush();
    assert_eq!(node.disk.recover().unwrap().recovered.hard_state, hard);
    assert_eq!(node.disk.recover().unwrap().kept().last(), Some(&Kept::HardState(hard)));
}
