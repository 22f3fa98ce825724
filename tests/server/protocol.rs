//! Every verb of the protocol against a running server: what each answers, which fields are present and absent, and in
//! which order it checks. `WAIT` and the history are in `protocol_wait.rs`, frames and connections in
//! `protocol_frames.rs`, who may do what in `protocol_access.rs`.

use crate::common::process::{Setup, shared};
use crate::common::wire::*;
use doozer::limits::{LEVELS_MAX, PATH_MAX, VALUE_MAX};
use doozer::wire::{Request, Verb};

/// Asks each and compares the answer, as text: exactly these fields.
#[track_caller]
fn answers(client: &mut Client, cases: &[(Request<'_>, &str)]) {
    for (request, expected) in cases {
        let path = request.path.map(|path| path.escape_ascii().to_string()).unwrap_or_default();
        assert_eq!(client.ask(request), *expected, "{path:.80} {request:?}");
    }
}

/// What is no path: as a client may send it, by a slip or by malice.
const BAD_PATHS: &[&str] = &[
    "", "a", "a/b", "//", "//a", "/a//b", "/a/", "/a_b", "/a b", "/a\0", "/\u{e9}", "/a*", "/?", "/a:b", "/a\n", ".",
    "..",
];

fn long_path(len: usize) -> String {
    format!("/{}", "p".repeat(len - 1))
}

// ---- GET ----

/// A client tells a missing file from an empty one by the revision, and may rely on `value` being there.
#[test]
fn get_leaves_out_rev_or_value() {
    let mut c = Client::connect(shared());
    let full = c.put("/get/full", b"body");
    let empty = c.put("/get/empty", b"");
    let cases = [
        (get("/get/full"), format!("rev={full} value=\"body\"")),
        (get("/get/empty"), format!("rev={empty} value=\"\"")),
        (get("/get/missing"), "rev=0 value=\"\"".into()),
        (get("/get/missing/below"), "rev=0 value=\"\"".into()),
        (get("/get/full/below"), "rev=0 value=\"\"".into()),
        (get("/get"), "ISDIR".into()),
        (get("/"), "ISDIR".into()),
        (bare(Verb::Get), "MISSING_ARG".into()),
        (get("/get").at(i64::MIN), "rev=0 value=\"\"".into()),
        (get("/ctl/name").at(1), "rev=1 value=\"local\"".into()),
        (get("/ctl/name").at(0), "rev=1 value=\"local\"".into()),
        (get("/ctl/name").at(-1), "rev=1 value=\"local\"".into()),
        (get("/get/full").at(full), format!("rev={full} value=\"body\"")),
        (get("/get/full").at(full - 1), "rev=0 value=\"\"".into()),
        // What a GET does not read must not matter to it.
        (Request { offset: Some(-9), value: Some(b"x"), ..get("/get/empty") }, format!("rev={empty} value=\"\"")),
    ];
    for (request, expected) in &cases {
        assert_eq!(c.ask(request), *expected, "{request:?}");
    }
}

/// The original drops the first character of a relative path, and dies of an empty one: a bad path is no file.
#[test]
fn a_bad_path_reads_another_file_or_kills_the_server() {
    let mut c = Client::connect(shared());
    // What the original would have read for "xrelative/f" and the like.
    c.put("/elative/f", b"body");
    c.put("/relative/f", b"body");
    let long = long_path(PATH_MAX + 1);
    let bad = BAD_PATHS.iter().copied().chain(["relative/f", "xrelative/f", "/relative/f/", "/relative/", &long]);
    for path in bad {
        assert_eq!(c.ask(&get(path)), "rev=0 value=\"\"", "{path:?}");
        assert_eq!(c.ask(&stat(path)), "rev=0 len=0", "{path:?}");
        assert_eq!(c.ask(&getdir(path, 0)), "NOENT", "{path:?}");
        assert_eq!(c.ask(&getdir(path, -1)), "NOENT", "{path:?}");
        assert_eq!(c.ask(&set(path, -1, b"")), "BAD_PATH", "{path:?}");
        assert_eq!(c.ask(&del(path, -1)), "BAD_PATH", "{path:?}");
    }
    for bytes in [&b"/\xff"[..], b"\xff\xfe", b"/a\x80b"] {
        assert_eq!(c.ask(&Request { path: Some(bytes), ..get("") }), "rev=0 value=\"\"");
        assert_eq!(c.ask(&Request { path: Some(bytes), ..set("", -1, b"") }), "BAD_PATH");
    }
}

// ---- SET ----

/// A compare-and-set that lets an older revision pass loses a write; one that refuses a newer one breaks old clients.
#[test]
fn set_compares_the_revision_wrongly() {
    let mut c = Client::connect(shared());
    for (i, rev) in [0, -1, 1, 77, i64::MAX].into_iter().enumerate() {
        let answer = c.call(&set(&format!("/set/new/{i}"), rev, b"v"));
        let made = answer.revision();
        assert_eq!(answer.to_string(), format!("rev={made}"), "exactly a revision");
    }
    answers(
        &mut c,
        &[
            (set("/set/new/x", -2, b"v"), "REV_MISMATCH"),
            (set("/set/new/x", -3, b"v"), "REV_MISMATCH"),
            (set("/set/new/x", i64::MIN, b"v"), "REV_MISMATCH"),
            (get("/set/new/x"), "rev=0 value=\"\""),
        ],
    );
    let mut now = c.put("/set/old", b"first");
    for stale in [now - 1, 1, 0, -2, -3, i64::MIN] {
        assert_eq!(c.ask(&set("/set/old", stale, b"stale")), "REV_MISMATCH", "rev {stale} against {now}");
        assert_eq!(c.ask(&get("/set/old")), format!("rev={now} value=\"first\""));
    }
    for ahead in [0, 1, 1000] {
        now = c.call(&set("/set/old", now + ahead, b"next")).revision();
        assert_eq!(c.ask(&get("/set/old")), format!("rev={now} value=\"next\""));
    }
    for any in [i64::MAX, -1] {
        now = c.call(&set("/set/old", any, b"")).revision();
        assert_eq!(c.ask(&get("/set/old")), format!("rev={now} value=\"\""));
    }
}

/// Two locks taken at once by two clients: with rev 0 just one may get the file.
#[test]
fn two_clients_create_the_same_file() {
    let addr = shared();
    for round in 0..20 {
        let path = format!("/set/lock/{round}");
        let mut both = [Client::connect(addr), Client::connect(addr)];
        both.iter_mut().for_each(|c| c.send(&set(&path, 0, b"mine")));
        let mut said = both.each_mut().map(|c| c.recv().to_string());
        said.sort();
        assert_eq!(said[0], "REV_MISMATCH");
        assert!(said[1].starts_with("rev="), "{said:?}");
    }
}

/// Clients branch on the error: the checks come in the order of the document.
#[test]
fn set_checks_in_another_order() {
    let mut c = Client::connect(shared());
    c.put("/order/file", b"");
    c.put("/order/dir/file", b"");
    let no_rev = |path| Request { rev: None, ..set(path, 0, b"") };
    let no_path = Request { path: None, ..set("", -1, b"") };
    answers(
        &mut c,
        &[
            // MISSING_ARG, then BAD_PATH.
            (bare(Verb::Set), "MISSING_ARG"),
            (no_path, "MISSING_ARG"),
            (no_rev("/order/file"), "MISSING_ARG"),
            (no_rev("bad"), "MISSING_ARG"),
            (set("bad", -9, b""), "BAD_PATH"),
            (set("/order/file/", -9, b""), "BAD_PATH"),
            // NOTDIR, then REV_MISMATCH.
            (set("/order/file/below", -1, b""), "NOTDIR"),
            (set("/order/file/below", 0, b""), "NOTDIR"),
            (set("/order/file/below/deep", -9, b""), "NOTDIR"),
            (set("/order/file/below", i64::MAX, b""), "NOTDIR"),
            // REV_MISMATCH against the -2 of a directory, then ISDIR.
            (set("/order/dir", -3, b""), "REV_MISMATCH"),
            (set("/order/dir", i64::MIN, b""), "REV_MISMATCH"),
            (set("/order/dir", -2, b""), "ISDIR"),
            (set("/order/dir", -1, b""), "ISDIR"),
            (set("/order/dir", 0, b""), "ISDIR"),
            (set("/order/dir", i64::MAX, b""), "ISDIR"),
            (set("/", -3, b""), "REV_MISMATCH"),
            (set("/", -2, b""), "ISDIR"),
            (set("/", -1, b""), "ISDIR"),
            (set("/", 0, b""), "ISDIR"),
        ],
    );
}

/// `add` of an old client sends no value for an empty body.
#[test]
fn a_missing_value_is_not_an_empty_one() {
    let mut c = Client::connect(shared());
    let made = c.call(&Request { value: None, ..set("/set/novalue", 0, b"") }).revision();
    answers(
        &mut c,
        &[
            (get("/set/novalue"), &format!("rev={made} value=\"\"")),
            (stat("/set/novalue"), &format!("rev={made} len=0")),
            (wait("/set/novalue", made), &format!("flags=4 rev={made} path=\"/set/novalue\" value=\"\"")),
        ],
    );
}

/// `.` and `..` are ordinary names; a server that resolves them reads another file.
#[test]
fn dots_in_a_path_are_resolved() {
    let mut c = Client::connect(shared());
    let here = c.put("/dots/./a", b"1");
    let up = c.put("/dots/../a", b"2");
    let odd = c.put("/dots/-.Az09/...", b"3");
    answers(
        &mut c,
        &[
            (get("/dots/a"), "rev=0 value=\"\""),
            (get("/a"), "rev=0 value=\"\""),
            (get("/dots/./a"), &format!("rev={here} value=\"1\"")),
            (get("/dots/../a"), &format!("rev={up} value=\"2\"")),
            (get("/dots/-.Az09/..."), &format!("rev={odd} value=\"3\"")),
        ],
    );
}

// ---- DEL ----

/// A deletion compares as a SET does, but for NOTDIR, and answers with no field at all.
#[test]
fn del_compares_the_revision_wrongly() {
    let mut c = Client::connect(shared());
    let now = c.put("/del/file", b"x");
    c.put("/del/dir/file", b"x");
    let no_rev = |path| Request { rev: None, ..del(path, 0) };
    answers(
        &mut c,
        &[
            (bare(Verb::Del), "MISSING_ARG"),
            (Request { path: None, ..del("", 0) }, "MISSING_ARG"),
            (no_rev("/del/file"), "MISSING_ARG"),
            (no_rev("bad"), "MISSING_ARG"),
            (del("bad", -9), "BAD_PATH"),
            (del("/del/dir", -3), "REV_MISMATCH"),
            (del("/del/dir", -2), "ISDIR"),
            (del("/del/dir", -1), "ISDIR"),
            (del("/del/dir", i64::MAX), "ISDIR"),
            (del("/", -3), "REV_MISMATCH"),
            (del("/", -1), "ISDIR"),
            (del("/del/file", now - 1), "REV_MISMATCH"),
            (del("/del/file", 0), "REV_MISMATCH"),
            (del("/del/file", -2), "REV_MISMATCH"),
            (get("/del/file"), &format!("rev={now} value=\"x\"")),
            (del("/del/file", now), "ok"),
            (get("/del/file"), "rev=0 value=\"\""),
        ],
    );
    for rev in [-1, i64::MAX] {
        c.put("/del/file", b"x");
        assert_eq!(c.ask(&del("/del/file", rev)), "ok");
        assert_eq!(c.ask(&stat("/del/file")), "rev=0 len=0");
    }
}

/// Deleting a missing file makes a revision and is an event: whoever waits for the file to be gone must not hang.
#[test]
fn deleting_a_missing_file_goes_unnoticed() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let mut now = c.rev();
    for (path, rev) in [("/no/file", 0), ("/no/file", -1), ("/no", 5), ("/no", i64::MAX)] {
        assert_eq!(c.ask(&del(path, rev)), "ok");
        now += 1;
        assert_eq!(c.rev(), now);
        assert_eq!(c.ask(&wait(path, now)), format!("flags=8 rev={now} path=\"{path}\" value=\"\""));
    }
    for rev in [-2, -3, i64::MIN] {
        assert_eq!(c.ask(&del("/no/file", rev)), "REV_MISMATCH");
    }
    assert_eq!(c.rev(), now);
    assert_eq!(c.ask(&stat("/no")), "rev=0 len=0", "no directory came of it");
}

/// In the original, `DEL /f/x` deletes `/f` where that is a file.
#[test]
fn deleting_below_a_file_deletes_the_file() {
    let mut c = Client::connect(shared());
    let file = c.put("/del/below/f", b"kept");
    for path in ["/del/below/f/x", "/del/below/f/x/y"] {
        for rev in [0, -1, 9, file] {
            assert_eq!(c.ask(&del(path, rev)), "ok", "as for any missing file");
        }
        assert_eq!(c.ask(&del(path, -2)), "REV_MISMATCH");
        assert_eq!(c.ask(&get("/del/below/f")), format!("rev={file} value=\"kept\""));
    }
}

/// A directory exists exactly while it holds something.
#[test]
fn an_empty_directory_stays_or_a_full_one_goes() {
    let mut c = Client::connect(shared());
    c.put("/dir/a/b/c", b"1");
    c.put("/dir/a/d", b"2");
    answers(
        &mut c,
        &[
            (stat("/dir"), "rev=-2 len=1"),
            (stat("/dir/a"), "rev=-2 len=2"),
            (stat("/dir/a/b"), "rev=-2 len=1"),
            (del("/dir/a/b/c", -1), "ok"),
            (stat("/dir/a/b"), "rev=0 len=0"),
            (stat("/dir/a"), "rev=-2 len=1"),
            (del("/dir/a/d", -1), "ok"),
            (stat("/dir/a"), "rev=0 len=0"),
            (stat("/dir"), "rev=0 len=0"),
            (getdir("/dir", 0), "NOENT"),
        ],
    );
    let file = c.put("/dir", b"now a file");
    assert_eq!(c.ask(&get("/dir")), format!("rev={file} value=\"now a file\""));
}

// ---- the other verbs ----

/// In the original a failed SET or DEL burns a revision, is an event, and overwrites `/ctl/err`.
#[test]
fn a_failed_mutation_changes_something() {
    let server = Setup::new().start();
    let mut c = server.connect();
    c.put("/file", b"");
    let now = c.put("/dir/file", b"");
    let large = vec![b'x'; VALUE_MAX + 1];
    let failing = [
        bare(Verb::Set),
        set("bad", -1, b""),
        set("/file/x", -1, b""),
        set("/file", 0, b""),
        set("/dir", -1, b""),
        set("/file", -1, &large),
        bare(Verb::Del),
        del("bad", -1),
        del("/file", 0),
        del("/dir", -1),
    ];
    for request in &failing {
        let answer = c.call(request);
        assert!(answer.err_code.is_some(), "{answer}");
        assert_eq!(answer.rev, None, "{answer}");
        assert_eq!(c.rev(), now);
    }
    assert_eq!(c.ask(&stat("/ctl/err")), "rev=0 len=0");
    c.send(&wait("/**", now + 1));
    assert_eq!(c.ask(&bare(Verb::Rev)), format!("rev={now}"), "no event");
    assert_eq!(server.connect().put("/file", b"x"), now + 1);
    assert_eq!(c.recv().revision(), now + 1);
}

/// NOP is how a client makes a revision without a file: exactly one, and seen by whoever waits on the root.
#[test]
fn nop_makes_no_revision_or_more_than_one() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let before = c.rev();
    // It reads no field: not even a bad path troubles it.
    let noisy = Request { path: Some(b"bad"), rev: Some(-9), value: Some(b"x"), offset: Some(-1), ..bare(Verb::Nop) };
    for (i, request) in (1..).zip([bare(Verb::Nop), noisy]) {
        assert_eq!(c.ask(&request), "ok");
        assert_eq!(c.ask(&bare(Verb::Rev)), format!("rev={}", before + i));
        for glob in ["/", "/*", "/**", "/***", "/****"] {
            let expected = format!("flags=0 rev={} path=\"/\" value=\"\"", before + i);
            assert_eq!(c.ask(&wait(glob, before + i)), expected, "{glob}");
        }
    }
}

