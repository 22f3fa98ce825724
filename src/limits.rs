//! Every bound of the system in one place, related to each other at compile time.
//!
//! Sizes are bytes unless a name says otherwise.

// ---- limits that users meet ----

/// Longest path or glob; a longer one is a bad path.
pub const PATH_MAX: usize = 4096;
/// Levels of a path that SET makes: more are refused. A path may have one level for each two of its bytes, and each level that no
/// other file shares takes some 180 bytes of memory. So a file costs 46 KiB at most, and no client needs so many levels. Deeper files
/// that an earlier version made can be read and deleted.
pub const LEVELS_MAX: usize = 256;
/// Largest value of a file.
pub const VALUE_MAX: usize = 1 << 20;
/// Largest frame of the client protocol, without its 4 bytes of length. A longer one closes the connection.
pub const FRAME_MAX: usize = 4 << 20;
/// Default number of past revisions that stay readable (`-hist`).
pub const HISTORY_DEFAULT: u64 = 360_000;
/// The largest value of `-hist`; the server reads a larger one as this.
pub const HISTORY_MAX: u64 = 100_000_000;
/// Default TCP port of a server.
pub const PORT_DEFAULT: u16 = 8046;
/// Longest zone of an IPv6 address: the name of a network interface.
pub const ZONE_MAX: usize = 15;
/// Slots in `/ctl/cal`, open or not. Clients may not make more.
pub const SLOTS_MAX: usize = 1 << 10;
/// Longest name of a cluster.
pub const CLUSTER_NAME_MAX: usize = 255;

// ---- batches ----

/// Largest batch, that is, one raft entry.
pub const BATCH_MAX: usize = 4 << 20;
/// A batch takes no command that would make it larger than this, except its first.
pub const BATCH_SOFT: usize = 1 << 20;

/// A batch takes no command that would raise its work above this, except its first; and a leader joins no more into one entry. The
/// work is 1 for each command, and 1 for each [`WORK_PATH`] bytes of its path. So one batch keeps a node busy for a few milliseconds
/// only.
pub const BATCH_WORK: usize = 16 << 10;
/// The most work of a batch that comes from another node. That node may have added its own entries in `/ctl` to a full batch.
pub const PARCEL_WORK: usize = BATCH_WORK + (1 << 10);
/// This many bytes of a path, which may contain half as many components, count as one more command.
pub const WORK_PATH: usize = 16;

const _: () = assert!(BATCH_SOFT <= BATCH_MAX);
// The first command of a batch fits, whatever its path.
const _: () = assert!(PATH_MAX / WORK_PATH < BATCH_WORK);
// A node's own entries are some ten, with short paths.
const _: () = assert!(PARCEL_WORK - BATCH_WORK >= 16 * (1 + (2 * CLUSTER_NAME_MAX + 64) / WORK_PATH));
// The largest mutation that a client can send fits into a frame, and into a batch with its neighbours' headers.
const _: () = assert!(PATH_MAX + VALUE_MAX + 1024 <= FRAME_MAX);
const _: () = assert!(PATH_MAX + VALUE_MAX + 1024 <= BATCH_MAX);

// ---- memory that clients can make a server take, over all connections ----

