//! The nodes of the tree. A node is named by 4 bytes, and never moves.
//!
//! A node is there as long as it holds something at a retained revision, an event of the history names it, or it has
//! children; `tree` frees it then. Nothing is dropped recursively: the deepest tree is freed by a loop over chunks.

use super::children::Children;
use super::chunks::Chunks;
use super::versions::Versions;
use crate::limits::DIR_BYTES;
use compact_str::CompactString;
use std::ops::{Index, IndexMut};

/// A node's place in the arena. Places are used again once their node is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// A number for small tables keyed by nodes.
    pub(super) fn mix(self) -> usize {
        self.0 as usize
    }
}

/// The root is there from the start and is never freed.
pub(super) const ROOT: NodeId = NodeId(0);

#[derive(Debug)]
pub(super) struct Node {
    /// Of a free node: the next free one.
    pub(super) parent: NodeId,
    pub(super) name: CompactString,
    /// The file of this path: its bytes, or None where it was deleted.
    pub(super) file: Versions<Option<Box<[u8]>>>,
    /// There while the node has children, dead or alive.
    pub(super) dir: Option<Box<Dir>>,
}

#[derive(Debug, Default)]
pub(super) struct Dir {
    pub(super) children: Children,
    /// How many children were alive.
    pub(super) count: Versions<u32>,
}

// A million of them make up a third of the store.
const _: () = assert!(size_of::<Node>() <= 72);
// A directory with one entry: beside these, a row of its smallest size, and what the allocator adds.
const _: () = assert!((size_of::<Node>() + size_of::<Dir>() + 56) as u64 <= DIR_BYTES);

impl Node {
    /// The file's revision and bytes, if there is a file at `rev`.
    pub(super) fn file_at(&self, rev: i64) -> Option<(i64, &[u8])> {
        let (rev, value) = self.file.at(rev)?;
        Some((rev, value.as_deref()?))
    }

    /// The number of entries at `rev`; a directory other than the root exists exactly while that is not 0.
    pub(super) fn entries_at(&self, rev: i64) -> u32 {
        self.dir.as_ref().and_then(|dir| dir.count.at(rev)).map_or(0, |(_, count)| *count)
    }

    /// Whether there is a file or a directory at `rev`.
    pub(super) fn alive_at(&self, rev: i64) -> bool {
        self.file_at(rev).is_some() || self.entries_at(rev) > 0
    }
}

#[derive(Debug)]
pub(super) struct Arena {
    nodes: Chunks<Node>,
    free: Option<NodeId>,
    live: usize,
}

impl Arena {
    /// An arena with the root in it.
    pub(super) fn new() -> Arena {
        let mut arena = Arena { nodes: Chunks::new(), free: None, live: 0 };
        let root = arena.add(ROOT, "");
        assert_eq!(root, ROOT);
        arena
    }

    /// Returns all nodes in chunks. The caller drops one chunk at a time, because dropping a million nodes at once takes too long.
    pub(super) fn into_chunks(self) -> Vec<Vec<Node>> {
        self.nodes.into_chunks()
    }

    /// Nodes in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// A new node, not yet among its parent's children.
    pub(super) fn add(&mut self, parent: NodeId, name: &str) -> NodeId {
        self.live += 1;
        let node = Node { parent, name: CompactString::new(name), file: Versions::default(), dir: None };
        if let Some(id) = self.free {
            let next = self[id].parent;
            self.free = (next != id).then_some(next);
            self[id] = node;
            return id;
        }
        NodeId(self.nodes.push(node))
    }

    /// Frees a node that is no longer among its parent's children and has none of its own.
    pub(super) fn free(&mut self, id: NodeId) {
        assert_ne!(id, ROOT);
        self.live -= 1;
        // The end of the list is a node whose next is itself.
        let next = self.free.unwrap_or(id);
        self[id] = Node { parent: next, name: CompactString::const_new(""), file: Versions::default(), dir: None };
        self.free = Some(id);
    }

    /// Whether `path` is that of the node in use at `id`, which may be free by now, or another's.
    pub(super) fn is_at(&self, id: NodeId, path: &str) -> bool {
        let (mut at, mut rest) = (id, path);
        while at != ROOT {
            let node = &self[at];
            // A free node has no name, and no path ends in a slash.
            match rest.strip_suffix(node.name.as_str()).and_then(|rest| rest.strip_suffix('/')) {
                Some(shorter) => (at, rest) = (node.parent, shorter),
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// The path from the root to `id`, put in the place of `out`'s content.
    pub(super) fn path(&self, id: NodeId, out: &mut Vec<u8>) {
        out.clear();
        if id == ROOT {
            out.push(b'/');
            return;
        }
        let mut length = 0;
        let mut at = id;
        while at != ROOT {
            let node = &self[at];
            length += node.name.len() + 1;
            at = node.parent;
        }
        out.resize(length, b'/');
        let (mut at, mut end) = (id, length);
        while at != ROOT {
            let node = &self[at];
            let start = end - node.name.len();
            out[start..end].copy_from_slice(node.name.as_bytes());
            end = start - 1;
            at = node.parent;
        }
    }
}

impl Index<NodeId> for Arena {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}

impl IndexMut<NodeId> for Arena {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }
}