/// The id is what `/ctl/cal` names; a client compares the two.
#[test]
fn self_is_not_the_nodes_id() {
    let mut c = Client::connect(shared());
    let answer = c.call(&bare(Verb::SelfId));
    let id = String::from_utf8(answer.value.clone().unwrap()).unwrap();
    assert_eq!(answer.to_string(), format!("value=\"{id}\""), "exactly a value");
    assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b)), "{id}");
    assert_eq!(c.call(&get("/ctl/cal/0")).value, Some(id.clone().into_bytes()));
    assert_eq!(c.ask(&getdir("/ctl/node", 0)), format!("path=\"{id}\""));
}

/// STAT needs no path, and fails for nothing but a lost revision.
#[test]
fn stat_fails_or_miscounts() {
    let mut c = Client::connect(shared());
    let file = c.put("/stat/d/file", b"12345");
    let other = c.put("/stat/other", b"");
    answers(
        &mut c,
        &[
            (stat("/stat/d/file"), &format!("rev={file} len=5")),
            (stat("/stat/other"), &format!("rev={other} len=0")),
            (stat("/stat"), "rev=-2 len=2"),
            (stat("/stat").at(file), "rev=-2 len=1"),
            (stat("/stat").at(file - 1), "rev=0 len=0"),
            (stat("/stat/d"), "rev=-2 len=1"),
            (stat("/stat/missing"), "rev=0 len=0"),
            (stat("/stat/other/below"), "rev=0 len=0"),
            (bare(Verb::Stat), "rev=0 len=0"),
            (bare(Verb::Stat).at(1), "rev=0 len=0"),
            (stat("/ctl/name").at(-7), "rev=1 len=5"),
        ],
    );
    let root = c.call(&stat("/"));
    assert_eq!(root.rev, Some(-2));
    assert!(root.len.unwrap() >= 2, "{root}");
}

