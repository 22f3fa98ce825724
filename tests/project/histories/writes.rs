//! The history, and SETs, which name themselves by their values.

use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET, Response};

use super::tale::{Tale, believed, del, differ, get, nop, rev, set, sync};

// ---- one history ----

/// Replicas that differ are the worst that can happen.
#[test]
fn a_revision_that_is_two_things_is_noticed() {
    differ("revision 2 is two things", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.writes(conn, "/a", -1);
        tale.checker.learn(7, 1, FLAG_SET, b"/a", &tale.history[0].2.clone());
        let second = tale.history[if lie { 0 } else { 1 }].2.clone();
        tale.checker.learn(7, 2, FLAG_SET, b"/a", &second);
    });
}

#[test]
fn a_revision_that_a_node_has_not_is_noticed() {
    differ("revision 3 of node 7 follows on revision 1", |tale, lie| {
        let conn = tale.connect();
        (0..3).for_each(|_| _ = tale.writes(conn, "/a", -1));
        for rev in 1..=3 {
            let (flags, path, value) = tale.event(rev).clone();
            if rev != 2 || !lie {
                tale.checker.learn(7, rev, flags, path.as_bytes(), &value);
            }
        }
    });
}

/// A node that was behind goes on from a snapshot, and its history begins where that does.
#[test]
fn a_history_may_begin_later_if_that_is_said() {
    differ("revision 3 of node 7 follows on revision 1", |tale, lie| {
        let conn = tale.connect();
        (0..3).for_each(|_| _ = tale.writes(conn, "/a", -1));
        for rev in [1, 3] {
            if rev == 3 && !lie {
                tale.checker.learn_from(7, rev);
            }
            let (flags, path, value) = tale.event(rev).clone();
            tale.checker.learn(7, rev, flags, path.as_bytes(), &value);
        }
    });
}

#[test]
fn a_node_that_lacks_the_end_of_the_history_is_noticed() {
    let mut tale = Tale::new();
    let conn = tale.connect();
    tale.writes(conn, "/a", -1);
    tale.writes(conn, "/a", -1);
    let (flags, path, value) = tale.event(1).clone();
    tale.checker.learn(7, 1, flags, path.as_bytes(), &value);
    let violation = tale.checker.verify(2, &[7]).unwrap_err();
    assert!(violation.text.contains("the history of node 7 ends with revision 1, not 2"), "{violation}");
}

/// Nobody has told what the second revision is, and everything behind it would go unchecked.
#[test]
fn a_revision_that_nobody_knows_is_noticed() {
    let mut tale = Tale::new();
    let conn = tale.connect();
    tale.writes(conn, "/a", -1);
    let call = tale.call(conn, &nop());
    tale.done(call);
    let violation = tale.checker.verify(2, &[]).unwrap_err();
    assert!(violation.text.contains("nobody knows revision 2"), "{violation}");
}

#[test]
fn what_was_told_and_is_behind_the_end_is_noticed() {
    differ("was told of revision 2, and the history ends with 1", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let call = tale.call(conn, &rev());
        tale.tells_rev(call, if lie { 2 } else { 1 });
    });
}

/// The servers write below `/ctl`, and nowhere else.
#[test]
fn what_nobody_asked_for_is_noticed() {
    for path in ["/ctl/node/ABC/addr", "/ctl"] {
        differ("nobody asked for revision 2", |tale, lie| {
            let conn = tale.connect();
            tale.writes(conn, "/a", -1);
            tale.happens(FLAG_SET, if lie { "/b" } else { "/ctl/cal/1" }, b"ABC");
            tale.happens(FLAG_DEL, if lie { path } else { "/ctl/cal/1" }, b"");
        });
    }
    differ("nobody asked for revision 1", |tale, lie| {
        tale.happens(if lie { 0 } else { FLAG_SET }, if lie { "/" } else { "/ctl/name" }, b"");
    });
}

