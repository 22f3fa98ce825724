//! The `doozer` command as a shell sees it: bytes on stdout and stderr, and the exit status.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::fake::{Asked, Fake, PATIENCE, Peer, rev, set_event};
use doozer::wire::{ErrCode, Response, Verb};

/// A command that knows nothing of the environment this test runs in.
fn doozer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doozer"));
    command.env_remove("DOOZER_URI").env_remove("DOOZER_BOOT_URI");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, which is not awaited for ever.
fn finish(mut child: Child, stdin: &[u8]) -> Output {
    if let Some(mut pipe) = child.stdin.take() {
        // It may have ended without reading.
        drop(pipe.write_all(stdin));
    }
    let (done, wait) = mpsc::channel();
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    thread::spawn(move || {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stdout.read_to_end(&mut out).expect("stdout");
        stderr.read_to_end(&mut err).expect("stderr");
        drop(done.send((out, err)));
    });
    let Ok((stdout, stderr)) = wait.recv_timeout(PATIENCE) else {
        child.kill().expect("a running child");
        panic!("the command does not end");
    };
    Output { status: child.wait().expect("a child"), stdout, stderr }
}

/// Exit status, stdout, stderr.
fn run(arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let child = doozer(arguments).stdin(Stdio::piped()).spawn().expect("the command");
    told(finish(child, stdin.as_bytes()))
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

fn ok(stdout: &str) -> (i32, String, String) {
    (0, stdout.into(), String::new())
}

fn failed(status: i32, stderr: &str) -> (i32, String, String) {
    (status, String::new(), stderr.into())
}

/// A server that answers the one request it expects.
fn one(check: impl Fn(&Asked) + Send + Sync + 'static, answer: Response<'static>) -> Fake {
    Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            check(&asked);
            peer.answer(&asked, answer);
        }
    })
}

/// A server of files of revision 5, which answers reads as the real one does.
fn tree(files: &[(&'static str, &'static str)]) -> Fake {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            read(&files, peer, &asked);
        }
    })
}

