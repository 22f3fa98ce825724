//! Starting and stopping: flags, environment, what is said on stderr, exit statuses, and the server's own files in `/ctl`.

use std::net::TcpListener;

use crate::common::eventually;
use crate::common::process::{Exited, Setup, doozerd, temp_dir, text};
use crate::common::wire::*;
use doozer::stats::Stats;
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
            "-advertise",
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
        &["-v=yes"],
        &["-hist", "many"],
        &["-hist", "-"],
        &["-hist", "5x"],
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
    for (words, named) in [(["-pulse=-1"], "-pulse"), (["-timeout=inf"], "-timeout"), (["-timeout=NaN"], "-timeout")] {
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

/// Scripts of the original give switches a value, leave arguments behind, and numbers that it took: they go on to work, and a line
/// says what becomes of each.
#[test]
fn a_start_up_script_of_the_original_stops_the_server() {
    let words = ["-v=false", "-w=false", "stray", "-timeout", "1", "-hist", "0"];
    let server = Setup::new().flags(words).start();
    let said = server.stderr();
    for (named, taken) in [("stray", "ignored"), ("-timeout 1:", "1.6 seconds"), ("-hist 0:", "taken as 1")] {
        let line = said.lines().find(|line| line.contains(named)).unwrap_or_else(|| panic!("{named}: {said}"));
        assert!(line.contains(taken), "{line}");
    }
    server.connect().put("/x", b"");
    let server = Setup::new().flags(["-hist", "1000000000"]).start();
    server.says("taken as 100000000");
    for (words, line) in [
        (&["-hist", "-5"][..], "-hist -5: it is from 1 to 100000000, and so taken as 1"),
        (&["-hist=-5"], "-hist -5: it is from 1 to 100000000, and so taken as 1"),
        (
            &["-hist", "99999999999999999999"],
            "-hist 99999999999999999999: it is from 1 to 100000000, and so taken as 100000000",
        ),
        (&["-hist=-99999999999999999999"], "-hist -99999999999999999999: it is from 1 to 100000000, and so taken as 1"),
        (&["-timeout", "-1"], "-timeout -1: it is at least four times -election, and so taken as 1.6 seconds"),
        (&["-timeout=-1"], "-timeout -1: it is at least four times -election, and so taken as 1.6 seconds"),
        (&["-timeout", "1e30"], "it is at most 1000000000 seconds, and so taken as that"),
    ] {
        Setup::new().flags(words).start().says(line);
    }
    // Of a flag that is given twice, the last counts.
    Setup::new().flags(["-l", "127.0.0.1:0", "-hist", "7", "-hist", "0"]).start().says("taken as 1");
    let (status, out, err) = doozerd(&["-v=true"]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
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
    for address in ["nowhere", "127.0.0.1:99999", "192.0.2.1:80", ":", ""] {
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
    let has_others = allowed("self") != core;
    for dashes in ["-core", "--core"] {
        let server = setup.clone().flags([dashes, &core]).start();
        assert_eq!(allowed(&server.pid().to_string()), core);
        // Its other threads are not to be in the way there.
        for thread in ["lines", "signals", "names"] {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
            let mut ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
            let name = |id: &str| std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", server.pid())).unwrap();
            let id = ids.find(|id| name(id).trim() == thread).expect("the thread");
            let task = format!("{}/task/{id}", server.pid());
            eventually("it keeps off the core", || (!has_others || allowed(&task) != core).then_some(()));
        }
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
    setup.is_settled();
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

// ---- signals ----

/// A closed terminal, or a log rotation, sends SIGHUP; scripts send SIGUSR1 to daemons that reopen files on it. None of them may
/// end a server.
#[test]
fn a_closed_terminal_kills_the_server() {
    let server = Setup::new().start();
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        server.signal(signal);
        server.says(&format!("{name} changes nothing"));
    }
    server.connect().put("/x", b"");
    assert_eq!(server.stop().status, Some(0));
}

/// A signal that the kernel gives to the main thread is not heard while that thread is in a system call that nothing interrupts, as on a
/// disk that hangs: every thread but one blocks it.
#[test]
fn a_thread_on_a_stuck_disk_keeps_a_signal() {
    let server = Setup::new().start();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    // A worker of the ring may end meanwhile.
    let read = |dir: std::path::PathBuf| {
        let name = std::fs::read_to_string(dir.join("comm")).ok()?;
        Some((name.trim().to_owned(), std::fs::read_to_string(dir.join("status")).ok()?))
    };
    let mut hears = Vec::new();
    for (name, status) in tasks.filter_map(|task| read(task.unwrap().path())) {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a line SigBlk");
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2] {
            if mask & 1 << (signal.as_raw() - 1) == 0 {
                hears.push(name.clone());
            }
        }
    }
    assert_eq!(hears, ["signals"; 5]);
    assert_eq!(server.stop().status, Some(0));
}

/// A log of many megabytes takes seconds to read. Who stops the server meanwhile must not wait for that.
#[test]
fn recovery_does_not_hear_a_signal() {
    let setup = Setup::new().flags(["-hist", "1"]);
    let server = setup.start();
    let mut c = server.connect();
    let value = vec![b'v'; doozer::limits::VALUE_MAX];
    let requests: Vec<_> = (0..60).map(|i| set(["/a", "/b", "/c"][i % 3], -1, &value)).collect();
    requests.iter().for_each(|request| drop(c.call(request)));
    server.kill();
    let lock = setup.dir.join("lock");
    // On a busy machine recovery may be over when the signal is sent.
    eventually("a signal is sent while it recovers, and heard", || {
        std::fs::write(&lock, "").unwrap();
        let server = setup.spawn();
        eventually("it has the directory", || std::fs::read(&lock).is_ok_and(|pid| !pid.is_empty()).then_some(()));
        server.signal(Signal::TERM);
        let Exited { status, stderr, .. } = server.exited();
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stderr.contains("stopped before it could serve"), "{stderr}");
        (!stderr.contains("recovered")).then_some(())
    });
    setup.start().connect().put("/x", b"");
}

/// A client that does not read must not hold up the end for longer than it takes to see that; what it leaves has to be said.
#[test]
fn a_client_that_does_not_read_holds_up_the_end() {
    let server = Setup::new().start();
    let mut c = server.connect();
    c.put("/large", &vec![b'v'; doozer::limits::VALUE_MAX]);
    let mut deaf = server.connect();
    deaf.send_all(&vec![get("/large"); 60]);
    let mut unsent = move || {
        let told = c.call(&bare(Verb::Stats)).value.unwrap();
        Stats::decode(std::str::from_utf8(&told).unwrap()).unwrap().figure("output_bytes").unwrap()
    };
    // Each of these turns would have sent more, if there had been room in the socket's buffers.
    let (mut last, mut turns) = (0, 0);
    eventually("the client's answers are stuck", || {
        let now = unsent();
        turns = if now > 0 && now == last { turns + 1 } else { 0 };
        last = now;
        (turns == 50).then_some(())
    });
    let Exited { status, stderr, .. } = server.stop();
    assert_eq!(status, Some(0), "{stderr}");
    let line = stderr.lines().find(|line| line.contains("left unfinished"));
    assert!(line.is_some_and(|line| line.contains(&format!("did not take: {last}"))), "{stderr}");
}

// ---- what the machine refuses ----

/// stderr is a pipe that nobody reads: what is said there must hold up nobody, from the start to the end.
#[test]
fn the_server_waits_for_stderr() {
    const FULL: &str = "mkfifo \"$D\" && exec 3<>\"$D\" && head -c 65536 /dev/zero >&3 && exec \"$0\" \"$@\" 2>&3";
    let home = temp_dir();
    let addr = crate::common::cluster::fresh_address();
    let setup = Setup::new().env("D", home.path().join("pipe")).run_by(["sh", "-c", FULL]).listen(addr);
    let mut server = setup.spawn();
    let mut c = eventually("it serves", || {
        assert!(server.runs(), "it has ended");
        Some(Client::over(std::net::TcpStream::connect(addr).ok()?))
    });
    assert!(c.put("/x", b"") > 0);
    server.signal(Signal::HUP);
    assert!(c.put("/x", b"") > 0);
    server.signal(Signal::TERM);
    c.ends();
    assert_eq!(server.exited().status, Some(0));
}

/// What cannot be printed must be an error, and not a panic.
#[test]
fn a_full_stdout_is_a_panic() {
    for words in ["-v", "-help", "tune", "tune -help"] {
        let script = format!("\"$0\" {words} >/dev/full");
        let output =
            std::process::Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_doozerd")]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains("cannot write to stdout") && said.lines().count() == 1, "{words}: {said}");
    }
}

/// A command that takes a capability from the program that it runs, if this is root's; else it has none.
fn without(capability: &str, then: &str) -> Vec<String> {
    let mut words = Vec::new();
    if rustix::process::geteuid().is_root() {
        words.extend(["setpriv", "--bounding-set"].map(String::from));
        words.push(format!("-{capability}"));
    }
    words.extend(["sh".into(), "-c".into(), format!("{then} exec \"$0\" \"$@\"")]);
    words
}

/// A ring counts as locked memory. Too little of it must be one line, and not a panic; and the ring of a server that was killed
/// counts for a while longer, which must not keep it from coming back.
#[test]
fn too_little_locked_memory_is_a_panic() {
    let few = Setup::new().run_by(without("ipc_lock", "ulimit -l 64;"));
    one_line(&few.refused(), 1, &["io_uring is unavailable", "64 KiB", "LimitMEMLOCK="]);
    if !rustix::process::geteuid().is_root() {
        return eprintln!("half of it is skipped: other processes of this user may lock memory");
    }
    // Enough for one of them.
    let one = without("ipc_lock", "ulimit -l 600;");
    let first = Setup::new().run_by(&one);
    let mut server = first.start();
    one_line(&Setup::new().run_by(&one).refused(), 1, &["io_uring is unavailable", "600 KiB", "each server"]);
    for _ in 0..5 {
        server.kill();
        server = first.start();
    }
}

/// A system call that is forbidden must be named, with what forbids it: without a word the server would seem to hang.
#[test]
fn a_forbidden_system_call_hangs_the_server() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let forbidding = |call: libc::c_long, errno: i32| -> BpfProgram {
        let allow = SeccompAction::Allow;
        let refuse = SeccompAction::Errno(u32::try_from(errno).unwrap());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        SeccompFilter::new([(call, Vec::new())].into(), allow, refuse, arch).unwrap().try_into().unwrap()
    };
    // A filter is the thread's, and its children's.
    let under = |filter: &BpfProgram, run: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                seccompiler::apply_filter(filter).unwrap();
                run();
            });
        });
    };
    for (call, name) in [(libc::SYS_io_uring_setup, "io_uring_setup"), (libc::SYS_io_uring_enter, "io_uring_enter")] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            under(&forbidding(call, errno), &|| {
                one_line(&Setup::new().refused(), 1, &["seccomp", &format!("forbids {name}"), "--security-opt"]);
            });
        }
    }
    // This one it does not need.
    under(&forbidding(libc::SYS_io_uring_register, libc::EPERM), &|| {
        assert!(Setup::new().start().connect().put("/x", b"") > 0);
    });
}

