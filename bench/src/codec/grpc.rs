//! gRPC over HTTP/2, as far as one client of one kind of server needs it (RFC 9113, RFC 7541, gRPC's PROTOCOL-HTTP2).
//!
//! ```text
//! frame     length:3  type:1  flags:1  stream:4  payload
//! message   compressed:1 (0)  length:4  bytes           in DATA frames, which may hold parts of one or several
//! ```
//! A request is HEADERS, whose block is the same bytes for each call of a method, and DATA that ends the stream. An
//! answer is HEADERS, a message in DATA, and HEADERS again with the status of gRPC: only then the call has succeeded.
//!
//! We grant the server windows that it cannot use up. The server's own are respected: what they do not admit waits in
//! the order of the calls. We allow no table of headers (SETTINGS_HEADER_TABLE_SIZE 0), so that each block can be read by
//! itself: see [`hpack`].

pub mod hpack;

use std::collections::{BTreeMap, VecDeque};

use crate::failure::Failure;
use hpack::grpc_status;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// Before a message: not compressed, and its length.
const PREFIX: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// A padded frame, or one with a priority: nobody sends them.
const PADDED_OR_PRIORITY: u8 = 0x28;

const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
const SETTINGS_ENABLE_PUSH: u16 = 2;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// What each side may send before it is told otherwise.
const WINDOW: u32 = 65_535;
/// The largest there is.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The connection's window is opened again when so much of it was used.
const WINDOW_USED: u32 = 1 << 30;
/// Largest payload that every receiver takes.
const FRAME_MAX: usize = 16_384;

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// It speaks HTTP/2.
    Open,
    /// A message.
    Message {
        /// Of this call.
        stream: u32,
        /// The message.
        body: Body<'a>,
    },
    /// A call has succeeded.
    End {
        /// This one.
        stream: u32,
    },
}

/// Where a message is: as it was received, if it came in one piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// In what was received.
    Whole(&'a [u8]),
    /// Put together.
    Joined(Vec<u8>),
}

impl Body<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Whole(bytes) => bytes,
            Body::Joined(bytes) => bytes,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Grpc {
    open: bool,
    next_stream: u32,
    /// What the server still takes on the connection.
    window: i64,
    /// What it takes on a stream at first.
    initial_window: i64,
    /// The same of streams that stay open. Other streams carry one message, which has to fit.
    long: BTreeMap<u32, i64>,
    /// DATA that waits for a window: the stream, the frame, and bytes of the frame that count.
    waiting: VecDeque<(u32, Vec<u8>, i64)>,
    /// What was received since the window of the connection was opened last.
    received: u32,
    /// Messages of which not all is there.
    partial: BTreeMap<u32, Vec<u8>>,
    /// Messages that came in one frame, but for the first.
    ready: VecDeque<(u32, Vec<u8>)>,
}

