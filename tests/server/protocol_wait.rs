//! `WAIT`, and the history: events of the past, the present and the future, reads at past and future revisions, and what
//! is too late.

use crate::common::process::{Setup, shared};
use crate::common::wire::*;
use doozer::limits::HISTORY_DEFAULT;
use doozer::wire::{Request, Verb};

fn event(flags: i32, rev: i64, path: &str, value: &str) -> String {
    format!("flags={flags} rev={rev} path=\"{path}\" value=\"{value}\"")
}

/// Asserts that the requests that were sent are not answered yet: what is sent behind them is.
#[track_caller]
fn silent(c: &mut Client) {
    let said = c.ask(&bare(Verb::Nop).tag(-99));
    assert_eq!(said, "tag=-99", "an answer that should wait");
}

/// A watcher that starts from an old revision must be given each event since, in order, deletions too.
#[test]
fn an_event_of_the_past_is_skipped() {
    let mut c = Client::connect(shared());
    let first = c.put("/past/a", b"1");
    let second = c.put("/past/b", b"2");
    assert_eq!(c.ask(&del("/past/a", -1)), "ok");
    let fourth = c.put("/past/d/e", b"3");
    let third = c.call(&wait("/past/a", first + 1)).revision();
    assert!(second < third && third < fourth);
    let cases = [
        (wait("/past/*", first), event(4, first, "/past/a", "1")),
        (wait("/past/*", 1), event(4, first, "/past/a", "1")),
        (wait("/past/*", 0), event(4, first, "/past/a", "1")),
        (wait("/past/*", -5), event(4, first, "/past/a", "1")),
        (wait("/past/*", i64::MIN), event(4, first, "/past/a", "1")),
        (wait("/past/*", first + 1), event(4, second, "/past/b", "2")),
        (wait("/past/*", second + 1), event(8, third, "/past/a", "")),
        (wait("/past/a", first + 1), event(8, third, "/past/a", "")),
        (wait("/past/b", 1), event(4, second, "/past/b", "2")),
        (wait("/past/**", third + 1), event(4, fourth, "/past/d/e", "3")),
        (wait("/past/?/?", 1), event(4, fourth, "/past/d/e", "3")),
        (wait("/ctl/name", 1), event(4, 1, "/ctl/name", "local")),
    ];
    for (request, expected) in &cases {
        assert_eq!(c.ask(request), *expected, "{request:?}");
    }
}

/// A WAIT is answered by the first match to come, once, and by nothing else.
#[test]
fn an_event_to_come_is_missed_or_told_twice() {
    let (mut c, mut other) = (Client::connect(shared()), Client::connect(shared()));
    let now = other.put("/future/x", b"old");
    c.send(&wait("/future/*", now + 1).tag(1));
    c.send(&wait("/future/x", now + 1).tag(2));
    c.send(&wait("/future", now + 1).tag(3));
    assert_eq!(other.ask(&bare(Verb::Nop)), "ok");
    other.put("/future.x", b"");
    other.put("/futur", b"");
    silent(&mut c);
    let made = other.put("/future/x", b"new");
    let expected = [1, 2].map(|tag| format!("tag={tag} {}", event(4, made, "/future/x", "new")));
    assert_eq!(c.recv_sorted(2), expected);
    other.put("/future/x", b"newer");
    silent(&mut c);
}

/// A directory's path matches nothing, even where its file or the last of its files changes.
#[test]
fn a_wait_on_a_directory_is_woken() {
    let (mut c, mut other) = (Client::connect(shared()), Client::connect(shared()));
    let now = other.put("/watched/dir/file", b"1");
    c.send(&wait("/watched/dir", 1).tag(1));
    c.send(&wait("/watched", now).tag(2));
    other.put("/watched/dir/file", b"2");
    assert_eq!(other.ask(&del("/watched/dir/file", -1)), "ok");
    silent(&mut c);
    // The very path, now that it can be a file, does match.
    let file = other.put("/watched/dir", b"3");
    assert_eq!(c.recv().to_string(), format!("tag=1 {}", event(4, file, "/watched/dir", "3")));
    silent(&mut c);
}

/// NOP's event has path `/`, flags 0: the globs `/`, `/*` and `/**` match it and no other does.
#[test]
fn a_nop_wakes_the_wrong_waits() {
    let server = Setup::new().start();
    let (mut c, mut other) = (server.connect(), server.connect());
    let now = other.rev();
    let globs = ["/", "/*", "/**", "/***", "/a", "/?", "/*/*", "/**/a", "/*a", "/a**"];
    for (tag, glob) in (0..).zip(globs) {
        c.send(&wait(glob, now + 1).tag(tag));
    }
    assert_eq!(other.ask(&bare(Verb::Nop)), "ok");
    let expected: Vec<String> = (0..4).map(|tag| format!("tag={tag} {}", event(0, now + 1, "/", ""))).collect();
    assert_eq!(c.recv_sorted(4), expected);
    silent(&mut c);
    // A file below the root wakes the rest that match it, and `/` is not among those who wait any more.
    let file = other.put("/a", b"x");
    let expected: Vec<String> =
        [4, 5, 8, 9].map(|tag| format!("tag={tag} {}", event(4, file, "/a", "x"))).into_iter().collect();
    assert_eq!(c.recv_sorted(4), expected);
    silent(&mut c);
}