#[test]
fn a_tree_that_cannot_be_is_noticed() {
    differ("it writes a file below a file", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.writes(conn, if lie { "/a/b" } else { "/b/a" }, -1);
    });
    differ("it writes a directory", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a/b/c", -1);
        tale.writes(conn, if lie { "/a" } else { "/b" }, -1);
    });
    differ("it deletes a directory", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a/b/c", -1);
        tale.deletes(conn, if lie { "/a/b" } else { "/a/d" }, -1);
    });
    // A directory goes with its last file, and a file may be in its place.
    believed(|tale| {
        let conn = tale.connect();
        tale.writes(conn, "/a/b/c", -1);
        tale.deletes(conn, "/a/b/c", -1);
        tale.writes(conn, "/a", -1);
        tale.deletes(conn, "/a/b/c", 0);
    });
}

// ---- acknowledged ----

#[test]
fn an_acknowledged_write_that_is_lost_is_noticed() {
    differ("the history ends with 1", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.writes(conn, "/a", -1);
        if lie {
            tale.history.pop();
        }
    });
    differ("is two things", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let other = tale.connect();
        let (call, value) = tale.set(other, "/b", -1);
        tale.writes(conn, "/c", -1);
        tale.lost(call);
        if lie {
            tale.history[1] = (FLAG_SET, "/b".into(), value);
        }
    });
}

#[test]
fn one_revision_for_two_writes_is_noticed() {
    differ("which is something else", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let (first, value) = tale.set(one, "/a", -1);
        let (second, later) = tale.set(other, "/a", -1);
        tale.happens(FLAG_SET, "/a", &value);
        tale.happens(FLAG_SET, "/a", &later);
        tale.tells_rev(first, 1);
        tale.tells_rev(second, if lie { 1 } else { 2 });
    });
}

#[test]
fn a_write_that_is_applied_twice_is_noticed() {
    differ("applied twice, as revisions 1 and 2", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        if lie {
            tale.history.push(tale.history[0].clone());
        }
    });
}

#[test]
fn another_revision_than_was_told_is_noticed() {
    differ("acknowledged as revision 3, and applied as 2", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let (call, value) = tale.set(conn, "/b", -1);
        tale.happens(FLAG_SET, "/b", &value);
        tale.checker.learn(0, 1, FLAG_SET, b"/a", &tale.history[0].2.clone());
        tale.checker.learn(0, 2, FLAG_SET, b"/b", &value);
        tale.tells_rev(call, if lie { 3 } else { 2 });
    });
}

#[test]
fn another_value_or_path_than_was_asked_for_is_noticed() {
    differ("is not what was asked for", |tale, lie| {
        let conn = tale.connect();
        let (call, mut value) = tale.set(conn, "/a", -1);
        if lie {
            *value.last_mut().unwrap() ^= 1;
        }
        tale.happens(FLAG_SET, "/a", &value);
        tale.lost(call);
    });
    differ("is not what was asked for", |tale, lie| {
        let conn = tale.connect();
        let (call, value) = tale.set(conn, "/a", -1);
        tale.happens(FLAG_SET, if lie { "/b" } else { "/a" }, &value);
        tale.lost(call);
    });
}

// ---- refused, and unknown ----

/// READONLY says that the write was certainly not applied: a client sends it again elsewhere.
#[test]
fn a_refused_write_that_was_applied_is_noticed() {
    for why in ["READONLY", "disk full: there is no room"] {
        differ("refused, and applied as revision 1", |tale, lie| {
            let conn = tale.connect();
            let (call, value) = tale.set(conn, "/a", -1);
            match why {
                "READONLY" => tale.fails(call, ErrCode::Readonly),
                _ => tale.fails_other(call, why),
            }
            if lie {
                tale.happens(FLAG_SET, "/a", &value);
            }
        });
    }
    // It may be seen before the refusal comes.
    differ("refused, and applied as revision 1", |tale, lie| {
        let conn = tale.connect();
        let (call, value) = tale.set(conn, "/a", -1);
        tale.happens(FLAG_SET, "/a", &value);
        tale.checker.learn(0, 1, FLAG_SET, b"/a", &value);
        if lie { tale.fails(call, ErrCode::Readonly) } else { tale.lost(call) }
    });
}

