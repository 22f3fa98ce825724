//! GET and STAT, of the present and of the past.

use doozer::wire::{ErrCode, FLAG_SET, Request, Response, Verb};

use super::tale::{Tale, believed, differ, get, stat, wait};
use crate::checker::Checker;

/// Three revisions of a file, then it is gone; somebody else may be behind.
fn past(tale: &mut Tale) -> (crate::checker::Conn, crate::checker::Conn) {
    let (one, other) = (tale.connect(), tale.connect());
    tale.writes(one, "/a", -1);
    tale.writes(one, "/d/b", -1);
    tale.writes(one, "/a", -1);
    tale.deletes(one, "/a", -1);
    tale.writes(one, "/b", -1);
    (one, other)
}

#[test]
fn a_read_of_the_past_that_is_not_what_was_there_is_noticed() {
    for (at, right, wrong) in [(1, 1, 0), (2, 1, 3), (3, 3, 1), (4, 0, 3), (5, 0, 3), (-7, 1, 0)] {
        differ("it is not so as of revision", |tale, lie| {
            let (_, other) = past(tale);
            tale.sees(other, "/a", Some(at), if lie { wrong } else { right });
        });
    }
}

/// What is read in the future is told when it has come, and is judged when it is known.
#[test]
fn a_read_of_the_future_that_is_not_what_came_is_noticed() {
    differ("it is not so as of revision 6 that /b is of revision 5", |tale, lie| {
        let (one, other) = past(tale);
        let call = tale.call(other, &get("/b", Some(6)));
        tale.writes(one, "/b", -1);
        tale.shows(call, if lie { 5 } else { 6 });
    });
    // It came before it was there.
    differ("was there before it was called", |tale, lie| {
        let (one, other) = past(tale);
        let call = tale.call(other, &get("/b", Some(6)));
        if lie {
            tale.shows(call, 5);
        }
        tale.writes(one, "/c", -1);
        if !lie {
            tale.shows(call, 5);
        }
    });
}

#[test]
fn a_value_that_was_never_written_is_noticed() {
    differ("revision 5 is two things", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &get("/b", None));
        let value = if lie { b"nonsense".to_vec() } else { tale.event(5).2.clone() };
        tale.says(call, &Response { rev: Some(5), value: Some(&value), ..Response::default() });
    });
    differ("revision 2 is two things", |tale, lie| {
        let (_, other) = past(tale);
        if lie { tale.sees(other, "/b", None, 2) } else { tale.sees(other, "/b", None, 5) }
    });
}

/// A node may lag behind, but what it has told a connection it cannot take back.
#[test]
fn a_read_that_goes_back_on_a_connection_is_noticed() {
    // The writer itself knows that the file is gone.
    differ("that /a is of revision 3", |tale, lie| {
        let (one, other) = past(tale);
        tale.sees(if lie { one } else { other }, "/a", None, 3);
    });
    // Who has seen the third revision sees the first no more.
    differ("it was not so at any revision from 3 to 5 that /a is of revision 1", |tale, lie| {
        let (_, other) = past(tale);
        let early = tale.call(other, &get("/a", None));
        tale.sees(other, "/a", None, 3);
        let late = tale.call(other, &get("/a", None));
        tale.shows(if lie { late } else { early }, 1);
    });
    // By whatever it was told.
    for (verb, at) in [(Verb::Rev, None), (Verb::Sync, None), (Verb::Wait, Some(5)), (Verb::Get, Some(5))] {
        differ("that /a is of revision 3", |tale, lie| {
            let (_, other) = past(tale);
            if lie {
                let path = Some(if verb == Verb::Get { &b"/zzz"[..] } else { b"/**" });
                let call = tale.call(other, &Request { path, rev: at, ..Request::new(verb) });
                match verb {
                    Verb::Wait => tale.is_event(call, 5),
                    Verb::Get => tale.shows(call, 0),
                    _ => tale.tells_rev(call, 5),
                }
            }
            tale.sees(other, "/a", None, 3);
        });
    }
}

#[test]
fn a_file_that_is_said_to_be_missing_is_noticed() {
    // Before it was written, or after it was deleted, as far as anyone can tell.
    differ("that /b is missing", |tale, lie| {
        let (one, other) = past(tale);
        tale.sees(if lie { one } else { other }, "/b", None, 0);
    });
    // Only while it was there.
    differ("it was not so at any revision from 1 to 3 that /a is missing", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        tale.sees(other, "/a", None, 1);
        tale.writes(one, "/a", -1);
        tale.writes(one, "/b", -1);
        if lie {
            // Answered before it was deleted.
            tale.sees(other, "/a", None, 0);
            tale.deletes(one, "/a", -1);
        } else {
            let call = tale.call(other, &get("/a", None));
            tale.deletes(one, "/a", -1);
            tale.shows(call, 0);
        }
        tale.writes(one, "/b", -1);
    });
}

/// A deletion may be seen before it is acknowledged, and before anyone has told of it.
#[test]
fn what_was_under_way_may_be_seen() {
    believed(|tale| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        tale.sees(other, "/a", None, 1);
        let call = tale.call(one, &super::tale::del("/a", -1));
        tale.sees(other, "/a", None, 0);
        tale.happens(doozer::wire::FLAG_DEL, "/a", b"");
        tale.done(call);
        tale.writes(one, "/b", -1);
    });
}

