//! The program as it is called, without a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_doozer-bench"))
}

/// Without a server there is nothing to measure, and the reader needs to know how to get one.
#[test]
fn a_server_that_is_not_there_is_said_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let out = bench().args(["waits", "--doozerd", "no/such/doozerd", "--dir"]).arg(&data).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("no/such/doozerd") && said.contains("cargo build --release"), "{said}");
    assert!(!data.exists(), "a run that did not begin leaves nothing");
}

/// A server that dies at once must not be waited for, nor leave its directory behind.
#[test]
fn a_server_that_dies_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let out = bench().args(["latency", "--quick", "--doozerd", "/bin/true", "--dir"]).arg(&data).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("latency: ") && said.contains("ended"), "{said}");
    assert!(!data.exists());
}

/// The floor answers with the tag 1 and a revision that rises from the one that it was given, in as many bytes as a
/// server's answer to a SET has.
#[test]
fn the_floor_answers_as_a_server_does() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut child = bench()
        .args(["floor-server", "--core", "0", "--first-rev", "5000", "--file"])
        .arg(dir.path().join("floor"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("floor: listening on ").unwrap_or_else(|| panic!("{line}"));
    let mut stream = TcpStream::connect(addr).unwrap();
    for rev in 5000_u16..5003 {
        // REV, tag 1.
        stream.write_all(&[0, 0, 0, 4, 0x08, 1, 0x10, 5]).unwrap();
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).unwrap();
        let [high, low] = [rev >> 7, rev & 0x7f].map(|b| u8::try_from(b).unwrap());
        assert_eq!(answer, [0, 0, 0, 5, 0x08, 1, 0x18, 0x80 | low, high]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