#[test]
fn an_unknown_outcome_is_applied_once_or_not_at_all() {
    for times in 0..2 {
        for is_lost in [true, false] {
            differ("applied twice", |tale, lie| {
                let conn = tale.connect();
                let (call, value) = tale.set(conn, "/a", -1);
                if is_lost {
                    tale.lost(call)
                } else {
                    tale.fails_other(call, "outcome unknown")
                }
                let times = if lie { 2 } else { times };
                (0..times).for_each(|_| _ = tale.happens(FLAG_SET, "/a", &value));
            });
        }
    }
}

#[test]
fn an_answer_that_no_write_can_have_is_noticed() {
    for code in [ErrCode::Range, ErrCode::BadPath, ErrCode::MissingArg, ErrCode::TooLate, ErrCode::Other] {
        differ("not an answer to this", |tale, lie| {
            let conn = tale.connect();
            let (call, _) = tale.set(conn, "/a", -1);
            tale.fails(call, if lie { code } else { ErrCode::Readonly });
        });
    }
    differ("not the fields of an answer to this", |tale, lie| {
        let conn = tale.connect();
        let (call, value) = tale.set(conn, "/a", -1);
        let rev = tale.happens(FLAG_SET, "/a", &value);
        if lie { tale.done(call) } else { tale.tells_rev(call, rev) }
    });
    differ("not the fields of an answer to this", |tale, lie| {
        let conn = tale.connect();
        let call = tale.call(conn, &del("/a", -1));
        let rev = tale.happens(FLAG_DEL, "/a", b"");
        tale.says(call, &Response { rev: lie.then_some(rev), ..Response::default() });
    });
    // What a mismatch cannot be: nothing was compared.
    differ("not an answer to this", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let (call, _) = tale.set(conn, "/a", if lie { -1 } else { 0 });
        tale.fails(call, ErrCode::RevMismatch);
    });
    // The rules of the membership hold below /ctl only.
    differ("not an answer to this", |tale, lie| {
        let conn = tale.connect();
        let call = tale.call(conn, &set(if lie { "/a" } else { "/ctl/cal/1" }, -1, b""));
        tale.fails_other(call, "refused: this is the last member's slot");
    });
}

#[test]
fn a_faulty_write_that_is_not_refused_is_noticed() {
    let missing = doozer::wire::Request { rev: None, ..set("/a", 0, b"x") };
    let large = vec![0; (1 << 20) + 1];
    let faulty = [
        (set("/a/", -1, b"x"), ErrCode::BadPath),
        (set("a", -1, b"x"), ErrCode::BadPath),
        (missing, ErrCode::MissingArg),
        (set("/a", -1, &large), ErrCode::Other),
    ];
    for (request, code) in faulty {
        differ("a faulty request is not answered as it should be", |tale, lie| {
            let conn = tale.connect();
            let call = tale.call(conn, &request);
            if lie {
                tale.tells_rev(call, 1)
            } else {
                tale.fails(call, code)
            }
            // A server that takes no writes does not look at them.
            let call = tale.call(conn, &request);
            tale.fails(call, ErrCode::Readonly);
        });
    }
}

// ---- compare-and-set ----

#[test]
fn a_write_to_a_file_that_is_newer_is_noticed() {
    differ("revision 3 was applied to what was of revision 2, not 1", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let first = tale.writes(one, "/a", 0);
        let second = tale.writes(one, "/a", first);
        tale.writes(other, "/a", if lie { first } else { second });
    });
    differ("revision 2 was applied to what was of revision 1, not 0", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", 0);
        tale.writes(conn, "/a", if lie { 0 } else { 1_000 });
    });
}

