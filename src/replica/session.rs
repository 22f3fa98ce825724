//! Sessions: the state of each connection. Access, unsent output, outstanding requests.
//!
//! Back-pressure lives here: a session whose unsent output exceeds [`OUTPUT_HIGH`] takes no further request until the output is
//! sent. Answers that come without a recent request (events, reads of a future revision) are kept as notes of a few bytes, and
//! composed when there is room. So a client that does not read costs no more than that.
//!
//! Where a secret is set, a session is a stranger's at first: see [`limits::STRANGERS_MAX`]. A session that presents a wrong secret
//! pauses, the longer the more often it does that.
//!
//! A client's large output is handed out in pieces, with a limit for each turn, because handing output to the kernel takes the
//! loop's time. Output for peers is handed out first, and whole. Small answers are copied one after the other. A large value is a
//! part of its own, which the outputs of all who are sent it share, and so do the pieces that are being sent. The bound on all output
//! counts memory: a shared value counts once, as long as somebody is still sent it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use slab::Slab;

use super::desk::Deferred;
use super::shares::Share;
use super::tokens::Tokens;
use crate::faults::{self, Fault};
use crate::limits;
use crate::store::Queue;
use crate::wire::Response;

/// Bytes of output from which on a session takes no further request. One answer (at most a value of 1 MiB) may still exceed this.
pub const OUTPUT_HIGH: usize = limits::OUTPUT_PIECE;

/// A connection, as long as it lives. Its number is never used again, so a late answer can reach nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn {
    slot: usize,
    serial: u64,
}

/// The rights of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Reads and waits.
    pub read: bool,
    /// Mutations.
    pub write: bool,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    serial: u64,
    /// The session's present rights.
    pub access: Access,
    /// Output that was not handed out: parts, with their length together and that of the shared ones, and what comes after them.
    parts: VecDeque<Part>,
    parts_len: usize,
    shared_len: usize,
    out: Vec<u8>,
    /// Bytes handed out last and still being sent; and how many of them are no part's.
    sending: usize,
    copied: usize,
    /// When these were handed out, in milliseconds.
    handed_ms: u64,
    /// Bytes that the client has taken since its last progress, and the milliseconds in which it could have taken more.
    taken: usize,
    taking_ms: u64,
    dirty: bool,
    /// Tokens of its parked requests; a parked request knows its place here.
    pub parked: Tokens,
    /// What its parked requests are taken to cost.
    pub parked_bytes: usize,
    /// Answers that wait for room in the output.
    pub deferred: Queue<Deferred>,
    /// Tokens of its scans that were put aside, in order; a scan that is over may still be listed.
    pub scans: VecDeque<usize>,
    /// True if the session is in the desk's rotation of sessions with scans.
    pub queued: bool,
    /// True if the session is in the desk's rotation of sessions with deferred answers.
    pub owed: bool,
    /// Mutations that are not answered yet.
    pub unanswered: usize,
    paused: Option<Pause>,
    /// What it may ask in a turn.
    pub share: Share,
    ended: bool,
    gone: bool,
    /// True until the first bytes come.
    pub fresh: bool,
    /// True for the link of a peer, since before anything was sent on it.
    pub peer: bool,
    /// The address of the other side, for lines about strangers; empty if unknown.
    pub from: Box<str>,
    stranger: bool,
    /// True if it has access only because everyone may read.
    reader: bool,
    /// True while the session pauses because of a wrong secret.
    pub delayed: bool,
    /// Wrong secrets that it has presented.
    wrong: u32,
}

/// A part of an output.
#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Whether other outputs may hold the same bytes.
    shared: bool,
}

/// Memory of outputs, which is counted as long as it is there.
#[derive(Debug)]
pub struct Counted {
    bytes: Vec<u8>,
    total: Arc<AtomicUsize>,
}

impl Counted {
    fn new(bytes: Vec<u8>, total: &Arc<AtomicUsize>) -> Arc<Counted> {
        total.fetch_add(bytes.len(), Ordering::Relaxed);
        Arc::new(Counted { bytes, total: Arc::clone(total) })
    }
}

/// One of those that share a [`Counted`].
struct Holder(Arc<Counted>);

impl AsRef<[u8]> for Holder {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// What a paused session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Its output must be sent.
    Output,
    /// Its mutation needs room in the batch or in the log.
    Room,
    /// The next turn: the session has had its share of this one.
    Turn,
    /// Time must pass: the session has presented a wrong secret.
    Secret,
}