/// A listing must neither skip nor repeat an entry, nor mix up a file, nothing, and the end.
#[test]
fn getdir_lists_wrongly() {
    let mut c = Client::connect(shared());
    let names = ["-", ".", "..", "0", "A", "Z", "a", "a-b", "a.b", "aa", "b"];
    for name in names.iter().rev() {
        c.put(&format!("/getdir/{name}"), b"");
    }
    // Directories stand among the files, in the same order, and below one nothing counts.
    let last = c.put("/getdir/a0/deep/deeper", b"");
    let sorted = ["-", ".", "..", "0", "A", "Z", "a", "a-b", "a.b", "a0", "aa", "b"];
    for (offset, name) in (0..).zip(sorted) {
        assert_eq!(c.ask(&getdir("/getdir", offset)), format!("path=\"{name}\""));
    }
    // From the back, too: an offset is a position, not a step.
    for (offset, name) in (0..).zip(sorted).collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(c.ask(&getdir("/getdir", offset)), format!("path=\"{name}\""));
    }
    answers(
        &mut c,
        &[
            (getdir("/getdir", 12), "RANGE"),
            (getdir("/getdir", i32::MAX), "RANGE"),
            (getdir("/getdir", -1), "RANGE"),
            (getdir("/getdir", i32::MIN), "RANGE"),
            (getdir("/getdir/a", 0), "NOTDIR"),
            (getdir("/getdir/a", 5), "NOTDIR"),
            (getdir("/getdir/a", -5), "NOTDIR"),
            (getdir("/getdir/a/x", 0), "NOENT"),
            (getdir("/getdir/missing", 0), "NOENT"),
            (getdir("/getdir/missing", -1), "NOENT"),
            (getdir("/getdir/", 0), "NOENT"),
            (bare(Verb::Getdir), "MISSING_ARG"),
            (Request { path: None, ..getdir("", 0) }, "MISSING_ARG"),
            (Request { offset: None, ..getdir("/getdir", 0) }, "MISSING_ARG"),
            (Request { offset: None, ..getdir("bad", 0) }, "MISSING_ARG"),
            (getdir("/getdir", 11).at(last - 1), "RANGE"),
            (getdir("/getdir", 9).at(last - 1), "path=\"aa\""),
            (getdir("/getdir", 0).at(1), "NOENT"),
            (getdir("/getdir", 0).at(0), "NOENT"),
        ],
    );
}

