//! The network: connections as streams of bytes between hosts, whose packets take a while, or do not get through at all.
//!
//! As with TCP nothing is lost from a stream as long as both its ends live: what does not get through while a way is cut comes when it
//! is whole again. A process that dies closes its connections, and the other ends learn of it; a host that goes dark says nothing.
//! A receiver that does not read holds up its sender.

use std::collections::{BTreeMap, VecDeque};

use doozer::wire::peer::{self, Frame, PREAMBLE, Split};

use crate::Event;
use crate::chance::{Chance, Queue};

/// Bytes that are on their way or not read, at most.
const WINDOW: usize = 256 << 10;
/// Bytes that the sender's kernel takes beyond that.
const KERNEL: usize = 128 << 10;
/// Largest piece that travels as a whole.
const PIECE: u64 = 64 << 10;
/// Bytes that a way carries in a microsecond.
const RATE: u64 = 1_000;

pub type PipeId = u64;
/// One of the two ends of a pipe: 0 for who has dialed.
pub type Side = usize;

/// A host by its number: a node's, or the one where all clients are.
pub type Host = usize;
pub const CLIENTS: Host = usize::MAX;

/// Who has an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A node's process, of this boot: a link of its replica, or its attempt to join.
    Node(Host, u32),
    /// A client, in this connection of its.
    Client(usize, u64),
    /// Nobody any more.
    Nobody,
}

/// What reading gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Nothing,
    Bytes(Vec<u8>),
    /// The other side sends no more.
    End,
    /// The connection is broken.
    Broken,
}

#[derive(Debug)]
enum Packet {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// How often frames between nodes are mistreated, in 10,000 times each. What carries them loses nothing; but who passes them on may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    pub lost: u64,
    pub twice: u64,
    pub overtaken: u64,
}

/// What one side sends.
#[derive(Debug, Default)]
struct Stream {
    /// Bytes that are no whole frame yet, if frames may be mistreated.
    partial: Vec<u8>,
    greeted: bool,
    /// A frame that others overtake, so many of them.
    held: Option<(Vec<u8>, u64)>,
    /// Not on its way yet.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// On its way, with the time of arrival.
    flight: VecDeque<(u64, Packet)>,
    flight_bytes: usize,
    /// There, but not read.
    arrived: Vec<u8>,
    end_arrived: bool,
    reset_arrived: bool,
    /// The sender has closed it.
    closed: bool,
    /// The sender waits until all that it sent is taken over.
    awaited: bool,
    /// The front of the flight did not get through.
    stuck: bool,
}

#[derive(Debug)]
struct Pipe {
    ends: [End; 2],
    hosts: [Host; 2],
    /// By who sends.
    streams: [Stream; 2],
}

/// See the module.
#[derive(Debug, Default)]
pub struct Net {
    pipes: BTreeMap<PipeId, Pipe>,
    opened: PipeId,
    /// Ways that are cut, from a host to another.
    cuts: BTreeMap<(Host, Host), ()>,
    dark: BTreeMap<Host, ()>,
    /// Delays of ways that have one of their own.
    delays: BTreeMap<(Host, Host), (u64, u64)>,
    /// Delay of the others, in microseconds.
    pub delay: (u64, u64),
    /// What happens to frames between nodes.
    pub chaos: Chaos,
}

impl Net {
    /// A network as it is within a building.
    pub fn new() -> Net {
        Net { delay: (50, 300), ..Net::default() }
    }

    // ---- ways ----

    /// Whether a packet gets from one host to the other.
    pub fn gets_through(&self, from: Host, to: Host) -> bool {
        !self.cuts.contains_key(&(from, to)) && !self.dark.contains_key(&from) && !self.dark.contains_key(&to)
    }

    pub fn cut(&mut self, from: Host, to: Host) {
        self.cuts.insert((from, to), ());
    }

    pub fn heal(&mut self, from: Host, to: Host, queue: &mut Queue<Event>) {
        self.cuts.remove(&(from, to));
        self.go_on(queue);
    }

    pub fn heal_all(&mut self, queue: &mut Queue<Event>) {
        self.cuts.clear();
        self.delays.clear();
        self.go_on(queue);
    }

    /// The host is without power: nothing comes from it, and nothing gets there.
    pub fn set_dark(&mut self, host: Host, dark: bool, queue: &mut Queue<Event>) {
        if dark {
            self.dark.insert(host, ());
        } else {
            self.dark.remove(&host);
            self.go_on(queue);
        }
    }