fn read(files: &BTreeMap<&str, &str>, peer: &mut Peer, asked: &Asked) {
    let prefix = format!("{}/", asked.path.trim_end_matches('/'));
    let below = files.keys().filter_map(|path| path.strip_prefix(prefix.as_str()));
    let mut names: Vec<&str> = below.filter_map(|rest| rest.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    let file = files.get(asked.path.as_str()).copied();
    let size = |n: usize| Some(i32::try_from(n).expect("small"));
    match (asked.verb, file) {
        (Verb::Rev, _) => peer.answer(asked, rev(7)),
        (Verb::Get, Some(body)) => peer.answer(asked, Response { value: Some(body.as_bytes()), ..rev(5) }),
        (Verb::Get, None) if names.is_empty() => peer.answer(asked, Response { value: Some(b""), ..rev(0) }),
        (Verb::Get, None) => peer.fail(asked, ErrCode::Isdir, ""),
        (Verb::Stat, Some(body)) => peer.answer(asked, Response { len: size(body.len()), ..rev(5) }),
        (Verb::Stat, None) if names.is_empty() => peer.answer(asked, Response { len: Some(0), ..rev(0) }),
        (Verb::Stat, None) => peer.answer(asked, Response { len: size(names.len()), ..rev(-2) }),
        (Verb::Getdir, _) => {
            assert_eq!(asked.rev, Some(7), "one revision for all");
            let offset = usize::try_from(asked.offset.expect("an offset")).expect("not negative");
            match names.get(offset) {
                Some(name) => {
                    peer.answer(asked, Response { path: Some(name.as_bytes()), ..Response::default() });
                }
                None => peer.fail(asked, ErrCode::Range, ""),
            }
        }
        _ => panic!("{asked:?}"),
    }
}

#[test]
fn add_stores_stdin_and_prints_the_revision() {
    let fake = one(
        |a| assert_eq!((a.verb, a.path.as_str(), a.rev, &a.value[..]), (Verb::Set, "/a", Some(0), &b"body\n"[..])),
        rev(12),
    );
    assert_eq!(run(&["-a", &fake.uri(), "add", "/a"], "body\n"), ok("12\n"));
}

#[test]
fn set_takes_a_negative_revision_for_an_argument() {
    let fake = one(
        |a| assert_eq!((a.verb, a.path.as_str(), a.rev, &a.value[..]), (Verb::Set, "/a", Some(-1), &b""[..])),
        rev(12),
    );
    assert_eq!(run(&["set", "/a", "-1", "-a", &fake.uri()], ""), ok("12\n"));
}

#[test]
fn del_and_nop_print_nothing() {
    let fake = one(|a| assert_eq!((a.verb, a.rev), (Verb::Del, Some(4))), Response::default());
    assert_eq!(run(&["--a", &fake.uri(), "del", "/a", "4"], ""), ok(""));
    let fake = one(|a| assert_eq!(a.verb, Verb::Nop), Response::default());
    assert_eq!(run(&["nop", &format!("-a={}", fake.uri())], ""), ok(""));
}

#[test]
fn rev_and_self_print_a_line() {
    let fake = one(|a| assert_eq!(a.verb, Verb::Rev), rev(99));
    assert_eq!(run(&["-a", &fake.uri(), "rev"], ""), ok("99\n"));
    let fake = one(|_| (), Response { value: Some(b"ABCDEFGH"), ..Response::default() });
    assert_eq!(run(&["-a", &fake.uri(), "self"], ""), ok("ABCDEFGH\n"));
}

#[test]
fn get_prints_the_raw_body_of_the_revision_asked_for() {
    let fake = one(|a| assert_eq!((a.verb, a.rev), (Verb::Get, Some(3))), Response { value: Some(b"\0raw"), ..rev(2) });
    assert_eq!(run(&["-a", &fake.uri(), "-r", "3", "get", "/a"], ""), ok("\0raw"));
}

#[test]
fn what_is_missing_is_an_error_to_get_stat_and_find() {
    let fake = tree(&[("/a", "")]);
    for command in ["get", "stat", "find"] {
        let got = run(&["-a", &fake.uri(), command, "/missing"], "");
        assert_eq!(got, failed(2, "Error: NOENT: /missing does not exist\n"), "{command}");
    }
    let then = run(&["-a", &fake.uri(), "get", "/missing", "-r", "3"], "");
    assert_eq!(then, failed(2, "Error: NOENT: /missing did not exist at revision 3\n"));
    assert_eq!(run(&["-a", &fake.uri(), "get", "/a"], ""), ok(""), "an empty file is one");
}

#[test]
fn stat_tells_files_from_directories() {
    let fake = tree(&[("/d/x", "four"), ("/d/y", "")]);
    assert_eq!(run(&["-a", &fake.uri(), "stat", "/d/x"], ""), ok("5 4\n"));
    assert_eq!(run(&["-a", &fake.uri(), "stat", "/d"], ""), ok("d 2\n"));
}

#[test]
fn find_prints_a_directory_before_what_it_holds() {
    let fake = tree(&[("/a/x", ""), ("/a/y/z", ""), ("/a-b", ""), ("/c", "")]);
    let find = |path: &str| run(&["-a", &fake.uri(), "find", path], "");
    assert_eq!(find("/"), ok("/\n/a\n/a/x\n/a/y\n/a/y/z\n/a-b\n/c\n"));
    assert_eq!(find("/a"), ok("/a\n/a/x\n/a/y\n/a/y/z\n"));
    assert_eq!(find("/c"), ok("/c\n"));
}

#[test]
fn touch_writes_what_is_there_at_the_revision_it_was_read() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.expect(Verb::Get);
        peer.answer(&asked, Response { value: Some(b"same"), ..rev(4) });
        let asked = peer.expect(Verb::Set);
        assert_eq!((asked.rev, &asked.value[..]), (Some(4), &b"same"[..]));
        peer.answer(&asked, rev(9));
        peer.ignore();
    });
    assert_eq!(run(&["-a", &fake.uri(), "touch", "/a"], ""), ok(""));
}