/// Values that were overwritten or deleted and are still readable in the history. Beyond this the history is cut short.
pub const HISTORY_BYTES: u64 = 1 << 30;
/// Directories that only the history still needs, at [`DIR_BYTES`] each. Beyond this the server shortens the history.
pub const HISTORY_DIRS: u64 = 1 << 30;
/// Memory that a directory takes.
pub const DIR_BYTES: u64 = 184;
/// Requests that wait for something. Further ones are refused, first those of connections that have many.
pub const PARKED_MAX: usize = 1 << 30;
/// Requests of one connection that wait for something: about a million, or 60,000 listings that are put aside because they take
/// long. Further ones are refused.
pub const PARKED_EACH: usize = PARKED_MAX / 4;
/// Requests of one connection that may wait in any case: some thirty, or one of any size.
pub const PARKED_FIRST: usize = 9 << 10;
/// Connections whose first requests have room in [`PARKED_MAX`], whatever others do. With more connections, all requests that wait
/// may exceed it by [`PARKED_FIRST`] for each.
pub const PARKED_FIRST_PLACES: usize = 20_000;
/// Beyond this, a connection with more than [`PARKED_FEW`] is refused.
pub const PARKED_SOFT: usize = PARKED_MAX / 4 * 3;
/// See [`PARKED_SOFT`]: some hundred waiting requests.
pub const PARKED_FEW: usize = 64 << 10;
/// Beyond this, a connection with more than [`PARKED_FIRST`] is refused.
pub const PARKED_FULL: usize = PARKED_MAX - PARKED_FIRST_PLACES * PARKED_FIRST;
/// Memory of unsent output; a large value that is sent to several clients counts once. Beyond it the server closes a connection: one
/// whose client reads nothing, or else the one with the most output.
pub const OUTPUT_MAX: usize = 512 << 20;
/// Unsent output beyond which large answers wait until some of it is sent. So answering many clients at once cannot exceed
/// [`OUTPUT_MAX`].
pub const OUTPUT_SOFT: usize = 384 << 20;
/// While answers to other clients wait for room, the server closes a connection whose client has taken less than
/// [`OUTPUT_PROGRESS`] of its output for this long, in milliseconds.
pub const OUTPUT_PATIENCE_MS: u64 = 2_000;
/// Bytes that a client has to take within [`OUTPUT_PATIENCE_MS`], unless it takes all that there is. Fewer count as none.
pub const OUTPUT_PROGRESS: usize = 64 << 10;
/// Receive buffers of clients, beyond their first size; half of it only for requests that are larger. When another request needs
/// more, the server closes the connection whose unfinished request has made no progress for the longest time.
pub const RECEIVE_MAX: usize = 256 << 20;
/// Receive buffers of the nodes of the cluster, beyond their first size, so that clients never cost a node its link.
pub const RECEIVE_PEERS: usize = 128 << 20;
/// Received bytes that are progress of an unfinished request. Fewer do not keep it from being closed when memory is short.
pub const RECEIVE_PROGRESS: usize = 16 << 10;

/// Log lines that stderr has not taken, in bytes. Further lines are dropped, and the log says how many.
pub const LINES_MAX: usize = 256 << 10;

// A path of too many levels is longer than any that has few: most paths need not be counted.
const _: () = assert!(2 * LEVELS_MAX < PATH_MAX);
// Deleting files of ten levels each does not cut the usual history short.
const _: () = assert!(HISTORY_DIRS >= 10 * HISTORY_DEFAULT * DIR_BYTES);
// Some history is left, whatever is written.
const _: () = assert!(HISTORY_BYTES >= 256 * VALUE_MAX as u64);
const _: () = assert!(PARKED_SOFT + PARKED_MAX / 16 <= PARKED_FULL && PARKED_FIRST >= 2 * PATH_MAX + 512);
const _: () = assert!(RECEIVE_PEERS >= 8 * PEER_FRAME_MAX && RECEIVE_PROGRESS * 16 <= VALUE_MAX);
const _: () = assert!(RECEIVE_MAX >= 16 * FRAME_MAX && OUTPUT_MAX >= 16 * VALUE_MAX);
const _: () = assert!(OUTPUT_SOFT >= 16 * VALUE_MAX && OUTPUT_SOFT + 16 * VALUE_MAX <= OUTPUT_MAX);

// ---- work in one turn of the loop, some milliseconds in all ----

/// Cost of the light requests that one turn carries out at once: those of known cost, such as REV, GET and SET. A request costs 1, and
/// 1 for each [`REQUEST_BYTES`] of it and each [`REQUEST_PATH`] of its path. Connections that ask more wait for their turn in a
/// rotation.
pub const LIGHT_TURN: usize = 8 << 10;
/// The cost of requests that each connection has in each turn even if the turn has no room: a few small ones. So no small request
/// waits for the work that others cause.
pub const FREE_TURN: usize = 16;
/// The cost of requests that one connection has in a turn while others wait in the rotation.
pub const SHARE_TURN: usize = 256;
/// The most and the least that a turn spends on the connections in the rotation, and the same again on new searches: entries
/// visited and requests carried out. It is the least after a turn in which another connection asked something, and grows by the
/// part [`PACE_GROWTH`] with each other turn.
pub const PACE_MAX: usize = 4 << 10;
/// See [`PACE_MAX`].
pub const PACE_MIN: usize = 32;
/// See [`PACE_MAX`].
pub const PACE_GROWTH: isize = 16;
/// This many bytes of a request, or of a value that answers it, cost as much as a request.
pub const REQUEST_BYTES: usize = 512;
/// This many bytes of a path, to find or to compose, cost as much as a request.
pub const REQUEST_PATH: usize = 64;
/// What a request for the statistics costs, which are a long text.
pub const STATS_COST: usize = 64;
/// Places in the index of waits that the matching of all events of a turn may visit. The rest of the matching follows in later
/// turns.
pub const MATCHES_TURN: usize = 50_000;

