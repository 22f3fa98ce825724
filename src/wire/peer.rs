//! The peer protocol: what the servers of a cluster say to each other.
//!
//! A peer comes in on the port of the clients. Who dials sends [`PREAMBLE`] first, which no client does: as the length of a
//! frame it is negative. Then both sides send frames:
//!
//! ```text
//!  0  4  length: bytes behind this field
//!  4  4  CRC-32 of all behind this field
//!  8  1  kind of the body
//!  9  1  hops that are left: a frame is passed on with one less
//! 10  2  zero
//! 12  8  from \ raft ids; 0 = not a member, or whoever is
//! 20  8  to   / at the other end of this link
//! 28  …  body
//! ```
//! All numbers are little-endian. This header, [`Frame::Refuse`], and the version and the cluster at the front of a
//! [`Frame::Hello`] are the same in every version of the protocol: two versions can tell each other that they differ.
//!
//! # The greeting
//! Without a secret (`DOOZER_RWSECRET`), each side sends a [`Frame::Hello`], the dialer first. With a secret, both sides first prove
//! that they know it. Nobody sends the secret itself:
//!
//! ```text
//! dialer                                  acceptor
//! preamble, Challenge d             ->
//!                                   <-    Challenge a
//! Proof of "dialer", d, a           ->
//!                                   <-    Proof of "acceptor", d, a
//! Hello D, sealed                   ->
//!                                   <-    Hello A, sealed
//! Proof of "confirmed", d, a, D, A  ->
//! ```
//!
//! * A challenge is 32 random bytes, new for each connection. A proof is the HMAC-SHA-256 of a label (see `replica/handshake.rs`) and
//!   of what stands behind it above, with the secret as its key. A hello is sealed: its field for a secret holds the HMAC of
//!   "dialer's hello", d, a, D, or of "acceptor's hello", d, a, D, A. Here D and A are the whole frames of the two hellos, with a
//!   route of zeros and an empty seal: they contain the node's id, its raft id and boot, and the id of its cluster.
//! * The labels differ by direction, so no proof can be sent back to the node that made it. The challenges differ by connection, so
//!   no proof is good for a second one. The last proof covers everything: the acceptor takes the link for live only then.
//! * Before its proof, a peer gets a challenge, or a [`Frame::Refuse`] that is always the same: [`UNPROVED`], with zeros for raft
//!   ids. So it learns no name, id, address or version. This holds in both directions: a node says no more to what it dialed.
//! * There is no other way in. A hello without proofs is refused where a secret is set, and a node with a secret never greets without
//!   it. Versions before this handshake sent the secret in the clear in that field; they are refused.
//!
//! What this does not promise: the frames of a link are neither encrypted nor authenticated. Who can change what passes between two
//! nodes can read and forge frames once the link is up. Who sees a greeting, or is dialed, can try out secrets against the proof at
//! leisure: a secret has to be long and random.
//!
//! Invariants:
//! * no byte is believed before the checksum has been, and no length before it was held against the bytes that are there;
//! * entries and batches, which are nearly all that is sent, are copied once on their way out, and batches and the
//!   records of a snapshot not at all on their way in.

mod message;
mod reader;

use std::fmt;

use raft::eraftpb::Message;

use crate::limits::PEER_FRAME_MAX;
use reader::{Reader, put_bytes, put_u64};

/// What a dialer sends first.
pub const PREAMBLE: [u8; 8] = *b"\xD0doozerP";
/// The version of the protocol.
pub const VERSION: u16 = 1;
/// All that a peer is told that has not proved the secret, whatever the reason. It names nothing of this node or its cluster.
pub const UNPROVED: Frame<'static> =
    Frame::Refuse { reason: Refusal::Secret, detail: "refused: DOOZER_RWSECRET is not proved" };

/// A random number of one connection, to which the other side answers with a proof.
pub type Challenge = [u8; 32];
/// An HMAC-SHA-256.
pub type Proof = [u8; 32];

/// Bytes of the length.
const LENGTH: usize = 4;
const SUM: usize = LENGTH;
const KIND: usize = SUM + 4;
const HOPS: usize = KIND + 1;
const FROM: usize = HOPS + 3;
const TO: usize = FROM + 8;
/// Bytes in front of a body.
pub const HEADER: usize = TO + 8;
const _: () = assert!(HEADER == 28);
// The preamble is no length of a client's frame.
const _: () = assert!(PREAMBLE[0] & 0x80 != 0);