#[test]
fn wait_prints_one_event_from_the_current_revision_on() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.expect(Verb::Rev);
        peer.answer(&asked, rev(7));
        let asked = peer.expect(Verb::Wait);
        assert_eq!((asked.path.as_str(), asked.rev), ("/a/**", Some(7)));
        peer.event(&asked, 8, "/a/b", "two\nlines");
        peer.ignore();
    });
    assert_eq!(run(&["-a", &fake.uri(), "wait", "/a/**"], ""), ok("/a/b 8 set 9\ntwo\nlines\n"));
}

/// A body may hold newlines, and even what looks like the next event.
#[test]
fn json_is_one_line_for_each_event_whatever_its_body() {
    let body = "two\n/a 9 set 3\n";
    let fake = one(|a| assert_eq!(a.verb, Verb::Wait), set_event(8, "/a", body));
    let expected = "{\"path\":\"/a\",\"rev\":8,\"kind\":\"set\",\"len\":15,\"body\":\"dHdvCi9hIDkgc2V0IDMK\",\
                    \"text\":\"two\\n/a 9 set 3\\n\"}\n";
    assert_eq!(run(&["-a", &fake.uri(), "wait", "-json", "-r", "8", "/a"], ""), ok(expected));
    let parsed: serde_json::Value = serde_json::from_str(expected).expect("JSON");
    assert_eq!(parsed["text"], body);
}

#[test]
fn json_tells_files_from_directories() {
    let fake = tree(&[("/d/x", "four"), ("/d/y/z", "")]);
    let find = run(&["-a", &fake.uri(), "-json", "find", "/d"], "");
    let expected = r#"{"kind":"directory","path":"/d","entries":2}
{"kind":"file","path":"/d/x","rev":5,"len":4}
{"kind":"directory","path":"/d/y","entries":1}
{"kind":"file","path":"/d/y/z","rev":5,"len":0}
"#;
    assert_eq!(find, ok(expected));
    let stat = run(&["-a", &fake.uri(), "stat", "-json", "/d/x"], "");
    assert_eq!(stat, ok("{\"kind\":\"file\",\"path\":\"/d/x\",\"rev\":5,\"len\":4}\n"));
}

#[test]
fn get_and_touch_print_the_revision_on_request() {
    let fake = tree(&[("/a", "two\nlines")]);
    assert_eq!(run(&["-a", &fake.uri(), "get", "-rev", "/a"], ""), ok("5 9\ntwo\nlines"));
    let json = "{\"path\":\"/a\",\"rev\":5,\"len\":9,\"body\":\"dHdvCmxpbmVz\",\"text\":\"two\\nlines\"}\n";
    assert_eq!(run(&["-a", &fake.uri(), "get", "-json", "/a"], ""), ok(json));
    let touched = Fake::start(|_, peer| {
        let asked = peer.expect(Verb::Get);
        peer.answer(&asked, Response { value: Some(b"same"), ..rev(4) });
        let asked = peer.expect(Verb::Set);
        peer.answer(&asked, rev(9));
        peer.ignore();
    });
    assert_eq!(run(&["-a", &touched.uri(), "touch", "-rev", "/a"], ""), ok("9\n"));
}

#[test]
fn wait_says_what_kind_of_change_it_was() {
    for (flags, line) in [(8, "/a 3 del 0\n\n"), (0, "/a 3 nop 0\n\n"), (4, "/a 3 set 0\n\n")] {
        let answer = Response { flags: Some(flags), path: Some(b"/a"), ..rev(3) };
        let fake = one(|a| assert_eq!((a.verb, a.rev), (Verb::Wait, Some(2))), answer);
        assert_eq!(run(&["-a", &fake.uri(), "-r", "2", "wait", "/a"], ""), ok(line));
    }
}

#[test]
fn wait_ends_in_time() {
    let fake = Fake::start(|_, peer| peer.ignore());
    let got = run(&["-a", &fake.uri(), "wait", "-r", "1", "-t", "200ms", "/a"], "");
    let why = format!("Error: timed out after 200 ms: no such event has come from {}\n", fake.address);
    assert_eq!(got, failed(2, &why));
}

