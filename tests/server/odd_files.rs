//! Names of the data directory under which something else lies than the server's own file: a link, a FIFO, a device, a file of
//! somebody else, a file of any length. The server names it, says what to do, and touches nothing: neither the directory, nor what a
//! link leads to.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::common::process::{Exited, Setup, text};
use crate::common::wire::*;
use rustix::fs::{CWD, FileType, Mode};

const BLOCK: usize = 4096;
const FIRST: &str = "0000000000000001.log";
const SECOND: &str = "0000000000000002.log";
const SNAPSHOT: &str = "0000000000000005.snap";

/// The directory of a single node that has written `/x`, and stopped.
fn written() -> Setup {
    let setup = Setup::new();
    let server = setup.start();
    server.connect().put("/x", b"kept");
    setup.is_settled();
    server.kill();
    setup
}

/// What lies in a directory: each name with its kind, length, times and, if it is a short file, contents. Opens nothing odd.
fn contents(dir: &Path) -> Vec<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.push(dir.to_owned());
    names.sort();
    let look = |path: PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        let short = meta.is_file() && meta.len() <= 1 << 20;
        let bytes = if short { fs::read(&path).unwrap() } else { Vec::new() };
        let (kind, length) = (meta.file_type(), meta.len());
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        format!("{} {kind:?} {length} {times:?} {}", path.display(), bytes.escape_ascii())
    };
    names.into_iter().map(look).collect()
}

/// Asserts that a server refuses to start on a directory, in one line with these words, and changes nothing.
#[track_caller]
fn refused(setup: &Setup, what: &str, status: i32, words: &[&str]) {
    let home = setup.dir.parent().unwrap();
    let look = || [contents(&setup.dir), contents(home)];
    for flags in [&[][..], &["--salvage"], &["-a", "127.0.0.1:9"]] {
        let before = look();
        let Exited { status: ended, stderr, .. } = setup.clone().flags(flags).refused();
        assert_eq!(ended, Some(status), "{what}, {flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{what}, {flags:?}: {stderr}");
        for word in words.iter().chain(&[text(&setup.dir)]) {
            assert!(stderr.contains(word), "{what}, {flags:?}: {word:?} is not in: {stderr}");
        }
        assert_eq!(look(), before, "{what}, {flags:?}: the refusal has changed something");
    }
}

/// What is put in the place of a file.
const ODD: [&str; 6] = ["link", "link that leads nowhere", "directory", "FIFO", "socket", "device"];

/// Puts something odd under a name. `false` if this machine does not let us.
fn put(odd: &str, path: &Path, elsewhere: &Path) -> bool {
    let mode = Mode::RUSR | Mode::WUSR;
    match odd {
        "link" => symlink(elsewhere, path).unwrap(),
        "link that leads nowhere" => symlink(elsewhere.with_extension("missing"), path).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "FIFO" => rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap(),
        // The name of a socket is short, and that of the directory need not be.
        "socket" => {
            let made = tempfile::tempdir().unwrap();
            drop(UnixListener::bind(made.path().join("socket")).unwrap());
            return fs::rename(made.path().join("socket"), path).is_ok();
        }
        // /dev/zero: reading it never ends.
        _ => return rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 5)).is_ok(),
    }
    true
}