/// From whom a frame is, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Raft id of who said it; 0 = who is at the other end.
    pub from: u64,
    /// Raft id of whom it is for; 0 = who is at the other end.
    pub to: u64,
    /// Over so many links it may still go, this one included.
    pub hops: u8,
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The beginning of a frame, or nothing.
    Partial {
        /// Bytes of the whole frame, its length included, once that is known.
        needed: Option<usize>,
    },
    /// A whole frame.
    Whole {
        /// Its bytes, its length included: the next frame begins behind them.
        size: usize,
    },
}

/// Why bytes are no frame. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The length is over [`PEER_FRAME_MAX`].
    TooLong(usize),
    /// The length leaves no room for a header.
    TooShort(usize),
    /// The bytes are not those that were sent.
    Checksum,
    /// Nothing of this version is of this kind.
    Kind(u8),
    /// The body is not what its kind has.
    Body,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(n) => write!(f, "a peer's frame of {n} bytes; the limit is {PEER_FRAME_MAX}"),
            Self::TooShort(n) => write!(f, "a peer's frame of {n} bytes, which is no header"),
            Self::Checksum => f.write_str("a peer's frame with a wrong checksum"),
            Self::Kind(kind) => write!(f, "a peer's frame of unknown kind {kind}"),
            Self::Body => f.write_str("a peer's frame with a malformed body"),
        }
    }
}

impl std::error::Error for BadFrame {}

/// A frame that came.
#[derive(Debug, PartialEq)]
pub struct Received<'a> {
    /// From whom, to whom.
    pub route: Route,
    /// What it says.
    pub frame: Frame<'a>,
}

/// What peers say.
#[derive(Debug, PartialEq)]
pub enum Frame<'a> {
    /// Who speaks: the first frame of either side, or with a secret the first frame behind the proofs.
    Hello(Hello<'a>),
    /// The first frame of either side where a secret is set.
    Challenge(Challenge),
    /// Proves the secret.
    Proof(Proof),
    /// The link is not wanted; it is closed behind this.
    Refuse {
        /// Why.
        reason: Refusal,
        /// The same for the log, with names.
        detail: &'a str,
    },
    /// The one who attaches asks to be registered.
    Join {
        /// How often it has come back under another raft id.
        incarnation: u64,
        /// Where it listens.
        addr: &'a str,
    },
    /// Answers [`Frame::Join`]: it is registered.
    Welcome {
        /// Its raft id.
        raft_id: u64,
        /// The cluster's id.
        cluster_id: u64,
        /// The cluster's name.
        cluster: &'a str,
    },
    /// Keeps the link alive; is not answered.
    Ping,
    /// A node's direct links, passed on to all.
    Links(Links),
    /// raft's. Encoded by [`encode_raft`] where the message is not at hand in a box.
    Raft(Box<Message>),
    /// Mutations of a server for the leader: the bytes of a batch.
    Forward(&'a [u8]),
    /// A part of a snapshot.
    Chunk {
        /// Which snapshot's.
        transfer: u64,
        /// The parts are numbered from 0.
        seq: u64,
        /// It is the last part.
        last: bool,
        /// Whole records.
        records: &'a [u8],
    },
    /// How far a snapshot has come.
    ChunkAck {
        /// Which snapshot.
        transfer: u64,
        /// The part that is expected next.
        next: u64,
    },
    /// The receiver of a snapshot has given it up.
    ///
    /// On the wire this is an acknowledgement with a flag. The reason takes the place of the next part's number; versions that know
    /// no reasons write 0 there and do not read it.
    ChunkFailed {
        /// The transfer.
        transfer: u64,
        /// The reason.
        reason: ChunkFailure,
    },
}

/// Why the receiver of a snapshot has given it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkFailure {
    /// No reason was given.
    Unsaid,
    /// The receiver's disk has no room for the snapshot.
    NoRoom,
    /// The received bytes are malformed.
    Malformed,
    /// Nothing came for too long.
    Silence,
    /// A reason that a later version has added.
    Other(u64),
}

impl ChunkFailure {
    fn code(self) -> u64 {
        match self {
            Self::Unsaid => 0,
            Self::NoRoom => 1,
            Self::Malformed => 2,
            Self::Silence => 3,
            Self::Other(code) => code,
        }
    }

