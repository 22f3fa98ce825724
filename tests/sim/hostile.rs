//! A hostile member: a node of the cluster, with a raft id of its own, that says what no program of ours would. It does not listen, and
//! has no state: it connects to the others and sends frames that a seed has chosen. Most are nearly right, because what is quite wrong
//! is refused at once.
//!
//! It keeps to what the cluster withstands. It does not claim to lead in a later term with entries that fit, and acknowledges nothing as
//! a voter: to withstand that, the nodes would have to agree in another way than raft's.

use doozer::replica::batch::{Command, Gather, Origin, Registration};
use doozer::replica::members::Change;
use doozer::store::Mutation;
use doozer::wire::peer::{self, ChunkFailure, Frame, Hello, Links, PREAMBLE, Refusal, Route, Split, VERSION};
use protobuf::{Message as _, ProtobufEnum};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::chance::Chance;

/// A path that nobody may write in another's name.
pub const FORGED: &str = "/forged";
/// Frames that are sent at once.
const BURST: u64 = 20;

/// What the hostile member knows of the cluster, from what the others send it.
#[derive(Clone, Debug)]
pub struct Hostile {
    node: [u8; 16],
    /// Its raft id; 0 until it has one.
    raft_id: u64,
    cluster_id: u64,
    /// The node at the other end: its raft id and its boot.
    peer: (u64, u64),
    /// Raft ids of the honest nodes are up to this one.
    honest: u64,
    /// Raft ids and boots of the honest nodes that it has heard of.
    others: Vec<(u64, u64)>,
    node_ids: Vec<[u8; 16]>,
    term: u64,
    index: u64,
    log_term: u64,
    received: Vec<u8>,
}

impl Hostile {
    /// The honest nodes have the raft ids from 1 to `honest`.
    pub fn new(letter: u8, honest: usize) -> Hostile {
        Hostile {
            node: [letter; 16],
            raft_id: 0,
            cluster_id: 0,
            peer: (0, 0),
            honest: honest as u64,
            others: Vec::new(),
            node_ids: Vec::new(),
            term: 1,
            index: 1,
            log_term: 1,
            received: Vec::new(),
        }
    }

    /// Says who it is, on a new connection.
    pub fn greeting(&mut self) -> Vec<u8> {
        self.received.clear();
        self.peer = (0, 0);
        let mut out = PREAMBLE.to_vec();
        self.hello(self.raft_id, 1, &mut out);
        out
    }

    fn hello(&self, raft_id: u64, epoch: u64, out: &mut Vec<u8>) {
        let hello = Hello {
            version: VERSION,
            cluster: "",
            node: self.node,
            raft_id,
            epoch,
            life: 1,
            incarnation: 0,
            cluster_id: self.cluster_id,
            secret: b"",
            addr: "10.9.9.9:1",
        };
        peer::encode(Route { from: raft_id, to: 0, hops: 0 }, &Frame::Hello(hello), out);
    }