/// A process that may write into the directory must not make the server read, empty, overwrite or move what lies elsewhere, nor hang it.
#[test]
fn something_odd_in_the_place_of_a_file_is_opened() {
    let setup = written();
    let home = setup.dir.parent().unwrap();
    for name in
        ["lock", "node", FIRST, SECOND, SNAPSHOT, "node.tmp", "probe.tmp", "0000000000000003.log.tmp", "damaged"]
    {
        let (path, kept, elsewhere) = (setup.dir.join(name), home.join("kept"), home.join("elsewhere"));
        let was_there = fs::rename(&path, &kept).is_ok();
        for odd in ODD {
            // A link leads to the very file that was here, or to one that is precious.
            if was_there {
                fs::copy(&kept, &elsewhere).unwrap();
            } else {
                fs::write(&elsewhere, "precious").unwrap();
            }
            if (name, odd) == ("damaged", "directory") || !put(odd, &path, &elsewhere) {
                continue;
            }
            let kind = if odd.starts_with("link") { "symbolic link to" } else { odd };
            refused(&setup, &format!("{name} is a {odd}"), 1, &[name, kind, "move it away", "Nothing was changed"]);
            let meta = path.symlink_metadata().unwrap();
            assert_eq!(meta.file_type().is_fifo(), odd == "FIFO");
            if odd == "directory" {
                fs::remove_dir(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            fs::remove_file(&elsewhere).unwrap();
        }
        if was_there {
            fs::rename(&kept, &path).unwrap();
        }
    }
    assert_eq!(setup.start().connect().call(&get("/x")).value, Some(b"kept".to_vec()));
}

/// The lock is emptied and written over: that must not happen to a file that only has its name, a hard link among them, whether
/// a server runs or not.
#[test]
fn a_file_with_the_name_of_the_lock_is_overwritten() {
    let setup = written();
    let home = setup.dir.parent().unwrap();
    let (lock, precious) = (setup.dir.join("lock"), home.join("precious"));
    for bytes in [&b"root:x:0:0:root:/root:/bin/sh\n"[..], b"12 34\n", &[b'1'; 33], &[0; 33]] {
        fs::write(&precious, bytes).unwrap();
        fs::remove_file(&lock).unwrap();
        fs::hard_link(&precious, &lock).unwrap();
        refused(&setup, "a strange lock", 1, &["lock", "id of a process", "move it away", "Nothing was changed"]);
        assert_eq!(fs::read(&precious).unwrap(), bytes);
    }
    // A power cut may leave a lock without its contents.
    for bytes in [&b""[..], &[0; 6], b"1"] {
        fs::remove_file(&lock).unwrap();
        fs::write(&lock, bytes).unwrap();
        let server = setup.start();
        assert_eq!(fs::read_to_string(&lock).unwrap().trim(), server.pid().to_string());
    }
}

/// Operators put the directory on another disk with a link: only what lies in it has to be there itself. A link that leads
/// nowhere is a disk that is not mounted, and is named.
#[test]
fn a_data_directory_that_is_a_link_is_refused() {
    let setup = written();
    let home = setup.dir.parent().unwrap();
    let link = home.join("link");
    symlink(&setup.dir, &link).unwrap();
    assert_eq!(Setup::at(&link).start().connect().call(&get("/x")).value, Some(b"kept".to_vec()));
    // So is a file system with a hard link: a file is as good under any name.
    fs::hard_link(setup.dir.join(FIRST), home.join("hard")).unwrap();
    assert_eq!(Setup::at(&link).start().connect().call(&get("/x")).value, Some(b"kept".to_vec()));
    let nowhere = home.join("nowhere");
    symlink(home.join("missing"), &nowhere).unwrap();
    let Exited { status, stderr, .. } = Setup::at(&nowhere).refused();
    assert_eq!((status, stderr.lines().count()), (Some(1), 1), "{stderr}");
    for word in [text(&nowhere), "symbolic link", "leads nowhere", "-d"] {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
    assert!(!home.join("missing").exists());
}

/// A sparse file of a TiB costs its maker nothing, and would take an hour to read. The server reads only what can be valid.
#[test]
fn a_huge_file_is_read_to_its_end() {
    const HUGE: u64 = 1 << 40;
    let setup = written();
    let stretch = |name: &str| {
        let file = File::options().write(true).create(true).truncate(false).open(setup.dir.join(name)).unwrap();
        file.set_len(HUGE).map(|()| file)
    };
    if stretch("huge").is_err() {
        return eprintln!("skipped: this file system has no files of a TiB");
    }
    let (first, second, node) = (setup.read(FIRST), setup.read(SECOND), setup.read("node"));
    stretch("node").unwrap();
    // With -a, a damaged identity makes it a new node of another cluster: that is not what is tried here.
    let Exited { status, stderr, .. } = setup.clone().flags(["--salvage"]).refused();
    assert_eq!(status, Some(65), "{stderr}");
    assert!(stderr.contains("file node, byte 0"), "{stderr}");
    setup.write("node", &node);
    stretch("lock").unwrap();
    refused(&setup, "a huge lock", 1, &["lock", "id of a process"]);
    fs::remove_file(setup.dir.join("lock")).unwrap();
    for (name, whole) in [(FIRST, first), (SECOND, second)] {
        // A preface that calls for all of it, with a right crc.
        let file = stretch(name).unwrap();
        let mut preface = whole[..BLOCK].to_vec();
        preface[24..32].copy_from_slice(&HUGE.to_le_bytes());
        let crc = crc32fast::hash(&preface[12..]);
        preface[8..12].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&preface, 0).unwrap();
        let Exited { status, stderr, .. } = setup.refused();
        assert_eq!((status, stderr.lines().count()), (Some(65), 1), "{stderr}");
        assert!(stderr.contains(&format!("file {name}, byte 0")), "{stderr}");
        setup.write(name, &whole);
    }
    // Of a damaged snapshot nothing is read behind the damage; the log stands in for it.
    let mut snapshot = vec![0; BLOCK];
    snapshot[..8].copy_from_slice(b"doozersn");
    snapshot[12..16].copy_from_slice(&1_u32.to_le_bytes());
    snapshot[16..24].copy_from_slice(&1_u64.to_le_bytes());
    let crc = crc32fast::hash(&snapshot[12..]);
    snapshot[8..12].copy_from_slice(&crc.to_le_bytes());
    let name = "0000000000000001.snap";
    stretch(name).unwrap().write_all_at(&snapshot, 0).unwrap();
    let server = setup.start();
    assert_eq!(server.connect().call(&get("/x")).value, Some(b"kept".to_vec()));
    assert!(server.stderr().contains(name), "{}", server.stderr());
}

/// What salvage sets aside gets a name that nothing has; a link that leads nowhere has its name, too.
#[test]
fn salvage_writes_through_a_link() {
    let setup = written();
    let home = setup.dir.parent().unwrap();
    let damaged = setup.dir.join("damaged");
    fs::create_dir(&damaged).unwrap();
    let blocks = setup.read(FIRST);
    let end = blocks.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap();
    File::options()
        .write(true)
        .open(setup.dir.join(FIRST))
        .unwrap()
        .write_all_at(b"rot", (end * BLOCK + 9) as u64)
        .unwrap();
    for epoch in 0..9 {
        for name in [FIRST, SECOND] {
            symlink(home.join(format!("made{epoch}{name}")), damaged.join(format!("{epoch}-{name}"))).unwrap();
        }
    }
    let server = setup.clone().flags(["--salvage"]).start();
    assert!(server.connect().put("/y", b"") > 0);
    let made: Vec<_> = contents(home).into_iter().filter(|line| line.contains("/made")).collect();
    assert!(made.is_empty(), "{made:?}");
    let kept = fs::read_dir(&damaged).unwrap().filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(kept.count(), 2, "the copy of the damaged segment, and the one behind it");
}