/// A port that only root may listen on.
#[test]
fn a_low_port_has_no_remedy() {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim() == "0" {
        return eprintln!("skipped: here every user may listen on every port");
    }
    let setup = Setup::new().run_by(without("net_bind_service", "")).listen("127.0.0.1:1");
    one_line(&setup.refused(), 1, &["-l 127.0.0.1:1", "CAP_NET_BIND_SERVICE", "ip_unprivileged_port_start"]);
}

/// A directory that the user may not write to, and one on a file system that nobody may.
#[test]
fn a_forbidden_directory_has_no_remedy() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = temp_dir();
    let dir = home.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o555)).unwrap();
    let command = without("dac_override", "");
    for dir in [dir.clone(), dir.join("below")] {
        let refused = Setup::at(&dir).run_by(&command).refused();
        one_line(&refused, 1, &[text(&dir), "Permission denied", "chown", "-d"]);
    }
    let mount = format!("mount -t tmpfs -o ro none {} &&", text(&home.path().canonicalize().unwrap()));
    let script = format!("{mount} exec \"$0\" \"$@\"");
    let refused = Setup::at(home.path()).run_by(["unshare", "-m", "sh", "-c", &script]).refused();
    if refused.stderr.contains("unshare") || refused.stderr.contains("mount:") {
        return eprintln!("the rest is skipped: nothing can be mounted here");
    }
    one_line(&refused, 1, &["Read-only file system", "for writing", "-d"]);
}

/// Data on a file system in memory is gone with the next restart of the machine: that has to be said.
#[test]
fn data_in_memory_is_taken_for_durable() {
    const TMPFS: u64 = 0x0102_1994;
    let there = std::path::Path::new("/dev/shm");
    let in_memory = rustix::fs::statfs(there).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(TMPFS));
    let home = match in_memory.then(|| tempfile::TempDir::new_in(there)) {
        Some(Ok(home)) => home,
        _ => return eprintln!("skipped: /dev/shm is not on a tmpfs that we may write to"),
    };
    let server = Setup::at(home.path().join("data")).start();
    server.says("is kept in memory");
    assert!(!Setup::new().start().stderr().contains("is kept in memory"));
}
