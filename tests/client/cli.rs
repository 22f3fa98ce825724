//! The `doozer` command as a shell sees it: bytes on stdout and stderr, and the exit status.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::fake::{Asked, Fake, PATIENCE, Peer, rev};
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
        assert_eq!(got, failed(2, "Error: NOENT\n"), "{command}");
    }
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
    assert_eq!(got, failed(2, "Error: timed out after 200ms\n"));
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
        (ErrCode::RevMismatch, "", 1, "Error: REV_MISMATCH\n"),
        (ErrCode::Readonly, "", 2, "Error: READONLY\n"),
        (ErrCode::Other, "permission denied", 2, "Error: OTHER: permission denied\n"),
    ] {
        let fake = Fake::start(move |_, peer| {
            let asked = peer.expect(Verb::Set);
            peer.fail(&asked, code, detail);
            peer.ignore();
        });
        assert_eq!(run(&["-a", &fake.uri(), "set", "/a", "1"], ""), failed(status, text));
    }
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
    assert_eq!(stderr, "Error: not an address of the form host[:port]: `http://x`\n");
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
