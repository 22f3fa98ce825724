//! Mutations that do not name themselves: deletions, NOPs, and SETs of any value. They are found in the history by elimination.

use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET};

use super::tale::{believed, del, differ, nop, rev, set, sync};

#[test]
fn an_acknowledged_deletion_that_is_lost_is_noticed() {
    for compared in [-1, 1] {
        differ("acknowledged, and not in the history", |tale, lie| {
            let conn = tale.connect();
            tale.writes(conn, "/a", -1);
            if lie {
                let call = tale.call(conn, &del("/a", compared));
                tale.done(call);
                tale.happens(FLAG_DEL, "/ctl/x", b"");
            } else {
                tale.deletes(conn, "/a", compared);
            }
            tale.writes(conn, "/b", -1);
        });
    }
}

/// Two were acknowledged, so there are two.
#[test]
fn one_event_for_two_deletions_is_noticed() {
    differ("acknowledged, and not in the history", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let calls = [tale.call(one, &del("/a", -1)), tale.call(other, &del("/a", -1))];
        tale.happens(FLAG_DEL, "/a", b"");
        tale.happens(FLAG_DEL, if lie { "/ctl/x" } else { "/a" }, b"");
        calls.into_iter().for_each(|call| tale.done(call));
    });
}

#[test]
fn a_deletion_that_is_applied_twice_is_noticed() {
    differ("nobody can have made revision 3", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.deletes(conn, "/a", -1);
        if lie {
            tale.happens(FLAG_DEL, "/a", b"");
        }
    });
    // One with an unknown outcome may be the second event, and was not the third.
    differ("nobody can have made revision 4", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        tale.deletes(conn, "/a", -1);
        let call = tale.call(conn, &del("/a", -1));
        tale.lost(call);
        (0..1 + i32::from(lie)).for_each(|_| _ = tale.happens(FLAG_DEL, "/a", b""));
    });
}

#[test]
fn a_refused_deletion_that_was_applied_is_noticed() {
    for code in [ErrCode::Readonly, ErrCode::RevMismatch] {
        differ("nobody can have made revision 2", |tale, lie| {
            let conn = tale.connect();
            tale.writes(conn, "/a", -1);
            let call = tale.call(conn, &del("/a", 0));
            tale.fails(call, code);
            if lie {
                tale.happens(FLAG_DEL, "/a", b"");
            }
        });
    }
}

#[test]
fn a_deletion_of_a_file_that_is_newer_is_noticed() {
    differ("nobody can have made revision 3", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let first = tale.writes(one, "/a", -1);
        let second = tale.writes(one, "/a", -1);
        tale.deletes(other, "/a", if lie { first } else { second });
    });
    // Of several that may be it, the right one is found: the first deletes nothing, the last what it knows.
    believed(|tale| {
        let conns = [tale.connect(), tale.connect(), tale.connect()];
        let writer = tale.connect();
        let calls = [(0, 1), (1, -1), (2, 0)].map(|(conn, rev)| tale.call(conns[conn], &del("/a", rev)));
        tale.happens(FLAG_DEL, "/a", b"");
        let (call, value) = tale.set(writer, "/a", -1);
        let rev = tale.happens(FLAG_SET, "/a", &value);
        tale.tells_rev(call, rev);
        tale.happens(FLAG_DEL, "/a", b"");
        tale.happens(FLAG_DEL, "/a", b"");
        calls.into_iter().for_each(|call| tale.done(call));
    });
    // The file that it does not know is there.
    differ("nobody can have made revision 2", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        tale.writes(one, "/a", -1);
        let calls = [tale.call(one, &del("/a", 0)), tale.call(other, &del("/a", if lie { 0 } else { 1 }))];
        tale.happens(FLAG_DEL, "/a", b"");
        tale.happens(FLAG_DEL, "/a", b"");
        calls.into_iter().for_each(|call| tale.done(call));
    });
}

#[test]
fn a_mismatch_of_a_deletion_that_was_none_is_noticed() {
    differ("that /a is newer than revision 1", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let call = tale.call(conn, &del("/a", i64::from(lie)));
        tale.fails(call, ErrCode::RevMismatch);
    });
    // A file above the path is no matter to a deletion: there is nothing to delete.
    differ("not an answer to this", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let call = tale.call(conn, &del("/a/b", 0));
        if lie {
            tale.fails(call, ErrCode::Notdir)
        } else {
            tale.done(call)
        }
        tale.happens(FLAG_DEL, "/a/b", b"");
    });
}

#[test]
fn a_deletion_at_another_time_than_that_of_its_call_is_noticed() {
    // Before what was there when it was called.
    differ("nobody can have made revision 1", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let early = (!lie).then(|| tale.call(other, &del("/a", -1)));
        tale.happens(FLAG_DEL, "/a", b"");
        tale.writes(one, "/b", -1);
        let call = early.unwrap_or_else(|| tale.call(other, &del("/a", -1)));
        tale.done(call);
        tale.happens(FLAG_SET, "/ctl/x", b"");
    });
    // After what was called when it was answered.
    differ("nobody can have made revision 3", |tale, lie| {
        let (one, other, third) = (tale.connect(), tale.connect(), tale.connect());
        let (write, value) = tale.set(third, "/x", -1);
        let call = tale.call(one, &del("/a", -1));
        if lie {
            tale.done(call);
        }
        tale.happens(FLAG_SET, "/x", &value);
        tale.writes(other, "/b", -1);
        if !lie {
            tale.done(call);
        }
        tale.happens(FLAG_DEL, "/a", b"");
        tale.tells_rev(write, 1);
    });
}