#[test]
fn a_mismatch_that_was_none_is_noticed() {
    differ("that /a is newer than revision 2", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.writes(conn, "/a", -1);
        let (call, _) = tale.set(conn, "/a", if lie { 2 } else { 1 });
        tale.fails(call, ErrCode::RevMismatch);
        tale.writes(conn, "/b", -1);
    });
    // It was one, but not at any moment of its call: before...
    differ("that /a is newer than revision 0", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        let early = (!lie).then(|| tale.set(other, "/a", 0).0);
        tale.deletes(one, "/a", -1);
        tale.writes(one, "/b", -1);
        let call = early.unwrap_or_else(|| tale.set(other, "/a", 0).0);
        tale.fails(call, ErrCode::RevMismatch);
    });
    // ... or after it.
    differ("that /a is newer than revision 0", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/b", -1);
        let (call, _) = tale.set(other, "/a", 0);
        if lie {
            tale.fails(call, ErrCode::RevMismatch);
            tale.writes(one, "/a", -1);
        } else {
            tale.writes(one, "/a", -1);
            tale.fails(call, ErrCode::RevMismatch);
        }
    });
}

/// The answer may come before that to the write which it rests on.
#[test]
fn a_mismatch_is_believed_if_the_cause_was_under_way() {
    believed(|tale| {
        let (one, other) = (tale.connect(), tale.connect());
        let (write, value) = tale.set(one, "/a", -1);
        let (call, _) = tale.set(other, "/a", 0);
        tale.fails(call, ErrCode::RevMismatch);
        let rev = tale.happens(FLAG_SET, "/a", &value);
        tale.tells_rev(write, rev);
        tale.writes(other, "/b", -1);
    });
}

/// A directory is of revision -2.
#[test]
fn a_refusal_for_what_the_tree_is_not_is_noticed() {
    differ("that /d is a directory", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, if lie { "/d" } else { "/d/a" }, -1);
        let (call, _) = tale.set(conn, "/d", -1);
        tale.fails(call, ErrCode::Isdir);
        let (call, _) = tale.set(conn, "/", -1);
        tale.fails(call, ErrCode::Isdir);
    });
    differ("not an answer to this", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/d/a", -1);
        let (call, _) = tale.set(conn, "/d", -3);
        tale.fails(call, if lie { ErrCode::Isdir } else { ErrCode::RevMismatch });
    });
    differ("that /d is newer than revision -2", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/d/a", -1);
        let (call, _) = tale.set(conn, "/d", -2);
        tale.fails(call, if lie { ErrCode::RevMismatch } else { ErrCode::Isdir });
    });
    differ("that /f/a/b is below a file", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, if lie { "/f/c" } else { "/f" }, -1);
        let (call, _) = tale.set(conn, "/f/a/b", -1);
        tale.fails(call, ErrCode::Notdir);
    });
    // That some parent is a file is looked at first.
    differ("that /f/a is newer than revision -5", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/f", -1);
        let (call, _) = tale.set(conn, "/f/a", -5);
        tale.fails(call, if lie { ErrCode::RevMismatch } else { ErrCode::Notdir });
    });
}

// ---- order ----

#[test]
fn writes_of_one_connection_in_another_order_are_noticed() {
    differ("are of one connection, in the wrong order", |tale, lie| {
        let conn = tale.connect();
        let (first, one) = tale.set(conn, "/a", -1);
        let (second, two) = tale.set(conn, "/b", -1);
        let mut both = [("/a", one), ("/b", two)];
        if lie {
            both.reverse();
        }
        both.iter().for_each(|(path, value)| _ = tale.happens(FLAG_SET, path, value));
        tale.lost(first);
        tale.lost(second);
    });
}