    /// Delay of a way, in microseconds.
    pub fn set_delay(&mut self, from: Host, to: Host, delay: (u64, u64)) {
        self.delays.insert((from, to), delay);
    }

    pub fn clear_delay(&mut self, from: Host, to: Host) {
        self.delays.remove(&(from, to));
    }

    /// How long a packet takes, this time.
    pub fn travel(&self, from: Host, to: Host, chance: &mut Chance) -> u64 {
        if from == CLIENTS || to == CLIENTS {
            return chance.between((20, 100));
        }
        let usual = chance.between(self.delays.get(&(from, to)).copied().unwrap_or(self.delay));
        // Now and then one is lost and sent again.
        if chance.once_in(2_000) { usual + 40_000 } else { usual }
    }

    /// What was stuck gets through, if it can now.
    fn go_on(&mut self, queue: &mut Queue<Event>) {
        let mut free = Vec::new();
        for (id, pipe) in &self.pipes {
            for from in 0..2 {
                let to = 1 - from;
                if pipe.streams[from].stuck && self.gets_through(pipe.hosts[from], pipe.hosts[to]) {
                    free.push((*id, to));
                }
            }
        }
        for (id, to) in free {
            if let Some(pipe) = self.pipes.get_mut(&id) {
                pipe.streams[1 - to].stuck = false;
            }
            // Sent again, at last.
            queue.after(1_000, Event::Arrive(id, to));
        }
    }

    // ---- connections ----

    pub fn open(&mut self, ends: [End; 2], hosts: [Host; 2]) -> PipeId {
        self.opened += 1;
        self.pipes.insert(self.opened, Pipe { ends, hosts, streams: Default::default() });
        self.opened
    }

    /// Who has an end.
    pub fn end_of(&self, id: PipeId, side: Side) -> End {
        self.pipes.get(&id).map_or(End::Nobody, |pipe| pipe.ends[side])
    }

    /// Sends bytes; if it is `awaited`, [`Event::Sent`] says when the kernel has taken over all of them.
    pub fn send(&mut self, id: PipeId, side: Side, bytes: &[u8], awaited: bool, at: &mut At<'_>) {
        let chaos = self.chaos;
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        let between_nodes = pipe.hosts[0] != CLIENTS;
        let stream = &mut pipe.streams[side];
        if stream.closed {
            return;
        }
        if between_nodes {
            stream.mistreat(bytes, side == 0, chaos, at.chance);
        } else {
            stream.take(bytes.to_vec());
        }
        stream.awaited |= awaited;
        self.pump(id, side, at);
    }

    fn pump(&mut self, id: PipeId, side: Side, at: &mut At<'_>) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let (from, to) = (pipe.hosts[side], pipe.hosts[1 - side]);
        let delay = self.travel(from, to, at.chance);
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        let stream = &mut pipe.streams[side];
        while stream.flight_bytes + stream.arrived.len() < WINDOW
            && let Some(mut bytes) = stream.waiting.pop_front()
        {
            // Whatever was written together may be torn on the way.
            let most = if at.chance.once_in(8) { at.chance.between((1, 300)) } else { PIECE };
            let most = usize::try_from(most).expect("a small number");
            if bytes.len() > most {
                stream.waiting.push_front(bytes.split_off(most));
            }
            stream.waiting_bytes -= bytes.len();
            stream.flight_bytes += bytes.len();
            let before = stream.flight.back().map_or(0, |(time, _)| *time);
            let time = before.max(at.queue.now() + delay) + bytes.len() as u64 / RATE;
            stream.flight.push_back((time, Packet::Bytes(bytes)));
            at.queue.at(time, Event::Arrive(id, 1 - side));
        }
        if stream.closed && stream.waiting.is_empty() && !stream.end_sent() {
            let before = stream.flight.back().map_or(0, |(time, _)| *time);
            let time = before.max(at.queue.now() + delay);
            stream.flight.push_back((time, Packet::Fin));
            at.queue.at(time, Event::Arrive(id, 1 - side));
        }
        if stream.awaited && stream.waiting_bytes <= KERNEL {
            stream.awaited = false;
            let ends = pipe.ends;
            at.queue.after(1, Event::Sent(id, side, ends[side]));
        }
    }