impl Grpc {
    /// A new connection.
    pub fn new() -> Grpc {
        Grpc {
            open: false,
            next_stream: 1,
            window: i64::from(WINDOW),
            initial_window: i64::from(WINDOW),
            long: BTreeMap::new(),
            waiting: VecDeque::new(),
            received: 0,
            partial: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Appends what opens the connection.
    pub fn open(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(PREFACE);
        let settings =
            [(SETTINGS_HEADER_TABLE_SIZE, 0), (SETTINGS_ENABLE_PUSH, 0), (SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_MAX)];
        frame(output, SETTINGS, 0, 0, 6 * settings.len());
        for (name, value) in settings {
            output.extend_from_slice(&name.to_be_bytes());
            output.extend_from_slice(&value.to_be_bytes());
        }
        frame(output, WINDOW_UPDATE, 0, 0, 4);
        output.extend_from_slice(&(WINDOW_MAX - WINDOW).to_be_bytes());
    }

    /// Appends a call with one message, and returns its stream. A call that is not `long` ends with that.
    pub fn call(&mut self, block: &[u8], message: &[u8], long: bool, output: &mut Vec<u8>) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        frame(output, HEADERS, END_HEADERS, stream, block.len());
        output.extend_from_slice(block);
        // The window of any other call has room for its message.
        if long || (PREFIX + message.len()) as i64 > self.initial_window {
            self.long.insert(stream, self.initial_window);
        }
        self.send(stream, message, !long, output);
        stream
    }

    /// Appends one more message of a long call.
    pub fn send(&mut self, stream: u32, message: &[u8], last: bool, output: &mut Vec<u8>) {
        let mut prefix = [0; PREFIX];
        prefix[1..].copy_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        let size = PREFIX + message.len();
        if size <= FRAME_MAX && self.waiting.is_empty() && self.admit(stream, size as i64) {
            frame(output, DATA, if last { END_STREAM } else { 0 }, stream, size);
            output.extend_from_slice(&prefix);
            output.extend_from_slice(message);
            return;
        }
        let whole = [&prefix, message].concat();
        let count = size.div_ceil(FRAME_MAX);
        for (number, piece) in whole.chunks(FRAME_MAX).enumerate() {
            let mut bytes = Vec::with_capacity(HEADER + piece.len());
            frame(&mut bytes, DATA, if last && number + 1 == count { END_STREAM } else { 0 }, stream, piece.len());
            bytes.extend_from_slice(piece);
            self.waiting.push_back((stream, bytes, piece.len() as i64));
        }
        self.release(output);
    }

    /// Whether the windows have room for `size`, which is taken then.
    fn admit(&mut self, stream: u32, size: i64) -> bool {
        let long = self.long.get_mut(&stream);
        let admitted = size <= self.window && long.as_ref().is_none_or(|window| size <= **window);
        if admitted {
            self.window -= size;
            long.into_iter().for_each(|window| *window -= size);
        }
        admitted
    }

    fn release(&mut self, output: &mut Vec<u8>) {
        while let Some((stream, bytes, size)) = self.waiting.pop_front() {
            if !self.admit(stream, size) {
                self.waiting.push_front((stream, bytes, size));
                break;
            }
            output.extend_from_slice(&bytes);
        }
    }

    /// Takes the frame at the front of `input`, or a message of one that was taken before; none if it is not whole.
    ///
    /// # Errors
    /// The server breaks off a call or the connection, or is not understood.
    pub fn take<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<(usize, Option<Incoming<'a>>)>, Failure> {
        if let Some((stream, message)) = self.ready.pop_front() {
            return Ok(Some((0, Some(Incoming::Message { stream, body: Body::Joined(message) }))));
        }
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = number(&[0, header[0], header[1], header[2]]);
        let (kind, flags, stream) = (header[3], header[4], number(&header[5..]) & WINDOW_MAX);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > FRAME_MAX {
            return Err(Failure::new(format!("a frame of {length} bytes and type {kind}")));
        }
        let Some(payload) = rest.get(..size) else { return Ok(None) };
        if matches!(kind, DATA | HEADERS) && flags & PADDED_OR_PRIORITY != 0 {
            return Err(Failure::new("a frame that is padded or has a priority"));
        }
        let incoming = match kind {
            DATA => self.data(stream, payload, output)?,
            HEADERS => self.headers(stream, flags, payload)?,
            SETTINGS if flags & ACK == 0 => self.settings(payload, output),
            PING if flags & ACK == 0 => {
                frame(output, PING, ACK, 0, payload.len());
                output.extend_from_slice(payload);
                None
            }
            WINDOW_UPDATE => {
                let more = i64::from(number(payload));
                if stream == 0 {
                    self.window += more;
                } else {
                    self.long.get_mut(&stream).into_iter().for_each(|window| *window += more);
                }
                self.release(output);
                None
            }
            RST_STREAM => return Err(Failure::new(format!("a call is broken off, with code {}", number(payload)))),
            GOAWAY => {
                let (code, why) = (number(payload.get(4..).unwrap_or_default()), payload.get(8..).unwrap_or_default());
                let why = String::from_utf8_lossy(why);
                return Err(Failure::new(format!("the connection is broken off, with code {code} {why}")));
            }
            _ => None,
        };
        Ok(Some((HEADER + size, incoming)))
    }

    fn data<'a>(
        &mut self,
        stream: u32,
        payload: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Incoming<'a>>, Failure> {
        self.received += u32::try_from(payload.len()).unwrap_or(0);
        if self.received > WINDOW_USED {
            frame(output, WINDOW_UPDATE, 0, 0, 4);
            output.extend_from_slice(&self.received.to_be_bytes());
            self.received = 0;
        }
        if self.partial.is_empty()
            && let Some(size) = message(payload)?
            && size == payload.len()
        {
            return Ok(Some(Incoming::Message { stream, body: Body::Whole(&payload[PREFIX..]) }));
        }
        let partial = self.partial.entry(stream).or_default();
        partial.extend_from_slice(payload);
        let mut used = 0;
        while let Some(size) = message(&partial[used..])? {
            self.ready.push_back((stream, partial[used + PREFIX..used + size].to_vec()));
            used += size;
        }
        partial.drain(..used);
        if partial.is_empty() {
            self.partial.remove(&stream);
        }
        Ok(None)
    }