/// A script that waits has to learn that the event may have happened elsewhere already.
#[test]
fn wait_says_that_its_server_has_lost_the_majority() {
    let fake = Fake::start(|_, peer| {
        peer.knows_sync();
        let mut waits = Vec::new();
        let mut refusals = 0;
        while let Some(asked) = peer.next() {
            match asked.verb {
                Verb::Wait => waits.push(asked),
                Verb::Sync if refusals < 2 => {
                    refusals += 1;
                    peer.fail(&asked, ErrCode::Readonly, "");
                }
                _ => peer.answer(&asked, rev(7)),
            }
            if refusals == 2 {
                for wait in waits.drain(..) {
                    peer.event(&wait, 8, "/a", "late");
                }
            }
        }
    });
    let (status, stdout, stderr) = run(&["-a", &fake.uri(), "wait", "-r", "8", "/a"], "");
    assert_eq!((status, stdout.as_str()), (0, "/a 8 set 4\nlate\n"));
    assert!(
        stderr.starts_with("Warning: events may be missing until later: ")
            && stderr.contains(&fake.address.to_string()),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// One of three servers is hung: its turn must leave time for the others.
#[test]
fn wait_finds_the_event_in_time_though_a_server_hangs() {
    let hung = Fake::start(|_, peer| peer.ignore());
    let good = Fake::start(|_, peer| {
        while let Some(asked) = peer.next() {
            match asked.verb {
                Verb::Wait => peer.event(&asked, 3, "/a", "v"),
                _ => peer.answer(&asked, rev(7)),
            }
        }
    });
    let uri = format!("{}&ca={}", hung.uri(), good.address);
    for _ in 0..4 {
        // Half of the tries begin with the hung one.
        assert_eq!(run(&["-a", &uri, "wait", "-t", "15s", "-r", "3", "/a"], ""), ok("/a 3 set 1\nv\n"));
    }
}

/// A watch's output is often a pipe: each event is there when it happened, not when a buffer is full.
#[test]
fn watch_prints_each_event_at_once_and_survives_a_lost_connection() {
    let (send, events) = mpsc::channel::<i64>();
    let events = std::sync::Mutex::new(events);
    let fake = Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            assert_eq!(asked.verb, Verb::Wait);
            match events.lock().expect("no panic within").recv() {
                Ok(0) => return peer.close(),
                Ok(rev) => {
                    assert_eq!(asked.rev, Some(rev));
                    peer.event(&asked, rev, "/a", "v");
                }
                Err(mpsc::RecvError) => return,
            }
        }
    });
    let mut child = doozer(&["-a", &fake.uri(), "-r", "1", "watch", "/a"]).spawn().expect("the command");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("UTF-8");
    for rev in 1..4 {
        send.send(rev).expect("the server runs");
        assert_eq!((line(), line()), (format!("/a {rev} set 1"), "v".into()));
        send.send(0).expect("the server runs");
    }
    drop(send);
    child.kill().expect("it runs for ever");
    child.wait().expect("a child");
}

#[test]
fn watch_ends_quietly_when_its_reader_has_gone() {
    let fake = Fake::start(|_, peer| {
        let mut rev = 1;
        while let Some(asked) = peer.next() {
            peer.event(&asked, rev, "/a", "v");
            rev += 1;
        }
    });
    let mut child = doozer(&["-a", &fake.uri(), "-r", "1", "watch", "/a"]).spawn().expect("the command");
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "/a 1 set 1\n");
    drop(reader);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!((child.wait().expect("a child").code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_revision_mismatch_is_exit_status_1_and_any_other_error_2() {
    for (code, detail, status, text) in [
        (ErrCode::RevMismatch, "", 1, "Error: REV_MISMATCH: /a is at revision 5, later than 1\n"),
        (ErrCode::Readonly, "", 2, "Error: READONLY: /a: nothing was written"),
        (ErrCode::Other, "permission denied", 2, "Error: OTHER: permission denied: /a"),
        (ErrCode::Other, "disk full: there", 2, "Error: OTHER: disk full: there\n"),
        (ErrCode::Isdir, "", 2, "Error: ISDIR: /a is a directory\n"),
    ] {
        let fake = refusing(code, detail);
        let (got, stdout, stderr) = run(&["-a", &fake.uri(), "set", "/a", "1"], "");
        assert_eq!((got, stdout.as_str()), (status, ""));
        assert!(stderr.starts_with(text), "{stderr}");
    }
}

/// A server that refuses every SET and DEL, and has a file of revision 5 at `/a` and at `/d/f`.
fn refusing(code: ErrCode, detail: &'static str) -> Fake {
    let files = BTreeMap::from([("/a", "body"), ("/d/f", "")]);
    Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            match asked.verb {
                Verb::Set | Verb::Del => peer.fail(&asked, code, detail),
                _ => read(&files, peer, &asked),
            }
        }
    })
}

