//! The disk: carries out what the log and the snapshots ask for, and ends the process if it fails.
//!
//! A failed write or sync is fatal and never retried, because nobody knows afterwards what is durable. Lack of space is not a
//! failure: it shows when a file is made (a segment, a snapshot), not when the log is written, and the server retries until there
//! is space.
//!
//! Slow operations (opening and making files, syncs, renames, removals) go through the ring, as the writes do: the loop waits for
//! none of them, and continues if the disk does not answer. The replica measures how long that lasts (`replica/disk_watch.rs`).
//!
//! Each batch takes one O_DIRECT|O_DSYNC write to the log, into a segment that was filled with zeros and synced beforehand. If the
//! file system refuses O_DIRECT, the server uses a buffered write and fdatasync.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statvfs};
use tokio_uring::buf::IoBuf;
use tokio_uring::fs::{self, File};

use super::{Shell, fatal};
use crate::limits;
use crate::log::{Block, Prepare, Write, bytes_of, name};
use crate::replica::snapshot::Part;

/// Bytes of zeros that are written at once, small enough for the log's writes to pass in between.
const ZEROS: usize = 256 << 10;
/// Time between two parts of a snapshot: with their size, what bounds its share of the disk's bandwidth (to some 100 MB/s).
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(2);
/// Time between two attempts to get space.
const RETRY: Duration = Duration::from_secs(1);

/// The data directory's files, as they are written.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    direct: bool,
    /// The segment that is written to, by its generation: the log never goes back to an earlier one.
    segment: RefCell<Option<(u64, Rc<Segment>)>>,
}

struct Segment(File);

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Segment")
    }
}

/// Blocks on their way to the disk.
struct Blocks(Vec<Block>);

// SAFETY: the pointer is into the heap memory of a `Vec` that nobody resizes while it is in here, so it stays valid
// when the value is moved; all of its bytes are initialized.
unsafe impl IoBuf for Blocks {
    fn stable_ptr(&self) -> *const u8 {
        bytes_of(&self.0).as_ptr()
    }

    fn bytes_init(&self) -> usize {
        bytes_of(&self.0).len()
    }

    fn bytes_total(&self) -> usize {
        self.bytes_init()
    }
}