/// Cost of the answers that one turn composes for waiters that an event has woken, and for reads of large values: their bytes,
/// [`ANSWER_COST`] for each answer, and [`SEND_COST`] for each connection. The last answer may exceed it.
pub const ANSWERS_TURN: usize = 2 << 20;
/// The cost of an answer beside its bytes.
pub const ANSWER_COST: usize = 256;
/// The cost of sending on a connection, expressed in copied bytes.
pub const SEND_COST: usize = 4 << 10;
/// Work of one turn for finding and composing the answers to requests of earlier turns: 1 for each entry that a read visits, and 1
/// for each 64 bytes of a path. The last answer may exceed it. [`ANSWERS_TURN`] bounds the answers themselves.
pub const LATE_WORK_TURN: usize = 2_000;
/// A value of at least this size is not copied for each client that is sent it.
pub const SHARED_MIN: usize = 64 << 10;
/// A value up to this size is answered at once, even if other answers wait.
pub const ANSWER_SMALL: usize = 4 << 10;
/// Work of the committed entries that one turn applies: that of their batches, and 1 for each [`APPLY_BYTES`] of an entry. The last
/// entry may exceed it.
pub const APPLY_TURN: usize = BATCH_WORK;
/// Applying this many bytes of an entry takes as long as applying a command.
pub const APPLY_BYTES: usize = 256;
/// Waits that have fired which one turn takes off the store.
pub const WAKES_TURN: usize = 16 << 10;
/// Bytes of large outputs to clients that one turn hands to the kernel. The last output may exceed it.
pub const OUTPUT_TURN: usize = 2 << 20;
/// Most bytes handed to the kernel at once for a client. An output of this size takes no further answers.
pub const OUTPUT_PIECE: usize = 256 << 10;
/// Connections that one pass of the loop closes. To close one takes some 30 µs, and a process that ends may close thousands at once.
pub const CLOSES_TURN: usize = 8;
/// Connections that one pass of the loop accepts, which takes about as long.
pub const ACCEPTS_TURN: usize = 8;
/// How long the history is kept for answers that are still to be composed, in milliseconds.
pub const ANSWER_PIN_MS: u64 = 2_000;
/// Waits and notes of closed connections that one turn drops.
pub const CANCELS_TURN: usize = 4 << 10;

const _: () = assert!(ANSWER_SMALL < SHARED_MIN && SHARED_MIN <= OUTPUT_PIECE && OUTPUT_PIECE <= OUTPUT_TURN);
const _: () = assert!(PACE_MIN >= FREE_TURN && PACE_MIN < PACE_MAX && SHARE_TURN < LIGHT_TURN);

// ---- between servers ----