#[test]
fn an_error_names_the_path_and_what_stands_there() {
    let mismatch = refusing(ErrCode::RevMismatch, "");
    let got = run(&["-a", &mismatch.uri(), "add", "/a"], "x");
    assert_eq!(got, failed(1, "Error: REV_MISMATCH: /a exists already, at revision 5\n"));
    let got = run(&["-a", &mismatch.uri(), "del", "/a", "4"], "");
    assert_eq!(got, failed(1, "Error: REV_MISMATCH: /a is at revision 5, later than 4\n"));
    let (status, _, stderr) = run(&["-a", &mismatch.uri(), "touch", "/a"], "");
    assert_eq!(status, 1);
    assert!(stderr.starts_with("Error: REV_MISMATCH: /a was written by somebody else"), "{stderr}");
    let notdir = refusing(ErrCode::Notdir, "");
    let got = run(&["-a", &notdir.uri(), "set", "/d/f/x/y", "-1"], "x");
    assert_eq!(got, failed(2, "Error: NOTDIR: /d/f/x/y: /d/f is a file, and nothing can stand below a file\n"));
    let (status, _, stderr) = run(&["-a", &mismatch.uri(), "get", "/d"], "");
    assert_eq!((status, stderr.as_str()), (2, "Error: ISDIR: /d is a directory\n"));
}

/// To the protocol a text that is no path is a missing file; to whoever mistyped it that is no help.
#[test]
fn a_bad_path_is_refused_with_the_letters_that_are_allowed() {
    let names = "a name holds letters (A to Z, a to z), digits, `.` and `-`";
    let nobody = "doozer:?ca=127.0.0.1:1";
    for command in [&["add"][..], &["get"], &["find"], &["stat"], &["touch"], &["set"], &["del"]] {
        let mut line = vec!["-a", nobody];
        line.extend(command);
        line.push("/a_b");
        if matches!(command, ["set" | "del"]) {
            line.push("-1");
        }
        assert_eq!(run(&line, ""), failed(2, &format!("Error: BAD_PATH: /a_b: '_' is not allowed; {names}\n")));
    }
    for command in ["wait", "watch"] {
        let (status, _, stderr) = run(&["-a", nobody, command, "/a_b/*"], "");
        assert_eq!(status, 2);
        assert!(stderr.starts_with("Error: BAD_PATH: invalid glob pattern: /a_b/*: '_' is not allowed"), "{stderr}");
    }
}

/// Runs a line of the shell, in which `$D` is the command.
fn shell(line: &str) -> (i32, String, String) {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("D", env!("CARGO_BIN_EXE_doozer"));
    command.env_remove("DOOZER_URI").env_remove("DOOZER_BOOT_URI");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    told(finish(command.spawn().expect("a shell"), b""))
}

/// A daemon or a cron job may have no stdin. What is read from there is nothing, which is not to become a file's body.
#[test]
fn a_closed_stdin_is_no_empty_body() {
    let untouched = Fake::start(|_, peer| assert!(peer.next().is_none(), "nothing is sent"));
    for line in ["add /a", "set /a -1"] {
        let (status, stdout, stderr) = shell(&format!("\"$D\" -a '{}' {line} <&-", untouched.uri()));
        assert_eq!((status, stdout.as_str()), (2, ""));
        assert!(stderr.starts_with("Error: stdin is closed"), "{stderr}");
    }
    let empty = one(|a| assert_eq!((a.verb, &a.value[..]), (Verb::Set, &b""[..])), rev(12));
    // Opened for reading, as shells do, and for both, as other programs do.
    for from in ["</dev/null", "<>/dev/null"] {
        assert_eq!(shell(&format!("\"$D\" -a '{}' set /a -1 {from}", empty.uri())), ok("12\n"));
    }
}