/// Everything in `/ctl` may be deleted by a client with write access, but for the last member's slot: without it the cluster
/// would have no member. And what was deleted is no hindrance to a restart.
#[test]
fn deleting_everything_stops_the_cluster() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let mut kept = 0;
    loop {
        let found = c.call(&walk("/**", kept));
        if found.err_code.is_some() {
            assert_eq!(found.to_string(), "RANGE");
            break;
        }
        let outcome = c.ask(&del(&found.path(), -1));
        if found.path() == "/ctl/cal/0" {
            assert!(outcome.contains("last member"), "{outcome}");
            kept = 1;
        } else {
            assert_eq!(outcome, "ok");
        }
    }
    answers(
        &mut c,
        &[
            (stat("/"), "rev=-2 len=1"),
            (get("/"), "ISDIR"),
            (getdir("/", 0), "path=\"ctl\""),
            (getdir("/", 1), "RANGE"),
            (getdir("/", -1), "RANGE"),
            (set("/", -1, b""), "ISDIR"),
        ],
    );
    // It comes up again from this.
    let server = server.kill().start();
    server.connect().put("/a", b"");
}

/// A walk must give each matching file once, depth first, the entries of each directory in byte order.
#[test]
fn walk_visits_in_another_order() {
    let mut c = Client::connect(shared());
    let mut sorted = Vec::new();
    // In walk order: `/a/x` comes before `/a-x`, though `-` sorts before `/`.
    for path in ["-", "A/z", "a/b/c", "a/b0", "a/x", "a-x", "a.x", "a0", "b"] {
        let path = format!("/walk/{path}");
        sorted.push((path.clone(), c.put(&path, path.as_bytes())));
    }
    for (offset, (path, rev)) in (0..).zip(&sorted) {
        let expected = format!("flags=4 rev={rev} path=\"{path}\" value=\"{path}\"");
        assert_eq!(c.ask(&walk("/walk/**", offset)), expected);
    }
    let (first, rev) = &sorted[0];
    let first = format!("flags=4 rev={rev} path=\"{first}\" value=\"{first}\"");
    let no_offset = |glob| Request { offset: None, ..walk(glob, 0) };
    answers(
        &mut c,
        &[
            (walk("/walk/**", 9), "RANGE"),
            (walk("/walk/**", i32::MAX), "RANGE"),
            (walk("/walk/**", -1), "RANGE"),
            (walk("/walk/**", i32::MIN), "RANGE"),
            (walk("/walk/**", 0).at(*rev), &first),
            (walk("/walk/**", 1).at(*rev), "RANGE"),
            (walk("/walk/**", 0).at(rev - 1), "RANGE"),
            // A walk finds files, not directories; the root is none.
            (walk("/walk/a", 0), "RANGE"),
            (walk("/walk", 0), "RANGE"),
            (walk("/", 0), "RANGE"),
            (bare(Verb::Walk), "MISSING_ARG"),
            (Request { path: None, ..walk("", 0) }, "MISSING_ARG"),
            (no_offset("/walk/**"), "MISSING_ARG"),
            (no_offset("bad"), "MISSING_ARG"),
            // The glob is looked at before the offset.
            (walk("bad", -1), "OTHER \"invalid glob pattern: bad\""),
        ],
    );
}

