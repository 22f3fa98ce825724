//! GETDIR and WALK.

use doozer::wire::{ErrCode, Response};

use super::tale::{Tale, believed, differ, getdir, walk};
use crate::checker::{Call, Conn};

/// The names in the directory are a, b and c from revision 3 on, a and c from 4 on; from 6 on it is gone.
fn past(tale: &mut Tale) -> (Conn, Conn) {
    let (one, other) = (tale.connect(), tale.connect());
    tale.writes(one, "/d/c", -1);
    tale.writes(one, "/d/a/x", -1);
    tale.writes(one, "/d/b", -1);
    tale.deletes(one, "/d/b", -1);
    tale.deletes(one, "/d/a/x", -1);
    tale.deletes(one, "/d/c", -1);
    tale.writes(one, "/a", -1);
    (one, other)
}

fn names(tale: &mut Tale, call: Call, name: &str) {
    tale.says(call, &Response { path: Some(name.as_bytes()), ..Response::default() });
}

#[test]
fn an_entry_that_is_not_where_it_is_listed_is_noticed() {
    let cases = [
        (1, 0, "c", "a"),
        (2, 0, "a", "c"),
        (2, 1, "c", "b"),
        (3, 1, "b", "c"),
        (3, 2, "c", "b"),
        (4, 1, "c", "b"),
        (5, 0, "c", "a"),
    ];
    for (at, offset, right, wrong) in cases {
        differ(&format!("as of revision {at} that entry {offset} of /d is {wrong}"), |tale, lie| {
            let (_, other) = past(tale);
            let call = tale.call(other, &getdir("/d", offset, Some(at)));
            names(tale, call, if lie { wrong } else { right });
        });
    }
}

#[test]
fn an_entry_that_was_never_there_at_one_time_is_noticed() {
    // It was the second of all, but never again after revision 4.
    differ("it was not so at any revision from 4 to 7 that entry 1 of /d is b", |tale, lie| {
        let (_, other) = past(tale);
        if lie {
            let call = tale.call(other, &super::tale::rev());
            tale.tells_rev(call, 4);
        }
        let call = tale.call(other, &getdir("/d", 1, None));
        names(tale, call, "b");
    });
    // At no time at all.
    differ("that entry 2 of /d is b", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir("/d", if lie { 2 } else { 1 }, None));
        names(tale, call, "b");
    });
    // It moves up when others go.
    believed(|tale| {
        let (_, other) = past(tale);
        for offset in [2, 1, 0] {
            let call = tale.call(other, &getdir("/d", offset, None));
            names(tale, call, "c");
        }
    });
}

#[test]
fn an_end_of_a_directory_that_is_not_there_is_noticed() {
    differ("as of revision 3 that /d has no entry 2", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir("/d", if lie { 2 } else { 3 }, Some(3)));
        tale.fails(call, ErrCode::Range);
        let call = tale.call(other, &getdir("/d", -1, Some(3)));
        tale.fails(call, ErrCode::Range);
    });
    differ("that /d has no entry 1", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir("/d", 1, Some(if lie { 2 } else { 1 })));
        tale.fails(call, ErrCode::Range);
    });
    differ("that /d has no entry 0", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir(if lie { "/d" } else { "/" }, if lie { 0 } else { 2 }, None));
        tale.fails(call, ErrCode::Range);
    });
    // The root is a directory even when it is empty.
    believed(|tale| {
        let conn = tale.connect();
        let call = tale.call(conn, &getdir("/", 0, None));
        tale.fails(call, ErrCode::Range);
    });
}

#[test]
fn a_directory_that_is_said_to_be_something_else_is_noticed() {
    differ("as of revision 5 that /d is missing", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir("/d", 0, Some(if lie { 5 } else { 6 })));
        tale.fails(call, ErrCode::Noent);
    });
    differ("as of revision 2 that /d/a is a file", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &getdir(if lie { "/d/a" } else { "/d/c" }, 0, Some(2)));
        tale.fails(call, ErrCode::Notdir);
    });
    differ("not an answer to this", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &getdir("/d/", 0, None));
        if lie { names(tale, call, "c") } else { tale.fails(call, ErrCode::Noent) }
    });
}

#[test]
fn a_file_that_is_not_where_it_is_walked_is_noticed() {
    // Glob, revision; the file of which revision is where, and where not.
    let cases = [
        ("/**", 3, 2, 0, 1),
        ("/**", 3, 3, 1, 0),
        ("/**", 3, 1, 2, 1),
        ("/d/*", 3, 3, 0, 1),
        ("/d/*", 3, 1, 1, 0),
        ("/d/?", 4, 1, 0, 1),
        ("/d/a/x", 4, 2, 0, 1),
        ("/*", 7, 7, 0, 1),
    ];
    for (glob, at, rev, right, wrong) in cases {
        differ(&format!("as of revision {at} that file {wrong}"), |tale, lie| {
            let (_, other) = past(tale);
            let call = tale.call(other, &walk(glob, if lie { wrong } else { right }, Some(at)));
            tale.is_event(call, rev);
        });
    }
}

/// A directory comes where its name does, with all that is in it.
#[test]
fn a_walk_in_another_order_is_noticed() {
    differ("that file 1 that /** matches is /a/x", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a-x", -1);
        tale.writes(conn, "/a/x", -1);
        let call = tale.call(conn, &walk("/**", i32::from(lie), None));
        tale.is_event(call, 2);
    });
}

#[test]
fn a_walk_that_was_so_at_no_time_is_noticed() {
    // What the glob does not match is not walked.
    differ("that file 0 that /d/* matches is /d/a/x", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &walk(if lie { "/d/*" } else { "/d/*/*" }, 0, None));
        tale.is_event(call, 2);
    });
    // A version that was written over, or a file that was deleted.
    differ("it is not so as of revision 7 that file 0", |tale, lie| {
        let (one, other) = past(tale);
        let call = tale.call(if lie { one } else { other }, &walk("/d/*", 0, None));
        tale.is_event(call, 3);
    });
    // It was the second from 3 on, and the first from 4 on.
    believed(|tale| {
        let (_, other) = past(tale);
        for offset in [1, 0] {
            let call = tale.call(other, &walk("/d/?", offset, None));
            tale.is_event(call, 1);
        }
    });
}

#[test]
fn an_end_of_a_walk_that_is_not_there_is_noticed() {
    differ("as of revision 3 that /d/* matches no file 1", |tale, lie| {
        let (_, other) = past(tale);
        let call = tale.call(other, &walk("/d/*", if lie { 1 } else { 2 }, Some(3)));
        tale.fails(call, ErrCode::Range);
        // Before everything else.
        let call = tale.call(other, &walk("/d/*", -1, Some(1_000)));
        tale.fails(call, ErrCode::Range);
    });
    differ("it is not so as of revision 7 that /** matches no file 0", |tale, lie| {
        let (one, other) = past(tale);
        let call = tale.call(if lie { one } else { other }, &walk("/**", 0, None));
        tale.fails(call, ErrCode::Range);
    });
}

#[test]
fn a_bad_glob_is_refused_with_its_pattern() {
    for glob in ["", "d", "/d/", "/[a]"] {
        differ("not an answer to this", |tale, lie| {
            let (one, _) = past(tale);
            let call = tale.call(one, &walk(glob, -1, Some(100)));
            tale.fails_other(call, &format!("invalid glob pattern: {}{glob}", if lie { "x" } else { "" }));
            let call = tale.call(one, &super::tale::wait(glob, 100));
            tale.fails_other(call, &format!("invalid glob pattern: {glob}"));
        });
    }
}
