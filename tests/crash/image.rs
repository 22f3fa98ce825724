//! What a power cut may leave of a disk, by the strict reading of POSIX.
//!
//! Durable is what an O_DSYNC write wrote that has ended, and what a sync of a file or directory covers that has ended: all that
//! had ended there before the sync began. Anything else that had begun is there or not, each for itself: page by page of a write
//! (of a draft, also in sectors of 512 bytes), the size of a file apart from its bytes, each change of a directory. Only that
//! is not split which no file system splits: a rename, and a page (the log counts on that, for the physical block of nearly all
//! devices).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::common::Random;
use super::record::*;

const SECTOR: usize = 512;

/// What a disk does not do although it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It keeps its word.
    None,
    /// Writes with O_DSYNC are not durable when they end.
    Writes,
    /// One of so many of those is not.
    SomeWrites(usize),
    /// Syncs of files do nothing.
    Files,
    /// Syncs of snapshots do nothing.
    Snapshots,
    /// Syncs of directories do nothing.
    Directories,
}

/// What a power cut leaves of what was not yet durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// Nothing.
    Lost,
    /// All.
    Kept,
    /// What was done to directories and sizes, but no bytes.
    Names,
    /// Bytes and sizes, but nothing that was done to directories.
    Bytes,
    /// All that came before one moment.
    Before,
    /// Each part by itself, in so many of 8 cases.
    Parts(u64),
}

const LUCK: [Luck; 12] = [
    Luck::Lost,
    Luck::Kept,
    Luck::Names,
    Luck::Bytes,
    Luck::Before,
    Luck::Before,
    Luck::Parts(1),
    Luck::Parts(3),
    Luck::Parts(4),
    Luck::Parts(4),
    Luck::Parts(5),
    Luck::Parts(7),
];

/// What a power cut has left.
#[derive(Clone, Debug)]
pub struct Image {
    /// The moment: so many events of the record had come.
    pub at: usize,
    pub luck: Luck,
    /// The data directory, if it is there.
    pub files: Option<Files>,
}

#[derive(Clone, Default)]
struct Node {
    /// Names, if it is a directory.
    names: Option<BTreeMap<String, Ino>>,
    content: Content,
    /// What is not durable yet of what was done to it.
    pending: Vec<OpId>,
}

/// A disk at one moment after the other.
pub struct Replay<'a> {
    record: &'a Record,
    lie: Lie,
    at: usize,
    nodes: BTreeMap<Ino, Node>,
    ended: Vec<bool>,
    /// What the syncs under way cover.
    covered: BTreeMap<OpId, Vec<OpId>>,
    writes: usize,
}

impl<'a> Replay<'a> {
    pub fn new(record: &'a Record, lie: Lie) -> Replay<'a> {
        let (dirs, files) = tree(record.before.as_ref());
        let dirs = dirs.into_iter().map(|(ino, names)| (ino, Node { names: Some(names), ..Node::default() }));
        let files = files.into_iter().map(|(ino, content)| (ino, Node { content, ..Node::default() }));
        let nodes = dirs.chain(files).collect();
        let ended = vec![false; record.next()];
        Replay { record, lie, at: 0, nodes, ended, covered: BTreeMap::new(), writes: 0 }
    }

    fn node(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("it was made before anything was done to it")
    }

    /// Goes on to a moment.
    pub fn advance(&mut self, to: usize) {
        let events = self.at..to;
        for at in events {
            let Event { op, ends } = self.record.events[at];
            if ends { self.end(op) } else { self.begin(op) }
        }
        self.at = to;
    }

    fn begin(&mut self, id: OpId) {
        let op = self.record.op(id);
        let subject = op.subject();
        if let Op::Create { ino, is_dir, .. } = op {
            let names = is_dir.then(BTreeMap::new);
            self.nodes.insert(*ino, Node { names, ..Node::default() });
        }
        if let Op::Sync { .. } = op {
            let done = self.nodes[&subject].pending.iter().copied().filter(|op| self.ended[*op]);
            self.covered.insert(id, done.collect());
        } else {
            self.node(subject).pending.push(id);
        }
    }

    fn end(&mut self, id: OpId) {
        self.ended[id] = true;
        let durable = match self.record.op(id) {
            Op::Write { synced: true, .. } => vec![id],
            Op::Sync { .. } => self.covered.remove(&id).expect("it has begun"),
            _ => return,
        };
        if self.lies_about(id) {
            return;
        }
        let node = self.nodes.get_mut(&self.record.op(id).subject()).expect("it was there when it began");
        for op in &durable {
            node.carry_out(self.record.op(*op), *op);
        }
        node.pending.retain(|op| !durable.contains(op));
    }

    fn lies_about(&mut self, id: OpId) -> bool {
        let ino = self.record.op(id).subject();
        let is_write = matches!(self.record.op(id), Op::Write { .. });
        self.writes += usize::from(is_write);
        let is_dir = self.nodes[&ino].names.is_some();
        match self.lie {
            Lie::None => false,
            Lie::Writes => is_write,
            Lie::SomeWrites(of) => is_write && self.writes.is_multiple_of(of),
            Lie::Files => !is_write && !is_dir,
            Lie::Snapshots => {
                let named = |op: &OpId| matches!(self.record.op(*op), Op::Create { ino: of, name, .. } if *of == ino && name.contains(".snap"));
                !is_write && !is_dir && (1..=id).rev().any(|op| named(&op))
            }
            Lie::Directories => is_dir,
        }
    }

    /// What a power cut leaves at this moment.
    pub fn cut(&self, random: &mut Random) -> Image {
        let luck = LUCK[random.below(LUCK.len())];
        let pending: Vec<OpId> = self.nodes.values().flat_map(|node| node.pending.iter().copied()).collect();
        let moment = if pending.is_empty() { 0 } else { pending[random.below(pending.len())] };
        let mut names = Some(self.names(ROOT, luck, moment, random));
        for name in DATA {
            let dir = names.and_then(|names| names.get(name).copied());
            names = dir.map(|dir| self.names(dir, luck, moment, random));
        }
        let mut content = |(name, ino): (String, Ino)| {
            let node = &self.nodes[&ino];
            (name, node.left(self.record, luck, moment, random))
        };
        let files = names.map(|names| names.into_iter().map(&mut content).collect());
        Image { at: self.at, luck, files }
    }

    /// What is left of a directory's names.
    fn names(&self, dir: Ino, luck: Luck, moment: OpId, random: &mut Random) -> BTreeMap<String, Ino> {
        let mut node = self.nodes[&dir].clone();
        for id in std::mem::take(&mut node.pending) {
            let kept = match luck {
                Luck::Lost | Luck::Bytes => false,
                Luck::Kept | Luck::Names => true,
                Luck::Before => id < moment,
                Luck::Parts(most) => random.next() % 8 < most,
            };
            if kept {
                node.carry_out(self.record.op(id), id);
            }
        }
        node.names.unwrap_or_default()
    }
}

impl Node {
    /// Carries out an operation as a whole.
    fn carry_out(&mut self, op: &Op, id: OpId) {
        match op {
            Op::Create { name, ino, .. } => _ = self.names().insert(name.clone(), *ino),
            Op::Rename { to, ino, .. } => {
                // It has one name, whichever that is by now.
                self.names().retain(|_, of| of != ino);
                self.names().insert(to.clone(), *ino);
            }
            Op::Unlink { ino, .. } => self.names().retain(|_, of| of != ino),
            Op::Write { first, pages, end, .. } => {
                self.content.write(*first, pages, id);
                self.content.size = self.content.size.max(*end);
            }
            Op::Resize { size, .. } => self.content.resize(*size),
            Op::Sync { .. } => {}
        }
    }

