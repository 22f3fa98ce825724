//! The log: what a node has promised, in a form that survives a power cut.
//!
//! No file is opened here. The [`Log`] says what is to be written where, and is told what was; [`recover`] is handed a way to read,
//! and says what is to be done; [`SnapshotWriter`] and [`SnapshotReader`] turn records into a file's bytes and back; [`Identity`]
//! is one block. The same code runs on a disk and in a simulator.
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
//! 1. [`survey`] tells from the names what the directory is. If it is empty: [`Identity`] with boot epoch 0, [`Log::create`] and
//!    the first segment that it wants, [`Identity`] with boot epoch 1.
//! 2. Else [`inspect()`] tells whether all files are of this version and of this node. [`recover`] reads snapshot and log, and hands
//!    them to a visitor. Its [`Recovered::steps`] are carried out. Then [`Log::resume`].
//! 3. A turn stages records: entries first, then the hard state that calls them committed. [`Log::next_write`] makes them one write;
//!    meanwhile the next gathers. [`Log::written`] returns the proof, [`Durable`], with which votes, acknowledgements and answers
//!    are let go.
//! 4. Beside it [`Log::wants_segment`] asks for the segment to come. If it cannot be had, [`Log::room`] says so before it is missed.
//! 5. When [`Log::bytes_since`] has grown, a snapshot is written; once it is durable, [`Log::release`].
//!
//! # Invariants
//! * A torn write is told from damage (`table`); the former is cut, the latter is refused, with what can be done about it.
//! * No answer of recovery loses what [`Durable`] ever covered.
//! * Absent on purpose: a retry of anything that failed to be written or synced. The server ends the process instead.
//!
//! To be read in this order: `block`, `record`, `segment`, `gather`, `writer`, `table`, `scan`, `replay`, `recovery`, `snapshot`.

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
