//! The children of one node in byte order of their names: few in one sorted row, many in a map of such rows.
//!
//! The names themselves stay in the nodes: an entry is 8 bytes, a node's place and a hash of its name. A map keyed by the
//! names of a million files would hold each of them a second time, about 60 bytes a file; this takes about 12. Finding a
//! name scans one row for its hash and looks at the nodes whose hash fits, nearly always one; so a lookup costs two or three
//! cache misses. Only adding a name searches the row by comparing names.
//!
//! Invariants: rows are sorted and not empty (but for the row of `Few`); a row's key is not above any of its names, and
//! above all names of the row before it; the first key is the empty name.

use super::arena::{Arena, NodeId};
use super::hints::hash;
use crate::faults::{self, Fault};
use compact_str::CompactString;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    tag: u32,
    id: NodeId,
}

pub(super) type Row = Vec<Entry>;

/// Longest row: 512 bytes, eight cache lines in a row.
const ROW: usize = 64;

#[derive(Debug)]
pub(super) enum Children {
    Few(Row),
    Many(BTreeMap<CompactString, Row>),
}

impl Default for Children {
    fn default() -> Self {
        Children::Few(Row::new())
    }
}

/// A hash that only has to tell neighbours in a row from each other; colliding names cost a comparison each.
fn tag(name: &str) -> u32 {
    let [a, b, c, d, ..] = hash(name).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl Children {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Children::Few(row) => row.is_empty(),
            Children::Many(rows) => rows.is_empty(),
        }
    }

    pub(super) fn get(&self, arena: &Arena, name: &str) -> Option<NodeId> {
        let row = match self {
            Children::Few(row) => row,
            Children::Many(_) if faults::is_armed(Fault::ManyNotFound) => return None,
            Children::Many(rows) => row_of(rows, name)?.1,
        };
        let tag = tag(name);
        let (blocks, rest) = row.as_chunks::<8>();
        let search =
            |entries: &[Entry]| entries.iter().find(|e| e.tag == tag && arena[e.id].name == name).map(|e| e.id);
        // Eight at a time without a branch, which the compiler turns into vectors.
        let found = blocks
            .iter()
            .filter(|block| block.iter().fold(false, |any, e| any | (e.tag == tag)))
            .find_map(|block| search(block));
        found.or_else(|| search(rest))
    }

    /// Adds `id`, whose name is not among the children.
    pub(super) fn insert(&mut self, arena: &Arena, id: NodeId) {
        let name = arena[id].name.as_str();
        let entry = Entry { tag: tag(name), id };
        match self {
            Children::Few(row) if row.len() < ROW => row.insert(position(arena, row, name), entry),
            Children::Few(row) => {
                let rows = BTreeMap::from([(CompactString::const_new(""), std::mem::take(row))]);
                *self = Children::Many(rows);
                self.insert(arena, id);
            }
            Children::Many(rows) => insert(rows, arena, name, entry),
        }
    }

    /// Takes `id` out.
    pub(super) fn remove(&mut self, arena: &Arena, id: NodeId) {
        let name = arena[id].name.as_str();
        match self {
            Children::Few(row) => take(row, id),
            Children::Many(rows) => {
                let key =
                    row_of(rows, name).map(|(key, _)| key.clone()).expect("the node is among its parent's children");
                if let Some(row) = rows.get_mut(&key) {
                    take(row, id);
                    if row.len() < ROW / 4 {
                        join(rows, key);
                    }
                }
                if rows.len() <= 1 {
                    let row = rows.pop_first().map(|(_, row)| row).unwrap_or_default();
                    *self = Children::Few(row);
                }
            }
        }
    }

    /// The children from `lower` on, in byte order of their names.
    pub(super) fn from<'a>(&'a self, arena: &Arena, lower: Bound<&str>) -> ChildIter<'a> {
        let start = |row: &[Entry]| match lower {
            Bound::Unbounded => 0,
            Bound::Included(name) => row.partition_point(|e| arena[e.id].name.as_str() < name),
            Bound::Excluded(name) => row.partition_point(|e| arena[e.id].name.as_str() <= name),
        };
        match (self, lower) {
            (Children::Few(row), _) => ChildIter { row: row[start(row)..].iter(), rows: None },
            (Children::Many(rows), Bound::Unbounded) => {
                ChildIter { row: [].iter(), rows: Some(rows.range::<str, _>((Bound::Unbounded, Bound::Unbounded))) }
            }
            (Children::Many(rows), Bound::Included(name) | Bound::Excluded(name)) => {
                let row = row_of(rows, name).map_or(&[][..], |(_, row)| row);
                let rest = rows.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
                ChildIter { row: row[start(row)..].iter(), rows: Some(rest) }
            }
        }
    }
}

