//! A connection's receive buffer, and the memory that all of them share.
//!
//! A buffer begins small, because ten thousand idle connections must cost little. It becomes larger while the client fills it, and
//! small again when the client is quiet. For a frame that is larger still it grows as the frame's bytes come, never on the word of a
//! length alone. What all buffers have beyond their first size is counted against one pool: [`limits::RECEIVE_MAX`] for clients, and
//! [`limits::RECEIVE_PEERS`] for the nodes of the cluster, so that a node never loses its link to clients.
//!
//! Only half of a pool is for buffers that would merely like to be larger. The other half is for requests that do not fit otherwise.
//! When that is used up, an unfinished request has to go: the one that has made no progress for the longest time, where
//! [`limits::RECEIVE_PROGRESS`] bytes or a whole request are progress. So a request whose bytes keep coming finds room, however many
//! connections hold unfinished requests; and nobody's request is too large or too small to stay. Strangers make room first, and only
//! for other strangers when a stranger asks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::limits;
use crate::replica::Conn;

/// Size of a connection's first receive buffer.
pub const FIRST: usize = 4 << 10;
/// What it grows to when a client keeps filling it; larger only for a larger frame.
pub const BUSY: usize = 64 << 10;

/// The rank of an unfinished request among those that may have to make room: the lowest goes first. False for strangers, and the
/// number of the request's last progress.
type Rank = (bool, u64);

/// Bytes that a group of buffers together may have beyond their first size, and the unfinished requests that hold them.
#[derive(Debug)]
pub struct Pool {
    total: usize,
    left: Cell<usize>,
    /// How often a request has made progress.
    progress: Cell<u64>,
    /// The unfinished requests, with their connections and the bytes that they hold.
    unfinished: RefCell<BTreeMap<Rank, (Conn, usize)>>,
    /// Those that make room, with the bytes that they still hold.
    leaving: RefCell<BTreeMap<Rank, usize>>,
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(bytes: usize) -> Pool {
        Pool {
            total: bytes,
            left: Cell::new(bytes),
            progress: Cell::new(0),
            unfinished: RefCell::default(),
            leaving: RefCell::default(),
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let enough = self.left.get() >= bytes;
        if enough {
            self.left.set(self.left.get() - bytes);
        }
        enough
    }

    /// Takes bytes that a buffer would merely like to have.
    fn take_spare(&self, bytes: usize) -> bool {
        self.left.get() >= self.total / 2 + bytes && self.take(bytes)
    }

    fn give(&self, bytes: usize) {
        self.left.set(self.left.get() + bytes);
    }

    /// Returns whether less than half of the pool is left.
    fn is_short(&self) -> bool {
        self.left.get() < self.total / 2
    }

    fn next_rank(&self, stranger: bool) -> Rank {
        self.progress.set(self.progress.get() + 1);
        (!stranger, self.progress.get())
    }

    /// Names connections to close, at most `most`, so that a buffer can get what it was refused. The buffer's own connection is
    /// among them only if nobody else can make room.
    pub fn make_way(&self, asker: &Buffer<'_>, refused: NoRoom, most: usize) -> Vec<Conn> {
        let (mut unfinished, mut leaving) = (self.unfinished.borrow_mut(), self.leaving.borrow_mut());
        let mut coming = self.left.get() + leaving.values().sum::<usize>();
        let mut named = Vec::new();
        while coming < refused.more && named.len() < most {
            let end: Rank = (true, if asker.stranger { 0 } else { u64::MAX });
            let next = unfinished.range(..end).find(|(_, (conn, _))| *conn != asker.conn);
            let Some((rank, (conn, held))) = next.map(|(rank, request)| (*rank, *request)) else {
                if named.is_empty() && leaving.is_empty() {
                    named.push(asker.conn);
                }
                break;
            };
            unfinished.remove(&rank);
            leaving.insert(rank, held);
            coming += held;
            named.push(conn);
        }
        named
    }
}

/// The pool is used up, and a frame has come that needs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    more: usize,
}

/// A connection's receive buffer, which grows and shrinks with its traffic.
#[derive(Debug)]
pub struct Buffer<'a> {
    pool: &'a Pool,
    conn: Conn,
    taken: usize,
    bytes: Vec<u8>,
    /// The rank of the unfinished request in the buffer, if it holds more than the first size.
    rank: Option<Rank>,
    /// Bytes of this request that have come since its last progress.
    since: usize,
    /// Whether the connection is a stranger's.
    pub stranger: bool,
}

