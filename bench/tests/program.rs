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

/// The floor of a cluster: what is asked of the first is on the other's disk, too, when it is answered.
#[test]
fn the_floor_passes_on_what_it_is_asked() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut children = Vec::new();
    let mut start = |args: &[&str]| {
        let mut child = bench().args(args).current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        children.push(child);
        line.trim().split_once(": listening on ").unwrap_or_else(|| panic!("{line}")).1.to_string()
    };
    let peer = start(&["floor-server", "--first-rev", "1000", "--file", "peer"]);
    let first = start(&["floor-server", "--first-rev", "1000", "--file", "first", "--peer", &peer]);
    let echo = start(&["echo-server"]);
    let mut stream = TcpStream::connect(first).unwrap();
    // SET, tag 1, with a value that can be found.
    stream.write_all(&[0, 0, 0, 10, 0x08, 1, 0x10, 2, 0x2a, 4, 0xfe, 0xed, 0xfa, 0xce]).unwrap();
    stream.read_exact(&mut [0; 9]).unwrap();
    for file in ["first", "peer"] {
        let file = std::fs::OpenOptions::new().read(true).open(dir.path().join(file)).unwrap();
        let mut block = Vec::new();
        file.take(4096).read_to_end(&mut block).unwrap();
        assert!(block.windows(4).any(|four| four == [0xfe, 0xed, 0xfa, 0xce]), "{block:?}");
    }
    let mut stream = TcpStream::connect(echo).unwrap();
    stream.write_all(&[7; 128]).unwrap();
    let mut back = [0; 128];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, [7; 128]);
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
