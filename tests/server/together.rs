//! The command and the client library against the server itself, as people use them: what the start-up prints, what the
//! README shows, and a server that is killed under its clients.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::common::process::{Server, Setup};
use crate::common::wire::{bare, get, set};
use doozer::client::{Change, Client, Error};
use doozer::wire::Verb;

const DOOZER: &str = env!("CARGO_BIN_EXE_doozer");

/// Runs the command; its exit status, and what it says on stdout and stderr.
fn doozer(uri: &str, words: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(DOOZER);
    command.args(words).env("DOOZER_URI", uri).env_remove("DOOZER_BOOT_URI");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn uri(server: &Server) -> String {
    format!("doozer:?ca={}", server.addr())
}

/// A port that was free a moment ago, for a server that is to come back on it.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The first thing that a new user does is to type what the server says.
#[test]
fn the_hello_that_is_printed_does_not_work() {
    let server = Setup::new().start();
    let line = server.says("say hello");
    let hello = line.split_once("say hello with: doozer ").unwrap().1;
    let output = Command::new("sh").args(["-c", &format!("\"$0\" {hello}"), DOOZER]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{hello}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().take(4).collect::<Vec<_>>(), ["/ctl", "/ctl/cal", "/ctl/cal/0", "/ctl/name"]);
}

/// Every command, against what it talks to; the exit status tells a lost compare-and-set from any other error, which the
/// original's never does.
#[test]
fn the_command_and_the_server_disagree() {
    let server = Setup::new().start();
    let uri = uri(&server);
    let run = |words: &[&str], stdin: &str| doozer(&uri, words, stdin);
    let ok = |out: String| (Some(0), out, String::new());
    let (status, out, err) = run(&["add", "/app/leader"], "one");
    assert_eq!((status, err.as_str()), (Some(0), ""));
    let made: i64 = out.trim().parse().unwrap();
    let (rev, next) = (made.to_string(), made + 1);
    assert_eq!(run(&["get", "/app/leader"], ""), ok("one".into()));
    assert_eq!(run(&["stat", "/app/leader"], ""), ok(format!("{rev} 3\n")));
    assert_eq!(run(&["stat", "/app"], ""), ok("d 1\n".into()));
    assert_eq!(run(&["set", "/app/leader", &rev], "two"), ok(format!("{next}\n")));
    let mismatch = |why: String| (Some(1), String::new(), format!("Error: REV_MISMATCH: /app/leader {why}\n"));
    let later = mismatch(format!("is at revision {next}, later than {rev}"));
    assert_eq!(run(&["set", "/app/leader", &rev], "three"), later);
    assert_eq!(run(&["add", "/app/leader"], "three"), mismatch(format!("exists already, at revision {next}")));
    assert_eq!(run(&["del", "/app/leader", &rev], ""), later);
    assert_eq!(run(&["get", "/app/leader"], ""), ok("two".into()));
    assert_eq!(run(&["-r", &rev, "get", "/app/leader"], ""), ok("one".into()));
    assert_eq!(run(&["find", "/app"], ""), ok("/app\n/app/leader\n".into()));
    assert_eq!(run(&["rev"], ""), ok(format!("{next}\n")));
    assert_eq!(run(&["nop"], ""), ok(String::new()));
    assert_eq!(run(&["wait", "-r", &rev, "/app/*"], ""), ok(format!("/app/leader {rev} set 3\none\n")));
    assert_eq!(run(&["del", "/app/leader", &next.to_string()], ""), ok(String::new()));
    assert_eq!(run(&["wait", "-r", &(next + 1).to_string(), "/**"], ""), ok(format!("/ {} nop 0\n\n", next + 1)));
    let gone = (next + 2).to_string();
    assert_eq!(run(&["wait", "-r", &gone, "/app/**"], ""), ok(format!("/app/leader {gone} del 0\n\n")));
    for words in [["get", "/app/leader"], ["stat", "/app"], ["find", "/app"]] {
        let (status, out, err) = run(&words, "");
        assert_eq!((status, out.as_str()), (Some(2), ""), "{words:?}: {err}");
        assert!(err.starts_with("Error: "), "{err}");
    }
    for (words, said) in [
        (["add", "bad"], "BAD_PATH: bad: a path begins with `/`"),
        (["add", "/ctl/name/x"], "NOTDIR: /ctl/name/x: /ctl/name is a file, and nothing can stand below a file"),
        (["get", "/ctl"], "ISDIR: /ctl is a directory"),
    ] {
        let (status, _, err) = run(&words, "");
        assert_eq!((status, err.as_str()), (Some(2), format!("Error: {said}\n").as_str()));
    }
    let (status, id, _) = run(&["self"], "");
    assert_eq!((status, id.trim().len()), (Some(0), 16));
    assert_eq!(run(&["touch", "/ctl/name"], "").0, Some(0));
    assert_eq!(run(&["get", "/ctl/name"], ""), ok("local".into()));
}

/// A secret in the URI is presented; without it a stranger is refused.
#[test]
fn the_command_cannot_present_a_secret() {
    let server = Setup::new().env("DOOZER_RWSECRET", "s3cret").start();
    let plain = uri(&server);
    let said = "Error: OTHER: permission denied: /x; is a secret missing, or wrong? (`sk` in the URI)\n";
    assert_eq!(doozer(&plain, &["add", "/x"], "1"), (Some(2), String::new(), said.to_string()));
    assert_eq!(doozer(&format!("{plain}&sk=s3cret"), &["add", "/x"], "1").0, Some(0));
    assert_eq!(doozer(&plain, &["get", "/x"], ""), (Some(0), "1".into(), String::new()));
}

/// A watch goes on over kill -9 and restart of the server, by revision: no event is lost, none comes twice, and none of
/// a write that was acknowledged is missing.
#[tokio::test]
async fn a_watch_loses_an_event_when_the_server_is_killed() {
    let setup = Setup::new().listen(free_port());
    let mut server = setup.start();
    let client = Client::connect(&uri(&server)).await.unwrap();
    let from = client.rev().await.unwrap() + 1;
    let mut watch = client.watch("/w/*", from);
    let (mut expected, mut seen) = (Vec::new(), 0);
    for round in 0..4 {
        let mut c = server.connect();
        for i in 0..50 {
            let value = format!("{round} {i}");
            expected.push((c.put(&format!("/w/{}", i % 7), value.as_bytes()), value));
        }
        // Of every other round, some are read only after the restart.
        let until = expected.len() - 20 * (round % 2);
        for (rev, value) in &expected[seen..until] {
            let event = watch.next().await.unwrap().unwrap();
            assert_eq!((event.rev, event.value.as_slice()), (*rev, value.as_bytes()));
            assert_eq!(event.change, Change::Set);
        }
        seen = until;
        server.kill();
        server = setup.start();
        assert!(client.rev().await.unwrap() >= expected.last().unwrap().0, "the client finds the server again");
    }
}

/// Writes that were on their way when the server was killed either are there with the revision that was told, or their
/// outcome is said to be unknown. None is repeated: with rev 0 a repeated one would be a mismatch.
#[tokio::test]
async fn the_client_repeats_a_write_when_the_server_is_killed() {
    let setup = Setup::new().listen(free_port());
    let mut server = setup.start();
    let client = Client::connect(&uri(&server)).await.unwrap();
    for round in 0..4 {
        let writes: Vec<_> = (0..200)
            .map(|i| {
                let client = client.clone();
                tokio::spawn(async move { client.set(&format!("/once/{round}/{i}"), 0, "x").await })
            })
            .collect();
        // In the midst of them.
        let first = client.set(&format!("/once/{round}/first"), 0, "x").await;
        server.kill();
        server = setup.start();
        let mut c = server.connect();
        let mut check = |i: String, outcome: Result<i64, Error>| {
            let there = c.call(&get(&format!("/once/{round}/{i}"))).rev.unwrap();
            match outcome {
                Ok(rev) => assert_eq!(there, rev, "{i}"),
                Err(Error::OutcomeUnknown { .. }) => {}
                Err(Error::Unreachable(_) | Error::Disconnected { .. }) => assert_eq!(there, 0, "{i}"),
                Err(e) => panic!("{i}: {e}"),
            }
        };
        check("first".into(), first);
        for (i, write) in writes.into_iter().enumerate() {
            check(i.to_string(), write.await.unwrap());
        }
    }
}

/// The server comes back at once on the port that it had, though its clients' connections are not gone yet.
#[test]
fn a_restart_finds_its_own_port_busy() {
    let setup = Setup::new().listen(free_port());
    for round in 0..6 {
        let server = setup.start();
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for c in &mut clients {
            assert!(c.call(&set("/x", -1, b"")).revision() > 0);
            // Some have answers that they never read.
            c.send(&bare(Verb::Rev));
        }
        if round % 2 == 0 {
            server.kill();
        } else {
            assert_eq!(server.stop().status, Some(0));
        }
    }
}