/// Whether a file could not be made for want of space, quota included.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Disk {
    /// Makes a `Disk` for `dir`. [`Disk::probe`] then finds out how its files can be written.
    pub fn new(dir: &Path) -> Disk {
        Disk { dir: dir.to_path_buf(), direct: true, segment: RefCell::new(None) }
    }

    /// Finds out how files of the directory can be written.
    ///
    /// # Errors
    /// If not even a small file can be written there.
    pub async fn probe(&mut self) -> io::Result<()> {
        self.direct = true;
        let path = self.path(&name::temporary(name::PROBE));
        let mut tried = self.try_write(&path).await;
        if tried.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::InvalidInput) {
            self.direct = false;
            tried = self.try_write(&path).await;
        }
        match tried {
            // Full, but what is there can be written over: as far as is known, in the same way.
            Err(e) if !is_full(&e) => Err(e),
            _ => match fs::remove_file(&path).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        }
    }

    async fn try_write(&self, path: &Path) -> io::Result<()> {
        let file = self.open(path, true, true).await?;
        write(&file, vec![Block::ZERO], 0).await.0
    }

    /// Whether O_DIRECT is in use.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Path of a file of the data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn open(&self, path: &Path, create: bool, synced: bool) -> io::Result<File> {
        // Nothing but a file of this directory: see `files`.
        let mut flags = libc::O_NOFOLLOW;
        if self.direct {
            flags |= libc::O_DIRECT;
            if synced {
                flags |= libc::O_DSYNC;
            }
        }
        if create
            && let Err(e) = fs::remove_file(path).await
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        // A new file, not one of the same name that a killed process may still be writing to.
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(create).custom_flags(flags).mode(0o600).open(path).await?;
        // SAFETY: the borrowed descriptor is used only in the next statement, while the file is open.
        let fd = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
        // Held as long as a write to it is in flight, even when this process is gone: see directory.rs.
        flock(fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Makes what was renamed or created in the directory durable.
    pub async fn sync_dir(&self) -> io::Result<()> {
        let dir = File::open(&self.dir).await?;
        dir.sync_all().await?;
        dir.close().await
    }

    /// Carries out a write of the log.
    pub async fn append(&self, mut log_write: Write) -> io::Result<Write> {
        let segment = self.segment(log_write.generation).await?;
        let blocks = std::mem::take(&mut log_write.blocks);
        let (written, blocks) = write(&segment.0, blocks, log_write.offset).await;
        written?;
        if !self.direct {
            segment.0.sync_data().await?;
        }
        log_write.blocks = blocks;
        Ok(log_write)
    }

    async fn segment(&self, generation: u64) -> io::Result<Rc<Segment>> {
        if let Some((open, segment)) = &*self.segment.borrow()
            && *open == generation
        {
            return Ok(Rc::clone(segment));
        }
        let file = self.open(&self.dir.join(name::segment(generation)), false, true).await?;
        let segment = Rc::new(Segment(file));
        self.segment.replace(Some((generation, Rc::clone(&segment))));
        Ok(segment)
    }

    /// Makes a segment, durably, if a new one leaves `reserve` bytes free. When it fails for want of space, nothing is left
    /// of it.
    pub async fn prepare(&self, prepare: Prepare, reserve: u64) -> io::Result<()> {
        // A log that takes the space of the next snapshot could never be shortened again.
        if prepare.recycle.is_none() && self.free()? < prepare.size + reserve {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let temporary = self.path(&prepare.temporary());
        let made = self.make_segment(&prepare, &temporary).await;
        if made.is_err() {
            // What is left is removed at the next start at the latest.
            let _removed = fs::remove_file(&temporary).await;
        }
        made
    }

    /// Writes over a file in place, durably: the last resort where there is no room for a new one. A block is written
    /// whole or not at all.
    pub async fn write_over(&self, name: &str, blocks: Vec<Block>) -> io::Result<()> {
        let file = self.open(&self.path(name), false, true).await?;
        write(&file, blocks, 0).await.0?;
        file.sync_all().await?;
        file.close().await
    }

    /// Bytes that are free for files of this process.
    fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    async fn make_segment(&self, prepare: &Prepare, temporary: &Path) -> io::Result<()> {
        let file = if let Some(old) = prepare.recycled_file() {
            fs::rename(self.path(&old), temporary).await?;
            // Else the new preface could be on the disk under the old name after a crash, which is damage.
            self.sync_dir().await?;
            self.open(temporary, false, false).await?
        } else {
            let file = self.open(temporary, true, false).await?;
            // Asks for all the space at once, so that want of it shows before anything is written.
            match file.fallocate(0, prepare.size, 0).await {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                outcome => outcome?,
            }
            self.zero(&file, 0, prepare.size).await?;
            file
        };
        write(&file, prepare.header.clone(), 0).await.0?;
        file.sync_all().await?;
        file.close().await?;
        fs::rename(temporary, self.path(&prepare.file())).await?;
        self.sync_dir().await
    }

    /// Begins a file that gets its name when it is whole.
    pub async fn create(&self, temporary: &str) -> io::Result<Draft> {
        let path = self.path(temporary);
        Ok(Draft { file: self.open(&path, true, false).await?, path })
    }

    /// Erases a part of a file, durably: what a crash has left behind the end of the log.
    pub async fn erase(&self, name: &str, offset: u64, length: u64) -> io::Result<()> {
        let file = self.open(&self.path(name), false, false).await?;
        self.zero(&file, offset, length).await?;
        file.sync_all().await?;
        file.close().await
    }

    /// Writes zeros, a piece at a time.
    async fn zero(&self, file: &File, mut offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        let mut zeros = vec![Block::ZERO; ZEROS / limits::BLOCK];
        while offset < end {
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            assert!(left >= limits::BLOCK, "only whole blocks are erased");
            zeros.truncate(left / limits::BLOCK);
            let (written, back) = write(file, zeros, offset).await;
            written?;
            zeros = back;
            offset += bytes_of(&zeros).len() as u64;
        }
        Ok(())
    }
}

/// A file in the making.
pub struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    /// Writes blocks at an offset in bytes; they are durable with [`Draft::commit`].
    pub async fn write(&self, blocks: Vec<Block>, offset: u64) -> (io::Result<()>, Vec<Block>) {
        write(&self.file, blocks, offset).await
    }

    /// Makes the file durable under its name.
    pub async fn commit(self, disk: &Disk, name: &str) -> io::Result<()> {
        self.file.sync_all().await?;
        self.file.close().await?;
        fs::rename(&self.path, disk.path(name)).await?;
        disk.sync_dir().await
    }

    /// Drops the file.
    pub async fn abandon(self) -> io::Result<()> {
        self.file.close().await?;
        fs::remove_file(&self.path).await
    }
}