/// A glob that matches too much wakes or lists what it should not; one that matches too little hangs its client.
#[test]
fn a_glob_matches_other_files() {
    let mut c = Client::connect(shared());
    let names = ["a", "ab", "abc", "b", "a/b", "a.b", "a/bc/d", "b/a/b"];
    // `/g1/a` is a file in one tree and a directory in another.
    for (tree, files) in [("g1", &names[..4]), ("g2", &names[4..])] {
        for name in files {
            c.put(&format!("/{tree}/{name}"), b"");
        }
    }
    let cases = [
        ("/g1/a", "a"),
        ("/g1/?", "a b"),
        ("/g1/??", "ab"),
        ("/g1/a?", "ab"),
        ("/g1/*", "a ab abc b"),
        ("/g1/a*", "a ab abc"),
        ("/g1/*b", "ab b"),
        ("/g1/*b*", "ab abc b"),
        ("/g1/a*c", "abc"),
        ("/g1/**", "a ab abc b"),
        ("/g1**", "a ab abc b"),
        ("/g1/**/**", ""),
        ("/g2/*", "a.b"),
        ("/g2/*/*", "a/b"),
        ("/g2/a?b", "a.b"),
        ("/g2/a**b", "a/b a.b"),
        ("/g2/**b", "a/b a.b b/a/b"),
        ("/g2/***", "a/b a/bc/d a.b b/a/b"),
        ("/g2/****", "a/b a/bc/d a.b b/a/b"),
        ("/g2/**/b", "a/b b/a/b"),
        ("/g2/?/**", "a/b a/bc/d b/a/b"),
        ("/g2/a/*", "a/b"),
        ("/g2/a/**", "a/b a/bc/d"),
        ("/g?/a", "a"),
        ("/g*/b/a/?", "b/a/b"),
    ];
    for (glob, expected) in cases {
        let mut found = Vec::new();
        for offset in 0.. {
            let answer = c.call(&walk(glob, offset));
            if answer.err_code.is_some() {
                assert_eq!(answer.to_string(), "RANGE", "{glob}");
                break;
            }
            found.push(answer.path()[4..].to_string());
        }
        assert_eq!(found.join(" "), expected, "{glob}");
    }
}

