//! WAIT, and the globs that it is asked with.

use doozer::wire::{FLAG_DEL, FLAG_SET, Response};

use super::tale::{Tale, differ, nop, wait};
use crate::checker::{Conn, matches};

/// The matcher is the measure of what is to be seen by whom.
#[test]
fn a_glob_matches_what_the_protocol_says() {
    let all = ["/", "/a", "/b", "/ab", "/a/b", "/a/b/c", "/b/c"];
    let matching = |glob: &str| -> Vec<&str> {
        all.into_iter().filter(|path| matches(glob.as_bytes(), path.as_bytes())).collect()
    };
    assert_eq!(matching("/**"), all);
    assert_eq!(matching("/*"), ["/", "/a", "/b", "/ab"]);
    assert_eq!(matching("/?"), ["/a", "/b"]);
    assert_eq!(matching("/a*"), ["/a", "/ab"]);
    assert_eq!(matching("/a**"), ["/a", "/ab", "/a/b", "/a/b/c"]);
    assert_eq!(matching("/a/*"), ["/a/b"]);
    assert_eq!(matching("/**/c"), ["/a/b/c", "/b/c"]);
    assert_eq!(matching("/***c"), ["/a/b/c", "/b/c"]);
    assert_eq!(matching("/?/*"), ["/a/b", "/b/c"]);
    assert_eq!(matching("/a"), ["/a"]);
    assert_eq!(matching("/"), ["/"]);
}

/// Writes to two files, a deletion, and a NOP.
fn past(tale: &mut Tale) -> (Conn, Conn) {
    let (one, other) = (tale.connect(), tale.connect());
    tale.writes(one, "/a/b", -1);
    tale.writes(one, "/c", -1);
    tale.deletes(one, "/c", -1);
    let call = tale.call(one, &nop());
    tale.happens(0, "/", b"");
    tale.done(call);
    tale.writes(one, "/c", -1);
    (one, other)
}

/// Whoever watches has to see everything, or what he makes of it is wrong for ever.
#[test]
fn an_event_that_is_skipped_is_noticed() {
    let cases = [
        ("/**", 1, 1, 2),
        ("/**", -3, 1, 2),
        ("/c", 1, 2, 3),
        ("/*", 3, 3, 4),
        ("/?", 4, 5, 3),
        ("/", 1, 4, 5),
        ("/*", 4, 4, 5),
        ("/a/*", 0, 1, 2),
        ("/**c", 2, 2, 5),
        ("/a/**", 1, 1, 4),
    ];
    for (glob, from, right, wrong) in cases {
        let tell = |tale: &mut Tale, lie: bool, is_late: bool| {
            let (_, other) = if is_late { (tale.connect(), tale.connect()) } else { past(tale) };
            let call = tale.call(other, &wait(glob, from));
            if is_late {
                past(tale);
            }
            tale.is_event(call, if lie { wrong } else { right });
        };
        let complaint = if wrong < from { "not an answer to this" } else { "that the first event that" };
        differ(complaint, |tale, lie| tell(tale, lie, false));
        differ(complaint, |tale, lie| tell(tale, lie, true));
    }
}

#[test]
fn an_event_that_is_told_wrongly_is_noticed() {
    differ("revision 3 is two things", |tale, lie| {
        let (one, _) = past(tale);
        let calls = [tale.call(one, &wait("/c", 3)), tale.call(one, &wait("/c", 3))];
        tale.is_event(calls[0], 3);
        if lie {
            tale.history[2].0 = FLAG_SET;
        }
        tale.is_event(calls[1], 3);
        tale.history[2].0 = FLAG_DEL;
    });
    // A deletion has no value, a NOP no path.
    for (rev, flags, path) in [(3, FLAG_DEL, "/c"), (4, 0, "/")] {
        differ(&format!("revision {rev} cannot be"), |tale, lie| {
            let (one, _) = past(tale);
            let call = tale.call(one, &wait("/**", rev));
            let (path, value) = (Some(path.as_bytes()), Some(if lie { &b"x"[..] } else { b"" }));
            tale.says(call, &Response { flags: Some(flags), rev: Some(rev), path, value, ..Response::default() });
        });
    }
    differ("has flags 12", |tale, lie| {
        let (one, _) = past(tale);
        let call = tale.call(one, &wait("/c", 3));
        tale.history[2].0 = if lie { 12 } else { FLAG_DEL };
        tale.is_event(call, 3);
    });
}

#[test]
fn an_event_that_nobody_else_knows_is_noticed() {
    differ("is two things", |tale, lie| {
        let (one, other) = past(tale);
        let (call, value) = tale.set(one, "/d", -1);
        tale.lost(call);
        let rev = tale.happens(FLAG_SET, "/d", &value);
        let call = tale.call(other, &wait("/d", 1));
        tale.is_event(call, rev);
        if lie {
            tale.history[5] = (FLAG_SET, "/ctl/x".into(), vec![]);
        }
    });
}
