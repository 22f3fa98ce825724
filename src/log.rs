//! The log: what a node has promised, in a form that survives a power cut.
//!
//! This module opens no file. The [`Log`] says what to write where, and learns what was written; [`recover`] gets a function that
//! reads, and says what to do; [`SnapshotWriter`] and [`SnapshotReader`] turn records into a file's bytes and back; [`Identity`] is
//! one block. The same code runs on a disk and in a simulator.
//!
//! ```text
//! data directory:   node                  who this is                                             identity.rs
//!                   {index}.snap          the state at a raft index                               snapshot.rs
//!                   {generation}.log      what came after it, in segments of a fixed size         segment.rs
//!                   *.tmp                 in the making
//! segment:          preface | write | write | … | seal | never reached                            preface.rs
//! write:            block 0 of k | block 1 of k | …                                               block.rs, gather.rs
//! payload of it:    opening | record | record | …                                                 record.rs
//! ```
//!
//! # A node's life
//! 1. [`survey`] tells from the file names what state the directory is in. If it is empty: [`Identity`] with boot epoch 0,
//!    [`Log::create`] and the first segment that it wants, [`Identity`] with boot epoch 1.
//! 2. Otherwise [`inspect()`] checks that all files are of this version and of this node. [`recover`] reads snapshot and log, and
//!    hands their contents to a visitor. The caller carries out its [`Recovered::steps`], then calls [`Log::resume`].
//! 3. A turn stages records: entries first, then the hard state that calls them committed. [`Log::next_write`] makes them one
//!    write; meanwhile the next write fills. [`Log::written`] returns the proof, [`Durable`], which releases votes,
//!    acknowledgements and answers.
//! 4. Meanwhile [`Log::wants_segment`] asks for the next segment. If it cannot be made, [`Log::room`] says so before the log needs
//!    it.
//! 5. When [`Log::bytes_since`] has grown, a snapshot is written; once it is durable, [`Log::release`].
//!
//! # Invariants
//! * Recovery tells a torn write from damage (`table`): it cuts the former, and refuses the latter with the possible remedies.
//! * Recovery never loses anything that a [`Durable`] covered.
//! * Deliberately absent: a retry of a failed write or sync. The server ends the process instead.
//!
//! Read in this order: `block`, `record`, `segment`, `gather`, `writer`, `table`, `scan`, `replay`, `recovery`, `snapshot`.

mod block;
mod damage;
mod directory;
mod gather;
mod identity;
mod inspect;
pub mod name;
mod preface;
mod read;
mod record;
mod recovery;
mod replay;
mod scan;
mod segment;
mod snapshot;
mod table;
mod writer;

pub use block::{Block, bytes_of, bytes_of_mut};
pub use damage::{Damage, Erase, Refusal, Salvage, Wrong};
pub use directory::{FileInfo, Survey, survey};
pub use identity::{Identity, IdentityError};
pub use inspect::{inspect, read_identity};
pub use preface::VERSION;
pub use record::{HardState, RECORD_HEAD, Record};
pub use recovery::{Event, Read, Recovered, Statistics, Step, Torn, Visit, recover};
pub use segment::NodeId;
pub use snapshot::{Piece, SnapshotDamage, SnapshotFault, SnapshotReader, SnapshotWrite, SnapshotWriter, Summary};
pub use table::Fault;
pub use writer::{Durable, Log, Params, Position, Prepare, Room, Write};
#[cfg(test)]
mod tests;
