//! What is counted: for each operation, how it is set up, and how it is done a number of times.
//!
//! What is done twice (once before it counts, see [`crate::callgrind`]) goes on the second time where it was the first: a file
//! that is new has another name then. Every result is checked, for an operation that fails is cheap.

mod log;
mod replica;
mod store;
mod turn;
mod waiters;
mod wire;

/// One of them.
pub struct Operation {
    /// Module and what is done there, as in the record.
    pub name: &'static str,
    /// How often what was set up does it in one call.
    pub times: u32,
    /// Sets it up.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

/// All operations, in the order of the table.
pub fn all() -> Vec<Operation> {
    [wire::OPERATIONS, store::OPERATIONS, waiters::OPERATIONS, replica::OPERATIONS, log::OPERATIONS, turn::OPERATIONS]
        .into_iter()
        .flatten()
        .map(|(name, times, prepare)| Operation { name, times: *times, prepare: *prepare })
        .collect()
}

/// Name, times, set-up.
type Listed = (&'static str, u32, fn() -> Box<dyn FnMut()>);

/// What all files hold.
static VALUE: Aligned = Aligned(
    *b"\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
);

/// Where the linker puts a constant differs from build to build, and what is done with unaligned bytes takes longer. For the same
/// reason texts that are worked on are on the heap.
#[repr(align(64))]
struct Aligned([u8; 128]);

/// The path of file `i`: a hundred to a directory.
fn path(i: u32) -> String {
    format!("/dir{:04}/file{i:06}", i / 100)
}