    fn of(code: u64) -> ChunkFailure {
        match code {
            0 => Self::Unsaid,
            1 => Self::NoRoom,
            2 => Self::Malformed,
            3 => Self::Silence,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for ChunkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("it gave it up, and does not say why"),
            Self::NoRoom => f.write_str("there is no room for it on its disk"),
            Self::Malformed => f.write_str("what came there makes no sense"),
            Self::Silence => f.write_str("nothing came there any more"),
            Self::Other(code) => write!(f, "it gave it up, for a reason that this version does not know ({code})"),
        }
    }
}

/// Who speaks.
///
/// Of another version only `version` and `cluster` are read; the rest is zero or empty.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The protocol's version that the speaker follows: [`VERSION`].
    pub version: u16,
    /// The name of its cluster.
    pub cluster: &'a str,
    /// The node's own id.
    pub node: [u8; 16],
    /// Its id in the raft group; 0 = not a member yet.
    pub raft_id: u64,
    /// The number of this boot.
    pub epoch: u64,
    /// A random number of this boot: two processes that run on copies of the same directory are told apart by it.
    pub life: u64,
    /// How often it has come back under another raft id.
    pub incarnation: u64,
    /// The id of its cluster; 0 = not known yet.
    pub cluster_id: u64,
    /// The seal, if there was a handshake; otherwise empty. Versions before the handshake sent the secret here.
    pub secret: &'a [u8],
    /// Where it listens.
    pub addr: &'a str,
}

/// Without the secret, which has no place in a log.
impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("cluster", &self.cluster)
            .field("node", &self.node.escape_ascii().to_string())
            .field("raft_id", &self.raft_id)
            .field("epoch", &self.epoch)
            .field("life", &self.life)
            .field("incarnation", &self.incarnation)
            .field("cluster_id", &self.cluster_id)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// A node's direct links: who says it, how new it is, whom it hears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Raft id of the node whose links these are.
    pub node: u64,
    /// The number of its boot.
    pub epoch: u64,
    /// Raised with each change, within one boot.
    pub version: u64,
    /// For later versions, and for what a node says of itself beside its links.
    pub flags: u8,
    /// Raft ids of those that it hears.
    pub peers: Vec<u64>,
}

/// Why a link is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another version of the protocol.
    Version,
    /// Another cluster.
    Cluster,
    /// The secret is not that of the cluster.
    Secret,
    /// The node's raft id was taken from it for good.
    Retired,
    /// The node is no member, and says that it is.
    NotMember,
    /// There is no leader now who could let it in.
    Unavailable,
    /// A node has dialed itself.
    Myself,
    /// A reason of a later version.
    Other(u8),
}

impl Refusal {
    fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Secret => 3,
            Self::Retired => 4,
            Self::NotMember => 5,
            Self::Unavailable => 6,
            Self::Myself => 7,
            Self::Other(code) => code,
        }
    }

    fn of(code: u8) -> Refusal {
        match code {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Secret,
            4 => Self::Retired,
            5 => Self::NotMember,
            6 => Self::Unavailable,
            7 => Self::Myself,
            code => Self::Other(code),
        }
    }
}

mod kind {
    pub const HELLO: u8 = 1;
    pub const REFUSE: u8 = 2;
    pub const JOIN: u8 = 3;
    pub const WELCOME: u8 = 4;
    pub const PING: u8 = 5;
    pub const LINKS: u8 = 6;
    pub const RAFT: u8 = 7;
    pub const FORWARD: u8 = 8;
    pub const CHUNK: u8 = 9;
    pub const CHUNK_ACK: u8 = 10;
    pub const CHALLENGE: u8 = 11;
    pub const PROOF: u8 = 12;
}