impl<'a> Buffer<'a> {
    /// An empty buffer of the first size.
    pub fn new(pool: &'a Pool, conn: Conn) -> Buffer<'a> {
        let bytes = Vec::with_capacity(FIRST);
        Buffer { pool, conn, taken: 0, bytes, rank: None, since: 0, stranger: false }
    }

    /// What has been received and not used up.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether the buffer is larger than at first, or would like to be.
    pub fn is_large(&self) -> bool {
        self.taken > 0 || self.bytes.len() == self.bytes.capacity()
    }

    /// Counts the buffer against another pool from now on, if that has room for it.
    pub fn move_to(&mut self, pool: &'a Pool) {
        if !std::ptr::eq(self.pool, pool) && pool.take(self.taken) {
            self.end_request();
            self.pool.give(self.taken);
            self.pool = pool;
        }
    }

    /// Names connections to close, at most `most`, so that the buffer can get what it was refused.
    pub fn make_way(&self, refused: NoRoom, most: usize) -> Vec<Conn> {
        self.pool.make_way(self, refused, most)
    }

    /// Lends the memory for a receive, which appends to what is there; [`Buffer::received`] takes it back.
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the memory back, with what was received.
    pub fn received(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Drops the first `used` bytes and makes the buffer ready for the next receive. `got` is what the last receive
    /// brought, `needed` the size of the frame that has begun, if it is known.
    ///
    /// # Errors
    /// When the buffer has to grow and the pool is used up. What was used is dropped all the same: ask again with 0.
    pub fn make_room(&mut self, used: usize, got: usize, needed: Option<usize>) -> Result<(), NoRoom> {
        let filled = self.bytes.len() == self.bytes.capacity();
        if used == self.bytes.len() {
            self.bytes.clear();
        } else if used > 0 {
            self.bytes.drain(..used);
        }
        let result = self.fit(filled, got, needed);
        self.note(used, got);
        result
    }

    fn fit(&mut self, filled: bool, got: usize, needed: Option<usize>) -> Result<(), NoRoom> {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len == capacity {
            let frame = needed.unwrap_or(BUSY).max(BUSY);
            let wanted = (2 * capacity).clamp(BUSY, frame.max(capacity + FIRST));
            let more = self.lacks(wanted);
            if !self.pool.take(more) {
                return Err(NoRoom { more });
            }
            self.grow(wanted, more);
        } else if filled && capacity < BUSY {
            // Without it, the client is served in smaller portions.
            let more = self.lacks(BUSY);
            if self.pool.take_spare(more) {
                self.grow(BUSY, more);
            }
        } else if len <= FIRST / 2 && capacity > FIRST && (got <= FIRST / 4 || self.pool.is_short()) {
            self.shrink(FIRST);
        } else if len <= BUSY / 2 && capacity > BUSY {
            self.shrink(BUSY);
        }
        Ok(())
    }

    /// Tells the pool of what waits in the buffer, before a pause: requests that may not be carried out yet count as unfinished.
    pub fn pause(&mut self) {
        self.note(0, 0);
    }

    /// Keeps the rank of what is left in the buffer.
    fn note(&mut self, used: usize, got: usize) {
        if self.taken == 0 || self.bytes.is_empty() {
            return self.end_request();
        }
        self.since += got;
        let is_progress = used > 0 || self.since >= limits::RECEIVE_PROGRESS;
        let mut unfinished = self.pool.unfinished.borrow_mut();
        let rank = match self.rank {
            // Once it has to make room, it does.
            Some(rank) if !unfinished.contains_key(&rank) => return,
            Some(rank) if !is_progress && rank.0 != self.stranger => rank,
            old => {
                if let Some(old) = old {
                    unfinished.remove(&old);
                }
                self.since = 0;
                self.pool.next_rank(self.stranger)
            }
        };
        unfinished.insert(rank, (self.conn, self.taken));
        self.rank = Some(rank);
    }

    fn end_request(&mut self) {
        self.since = 0;
        if let Some(rank) = self.rank.take() {
            self.pool.unfinished.borrow_mut().remove(&rank);
            self.pool.leaving.borrow_mut().remove(&rank);
        }
    }

    fn lacks(&self, capacity: usize) -> usize {
        capacity - FIRST - self.taken
    }

    fn grow(&mut self, capacity: usize, more: usize) {
        self.taken += more;
        self.bytes.reserve_exact(capacity - self.bytes.len());
    }

    fn shrink(&mut self, capacity: usize) {
        let mut smaller = Vec::with_capacity(capacity);
        smaller.extend_from_slice(&self.bytes);
        self.bytes = smaller;
        let less = self.taken.saturating_sub(capacity - FIRST);
        self.taken -= less;
        self.pool.give(less);
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.end_request();
        self.pool.give(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn() -> Conn {
        conns(1)[0]
    }

    fn conns(count: usize) -> Vec<Conn> {
        let mut desk = crate::replica::desk::Desk::default();
        (0..count).map(|_| desk.sessions.open(Default::default())).collect()
    }

    /// Receives so many bytes, of which the replica uses up `used`.
    fn receive(buffer: &mut Buffer<'_>, got: usize, used: usize, needed: Option<usize>) -> Result<(), NoRoom> {
        let mut bytes = buffer.lend();
        assert!(bytes.len() + got <= bytes.capacity(), "a receive does not grow the buffer");
        bytes.resize(bytes.len() + got, 1);
        buffer.received(bytes);
        buffer.make_room(used, got, needed)
    }

    /// A client that announces a frame of 4 MiB and sends a few bytes must not be given 4 MiB.
    #[test]
    fn memory_follows_the_bytes_not_the_length() {
        let pool = Pool::new(64 << 20);
        let mut buffer = Buffer::new(&pool, conn());
        let frame = 4 << 20;
        receive(&mut buffer, 100, 0, Some(frame)).unwrap();
        assert_eq!(buffer.bytes.capacity(), FIRST);
        let mut have = 100;
        while have < frame {
            let room = buffer.bytes.capacity() - have;
            let got = room.min(frame - have);
            receive(&mut buffer, got, if have + got == frame { frame } else { 0 }, Some(frame)).unwrap();
            have += got;
            assert!(buffer.bytes.capacity() <= (2 * have).max(BUSY));
        }
        assert_eq!(buffer.bytes.capacity(), BUSY, "and gives it back after the frame");
        drop(buffer);
        assert_eq!(pool.left.get(), 64 << 20);
    }

    /// Many connections that were busy once must not keep their large buffers.
    #[test]
    fn a_quiet_connection_has_a_small_buffer_again() {
        let pool = Pool::new(1 << 20);
        let mut buffer = Buffer::new(&pool, conn());
        receive(&mut buffer, FIRST, FIRST, None).unwrap();
        assert_eq!(buffer.bytes.capacity(), BUSY);
        receive(&mut buffer, 30, 30, None).unwrap();
        assert_eq!((buffer.bytes.capacity(), pool.left.get()), (FIRST, 1 << 20));
    }

    /// With the pool used up, small requests go on; only a frame that cannot be held is refused.
    #[test]
    fn without_room_only_large_frames_are_refused() {
        let pool = Pool::new(0);
        let mut buffer = Buffer::new(&pool, conn());
        receive(&mut buffer, FIRST, FIRST, None).unwrap();
        receive(&mut buffer, FIRST, 10, None).unwrap();
        assert_eq!(receive(&mut buffer, 10, 0, Some(100_000)), Err(NoRoom { more: BUSY - FIRST }));
    }

    /// Receives a request of `frame` bytes up to `end`. Returns the connections that had to make way for it.
    fn receive_up_to(buffer: &mut Buffer<'_>, end: usize, frame: usize) -> Vec<Conn> {
        let mut named = Vec::new();
        while buffer.bytes.len() < end {
            let got = (buffer.bytes.capacity() - buffer.bytes.len()).min(end - buffer.bytes.len());
            if let Err(refused) = receive(buffer, got, 0, Some(frame)) {
                named.extend(buffer.make_way(refused, usize::MAX));
                break;
            }
        }
        named
    }

    /// Thousands of connections hold unfinished requests of 60 kB, and a trickle renews them; each has less than a client that sends
    /// 1 MiB. That client lost its connection, for it held the most.
    #[test]
    fn a_large_request_loses_to_many_unfinished_ones() {
        let (pool, conns) = (Pool::new(200 * BUSY), conns(1_100));
        let mut held: Vec<Option<Buffer<'_>>> = Vec::new();
        let mut closed = Vec::new();
        for conn in &conns[1..1_000] {
            let mut buffer = Buffer::new(&pool, *conn);
            for conn in receive_up_to(&mut buffer, 60_000, 1 << 20) {
                held[conns.iter().position(|c| *c == conn).unwrap() - 1] = None;
                closed.push(conn);
            }
            // What was refused is there once the others are gone.
            buffer.make_room(0, 0, Some(1 << 20)).unwrap();
            assert_eq!(receive_up_to(&mut buffer, 60_000, 1 << 20), []);
            held.push(Some(buffer));
        }
        assert!(closed.is_sorted() && closed.len() > 700, "those that came first make room for those that come");
        let mut innocent = Buffer::new(&pool, conns[0]);
        let mut others = conns[1_000..].iter();
        while innocent.bytes.len() < 1 << 20 {
            for conn in receive_up_to(&mut innocent, 1 << 20, 1 << 20) {
                assert_ne!(conn, conns[0]);
                held[conns.iter().position(|c| *c == conn).unwrap() - 1] = None;
            }
            innocent.make_room(0, 0, Some(1 << 20)).unwrap();
            for buffer in held.iter_mut().flatten() {
                receive(buffer, 1, 0, Some(1 << 20)).unwrap();
            }
            for _ in 0..3 {
                let mut other = Buffer::new(&pool, *others.next().unwrap());
                for conn in receive_up_to(&mut other, 60_000, 1 << 20) {
                    assert_ne!(conn, conns[0], "bytes that trickle are no progress");
                    held[conns.iter().position(|c| *c == conn).unwrap() - 1] = None;
                }
                other.make_room(0, 0, Some(1 << 20)).unwrap();
                held.push(Some(other));
            }
        }
        assert!(held.iter().flatten().count() > 100, "no more make room than necessary");
        let kept = held.iter().flatten().map(|buffer| buffer.taken).sum::<usize>();
        assert_eq!(pool.left.get() + kept + innocent.taken, pool.total);
        assert!(others.len() < 90, "others asked meanwhile");
    }

    /// Clients that are idle after large requests keep no more than half of the memory, since nobody closes them for it.
    #[test]
    fn idle_buffers_leave_no_room_for_a_request() {
        let (pool, conns) = (Pool::new(100 * BUSY), conns(1_000));
        let mut idle = Vec::new();
        for conn in &conns[1..] {
            let mut buffer = Buffer::new(&pool, *conn);
            // A large request, or many small ones.
            if idle.len() % 2 == 0 {
                assert_eq!(receive_up_to(&mut buffer, 60_000, 60_000), []);
                buffer.make_room(60_000, 60_000, None).unwrap();
            } else {
                receive(&mut buffer, FIRST, FIRST, None).unwrap();
            }
            idle.push(buffer);
        }
        let mut innocent = Buffer::new(&pool, conns[0]);
        assert_eq!(receive_up_to(&mut innocent, 1 << 20, 1 << 20), []);
        assert_eq!(innocent.bytes.len(), 1 << 20);
    }

    /// A link of a node has a pool of its own, from the moment that the node is known.
    #[test]
    fn a_node_loses_its_link_to_clients() {
        let (clients, peers, conns) = (Pool::new(4 * BUSY), Pool::new(64 * BUSY), conns(9));
        let mut link = Buffer::new(&clients, conns[0]);
        assert_eq!(receive_up_to(&mut link, 60_000, 4 << 20), []);
        link.move_to(&peers);
        let mut held = Vec::new();
        for conn in &conns[1..] {
            let mut buffer = Buffer::new(&clients, *conn);
            assert!(!receive_up_to(&mut buffer, 60_000, 1 << 20).contains(&conns[0]));
            held.push(buffer);
        }
        assert_eq!(receive_up_to(&mut link, 3 << 20, 4 << 20), []);
        drop((link, held));
        assert_eq!((clients.left.get(), peers.left.get()), (clients.total, peers.total));
    }

    /// Strangers make room for clients with access, and clients never for strangers.
    #[test]
    fn strangers_take_the_memory_of_clients() {
        let (pool, conns) = (Pool::new(2 * BUSY), conns(4));
        let mut client = Buffer::new(&pool, conns[0]);
        assert_eq!(receive_up_to(&mut client, 60_000, 1 << 20), []);
        let mut first = Buffer::new(&pool, conns[1]);
        first.stranger = true;
        assert_eq!(receive_up_to(&mut first, 60_000, 1 << 20), []);
        let mut second = Buffer::new(&pool, conns[2]);
        second.stranger = true;
        assert_eq!(receive_up_to(&mut second, 60_000, 1 << 20), [conns[1]]);
        drop(first);
        assert_eq!(receive_up_to(&mut second, 60_000, 1 << 20), []);
        second.make_room(0, 0, Some(1 << 20)).unwrap();
        let mut third = Buffer::new(&pool, conns[3]);
        assert_eq!(receive_up_to(&mut third, 60_000, 1 << 20), [conns[2]]);
        drop(second);
        third.make_room(0, 0, Some(1 << 20)).unwrap();
        third.stranger = true;
        let mut fourth = Buffer::new(&pool, conns[1]);
        fourth.stranger = true;
        drop(third);
        let mut other = Buffer::new(&pool, conns[2]);
        assert_eq!(receive_up_to(&mut other, 60_000, 1 << 20), []);
        assert_eq!(receive_up_to(&mut fourth, 60_000, 1 << 20), [conns[1]], "only clients hold something");
    }
}
