//! Starting and stopping: flags, environment, what is said on stderr, exit statuses, and the server's own files in `/ctl`.

#![cfg(feature = "server")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

mod common;

use std::net::TcpListener;

use common::eventually;
use common::process::{Exited, Setup, doozerd, temp_dir, text};
use common::wire::*;
use doozer::wire::Verb;
use rustix::process::Signal;

/// Asserts that a server refused to start with this status, in one line that holds all of `words`.
#[track_caller]
fn one_line(refused: &Exited, status: i32, words: &[&str]) {
    let Exited { status: ended, stderr, .. } = refused;
    assert_eq!(*ended, Some(status), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
}

/// An operator has to learn where it listens, where its data is, what was recovered, and how to say hello.
#[test]
fn the_start_says_too_little() {
    let setup = Setup::new();
    let server = setup.start();
    let said = server.stderr();
    let dir = std::fs::canonicalize(&setup.dir).unwrap();
    for word in [&format!("listening on {}", server.addr()), text(&dir), "a new data directory", "doozer -a"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    let mut c = server.connect();
    let now = c.put("/x", b"");
    let stopped = server.stop();
    assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
    let again = setup.start().stderr();
    let line = again.lines().find(|line| line.contains("recovered")).unwrap_or_else(|| panic!("{again}"));
    for word in [&format!("revision {now}"), " ms", "records"] {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

/// A server that polls answers as any other, and sleeps when nobody asks for anything: a core that never rests is its neighbours' loss.
#[test]
fn a_server_that_polls_never_rests() {
    let server = Setup::new().flags(["--busy-poll", "1000"]).start();
    let mut c = server.connect();
    for _ in 0..100 {
        c.put("/x", b"");
    }
    eventually("it rests for half of half a second", || {
        let before = server.cpu_ticks();
        std::thread::sleep(std::time::Duration::from_millis(500));
        (server.cpu_ticks() - before < 25).then_some(())
    });
}

/// The directory is made where it is not there, its parents too.
#[test]
fn a_missing_directory_is_an_error() {
    let home = temp_dir();
    let setup = Setup::at(home.path().join("deep/er/data"));
    setup.start().connect().put("/x", b"");
    assert_eq!(setup.files(".log")[0], "0000000000000001.log");
}

/// Tools of the original find the cluster's nodes here.
#[test]
fn the_servers_own_files_are_missing() {
    let setup = Setup::new().flags(["-c", "my.cluster-1"]);
    let server = setup.start();
    let mut c = server.connect();
    let id = String::from_utf8(c.call(&bare(Verb::SelfId)).value.unwrap()).unwrap();
    let mut file = |path: String| {
        let said = c.call(&get(&path));
        assert!(said.rev.unwrap() > 0, "{path}: {said}");
        String::from_utf8(said.value.unwrap()).unwrap()
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(file("/ctl/name".into()), "my.cluster-1");
    assert_eq!(file("/ctl/cal/0".into()), id);
    assert_eq!(file(format!("/ctl/node/{id}/addr")), server.addr().to_string());
    assert_eq!(file(format!("/ctl/node/{id}/hostname")), host.trim());
    assert_eq!(file(format!("/ctl/node/{id}/writable")), "true");
    assert!(file(format!("/ctl/node/{id}/version")).starts_with(env!("CARGO_PKG_VERSION")));
    // A node keeps its id, and says where it listens now.
    server.kill();
    let server = setup.start();
    let mut c = server.connect();
    assert_eq!(c.call(&bare(Verb::SelfId)).value, Some(id.clone().into_bytes()));
    let addr = c.call(&get(&format!("/ctl/node/{id}/addr"))).value.unwrap();
    assert_eq!(String::from_utf8(addr).unwrap(), server.addr().to_string());
}

/// The original writes `/ctl/node/<id>/applied` every second, which eats the history of an idle cluster. Ours only when
/// it is told to.
#[test]
fn an_idle_server_makes_revisions() {
    let idle = Setup::new().start();
    let pulsing = Setup::new().flags(["-pulse", "0.3"]).start();
    let before = idle.connect().rev();
    let mut c = pulsing.connect();
    let id = String::from_utf8(c.call(&bare(Verb::SelfId)).value.unwrap()).unwrap();
    let path = format!("/ctl/node/{id}/applied");
    let mut from = 1;
    for _ in 0..8 {
        let event = c.call(&wait(&path, from));
        let applied: i64 = String::from_utf8(event.value.clone().unwrap()).unwrap().parse().unwrap();
        assert!((1..event.revision()).contains(&applied), "{event}");
        from = event.revision() + 1;
    }
    let mut c = idle.connect();
    assert_eq!(c.rev(), before, "as long as eight pulses of the other took");
    assert_eq!(c.ask(&walk("/ctl/node/*/applied", 0)), "RANGE");
}

/// Scripts of the original give flags with one dash; others with two, or with an equals sign.
#[test]
fn a_dash_more_or_less_matters() {
    let home = temp_dir();
    for (i, words) in [["-c", "one"].as_slice(), &["--c", "one"], &["-c=one"], &["--c=one"]].iter().enumerate() {
        let server = Setup::at(home.path().join(i.to_string())).flags(*words).start();
        assert_eq!(server.connect().ask(&get("/ctl/name")), "rev=1 value=\"one\"", "{words:?}");
        // Only one at a time fills the disk.
        server.kill();
        std::fs::remove_dir_all(home.path().join(i.to_string())).unwrap();
    }
}

#[test]
fn help_and_version_are_errors() {
    for flag in ["-v", "--v"] {
        let (status, out, err) = doozerd(&[flag]);
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
    }
    for flag in ["-h", "--h", "-help", "--help"] {
        let (status, out, err) = doozerd(&[flag]);
        assert_eq!((status, err.as_str()), (Some(0), ""), "{flag}");
        for word in [
            "-l",
            "-d",
            "-c",
            "-hist",
            "-pulse",
            "-timeout",
            "--core",
            "--busy-poll",
            "DOOZER_RWSECRET",
            "DOOZER_ROSECRET",
        ] {
            assert!(out.contains(word), "{word} is not in the help: {out}");
        }
    }
}

/// A mistyped flag must not be ignored, nor a wrong value be taken for a default.
#[test]
fn a_wrong_flag_is_ignored() {
    let home = temp_dir();
    let setup = Setup::at(home.path().join("data"));
    for words in [
        ["-nope"].as_slice(),
        &["stray"],
        &["-hist", "0"],
        &["-hist", "-5"],
        &["-hist", "many"],
        &["-core", "x"],
        &["-core", "-1"],
        &["-pulse", "soon"],
        &["-timeout", "x"],
        &["-l"],
    ] {
        let refused = setup.clone().flags(words).refused();
        assert_eq!(refused.status, Some(2), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("--help"), "{words:?}: {}", refused.stderr);
    }
    for (words, named) in [(["-pulse=-1"], "-pulse"), (["-timeout=-1"], "-timeout"), (["-timeout=inf"], "-timeout")] {
        one_line(&setup.clone().flags(words).refused(), 1, &[named, "seconds"]);
    }
    let long = "x".repeat(256);
    for name in ["", "a b", "a/b", "\u{e9}", &long] {
        one_line(&setup.clone().flags(["-c", name]).refused(), 1, &["-c", "letters"]);
    }
    assert!(!setup.dir.exists(), "a refusal leaves nothing behind");
}

/// Who is to join a cluster that cannot be reached must wait for it, and say so: a cluster of its own would be another one.
#[test]
fn a_node_founds_a_cluster_when_it_was_to_join_one() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut server = Setup::new().flags(["-a", &address.to_string()]).spawn();
    server.says(&format!("cannot attach to the node at {address} yet"));
    assert!(server.runs());
    assert!(!server.stderr().contains("say hello"), "{}", server.stderr());
    let uri = format!("doozer:?ca={address}");
    for server in [Setup::new().flags(["-b", &uri]).spawn(), Setup::new().env("DOOZER_BOOT_URI", &uri).spawn()] {
        server.says("the name service cannot be asked");
        assert!(!server.stderr().contains("say hello"), "{}", server.stderr());
    }
    one_line(&Setup::new().flags(["-b", "http://x"]).refused(), 1, &["-b http://x"]);
}

/// Scripts export variables that they leave empty, which is to say: not set.
#[test]
fn an_empty_variable_is_taken_for_a_value() {
    let setup = Setup::new();
    let empty = ["DOOZER_BOOT_URI", "DOOZER_RWSECRET", "DOOZER_ROSECRET"];
    let server = empty.iter().fold(setup, |setup, name| setup.env(name, "")).start();
    assert!(server.connect().put("/x", b"") > 0);
}

/// An address of the other family, with its brackets.
#[test]
fn an_address_of_ipv6_is_refused() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: there is no IPv6 here");
    }
    let server = Setup::new().listen("[::1]:0").start();
    assert!(server.addr().is_ipv6());
    assert!(server.connect().put("/x", b"") > 0);
}

/// `-fill`, `-w` and `-timeout` are in people's start scripts: they are accepted, and what has no effect says so.
#[test]
fn a_flag_of_the_original_stops_the_server() {
    let server = Setup::new().flags(["-fill", "3", "-w", "127.0.0.1:8000", "-timeout", "60", "-pulse", "0"]).start();
    let said = server.stderr();
    for flag in ["-fill", "-w"] {
        let line = said.lines().find(|line| line.contains(flag)).unwrap_or_else(|| panic!("{flag}: {said}"));
        assert!(line.contains("no effect"), "{line}");
    }
    server.connect().put("/x", b"");
}

/// The original panics at a busy port. Ours names it and says what to do; so for an address that is none.
#[test]
fn a_busy_port_is_a_panic() {
    let home = temp_dir();
    let setup = Setup::at(home.path().join("data"));
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    one_line(&setup.clone().listen(&addr).refused(), 1, &[&addr, "listens there", "port"]);
    for address in ["nowhere", "127.0.0.1", "127.0.0.1:99999", "192.0.2.1:80", ":", ""] {
        one_line(&setup.clone().listen(address).refused(), 1, &["-l", address, "HOST:PORT"]);
    }
}

/// A core that is not there must be refused, and one that is there be used.
#[test]
fn a_core_is_ignored() {
    let home = temp_dir();
    let setup = Setup::at(home.path().join("data"));
    for core in ["1023", "1024", "99999999999"] {
        one_line(&setup.clone().flags(["--core", core]).refused(), 1, &["--core", core, "choose"]);
    }
    let allowed = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        line.trim().to_string()
    };
    let core = allowed("self").split(['-', ',']).next().unwrap().to_string();
    for dashes in ["-core", "--core"] {
        let server = setup.clone().flags([dashes, &core]).start();
        assert_eq!(allowed(&server.pid().to_string()), core);
        server.connect().put("/x", b"");
    }
}

/// Two servers that write one log destroy it.
#[test]
fn a_second_server_takes_the_same_directory() {
    let setup = Setup::new();
    let server = setup.start();
    let mut c = server.connect();
    let now = c.put("/x", b"1");
    let files = setup.files("");
    let pid = server.pid().to_string();
    one_line(&setup.refused(), 1, &[text(&setup.dir), "in use", &pid, "-d"]);
    one_line(&setup.clone().flags(["--salvage"]).refused(), 1, &["in use"]);
    assert_eq!(setup.files(""), files);
    assert_eq!(c.ask(&get("/x")), format!("rev={now} value=\"1\""));
    // Nothing of the lock outlives its holder, however that ends.
    server.kill();
    setup.start().connect().put("/x", b"2");
}

/// A node of one cluster that is started for another must not go on with the wrong data.
#[test]
fn a_wrong_cluster_name_goes_unnoticed() {
    let setup = Setup::new();
    setup.clone().flags(["-c", "mine"]).start().kill();
    one_line(&setup.clone().flags(["-c", "yours"]).refused(), 1, &["-c yours", "mine", "-d"]);
    let mut names = Vec::new();
    for flags in [&[][..], &["-c", "mine"]] {
        let server = setup.clone().flags(flags).start();
        names.push(server.connect().ask(&get("/ctl/name")));
    }
    assert_eq!(names, ["rev=1 value=\"mine\""; 2]);
}

/// A directory that cannot be had is named, with what to do.
#[test]
fn a_directory_that_cannot_be_used_is_a_panic() {
    let home = temp_dir();
    let file = home.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for dir in [file.clone(), file.join("below"), "/proc/nothing".into()] {
        one_line(&Setup::at(&dir).refused(), 1, &[text(&dir), "-d"]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
}

/// Both ways to ask a server to stop end it in order, with status 0 and the data as it was acknowledged.
#[test]
fn a_signal_loses_a_write() {
    let setup = Setup::new();
    let mut last = 0;
    for (i, signal) in [Signal::TERM, Signal::INT, Signal::TERM].into_iter().enumerate() {
        let server = setup.start();
        let mut c = server.connect();
        let path = format!("/stop/{i}");
        let made = c.put(&path, b"x");
        assert!(made > last, "the revision goes back");
        // Idle connections and waits must not hold it up.
        let mut waiting = server.connect();
        waiting.send(&wait("/**", i64::MAX));
        let _idle = server.connect();
        server.signal(signal);
        let Exited { status, stderr, .. } = server.exited();
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stderr.contains(&format!("revision {made}")), "{stderr}");
        waiting.ends();
        last = made;
    }
    let server = setup.start();
    let mut c = server.connect();
    for i in 0..3 {
        assert!(c.call(&get(&format!("/stop/{i}"))).revision() > 0);
    }
}

/// `doozerd 2>&1 | head` ends the reader of its words, and must not end the server when it has something to say.
#[test]
fn a_server_dies_when_nobody_listens_to_it() {
    let setup = Setup::new().run_by(["sh", "-c", "exec \"$0\" \"$@\" 2>&1 >/dev/null | head -n 2 >&2"]);
    // The pipeline's reader leaves after the second line; the address is in it.
    let shell = setup.spawn();
    let line = shell.says("listening on");
    let addr = line.split_once("listening on ").unwrap().1.parse().unwrap();
    let mut c = eventually("it answers", || {
        let stream = std::net::TcpStream::connect::<std::net::SocketAddr>(addr).ok()?;
        Some(Client::over(stream))
    });
    let made = c.put("/x", b"1");
    let pid = std::fs::read_to_string(setup.dir.join("lock")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    c.ends();
    assert_eq!(shell.exited().status, Some(0));
    let said = Setup::at(&setup.dir).start().connect().ask(&get("/x"));
    assert_eq!(said, format!("rev={made} value=\"1\""));
}