/// Finds the frame at the front of `bytes`.
///
/// # Errors
/// The length is over the limit, or shorter than a header.
#[inline]
pub fn split(bytes: &[u8]) -> Result<Split, BadFrame> {
    let Some(length) = bytes.first_chunk::<LENGTH>() else {
        return Ok(Split::Partial { needed: None });
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > PEER_FRAME_MAX {
        return Err(BadFrame::TooLong(length));
    }
    let size = LENGTH + length;
    if size < HEADER {
        return Err(BadFrame::TooShort(length));
    }
    Ok(if bytes.len() < size { Split::Partial { needed: Some(size) } } else { Split::Whole { size } })
}

/// Reads a whole frame, as [`split`] found it.
///
/// # Errors
/// The bytes are not those that were sent, or say nothing that this version knows.
pub fn decode(frame: &[u8]) -> Result<Received<'_>, BadFrame> {
    match split(frame)? {
        Split::Whole { size } if size == frame.len() => {}
        Split::Whole { .. } | Split::Partial { .. } => return Err(BadFrame::Body),
    }
    if u32_at(frame, SUM) != crc32fast::hash(&frame[KIND..]) {
        return Err(BadFrame::Checksum);
    }
    let body = &frame[HEADER..];
    let mut reader = Reader::new(body);
    let read = match frame[KIND] {
        kind::HELLO => return Ok(Received { route: route(frame), frame: Frame::Hello(hello(body)?) }),
        kind::CHALLENGE => Frame::Challenge(reader.array()?),
        kind::PROOF => Frame::Proof(reader.array()?),
        kind::REFUSE => {
            let (reason, detail) = (Refusal::of(reader.u8()?), reader.text()?);
            Frame::Refuse { reason, detail }
        }
        kind::JOIN => Frame::Join { incarnation: reader.u64()?, addr: reader.text()? },
        kind::WELCOME => Frame::Welcome { raft_id: reader.u64()?, cluster_id: reader.u64()?, cluster: reader.text()? },
        kind::PING => Frame::Ping,
        kind::LINKS => Frame::Links(Links {
            node: reader.u64()?,
            epoch: reader.u64()?,
            version: reader.u64()?,
            flags: reader.u8()?,
            peers: reader.rest_u64()?,
        }),
        kind::RAFT => Frame::Raft(Box::new(message::decode(reader.rest())?)),
        kind::FORWARD => Frame::Forward(reader.rest()),
        kind::CHUNK => {
            Frame::Chunk { transfer: reader.u64()?, seq: reader.u64()?, last: reader.flag()?, records: reader.rest() }
        }
        kind::CHUNK_ACK => match (reader.u64()?, reader.u64()?, reader.flag()?) {
            (transfer, next, false) => Frame::ChunkAck { transfer, next },
            (transfer, code, true) => Frame::ChunkFailed { transfer, reason: ChunkFailure::of(code) },
        },
        other => return Err(BadFrame::Kind(other)),
    };
    reader.end()?;
    Ok(Received { route: route(frame), frame: read })
}

/// Reads a hello of any version.
fn hello(body: &[u8]) -> Result<Hello<'_>, BadFrame> {
    let mut reader = Reader::new(body);
    let version = reader.u16()?;
    if version != VERSION {
        return Ok(Hello { version, cluster: reader.text().unwrap_or_default(), ..Hello::default() });
    }
    let hello = Hello {
        version,
        cluster: reader.text()?,
        node: reader.array()?,
        raft_id: reader.u64()?,
        epoch: reader.u64()?,
        life: reader.u64()?,
        incarnation: reader.u64()?,
        cluster_id: reader.u64()?,
        secret: reader.bytes()?,
        addr: reader.text()?,
    };
    reader.end()?;
    Ok(hello)
}

