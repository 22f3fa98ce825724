//! The clients' protocol: requests as they come in a buffer, answers as they go out.

use std::hint::black_box;

use doozer::wire::frame::{self, Split};
use doozer::wire::{ErrCode, FLAG_SET, Request, Response, Verb};

use super::{Listed, VALUE, path};

const TIMES: u32 = 64;

pub const OPERATIONS: &[Listed] = &[
    ("wire/decode-set", TIMES, || decode(|path| request(Verb::Set, path, Some(&VALUE.0)))),
    ("wire/decode-get", TIMES, || decode(|path| request(Verb::Get, path, None))),
    ("wire/encode-set-answer", TIMES, || encode(Response { rev: Some(123_456), ..Response::default() })),
    ("wire/encode-get-answer", TIMES, || {
        encode(Response { flags: Some(FLAG_SET), rev: Some(123_456), value: Some(&VALUE.0), ..Response::default() })
    }),
    ("wire/encode-error", TIMES, || encode(Response::error(None, ErrCode::RevMismatch, None))),
];

fn request<'a>(verb: Verb, path: &'a [u8], value: Option<&'a [u8]>) -> Request<'a> {
    Request { tag: Some(7), path: Some(path), value, rev: Some(-1), ..Request::new(verb) }
}

/// Finds and decodes the requests of a full buffer.
fn decode(request: fn(&[u8]) -> Request<'_>) -> Box<dyn FnMut()> {
    let mut buffer = Vec::new();
    for i in 0..TIMES {
        request(path(i).as_bytes()).encode(&mut buffer);
    }
    Box::new(move || {
        let buffer = black_box(&buffer[..]);
        let mut at = 0;
        while at < buffer.len() {
            let Ok(Split::Whole { body, consumed }) = frame::split(&buffer[at..]) else { panic!("a whole frame") };
            let request = Request::decode(&buffer[at + body.start..at + body.end]).expect("a request");
            assert_eq!(black_box(request).tag, Some(7));
            at += consumed;
        }
    })
}

/// Encodes answers into a connection's buffer, which was as large before.
fn encode(response: Response<'static>) -> Box<dyn FnMut()> {
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for tag in 0..TIMES.cast_signed() {
            black_box(Response { tag: Some(tag), ..response }).encode(&mut out);
        }
        black_box(&out);
    })
}