/// A bad glob is told from one that matches nothing, in words that old clients show.
#[test]
fn a_bad_glob_is_taken_for_one_that_matches_nothing() {
    let mut c = Client::connect(shared());
    let long = long_path(PATH_MAX + 1);
    let bad = ["", "a", "*", "**", "//", "/a//b", "/a/", "/*/", "/[a]", "/a b", "/a_b", "/\u{e9}", "/{a}", &long];
    for glob in bad {
        let mut detail = b"invalid glob pattern: ".to_vec();
        // A long one is echoed up to the length of a path.
        detail.extend_from_slice(&glob.as_bytes()[..glob.len().min(PATH_MAX)]);
        for request in [walk(glob, 0), walk(glob, 0).at(1), wait(glob, 1), wait(glob, i64::MAX)] {
            let answer = c.call(&request);
            assert_eq!((answer.err_code, answer.err_detail), (Some(127), Some(detail.clone())), "{glob:?}");
            assert_eq!((answer.rev, answer.path, answer.value, answer.flags), (None, None, None, None));
        }
    }
}

/// Whoever asks for something unknown is told so, and may go on; a SYNC-less server answers SYNC like this.
#[test]
fn an_unknown_verb_closes_the_connection_or_is_taken_for_another() {
    let mut c = Client::connect(shared());
    for verb in [0, 4, 8, 10, 11, 12, 13, 15, 17, 18, 19, 21, 29, 32, 98, 100, -1, i32::MIN, i32::MAX] {
        let request = Request { verb: Some(verb), path: Some(b"bad"), ..Request::default() };
        assert_eq!(c.ask(&request), "UNKNOWN_VERB", "{verb}");
    }
    assert_eq!(c.ask(&Request::default()), "UNKNOWN_VERB");
    assert_eq!(c.ask(&Request::default().tag(7)), "tag=7 UNKNOWN_VERB");
}