impl Session {
    /// Returns whether the client has gone. It receives nothing, but the server still carries out the mutations that it has sent.
    pub fn gone(&self) -> bool {
        self.gone
    }

    /// Returns whether the output is so large that it must be sent before more is added.
    pub fn full(&self) -> bool {
        self.waiting() >= if self.stranger { limits::STRANGER_OUTPUT } else { OUTPUT_HIGH }
    }

    /// Returns whether the client will send no more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Returns whether there is output that the shell does not know of.
    pub fn dirty(&self) -> bool {
        self.dirty
    }

    /// Returns how many bytes of output were not handed out.
    fn waiting(&self) -> usize {
        self.parts_len + self.out.len()
    }

    fn push_part(&mut self, counted: Arc<Counted>, shared: bool) {
        let bytes = Bytes::from_owner(Holder(counted));
        self.parts_len += bytes.len();
        self.shared_len += if shared { bytes.len() } else { 0 };
        self.parts.push_back(Part { bytes, shared });
    }

    /// Makes what was copied last a part, behind which others may be added. Returns its length, which the part counts.
    fn close_part(&mut self, total: &Arc<AtomicUsize>) -> usize {
        let out = std::mem::take(&mut self.out);
        let len = out.len();
        if len > 0 {
            self.push_part(Counted::new(out, total), false);
        }
        len
    }

    /// Takes the next piece of the parts.
    fn next_piece(&mut self) -> Bytes {
        let Some(first) = self.parts.front_mut() else { return Bytes::new() };
        let piece = first.bytes.split_to(first.bytes.len().min(limits::OUTPUT_PIECE));
        self.parts_len -= piece.len();
        self.shared_len -= if first.shared { piece.len() } else { 0 };
        if first.bytes.is_empty() {
            self.parts.pop_front();
        }
        piece
    }

    /// Returns how many bytes of output wait or are being sent.
    pub fn unsent(&self) -> usize {
        self.waiting() + self.sending
    }

    /// The same without the values that other outputs may share: what closing the connection makes free.
    fn own(&self) -> usize {
        self.unsent() - self.shared_len
    }

    fn finished(&self) -> bool {
        self.ended && self.unanswered == 0 && self.deferred.is_empty() && self.parked.is_empty() && self.waiting() == 0
    }
}

/// What a connection has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing at the moment.
    Nothing,
    /// The bytes in the buffer, or the part that is returned beside.
    Send,
    /// Nothing, ever again: everything is answered, and the client will ask no more. Close the connection.
    Finish,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Boxed, because the table is copied to grow: a large server has hundreds of thousands.
    table: Slab<Box<Session>>,
    serial: u64,
    dirty: Vec<Conn>,
    /// The same for peers, who come first.
    dirty_peers: Vec<Conn>,
    /// Connections whose output has no room in this turn.
    late: Vec<Conn>,
    /// Bytes of large outputs handed out in this turn.
    handed: usize,
    now_ms: u64,
    resumed: Vec<Conn>,
    aborted: Vec<Conn>,
    /// Bytes of clients' outputs that are in no part; and those of all parts that are still there.
    copied: usize,
    parts: Arc<AtomicUsize>,
    /// The sessions of strangers by their numbers, the oldest first, and when each was opened.
    strangers: BTreeMap<u64, (usize, u64)>,
    /// How many sessions have access only because everyone may read.
    readers: usize,
    /// Sessions that pause because of a wrong secret, and until when. Some may be gone.
    delayed: BTreeSet<(u64, Conn)>,
}

impl Sessions {
    /// Opens a session.
    pub fn open(&mut self, access: Access) -> Conn {
        self.serial += 1;
        let serial = self.serial;
        let slot = self.table.insert(Box::new(Session {
            serial,
            access,
            parts: VecDeque::new(),
            parts_len: 0,
            shared_len: 0,
            out: Vec::new(),
            sending: 0,
            copied: 0,
            handed_ms: 0,
            taken: 0,
            taking_ms: 0,
            dirty: false,
            parked: Tokens::default(),
            parked_bytes: 0,
            deferred: Queue::default(),
            scans: VecDeque::new(),
            queued: false,
            owed: false,
            unanswered: 0,
            paused: None,
            share: Share::default(),
            ended: false,
            gone: false,
            fresh: true,
            peer: false,
            from: Box::default(),
            stranger: false,
            reader: false,
            delayed: false,
            wrong: 0,
        }));
        Conn { slot, serial }
    }