    fn headers(&mut self, stream: u32, flags: u8, block: &[u8]) -> Result<Option<Incoming<'static>>, Failure> {
        if flags & END_HEADERS == 0 {
            return Err(Failure::new("a header block in several frames"));
        }
        let status = grpc_status(block).map_err(|e| e.within("a header block"))?;
        if flags & END_STREAM == 0 {
            return Ok(None);
        }
        if self.partial.contains_key(&stream) {
            return Err(Failure::new("a call ends within a message"));
        }
        match status {
            Some(b"0") => {
                self.long.remove(&stream);
                Ok(Some(Incoming::End { stream }))
            }
            Some(code) => {
                Err(Failure::new(format!("a call failed, with gRPC's status {}", String::from_utf8_lossy(code))))
            }
            None => Err(Failure::new("a call ends without a status")),
        }
    }

    fn settings(&mut self, payload: &[u8], output: &mut Vec<u8>) -> Option<Incoming<'static>> {
        for setting in payload.chunks_exact(6) {
            let (name, value) = (u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..]));
            if name == SETTINGS_INITIAL_WINDOW_SIZE {
                let more = i64::from(value) - self.initial_window;
                self.initial_window += more;
                self.long.values_mut().for_each(|window| *window += more);
            }
        }
        frame(output, SETTINGS, ACK, 0, 0);
        self.release(output);
        let first = !self.open;
        self.open = true;
        first.then_some(Incoming::Open)
    }
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, length: usize) {
    let [_, length @ ..] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    output.extend_from_slice(&length);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
}