async fn write(file: &File, blocks: Vec<Block>, offset: u64) -> (io::Result<()>, Vec<Block>) {
    let (written, blocks) = file.write_all_at(Blocks(blocks), offset).await;
    (written, blocks.0)
}

/// Starts the tasks that write.
pub fn start(shell: &Rc<Shell>) {
    let s = Rc::clone(shell);
    tokio_uring::spawn(async move { write_log(&s).await });
    let s = Rc::clone(shell);
    tokio_uring::spawn(async move { prepare_segments(&s).await });
    let s = Rc::clone(shell);
    tokio_uring::spawn(async move { write_snapshots(&s).await });
}

async fn write_log(shell: &Rc<Shell>) {
    loop {
        shell.write.wait().await;
        loop {
            let Some(write) = shell.replica.borrow_mut().next_write() else { break };
            let file = write.file();
            match shell.disk.append(write).await {
                Ok(write) => {
                    shell.replica.borrow_mut().written(write);
                    shell.writes.set(shell.writes.get() + 1);
                }
                Err(e) => fatal(&format!(
                    "cannot write the log {}: {e}; what was acknowledged is safe, see to the disk and start again",
                    shell.disk.path(&file).display(),
                )),
            }
            shell.came.set();
            shell.turn.set();
        }
    }
}

async fn prepare_segments(shell: &Rc<Shell>) {
    let mut told = false;
    loop {
        shell.prepare.wait().await;
        let Some(prepare) = shell.replica.borrow_mut().next_prepare() else { continue };
        let (generation, name) = (prepare.generation, prepare.file());
        let reserve = shell.replica.borrow().snapshot_estimate();
        match shell.disk.prepare(prepare, reserve).await {
            Ok(()) => {
                if told {
                    shell.say("there is room for the log again");
                }
                told = false;
                shell.replica.borrow_mut().prepared(generation);
            }
            Err(e) if is_full(&e) => {
                if !told {
                    told = true;
                    shell.say(&format!(
                        "disk full: no room for the next segment of the log in {}; reads go on, writes only while the \
                         current segment lasts; make room there and they go on by themselves",
                        shell.disk.dir.display(),
                    ));
                }
                shell.replica.borrow_mut().prepare_failed(generation);
                shell.turn.set();
                tokio::time::sleep(RETRY).await;
                shell.replica.borrow_mut().retry_prepare();
                shell.prepare.set();
            }
            Err(e) => fatal(&format!("cannot make the log segment {}: {e}", shell.disk.path(&name).display())),
        }
        shell.turn.set();
    }
}

