//! What `cargo bench -p doozer-bench` says of its counts. The counting itself needs valgrind, and minutes to be built.

#![allow(clippy::disallowed_methods, reason = "a test of a file")]

#[path = "../micro/comparison.rs"]
mod comparison;
#[path = "../micro/record.rs"]
mod record;

use std::collections::BTreeMap;

use comparison::{Comparison, Count};
use record::Record;

const COMPILER: &str = "rustc 1.95.0 (59807616e 2026-04-14) x86_64-unknown-linux-gnu";

fn recorded(counts: &[(&str, f64)]) -> BTreeMap<String, f64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Of `was` instructions at the record and `is` now: whether it passes, and the table.
fn compared(was: u32, is: u32) -> (bool, String) {
    let comparison = Comparison::new(&[Count::new("store/get", is, 1)], &recorded(&[("store/get", f64::from(was))]));
    (comparison.passes(), comparison.to_string())
}

/// What the whole thing is for: a change that makes something 6 % dearer must not get by, one of 4 % may.
#[test]
fn what_became_dearer_fails() {
    for (is, passes, ratio) in
        [(1000, true, "1.000"), (1040, true, "1.040"), (1050, true, "1.050"), (1060, false, "1.060")]
    {
        let (passed, table) = compared(1000, is);
        assert_eq!(passed, passes, "{table}");
        assert!(table.contains(ratio) && table.contains("DEARER") != passes, "{table}");
    }
    // Also where it is a single instruction.
    assert!(!compared(16, 17).0);
}

/// One that is dearer must not hide among many that are not.
#[test]
fn one_that_is_dearer_fails_them_all() {
    let counted = [Count::new("a", 100, 1), Count::new("b", 106, 1), Count::new("c", 50, 1)];
    let comparison = Comparison::new(&counted, &recorded(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]));
    assert!(!comparison.passes());
    assert_eq!(comparison.to_string().matches("DEARER").count(), 1, "{comparison}");
}

/// What became cheaper is no failure; but the record would let it grow back.
#[test]
fn what_became_cheaper_is_told() {
    let (passed, table) = compared(1000, 900);
    assert!(passed && table.contains("renew the record"), "{table}");
    let (passed, table) = compared(1000, 960);
    assert!(passed && !table.contains("renew the record"), "{table}");
}

/// An operation without a record, or a record without its operation, was not compared: that must not look like success.
#[test]
fn what_was_not_compared_fails() {
    let counted = [Count::new("store/get", 1000, 1)];
    let comparison = Comparison::new(&counted, &recorded(&[]));
    assert!(!comparison.passes() && comparison.to_string().contains("NOT RECORDED"), "{comparison}");
    let comparison = Comparison::new(&counted, &recorded(&[("store/get", 1000.0), ("store/del", 10.0)]));
    assert!(!comparison.passes(), "{comparison}");
    let told = comparison.to_string();
    assert!(told.lines().any(|line| line.starts_with("store/del") && line.contains("NOT COUNTED")), "{told}");
}

/// A record that does not read back as it was written would fail the next run, or pass it.
#[test]
fn a_record_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record.toml");
    let mut record = Record::read(&file).unwrap();
    assert!(record.of(COMPILER, |_| true).is_empty(), "no file is no record");
    let counted = [Count::new("store/get", 12_345, 100), Count::new("glob/match", 700, 7)];
    record.replace(COMPILER, &counted, |_| true);
    record.write(&file).unwrap();
    let read = Record::read(&file).unwrap();
    assert_eq!(read, record);
    assert_eq!(read.of(COMPILER, |_| true), recorded(&[("glob/match", 100.0), ("store/get", 123.5)]));
    assert!(Comparison::new(&counted, &read.of(COMPILER, |_| true)).passes());
}

/// Another compiler makes other instructions: its record is another one, and stays when one is renewed.
#[test]
fn compilers_do_not_share_a_record() {
    let mut record = Record::default();
    record.replace(COMPILER, &[Count::new("store/get", 100, 1)], |_| true);
    assert!(record.of("rustc 1.96.0", |_| true).is_empty());
    record.replace("rustc 1.96.0", &[Count::new("store/get", 90, 1)], |_| true);
    assert_eq!(record.of(COMPILER, |_| true), recorded(&[("store/get", 100.0)]));
}

/// Whoever has added an operation must not be told to make a record of everything: that would take along whatever else has become
/// dearer meanwhile.
#[test]
fn what_the_record_lacks_is_said() {
    let mut record = Record::default();
    let counted = [Count::new("store/get", 100, 1), Count::new("store/new", 100, 1)];
    let lack = |record: &Record, chosen: &dyn Fn(&str) -> bool| {
        let counted: Vec<Count> = counted.iter().filter(|count| chosen(&count.name)).cloned().collect();
        let comparison = Comparison::new(&counted, &record.of(COMPILER, chosen));
        record.lack(COMPILER, &comparison.unrecorded())
    };
    record.replace("rustc 1.96.0", &counted, |_| true);
    for chosen in [&(|_: &str| true) as &dyn Fn(&str) -> bool, &|name| name == "store/new"] {
        assert!(lack(&record, chosen).unwrap().contains("nothing of this compiler"), "that of another does not count");
    }
    record.replace(COMPILER, &counted[..1], |_| true);
    for chosen in [&(|_: &str| true) as &dyn Fn(&str) -> bool, &|name| name == "store/new"] {
        let said = lack(&record, chosen).unwrap();
        assert!(said.contains("--record store/new`") && !said.contains("compiler"), "{said}");
    }
    assert_eq!(lack(&record, &|name| name == "store/get"), None);
    let gone = Comparison::new(&[], &record.of(COMPILER, |_| true));
    assert_eq!(record.lack(COMPILER, &gone.unrecorded()), None, "one that is no longer counted has a record");
}

/// Renewing some must leave the others, and drop those that are no more.
#[test]
fn some_of_a_record_are_renewed() {
    let mut record = Record::default();
    let first = [Count::new("store/get", 100, 1), Count::new("glob/match", 100, 1), Count::new("glob/old", 1, 1)];
    record.replace(COMPILER, &first, |_| true);
    record.replace(COMPILER, &[Count::new("glob/match", 90, 1)], |name| name.contains("glob"));
    assert_eq!(record.of(COMPILER, |_| true), recorded(&[("glob/match", 90.0), ("store/get", 100.0)]));
    assert_eq!(record.of(COMPILER, |name| name.contains("store")), recorded(&[("store/get", 100.0)]));
}

/// A record that was spoilt by hand is said, not taken for an empty one.
#[test]
fn a_spoilt_record_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record.toml");
    for spoilt in ["many", "nan", "inf", "-inf", "0.0", "-1.0"] {
        std::fs::write(&file, format!("[\"rustc\"]\n\"glob/match\" = 7.0\n\"store/get\" = {spoilt}\n")).unwrap();
        let said = Record::read(&file).unwrap_err();
        assert!(said.contains("record.toml") && said.contains("store/get"), "{said}");
    }
}

/// The record in the tree can be read.
#[test]
fn the_record_of_the_tree_is_one() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("record/instructions.toml");
    assert_ne!(Record::read(&file).unwrap(), Record::default(), "there is none");
}