    /// Takes what came. Returns what an honest node would say now, and whether the connection is of no more use.
    pub fn receive(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.received);
        let (mut rest, mut out, mut over) = (&received[..], Vec::new(), false);
        while let Ok(Split::Whole { size }) = peer::split(rest) {
            let (frame, behind) = rest.split_at(size);
            rest = behind;
            match peer::decode(frame).map(|received| received.frame) {
                Ok(Frame::Hello(hello)) => {
                    self.peer = (hello.raft_id, hello.epoch);
                    self.meet(hello.raft_id, hello.epoch);
                    self.node_ids.push(hello.node);
                    let route = Route { from: self.raft_id, to: 0, hops: 0 };
                    let frame = if self.raft_id == 0 {
                        Frame::Join { incarnation: 0, addr: "10.9.9.9:1" }
                    } else {
                        Frame::Links(Links {
                            node: self.raft_id,
                            epoch: 1,
                            version: 1,
                            flags: 0,
                            peers: vec![hello.raft_id],
                        })
                    };
                    peer::encode(route, &frame, &mut out);
                }
                Ok(Frame::Welcome { raft_id, cluster_id, .. }) => {
                    (self.raft_id, self.cluster_id, over) = (raft_id, cluster_id, true);
                }
                Ok(Frame::Links(links)) => self.meet(links.node, links.epoch),
                Ok(Frame::Raft(message)) => {
                    self.term = self.term.max(message.term);
                    if message.msg_type == MessageType::MsgAppend {
                        (self.index, self.log_term) = (message.index, message.log_term);
                        if let Some(last) = message.entries.last() {
                            (self.index, self.log_term) = (last.index, last.term);
                        }
                    }
                }
                Ok(Frame::Refuse { .. }) => over = true,
                _ => {}
            }
        }
        self.received = rest.to_vec();
        (out, over)
    }

    fn meet(&mut self, raft_id: u64, epoch: u64) {
        if (1..=self.honest).contains(&raft_id) {
            self.others.retain(|(id, _)| *id != raft_id);
            self.others.push((raft_id, epoch));
        }
    }

    /// Returns whether it has a link, and may say something.
    pub fn is_linked(&self) -> bool {
        self.raft_id != 0 && self.peer.0 != 0
    }

    /// Says something that no honest node would.
    pub fn say(&self, chance: &mut Chance) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..chance.between((1, BURST)) {
            self.frame(chance, &mut out);
        }
        // Now and then a frame is cut off, or not as it was.
        if chance.once_in(30) {
            let at = chance.index(out.len());
            out[at] ^= 1 << chance.below(8);
        }
        out
    }

    fn frame(&self, chance: &mut Chance, out: &mut Vec<u8>) {
        let other = chance.pick(&self.others);
        let from = if chance.once_in(3) { other.0 } else { self.raft_id };
        let from = if chance.once_in(40) { chance.pick(&[0, 7_777, u64::MAX]) } else { from };
        let to = if chance.once_in(8) { other.0 } else { self.peer.0 };
        let hops = chance.pick(&[0, 1, 7, 8, 255]);
        let route = Route { from, to, hops };
        let here = Route { to: 0, ..route };
        let number = |chance: &mut Chance| chance.pick(&[0, 1, 2, 1_000, u64::MAX]);
        match chance.below(14) {
            0..7 => peer::encode_raft(route, &self.message(chance, from, to), out),
            7 | 8 => {
                let batch = self.batch(chance, other);
                peer::encode(route, &Frame::Forward(&batch), out);
            }
            9 => {
                let (node, own) = (chance.pick(&[self.raft_id, other.0, 7_777, 0]), chance.once_in(4));
                let links = Links {
                    node,
                    epoch: if own { 1 } else { chance.pick(&[0, 1, 1 << 61, u64::MAX]) },
                    version: chance.pick(&[0, 2, u64::MAX]),
                    flags: chance.pick(&[0, 1, 2, 16, 255]),
                    peers: (0..chance.pick(&[0, 3, 64, 65])).collect(),
                };
                peer::encode(here, &Frame::Links(links), out);
            }
            10 => {
                let (seq, last) = (chance.pick(&[0, 0, 1, u64::MAX]), chance.once_in(2));
                let records = self.state(chance);
                let transfer = number(chance);
                peer::encode(route, &Frame::Chunk { transfer, seq, last, records: &records }, out);
            }
            11 => {
                let transfer = number(chance);
                let frame = if chance.once_in(2) {
                    Frame::ChunkAck { transfer, next: number(chance) }
                } else {
                    Frame::ChunkFailed { transfer, reason: ChunkFailure::NoRoom }
                };
                peer::encode(route, &frame, out);
            }
            12 => match chance.below(4) {
                0 => self.hello(chance.pick(&[self.raft_id, other.0]), number(chance), out),
                1 => peer::encode(here, &Frame::Join { incarnation: number(chance), addr: "10.9.9.8:1" }, out),
                2 => peer::encode(here, &Frame::Refuse { reason: Refusal::Retired, detail: "gone" }, out),
                _ => peer::encode(
                    here,
                    &Frame::Welcome { raft_id: number(chance), cluster_id: self.cluster_id, cluster: "local" },
                    out,
                ),
            },
            _ => peer::encode(here, &Frame::Ping, out),
        }
    }

    /// A message of raft whose numbers are near those that are right, or far from them.
    fn message(&self, chance: &mut Chance, from: u64, to: u64) -> Message {
        let msg_type = MessageType::from_i32(i32::try_from(chance.below(19)).expect("a small number"));
        let msg_type = msg_type.expect("raft numbers its kinds from 0 to 18");
        let near = |chance: &mut Chance, number: u64| {
            let far = [0, 1, number + 1_000, 1 << 40, u64::MAX - 1, u64::MAX];
            let near = [number, number, number.saturating_sub(1), number + 1];
            if chance.once_in(3) { chance.pick(&far) } else { chance.pick(&near) }
        };
        let leads = matches!(msg_type, MessageType::MsgAppend | MessageType::MsgHeartbeat);
        let mut message = Message {
            msg_type,
            from: if chance.once_in(20) { chance.pick(&self.others).0 } else { from },
            to: if chance.once_in(20) { self.raft_id } else { to },
            term: near(chance, self.term),
            index: near(chance, self.index),
            log_term: near(chance, self.log_term),
            commit: near(chance, self.index),
            commit_term: near(chance, self.log_term),
            reject: chance.once_in(2),
            reject_hint: near(chance, self.index),
            request_snapshot: if chance.once_in(10) { near(chance, self.index) } else { 0 },
            context: vec![1; chance.pick(&[0, 0, 0, 16, 24, 33])].into(),
            ..Message::default()
        };
        if leads {
            // A later leader would be followed. One of the present term, or of a term that cannot be, is not.
            message.term = chance.pick(&[0, self.term, self.term.saturating_sub(1), u64::MAX]);
        }
        let entries = (0..chance.pick(&[0, 0, 1, 1, 2, 5])).map(|nth| self.entry(chance, nth));
        message.set_entries(entries.collect::<Vec<_>>().into());
        message
    }

    fn entry(&self, chance: &mut Chance, nth: u64) -> Entry {
        let data = match chance.below(5) {
            0 => Vec::new(),
            1 => b"not a batch".to_vec(),
            2 => [self.raft_id, 1, nth].map(u64::to_le_bytes).concat(),
            3 => {
                let changes = [Change::Remove(1), Change::Admit(9), Change::Demote(2, None)];
                let change = &changes[chance.index(changes.len())];
                let mut bytes = change.to_raft().write_to_bytes().expect("a change has an encoding");
                bytes.extend(std::iter::repeat_n(0x63, chance.pick(&[0, 9, 100_000])));
                bytes
            }
            _ => {
                let other = chance.pick(&self.others);
                self.batch(chance, other)
            }
        };
        let entry_type = chance.pick(&[
            EntryType::EntryNormal,
            EntryType::EntryNormal,
            EntryType::EntryConfChange,
            EntryType::EntryConfChangeV2,
        ]);
        let index = if chance.once_in(8) { chance.next() } else { self.index.saturating_add(1 + nth) };
        Entry {
            entry_type,
            index,
            term: chance.pick(&[0, self.log_term, self.term]),
            data: data.into(),
            ..Entry::default()
        }
    }

    /// A batch in the name of another node, or of a boot that this one does not have, or with registrations of others.
    fn batch(&self, chance: &mut Chance, other: (u64, u64)) -> Vec<u8> {
        let origin = match chance.below(4) {
            0 => Origin { node: other.0, epoch: other.1 },
            1 => Origin { node: other.0, epoch: u64::MAX },
            2 => Origin { node: self.raft_id, epoch: chance.pick(&[2, 1 << 61, u64::MAX]) },
            _ => Origin { node: self.raft_id, epoch: 1 },
        };
        let mut gather = Gather::new(origin);
        let own = origin == Origin { node: self.raft_id, epoch: 1 };
        for _ in 0..chance.between((1, 5)) {
            if own {
                // It may write. It registers others in their name, and nodes that do not exist.
                let registration = Registration {
                    raft_id: chance.pick(&[0, other.0]),
                    node: *self.node_ids.last().unwrap_or(&self.node),
                    incarnation: chance.pick(&[1, 5, u64::MAX]),
                    addr: b"10.9.9.7:1",
                };
                gather.push(&Command::Register(registration));
            } else {
                gather.push(&Mutation::Set { path: FORGED.as_bytes(), rev: -1, value: b"evil" }.into());
            }
        }
        let mut batch = gather.take().expect("something was gathered");
        if chance.once_in(8) {
            batch.truncate(chance.index(batch.len()));
        }
        batch
    }

    /// A state that nobody asked for, or a malformed one.
    fn state(&self, chance: &mut Chance) -> Vec<u8> {
        let mut state = Vec::new();
        for number in [0, 0] {
            state.extend_from_slice(&u64::to_le_bytes(number));
        }
        state.extend_from_slice(&u32::to_le_bytes(0));
        state.extend_from_slice(&u64::to_le_bytes(100));
        state.extend_from_slice(&u32::to_le_bytes(chance.pick(&[0, 0, 1, u32::MAX])));
        for voter in [1, 2, 3] {
            state.extend_from_slice(&[8, voter]);
        }
        let mut head = Vec::new();
        for number in [chance.pick(&[self.term, self.term + 1, u64::MAX]), 1 << chance.below(64), self.term] {
            head.extend_from_slice(&u64::to_le_bytes(number));
        }
        head.extend_from_slice(&state);
        let mut records = Vec::new();
        for record in [&head[..], &[2, 0, b'/'][..]] {
            let len = u32::try_from(record.len()).expect("a short record");
            records.extend_from_slice(&chance.pick(&[len, len, len, u32::MAX]).to_le_bytes());
            records.extend_from_slice(record);
        }
        records
    }
}
