//! A file system in memory, in this process: what a server does to its data directory comes here first, and is written down.
//!
//! Nothing is cached in front of it (FOPEN_DIRECT_IO): each operation comes when it is called for. What counts for the commit
//! path, and syncs, takes a moment, a different one each time, so that operations overlap, and whoever does not wait for the end of
//! one is found out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{getgid, getuid};

use super::common::{LIMIT, Random};
use super::record::*;

/// The kernel knows of every change, for all come through it.
const TTL: Duration = Duration::from_secs(3600);
/// What the file system says is free.
const FREE: u64 = 64 << 30;
/// The unit in which it says so.
const BLOCK: u32 = 4096;
/// Longest time that an operation takes, in microseconds: a write that is durable, a sync, something in a directory.
const LATENCY: [u64; 3] = [300, 400, 60];

// Of Linux, and the same on all of its machines but a few.
const O_DSYNC: i32 = 0o10000;
const O_DIRECT: i32 = 0o40000;

/// The disk of a server.
#[derive(Clone)]
pub struct Disk(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    later: Later,
    /// Whether O_DIRECT is taken.
    direct: bool,
    /// There is no room for new files.
    full: AtomicBool,
}

struct State {
    record: Record,
    nodes: BTreeMap<Ino, Node>,
    next: Ino,
    random: Random,
    /// Operations do not end from one on.
    hold: Option<Hold>,
    held: Vec<Task>,
}

/// From which operation on nothing ends.
#[derive(Clone, Copy, Debug)]
pub enum Hold {
    /// The first that begins after so many events.
    After(usize),
    /// The first that gives a file a name that ends so.
    Named(&'static str),
    /// The first that makes a file whose name ends so.
    Made(&'static str),
}

impl Hold {
    fn begins_with(self, op: &Op, events: usize) -> bool {
        match self {
            Hold::After(most) => events >= most,
            Hold::Named(end) => matches!(op, Op::Rename { to, .. } if to.ends_with(end)),
            Hold::Made(end) => matches!(op, Op::Create { name, .. } if name.ends_with(end)),
        }
    }
}

type Task = Box<dyn FnOnce() + Send>;

enum Node {
    Dir(BTreeMap<String, Ino>),
    File(Content),
}

/// A mounted disk; unmounted when it is dropped.
pub struct Mounted {
    session: Option<BackgroundSession>,
    timer: Option<JoinHandle<()>>,
    disk: Disk,
    at: PathBuf,
}

impl Disk {
    /// Mounts a disk that holds these files in the data directory.
    pub fn mount(at: &Path, before: Option<Files>, direct: bool, seed: u64) -> io::Result<Mounted> {
        let (dirs, files) = tree(before.as_ref());
        let dirs = dirs.into_iter().map(|(ino, names)| (ino, Node::Dir(names)));
        let files = files.into_iter().map(|(ino, content)| (ino, Node::File(content)));
        let nodes: BTreeMap<Ino, Node> = dirs.chain(files).collect();
        let next = nodes.keys().last().expect("the root") + 1;
        let state =
            State { record: Record::new(before), nodes, next, random: Random(seed), hold: None, held: Vec::new() };
        let shared = Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            later: Later::default(),
            direct,
            full: AtomicBool::new(false),
        };
        let disk = Disk(Arc::new(shared));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("doozer-test".into()), MountOption::NoAtime];
        let session = fuser::spawn_mount(FileSystem(disk.clone()), at, &config)?;
        let late = disk.clone();
        let timer = std::thread::spawn(move || late.0.later.run());
        Ok(Mounted { session: Some(session), timer: Some(timer), disk, at: at.to_path_buf() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Has no room for new files from now on, or has.
    pub fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::Relaxed);
    }

    /// How many events there were up to now.
    pub fn position(&self) -> usize {
        self.state().record.events.len()
    }

    /// Lets nothing end from an operation on, until [`Disk::release`] or the end of what is returned. A server cannot end before:
    /// a test that fails would wait for it for ever.
    pub fn hold(&self, from: Hold) -> Held {
        self.state().hold = Some(from);
        Held(self.clone())
    }

    /// Waits until an operation is held, or it is `over` without.
    pub fn wait_held(&self, over: impl Fn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while self.state().held.is_empty() && !over() {
            assert!(Instant::now() < deadline, "the server does not write");
            let none = |state: &mut State| state.held.is_empty();
            drop(self.0.changed.wait_timeout_while(self.state(), Duration::from_millis(5), none).unwrap());
        }
    }

    /// Lets what is held end, and all that comes.
    pub fn release(&self) {
        let mut state = self.state();
        state.hold = None;
        let held = std::mem::take(&mut state.held);
        drop(state);
        held.into_iter().for_each(|end| end());
    }

    /// The files of the data directory, as they are now for those who read them.
    pub fn files(&self) -> Files {
        let state = self.state();
        let mut entries = state.entries(ROOT);
        for name in DATA {
            entries = entries.and_then(|entries| state.entries(*entries.get(name)?));
        }
        let Some(entries) = entries else { return Files::new() };
        let content = |(name, ino): (&String, &Ino)| match &state.nodes[ino] {
            Node::File(content) => Some((name.clone(), content.clone())),
            Node::Dir(_) => None,
        };
        entries.iter().filter_map(content).collect()
    }

    /// Begins an operation, and answers it when it has ended.
    fn begin(
        &self,
        op: impl FnOnce(&mut State) -> Result<Op, Errno>,
        answer: impl FnOnce(Result<&mut State, Errno>) + Send + 'static,
    ) {
        let mut state = self.state();
        let op = match op(&mut state) {
            Ok(op) => op,
            Err(e) => return answer(Err(e)),
        };
        let most = match op {
            Op::Write { synced: true, .. } => LATENCY[0],
            Op::Write { .. } => 0,
            Op::Sync { .. } => LATENCY[1],
            _ => LATENCY[2],
        };
        let events = state.record.events.len();
        let held = !state.held.is_empty() || state.hold.is_some_and(|hold| hold.begins_with(&op, events));
        let id = state.record.begin(op);
        self.0.changed.notify_all();
        let disk = self.clone();
        let end = move || {
            let mut state = disk.state();
            state.record.end(id);
            disk.0.changed.notify_all();
            answer(Ok(&mut state));
        };
        let delay = if most > 0 { state.random.next() % most } else { 0 };
        if held {
            return state.held.push(Box::new(end));
        }
        drop(state);
        match delay {
            0 => end(),
            delay => self.0.later.at(Instant::now() + Duration::from_micros(delay), Box::new(end)),
        }
    }
}

/// Operations are held for as long as this is there.
#[must_use = "nothing is held without it"]
pub struct Held(Disk);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Mounted {
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Unmounts it. What came to it.
    pub fn unmount(mut self) -> Record {
        self.end();
        std::mem::take(&mut self.disk.state().record)
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            // The kernel may take a moment to close the files of a server that is gone: that is the end of the session.
            unmount(&self.at, UnmountFlags::DETACH).expect("it is mounted");
            let _ended = session.join();
        }
        self.disk.0.later.close();
        if let Some(timer) = self.timer.take() {
            timer.join().unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // There may be a server that uses it. All of it goes with this process.
            if let Some(session) = self.session.take() {
                std::mem::forget(session);
            }
        } else {
            self.end();
        }
    }
}