/// A value that no server takes was read into memory, and the error named neither the path nor the size and limit of the value.
#[test]
fn a_value_that_is_too_large_is_refused_with_its_path_and_the_limit() {
    let untouched = Fake::start(|_, peer| assert!(peer.next().is_none(), "nothing is sent"));
    let of = |size: &str| format!("Error: OTHER: value too large for /a: {size}, the limit is 1048576\n");
    for command in ["add /a", "set /a -1"] {
        let set = format!("\"$D\" -a '{}' {command}", untouched.uri());
        assert_eq!(shell(&format!("{set} </dev/zero")), failed(2, &of("more than 1048576 bytes")));
        assert_eq!(shell(&format!("head -c 1048577 /dev/zero | {set}")), failed(2, &of("more than 1048576 bytes")));
        // The size of a file is known; what was read before does not count.
        let file = "f=$(mktemp) && truncate -s 300000000 \"$f\" && exec <\"$f\" && rm \"$f\"";
        assert_eq!(shell(&format!("{file} && {set}")), failed(2, &of("300000000 bytes")));
        let skipped = format!("{file} && dd bs=1000000 count=2 of=/dev/null 2>/dev/null && {set}");
        assert_eq!(shell(&skipped), failed(2, &of("298000000 bytes")));
    }
    let largest = one(|asked| assert_eq!(asked.value.len(), 1 << 20), rev(12));
    let set = format!("\"$D\" -a '{}' set /a -1", largest.uri());
    assert_eq!(shell(&format!("head -c 1048576 /dev/zero | {set}")), ok("12\n"));
}

/// A nop has no path, and its error named one.
#[test]
fn a_failed_nop_names_no_path() {
    let answer = Response::error(None, ErrCode::Readonly, None);
    let fake = one(|asked| assert_eq!(asked.verb, Verb::Nop), answer);
    let (status, _, stderr) = run(&["-a", &fake.uri(), "nop"], "");
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.starts_with("Error: READONLY: nothing was written; no server"), "{stderr}");
}

/// What could not be printed is no success, and no panic.
#[test]
fn output_that_goes_nowhere_is_an_error() {
    let fake = tree(&[("/a", "body"), ("/b", "")]);
    let lines = ["get /a", "rev", "stat /a", "find /", "get -json /a", "help", "-v", "help get"];
    for line in lines {
        let (status, _, stderr) = shell(&format!("\"$D\" -a '{}' {line} >/dev/full", fake.uri()));
        assert_eq!(status, 2, "{line}: {stderr}");
        assert!(stderr.starts_with("Error: cannot write to stdout: No space left"), "{line}: {stderr}");
        let (status, _, stderr) = shell(&format!("\"$D\" -a '{}' {line} >&-", fake.uri()));
        assert_eq!((status, stderr.as_str()), (2, "Error: cannot write to stdout: it is closed\n"), "{line}");
    }
    let big = one(|_| (), Response { value: Some(&[b'x'; 500_000]), ..rev(5) });
    let (status, _, stderr) = shell(&format!("\"$D\" -a '{}' get /a >/dev/full", big.uri()));
    assert_eq!(status, 2, "{stderr}");
    // Nobody is there to be told; the status still tells.
    for err in ["2>/dev/full", "2>&-"] {
        assert_eq!(shell(&format!("\"$D\" -a '{}' get /missing {err}", fake.uri())), failed(2, ""));
        assert_eq!(shell(&format!("\"$D\" bogus {err}")), failed(127, ""));
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let big = one(|_| (), Response { value: Some(&[b'x'; 2_000_000]), ..rev(5) });
    let line = format!("{{ \"$D\" -a '{}' get /a; echo $? >&2; }} | head -c 3", big.uri());
    assert_eq!(shell(&line), (0, "xxx".into(), "0\n".into()));
}

#[test]
fn a_lost_answer_to_a_write_is_not_passed_off_as_a_failure() {
    let fake = Fake::start(|_, peer| {
        peer.expect(Verb::Nop);
    });
    let (status, stdout, stderr) = run(&["-a", &fake.uri(), "nop"], "");
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.starts_with("Error: ") && stderr.contains("it is not known whether"), "{stderr}");
}