/// Nodes that a cluster may have registered: members, standbys, and nodes that have been silent for a while. More are refused.
pub const NODES_MAX: usize = 64;
const _: () = assert!(SLOTS_MAX >= 4 * NODES_MAX);
/// Connections reserved for nodes of the cluster; at most a quarter of all connections.
pub const PEER_PLACES: usize = 2 * NODES_MAX;
/// Open files reserved for other uses than connections: the log, snapshots, the ring.
pub const FILES_RESERVED: u64 = 64;
/// New nodes that one node may register at once. One more is possible after each [`REGISTRATION_MS`].
pub const REGISTRATIONS: u32 = 16;
/// Time after which a node may register one more new node, in milliseconds.
pub const REGISTRATION_MS: u64 = 10_000;
/// The highest index of an entry, and the highest term, that a snapshot from another node may have.
pub const INDEX_MAX: u64 = 1 << 62;
/// The highest number of a boot that a node may announce. Boots are counted from 1, so no node comes near it.
pub const EPOCH_MAX: u64 = 1 << 62;
/// A node may start so many times, at most, before the cluster applies its next command. The leader refuses commands of a later
/// boot: otherwise another process that poses as the node could use up the numbers of its boots.
pub const EPOCH_SKIP: u64 = 1 << 24;
const _: () = assert!(EPOCH_MAX / EPOCH_SKIP > 1 << 32);
/// A node steps at most so many terms ahead at once: elections between two of its starts cannot lead further. A node that is further
/// behind follows in steps of this size.
pub const TERM_STEP: u64 = 1 << 32;
/// A step of more terms than this is a leap, and a node makes at most one in [`TERM_LEAP_MS`]: otherwise a member could use up the
/// terms.
pub const TERM_LEAP: u64 = 1 << 16;
/// Time between two leaps, in milliseconds.
pub const TERM_LEAP_MS: u64 = 1_000;
/// The highest term. A member that takes the cluster a step ahead in each leap needs decades to come here.
pub const TERM_MAX: u64 = COUNT_MAX - TERM_STEP;
const _: () = assert!(TERM_MAX / TERM_STEP * TERM_LEAP_MS > 20 * 365 * 86_400_000 && TERM_LEAP < TERM_STEP);
/// How long a peer may take for the greeting, in milliseconds from the opening of its connection. Nothing that it sends makes this
/// longer.
pub const GREETING_MS: u64 = 5_000;
/// The same for a node that attaches, until its cluster has let it in.
pub const ATTACHING_MS: u64 = 10_000;
/// Longest address of a node.
pub const ADDR_MAX: usize = 300;
/// Name look-ups that run at the same time, each on its own thread.
pub const LOOKUPS_MAX: usize = 16;
/// Addresses of one name that are tried; the rest are ignored.
pub const DIAL_ADDRESSES_MAX: usize = 16;
/// Largest frame of a peer that has not yet said who it is.
pub const GREETING_MAX: usize = 16 << 10;
/// The most links that a frame passes on its way.
pub const HOPS_MAX: u8 = 8;
/// Unsent output of a link to a peer. Frames beyond it are dropped, and sent again later.
pub const PEER_OUTPUT_MAX: usize = 64 << 20;
/// This node's own mutations on their way, in bytes. Beyond it, clients wait.
pub const FORWARD_MAX: usize = 4 << 20;
/// Mutations of other servers that wait to be proposed, in bytes. Further ones are dropped, and sent again later.
pub const INBOX_MAX: usize = 64 << 20;
/// Size at which a part of a snapshot is sent to a peer.
pub const CHUNK: usize = 256 << 10;
/// Parts that are sent before the first is acknowledged.
pub const CHUNK_WINDOW: usize = 4;
/// Snapshots sent at the same time: one that makes progress, and others whose receivers have stopped accepting it.
pub const TRANSFERS_MAX: usize = 4;
/// Applied entries kept for peers that are a little behind, in bytes.
pub const KEEP: usize = 64 << 20;
/// The same while a peer is being sent a snapshot, after which it needs the entries.
pub const KEEP_FOR_SNAPSHOT: usize = 512 << 20;

const _: () = assert!(FORWARD_MAX >= BATCH_MAX && INBOX_MAX >= 4 * FORWARD_MAX && PEER_OUTPUT_MAX >= 8 * BATCH_MAX);
const _: () = assert!(KEEP >= 4 * BATCH_MAX && KEEP_FOR_SNAPSHOT > KEEP);

// ---- strangers ----
//
// Where a secret is set, a connection is a stranger's until it has proved to be a node's, or has got access: with the right ACCESS,
// or, if everyone may read, with its first byte as a client. Without a secret nobody is a stranger.

