//! Doozer: a small, consistent, highly available, durable store for the data that everything else depends on.
//!
//! # Floors
//! A module imports only from lower floors, or from its own children; `tests/floors.rs` keeps it so.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 7 | `bin/doozerd`, `bin/doozer`, [`cli`] | flags, exit codes, text in and out |
//! | 6 | [`server`], [`client`] | the io_uring shell: sockets, disk, clock, pinning; and the client library |
//! | 5 | [`replica`] | sans-IO: inputs in, effects out. Sessions, the raft group, apply |
//! | 4 | [`log`] | bytes of segments, records, snapshots; recovery as a decision table |
//! | 2 | [`store`] | paths, globs, the versioned tree, history, waiters |
//! | 1 | [`wire`] | frames and messages of the client protocol |
//! | 0 | [`limits`] | every bound in one place |

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod limits;
pub mod log;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
pub mod wire;
