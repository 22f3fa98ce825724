//! The file `lock` of the data directory: which server uses the directory.
//!
//! A server holds it (flock) while it runs, and writes its process id into it, for the message to a second server. Invariant: the file
//! is overwritten only if a server has written it, so that another file of this name, or a hard link to one, keeps its contents.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StartError;
use super::files::{self, Wanted, cannot, refused};
use crate::replica::boot::{Finding, Refused};

/// Name of the file.
const LOCK: &str = "lock";
/// The longest contents: a process id, with room to spare.
const LOCK_MAX: usize = 32;

/// Takes the lock. `None` if its file is missing and `create` is false. Writes nothing into the file.
///
/// # Errors
/// If another server holds it, the file is odd or holds something else, or it cannot be opened.
pub fn take(dir: &Path, create: bool) -> Result<Option<File>, StartError> {
    let cannot_lock = |e: &io::Error| cannot("lock", dir, e);
    match files::look(dir, LOCK).map_err(|e| cannot_lock(&e))? {
        Some(meta) => files::check(dir, LOCK, &meta, Wanted::File).map_err(|why| refused(dir, &why))?,
        None if !create => return Ok(None),
        None => {}
    }
    let mut options = File::options();
    options.read(true).write(true).create(create).truncate(false);
    let file = files::open(&dir.join(LOCK), &mut options).map_err(|e| cannot_lock(&e))?;
    let is_free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    let found = Holder::read(&file).map_err(|e| cannot_lock(&e))?;
    match found {
        Holder::Strange => {
            let line = format!(
                "{LOCK} holds something else than the id of a process, so no server has written it, and it would be overwritten; \
                 move it away. Nothing was changed."
            );
            Err(refused(dir, &Refused::for_all(Finding::NotALock, line)))
        }
        Holder::Nobody | Holder::Process(_) if is_free => Ok(Some(file)),
        Holder::Nobody | Holder::Process(_) => {
            let holder = match found {
                // The id in the file may still be that of an earlier server.
                Holder::Process(pid) if Path::new(&format!("/proc/{pid}")).exists() => format!("process {pid}"),
                _ => "another process".into(),
            };
            Err(StartError::new(format!(
                "the data directory {} is in use by {holder}; stop that server, or choose another directory with -d",
                dir.display()
            )))
        }
    }
}

/// What a lock's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nothing, or what a power cut has left of an id.
    Nobody,
    /// The id of a process, which may have ended.
    Process(u32),
    /// Something that no server has written.
    Strange,
}

impl Holder {
    fn read(file: &File) -> io::Result<Holder> {
        Ok(files::read_short(file, LOCK_MAX)?.map_or(Holder::Strange, |bytes| Holder::of(&bytes)))
    }

    fn of(bytes: &[u8]) -> Holder {
        // A power cut may leave an earlier id, or nothing, with the length of a later one: zeros fill the rest.
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        let bytes = &bytes[..bytes.len() - zeros];
        if bytes.is_empty() {
            return Holder::Nobody;
        }
        let number = str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
        number.map_or(Holder::Strange, Holder::Process)
    }
}

/// Returns the process that has written its id into the lock of `dir`; it may have ended. Opens nothing but a regular file.
pub fn holder(dir: &Path) -> Option<u32> {
    match Holder::read(&files::open_to_read(&dir.join(LOCK)).ok()?) {
        Ok(Holder::Process(pid)) => Some(pid),
        _ => None,
    }
}

/// Writes this process's id into the lock file.
///
/// # Errors
/// If the file cannot be written.
pub fn say_whose(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server has written is overwritten, also if a power cut has damaged it; what somebody else has written is not.
    #[test]
    fn a_file_of_somebody_else_is_taken_for_a_lock() {
        for (bytes, holder) in [
            (&b""[..], Holder::Nobody),
            (b"4242\n", Holder::Process(4242)),
            (b"4242", Holder::Process(4242)),
            (&[0; 5], Holder::Nobody),
            (b"4242\n\0", Holder::Process(4242)),
            (b"4\0\0", Holder::Process(4)),
            (b"\x004242", Holder::Strange),
            (b"root:x:0:0\n", Holder::Strange),
            (b"\n", Holder::Strange),
            (b"99999999999\n", Holder::Strange),
            (b"\xff\xfe", Holder::Strange),
        ] {
            assert_eq!(Holder::of(bytes), holder, "{}", bytes.escape_ascii());
        }
    }
}
