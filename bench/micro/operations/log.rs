//! The log: from an entry to the blocks of a write, with their checksums, and what its completion costs.

use std::hint::black_box;

use doozer::limits::SEGMENT;
use doozer::log::{Log, Params};

use super::Listed;
use super::replica::sets;

const TIMES: u32 = 50;

pub const OPERATIONS: &[Listed] = &[
    ("log/write-1", TIMES, || write(1, 1)),
    ("log/write-64", TIMES, || write(64, 1)),
    ("log/write-16x1", TIMES, || write(1, 16)),
];

/// A write of so many entries, each a batch of so many SETs, and the hard state.
fn write(commands: u32, entries: u32) -> Box<dyn FnMut()> {
    let batch = sets(commands);
    let mut log = Log::create(Params { segment_size: SEGMENT, node: [7; 16] });
    // The first segment and the next one.
    for _ in 0..2 {
        let prepare = log.wants_segment().expect("a segment is wanted");
        log.prepared(prepare.generation);
    }
    Box::new(move || {
        for _ in 0..TIMES {
            for _ in 0..entries {
                log.append_entry(log.last_index() + 1, 1, 0, black_box(&batch));
            }
            let position = log.append_hard_state(1, 1, log.last_index() - u64::from(entries));
            let write = log.next_write().expect("a write");
            black_box(write.bytes());
            assert!(log.written(write).covers(position));
        }
    })
}
