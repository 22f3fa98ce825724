//! The directory that the servers' data goes to, and what can be told of a data directory from outside: the disk
//! space that it takes, and when a snapshot is being written.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice, fadvise, inotify};

use crate::client::PATIENCE;
use crate::ending::left;
use crate::failure::{Context, Failure};

/// A directory of this run, removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    own: PathBuf,
}

impl Scratch {
    /// Makes a directory of this process in `parent`, and removes those of processes that are no more.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parent: &Path) -> Result<Scratch, Failure> {
        let mut left = left();
        let made_parent = !parent.exists();
        std::fs::create_dir_all(parent).context(format!("cannot make {}", parent.display()))?;
        let parent = parent.canonicalize().context(parent.display())?;
        sweep(&parent);
        let own = parent.join(format!("run-{}", std::process::id()));
        std::fs::create_dir(&own).context(format!("cannot make {}", own.display()))?;
        left.add(own.clone(), made_parent.then_some(parent));
        Ok(Scratch { own })
    }

    /// Removes all that is in it.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear(&self) -> Result<(), Failure> {
        let failed = || format!("cannot clear {}", self.own.display());
        for entry in std::fs::read_dir(&self.own).context(failed())? {
            let entry = entry.context(failed())?;
            let (path, kind) = (entry.path(), entry.file_type().context(failed())?);
            let removed = if kind.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.context(failed())?;
        }
        Ok(())
    }

    /// Path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        left().remove(&self.own);
    }
}

/// Removes what killed runs have left.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix("run-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _removed = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Bytes on the disk of all that is below a directory. What vanishes while it is looked at counts nothing.
///
/// # Errors
/// Something cannot be read.
pub fn usage(dir: &Path) -> Result<u64, Failure> {
    let mut sum = 0;
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Some(entries) = present(std::fs::read_dir(&dir)).context(dir.display())? else { continue };
        for entry in entries {
            let entry = entry.context(dir.display())?;
            let Some(meta) = present(entry.metadata()).context(entry.path().display())? else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            } else {
                sum += meta.blocks() * 512;
            }
        }
    }
    Ok(sum)
}

fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Has the kernel forget what it has cached of the files of a directory, so that they are read from the disk.
///
/// # Errors
/// A file cannot be opened.
pub fn forget_cached(dir: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir).context(dir.display())? {
        let path = entry.context(dir.display())?.path();
        if path.is_file() {
            let file = std::fs::File::open(&path).context(path.display())?;
            file.sync_all().context(path.display())?;
            fadvise(&file, 0, None, Advice::DontNeed).context(path.display())?;
        }
    }
    Ok(())
}

/// What happened to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A file `*.snap.tmp` has appeared.
    Begun,
    /// It has got its name `*.snap`.
    Done,
    /// It is gone without ever having been whole.
    Abandoned,
}

/// Tells from outside when a server writes a snapshot.
#[derive(Debug)]
pub struct SnapshotWatch {
    inotify: OwnedFd,
    running: bool,
}

impl SnapshotWatch {
    /// Watches a data directory.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(dir: &Path) -> Result<SnapshotWatch, Failure> {
        let failed = || format!("cannot watch {}", dir.display());
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).context(failed())?;
        let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
        inotify::add_watch(&inotify, dir, events).context(failed())?;
        let mut running = false;
        for entry in std::fs::read_dir(dir).context(failed())? {
            running |= entry.context(failed())?.file_name().as_encoded_bytes().ends_with(b".snap.tmp");
        }
        Ok(SnapshotWatch { inotify, running })
    }

    /// Hands what has happened since the last call to `each`. Does not wait.
    ///
    /// # Errors
    /// The kernel gave no answer.
    pub fn poll(&mut self, mut each: impl FnMut(Seen)) -> Result<(), Failure> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e).context("cannot watch for snapshots"),
            };
            let name = event.file_name().map(std::ffi::CStr::to_bytes).unwrap_or_default();
            let draft = name.ends_with(b".snap.tmp");
            let seen = if draft && event.events().contains(inotify::ReadFlags::CREATE) {
                Seen::Begun
            } else if draft && event.events().contains(inotify::ReadFlags::DELETE) {
                Seen::Abandoned
            } else if name.ends_with(b".snap") && event.events().contains(inotify::ReadFlags::MOVED_TO) {
                Seen::Done
            } else {
                continue;
            };
            self.running = seen == Seen::Begun;
            each(seen);
        }
    }

    /// Waits until no snapshot is being written.
    ///
    /// # Errors
    /// That takes too long.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.poll(|_| ())?;
        let timeout = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        while self.running {
            let ready = poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout));
            if ready.context("cannot watch for snapshots")? == 0 {
                return Err(Failure::new("a snapshot does not come to its end"));
            }
            self.poll(|_| ())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_blocks_of_all_levels_and_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(usage(dir.path()).unwrap(), 0);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["a", "sub/b"] {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![7; 8192]).unwrap();
            std::fs::File::open(&path).unwrap().sync_all().unwrap();
        }
        let full = usage(dir.path()).unwrap();
        assert!((16384..65536).contains(&full), "{full}");
        std::fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let with_hole = usage(dir.path()).unwrap();
        assert!(with_hole < full + 65536, "{with_hole}");
        assert_eq!(usage(&dir.path().join("gone")).unwrap(), 0);
    }

    /// A killed run leaves gigabytes; a directory that is not ours must stay.
    #[test]
    fn leftovers_of_dead_runs_are_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        // No process has this number: the kernel's limit is 2^22.
        for name in ["run-4194305", "run-x", "mine"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let scratch = Scratch::new(dir.path()).unwrap();
        assert!(!dir.path().join("run-4194305").exists());
        let own = scratch.path("");
        assert!(own.exists());
        drop(scratch);
        assert!(!own.exists());
        assert!(dir.path().join("run-x").exists() && dir.path().join("mine").exists());
    }

    #[test]
    fn a_directory_that_was_made_for_the_run_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("bench-data");
        drop(Scratch::new(&parent).unwrap());
        assert!(!parent.exists());
    }

    #[test]
    fn a_snapshot_is_seen_to_begin_and_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = SnapshotWatch::new(dir.path()).unwrap();
        watch.settle().unwrap();
        let mut seen = || {
            let mut all = Vec::new();
            watch.poll(|s| all.push(s)).unwrap();
            all
        };
        assert_eq!(seen(), []);
        let (draft, whole) = (dir.path().join("01.snap.tmp"), dir.path().join("01.snap"));
        std::fs::write(dir.path().join("01.log.tmp"), "").unwrap();
        std::fs::write(&draft, "").unwrap();
        assert_eq!(seen(), [Seen::Begun]);
        let mut late = SnapshotWatch::new(dir.path()).unwrap();
        assert!(late.running);
        std::fs::rename(&draft, &whole).unwrap();
        assert_eq!(seen(), [Seen::Done]);
        late.settle().unwrap();
        std::fs::write(&draft, "").unwrap();
        std::fs::remove_file(&draft).unwrap();
        std::fs::remove_file(&whole).unwrap();
        assert_eq!(seen(), [Seen::Begun, Seen::Abandoned]);
    }
}
