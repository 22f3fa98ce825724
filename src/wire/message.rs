//! Requests and responses, borrowed from the bytes they came in.
//!
//! ```text
//! Request   1 tag   2 verb   4 path   5 value   7 offset   9 rev      (6, other_tag, is ignored)
//! Response  1 tag   2 flags   3 rev   5 path   6 value   8 len   100 err_code   101 err_detail
//! ```
//! Every field is optional, and absent is not the same as empty or zero. Decoding: the last of a repeated field wins,
//! a field of the wrong wire type is as if absent, and unknown fields are skipped. Encoding: in the order of the
//! numbers, a whole frame at once, so that the header and the body of an answer leave together.

use super::code::{ErrCode, Verb};
use super::fields::{
    Malformed, Payload, Reader, bytes_len, int_len, int32, put_bytes, put_bytes_head, put_int32, put_int64,
};
use super::frame::HEADER;
use crate::faults::{self, Fault};

/// What a client asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the client; the answer bears it.
    pub tag: Option<i32>,
    /// See [`Verb`].
    pub verb: Option<i32>,
    /// A path or glob. Any bytes: whether it is one is the store's to judge.
    pub path: Option<&'a [u8]>,
    /// A file's body, or a secret.
    pub value: Option<&'a [u8]>,
    /// Position within a directory or walk.
    pub offset: Option<i32>,
    /// A revision.
    pub rev: Option<i64>,
}

impl<'a> Request<'a> {
    /// A request of `verb` with no other field.
    #[must_use]
    pub const fn new(verb: Verb) -> Self {
        Self { tag: None, verb: Some(verb.code()), path: None, value: None, offset: None, rev: None }
    }

    /// Decodes a frame's body.
    ///
    /// # Errors
    /// The bytes are no protobuf message.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        let mut fields = Reader::new(body);
        while let Some(field) = fields.next_field()? {
            match field {
                (1, Payload::Varint(n)) => request.tag = Some(int32(n)),
                (2, Payload::Varint(n)) => request.verb = Some(int32(n)),
                (4, Payload::Bytes(b)) => request.path = Some(b),
                (5, Payload::Bytes(b)) => request.value = Some(b),
                (7, Payload::Varint(n)) => request.offset = Some(int32(n)),
                (9, Payload::Varint(n)) => request.rev = Some(n.cast_signed()),
                _ => {}
            }
        }
        Ok(request)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEADER
            + int_len(1, self.tag.map(i64::from))
            + int_len(2, self.verb.map(i64::from))
            + bytes_len(4, self.path)
            + bytes_len(5, self.value)
            + int_len(7, self.offset.map(i64::from))
            + int_len(9, self.rev)
    }

    /// Appends the whole frame to `out`.
    ///
    /// # Panics
    /// The frame is of 2 GiB or more: its length has no encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end = begin(out, self.frame_len());
        put_int32(out, 1, self.tag);
        put_int32(out, 2, self.verb);
        put_bytes(out, 4, self.path);
        put_bytes(out, 5, self.value);
        put_int32(out, 7, self.offset);
        put_int64(out, 9, self.rev);
        assert_eq!(out.len(), end, "a request's length is what was announced");
    }
}

/// What a server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request's.
    pub tag: Option<i32>,
    /// See [`super::FLAG_SET`] and [`super::FLAG_DEL`].
    pub flags: Option<i32>,
    /// A revision.
    pub rev: Option<i64>,
    /// A path, or the bare name of a directory's entry.
    pub path: Option<&'a [u8]>,
    /// A file's body, or the server's id.
    pub value: Option<&'a [u8]>,
    /// Length of a file, or number of a directory's entries.
    pub len: Option<i32>,
    /// See [`ErrCode`]; present if and only if the request failed.
    pub err_code: Option<i32>,
    /// Says more than the code.
    pub err_detail: Option<&'a [u8]>,
}

impl<'a> Response<'a> {
    /// The answer to a request that failed.
    #[must_use]
    pub const fn error(tag: Option<i32>, code: ErrCode, detail: Option<&'a [u8]>) -> Self {
        Self {
            tag,
            flags: None,
            rev: None,
            path: None,
            value: None,
            len: None,
            err_code: Some(code.code()),
            err_detail: detail,
        }
    }

    /// Decodes a frame's body.
    ///
    /// # Errors
    /// The bytes are no protobuf message.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        let mut fields = Reader::new(body);
        while let Some(field) = fields.next_field()? {
            match field {
                (1, Payload::Varint(n)) => response.tag = Some(int32(n)),
                (2, Payload::Varint(n)) => response.flags = Some(int32(n)),
                (3, Payload::Varint(n)) => response.rev = Some(n.cast_signed()),
                (5, Payload::Bytes(b)) => response.path = Some(b),
                (6, Payload::Bytes(b)) => response.value = Some(b),
                (8, Payload::Varint(n)) => response.len = Some(int32(n)),
                (100, Payload::Varint(n)) => response.err_code = Some(int32(n)),
                (101, Payload::Bytes(b)) => response.err_detail = Some(b),
                _ => {}
            }
        }
        Ok(response)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEADER
            + int_len(1, self.tag.map(i64::from))
            + int_len(2, self.flags.map(i64::from))
            + int_len(3, self.rev)
            + bytes_len(5, self.path)
            + bytes_len(6, self.value)
            + int_len(8, self.len.map(i64::from))
            + int_len(100, self.err_code.map(i64::from))
            + bytes_len(101, self.err_detail)
    }

    /// Appends the frame to `out`, except its value, which the caller sends after it.
    ///
    /// # Panics
    /// If the response has no value, or a field that comes after the value.
    pub fn encode_before_value(&self, out: &mut Vec<u8>) {
        let value = self.value.map_or(0, <[u8]>::len);
        assert!(self.value.is_some() && self.len.is_none() && self.err_code.is_none() && self.err_detail.is_none());
        let len = self.frame_len();
        out.reserve(len - value);
        let (end, body) = (out.len() + len, i32::try_from(len - HEADER).expect("a frame's length fits 31 bits"));
        out.extend_from_slice(&body.to_be_bytes());
        put_int32(out, 1, self.tag);
        put_int32(out, 2, self.flags);
        put_int64(out, 3, self.rev);
        put_bytes(out, 5, self.path);
        put_bytes_head(out, 6, value);
        assert_eq!(out.len() + value, end, "a response's length is what was announced");
    }

    /// Appends the whole frame to `out`.
    ///
    /// # Panics
    /// The frame is of 2 GiB or more: its length has no encoding.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        if faults::is_armed(Fault::EmptyValueLeftOut) && self.value == Some(&[]) {
            return Self { value: None, ..*self }.encode(out);
        }
        let end = begin(out, self.frame_len());
        put_int32(out, 1, self.tag);
        put_int32(out, 2, self.flags);
        put_int64(out, 3, self.rev);
        put_bytes(out, 5, self.path);
        put_bytes(out, 6, self.value);
        put_int32(out, 8, self.len);
        put_int32(out, 100, self.err_code);
        put_bytes(out, 101, self.err_detail);
        assert_eq!(out.len(), end, "a response's length is what was announced");
    }
}

/// Makes room for a frame of `len` bytes, appends its header, and returns where it will end.
fn begin(out: &mut Vec<u8>, len: usize) -> usize {
    out.reserve(len);
    let body = i32::try_from(len - HEADER).expect("a frame's length fits 31 bits");
    let end = out.len() + len;
    out.extend_from_slice(&body.to_be_bytes());
    end
}

#[cfg(test)]
mod tests;