/// Connections of strangers, at most; and at most a quarter of all connections. A new one takes the place of the oldest, if that has
/// had its [`STRANGER_SILENT_MS`]. So strangers take no place from nodes, or from clients that have access.
pub const STRANGERS_MAX: usize = 1_024;
/// Places of clients that are kept for those that present a secret, where everyone may read; at most a quarter. A client beyond that
/// which presents none is served as a stranger.
pub const SECRET_PLACES: usize = 1_024;
/// How long a connection may be a stranger's, in milliseconds from its opening. Nothing that it sends makes this longer.
pub const STRANGER_MS: u64 = 10_000;
/// The time that a stranger has in any case before it has to make room for another, in milliseconds: enough for bytes that were sent
/// when the connection was opened.
pub const STRANGER_SILENT_MS: u64 = 150;
/// The same once a byte has come: enough for a round trip around the world.
pub const STRANGER_HEARD_MS: u64 = 500;
/// Unsent output of a stranger. A client takes no further answers beyond it, and a peer loses its connection.
pub const STRANGER_OUTPUT: usize = 4 << 10;
/// Lines about strangers within 10 s; the log then says how many more there were.
pub const STRANGER_LINES: usize = 8;
/// Strangers about whom the log does not say the same twice.
pub const STRANGERS_TOLD: usize = 64;
/// Wrong secrets in ACCESS that a connection may present without a pause: one may be a mistake.
pub const ACCESS_FREE: u32 = 1;
/// How long a connection pauses after the next wrong secret, in milliseconds. Each further one doubles this.
pub const ACCESS_PAUSE_MS: u64 = 50;
/// The longest such pause.
pub const ACCESS_PAUSE_MAX_MS: u64 = 1_000;

// A node has time to attach, and a peer to greet, before it is closed as a stranger.
const _: () = assert!(GREETING_MS < STRANGER_MS && GREETING_MS < ATTACHING_MS && STRANGER_HEARD_MS < GREETING_MS);
const _: () = assert!(STRANGER_SILENT_MS < STRANGER_HEARD_MS);
// All strangers together hold a small part of the output, so that they do not make answers to others wait.
const _: () = assert!(STRANGERS_MAX * STRANGER_OUTPUT * 16 <= OUTPUT_SOFT);
const _: () =
    assert!(STRANGER_OUTPUT >= 8 * 64 && STRANGERS_TOLD >= NODES_MAX && ACCESS_PAUSE_MS < ACCESS_PAUSE_MAX_MS);

// ---- the log ----

/// Unit of every write of the log: the physical block of nearly all devices.
pub const BLOCK: usize = 4096;
/// Size of a log segment's file, unless the operator asks for a smaller one.
pub const SEGMENT: u64 = 64 << 20;
/// The smallest size that the operator may ask for.
pub const SEGMENT_MIN: u64 = 8 << 20;
/// Largest single write of the log, in file bytes: a batch of any size and its neighbours' records.
pub const WRITE_MAX: usize = 8 << 20;
/// Old log segments kept for reuse.
pub const SPARE_SEGMENTS: usize = 1;
/// The largest number that the server accepts from a file where it only ever counts up: indices and terms of raft, raft ids,
/// generations, positions, boots, revisions. A server that counts a million a second gets there in 146,000 years, so a larger
/// number is forged or damaged; and from this one it can count on without an overflow.
pub const COUNT_MAX: u64 = 1 << 62;

const _: () = assert!(SEGMENT.is_multiple_of(BLOCK as u64));
const _: () = assert!(COUNT_MAX < i64::MAX as u64 && COUNT_MAX < u64::MAX / 2);
// What is believed of other nodes can be read again.
const _: () = assert!(INDEX_MAX <= COUNT_MAX && EPOCH_MAX <= COUNT_MAX);
// A batch of any size fits into one write, with half as much again beside it for block headers and small records.
const _: () = assert!(BATCH_MAX + BATCH_MAX / 2 <= WRITE_MAX && WRITE_MAX.is_multiple_of(BLOCK));
const _: () = assert!(SEGMENT_MIN.is_multiple_of(BLOCK as u64) && SEGMENT_MIN <= SEGMENT);
// The largest batch fits into one write of the smallest segment, beside the segment's first block and its seal.
const _: () = assert!((BATCH_MAX + BATCH_MAX / 2 + 2 * BLOCK) as u64 <= SEGMENT_MIN);
// The space that a large write may leave free at a segment's end is a small part of the segment.
const _: () = assert!(SEGMENT >= 8 * WRITE_MAX as u64);

// ---- a disk that does not answer, in milliseconds ----