/// The row that `name` is in, or belongs in.
fn row_of<'a>(rows: &'a BTreeMap<CompactString, Row>, name: &str) -> Option<(&'a CompactString, &'a Row)> {
    rows.range::<str, _>((Bound::Unbounded, Bound::Included(name))).next_back()
}

fn position(arena: &Arena, row: &[Entry], name: &str) -> usize {
    match row.last() {
        Some(last) if arena[last.id].name.as_str() < name => row.len(),
        _ => row.partition_point(|entry| arena[entry.id].name.as_str() < name),
    }
}

fn insert(rows: &mut BTreeMap<CompactString, Row>, arena: &Arena, name: &str, entry: Entry) {
    let (_, row) = rows
        .range_mut::<str, _>((Bound::Unbounded, Bound::Included(name)))
        .next_back()
        .expect("the first key is the empty name");
    let at = position(arena, row, name);
    if row.len() < ROW {
        row.insert(at, entry);
        return;
    }
    // At the end of a full row a new one is begun, so that names that come in order fill their rows.
    let mut right = row.split_off(if at == ROW { ROW } else { ROW / 2 });
    match at.checked_sub(row.len()) {
        Some(at) => right.insert(at, entry),
        None => row.insert(at, entry),
    }
    rows.insert(arena[right[0].id].name.clone(), right);
}

fn take(row: &mut Row, id: NodeId) {
    let at = row.iter().position(|entry| entry.id == id).expect("the node is among its parent's children");
    row.remove(at);
    if row.capacity() >= 16 && row.len() < row.capacity() / 4 {
        row.shrink_to(row.len() * 2);
    }
}

/// Joins the short row at `key` with a neighbour, if both fit well into one.
fn join(rows: &mut BTreeMap<CompactString, Row>, key: CompactString) {
    let fits = |a: &Row, b: &Row| a.len() + b.len() <= ROW * 3 / 4 || a.is_empty() || b.is_empty();
    let Some(row) = rows.get(&key) else { return };
    let next = rows.range::<str, _>((Bound::Excluded(key.as_str()), Bound::Unbounded)).next();
    let before = rows.range::<str, _>((Bound::Unbounded, Bound::Excluded(key.as_str()))).next_back();
    let (left, right) = match (before, next) {
        (_, Some((next, other))) if fits(row, other) => (key.clone(), next.clone()),
        (Some((before, other)), _) if fits(other, row) => (before.clone(), key.clone()),
        _ => return,
    };
    if let Some(mut moved) = rows.remove(&right)
        && let Some(row) = rows.get_mut(&left)
    {
        row.append(&mut moved);
    }
}

/// Children in byte order of their names.
#[derive(Clone, Debug)]
pub(super) struct ChildIter<'a> {
    row: std::slice::Iter<'a, Entry>,
    rows: Option<btree_map::Range<'a, CompactString, Row>>,
}

impl Iterator for ChildIter<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        loop {
            if let Some(entry) = self.row.next() {
                return Some(entry.id);
            }
            self.row = self.rows.as_mut()?.next()?.1.iter();
        }
    }
}