    /// Returns the session of a connection, if it still lives.
    pub fn get(&mut self, conn: Conn) -> Option<&mut Session> {
        self.table.get_mut(conn.slot).map(|session| &mut **session).filter(|s| s.serial == conn.serial)
    }

    /// Ends a session; the caller cancels what it has parked.
    pub fn remove(&mut self, conn: Conn) -> Option<Session> {
        self.get(conn)?;
        let session = self.table.remove(conn.slot);
        if session.stranger {
            self.strangers.remove(&conn.serial);
        }
        self.readers -= usize::from(session.reader);
        if !session.peer {
            self.copied -= session.out.len() + session.copied;
        }
        Some(*session)
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Returns how many bytes of memory hold output that waits or is being sent, over all clients. Links to peers have a bound of
    /// their own.
    pub fn buffered(&self) -> usize {
        self.copied + self.parts.load(Ordering::Relaxed)
    }

    /// The client's connection whose unsent output takes the most memory.
    pub fn fattest(&self) -> Option<Conn> {
        let (slot, session) = self.table.iter().filter(|(_, s)| !s.peer).max_by_key(|(_, s)| (s.own(), s.unsent()))?;
        Some(Conn { slot, serial: session.serial })
    }

    /// Returns, among the clients' connections that have taken hardly any output for long, the one with the most.
    pub fn stuck(&self) -> Option<Conn> {
        let is_stuck = |s: &Session| {
            let taking_ms = s.taking_ms + self.now_ms.saturating_sub(s.handed_ms);
            !s.peer && s.sending > 0 && taking_ms >= limits::OUTPUT_PATIENCE_MS
        };
        let (slot, session) =
            self.table.iter().filter(|(_, s)| is_stuck(s)).max_by_key(|(_, s)| (s.own(), s.unsent()))?;
        Some(Conn { slot, serial: session.serial })
    }

    /// Sets the time, in milliseconds since some fixed moment.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some((until, conn)) = self.delayed.first().copied()
            && until <= now_ms
        {
            self.delayed.pop_first();
            if let Some(session) = self.get(conn) {
                session.delayed = false;
            }
            self.resume(conn, Pause::Secret);
        }
    }

    // ---- strangers ----

    /// Counts a session as a stranger's until it is [`Sessions::known`].
    pub fn begin_stranger(&mut self, conn: Conn) {
        let now = self.now_ms;
        if let Some(session) = self.get(conn) {
            session.stranger = true;
            self.strangers.insert(conn.serial, (conn.slot, now));
        }
    }

    /// The other side is a client, and everyone may read: it has access, and is no stranger, unless `most` clients are here for that
    /// reason alone. Then it is served as a stranger.
    pub fn reads(&mut self, conn: Conn, most: usize) {
        if self.readers < most
            && let Some(session) = self.get(conn)
            && session.stranger
        {
            session.reader = true;
            self.readers += 1;
            self.end_stranger(conn);
        }
    }

    /// The other side has proved to be a node of the cluster, or has presented a secret.
    pub fn known(&mut self, conn: Conn) {
        if let Some(session) = self.get(conn) {
            let reader = std::mem::take(&mut session.reader);
            self.readers -= usize::from(reader);
        }
        self.end_stranger(conn);
    }

    fn end_stranger(&mut self, conn: Conn) {
        if let Some(session) = self.get(conn)
            && std::mem::take(&mut session.stranger)
        {
            self.strangers.remove(&conn.serial);
            // It may have been about to be closed as a stranger's.
            self.aborted.retain(|other| *other != conn);
        }
    }

    /// Returns whether a session is a stranger's.
    pub fn is_stranger(&self, conn: Conn) -> bool {
        self.strangers.contains_key(&conn.serial)
    }

    /// Returns how many sessions are strangers'.
    pub fn strangers(&self) -> usize {
        self.strangers.len()
    }

    /// Closes the oldest stranger whose guaranteed time is over. Returns false if no stranger's is.
    pub fn evict_stranger(&mut self) -> bool {
        let oldest = self.strangers.iter().find(|(_, (slot, opened))| {
            let silent = self.table.get(*slot).is_none_or(|session| session.fresh);
            let least = if silent { limits::STRANGER_SILENT_MS } else { limits::STRANGER_HEARD_MS };
            self.now_ms.saturating_sub(*opened) >= least
        });
        let Some((serial, (slot, _))) = oldest.map(|(serial, of)| (*serial, *of)) else { return false };
        self.strangers.remove(&serial);
        self.abort(Conn { slot, serial });
        true
    }