#[test]
fn garbage_from_the_server_is_an_error() {
    let fake = Fake::start(|_, peer| {
        peer.raw(b"SSH-2.0-OpenSSH_9.9\r\n");
        peer.ignore();
    });
    let (status, _, stderr) = run(&["-a", &fake.uri(), "rev"], "");
    assert_eq!(status, 2);
    assert!(stderr.starts_with("Error: "), "{stderr}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let (status, stdout, stderr) = run(&["-a", &format!("doozer:?ca={address}"), "rev"], "");
    assert_eq!((status, stdout.as_str()), (2, ""));
    let expected = format!("Error: cannot connect to {address}: Connection refused");
    assert!(stderr.starts_with(&expected), "{stderr}");
    assert!(stderr.ends_with(", is doozerd running there?\n"), "{stderr}");
}

#[test]
fn a_refused_secret_is_the_servers_error() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.expect(Verb::Access);
        assert_eq!(asked.value, b"wrong");
        peer.fail(&asked, ErrCode::Other, "permission denied");
    });
    let got = run(&["-a", &format!("{}&sk=wrong", fake.uri()), "rev"], "");
    assert_eq!(got, failed(2, "Error: OTHER: permission denied\n"));
}

#[test]
fn a_bad_uri_is_an_error() {
    let (status, stdout, stderr) = run(&["-a", "http://x", "rev"], "");
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert_eq!(stderr, "Error: `http://x` is not an address: a port is a number from 0 to 65535; write HOST:PORT\n");
}

#[test]
fn the_environment_says_where_unless_the_flag_does() {
    let (here, there) = (one(|_| (), rev(1)), one(|_| (), rev(2)));
    let run = |arguments: &[&str]| {
        let child = doozer(arguments).env("DOOZER_URI", here.uri()).spawn();
        told(finish(child.expect("the command"), b""))
    };
    assert_eq!(run(&["rev"]), ok("1\n"));
    assert_eq!(run(&["rev", "-a", &there.uri()]), ok("2\n"));
}

#[test]
fn the_name_service_is_asked_for_a_named_cluster() {
    let cluster = one(|_| (), rev(3));
    let address = cluster.address.to_string();
    let boot = Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            match (asked.verb, asked.offset) {
                (Verb::Rev, _) => peer.answer(&asked, rev(9)),
                (Verb::Getdir, Some(0)) => {
                    peer.answer(&asked, Response { path: Some(b"ID"), ..Response::default() });
                }
                (Verb::Getdir, _) => peer.fail(&asked, ErrCode::Range, ""),
                _ => peer.answer(&asked, Response { value: Some(address.as_bytes()), ..rev(3) }),
            }
        }
    });
    assert_eq!(run(&["-b", &boot.uri(), "-a", "doozer:?cn=c", "rev"], ""), ok("3\n"));
    let child = doozer(&["-a", "doozer:?cn=c", "rev"]).env("DOOZER_BOOT_URI", boot.uri()).spawn();
    assert_eq!(told(finish(child.expect("the command"), b"")), ok("3\n"));
}

#[test]
fn a_line_that_makes_no_sense_is_exit_status_127() {
    for line in [&["bogus"][..], &[], &["get"], &["set", "/a", "x"], &["-x", "rev"], &["help", "bogus"]] {
        let (status, stdout, stderr) = run(line, "");
        assert_eq!((status, stdout.as_str()), (127, ""), "{line:?}");
        assert!(stderr.starts_with("Error: "), "{stderr}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (status, stdout, stderr) = run(&["help"], "");
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("Use: doozer [flags] COMMAND"), "{stdout}");
    let (_, help_set, _) = run(&["help", "set"], "");
    assert!(help_set.starts_with("Use: doozer [flags] set PATH REV\n\n"), "{help_set}");
    assert_eq!(run(&["set", "-h"], ""), ok(&help_set));
    assert_eq!(run(&["-v"], ""), ok(concat!("doozer ", env!("CARGO_PKG_VERSION"), "\n")));
}