/// Writes the snapshot that is being taken, a part at a time: the next is composed when this one is on the disk.
async fn write_snapshots(shell: &Rc<Shell>) {
    let mut told = false;
    loop {
        shell.snapshot.wait().await;
        if !shell.replica.borrow_mut().begin_snapshot() {
            continue;
        }
        match write_snapshot(shell).await {
            Ok(true) => {
                told = false;
                let old = shell.replica.borrow_mut().snapshot_done();
                remove(shell, old).await;
            }
            Ok(false) => {}
            Err(e) if is_full(&e) => {
                let own = shell.replica.borrow_mut().snapshot_failed();
                if own && !told {
                    told = true;
                    shell.say(&format!(
                        "disk full: no room for a snapshot in {}; the log grows until there is",
                        shell.disk.dir.display(),
                    ));
                }
                if !own {
                    let s = Rc::clone(shell);
                    tokio_uring::spawn(async move { wait_for_room(&s).await });
                }
                shell.turn.set();
                tokio::time::sleep(RETRY).await;
            }
            Err(e) => fatal(&format!("cannot write a snapshot in {}: {e}", shell.disk.dir.display())),
        }
        shell.turn.set();
    }
}

/// Waits until the disk has room for the snapshot that the leader wants to send.
async fn wait_for_room(shell: &Rc<Shell>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let Some(needed) = shell.replica.borrow().needs_room() else { return };
        if shell.disk.free().is_ok_and(|free| free >= needed) {
            shell.replica.borrow_mut().there_is_room();
            shell.turn.set();
            return;
        }
    }
}

/// Whether there is one: it may be given up on the way.
async fn write_snapshot(shell: &Rc<Shell>) -> io::Result<bool> {
    let file = shell.replica.borrow().snapshot_name();
    let draft = shell.disk.create(&name::temporary(&file)).await?;
    loop {
        let part = shell.replica.borrow_mut().next_snapshot_part();
        match part {
            Part::Nothing => return draft.commit(&shell.disk, &file).await.map(|()| true),
            Part::Abandon => {
                draft.abandon().await?;
                return Ok(false);
            }
            // More of it is to come from the leader.
            Part::Wait => shell.snapshot.wait().await,
            // Lets the runtime park, and so the commits have their turn, before the next slice.
            Part::Later => tokio_uring::no_op().await?,
            Part::Write(mut part) => {
                let (written, blocks) = draft.write(std::mem::take(&mut part.blocks), part.offset).await;
                if let Err(e) = written {
                    if is_full(&e) {
                        draft.abandon().await?;
                    }
                    return Err(e);
                }
                part.blocks = blocks;
                shell.replica.borrow_mut().snapshot_part_written(part);
                // Leaves the disk to the log for most of the time, unless that grows faster than the snapshot.
                if !shell.replica.borrow().is_snapshot_urgent() {
                    tokio::time::sleep(SNAPSHOT_PAUSE).await;
                }
            }
        }
    }
}

/// Removes files that are of no use any more.
pub async fn remove(shell: &Shell, names: impl IntoIterator<Item = String>) {
    for name in names {
        if let Err(e) = fs::remove_file(shell.disk.path(&name)).await {
            shell.say(&format!("cannot remove {name}, which is of no use any more: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Log, Params};

    /// A new segment that takes the space of the next snapshot: then the log can never be shortened again.
    #[test]
    fn the_log_takes_the_room_that_the_next_snapshot_needs() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(Params { segment_size: limits::SEGMENT, node: *b"ABCDEFGHIJKLMNOP" });
        let prepare = log.wants_segment().unwrap();
        assert!(prepare.recycled_file().is_none());
        let disk = Disk::new(dir.path());
        let free = disk.free().unwrap();
        assert!(free > 2 * prepare.size, "a test needs some room");
        let made = tokio_uring::start(async { disk.prepare(prepare, free).await });
        assert!(made.is_err_and(|e| is_full(&e)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }
}