/// The number in the first four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// Bytes of the message at the front, its prefix included; none if it is not whole.
fn message(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(Failure::new("a compressed message"));
    }
    let size = PREFIX + usize::try_from(number(&prefix[1..])).unwrap_or(usize::MAX - PREFIX);
    Ok((size <= bytes.len()).then_some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, flags, stream, payload.len());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn take(grpc: &mut Grpc, input: &[u8]) -> Result<Vec<String>, Failure> {
        let (mut used, mut all) = (0, Vec::new());
        while let Some((consumed, incoming)) = grpc.take(&input[used..], &mut Vec::new())? {
            used += consumed;
            all.extend(incoming.map(|incoming| match incoming {
                Incoming::Open => "open".to_string(),
                Incoming::Message { stream, body } => format!("{stream}: {}", String::from_utf8_lossy(body.bytes())),
                Incoming::End { stream } => format!("{stream} ends"),
            }));
        }
        Ok(all)
    }

    fn message(text: &str) -> Vec<u8> {
        [&[0, 0, 0, 0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    /// Frames are not messages: one may hold several, and one message may be in several.
    #[test]
    fn messages_are_found_however_they_are_framed() {
        let mut grpc = Grpc::new();
        let (one, two, three) = (message("one"), message("two"), message("three"));
        let joined = [&one[..], &two, &three[..6]].concat();
        let mut input = bytes(DATA, 0, 1, &joined);
        input.extend(bytes(DATA, 0, 3, &message("other")));
        input.extend(bytes(DATA, 0, 1, &three[6..]));
        assert_eq!(take(&mut grpc, &input).unwrap(), ["1: one", "1: two", "3: other", "1: three"]);
        assert!(grpc.partial.is_empty() && grpc.ready.is_empty());
    }

    /// What is sent beyond a window is an error of ours, for which the server would break off the connection.
    #[test]
    fn a_window_is_never_exceeded_and_the_order_is_kept() {
        let mut grpc = Grpc::new();
        let mut output = Vec::new();
        let sizes = [40_000, 20_000, 20_000, 10];
        for size in sizes {
            grpc.call(b"", &vec![7; size], false, &mut output);
        }
        let mut granted = u64::from(WINDOW);
        let mut sent = Vec::new();
        loop {
            let mut rest = &output[..];
            while let Some((header, more)) = rest.split_first_chunk::<HEADER>() {
                let length = usize::try_from(number(&[0, header[0], header[1], header[2]])).unwrap();
                assert!(length <= FRAME_MAX);
                if header[3] == DATA {
                    sent.push((number(&header[5..]), length as u64, header[4]));
                }
                rest = &more[length..];
            }
            assert!(sent.iter().map(|(_, length, _)| length).sum::<u64>() <= granted);
            if grpc.waiting.is_empty() {
                break;
            }
            output.clear();
            granted += 10_000;
            let grant = bytes(WINDOW_UPDATE, 0, 0, &10_000_u32.to_be_bytes());
            grpc.take(&grant, &mut output).unwrap();
        }
        assert!(sent.is_sorted_by_key(|(stream, ..)| *stream), "{sent:?}");
        for (stream, size) in [1, 3, 5, 7].into_iter().zip(sizes) {
            let of: Vec<_> = sent.iter().filter(|(of, ..)| *of == stream).collect();
            assert_eq!(of.iter().map(|(_, length, _)| length).sum::<u64>(), (PREFIX + size) as u64);
            assert!(of.iter().rev().skip(1).all(|(.., flags)| *flags == 0) && of[of.len() - 1].2 == END_STREAM);
        }
    }

    /// An answer counts only if its call has succeeded.
    #[test]
    fn a_call_that_fails_ends_the_run() {
        let status = |value: &[u8]| {
            let length = u8::try_from(value.len()).unwrap();
            [b"\x00\x0bgrpc-status", &[length][..], value].concat()
        };
        let end = END_HEADERS | END_STREAM;
        assert_eq!(take(&mut Grpc::new(), &bytes(HEADERS, end, 5, &status(b"0"))).unwrap(), ["5 ends"]);
        for (wrong, why) in [
            (bytes(HEADERS, end, 5, &status(b"14")), "status 14"),
            (bytes(HEADERS, end, 5, &[0x88]), "without a status"),
            (bytes(HEADERS, END_HEADERS, 5, &[0x8d]), "a header block"),
            (bytes(HEADERS, 0, 5, &[0x88]), "several frames"),
            (bytes(RST_STREAM, 0, 5, &[0, 0, 0, 7]), "code 7"),
            (bytes(GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 11, b'c', b'a', b'l', b'm']), "code 11 calm"),
            (bytes(DATA, 8, 5, &message("padded")), "padded"),
            (bytes(DATA, 0, 5, &[1, 0, 0, 0, 1, 9]), "compressed"),
        ] {
            let e = take(&mut Grpc::new(), &wrong).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
        let mut cut = bytes(DATA, 0, 5, &message("cut")[..6]);
        cut.extend(bytes(HEADERS, end, 5, &status(b"0")));
        assert!(take(&mut Grpc::new(), &cut).unwrap_err().to_string().contains("within a message"));
    }

    /// The server's settings come late: what was opened before has to have them, too.
    #[test]
    fn settings_are_taken_and_answered() {
        let mut grpc = Grpc::new();
        let stream = grpc.call(b"", b"", true, &mut Vec::new());
        let mut output = Vec::new();
        let settings = bytes(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100]);
        let taken = grpc.take(&settings, &mut output).unwrap().unwrap();
        assert_eq!(taken, (15, Some(Incoming::Open)));
        assert_eq!(output, bytes(SETTINGS, ACK, 0, b""));
        assert_eq!(grpc.long[&stream], 100 - PREFIX as i64);
        // Only the first says that the server is there.
        assert_eq!(grpc.take(&settings, &mut output).unwrap().unwrap(), (15, None));
    }
}