    /// Closes the strangers whose time is over, and returns how many those are.
    pub fn expire_strangers(&mut self) -> u64 {
        let mut expired = 0;
        while let Some(first) = self.strangers.first_entry()
            && self.now_ms.saturating_sub(first.get().1) >= limits::STRANGER_MS
        {
            let (serial, (slot, _)) = first.remove_entry();
            self.abort(Conn { slot, serial });
            expired += 1;
        }
        expired
    }

    /// Gives all strangers so many milliseconds more, because the server did not serve them meanwhile.
    pub fn postpone_strangers(&mut self, ms: u64) {
        if ms > 0 {
            self.strangers.values_mut().for_each(|(_, opened)| *opened += ms);
        }
    }

    /// A session has presented a wrong secret: after the first ones it pauses, longer each time. The time that passes is all that
    /// this costs the server: what the client sends meanwhile stays in its receive buffer and in the kernel.
    pub fn delay(&mut self, conn: Conn) {
        let now = self.now_ms;
        let Some(session) = self.get(conn) else { return };
        session.wrong = session.wrong.saturating_add(1);
        let Some(times) = session.wrong.checked_sub(limits::ACCESS_FREE + 1) else { return };
        let pause = limits::ACCESS_PAUSE_MS << times.min(16);
        session.delayed = true;
        self.delayed.insert((now + pause.min(limits::ACCESS_PAUSE_MAX_MS), conn));
    }

    /// Begins a turn, with a fresh limit for large outputs.
    pub fn begin_turn(&mut self) {
        self.handed = 0;
        self.dirty.append(&mut self.late);
    }

    /// Returns whether output waits for the next turn.
    pub fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Adds an answer to a connection's output, unless the connection is gone.
    pub fn reply(&mut self, conn: Conn, response: &Response<'_>) {
        self.append(conn, |out| response.encode(out));
    }

    /// Makes a value one that outputs can share.
    pub fn share(&self, value: &[u8]) -> Arc<Counted> {
        Counted::new(value.to_vec(), &self.parts)
    }

    /// Adds an answer whose value is shared with other outputs: see [`Sessions::share`].
    pub fn reply_shared(&mut self, conn: Conn, response: &Response<'_>, value: Arc<Counted>) {
        self.append(conn, |out| response.encode_before_value(out));
        let total = Arc::clone(&self.parts);
        if let Some(session) = self.get(conn)
            && !session.gone
        {
            let closed = session.close_part(&total);
            session.push_part(value, true);
            if !session.peer {
                self.copied -= closed;
            }
        }
    }

    /// Adds what `write` appends to a connection's output, unless the connection is gone.
    pub fn append(&mut self, conn: Conn, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.table.get_mut(conn.slot).filter(|s| s.serial == conn.serial) else {
            return;
        };
        if session.gone {
            return;
        }
        let before = session.out.len();
        write(&mut session.out);
        if !session.peer {
            self.copied += session.out.len() - before;
        }
        if !session.dirty {
            session.dirty = true;
            if session.peer { &mut self.dirty_peers } else { &mut self.dirty }.push(conn);
        }
    }

    /// Makes the shell look at a connection at the end of the turn.
    pub fn touch(&mut self, conn: Conn) {
        if let Some(session) = self.get(conn)
            && !session.dirty
        {
            session.dirty = true;
            self.dirty.push(conn);
        }
    }

    /// The client will send no more, or nothing that can be understood.
    pub fn end(&mut self, conn: Conn) {
        if let Some(session) = self.get(conn) {
            session.ended = true;
            self.touch(conn);
        }
    }

    /// Marks a connection to be closed soon, even with unsent output.
    pub fn abort(&mut self, conn: Conn) {
        self.aborted.push(conn);
    }

    /// Moves up to `most` of the connections to close into `into`, in the order in which they were marked.
    pub fn take_aborted(&mut self, most: usize, into: &mut Vec<Conn>) {
        into.extend(self.aborted.drain(..most.min(self.aborted.len())));
    }

    /// Returns whether there are connections to close.
    pub fn has_aborted(&self) -> bool {
        !self.aborted.is_empty()
    }

