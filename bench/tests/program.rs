//! The program as it is called, without our server.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of a program are made of files")]

#[path = "../src/fake.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fake;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fake::Fake;

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

/// One scenario that fails, on a busy machine or for whatever reason, must not cost the others; and at the end it has to be seen.
#[test]
fn a_scenario_that_fails_does_not_end_the_others() {
    let of_servers = "latency throughput waits memory snapshot disk hostile cluster-latency cluster-throughput failover idle cluster-get catch-up";
    for json in [false, true] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let data = dir.path().join("data");
        let mut command = bench();
        command.args(["all", "--quick", "--rounds", "1", "--doozerd", "/bin/true", "--dir"]).arg(&data);
        if json {
            command.arg("--json");
        }
        let out = command.output().unwrap();
        let (printed, said) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert_eq!(out.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("doozer-bench: 13 of 14 failed: latency: "), "{said}");
        for name in of_servers.split(' ') {
            assert!(last.contains(&format!("{name}: ")) && last.contains("ended"), "{name} is not in {last}");
            assert!(said.contains(&format!("{name}: ")) && said.contains("going on with the next"), "{said}");
        }
        // What needs no server was measured.
        if json {
            let record: serde_json::Value = serde_json::from_str(&printed).unwrap();
            let failures: Vec<_> =
                record["failures"].as_array().unwrap().iter().map(|f| f["scenario"].as_str().unwrap()).collect();
            assert_eq!((failures.join(" "), &record["reports"][0]["scenario"]), (of_servers.into(), &"floor3".into()));
        } else {
            assert!(printed.contains("floor of three p50") && printed.contains("  FAILED  catch-up: "), "{printed}");
        }
        assert!(!data.exists(), "a run leaves nothing");
    }
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

/// All loads against those of the other systems that are installed, and a record and a report of it.
#[test]
fn installed_systems_are_started_measured_and_taken_down() {
    let installed: Vec<_> = [("zookeeper", "/usr/share/java/zookeeper.jar"), ("etcd", "/usr/bin/etcd")]
        .into_iter()
        .filter_map(|(name, file)| std::path::Path::new(file).exists().then_some(name))
        .collect();
    if installed.is_empty() {
        eprintln!("skipped: neither ZooKeeper nor etcd is installed");
        return;
    }
    let dir = tempfile::tempdir_in(".").unwrap();
    let (data, record, report) = (dir.path().join("data"), dir.path().join("record"), dir.path().join("report"));
    let definition = dir.path().join("definition.toml");
    std::fs::write(&definition, ALL_WORK).unwrap();
    let out = bench()
        .arg("compare")
        .arg(&definition)
        .args(["--systems", &installed.join(","), "--dir"])
        .arg(&data)
        .arg("--record")
        .arg(&record)
        .arg("--html")
        .arg(&report)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let json: serde_json::Value = serde_json::from_reader(std::fs::File::open(record).unwrap()).unwrap();
    let rows = json["comparisons"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10 * installed.len(), "{rows:?}");
    let machine = &json["setting"]["machine"];
    assert!(
        machine["data"]["options"].is_string() && machine["measured_at"].as_str().unwrap().ends_with('Z'),
        "{machine}"
    );
    for row in rows {
        assert!(
            row["operations"].as_u64().unwrap() > 0 && row["p50_of_floor"]["median"].as_f64().unwrap() > 0.0,
            "{row}"
        );
    }
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.matches("<svg").count() >= 8 && report.ends_with("</html>\n"));
    assert!(!data.exists(), "a run leaves nothing");
}

const ALL_WORK: &str = "
name = 'all'
about = 'each kind of work'
nodes = 1
systems = ['doozer']
rounds = 1
seconds = 0.05
warm_up = 0.01
[[load]]
name = 'set'
work = 'set'
value = 16384
files = 10
connections = 4
outstanding = 8
idle_watches = 150
assert.revisions = 1.0
[[load]]
name = 'get'
work = 'get'
value = 16384
files = 10
connections = 4
outstanding = 8
assert.revisions = 0.0
[[load]]
name = 'mixed'
work = 'mixed'
files = 10
outstanding = 8
assert.revisions = 0.1
[[load]]
name = 'cas'
work = 'compare-and-set'
connections = 3
assert.revisions = 1.0
[[load]]
name = 'hand-over'
work = 'hand-over'
connections = 2
assert = { revisions = 2.0, wakes = 1 }
[[load]]
name = 'fan-out'
work = 'fan-out'
connections = 20
assert = { revisions = 1.0, wakes = 20 }
[[load]]
name = 'set-large'
work = 'set'
value = 1000000
files = 3
connections = 2
outstanding = 2
assert.revisions = 1.0
[[load]]
name = 'get-large'
work = 'get'
value = 1000000
files = 3
outstanding = 2
assert.revisions = 0.0
[[load]]
name = 'open'
work = 'set'
connections = 4
outstanding = 8
rates = [200.0]
assert.revisions = 1.0
[[load]]
name = 'shares'
work = 'set'
connections = 4
outstanding = 8
shares = { of = 'set', at = [0.5] }
assert.revisions = 1.0
";

