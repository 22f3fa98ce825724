//! Space is foreseen: what was accepted fits, and what does not fit is refused before it is accepted.

use super::disk::*;
use crate::limits::BLOCK;
use crate::log::*;

/// The disk is full when the next segment is to be prepared. Nothing that was accepted may be stuck, and it heals.
#[test]
fn a_full_disk_refuses_before_it_breaks_and_heals() {
    let mut node = Node::create();
    let mut log = Log::create(PARAMS);
    assert_eq!(log.room(), Room::Waiting);
    assert_eq!(log.wants_segment().map(|prepare| prepare.generation), Some(1));
    assert!(log.wants_segment().is_none());
    // The second segment is there; there is no space for a third.
    let mut index = 0;
    let mut failed = false;
    while node.log.room() == Room::Open || !failed {
        assert!(node.log.can_accept(1, 3000));
        index += 1;
        node.log.append_entry(index, 1, 0, &[1; 3000]);
        while node.log.staged() {
            let write = node.log.next_write().expect("what was accepted fits");
            node.disk.write(&write);
            _ = node.log.written(write);
        }
        if let Some(prepare) = node.log.wants_segment() {
            node.log.prepare_failed(prepare.generation);
            failed = true;
        }
    }
    assert_eq!(node.log.room(), Room::Full);
    assert!(node.log.wants_segment().is_none());
    // Raft's own records still go through.
    node.log.append_hard_state(2, 1, index);
    let write = node.log.next_write().expect("there is a reserve");
    node.disk.write(&write);
    _ = node.log.written(write);
    node.log.retry_segment();
    node.prepare();
    assert_eq!(node.log.room(), Room::Open);
    node.entry(index + 1, 2, 10);
    assert_eq!(node.disk.recover().unwrap().recovered.last_index, index + 1);
}

/// Whatever sizes come: if the log says that they fit, they are written without another segment.
#[test]
fn what_was_accepted_always_fits() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut node = Node::create();
        let mut index = 0;
        // Any amount of history, then no more segments.
        for _ in 0..rng.below(20) {
            index += 1;
            node.entry(index, 1, 1 + rng.below(9000));
        }
        let mut in_flight = None;
        for _ in 0..200 {
            let count = 1 + rng.below(4);
            let sizes: Vec<_> = (0..count).map(|_| rng.below(12_000)).collect();
            if node.log.can_accept(count, sizes.iter().sum()) {
                for size in sizes {
                    index += 1;
                    node.log.append_entry(index, 1, 0, &vec![1; size]);
                }
            }
            if rng.below(3) == 0 {
                if let Some(write) = in_flight.take() {
                    _ = node.log.written(write);
                }
                in_flight = node.log.next_write();
            }
        }
        if let Some(write) = in_flight.take() {
            _ = node.log.written(write);
        }
        while node.log.staged() {
            let write = node.log.next_write().expect("what was accepted fits");
            _ = node.log.written(write);
        }
    }
}

/// A proof that covers more than was written releases a vote that a crash takes back.
#[test]
fn a_proof_covers_what_its_write_held_and_no_more() {
    let mut node = Node::create();
    let first = node.log.append_entry(1, 1, 0, b"a");
    assert!(!node.log.durable().covers(first));
    let write = node.log.next_write().unwrap();
    let second = node.log.append_entry(2, 1, 0, b"b");
    assert!(node.log.next_write().is_none(), "one is in flight");
    let durable = node.log.written(write);
    assert!(durable.covers(first) && !durable.covers(second));
    let write = node.log.next_write().unwrap();
    assert!(node.log.written(write).covers(second));
}

/// What gathers while a write is in flight becomes one write, as far as one can hold it.
#[test]
fn what_gathers_is_one_write() {
    let mut node = Node::create();
    node.log.append_entry(1, 1, 0, b"a");
    let write = node.log.next_write().unwrap();
    for index in 2..50 {
        node.log.append_entry(index, 1, 0, b"b");
    }
    _ = node.log.written(write);
    let write = node.log.next_write().unwrap();
    assert_eq!(write.blocks.len(), 1);
    let durable = node.log.written(write);
    assert!(durable.covers(node.log.position()));
}

/// Disk use is bounded by the data: with snapshots, a long life takes a handful of files.
#[test]
fn old_segments_are_used_again_or_removed() {
    let mut node = Node::create();
    for generation in (4..60).step_by(4) {
        node.fill_to(generation);
        node.log.release(node.log.last_index());
        node.prepare();
        assert!(node.disk.files.len() <= 4, "{:?}", node.disk.files.keys());
    }
}

/// A segment whose entries a snapshot covers only in part must stay.
#[test]
fn a_segment_stays_until_all_of_it_is_covered() {
    let mut node = Node::create();
    node.fill_to(3);
    node.log.release(2);
    node.prepare();
    assert!(node.disk.files.contains_key(&name::segment(1)));
    assert!(node.log.bytes_since(2) > 0);
}

/// A segment that was just sealed must not go before the next one holds a write: the state of the log would be lost.
#[test]
fn the_last_segment_with_a_write_stays() {
    let mut node = Node::create();
    let mut index = 0;
    let sealed = loop {
        index += 1;
        node.log.append_entry(index, 1, 0, b"x");
        let write = node.log.next_write().unwrap();
        node.disk.write(&write);
        let records = node.log.position();
        if !node.log.written(write).covers(records) {
            break true;
        }
    };
    assert!(sealed, "the write was a seal: the entry is still staged");
    node.log.release(u64::MAX);
    assert!(node.log.take_removals().is_empty());
    assert!(node.log.wants_segment().is_some_and(|prepare| prepare.recycle.is_none()));
}

/// How much a restart would replay decides when a snapshot is taken.
#[test]
fn bytes_behind_an_index_are_counted() {
    let params = Params { segment_size: 4 << 20, ..PARAMS };
    let mut log = Log::create(params);
    let mut disk = Disk::default();
    for index in 1..=100 {
        while let Some(prepare) = log.wants_segment() {
            disk.prepare(&prepare);
            log.prepared(prepare.generation);
        }
        log.append_entry(index, 1, 0, &[0; 100_000]);
        while let Some(write) = log.next_write() {
            disk.write(&write);
            _ = log.written(write);
        }
    }
    let near = |bytes: u64, expected: u64| bytes.abs_diff(expected) < 500_000;
    for log in [log, Log::resume(params, &disk.recover().unwrap().recovered)] {
        assert!(near(log.bytes_since(0), 10_300_000), "{}", log.bytes_since(0));
        assert!(near(log.bytes_since(50), 5_150_000), "{}", log.bytes_since(50));
        assert!(log.bytes_since(100) < 500_000);
    }
}

/// A node whose segments were of another size goes on with them, and makes new ones of the size that it is told.
#[test]
fn segments_of_another_size_are_understood() {
    let mut node = Node::create();
    node.entry(1, 1, 10);
    let params = Params { segment_size: 6 * BLOCK as u64, ..PARAMS };
    let recovered = node.disk.recover().unwrap().recovered;
    node.log = Log::resume(params, &recovered);
    node.fill_to(5);
    assert_eq!(node.disk.files[&name::segment(5)].len(), 6 * BLOCK);
    let index = node.log.last_index();
    node.log.append_hard_state(1, 0, index);
    node.flush();
    node.disk.snapshot(index, 1, &[]);
    node.log.release(index);
    node.prepare();
    assert_eq!(node.disk.recover().unwrap().recovered.last_index, node.log.last_index());
}
