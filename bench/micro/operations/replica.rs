//! Batches of commands, and the frames in which a leader sends them to the others.

use std::hint::black_box;

use bytes::Bytes;
use doozer::replica::batch::{self, Command, Gather, Origin};
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
