//! Every bound of the system in one place, related to each other at compile time.
//!
//! Sizes are bytes unless a name says otherwise.

/// Longest path or glob, in bytes; a longer one is a bad path.
pub const PATH_MAX: usize = 4096;
/// Largest value of a file.
pub const VALUE_MAX: usize = 1 << 20;
/// Largest frame of the client protocol, without its 4 bytes of length. A longer one closes the connection.
pub const FRAME_MAX: usize = 4 << 20;
/// Default number of past revisions that stay readable (`-hist`).
pub const HISTORY_DEFAULT: u64 = 360_000;
/// Default TCP port of a server.
pub const PORT_DEFAULT: u16 = 8046;
/// Unit of every write of the log: the physical block of nearly all devices.
pub const BLOCK: usize = 4096;
/// Size of a log segment's file.
pub const SEGMENT: u64 = 64 << 20;
/// Largest batch: the bytes of one raft entry.
pub const BATCH_MAX: usize = 4 << 20;

// The largest mutation that a client can send fits into a frame, and into a batch with its neighbours' headers.
const _: () = assert!(PATH_MAX + VALUE_MAX + 1024 <= FRAME_MAX);
const _: () = assert!(PATH_MAX + VALUE_MAX + 1024 <= BATCH_MAX);
// A segment holds several batches of any size.
const _: () = assert!(SEGMENT >= 8 * (BATCH_MAX as u64 + BATCH_MAX as u64 / 64));
const _: () = assert!(SEGMENT.is_multiple_of(BLOCK as u64));
/// Memory that requests may take which wait for something, over all connections. Beyond it they are refused.
pub const PARKED_MAX: usize = 1 << 30;
/// A batch takes no further command once it has this size, unless it is the first.
pub const BATCH_SOFT: usize = 1 << 20;
/// Memory that unsent output may take, over all connections. Beyond it the connection with the most is closed.
pub const OUTPUT_MAX: usize = 512 << 20;
/// Memory that receive buffers may take beyond their first size, over all connections. A connection that would need
/// more is closed.
pub const RECEIVE_MAX: usize = 256 << 20;

const _: () = assert!(BATCH_SOFT <= BATCH_MAX);
/// A snapshot is taken when the log since the last one has this size, and that of the last snapshot.
pub const SNAPSHOT_AFTER: u64 = 192 << 20;
