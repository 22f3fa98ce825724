//! Where paths that were written lately have their nodes: a small table in front of the search from the root.
//!
//! A hint is only ever believed after the node's own path was compared, by climbing from it. So hints need not be taken
//! back when nodes go, and nothing depends on them but time: on a hot path they save two thirds of a write.

use super::arena::{Arena, NodeId, ROOT};
use super::path::Path;

/// 64 KiB in all: some thousand hot paths, without driving everything else out of the cache.
const HINTS: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Hint {
    tag: u32,
    node: NodeId,
}

#[derive(Debug)]
pub(super) struct Hints(Box<[Hint]>);

impl Hints {
    pub(super) fn new() -> Hints {
        Hints(vec![Hint { tag: 0, node: ROOT }; HINTS].into_boxed_slice())
    }

    /// The node of `path`, if it is known.
    pub(super) fn get(&self, arena: &Arena, path: Path<'_>) -> Option<NodeId> {
        let (slot, tag) = place(path);
        let hint = self.0[slot];
        (hint.tag == tag && arena.is_at(hint.node, path.as_str())).then_some(hint.node)
    }

    pub(super) fn set(&mut self, path: Path<'_>, node: NodeId) {
        let (slot, tag) = place(path);
        self.0[slot] = Hint { tag, node };
    }
}

fn place(path: Path<'_>) -> (usize, u32) {
    let [a, b, c, d, e, f, ..] = hash(path.as_str()).to_le_bytes();
    (usize::from(u16::from_le_bytes([e, f])) % HINTS, u32::from_le_bytes([a, b, c, d]))
}

/// A hash for telling names apart where a mistake costs a comparison, and nothing else.
pub(super) fn hash(name: &str) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 32)
}
