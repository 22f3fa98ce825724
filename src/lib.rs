//! Doozer: a small, consistent, highly available, durable store for the data that everything else depends on.
//!
//! This is the architecture; what the program does for its users is in the README.
//!
//! # Floors
//! A module imports only from lower floors, or from its own children; `tests/project/floors.rs` keeps it so.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 9 | `bin/doozerd`, `bin/doozer`, `cli` | flags, exit codes, text in and out |
//! | 8 | `tune` | what of a machine is in the way of a commit: reads `/proc` and `/sys`, changes nothing |
//! | 7 | `server` | the io_uring shell: sockets, disk, clock, pinning |
//! | 6 | `client` | the client library, for whoever likes, and for the server where it is itself a client |
//! | 5 | `replica` | sans-IO: what happened in, what is to be done out. Sessions, the raft group, apply |
//! | 4 | [`log`] | bytes of segments, records, snapshots; recovery as a decision table |
//! | 2 | [`store`] | paths, globs, the versioned tree, history, waiters |
//! | 1 | [`address`] | the one grammar of addresses: hosts, ports, zones |
//! | 1 | [`stats`] | what a server measures of itself, and its text |
//! | 1 | [`wire`] | frames and messages of the client protocol |
//! | 0 | [`limits`] | every bound in one place, related to each other at compile time |
//! | 0 | [`faults`] | mistakes that the tests make on purpose; nothing in a build for use |
//!
//! # The way of a write
//! 1. `server/link.rs` receives bytes; `replica.rs` finds the frames where they lie ([`wire::frame`]) and decodes the request.
//! 2. The mutation is encoded into the batch that is being gathered (`replica/batch.rs`); its client's buffer is free again.
//! 3. At the end of the turn the batch is on its way: if another node leads, over a link to it (`replica/forward.rs`,
//!    `replica/mesh.rs`, [`wire::peer`]), and is kept until it is applied here, to be sent again if need be. The leader joins its
//!    own and those that came to one raft entry (`replica/group.rs`), which it sends to the others and stages with its log
//!    ([`log::Log`]), written with one O_DIRECT|O_DSYNC write (`server/disk.rs`). Meanwhile the next batch gathers.
//! 4. The completed write is a proof ([`log::Durable`]): a follower acknowledges with it, and when a majority has, raft commits.
//!    The commands are applied in order on every node (`replica/machine.rs`, [`store::Store::apply`]); one that was seen before
//!    is dropped there. The node that took a command from its client answers it into its session's output.
//! 5. Each connection's output of the turn is sent at once.
//!
//! Reads never wait for the log: they run in the turn in which they come, against what is applied.
//!
//! # Invariants
//! * **Durable before visible.** No answer, vote or acknowledgement leaves, and no reader sees a change, before what it rests
//!   on is durable. It is a type: only a completed write makes a [`log::Durable`].
//! * **Once.** A command has the number that the node which took it gave it; the state machine counts on from there. So nothing
//!   depends on what is lost, repeated or overtaken between the nodes.
//! * **Deterministic below the shell.** Floors 0 to 5 have no clock, no randomness, no socket, no file, no thread, no hash
//!   order: time is an argument, a seed is handed in. The same inputs give the same outputs, so a simulator can run them.
//! * **Everything is bounded**: what a client can make the server hold is in [`limits`], and a client over its bound is
//!   paused or refused, never buffered.
//! * **Work is bounded per turn**: whatever clients size (scans, those whom an event wakes, their answers, what a closed connection
//!   leaves behind), a trim and a snapshot go on in slices between commits.
//! * **Three kinds of failure**: a bug asserts; the environment (disk) ends the process through one `fatal`, with an exit
//!   status of its own; a client that misbehaves gets a typed error, or loses its connection.
//!
//! * **The loop waits for nobody**: not for a client, nor for stderr (`server/lines.rs`). A signal is heard whatever the loop does
//!   (`server/stop.rs`). These two have threads of their own, which share nothing with the loop but lines and a request to stop.
//!
//! Deliberately absent: threads, locks and channels on the way of a request; retries of a failed write or sync; consensus of our own;
//! knowledge of the clients' liveness; lease reads.
//!
//! # Where to begin
//! [`limits`], [`wire`], [`store`], [`log`], `replica`, `server`: each opens with its design and says in which order its
//! files are read. Then `tests/`, where each test is named for the failure that it guards against.

pub mod address;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod faults;
pub mod limits;
pub mod log;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod server;
pub mod stats;
pub mod store;
#[cfg(feature = "server")]
pub mod tune;
pub mod wire;