    fn names(&mut self) -> &mut BTreeMap<String, Ino> {
        self.names.as_mut().expect("a directory")
    }

    /// What is left of a file's content.
    fn left(&self, record: &Record, luck: Luck, moment: OpId, random: &mut Random) -> Content {
        let mut left = Node { content: self.content.clone(), ..Node::default() };
        for &id in &self.pending {
            let op = record.op(id);
            match luck {
                Luck::Lost => {}
                Luck::Kept | Luck::Bytes => left.carry_out(op, id),
                Luck::Before if id < moment => left.carry_out(op, id),
                Luck::Before => {}
                Luck::Names => match op {
                    Op::Write { end, .. } => left.content.size = left.content.size.max(*end),
                    _ => left.carry_out(op, id),
                },
                Luck::Parts(most) => left.carry_out_in_part(op, id, most, random),
            }
        }
        // Behind its end there is nothing, also if it grows again.
        let size = left.content.size;
        left.content.resize(size);
        left.content.settled()
    }

    fn carry_out_in_part(&mut self, op: &Op, id: OpId, most: u64, random: &mut Random) {
        let mut kept = || random.next() % 8 < most;
        match op {
            Op::Write { first, pages, end, role, .. } => {
                if kept() {
                    self.content.size = self.content.size.max(*end);
                }
                let whole = kept();
                for (at, page) in (*first..).zip(pages) {
                    if *role == Role::Draft && most == 4 && !whole {
                        let mixed = mix(self.content.page(at), page.as_ref(), &mut kept);
                        self.content.put(at, mixed, id);
                    } else if whole || kept() {
                        self.content.put(at, page.clone(), id);
                    }
                }
            }
            _ if kept() => self.carry_out(op, id),
            _ => {}
        }
    }
}

/// A page of which some sectors are new.
fn mix(old: Option<&Page>, new: Option<&Page>, kept: &mut impl FnMut() -> bool) -> Option<Page> {
    if old.is_none() && new.is_none() {
        return None;
    }
    let mut mixed = old.map_or_else(|| vec![0; PAGE], |page| page.to_vec());
    for sector in (0..PAGE).step_by(SECTOR).map(|at| at..at + SECTOR) {
        if kept() {
            match new {
                Some(page) => mixed[sector.clone()].copy_from_slice(&page[sector]),
                None => mixed[sector].fill(0),
            }
        }
    }
    Some(Arc::from(mixed))
}

/// So many moments of a record, in order: most of them before and after what is rare, or in the midst of writes of the log.
pub fn moments(record: &Record, count: usize, random: &mut Random) -> Vec<usize> {
    let events = || record.events.iter().zip(0..);
    let is_rare = |event: &Event| !matches!(record.op(event.op), Op::Write { .. });
    let is_log = |event: &Event| matches!(record.op(event.op), Op::Write { role: Role::Log, .. });
    let rare: Vec<usize> = events().filter(|(event, _)| is_rare(event)).flat_map(|(_, at)| [at, at + 1]).collect();
    // Under way, or just at their end.
    let log = events().filter(|(event, _)| is_log(event));
    let log: Vec<usize> = log.flat_map(|(event, at)| if event.ends { at..at + 2 } else { at + 1..at + 2 }).collect();
    let all: Vec<usize> = (0..=record.events.len()).collect();
    let mut moments: Vec<usize> = (0..count)
        .map(|n| {
            let from = match n % 8 {
                0..4 if !rare.is_empty() => &rare,
                4..7 if !log.is_empty() => &log,
                _ => &all,
            };
            from[random.below(from.len())]
        })
        .collect();
    moments.sort_unstable();
    moments
}
