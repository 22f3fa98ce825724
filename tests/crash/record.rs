//! What came to a disk, in its order: each operation with its beginning, when it came, and its end, when it was answered.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit in which contents are kept, and in which a write is carried out as a whole: the physical block of nearly all devices.
pub const PAGE: usize = 4096;
/// Bytes of a page; they are never changed.
pub type Page = Arc<[u8]>;
/// What the kernel calls a file or directory.
pub type Ino = u64;
/// Number of an operation: 1, 2, 3…; 0 stands for what was there at first.
pub type OpId = usize;

/// The bytes of a file. A page that is not there is zeros. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size: u64,
    pages: Arc<Vec<Cell>>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    /// The operation that it is from.
    by: OpId,
    page: Option<Page>,
}

impl Content {
    /// The page at this place.
    pub fn page(&self, at: usize) -> Option<&Page> {
        self.pages.get(at)?.page.as_ref()
    }

    /// Puts a page in its place, unless that is from a later operation.
    pub fn put(&mut self, at: usize, page: Option<Page>, by: OpId) {
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() <= at {
            pages.resize(at + 1, Cell::default());
        }
        if pages[at].by <= by {
            pages[at] = Cell { by, page };
        }
    }

    /// Carries out a write. It makes the file no longer.
    pub fn write(&mut self, first: usize, pages: &[Option<Page>], by: OpId) {
        for (i, page) in pages.iter().enumerate() {
            self.put(first + i, page.clone(), by);
        }
    }

    /// Gives it another size: what is cut off is gone.
    pub fn resize(&mut self, size: u64) {
        self.size = size;
        let (whole, rest) = (index(size) / PAGE, index(size) % PAGE);
        let kept = whole + usize::from(rest > 0);
        let cut = self.page(whole).filter(|page| rest > 0 && page[rest..].iter().any(|byte| *byte != 0));
        let cut = cut.map(|page| [&page[..rest], &vec![0; PAGE - rest]].concat());
        if self.pages.len() > kept || cut.is_some() {
            let pages = Arc::make_mut(&mut self.pages);
            pages.truncate(kept);
            if let Some(page) = cut {
                pages[whole].page = Some(page.into());
            }
        }
    }

    /// The same, as what is there at first.
    pub fn settled(mut self) -> Content {
        Arc::make_mut(&mut self.pages).iter_mut().for_each(|cell| cell.by = 0);
        self
    }

    /// Reads as much as there is of what is asked for.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length.min(index(self.size.saturating_sub(offset)))];
        self.read_into(offset, &mut bytes);
        bytes
    }

    /// Reads what is there, and zeros behind it.
    pub fn read_into(&self, offset: u64, into: &mut [u8]) {
        let (mut at, mut rest) = (index(offset), into);
        while !rest.is_empty() {
            let from = at % PAGE;
            let now = rest.len().min(PAGE - from);
            let (head, tail) = rest.split_at_mut(now);
            match self.page(at / PAGE) {
                Some(page) => head.copy_from_slice(&page[from..from + now]),
                None => head.fill(0),
            }
            (at, rest) = (at + now, tail);
        }
    }
}

/// What a file is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The log goes there.
    Log,
    /// It is in the making, and of no meaning after a crash.
    Draft,
    Other,
}

/// An operation that changes what is on the disk, or makes it durable.
#[derive(Clone, Debug)]
pub enum Op {
    /// A file or directory is made.
    Create { dir: Ino, name: String, ino: Ino, is_dir: bool },
    /// A file gets another name, in the place of what had it.
    Rename { dir: Ino, to: String, ino: Ino },
    /// A file is removed.
    Unlink { dir: Ino, ino: Ino },
    /// Whole pages are written. The file is then at least `end` bytes long.
    Write {
        ino: Ino,
        first: usize,
        pages: Vec<Option<Page>>,
        end: u64,
        /// It is durable when it ends (O_DSYNC).
        synced: bool,
        role: Role,
    },
    /// A file gets another size.
    Resize { ino: Ino, size: u64 },
    /// All that was done to a file, or in a directory, and has ended, is made durable.
    Sync { ino: Ino },
}

impl Op {
    /// What it changes: the file, or the directory with its name.
    pub fn subject(&self) -> Ino {
        match *self {
            Op::Create { dir, .. } | Op::Rename { dir, .. } | Op::Unlink { dir, .. } => dir,
            Op::Write { ino, .. } | Op::Resize { ino, .. } | Op::Sync { ino } => ino,
        }
    }
}

/// An operation begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub op: OpId,
    pub ends: bool,
}

/// The files of a data directory, by name.
pub type Files = BTreeMap<String, Content>;

/// The data directory in the file system: one that has to be made is in another one that has to be.
pub const DATA: [&str; 2] = ["var", "data"];
/// The file system's root.
pub const ROOT: Ino = 1;

/// The names in each directory, and the content of each file, of a file system that holds these files, or nothing.
pub fn tree(files: Option<&Files>) -> (BTreeMap<Ino, BTreeMap<String, Ino>>, BTreeMap<Ino, Content>) {
    let Some(files) = files else { return (BTreeMap::from([(ROOT, BTreeMap::new())]), BTreeMap::new()) };
    let one = |name: &str, ino: Ino| BTreeMap::from([(name.to_owned(), ino)]);
    let data = ROOT + 2;
    let names = files.keys().cloned().zip(data + 1..).collect();
    let dirs = BTreeMap::from([(ROOT, one(DATA[0], ROOT + 1)), (ROOT + 1, one(DATA[1], data)), (data, names)]);
    (dirs, (data + 1..).zip(files.values().cloned()).collect())
}

/// All that came to a disk.
#[derive(Debug, Default)]
pub struct Record {
    /// What was there, durably; `None` if not even the data directory.
    pub before: Option<Files>,
    ops: Vec<Op>,
    pub events: Vec<Event>,
}

impl Record {
    pub fn new(before: Option<Files>) -> Record {
        Record { before, ..Record::default() }
    }

    /// The operation of this number.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id - 1]
    }

    /// The number that the next operation will have.
    pub fn next(&self) -> OpId {
        self.ops.len() + 1
    }

    pub fn begin(&mut self, op: Op) -> OpId {
        let id = self.next();
        self.ops.push(op);
        self.events.push(Event { op: id, ends: false });
        id
    }

    pub fn end(&mut self, op: OpId) {
        self.events.push(Event { op, ends: true });
    }
}

pub fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("less than the memory")
}
