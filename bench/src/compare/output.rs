//! The files that a comparison goes to.
//!
//! They are tried before anything is measured, and written when a definition is done: what was measured in an hour must not be
//! lost because a path was wrong, or because of the definition behind it. A file is replaced as a whole, so that what is
//! there, of this run or of one before, stays until something better is; what is no file, such as a pipe, takes what it is
//! given once, at the end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure};

/// One of them.
#[derive(Debug)]
pub struct Output {
    /// As it was given.
    name: PathBuf,
    to: To,
    /// Device and number.
    identity: (u64, u64),
}

#[derive(Debug)]
enum To {
    /// A file at this path, or none yet.
    File(PathBuf),
    /// A pipe or a device.
    Stream(File),
}

/// When something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// There may be more to come.
    Meanwhile,
    /// There is not.
    AtTheEnd,
}

impl Output {
    /// Something that can be written to, at this path.
    ///
    /// # Errors
    /// It cannot.
    pub fn open(name: &Path) -> Result<Output, Failure> {
        let failed = || format!("cannot write {}", name.display());
        let new = !name.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(name).context(failed())?;
        let meta = file.metadata().context(failed())?;
        let identity = (meta.dev(), meta.ino());
        let name = name.to_path_buf();
        if !meta.is_file() {
            return Ok(Output { name, to: To::Stream(file), identity });
        }
        // Where a link leads to, so that the link stays.
        let path = name.canonicalize().context(failed())?;
        let draft = draft(&path);
        let tried = File::create(&draft).and_then(|_| std::fs::remove_file(&draft));
        if new {
            std::fs::remove_file(&path).context(failed())?;
        }
        tried.context(format!("cannot write {}", draft.display()))?;
        Ok(Output { name, to: To::File(path), identity })
    }

    /// Those of these paths that are given, which have to be different ones.
    ///
    /// # Errors
    /// One cannot be written, or both are the same.
    pub fn open_both(names: [Option<&Path>; 2]) -> Result<[Option<Output>; 2], Failure> {
        let [first, second] = names;
        if let (Some(first), Some(second)) = (first, second)
            && first == second
        {
            return Err(Failure::new(format!("{}: one file for two things", first.display())));
        }
        let outputs = [first.map(Output::open).transpose()?, second.map(Output::open).transpose()?];
        match &outputs {
            [Some(first), Some(second)] if first.is(second) => {
                let (first, second) = (first.name.display(), second.name.display());
                Err(Failure::new(format!("{first} and {second} are the same file")))
            }
            _ => Ok(outputs),
        }
    }

    /// Whether writing one would overwrite the other.
    fn is(&self, other: &Output) -> bool {
        match (&self.to, &other.to) {
            (To::File(path), To::File(other)) => path == other,
            (To::Stream(_), To::Stream(_)) => self.identity == other.identity,
            _ => false,
        }
    }

    /// Has it hold this text.
    ///
    /// # Errors
    /// It cannot be written; what a file held before is still there.
    pub fn write(&mut self, when: When, text: &str) -> Result<(), Failure> {
        let written = match &mut self.to {
            To::Stream(_) if when == When::Meanwhile => Ok(()),
            To::Stream(file) => file.write_all(text.as_bytes()),
            To::File(path) => {
                let draft = draft(path);
                let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path));
                if written.is_err() {
                    // The error that counts is the first one.
                    let _removed = std::fs::remove_file(&draft);
                }
                written
            }
        };
        written.context(format!("cannot write {}", self.name.display()))
    }
}

/// Where a file is written before it takes its place.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new-{}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    /// After an hour of measuring it is too late to say so.
    #[test]
    fn what_cannot_be_written_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for wrong in ["", "not/there"] {
            let e = Output::open(&dir.path().join(wrong)).unwrap_err().to_string();
            assert!(e.starts_with("cannot write "), "{e}");
        }
        assert!(names(dir.path()).is_empty());
    }

    /// A run that fails must not cost the record of the one before.
    #[test]
    fn what_was_there_stays_until_there_is_something_new() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("record"), dir.path().join("link"));
        std::fs::write(&path, "a longer one of yesterday").unwrap();
        std::os::unix::fs::symlink("record", &link).unwrap();
        let mut output = Output::open(&link).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a longer one of yesterday");
        for (when, text) in [(When::Meanwhile, "one"), (When::AtTheEnd, "two of it")] {
            output.write(when, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(dir.path()), ["link", "record"]);
        assert!(link.is_symlink());
        drop(Output::open(&dir.path().join("new")).unwrap());
        assert_eq!(names(dir.path()), ["link", "record"], "nothing was written");
    }

    /// The page would take the place of the record.
    #[test]
    fn two_things_do_not_go_to_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("b"));
        let both = |first: &Path, second: &Path| Output::open_both([Some(first), Some(second)]);
        std::os::unix::fs::symlink("a", &link).unwrap();
        assert!(both(&path, &path).is_err() && both(&path, &dir.path().join("../").join(&path)).is_err());
        std::fs::write(&path, "").unwrap();
        assert!(both(&path, &link).is_err() && both(&link, &path).is_err());
        assert!(both(&path, &dir.path().join("c")).is_ok());
    }

    /// A pipe cannot take back what it was given for the first definition.
    #[test]
    fn a_stream_is_written_once() {
        let mut output = Output::open(Path::new("/dev/full")).unwrap();
        output.write(When::Meanwhile, "one").unwrap();
        let e = output.write(When::AtTheEnd, "two").unwrap_err().to_string();
        assert!(e.contains("cannot write /dev/full"), "{e}");
    }
}