/// Between those of the same connection.
#[test]
fn a_deletion_out_of_the_order_of_its_connection_is_noticed() {
    differ("nobody can have made revision", |tale, lie| {
        let conn = tale.connect();
        let (first, one) = tale.set(conn, "/a", -1);
        let second = tale.call(conn, &del("/b", -1));
        let (third, three) = tale.set(conn, "/a", -1);
        let mut events = [(FLAG_SET, "/a", one), (FLAG_DEL, "/b", vec![]), (FLAG_SET, "/a", three)];
        if lie {
            events.swap(1, 2);
        }
        events.iter().for_each(|(flags, path, value)| _ = tale.happens(*flags, path, value));
        [first, second, third].into_iter().for_each(|call| tale.lost(call));
    });
    differ("nobody can have made revision 2", |tale, lie| {
        let conn = tale.connect();
        let mut paths = ["/a", "/b"];
        let calls = paths.map(|path| tale.call(conn, &del(path, -1)));
        if lie {
            paths.reverse();
        }
        paths.iter().for_each(|path| _ = tale.happens(FLAG_DEL, path, b""));
        calls.into_iter().for_each(|call| tale.done(call));
    });
}

#[test]
fn deletions_in_another_order_than_that_of_their_calls_are_noticed() {
    differ("nobody can have made revision 3", |tale, lie| {
        let (one, other, third) = (tale.connect(), tale.connect(), tale.connect());
        let (write, value) = tale.set(third, "/x", -1);
        let call = tale.call(one, &del("/a", -1));
        tale.done(call);
        let call = tale.call(other, &del("/b", -1));
        tale.done(call);
        tale.happens(FLAG_SET, "/x", &value);
        let mut paths = ["/a", "/b"];
        if lie {
            paths.reverse();
        }
        paths.iter().for_each(|path| _ = tale.happens(FLAG_DEL, path, b""));
        tale.tells_rev(write, 1);
    });
}

#[test]
fn a_sync_that_is_behind_a_deletion_is_noticed() {
    differ("SYNC says 1, and revision 2 was there before it was asked", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let (call, value) = tale.set(one, "/a", -1);
        let early = tale.call(other, &sync());
        let deletion = tale.call(one, &del("/a", -1));
        tale.happens(FLAG_SET, "/a", &value);
        tale.happens(FLAG_DEL, "/a", b"");
        tale.done(deletion);
        let late = tale.call(other, &sync());
        tale.tells_rev(if lie { late } else { early }, 1);
        tale.tells_rev(call, 1);
        tale.tells_rev(if lie { early } else { late }, 2);
    });
}

/// It has made a revision more, whichever that is.
#[test]
fn a_nop_that_has_made_no_revision_is_noticed() {
    differ("acknowledged, and not in the history", |tale, lie| {
        let conn = tale.connect();
        let call = tale.call(conn, &nop());
        if !lie {
            tale.happens(0, "/", b"");
        }
        tale.done(call);
        tale.happens(FLAG_SET, "/ctl/x", b"");
    });
    differ("the server is at revision 1, and was at 2 when it was asked", |tale, lie| {
        let conn = tale.connect();
        tale.writes(conn, "/a", -1);
        let early = tale.call(conn, &rev());
        let call = tale.call(conn, &nop());
        tale.happens(0, "/", b"");
        tale.done(call);
        let late = tale.call(conn, &rev());
        tale.tells_rev(if lie { late } else { early }, 1);
    });
}

#[test]
fn a_nop_that_is_applied_twice_is_noticed() {
    differ("nobody can have made revision", |tale, lie| {
        let conn = tale.connect();
        let calls = [tale.call(conn, &nop()), tale.call(conn, &nop()), tale.call(conn, &nop())];
        (0..2 + i32::from(lie)).for_each(|_| _ = tale.happens(0, "/", b""));
        tale.done(calls[0]);
        tale.fails(calls[1], ErrCode::Readonly);
        tale.fails_other(calls[2], "outcome unknown");
    });
}

/// A value that names nobody, as the tests of the membership write them.
#[test]
fn a_write_without_a_name_is_held_to_the_same() {
    differ("acknowledged as revision 1, which is something else", |tale, lie| {
        let (one, other) = (tale.connect(), tale.connect());
        let calls = [tale.call(one, &set("/a", -1, b"x")), tale.call(other, &set("/a", -1, b"x"))];
        tale.happens(FLAG_SET, "/a", b"x");
        tale.happens(FLAG_SET, "/a", b"x");
        tale.tells_rev(calls[0], 1);
        tale.tells_rev(calls[1], if lie { 1 } else { 2 });
    });
    differ("nobody can have made revision 3", |tale, lie| {
        let conn = tale.connect();
        let calls = [tale.call(conn, &set("/a", -1, b"x")), tale.call(conn, &set("/a", -1, b"x"))];
        tale.happens(FLAG_SET, "/a", b"x");
        tale.happens(FLAG_SET, "/a", b"x");
        tale.tells_rev(calls[0], 1);
        tale.lost(calls[1]);
        if lie {
            tale.happens(FLAG_SET, "/a", b"x");
        }
    });
    // A slot is opened by a client, and taken by the cluster.
    believed(|tale| {
        let conn = tale.connect();
        let call = tale.call(conn, &set("/ctl/cal/1", -1, b""));
        tale.happens(FLAG_SET, "/ctl/cal/1", b"");
        tale.tells_rev(call, 1);
        tale.happens(FLAG_SET, "/ctl/cal/1", b"ABC");
        tale.happens(FLAG_SET, "/ctl/cal/1", b"");
    });
}
