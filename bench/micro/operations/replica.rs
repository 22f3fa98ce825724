//! Batches of commands, the frames in which a leader sends them to the others, and what is counted of their stages.

use std::hint::black_box;

use bytes::Bytes;
use doozer::replica::batch::{self, Command, Gather, Origin};
use doozer::replica::stages::Stages;
use doozer::store::Mutation;
use doozer::wire::peer::{self, Frame, Route};
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Listed, VALUE, path};

const TIMES: u32 = 50;

pub const OPERATIONS: &[Listed] = &[
    ("batch/encode-1", TIMES, || encode(1)),
    ("batch/encode-64", TIMES, || encode(64)),
    ("batch/decode-1", TIMES, || decode(1)),
    ("batch/decode-64", TIMES, || decode(64)),
    ("batch/verify-64", TIMES, || verify(64)),
    ("batch/merge-3x64", TIMES, || merge(64)),
    ("peer/encode-append-1", TIMES, || encode_append(1)),
    ("peer/encode-append-64", TIMES, || encode_append(64)),
    ("peer/decode-append-1", TIMES, || decode_append(1)),
    ("peer/decode-append-64", TIMES, || decode_append(64)),
    ("stages/commit-1", TIMES, || stages(1)),
    ("stages/commit-64", TIMES, || stages(64)),
];

const ROUTE: Route = Route { from: 1, to: 2, hops: 4 };

fn gather() -> Gather {
    Gather::new(Origin { node: 1, epoch: 1 })
}

fn push(gather: &mut Gather, path: &str) {
    let mutation = Mutation::Set { path: black_box(path.as_bytes()), rev: -1, value: black_box(&VALUE.0) };
    black_box(gather.push(&Command::from(mutation)));
}

/// A batch of so many SETs.
pub fn sets(count: u32) -> Vec<u8> {
    let mut gather = gather();
    (0..count).for_each(|i| push(&mut gather, &path(i)));
    gather.take().expect("a batch")
}

/// From the first command to the finished batch.
fn encode(count: u32) -> Box<dyn FnMut()> {
    let paths: Vec<String> = (0..count).map(path).collect();
    let mut gather = gather();
    Box::new(move || {
        for _ in 0..TIMES {
            paths.iter().for_each(|path| push(&mut gather, path));
            let batch = gather.take().expect("a batch");
            gather.reserve(batch.len());
            black_box(batch);
        }
    })
}

fn decode(count: u32) -> Box<dyn FnMut()> {
    let batch = sets(count);
    Box::new(move || {
        for _ in 0..TIMES {
            let mut commands = 0;
            let whole = batch::decode(black_box(&batch), |_, _, command| {
                black_box(command);
                commands += 1;
            });
            assert!(whole.is_ok() && commands == count);
        }
    })
}

fn verify(count: u32) -> Box<dyn FnMut()> {
    let batch = sets(count);
    Box::new(move || {
        for _ in 0..TIMES {
            assert!(batch::verify(black_box(&batch)).is_ok());
        }
    })
}

fn merge(count: u32) -> Box<dyn FnMut()> {
    let batches = [(); 3].map(|()| Bytes::from(sets(count)));
    Box::new(move || {
        for _ in 0..TIMES {
            black_box(batch::merge(black_box(&batches)));
        }
    })
}

/// The leader's message with one entry, a batch of so many SETs.
fn append(count: u32) -> Message {
    let entry = Entry { term: 3, index: 1001, data: Bytes::from(sets(count)), ..Entry::default() };
    Message {
        msg_type: MessageType::MsgAppend,
        from: 1,
        to: 2,
        term: 3,
        log_term: 3,
        index: 1000,
        commit: 1000,
        entries: vec![entry].into(),
        ..Message::default()
    }
}

/// Into the buffer of a link, which was as large before.
fn encode_append(count: u32) -> Box<dyn FnMut()> {
    let (message, mut out) = (append(count), Vec::new());
    Box::new(move || {
        for _ in 0..TIMES {
            out.clear();
            peer::encode_raft(ROUTE, black_box(&message), &mut out);
            black_box(&out);
        }
    })
}

fn decode_append(count: u32) -> Box<dyn FnMut()> {
    let mut frame = Vec::new();
    peer::encode_raft(ROUTE, &append(count), &mut frame);
    Box::new(move || {
        for _ in 0..TIMES {
            let received = peer::decode(black_box(&frame)).expect("a frame");
            assert!(matches!(&received.frame, Frame::Raft(message) if message.entries.len() == 1));
            black_box(received);
        }
    })
}

/// All that is counted of a batch on its way, without the readings of the clock: those are a fixed number for each batch.
fn stages(count: u64) -> Box<dyn FnMut()> {
    let mut stages = Stages::new(|| black_box(1_000));
    let mut next = 1;
    Box::new(move || {
        for _ in 0..TIMES {
            next += count;
            (0..count).for_each(|_| stages.received());
            stages.gathered(next, count, true);
            stages.proposed();
            stages.submitted(black_box(1));
            stages.written();
            stages.committed();
            stages.applied(next);
            (0..count).for_each(|_| stages.handed_out());
            stages.end_turn();
        }
        let counted = stages.histograms().into_iter().find(|(name, _)| name == "commit_total_ns");
        assert!(counted.is_some_and(|(_, total)| total.count() * count == next - 1));
    })
}