/// What is to be done at a time.
#[derive(Default)]
struct Later {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    what: BTreeMap<(Instant, u64), Task>,
    count: u64,
    closed: bool,
}

impl Later {
    fn at(&self, time: Instant, what: Task) {
        let mut due = self.due.lock().unwrap();
        due.count += 1;
        let key = (time, due.count);
        due.what.insert(key, what);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.due.lock().unwrap().closed = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut due = self.due.lock().unwrap();
        loop {
            let (now, closed) = (Instant::now(), due.closed);
            match due.what.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let what = first.remove();
                    drop(due);
                    what();
                    due = self.due.lock().unwrap();
                }
                Some(first) => {
                    let wait = first.key().0 - now;
                    due = self.changed.wait_timeout(due, wait).unwrap().0;
                }
                None if closed => return,
                None => due = self.changed.wait(due).unwrap(),
            }
        }
    }
}

impl State {
    fn entries(&self, dir: Ino) -> Option<&BTreeMap<String, Ino>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(entries)) => Some(entries),
            _ => None,
        }
    }

    fn dir(&mut self, dir: Ino) -> Result<&mut BTreeMap<String, Ino>, Errno> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir(entries)) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn file(&mut self, ino: Ino) -> Result<&mut Content, Errno> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(Errno::EISDIR),
        }
    }

    fn find(&self, dir: Ino, name: &OsStr) -> Result<Ino, Errno> {
        let entries = self.entries(dir).ok_or(Errno::ENOTDIR)?;
        entries.get(&text(name)).copied().ok_or(Errno::ENOENT)
    }

    fn name(&self, ino: Ino) -> Option<&str> {
        self.nodes.values().find_map(|node| match node {
            Node::Dir(entries) => entries.iter().find(|(_, of)| **of == ino).map(|(name, _)| name.as_str()),
            Node::File(_) => None,
        })
    }

    fn create(&mut self, dir: Ino, name: &OsStr, node: Node) -> Result<Op, Errno> {
        let (name, ino, is_dir) = (text(name), self.next, matches!(node, Node::Dir(_)));
        let entries = self.dir(dir)?;
        if entries.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.clone(), ino);
        self.nodes.insert(ino, node);
        self.next += 1;
        Ok(Op::Create { dir, name, ino, is_dir })
    }

    fn rename(&mut self, dir: Ino, from: &OsStr, to: &OsStr) -> Result<Op, Errno> {
        let (ino, to) = (self.find(dir, from)?, text(to));
        let entries = self.dir(dir)?;
        entries.remove(&text(from));
        entries.insert(to.clone(), ino);
        Ok(Op::Rename { dir, to, ino })
    }

    fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<Op, Errno> {
        let ino = self.find(dir, name)?;
        self.dir(dir)?.remove(&text(name));
        Ok(Op::Unlink { dir, ino })
    }

    fn write(&mut self, ino: Ino, offset: u64, data: &[u8], synced: bool) -> Result<Op, Errno> {
        let role = match self.name(ino) {
            Some(name) if name.ends_with(".log") => Role::Log,
            Some(name) if name.ends_with(".tmp") => Role::Draft,
            _ => Role::Other,
        };
        let id = self.record.next();
        let content = self.file(ino)?;
        let end = offset + data.len() as u64;
        let (first, last) = (index(offset) / PAGE, index(end).div_ceil(PAGE));
        // What is not of whole pages becomes so with what is there.
        let whole;
        let mut bytes = data;
        if !data.len().is_multiple_of(PAGE) || !index(offset).is_multiple_of(PAGE) {
            let mut around = vec![0; (last - first) * PAGE];
            content.read_into((first * PAGE) as u64, &mut around);
            let from = index(offset) % PAGE;
            around[from..from + data.len()].copy_from_slice(data);
            whole = around;
            bytes = &whole;
        }
        let zeros = [0; PAGE];
        let page = |page: &[u8]| (page != zeros).then(|| Page::from(page));
        let pages: Vec<_> = bytes.chunks(PAGE).map(page).collect();
        content.write(first, &pages, id);
        content.size = content.size.max(end);
        Ok(Op::Write { ino, first, pages, end, synced, role })
    }

    fn resize(&mut self, ino: Ino, size: u64) -> Result<Op, Errno> {
        self.file(ino)?.resize(size);
        Ok(Op::Resize { ino, size })
    }

    fn attributes(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let (kind, perm, size) = match self.nodes.get(&ino) {
            Some(Node::Dir(_)) => (FileType::Directory, 0o755, 0),
            Some(Node::File(content)) => (FileType::RegularFile, 0o644, content.size),
            None => return Err(Errno::ENOENT),
        };
        let (ino, time) = (INodeNo(ino), UNIX_EPOCH);
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        Ok(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }
}