    /// One side closes the connection: what the kernel has taken over still gets there, and what comes is not wanted any more.
    pub fn close(&mut self, id: PipeId, side: Side, at: &mut At<'_>) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.ends[side] = End::Nobody;
        let stream = &mut pipe.streams[side];
        stream.awaited = false;
        if !stream.closed {
            stream.closed = true;
            let mut kept = 0;
            stream.waiting.retain(|bytes| {
                kept += bytes.len();
                kept <= KERNEL
            });
            stream.waiting_bytes = stream.waiting.iter().map(Vec::len).sum();
        }
        self.pump(id, side, at);
        self.forget(id);
    }

    /// One side breaks the connection off.
    pub fn reset(&mut self, id: PipeId, side: Side, at: &mut At<'_>) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let delay = self.travel(pipe.hosts[side], pipe.hosts[1 - side], at.chance);
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.ends[side] = End::Nobody;
        let stream = &mut pipe.streams[side];
        (stream.closed, stream.awaited) = (true, false);
        stream.waiting.clear();
        stream.waiting_bytes = 0;
        // It may overtake nothing, but what it meets unread is lost.
        let before = stream.flight.back().map_or(0, |(time, _)| *time);
        let time = before.max(at.queue.now() + delay);
        stream.flight.push_back((time, Packet::Reset));
        at.queue.at(time, Event::Arrive(id, 1 - side));
    }

    /// A process is gone. Its kernel says so to all others, unless the whole host is dark.
    pub fn end_process(&mut self, end: End, says_so: bool, at: &mut At<'_>) {
        let ended: Vec<(PipeId, Side)> = self
            .pipes
            .iter()
            .flat_map(|(id, pipe)| (0..2).filter(|side| pipe.ends[*side] == end).map(|side| (*id, side)))
            .collect();
        for (id, side) in ended {
            if !says_so {
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    pipe.ends[side] = End::Nobody;
                    let stream = &mut pipe.streams[side];
                    // Nothing that was not sent yet ever will be.
                    (stream.closed, stream.awaited) = (true, false);
                    stream.waiting.clear();
                    stream.waiting_bytes = 0;
                    stream.flight.retain(|(time, _)| *time <= at.queue.now());
                    stream.flight_bytes = stream.flight.iter().map(|(_, packet)| packet.size()).sum();
                }
            } else if at.chance.once_in(2) {
                self.close(id, side, at);
            } else {
                self.reset(id, side, at);
            }
        }
    }

    /// All connections between two hosts break.
    pub fn break_between(&mut self, a: Host, b: Host, at: &mut At<'_>) {
        let both: Vec<PipeId> =
            self.pipes.iter().filter(|(_, p)| p.hosts == [a, b] || p.hosts == [b, a]).map(|(id, _)| *id).collect();
        for id in both {
            for side in 0..2 {
                // Both ends hear of it: somebody in between has forgotten the connection.
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    let stream = &mut pipe.streams[side];
                    stream.flight.clear();
                    stream.flight_bytes = 0;
                    stream.flight.push_back((at.queue.now(), Packet::Reset));
                    at.queue.after(0, Event::Arrive(id, 1 - side));
                }
            }
        }
    }

    /// Clients of a host that was dark ask their connections for a sign of life, and hear that there are none.
    pub fn probe(&mut self, host: Host, at: &mut At<'_>) {
        let dead = |pipe: &&Pipe| pipe.hosts == [CLIENTS, host] && pipe.ends[1] == End::Nobody;
        let dead: Vec<PipeId> = self.pipes.iter().filter(|(_, pipe)| dead(pipe)).map(|(id, _)| *id).collect();
        for id in dead {
            self.reset(id, 1, at);
        }
    }

    // ---- arrivals ----

    /// Something may have arrived at a side: whether there is something to read.
    pub fn arrive(&mut self, id: PipeId, side: Side, at: &mut At<'_>) -> bool {
        let Some(pipe) = self.pipes.get(&id) else { return false };
        if !self.gets_through(pipe.hosts[1 - side], pipe.hosts[side]) {
            if let Some(pipe) = self.pipes.get_mut(&id) {
                let stream = &mut pipe.streams[1 - side];
                stream.stuck |= !stream.flight.is_empty();
            }
            return false;
        }
        let Some(pipe) = self.pipes.get_mut(&id) else { return false };
        let nobody = pipe.ends[side] == End::Nobody;
        let stream = &mut pipe.streams[1 - side];
        let mut unwanted = false;
        while let Some((_, packet)) = stream.flight.pop_front_if(|(time, _)| *time <= at.queue.now()) {
            stream.flight_bytes -= packet.size();
            match packet {
                Packet::Bytes(_) if nobody => unwanted = true,
                Packet::Bytes(bytes) => stream.arrived.extend_from_slice(&bytes),
                Packet::Fin => stream.end_arrived = true,
                Packet::Reset => stream.reset_arrived = true,
            }
        }
        if unwanted && !pipe.streams[side].end_sent() {
            // The kernel knows of no such connection any more.
            self.reset(id, side, at);
        } else if unwanted {
            self.pump(id, 1 - side, at);
        }
        self.forget(id);
        !nobody
    }

    /// Reads what has arrived at a side.
    pub fn read(&mut self, id: PipeId, side: Side, at: &mut At<'_>) -> Read {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Read::Broken };
        let stream = &mut pipe.streams[1 - side];
        if stream.reset_arrived {
            return Read::Broken;
        }
        if stream.arrived.is_empty() {
            return if stream.end_arrived { Read::End } else { Read::Nothing };
        }
        let bytes = std::mem::take(&mut stream.arrived);
        self.pump(id, 1 - side, at);
        Read::Bytes(bytes)
    }

    /// Forgets a connection that is over.
    fn forget(&mut self, id: PipeId) {
        let over =
            |pipe: &Pipe| pipe.ends == [End::Nobody; 2] && pipe.streams.iter().all(|stream| stream.flight.is_empty());
        if self.pipes.get(&id).is_some_and(over) {
            self.pipes.remove(&id);
        }
    }
}

