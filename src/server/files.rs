//! Opens the files of the data directory.
//!
//! They belong to this server alone, so each is a regular file, in the directory itself. Anything else is odd, and the server
//! refuses it before it opens it: a symbolic link leads to data of somebody else, which the server would read, overwrite or empty;
//! opening a FIFO waits for ever, and opening a device may do what the device does. The directory itself may be a symbolic link. A
//! hard link is no different from the file, and so it is allowed; the server writes into files only after it has recognised their
//! contents.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::StartError;
use crate::replica::boot::{Finding, Refused};

/// What the server keeps under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

impl Wanted {
    fn is_met(self, meta: &Metadata) -> bool {
        match self {
            Wanted::File => meta.is_file(),
            Wanted::Directory => meta.is_dir(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Wanted::File => "regular file",
            Wanted::Directory => "directory",
        }
    }
}

/// Says what lies under a name of `dir`, without following a link and without opening it; `None` if nothing does.
///
/// # Errors
/// If that cannot be found out.
pub fn look(dir: &Path, name: &str) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(dir.join(name)) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Refuses what lies under a name of `dir` if it is something other than what the server keeps there.
///
/// # Errors
/// One line that names it, says what it is, and what to do.
pub fn check(dir: &Path, name: &str, meta: &Metadata, wanted: Wanted) -> Result<(), Refused> {
    if wanted.is_met(meta) {
        return Ok(());
    }
    if meta.is_symlink() {
        let target = fs::read_link(dir.join(name)).map_or_else(|_| "somewhere".into(), |to| to.display().to_string());
        let line = format!(
            "{name} is a symbolic link to {target}, and the server uses only what lies in the directory itself; put a {} in its \
             place, or move it away. Nothing was changed.",
            wanted.name()
        );
        return Err(Refused::for_all(Finding::Link, line));
    }
    let line = format!("{name} is a {}, not a {}; move it away. Nothing was changed.", kind(meta), wanted.name());
    Err(Refused::for_all(Finding::NotAFile, line))
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "regular file",
        () if kind.is_fifo() => "FIFO",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() || kind.is_block_device() => "device",
        () => "special file",
    }
}

/// Opens a regular file, and nothing else. With `create` in the options it may be missing.
///
/// # Errors
/// If it is missing or odd, or cannot be opened.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let regular = |meta: &Metadata| {
        let odd = || io::Error::other(format!("it is a {}, not a regular file", kind(meta)));
        if meta.is_file() { Ok(()) } else { Err(odd()) }
    };
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => return Err(io::Error::other("it is a symbolic link")),
        // Opening a device may already do something.
        Ok(meta) => regular(&meta)?,
        // The options decide.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // It may be another file by now. A FIFO must not make this thread wait.
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file to read it.
///
/// # Errors
/// If it is missing or odd, or cannot be read.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Reads a file of at most `most` bytes; `None` if it is longer. Reads no more than that and one byte.
///
/// # Errors
/// If the file cannot be read.
pub fn read_short(mut file: &File, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; most + 1];
    let mut read = 0;
    while read < bytes.len() {
        match file.read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(read);
    Ok((read <= most).then_some(bytes))
}

/// Copies a regular file, durably, to a name that nothing has.
///
/// # Errors
/// If the file cannot be read, the name is taken, or the copy cannot be written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open_to_read(from)?;
    // No link is followed: `create_new` takes no name that anything has.
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()
}

/// Makes the error for a data directory that cannot be used because of its surroundings: with the remedy.
pub fn cannot(what: &str, dir: &Path, e: &io::Error) -> StartError {
    let remedy = match e.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "give it to the user that runs the server (chown -R {} there), or choose another with -d",
            rustix::process::geteuid().as_raw()
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount its file system for writing (ReadWritePaths= of systemd), or choose another with -d".into()
        }
        _ => "choose another with -d".into(),
    };
    StartError::new(format!("cannot {what} the data directory {}: {e}; {remedy}", dir.display()))
}

/// Makes the error for a data directory whose contents are refused.
pub fn refused(dir: &Path, refused: &Refused) -> StartError {
    let line = format!("the data in {} cannot be used: {refused}", dir.display());
    StartError::with_status(line, refused.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// What lies in the place of a file is refused unopened: a link would lead to another's data, a FIFO would hang the start.
    #[test]
    fn what_is_no_regular_file_is_opened() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        let elsewhere = home.path().join("elsewhere");
        fs::create_dir(&dir).unwrap();
        fs::write(&elsewhere, "precious").unwrap();
        fs::write(dir.join("file"), "12").unwrap();
        fs::hard_link(&elsewhere, dir.join("hard")).unwrap();
        symlink(&elsewhere, dir.join("link")).unwrap();
        symlink("missing", dir.join("dangling")).unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        let _socket = UnixListener::bind(dir.join("socket")).unwrap();
        let owner = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, owner, 0).unwrap();
        for (name, found) in [
            ("link", Some((Finding::Link, "symbolic link to"))),
            ("dangling", Some((Finding::Link, "symbolic link to missing"))),
            ("directory", Some((Finding::NotAFile, "is a directory"))),
            ("socket", Some((Finding::NotAFile, "is a socket"))),
            ("fifo", Some((Finding::NotAFile, "is a FIFO"))),
            ("file", None),
            ("hard", None),
        ] {
            let meta = look(&dir, name).unwrap().unwrap();
            let refused = check(&dir, name, &meta, Wanted::File).err();
            assert_eq!(refused.as_ref().map(|refused| refused.found), found.map(|(finding, _)| finding), "{name}");
            if let (Some(refused), Some((_, words))) = (refused, found) {
                for words in [name, words, "move it away", "Nothing was changed"] {
                    assert!(refused.line.contains(words), "{words:?} is not in: {refused}");
                }
            }
            for mut options in [File::options().read(true).clone(), File::options().write(true).create(true).clone()] {
                assert_eq!(open(&dir.join(name), &mut options).is_ok(), found.is_none(), "{name}");
            }
            assert_eq!(copy(&dir.join(name), &home.path().join(name)).is_ok(), found.is_none(), "{name}");
        }
        assert!(look(&dir, "nothing").unwrap().is_none());
        assert!(copy(&dir.join("file"), &dir.join("dangling")).is_err(), "the copy would be made elsewhere");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
        assert!(!dir.join("missing").exists());
        // A directory that leads elsewhere is no place for what is set aside.
        symlink(home.path(), dir.join("damaged")).unwrap();
        let meta = look(&dir, "damaged").unwrap().unwrap();
        assert_eq!(check(&dir, "damaged", &meta, Wanted::Directory).unwrap_err().found, Finding::Link);
    }

    /// A file may have any length: the server reads only what can be valid.
    #[test]
    fn a_long_file_is_read_whole() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"123").unwrap();
        for (most, wanted) in [(3, Some(b"123".to_vec())), (2, None)] {
            io::Seek::rewind(&mut file).unwrap();
            assert_eq!(read_short(&file, most).unwrap(), wanted);
        }
        file.set_len(1 << 40).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(read_short(&file, 32).unwrap(), None);
        assert_eq!(io::Seek::stream_position(&mut file).unwrap(), 33);
    }
}