fn text(name: &OsStr) -> String {
    name.to_str().expect("UTF-8").to_owned()
}

/// What the kernel talks to.
struct FileSystem(Disk);

impl FileSystem {
    /// How a file is opened, if it is.
    fn open_flags(&self, flags: i32) -> Result<FopenFlags, Errno> {
        if flags & O_DIRECT != 0 && !self.0.0.direct {
            return Err(Errno::EINVAL);
        }
        Ok(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH)
    }

    fn empty(&self, op: impl FnOnce(&mut State) -> Result<Op, Errno>, reply: ReplyEmpty) {
        self.0.begin(op, move |done| match done {
            Ok(_) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }
}

impl Filesystem for FileSystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Where the kernel knows of none, a large write comes in parts one after the other.
        let _older = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.state();
        match state.find(parent.0, name).and_then(|ino| state.attributes(ino)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.state().attributes(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(size) = size else { return self.getattr(request, ino, fh, reply) };
        let op = |state: &mut State| state.resize(ino.0, size);
        self.0.begin(op, move |done| match done.and_then(|state| state.attributes(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let ino = self.0.state().next;
        let op = |state: &mut State| state.create(parent.0, name, Node::Dir(BTreeMap::new()));
        self.0.begin(op, move |done| match done.and_then(|state| state.attributes(ino)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        });
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let how = match self.open_flags(flags) {
            Ok(how) => how,
            Err(e) => return reply.error(e),
        };
        if self.0.0.full.load(Ordering::Relaxed) {
            return reply.error(Errno::ENOSPC);
        }
        let ino = self.0.state().next;
        let op = |state: &mut State| state.create(parent.0, name, Node::File(Content::default()));
        self.0.begin(op, move |done| match done.and_then(|state| state.attributes(ino)) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), how),
            Err(e) => reply.error(e),
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(|state| state.unlink(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // As between two file systems; nothing that is tested here does it.
        if parent != newparent || !flags.is_empty() {
            return reply.error(Errno::EXDEV);
        }
        self.empty(|state| state.rename(parent.0, name, newname), reply);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_flags(flags.0) {
            Ok(how) => reply.opened(FileHandle(0), how),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = self.0.state().file(ino.0).cloned();
        match content {
            Ok(content) => reply.data(&content.read(offset, size as usize)),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let length = u32::try_from(data.len()).expect("a length of the protocol");
        let op = |state: &mut State| state.write(ino.0, offset, data, flags.0 & O_DSYNC != 0);
        self.0.begin(op, move |done| match done {
            Ok(_) => reply.written(length),
            Err(e) => reply.error(e),
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let op = |state: &mut State| {
            let size = state.file(ino.0)?.size.max(offset + length);
            state.resize(ino.0, size)
        };
        self.empty(op, reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(|_| Ok(Op::Sync { ino: ino.0 }), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(|_| Ok(Op::Sync { ino: ino.0 }), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.0.state();
        let Some(entries) = state.entries(ino.0) else { return reply.error(Errno::ENOTDIR) };
        for (at, (name, ino)) in (1..).zip(entries).skip(index(offset)) {
            let kind = if state.entries(*ino).is_some() { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*ino), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = FREE / u64::from(BLOCK);
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, BLOCK, 255, BLOCK);
    }
}