/// Whoever was told of something tells others, who act on it.
#[test]
fn a_write_before_what_was_known_when_it_was_called_is_noticed() {
    differ("it is revision 1, and revision 2 was there before it was called", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let (first, value) = tale.set(one, "/a", -1);
        let early = (!lie).then(|| tale.set(other, "/b", -1));
        tale.tells_rev(first, if lie { 2 } else { 1 });
        let (second, later) = early.unwrap_or_else(|| tale.set(other, "/b", -1));
        tale.lost(second);
        let both = [(FLAG_SET, "/a".to_owned(), value), (FLAG_SET, "/b".to_owned(), later)];
        tale.history.extend(both);
        if lie {
            tale.history.reverse();
        }
    });
    // By whatever they were told.
    differ("it is revision 1, and revision 1 was there before it was called", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let early = (!lie).then(|| tale.set(one, "/a", -1));
        let asked = tale.call(other, &rev());
        tale.tells_rev(asked, 1);
        let (call, value) = early.unwrap_or_else(|| tale.set(one, "/a", -1));
        tale.lost(call);
        tale.happens(FLAG_SET, "/a", &value);
    });
}

// ---- the server's revision ----

#[test]
fn a_sync_that_is_behind_is_noticed() {
    differ("SYNC says 1, and revision 2 was there before it was asked", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        let early = tale.call(other, &sync());
        tale.writes(one, "/a", -1);
        let late = tale.call(other, &sync());
        tale.tells_rev(if lie { late } else { early }, 1);
        tale.tells_rev(if lie { early } else { late }, 2);
    });
    // It cannot say so without a quorum.
    believed(|tale| {
        let conn = tale.connect();
        let call = tale.call(conn, &sync());
        tale.fails(call, ErrCode::Readonly);
    });
}

#[test]
fn a_sync_that_is_ahead_of_what_was_called_is_noticed() {
    differ("was there before it was called", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        let call = tale.call(other, &sync());
        tale.tells_rev(call, if lie { 2 } else { 1 });
        tale.writes(one, "/a", -1);
    });
}

#[test]
fn a_revision_that_goes_back_on_a_connection_is_noticed() {
    differ("the server is at revision 1, and was at 2 when it was asked", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        tale.writes(one, "/a", -1);
        let call = tale.call(if lie { one } else { other }, &rev());
        tale.tells_rev(call, 1);
    });
    // A read has told it too.
    differ("the server is at revision 1, and was at 2 when it was asked", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        tale.writes(one, "/a", -1);
        let early = tale.call(other, &rev());
        tale.sees(other, "/a", None, 2);
        let late = tale.call(other, &rev());
        tale.tells_rev(if lie { late } else { early }, 1);
    });
}

/// What is not answered is judged as if its connection were lost.
#[test]
fn what_is_open_at_the_end_may_be_there_or_not() {
    for is_there in [true, false] {
        believed(|tale| {
            let conn = tale.connect();
            let (_, value) = tale.set(conn, "/a", -1);
            tale.call(conn, &nop());
            tale.call(conn, &get("/a", Some(100)));
            if is_there {
                tale.happens(FLAG_SET, "/a", &value);
                tale.happens(0, "/", b"");
            }
        });
    }
}

/// A simulation ends as soon as something is wrong, not when it has gone on for hours behind it.
#[test]
fn a_violation_is_there_at_once_and_tells_the_story() {
    let mut tale = Tale::new();
    let conn = tale.connect();
    let (call, value) = tale.set(conn, "/a/b", 5);
    tale.fails(call, ErrCode::Readonly);
    assert!(tale.checker.violation().is_none());
    tale.checker.learn(2, 1, FLAG_SET, b"/a/b", &value);
    let told = tale.checker.violation().unwrap().to_string();
    let lines: Vec<&str> = told.lines().map(str::trim).collect();
    let asked = "client 1 at node 1, connection 0: SET /a/b \"w 1 \\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\" \
                 (20 bytes) if not newer than 5, called at 0.000020 s, refused with READONLY at 0.000030 s, found as revision 1";
    let event = "revision 1: SET /a/b \"w 1 \\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\" (20 bytes)";
    assert_eq!(lines, ["refused, and applied as revision 1", asked, event, "by node 2"]);
}
