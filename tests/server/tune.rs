//! `doozerd tune` on the machine that runs the tests, whatever that is like. Made-up machines are in src/tune/tests.rs.

use std::fs;

use crate::common::process::{Setup, doozerd, temp_dir, text};
use serde_json::Value;

/// The findings, with the exit status.
#[track_caller]
fn tuned(words: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (status, out, err) = doozerd(&[&["tune", "--json"], words].concat());
    assert_eq!(err, "");
    let all: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    (status, all.as_array().unwrap().clone())
}

#[track_caller]
fn of<'a>(all: &'a [Value], knob: &str) -> &'a Value {
    all.iter().find(|f| f["knob"] == knob).unwrap_or_else(|| panic!("nothing is said of {knob}"))
}

/// A script that goes by the status has to learn the same as one that reads the findings, and a person the same as both.
#[test]
fn status_json_and_text_say_different_things() {
    let dir = temp_dir();
    let (status, all) = tuned(&["-d", text(dir.path())]);
    let verdicts: Vec<&str> = all.iter().map(|f| f["verdict"].as_str().unwrap()).collect();
    assert!(verdicts.iter().all(|v| ["good", "bad", "advice", "unknown"].contains(v)), "{verdicts:?}");
    assert_eq!(status, Some(i32::from(verdicts.contains(&"bad"))), "{all:?}");
    for f in &all {
        for key in ["knob", "found", "wanted", "why"] {
            assert!(f[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {f}");
        }
    }
    let (again, out, _) = doozerd(&["tune", "-d", text(dir.path())]);
    assert_eq!(again, status);
    for f in &all {
        let knob = f["knob"].as_str().unwrap();
        let line = out.lines().find(|line| line.split("  ").any(|cell| cell.trim() == knob));
        assert!(line.is_some(), "{knob} is not in:\n{out}");
    }
}

/// Whoever is told to change a knob has to find out why, and how to undo it.
#[test]
fn a_knob_has_no_row_in_the_guide() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/README.md")).unwrap();
    let rows = guide.lines().filter(|line| line.starts_with('|') && line.matches(" |").count() >= 4);
    let mut explained: Vec<&str> = rows.map(|row| row.split('|').nth(1).unwrap().trim()).skip(1).collect();
    let dir = temp_dir();
    let (_, all) = tuned(&["-d", text(dir.path())]);
    let mut knobs: Vec<&str> = all.iter().map(|f| f["knob"].as_str().unwrap()).collect();
    knobs.sort_unstable();
    explained.sort_unstable();
    assert_eq!(knobs, explained);
}

/// These tests need io_uring themselves, so here it is to be found.
#[test]
fn what_works_here_is_not_found_to_work() {
    let dir = temp_dir();
    let (_, all) = tuned(&["-d", text(dir.path())]);
    assert_ne!(of(&all, "io_uring")["verdict"], "bad");
    assert_ne!(of(&all, "kernel")["verdict"], "bad");
}

/// It promises to change nothing, also in the data directory, also beside a server that runs there.
#[test]
fn the_data_directory_is_touched() {
    let setup = Setup::new();
    let server = setup.start();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&setup.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    setup.is_settled();
    let before = names();
    let (_, all) = tuned(&["-d", text(&setup.dir)]);
    assert_eq!(names(), before);
    let files = of(&all, "open files")["found"].as_str().unwrap().to_string();
    assert!(files.contains(&format!("process {}", server.pid())), "{files}");
    let mut c = server.connect();
    c.put("/x", b"");
    assert_eq!(server.stop().status, Some(0));
    let empty = temp_dir();
    tuned(&["-d", text(empty.path())]);
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// What is mistyped must not be examined as if it were something else, nor end with the status of a bad machine.
#[test]
fn wrong_flags_are_examined() {
    let dir = temp_dir();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("below");
    for (words, expected) in [
        (["-d", text(&file)].as_slice(), "not a directory"),
        (&["--dir", text(&below)], "ot a directory"),
        (&["-core", "100000"], "choose one of them"),
        (&["-core", "first"], "first"),
        (&["-l", "here"], "HOST:PORT"),
        (&["-l", "192.0.2.1:8046"], "an address of this machine"),
        (&["-salvage"], "salvage"),
        (&["now"], "now"),
    ] {
        let (status, out, err) = doozerd(&[&["tune"], words].concat());
        assert_eq!((status, out.as_str()), (Some(2), ""), "{words:?}: {err}");
        assert!(err.contains(expected), "{words:?}: {expected:?} is not in: {err}");
    }
}

/// The server makes its directory and those above it, so before its first start none of them is there: what is examined then is
/// the disk that they will be on.
#[test]
fn a_directory_that_is_not_there_yet_is_refused() {
    let dir = temp_dir();
    let missing = dir.path().join("none/of/them");
    let (status, all) = tuned(&["-d", text(&missing)]);
    let (there, same) = tuned(&["-d", text(dir.path())]);
    assert_eq!(status, there);
    assert_eq!(of(&all, "file system")["found"], of(&same, "file system")["found"]);
    assert!(!dir.path().join("none").exists());
}

/// The server's flags go on meaning what they did, and it makes itself known in the help.
#[test]
fn the_command_is_in_the_way_of_the_server() {
    let home = temp_dir();
    let setup = Setup::at(home.path().join("tune")).flags(["-c", "tune"]);
    setup.start().connect().put("/x", b"");
    let (status, out, _) = doozerd(&["-help"]);
    assert_eq!(status, Some(0));
    assert!(out.contains("doozerd tune"), "{out}");
    let (status, out, _) = doozerd(&["tune", "-help"]);
    assert_eq!(status, Some(0));
    assert!(out.contains("--core") && out.contains("Exit status"), "{out}");
}