/// Appends a frame.
///
/// # Panics
/// If the frame is over [`PEER_FRAME_MAX`], or is raft's with a snapshot's data.
pub fn encode(route: Route, frame: &Frame<'_>, out: &mut Vec<u8>) {
    match frame {
        Frame::Hello(hello) => framed(route, kind::HELLO, 128, out, |out| {
            out.extend_from_slice(&hello.version.to_le_bytes());
            put_bytes(out, hello.cluster.as_bytes());
            out.extend_from_slice(&hello.node);
            for number in [hello.raft_id, hello.epoch, hello.life, hello.incarnation, hello.cluster_id] {
                put_u64(out, number);
            }
            put_bytes(out, hello.secret);
            put_bytes(out, hello.addr.as_bytes());
        }),
        Frame::Challenge(challenge) => {
            framed(route, kind::CHALLENGE, 32, out, |out| out.extend_from_slice(challenge));
        }
        Frame::Proof(proof) => framed(route, kind::PROOF, 32, out, |out| out.extend_from_slice(proof)),
        Frame::Refuse { reason, detail } => framed(route, kind::REFUSE, 5 + detail.len(), out, |out| {
            out.push(reason.code());
            put_bytes(out, detail.as_bytes());
        }),
        Frame::Join { incarnation, addr } => framed(route, kind::JOIN, 12 + addr.len(), out, |out| {
            put_u64(out, *incarnation);
            put_bytes(out, addr.as_bytes());
        }),
        Frame::Welcome { raft_id, cluster_id, cluster } => {
            framed(route, kind::WELCOME, 20 + cluster.len(), out, |out| {
                put_u64(out, *raft_id);
                put_u64(out, *cluster_id);
                put_bytes(out, cluster.as_bytes());
            });
        }
        Frame::Ping => framed(route, kind::PING, 0, out, |_| {}),
        Frame::Links(links) => framed(route, kind::LINKS, 25 + 8 * links.peers.len(), out, |out| {
            for number in [links.node, links.epoch, links.version] {
                put_u64(out, number);
            }
            out.push(links.flags);
            for peer in &links.peers {
                put_u64(out, *peer);
            }
        }),
        Frame::Raft(message) => encode_raft(route, message, out),
        Frame::Forward(batch) => framed(route, kind::FORWARD, batch.len(), out, |out| out.extend_from_slice(batch)),
        Frame::Chunk { transfer, seq, last, records } => framed(route, kind::CHUNK, 17 + records.len(), out, |out| {
            put_u64(out, *transfer);
            put_u64(out, *seq);
            out.push(u8::from(*last));
            out.extend_from_slice(records);
        }),
        Frame::ChunkAck { transfer, next } => chunk_ack(route, *transfer, *next, false, out),
        Frame::ChunkFailed { transfer, reason } => chunk_ack(route, *transfer, reason.code(), true, out),
    }
}

fn chunk_ack(route: Route, transfer: u64, next: u64, failed: bool, out: &mut Vec<u8>) {
    framed(route, kind::CHUNK_ACK, 17, out, |out| {
        put_u64(out, transfer);
        put_u64(out, next);
        out.push(u8::from(failed));
    });
}

/// Appends the frame of one of raft's messages.
///
/// # Panics
/// If the frame is over [`PEER_FRAME_MAX`], or has a snapshot's data.
pub fn encode_raft(route: Route, message: &Message, out: &mut Vec<u8>) {
    framed(route, kind::RAFT, message::size(message), out, |out| message::encode(message, out));
}

/// Appends a frame whose body is about `size` bytes long: the memory is set aside first, so that nothing moves.
fn framed(route: Route, kind: u8, size: usize, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.reserve(HEADER + size);
    // Length and checksum are known at the end.
    out.extend_from_slice(&[0; KIND]);
    out.extend_from_slice(&[kind, route.hops, 0, 0]);
    put_u64(out, route.from);
    put_u64(out, route.to);
    body(out);
    let frame = &mut out[start..];
    let length = frame.len() - LENGTH;
    assert!(length <= PEER_FRAME_MAX, "a peer's frame of {length} bytes");
    let length = u32::try_from(length).expect("a length within the limit");
    frame[..LENGTH].copy_from_slice(&length.to_le_bytes());
    put_sum(frame);
}

/// Appends a copy of a whole frame that [`decode`] has verified, with one hop less. Returns false, with nothing
/// appended, if it has come as far as it may.
pub fn relay(frame: &[u8], out: &mut Vec<u8>) -> bool {
    let hops = frame[HOPS];
    if hops <= 1 {
        return false;
    }
    let start = out.len();
    out.extend_from_slice(frame);
    let copy = &mut out[start..];
    copy[HOPS] = hops - 1;
    put_sum(copy);
    true
}

/// From whom a whole frame is, and to whom.
pub fn route(frame: &[u8]) -> Route {
    Route { from: u64_at(frame, FROM), to: u64_at(frame, TO), hops: frame[HOPS] }
}

fn put_sum(frame: &mut [u8]) {
    let sum = crc32fast::hash(&frame[KIND..]);
    frame[SUM..KIND].copy_from_slice(&sum.to_le_bytes());
}

fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*frame[at..].first_chunk().expect("a whole header"))
}

fn u64_at(frame: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*frame[at..].first_chunk().expect("a whole header"))
}

#[cfg(test)]
mod tests;
