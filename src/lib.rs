//! Doozer: a small, consistent, highly available, durable store for the data that everything else depends on.
//!
//! This page describes the architecture; the README describes what the program does for its users.
//!
//! # Floors
//! A module imports only from lower floors, or from its own children; `tests/project/floors.rs` enforces this.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 9 | `bin/doozerd`, `bin/doozer`, `cli` | flags, exit codes, text in and out |
//! | 8 | `tune` | finds what slows a commit down on a machine: reads `/proc` and `/sys`, changes nothing |
//! | 7 | `server` | the io_uring shell: sockets, disk, clock, pinning |
//! | 6 | `client` | the client library; the server uses it to reach the name service |
//! | 5 | `replica` | sans-IO: takes events, returns effects. Sessions, the raft group, apply |
//! | 4 | [`log`] | bytes of segments, records, snapshots; recovery as a decision table |
//! | 2 | [`store`] | paths, globs, the versioned tree, history, waiters |
//! | 1 | [`address`] | the one grammar of addresses: hosts, ports, zones |
//! | 1 | [`stats`] | what a server measures of itself, and its text |
//! | 1 | [`wire`] | frames and messages of the client protocol |
//! | 0 | [`limits`] | every bound in one place, related to each other at compile time |
//! | 0 | [`faults`] | mistakes that the tests make on purpose; empty in a normal build |
//!
//! # The path of a write
//! 1. `server/link.rs` receives bytes. `replica.rs` finds the frames in the receive buffer ([`wire::frame`]) and decodes the
//!    request.
//! 2. The replica encodes the mutation into the current batch (`replica/batch.rs`); the client's buffer is free again.
//! 3. The batch leaves at the end of the turn. If another node leads, this node sends the batch over a link (`replica/forward.rs`,
//!    `replica/mesh.rs`, [`wire::peer`]), and keeps it until it is applied here, in case it must be sent again. The leader joins
//!    its own batch and those that it received into one raft entry (`replica/group.rs`). It sends the entry to the others and
//!    stages it in its log ([`log::Log`]), which takes one O_DIRECT|O_DSYNC write (`server/disk.rs`). Meanwhile the next batch
//!    fills.
//! 4. The completed write yields a proof ([`log::Durable`]), which a follower needs to acknowledge. Raft commits when a majority
//!    has acknowledged. Every node applies the commands in order (`replica/machine.rs`, [`store::Store::apply`]) and drops commands
//!    that it has seen before. The node that took a command from its client writes the answer into the session's output.
//! 5. Each connection's output of the turn is sent at once.
//!
//! Reads never wait for the log: they run in the turn in which they arrive, against the applied state.
//!
//! # Invariants
//! * **Durable before visible.** No answer, vote or acknowledgement leaves, and no reader sees a change, before the data that it
//!   rests on is durable. A type enforces this: only a completed write makes a [`log::Durable`].
//! * **Once.** The node that takes a command numbers it, and the state machine applies the numbers of a node in sequence. So frames
//!   between nodes may be lost, repeated or reordered.
//! * **Deterministic below the shell.** Floors 0 to 5 have no clock, no randomness, no socket, no file, no thread, no hash
//!   order: time is an argument, and so is the seed. The same inputs give the same outputs, so a simulator can run them.
//! * **Everything is bounded**: [`limits`] bounds what a client can make the server hold. A client over its bound is
//!   paused or refused, never buffered.
//! * **Shares are fair**: a connection that asks more than a turn has room for waits for its next turn in a rotation, and a request
//!   is charged what it has cost (`replica/shares.rs`). Small requests do not wait for the work of others.
//! * **Work is bounded per turn**: work whose size clients determine (scans, matching and waking waiters, reads that waited for a
//!   revision, answers, accepting and closing connections, cleaning up after them), trims and snapshots proceed in slices between
//!   commits. Tables that clients fill grow in chunks, without copying. An entry of the log holds a bounded amount of work
//!   (`replica/batch.rs`), also one with the writes that another node sends.
//! * **Three kinds of failure**: a bug asserts; the environment (disk) ends the process through one `fatal`, with an exit
//!   status of its own; a client that misbehaves gets a typed error, or loses its connection.
//! * **The loop never waits**: not for a client, nor for stderr (`server/lines.rs`). The server handles signals even while the loop
//!   is busy (`server/stop.rs`). Lines and signals have threads of their own, which share only lines and a request to stop with the
//!   loop.
//!
//! # Threat model
//! * A *stranger* (no secret) costs a bounded share of the connections, the memory and the time. It learns nothing, and changes nothing.
//! * A *client* with access gets its share of each turn and of the memory, and no more.
//! * A *member* (it has the secret) that is wrong or compromised may lie about itself. It can neither crash another node by a message,
//!   nor make others give up their data. `replica/vetting.rs` checks each message of raft against everything that raft asserts, and each
//!   entry before it is stored. `replica/mesh.rs` believes a node that has a link of its own about itself, and nobody else. A snapshot
//!   comes from the leader only, and never leads back (`replica/catch_up.rs`).
//!
//! Not promised: agreement in spite of a hostile leader (Byzantine agreement), proof against a member that forges the frames that it
//! passes on for a node without a direct link, and secrecy of what travels.
//!
//! # What is not here
//! Deliberately absent: threads, locks and channels on the path of a request; retries of a failed write or sync; our own consensus
//! algorithm; knowledge of the clients' liveness; lease reads.
//!
//! # Where to begin
//! [`limits`], [`wire`], [`store`], [`log`], `replica`, `server`: each opens with its design and says in which order to read its
//! files. Then `tests/`, where each test is named for the failure that it guards against.

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