/// A WAIT from a revision that is far ahead passes over what matches before it.
#[test]
fn a_wait_from_a_later_revision_is_woken_early() {
    let server = Setup::new().start();
    let (mut c, mut other) = (server.connect(), server.connect());
    let now = other.rev();
    c.send(&wait("/f", now + 3).tag(1));
    c.send(&wait("/f", now + 1).tag(2));
    c.send(&wait("/f", i64::MAX).tag(3));
    assert_eq!(other.put("/f", b"1"), now + 1);
    assert_eq!(c.recv().to_string(), format!("tag=2 {}", event(4, now + 1, "/f", "1")));
    assert_eq!(other.put("/f", b"2"), now + 2);
    assert_eq!(other.put("/other", b""), now + 3, "reaches the revision, but does not match");
    assert_eq!(other.put("/f", b"3"), now + 4);
    assert_eq!(c.recv().to_string(), format!("tag=1 {}", event(4, now + 4, "/f", "3")));
    silent(&mut c);
}

/// Two deletions and the failed ones between: a wait for a deletion sees a deletion that was applied.
#[test]
fn a_failed_deletion_wakes_a_wait() {
    let (mut c, mut other) = (Client::connect(shared()), Client::connect(shared()));
    let now = other.put("/gone", b"x");
    c.send(&wait("/gone", now + 1));
    assert_eq!(other.ask(&del("/gone", now - 1)), "REV_MISMATCH");
    assert_eq!(other.ask(&set("/gone", 0, b"y")), "REV_MISMATCH");
    silent(&mut c);
    assert_eq!(other.ask(&del("/gone", now)), "ok");
    let said = c.recv();
    assert_eq!(said.to_string(), event(8, said.revision(), "/gone", ""));
}

/// WAIT checks for its fields, then the glob, then the history.
#[test]
fn wait_checks_in_another_order() {
    let server = Setup::new().flags(["-hist", "2"]).start();
    let mut c = server.connect();
    c.put("/a", b"");
    c.put("/a", b"");
    c.put("/a", b"");
    let no_rev = |glob| Request { rev: None, ..wait(glob, 0) };
    let cases = [
        (bare(Verb::Wait), "MISSING_ARG"),
        (no_rev("/a"), "MISSING_ARG"),
        (no_rev("bad"), "MISSING_ARG"),
        (Request { path: None, ..wait("", 1) }, "MISSING_ARG"),
        (wait("bad", 1), "OTHER \"invalid glob pattern: bad\""),
        (wait("/a", 1), "TOO_LATE"),
        (wait("/a", 0), "TOO_LATE"),
        (wait("/a", -1), "TOO_LATE"),
        (wait("/missing", 1), "TOO_LATE"),
        // The others' order, against the same history.
        (get("bad").at(1), "TOO_LATE"),
        (get("/ctl").at(1), "TOO_LATE"),
        (stat("bad").at(1), "TOO_LATE"),
        (bare(Verb::Stat).at(1), "TOO_LATE"),
        (getdir("bad", 0).at(1), "TOO_LATE"),
        (getdir("/a", -1).at(1), "TOO_LATE"),
        (bare(Verb::Getdir).at(1), "MISSING_ARG"),
        (bare(Verb::Get).at(1), "MISSING_ARG"),
        (bare(Verb::Walk).at(1), "MISSING_ARG"),
        (walk("bad", 0).at(1), "OTHER \"invalid glob pattern: bad\""),
        (walk("/**", -1).at(1), "RANGE"),
        (walk("/**", 0).at(1), "TOO_LATE"),
    ];
    for (request, expected) in &cases {
        assert_eq!(c.ask(request), *expected, "{request:?}");
    }
}