/// After a log write has taken this long, the other nodes no longer rely on this node.
pub const DISK_SLOW_MS: u64 = 500;
/// After this long a leader hands over, if a majority of the others has working disks.
pub const DISK_HAND_OVER_MS: u64 = 750;
/// After this long the node logs that its disk is stuck.
pub const DISK_SAID_MS: u64 = 1_000;
/// After this long the node refuses new writes.
pub const DISK_REFUSED_MS: u64 = 2_000;
/// After this long a segment or a part of a snapshot counts as stuck: both are large.
pub const DISK_FILE_MS: u64 = 10_000;
/// A disk must have worked for this long before the node logs that it works again.
pub const DISK_WELL_MS: u64 = 2_000;

// The possible new leaders report a stuck disk before a leader hands over. A disk whose writes are all slow is not reported as
// working in between.
const _: () = assert!(DISK_SLOW_MS < DISK_HAND_OVER_MS && DISK_HAND_OVER_MS < DISK_SAID_MS);
const _: () = assert!(DISK_SAID_MS <= DISK_REFUSED_MS && DISK_SAID_MS < DISK_WELL_MS);

// ---- stopping, in milliseconds ----

/// How long a stopping node waits for nodes that are catching up, if too few would remain without it.
pub const STOP_CATCH_UP_MS: u64 = 10_000;
/// How long a stopping node waits for news of the others, if too few would remain without it: of one that has just started again,
/// for example.
pub const STOP_NEWS_MS: u64 = 500;

const _: () = assert!(STOP_NEWS_MS < STOP_CATCH_UP_MS);

// ---- snapshots ----

/// The server takes a snapshot when the log since the last one has the size of this many segments and also the size of the last
/// snapshot.
pub const SNAPSHOT_AFTER: u64 = 3;
/// Space left for the next snapshot when a new segment is made, in addition to the size of the last snapshot.
pub const SNAPSHOT_RESERVE: u64 = 16 << 20;
/// Largest record of a snapshot.
pub const SNAPSHOT_RECORD_MAX: usize = 8 << 20;
/// Snapshots are written in pieces of this many bytes.
pub const SNAPSHOT_WRITE: usize = 256 << 10;

const _: () = assert!(SNAPSHOT_AFTER >= 1 && SNAPSHOT_WRITE.is_multiple_of(BLOCK));
// A file of the largest size is one record of a snapshot.
const _: () = assert!(PATH_MAX + VALUE_MAX + 1024 <= SNAPSHOT_RECORD_MAX);

// ---- peers ----

/// Largest frame of the peer protocol, without its 4 bytes of length. A longer one closes the link.
pub const PEER_FRAME_MAX: usize = 2 * BATCH_MAX + (1 << 20);

// One append of raft's carries entries of a batch's size together, or a single batch of any size; a forwarded batch is one
// frame; a chunk of a snapshot holds a record of any size. Each with room for its own fields.
const _: () = assert!(BATCH_MAX + BATCH_MAX / 2 <= PEER_FRAME_MAX && SNAPSHOT_RECORD_MAX + (1 << 20) <= PEER_FRAME_MAX);
// A length fits into its field.
const _: () = assert!(PEER_FRAME_MAX <= u32::MAX as usize);

// ---- the client library ----

/// Calls of one client that may be queued; further callers wait for room.
pub const CLIENT_QUEUE: usize = 256;
/// Bytes of requests that a client gathers before it waits for the kernel to take some.
pub const CLIENT_OUTPUT: usize = 64 << 10;
/// Calls that a client takes from its queue while it has no connection.
pub const CLIENT_WAITING: usize = 1024;
/// Abandoned calls that the server still holds (the protocol cannot take a request back). With this many, a client replaces its
/// connection.
pub const CLIENT_ABANDONED: usize = 1024;
/// Connections that a client keeps beside the one in service because writes on them are unanswered. While it has this many, the
/// client looks for no other server.
pub const CLIENT_LEFT: usize = 8;
/// Bytes of a long answer that a client takes for a sign of life: enough that a slow network does not look like a dead server.
pub const CLIENT_PROGRESS: usize = 1 << 10;

// Without a connection, the client takes more from the queue than the queue holds, so all callers learn of a failure at once.
const _: () = assert!(CLIENT_QUEUE <= CLIENT_WAITING);
