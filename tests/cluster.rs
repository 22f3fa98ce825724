//! A cluster while nothing breaks: starting in any order, growing and shrinking under load, standbys, restarts, moving, and
//! requests that mean the same on every node. What the writers were told is compared with what all nodes remember.

#![cfg(feature = "server")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::cluster::*;
use common::eventually;
use common::history::{Call, Event, Op, Outcome, check, judge, read, slowest, untroubled};
use common::process::Setup;
use common::wire::*;
use doozer::wire::Verb;

/// Asserts that a server refused to start with status 1, in one line that holds all of `words`.
#[track_caller]
fn one_line(refused: &common::process::Exited, words: &[&str]) {
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    for word in words {
        assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
    }
}

/// The value of a file, as a node has it now.
#[track_caller]
fn value(c: &mut Client, path: &str) -> String {
    String::from_utf8(c.call(&get(path)).value.expect("a value, if only an empty one")).unwrap()
}

// ---- the check itself ----

/// Each of these lies, told to the check, has to be seen by it: else it would see nothing in a broken cluster either.
#[test]
fn the_check_of_the_histories_overlooks_a_lie() {
    type Lie = (&'static str, &'static str, fn(&mut Vec<Call>, &mut Vec<Event>) -> Option<()>);
    fn acknowledged(calls: &mut [Call], is: fn(&Op) -> bool) -> Option<&mut Call> {
        // One that others precede.
        calls.iter_mut().rev().find(|call| is(&call.op) && matches!(call.outcome, Outcome::Done { .. }))
    }
    fn set_by(calls: &mut [Call]) -> Option<&mut Call> {
        acknowledged(calls, |op| matches!(op, Op::Set { .. }))
    }
    fn place(call: &Call) -> Option<usize> {
        match call.outcome {
            Outcome::Done { rev, .. } => usize::try_from(rev? - 1).ok(),
            _ => None,
        }
    }
    let lies: &[Lie] = &[
        ("a lost write", "acknowledged and not there", |calls, events| {
            let at = place(set_by(calls)?)?;
            events[at] = Event { flags: 4, path: "/elsewhere".into(), value: Vec::new() };
            Some(())
        }),
        ("a write that is done twice", "done twice", |calls, events| {
            let again = events[place(set_by(calls)?)?].clone();
            events.push(again);
            Some(())
        }),
        ("a write with another revision", "acknowledged as", |calls, _| {
            let call = set_by(calls)?;
            let Outcome::Done { rev: Some(rev), .. } = &mut call.outcome else { return None };
            *rev += 1;
            Some(())
        }),
        ("another value", "is not number", |calls, events| {
            events[place(set_by(calls)?)?].value.push(b'!');
            Some(())
        }),
        ("another path", "is not number", |calls, events| {
            events[place(set_by(calls)?)?].path.push('x');
            Some(())
        }),
        ("a write that nobody made", "nobody wrote", |_, events| {
            events.push(Event { flags: 4, path: "/h/shared/1".into(), value: b"nobody".to_vec() });
            Some(())
        }),
        ("READONLY, and done", "refused and done", |calls, _| {
            set_by(calls)?.outcome = Outcome::Readonly;
            Some(())
        }),
        ("a mismatch, and done", "refused and done", |calls, _| {
            set_by(calls)?.outcome = Outcome::Mismatch;
            Some(())
        }),
        ("a mismatch without a reason", "never later", |calls, _| {
            let call = calls.iter_mut().find(|call| call.outcome == Outcome::Mismatch)?;
            call.op = Op::Set { path: "/h/cas/never".into(), rev: 0 };
            Some(())
        }),
        ("a lost deletion", "acknowledged and not there", |calls, events| {
            let call = acknowledged(calls, |op| matches!(op, Op::Del { .. }))?;
            let Op::Del { path, .. } = &call.op else { return None };
            let at = events.iter().position(|event| event.flags == 8 && event.path == *path)?;
            events[at] = Event { flags: 0, path: "/elsewhere".into(), value: Vec::new() };
            Some(())
        }),
        ("a nop too few", "nops were acknowledged", |_, events| {
            let at = events.iter().position(|event| event.path == "/")?;
            events[at].path = "/elsewhere".into();
            Some(())
        }),
        ("a nop too many", "nops were acknowledged", |_, events| {
            events.push(Event { flags: 0, path: "/".into(), value: Vec::new() });
            Some(())
        }),
        ("two writes of a connection in the other order", "sent before", |calls, events| {
            let call = set_by(calls)?.clone();
            let is = |c: &&mut Call| c.writer == call.writer && matches!(c.op, Op::Set { rev: -1, .. });
            let mut of_one = calls.iter_mut().filter(is).filter(|c| place(c).is_some());
            let (a, b) = (of_one.next()?, of_one.next()?);
            events.swap(place(a)?, place(b)?);
            std::mem::swap(&mut a.outcome, &mut b.outcome);
            Some(())
        }),
        ("a compare-and-set that found something else", "although the file was of", |calls, _| {
            let is = |op: &Op| matches!(op, Op::Set { path, rev } if path.starts_with("/h/cas/") && *rev > 0);
            let Op::Set { rev, .. } = &mut acknowledged(calls, is)?.op else { return None };
            *rev = 0;
            Some(())
        }),
        ("a stale SYNC", "was told before", |calls, _| {
            let call = acknowledged(calls, |op| *op == Op::Sync)?;
            let Outcome::Done { rev: Some(rev), .. } = &mut call.outcome else { return None };
            *rev = 1;
            Some(())
        }),
        ("a read of what was never there", "never written", |calls, _| {
            let call = acknowledged(calls, |op| matches!(op, Op::Get { .. }))?;
            let Outcome::Done { rev: Some(rev), .. } = &mut call.outcome else { return None };
            *rev += 1;
            Some(())
        }),
        ("a read of the distant past", "told of", |calls, events| {
            let at = events.iter().position(|event| event.path == "/h/shared/1")?;
            let call = acknowledged(calls, |op| *op == Op::Get { path: "/h/shared/1".into() })?;
            let rev = i64::try_from(at).ok()? + 1;
            call.outcome = Outcome::Done { rev: Some(rev), value: Some(events[at].value.clone()) };
            Some(())
        }),
        ("a refusal", "refused with", |calls, _| {
            set_by(calls)?.outcome = Outcome::Refused("OTHER \"no\"".into());
            Some(())
        }),
    ];
    let _turn = together();
    let cluster = Cluster::new(1).up(1);
    let load = cluster.load(&[0], 4, 2_000);
    load.gets_on(&[0], 3_000);
    let calls = load.stop();
    let checked = check(&calls, &cluster);
    assert!(checked.acknowledged > 3_000 && checked.refused > 100, "{checked:?}");
    let events = read(&cluster, 0);
    for (what, complaint, lie) in lies {
        let (mut calls, mut events) = (calls.clone(), events.clone());
        lie(&mut calls, &mut events).unwrap_or_else(|| panic!("no occasion to tell of {what}"));
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&calls, events)));
        let Err(panic) = judged else { panic!("the check does not see {what}") };
        let said = panic.downcast_ref::<String>().expect("a message");
        assert!(said.contains(complaint), "of {what} it says: {said}");
    }
    // A lost connection to a node that was up, and one to a node that was down.
    untroubled(&calls, &[]);
    let mut lost = calls;
    lost[0].outcome = Outcome::Lost;
    assert!(catch_unwind(|| untroubled(&lost, &[])).is_err(), "a lost connection goes unseen");
    let down = Downtime { node: 0, from: lost[0].sent, until: None };
    untroubled(&lost, &[down]);
    assert!(catch_unwind(|| untroubled(&lost, &[Downtime { node: 1, ..down }])).is_err(), "another node was down");
}