/// The last `-hist` revisions are readable, the current one among them, and none before.
#[test]
fn the_history_is_longer_or_shorter_than_asked_for() {
    for history in [1, 5, 100] {
        let server = Setup::new().flags(["-hist", &history.to_string()]).start();
        let mut c = server.connect();
        let mut made = Vec::new();
        for i in 0..history + 50 {
            made.push((c.put("/f", i.to_string().as_bytes()), i));
        }
        let now = c.rev();
        for (rev, value) in made {
            let (read, waited, walked) =
                (c.ask(&get("/f").at(rev)), c.ask(&wait("/f", rev)), c.ask(&walk("/f", 0).at(rev)));
            if rev > now - history {
                assert_eq!(read, format!("rev={rev} value=\"{value}\""), "{history} of {now}");
                assert_eq!(waited, event(4, rev, "/f", &value.to_string()));
                assert_eq!(walked, event(4, rev, "/f", &value.to_string()));
                assert_eq!(c.ask(&stat("/f").at(rev)), format!("rev={rev} len={}", value.to_string().len()));
                assert_eq!(c.ask(&getdir("/", 1).at(rev)), "path=\"f\"");
            } else {
                assert_eq!([read, waited, walked], ["TOO_LATE"; 3], "rev {rev}, {history} of {now}");
                assert_eq!(c.ask(&stat("/f").at(rev)), "TOO_LATE");
                assert_eq!(c.ask(&getdir("/", 1).at(rev)), "TOO_LATE");
            }
        }
        // What was written before the history began is still there.
        assert_eq!(c.ask(&get("/ctl/name")), "rev=1 value=\"local\"");
        assert_eq!(c.ask(&get("/ctl/name").at(now)), "rev=1 value=\"local\"");
    }
}

/// The original forgets after 2,000 revisions, whatever its document says. Ours keeps 360,000.
#[test]
fn the_default_history_is_short() {
    assert_eq!(HISTORY_DEFAULT, 360_000);
    let server = Setup::new().start();
    let mut c = server.connect();
    let first = c.put("/f", b"first");
    let nops: Vec<u8> = framed(&bare(Verb::Nop)).repeat(1_000);
    let mut more = |n: i64| {
        for _ in 0..n / 1_000 {
            c.raw(&nops);
            (0..1_000).for_each(|_| assert_eq!(c.recv().to_string(), "ok"));
        }
        (c.ask(&get("/f").at(first)), c.ask(&wait("/f", first)), c.ask(&get("/ctl/name").at(1)))
    };
    let (read, waited) = (format!("rev={first} value=\"first\""), event(4, first, "/f", "first"));
    let name = "rev=1 value=\"local\"".to_string();
    assert_eq!(more(3_000), (read.clone(), waited.clone(), name.clone()));
    assert_eq!(more(356_000), (read.clone(), waited, name));
    let (last, ..) = more(1_000);
    assert_eq!(last, "TOO_LATE");
}

/// A read of a revision to come waits for just that revision, and shows it as it was, though more came with it.
#[test]
fn a_read_of_the_future_answers_too_early_or_too_late() {
    let server = Setup::new().start();
    let (mut c, mut other) = (server.connect(), server.connect());
    let now = other.put("/d/a", b"0");
    let at = now + 2;
    c.send_all(&[
        get("/d/a").at(at).tag(0),
        stat("/d/a").at(at).tag(1),
        stat("/d").at(at).tag(2),
        getdir("/d", 1).at(at).tag(3),
        walk("/d/*", 1).at(at).tag(4),
        get("/d/c").at(at).tag(5),
        get("/d").at(at).tag(6),
        get("bad").at(at).tag(7),
        getdir("/none", 0).at(at).tag(8),
        walk("/d/*", 2).at(at).tag(9),
    ]);
    // These fail at once, in the future as now.
    let errors = [
        (walk("/d/*", -1).at(at), "RANGE"),
        (walk("bad", 0).at(at), "OTHER \"invalid glob pattern: bad\""),
        (bare(Verb::Get).at(at), "MISSING_ARG"),
        (bare(Verb::Getdir).at(at), "MISSING_ARG"),
    ];
    for (request, expected) in &errors {
        assert_eq!(c.ask(request), *expected, "nothing of the above is answered before its time");
    }
    assert_eq!(other.put("/d/a", b"1"), now + 1);
    assert_eq!(c.ask(&bare(Verb::Rev)), format!("rev={}", now + 1));
    // All three in one batch.
    other.send_all(&[set("/d/b", -1, b"22"), set("/d/a", -1, b"later"), set("/d/c", -1, b"")]);
    let mut expected = [
        format!("tag=0 rev={} value=\"1\"", now + 1),
        format!("tag=1 rev={} len=1", now + 1),
        "tag=2 rev=-2 len=2".into(),
        "tag=3 path=\"b\"".into(),
        format!("tag=4 {}", event(4, now + 2, "/d/b", "22")),
        "tag=5 rev=0 value=\"\"".into(),
        "tag=6 ISDIR".into(),
        "tag=7 rev=0 value=\"\"".into(),
        "tag=8 NOENT".into(),
        "tag=9 RANGE".into(),
    ];
    expected.sort();
    assert_eq!(c.recv_sorted(10), expected);
}