/// A misspelt load or definition must be said before anything is started.
#[test]
fn what_is_not_there_cannot_be_compared() {
    for (args, why) in [(&["two"][..], "no definition two"), (&["one", "--only", "st-1x1"], "no load st-1x1")] {
        let out = bench().arg("compare").args(args).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

/// A comparison with a server of this test, in a directory of its own.
struct Comparing {
    dir: tempfile::TempDir,
    fake: Fake,
}

impl Comparing {
    fn new() -> Comparing {
        Comparing { dir: tempfile::tempdir_in(".").unwrap(), fake: Fake::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Of one load, whose assertion is this; the record, the page and the data have these names.
    fn command(&self, assertions: &[&str]) -> Command {
        let mut command = bench();
        command.arg("compare");
        for (number, revisions) in assertions.iter().enumerate() {
            let load = format!("[[load]]\nname='set-{number}'\nwork='set'\nassert.revisions={revisions}\n");
            let path = self.path(&format!("definition-{number}"));
            std::fs::write(&path, format!("{HEAD}{load}")).unwrap();
            command.arg(path);
        }
        command.arg("--endpoints").arg(format!("doozer={}", self.fake.addr()));
        for name in ["record", "html", "dir"] {
            command.arg(format!("--{name}")).arg(self.path(name));
        }
        command
    }

    /// How many comparisons the record has; and the page is whole, and nothing else is left.
    fn kept(&self) -> usize {
        let record: serde_json::Value = serde_json::from_reader(File::open(self.path("record")).unwrap()).unwrap();
        assert!(std::fs::read_to_string(self.path("html")).unwrap().ends_with("</html>\n"));
        assert!(!self.path("dir").exists());
        record["comparisons"].as_array().unwrap().len()
    }
}

const HEAD: &str = "name='x'\nabout='y'\nnodes=1\nsystems=['doozer']\nrounds=1\nseconds=0.02\nwarm_up=0.0\n";

/// What was measured must not be lost because nobody reads, or because the disk is full.
#[test]
fn a_stdout_that_takes_nothing_costs_only_itself() {
    for json in [false, true] {
        let comparing = Comparing::new();
        let mut command = comparing.command(&["1.0"]);
        if json {
            command.arg("--json");
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        let out = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write to stdout") && !said.contains("panicked"), "{said}");
        assert_eq!(comparing.kept(), 1);
    }
}

/// Progress is nothing to end a run for.
#[test]
fn a_stderr_that_is_closed_does_not_end_a_run() {
    let comparing = Comparing::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = comparing.command(&["1.0"]).stderr(writer).output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(String::from_utf8(out.stdout).unwrap().contains("set-0"));
    assert_eq!(comparing.kept(), 1);
}

/// An hour of the first definition is not lost because the second one fails.
#[test]
fn what_was_measured_before_a_failure_is_kept() {
    for json in [false, true] {
        let comparing = Comparing::new();
        let mut command = comparing.command(&["1.0", "0.5"]);
        if json {
            command.arg("--json");
        }
        let out = command.output().unwrap();
        let (printed, said) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("set-1") && said.contains("revisions after"), "{said}");
        assert_eq!(comparing.kept(), 1);
        assert!(printed.contains("set-0") && printed.starts_with('{') == json, "{printed}");
    }
}

/// One of two outputs that cannot be written does not cost the other one.
#[test]
fn one_output_that_fails_leaves_the_other() {
    let comparing = Comparing::new();
    std::os::unix::fs::symlink("/dev/full", comparing.path("record")).unwrap();
    let out = comparing.command(&["1.0"]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("record"), "{said}");
    assert!(std::fs::read_to_string(comparing.path("html")).unwrap().ends_with("</html>\n"));
    assert!(String::from_utf8(out.stdout).unwrap().contains("set-0"));
}

/// What is wrong with the flags is to be said before anything is started or measured.
#[test]
fn flags_that_cannot_be_meant_are_refused_at_once() {
    let one = &["compare", "one"][..];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("no/such/file");
    for (args, why) in [
        (&["--html", "/"][..], "cannot write /"),
        (&["--record", file.to_str().unwrap()], "cannot write"),
        (&["--record", "x", "--html", "x"], "x: one file for two things"),
        (&["--systems", "etcd,etcd"], "etcd twice"),
        (&["--systems", "etcd", "--endpoints", "doozer=127.0.0.1:1"], "takes no part"),
        (&["--endpoints", "etcd=127.0.0.1:1,127.0.0.1:2"], "2 addresses"),
        (&["--node-cores", "free"], "--node-cores is for three"),
    ] {
        let out = bench().args(one).args(args).args(["--dir", "/proc/not"]).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && !said.contains("/proc/not"), "{said}");
    }
}