    /// Moves output into `into`, which must be empty and whose capacity is reused, or returns a piece of a larger output. If the
    /// turn's limit is used up, the connection comes again in the next turn.
    pub fn output(&mut self, conn: Conn, into: &mut Vec<u8>) -> (Output, Bytes) {
        let mut piece = Bytes::new();
        let Some(session) = self.table.get_mut(conn.slot).filter(|s| s.serial == conn.serial) else {
            return (Output::Finish, piece);
        };
        session.dirty = false;
        if session.finished() {
            return (Output::Finish, piece);
        }
        let waiting = session.waiting();
        if waiting == 0 {
            return (Output::Nothing, piece);
        }
        if !session.peer && waiting > limits::ANSWER_SMALL && self.handed >= limits::OUTPUT_TURN {
            session.dirty = true;
            self.late.push(conn);
            return (Output::Nothing, piece);
        }
        if session.parts.is_empty() && (session.peer || waiting <= limits::OUTPUT_PIECE) {
            std::mem::swap(&mut session.out, into);
        } else {
            if session.parts.is_empty() {
                let closed = session.close_part(&self.parts);
                self.copied -= if session.peer { 0 } else { closed };
            }
            piece = session.next_piece();
        }
        session.copied = into.len();
        let size = into.len() + piece.len();
        if !session.peer && waiting > limits::ANSWER_SMALL {
            self.handed += size;
        }
        session.sending += size;
        session.handed_ms = self.now_ms;
        (Output::Send, piece)
    }

    /// The output last taken has been sent: its memory is free, and the connection may continue.
    pub fn sent(&mut self, conn: Conn) {
        let now = self.now_ms;
        if let Some(session) = self.get(conn) {
            session.taken += std::mem::take(&mut session.sending);
            session.taking_ms += now.saturating_sub(session.handed_ms);
            if session.taken >= limits::OUTPUT_PROGRESS || session.waiting() == 0 {
                (session.taken, session.taking_ms) = (0, 0);
            }
            let copied = std::mem::take(&mut session.copied);
            if !session.peer {
                self.copied -= copied;
            }
        }
        self.resume(conn, Pause::Output);
    }

    /// The client no longer receives anything. The caller cancels its parked requests.
    pub fn leave(&mut self, conn: Conn) {
        let Some(session) = self.get(conn) else { return };
        (session.gone, session.delayed) = (true, false);
        let copied = std::mem::take(&mut session.out).len();
        (session.parts_len, session.shared_len) = (0, 0);
        session.parts.clear();
        if !session.peer {
            self.copied -= copied;
        }
        self.resume(conn, Pause::Output);
    }

    /// Pauses a connection; it appears among the resumed ones when it may continue.
    pub fn pause(&mut self, conn: Conn, pause: Pause) {
        if let Some(session) = self.get(conn) {
            session.paused = Some(pause);
        }
    }

    /// Resumes a connection that was paused for this reason.
    pub fn resume(&mut self, conn: Conn, pause: Pause) {
        if let Some(session) = self.get(conn)
            && session.paused == Some(pause)
            && !(pause == Pause::Output && (session.full() || faults::is_armed(Fault::PausedForEver)))
        {
            session.paused = None;
            self.resumed.push(conn);
        }
    }

    /// Moves the connections that have something to look at since the last call into `into`. Links to peers come first, because
    /// their frames must not wait.
    pub fn take_dirty(&mut self, into: &mut Vec<Conn>) {
        into.append(&mut self.dirty_peers);
        into.append(&mut self.dirty);
    }

    /// Moves the connections that may continue into `into`.
    pub fn take_resumed(&mut self, into: &mut Vec<Conn>) {
        into.append(&mut self.resumed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes a few bytes now and then kept its output for ever: each piece counted as progress, however small.
    #[test]
    fn a_reader_that_trickles_is_not_stuck() {
        for reads in [false, true] {
            let mut sessions = Sessions::default();
            let conn = sessions.open(Access::default());
            let value = sessions.share(&[7; limits::SHARED_MIN]);
            for _ in 0..4 {
                let response = Response { value: Some(&value.bytes), ..Response::default() };
                sessions.reply_shared(conn, &response, Arc::clone(&value));
            }
            drop(value);
            assert!(sessions.buffered() < limits::SHARED_MIN + 1_000);
            let mut now = 0;
            let mut stuck = None;
            while sessions.buffered() > 0 && stuck.is_none() {
                let mut out = Vec::new();
                let (_, piece) = sessions.output(conn, &mut out);
                // One takes a large piece as fast as a small one, and the other only small ones in time.
                now += limits::OUTPUT_PATIENCE_MS * if reads { 1 } else { 2 } / 3;
                sessions.set_now(now);
                stuck = sessions.stuck();
                drop(piece);
                sessions.sent(conn);
            }
            assert_eq!(stuck, (!reads).then_some(conn));
            assert_eq!(sessions.buffered() == 0, reads);
        }
    }
}