/// A read of the past must not show what came later, nor miss what was deleted since.
#[test]
fn a_read_of_the_past_shows_the_present() {
    let mut c = Client::connect(shared());
    let base = c.put("/then/keep", b"k");
    let first = c.put("/then/a", b"1");
    let second = c.put("/then/a", b"22");
    assert_eq!(c.ask(&del("/then/a", second)), "ok");
    let gone = c.call(&wait("/then/a", second + 1)).revision();
    let again = c.put("/then/a/b", b"333");
    let cases = [
        (get("/then/a").at(base), "rev=0 value=\"\"".to_string()),
        (get("/then/a").at(first), format!("rev={first} value=\"1\"")),
        (get("/then/a").at(second - 1), format!("rev={first} value=\"1\"")),
        (get("/then/a").at(second), format!("rev={second} value=\"22\"")),
        (get("/then/a").at(gone - 1), format!("rev={second} value=\"22\"")),
        (get("/then/a").at(gone), "rev=0 value=\"\"".into()),
        (get("/then/a").at(again), "ISDIR".into()),
        (stat("/then/a").at(second), format!("rev={second} len=2")),
        (stat("/then/a").at(gone), "rev=0 len=0".into()),
        (stat("/then/a").at(again), "rev=-2 len=1".into()),
        (stat("/then").at(base), "rev=-2 len=1".into()),
        (stat("/then").at(first), "rev=-2 len=2".into()),
        (stat("/then").at(gone), "rev=-2 len=1".into()),
        (getdir("/then", 0).at(first), "path=\"a\"".into()),
        (getdir("/then", 0).at(gone), "path=\"keep\"".into()),
        (getdir("/then", 1).at(gone), "RANGE".into()),
        (getdir("/then/a", 0).at(second), "NOTDIR".into()),
        (getdir("/then/a", 0).at(gone), "NOENT".into()),
        (getdir("/then/a", 0).at(again), "path=\"b\"".into()),
        (walk("/then/**", 0).at(second), event(4, second, "/then/a", "22")),
        (walk("/then/**", 0).at(gone), event(4, base, "/then/keep", "k")),
        (walk("/then/**", 0).at(again), event(4, again, "/then/a/b", "333")),
        (walk("/then/**", 2).at(again), "RANGE".into()),
    ];
    for (request, expected) in &cases {
        assert_eq!(c.ask(request), *expected, "{request:?}");
    }
}

/// A search through a long history must not hold up the others, nor find another event than the first.
#[test]
fn a_wait_far_back_in_the_history_finds_another_event() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let before = c.rev();
    let mut bytes = Vec::new();
    for i in 0..20_000 {
        set(&format!("/h/{}", i % 100), -1, b"").encode(&mut bytes);
    }
    set("/rare/x", -1, b"found").encode(&mut bytes);
    set("/rare/y", -1, b"later").encode(&mut bytes);
    c.raw(&bytes);
    (0..20_002).for_each(|_| assert!(c.recv().revision() > before));
    let found = before + 20_001;
    assert_eq!(c.ask(&wait("/rare/*", before)), event(4, found, "/rare/x", "found"));
    assert_eq!(c.ask(&wait("/rare/y", before)), event(4, found + 1, "/rare/y", "later"));
    assert_eq!(c.ask(&wait("/**/7", before + 200)), event(4, before + 208, "/h/7", ""));
    // One that is not in the history at all is found when it comes, though it comes while the search goes on.
    let mut other = server.connect();
    c.send(&wait("/new/*", before).tag(1));
    let made = other.put("/new/z", b"n");
    assert_eq!(c.recv().to_string(), format!("tag=1 {}", event(4, made, "/new/z", "n")));
}

/// Thousands of waits on one connection: each gets its own event, and no other's.
#[test]
fn many_waits_are_mixed_up() {
    let (mut c, mut other) = (Client::connect(shared()), Client::connect(shared()));
    let now = other.put("/many/start", b"");
    let paths: Vec<String> = (0..3_000).map(|i| format!("/many/{i}")).collect();
    let waits: Vec<_> = (0..).zip(&paths).map(|(tag, path)| wait(path, now).tag(tag)).collect();
    c.send_all(&waits);
    silent(&mut c);
    let mut sets: Vec<_> = (0..).zip(&paths).map(|(tag, path)| set(path, 0, path.as_bytes()).tag(tag)).collect();
    sets.reverse();
    other.send_all(&sets);
    let mut made = vec![0; paths.len()];
    for _ in 0..paths.len() {
        let said = other.recv();
        made[usize::try_from(said.tag.unwrap()).unwrap()] = said.revision();
    }
    let mut expected: Vec<String> = (0..)
        .zip(paths.iter().zip(made))
        .map(|(tag, (path, rev)): (i32, _)| format!("tag={tag} {}", event(4, rev, path, path)))
        .collect();
    expected.sort();
    assert_eq!(c.recv_sorted(paths.len()), expected);
}