/// SYNC then GET is a linearizable read: it must show what another connection was told is written. And it writes nothing.
#[test]
fn a_read_behind_sync_is_stale() {
    let server = Setup::new().start();
    let (mut writer, mut reader) = (server.connect(), server.connect());
    for i in 0..100 {
        let value = format!("{i}");
        let made = writer.put("/sync", value.as_bytes());
        assert_eq!(reader.ask(&bare(Verb::Sync)), format!("rev={made}"));
        assert_eq!(reader.ask(&get("/sync")), format!("rev={made} value=\"{value}\""));
    }
    // Many at once, each with its own answer.
    let made = writer.rev();
    let many: Vec<_> = (0..200).map(|i| bare(Verb::Sync).tag(i)).collect();
    reader.send_all(&many);
    let mut expected: Vec<String> = (0..200).map(|i| format!("tag={i} rev={made}")).collect();
    expected.sort();
    assert_eq!(reader.recv_sorted(200), expected);
}

// ---- limits ----

/// Values of more than about 2,950 bytes wedge the original's cluster for good. Ours go up to 1 MiB; beyond, the client is
/// told both sizes, and its connection goes on.
#[test]
fn a_large_value_wedges_the_server() {
    let mut c = Client::connect(shared());
    for len in [2_900, 2_950, 3_000, 65_535, 65_536, VALUE_MAX - 1, VALUE_MAX] {
        let value: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let made = c.put("/large", &value);
        let answer = c.call(&get("/large"));
        assert_eq!(answer.rev, Some(made));
        assert!(answer.value.as_ref() == Some(&value), "{len} bytes come back as they were");
        assert_eq!(c.ask(&stat("/large")), format!("rev={made} len={len}"));
        assert!(c.call(&walk("/large", 0)).value.as_ref() == Some(&value));
        assert!(c.call(&wait("/large", made)).value.as_ref() == Some(&value));
    }
    let now = c.call(&stat("/large")).revision();
    for len in [VALUE_MAX + 1, 2 * VALUE_MAX, (4 << 20) - 64] {
        let answer = c.call(&set("/large", -1, &vec![0; len]).tag(5));
        let detail = String::from_utf8(answer.err_detail.clone().unwrap()).unwrap();
        assert_eq!((answer.tag, answer.err_code, answer.rev), (Some(5), Some(127), None), "{answer}");
        assert!(detail.starts_with("value too large"), "{detail}");
        assert!(detail.contains(&len.to_string()) && detail.contains(&VALUE_MAX.to_string()), "{detail}");
        assert_eq!(c.ask(&stat("/large")), format!("rev={now} len={VALUE_MAX}"), "untouched");
    }
}