impl Stream {
    fn take(&mut self, bytes: Vec<u8>) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
    }

    /// Takes bytes frame by frame, of which some do not arrive as they were sent.
    fn mistreat(&mut self, bytes: &[u8], dialed: bool, chaos: Chaos, chance: &mut Chance) {
        self.partial.extend_from_slice(bytes);
        if dialed && !self.greeted {
            if self.partial.len() < PREAMBLE.len() {
                return;
            }
            let rest = self.partial.split_off(PREAMBLE.len());
            let preamble = std::mem::replace(&mut self.partial, rest);
            self.take(preamble);
        }
        self.greeted = true;
        if chaos == Chaos::default() && self.held.is_none() && whole(&self.partial) {
            let frames = std::mem::take(&mut self.partial);
            return self.take(frames);
        }
        while let Split::Whole { size } = peer::split(&self.partial).expect("nodes send frames") {
            let rest = self.partial.split_off(size);
            let frame = std::mem::replace(&mut self.partial, rest);
            let may = chaos != Chaos::default() && may_be_relayed(&frame);
            let dice = if may { chance.below(10_000) } else { u64::MAX };
            if dice < chaos.lost {
                continue;
            } else if dice < chaos.lost + chaos.twice {
                self.take(frame.clone());
            } else if dice < chaos.lost + chaos.twice + chaos.overtaken && self.held.is_none() {
                self.held = Some((frame, chance.between((1, 6))));
                continue;
            }
            self.take(frame);
            if let Some((_, left)) = &mut self.held {
                *left -= 1;
                if *left == 0
                    && let Some((frame, _)) = self.held.take()
                {
                    self.take(frame);
                }
            }
        }
    }

    fn end_sent(&self) -> bool {
        self.end_arrived
            || self.reset_arrived
            || self.flight.iter().any(|(_, packet)| matches!(packet, Packet::Fin | Packet::Reset))
    }
}

/// Whether bytes are whole frames.
fn whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Split::Whole { size } = peer::split(rest).expect("nodes send frames") {
        rest = &rest[size..];
    }
    rest.is_empty()
}

/// Whether a frame is for raft, for the leader, or of a snapshot: these may be relayed by others.
fn may_be_relayed(frame: &[u8]) -> bool {
    let received = peer::decode(frame).expect("nodes send frames");
    matches!(
        received.frame,
        Frame::Raft(_) | Frame::Forward(_) | Frame::Chunk { .. } | Frame::ChunkAck { .. } | Frame::ChunkFailed { .. }
    )
}

impl Packet {
    fn size(&self) -> usize {
        if let Packet::Bytes(bytes) = self { bytes.len() } else { 0 }
    }
}

/// When and by what chance something happens.
pub struct At<'a> {
    pub queue: &'a mut Queue<Event>,
    pub chance: &'a mut Chance,
}