#[test]
fn a_directory_that_is_none_is_noticed() {
    differ("that /d is a directory", |tale, lie| {
        let (one, other) = past(tale);
        tale.deletes(one, "/d/b", -1);
        let call = tale.call(if lie { one } else { other }, &get("/d", None));
        tale.fails(call, ErrCode::Isdir);
        let call = tale.call(one, &get("/", None));
        tale.fails(call, ErrCode::Isdir);
    });
    differ("as of revision 2 that /d is missing", |tale, lie| {
        let (_, other) = past(tale);
        tale.sees(other, "/d", Some(if lie { 2 } else { 1 }), 0);
    });
}

#[test]
fn a_path_that_is_none_is_read_as_missing() {
    for path in ["", "a", "/a/", "//", "/a b"] {
        differ("not an answer to this", |tale, lie| {
            let conn = tale.connect();
            let call = tale.call(conn, &get(path, None));
            if lie {
                tale.fails(call, ErrCode::BadPath)
            } else {
                tale.shows(call, 0)
            }
            let call = tale.call(conn, &stat(path, None));
            tale.says(call, &Response { rev: Some(0), len: Some(0), ..Response::default() });
        });
    }
}

#[test]
fn a_stat_that_is_not_what_was_there_is_noticed() {
    let says = |rev, len| Response { rev: Some(rev), len: Some(len), ..Response::default() };
    let cases = [
        ("/a", 1, (1, 20), (1, 19)),
        ("/a", 2, (1, 20), (3, 20)),
        ("/a", 4, (0, 0), (3, 20)),
        ("/d", 2, (-2, 1), (-2, 2)),
        ("/d", 2, (-2, 1), (0, 0)),
        ("/", 3, (-2, 2), (-2, 3)),
        ("/", 5, (-2, 2), (-2, 1)),
    ];
    for (path, at, right, wrong) in cases {
        differ("it is not so as of revision", |tale, lie| {
            let (_, other) = past(tale);
            let call = tale.call(other, &stat(path, Some(at)));
            let (rev, len) = if lie { wrong } else { right };
            tale.says(call, &says(rev, len));
        });
    }
    differ("that /d is a directory of 1 entries", |tale, lie| {
        let (one, other) = past(tale);
        tale.writes(one, "/d/c", -1);
        let call = tale.call(if lie { one } else { other }, &stat("/d", None));
        tale.says(call, &says(-2, 1));
    });
}

#[test]
fn a_history_that_ends_too_early_is_noticed() {
    for is_wait in [false, true] {
        differ("revision 3 has left the history, which is of 3 revisions", |tale, lie| {
            tale.checker = std::mem::take(&mut tale.checker).with_history(3);
            let (one, _) = past(tale);
            let late = if lie { 3 } else { 2 };
            let call = tale.call(one, &if is_wait { wait("/a", late) } else { get("/a", Some(late)) });
            tale.fails(call, ErrCode::TooLate);
        });
    }
    differ("too late for the present", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &get("/a", if lie { None } else { Some(1) }));
        tale.fails(call, ErrCode::TooLate);
    });
}

#[test]
fn an_answer_that_no_read_can_have_is_noticed() {
    for code in [ErrCode::Readonly, ErrCode::Noent, ErrCode::Other, ErrCode::RevMismatch] {
        differ("not an answer to this", |tale, lie| {
            let (one, _) = past(tale);
            let call = tale.call(one, &get("/a", None));
            if lie { tale.fails(call, code) } else { tale.shows(call, 0) }
        });
    }
    differ("not the fields of an answer to this", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &get("/a", None));
        let value = (!lie).then_some(&b""[..]);
        tale.says(call, &Response { rev: Some(0), value, ..Response::default() });
    });
    differ("a faulty request is not answered as it should be", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &Request::new(Verb::Get));
        if lie {
            tale.shows(call, 0)
        } else {
            tale.fails(call, ErrCode::MissingArg)
        }
        let call = tale.call(one, &Request::default());
        tale.fails(call, ErrCode::UnknownVerb);
    });
}

/// What is read before anyone has told what came before it waits until that is known.
#[test]
fn reads_are_judged_when_the_history_is_known() {
    let mut tale = Tale::new();
    let (one, other) = past(&mut tale);
    // The deletion is not known yet, so nothing behind the third revision is.
    tale.sees(other, "/a", Some(4), 3);
    tale.sees(one, "/a", Some(5), 0);
    assert!(tale.checker.violation().is_none());
    let (flags, path, value) = tale.event(4).clone();
    tale.checker.learn(0, 4, flags, path.as_bytes(), &value);
    tale.writes(one, "/b", -1);
    let text = tale.checker.violation().map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("as of revision 4 that /a is of revision 3"), "{text}");
}

/// The simulator is to know when everything that can be answered is.
#[test]
fn a_call_is_overdue_when_all_that_it_asks_for_is_there() {
    let mut checker = Checker::new();
    let conn = checker.connect(0, 0, 0);
    checker.call(conn, 1, &get("/a", Some(2)));
    checker.call(conn, 2, &wait("/b", 1));
    checker.call(conn, 3, &wait("/ctl/*", 2));
    assert_eq!(checker.overdue(), 0);
    checker.learn(0, 1, FLAG_SET, b"/ctl/name", b"");
    assert_eq!(checker.overdue(), 0);
    checker.learn(0, 2, FLAG_SET, b"/ctl/name", b"");
    assert_eq!(checker.overdue(), 2);
}