/// A path of 4,096 bytes is one, a longer one is bad, in every verb.
#[test]
fn a_long_path_is_refused_too_early_or_too_late() {
    let mut c = Client::connect(shared());
    let longest = long_path(PATH_MAX);
    let made = c.put(&longest, b"x");
    let deep = "/d".repeat(LEVELS_MAX);
    let below = c.put(&deep, b"y");
    assert_eq!(c.ask(&get(&longest)), format!("rev={made} value=\"x\""));
    assert_eq!(c.ask(&get(&deep)), format!("rev={below} value=\"y\""));
    assert_eq!(c.call(&wait(&longest, made)).path(), longest);
    assert_eq!(c.call(&walk(&deep, 0)).path(), deep);
    let parent = &deep[..deep.len() - 2];
    assert_eq!(c.ask(&getdir(parent, 0)), "path=\"d\"");
    for over in [format!("{longest}p"), "/d".repeat(PATH_MAX / 2 + 1), long_path(100_000)] {
        assert_eq!(c.ask(&set(&over, -1, b"")), "BAD_PATH");
        assert_eq!(c.ask(&del(&over, -1)), "BAD_PATH");
        assert_eq!(c.ask(&get(&over)), "rev=0 value=\"\"");
        assert_eq!(c.ask(&stat(&over)), "rev=0 len=0");
    }
    let too_deep = "OTHER \"path too deep: 257 levels, the limit is 256\"";
    for verb in [set(&format!("{deep}/d"), -1, b""), del(&format!("{deep}/d"), -1)] {
        assert_eq!(c.ask(&verb), too_deep);
    }
    assert_eq!(c.ask(&del(&deep, below)), "ok");
    assert_eq!(c.ask(&stat("/d")), "rev=0 len=0", "all directories are gone with it");
}
