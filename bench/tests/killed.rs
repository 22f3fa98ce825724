//! The servers of a run end with it, however it ends: one that is left over would take a part of every later measurement, and hold
//! its ports.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What takes longer does not come about.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A process, as `/proc` has it.
#[derive(Clone, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    /// In ticks since the machine was started: with it the number is that of one process only.
    started: u64,
    command: Vec<String>,
}

impl Process {
    /// None if there is no such one, or only its exit status.
    fn read(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in brackets, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).split_terminator('\0').map(String::from).collect();
        let (parent, started) = (fields[1].parse().unwrap(), fields[19].parse().unwrap());
        (!["Z", "X"].contains(&fields[0])).then_some(Process { pid, parent, started, command })
    }

    fn all() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// The children of a process, their children, and so on.
    fn below(pid: i32) -> Vec<Process> {
        let all = Process::all();
        let (mut found, mut parents) = (Vec::new(), vec![pid]);
        while let Some(parent) = parents.pop() {
            let first = found.len();
            found.extend(all.iter().filter(|process| process.parent == parent).cloned());
            parents.extend(found[first..].iter().map(|child| child.pid));
        }
        found
    }

    fn is(&self, other: &Process) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// Whether it is a server with this in the path of its data, and not what is yet to become it.
    fn serves(&self, data: &str) -> bool {
        self.command.get(1).is_none_or(|arg| arg != "guard") && self.command.iter().any(|arg| arg.contains(data))
    }
}

/// A run, ended in any case.
struct Run {
    child: Child,
    /// What it says.
    said: PathBuf,
    /// What the paths of its servers' data have in them.
    own: String,
}

impl Run {
    /// Starts one whose data goes to `data` in this directory.
    fn start(mut command: Command, dir: &Path) -> Run {
        let (data, said) = (dir.join("data"), dir.join("said"));
        command.arg("--dir").arg(&data).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let child = command.spawn().unwrap();
        let own = format!("{}/run-{}/", data.file_name().unwrap().to_str().unwrap(), child.id());
        Run { child, said, own }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until its servers run, each with one of these in the path of its data; all that it has started by then.
    fn wait_for(&mut self, servers: &[String]) -> Vec<Process> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let started = Process::below(self.pid());
            if servers.iter().all(|server| started.iter().any(|process| process.serves(server))) {
                return started;
            }
            let (ended, told) = (self.child.try_wait().unwrap(), self.said());
            assert!(ended.is_none() && Instant::now() < deadline, "{servers:?} do not all run: {started:?}: {told}");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// `doozerd` if it was built, as it is when the tests of the whole workspace run; else a script that stays, and says nothing, so that
/// the run does not go on from it.
fn doozerd(dir: &Path) -> (PathBuf, bool) {
    let built = Path::new(env!("CARGO_BIN_EXE_doozer-bench")).with_file_name("doozerd");
    if built.exists() {
        return (built, true);
    }
    // It stops itself, for whatever it could wait with would be a process of its own.
    (script(dir, "[ \"$1\" = --v ] || kill -STOP $$"), false)
}

/// A `doozerd` that does this.
fn script(dir: &Path, does: &str) -> PathBuf {
    let script = dir.join("doozerd");
    std::fs::write(&script, format!("#!/bin/sh\n{does}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Killed with SIGKILL, a run has no time to take its servers down.
#[test]
fn a_run_that_is_killed_leaves_no_server() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (doozerd, built) = doozerd(dir.path());
    let installed = [("zookeeper", "/usr/share/java/zookeeper.jar"), ("etcd", "/usr/bin/etcd")];
    let installed = installed.into_iter().filter(|(_, file)| Path::new(file).exists());
    // The script comes last: nothing would be started after it.
    let systems: Vec<&str> = installed.map(|(name, _)| name).chain(["doozer"]).collect();
    let definition = dir.path().join("definition.toml");
    std::fs::write(&definition, DEFINITION).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_doozer-bench"));
    command.arg("compare").arg(&definition).args(["--systems", &systems.join(",")]).arg("--doozerd").arg(doozerd);
    let mut run = Run::start(command, dir.path());

    let own = run.own.clone();
    let floor = built.then_some("floor-0".to_string());
    let servers = systems.iter().map(|system| format!("{system}-1")).chain(floor);
    let servers: Vec<String> = servers.map(|server| own.clone() + &server).collect();
    let started = run.wait_for(&servers);
    drop(run);

    let deadline = Instant::now() + PATIENCE;
    let of_the_run = |process: &Process| {
        process.command.iter().any(|arg| arg.contains(&own)) || started.iter().any(|other| other.is(process))
    };
    let left = loop {
        let left: Vec<Process> = Process::all().into_iter().filter(of_the_run).collect();
        if left.is_empty() || Instant::now() > deadline {
            break left;
        }
        std::thread::sleep(LOOK);
    };
    for process in &left {
        // It may have ended by itself meanwhile.
        let _ended = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL);
    }
    assert!(left.is_empty(), "they outlived the run: {left:?}");
}

/// Ended by a signal, it has that time; and what it has written would fill the disk.
#[test]
fn a_run_that_is_ended_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let (doozerd, _) = doozerd(dir.path());
        // Whoever runs these tests in the background of a shell hands them an ignored SIGINT.
        let mut command = Command::new("env");
        command.args(["--default-signal", env!("CARGO_BIN_EXE_doozer-bench"), "latency", "--doozerd"]).arg(doozerd);
        let mut run = Run::start(command, dir.path());
        let own = [run.own.clone()];
        let started = run.wait_for(&own);
        let server = started.into_iter().find(|process| process.serves(&own[0])).unwrap();
        kill_process(Pid::from_raw(run.pid()).unwrap(), signal).unwrap();
        let status = run.child.wait().unwrap();
        let told = run.said();
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{told}");
        assert!(Process::read(server.pid).is_none_or(|process| !process.is(&server)), "the server outlived the run");
        assert!(!dir.path().join("data").exists(), "{told}");
    }
}

/// What ignores SIGHUP, such as a run under `nohup`, is to go on.
#[test]
fn a_signal_that_is_ignored_does_not_end_a_run() {
    let dir = tempfile::tempdir_in(".").unwrap();
    // Its run is told that its terminal is gone, while it starts this.
    script(dir.path(), "kill -HUP $PPID");
    let bench =
        format!("trap '' HUP; exec {} latency --dir data --doozerd ./doozerd", env!("CARGO_BIN_EXE_doozer-bench"));
    let out = Command::new("sh").args(["-c", &bench]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && said.contains("ended"), "{said}");
}

const DEFINITION: &str = "
name = 'long'
about = 'longer than the test'
nodes = 1
systems = ['doozer']
rounds = 1
seconds = 3600.0
warm_up = 1.0
[[load]]
name = 'set'
work = 'set'
assert.revisions = 1.0
";

/// A run may be killed in the moment in which it starts a server, which has not asked yet to be told of that.
#[test]
fn a_server_whose_run_has_ended_does_not_begin() {
    let guard = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doozer-bench"));
        command.args(["guard", "/usr/bin/env"]);
        command
    };
    let out = guard().env("DOOZER_BENCH_PARENT", "1").output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), &out.stdout[..]), (Some(1), &b""[..]), "{said}");
    assert!(said.contains("has ended"), "{said}");
    let out = guard().env("DOOZER_BENCH_PARENT", std::process::id().to_string()).output().unwrap();
    let env = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && env.contains("PATH=") && !env.contains("DOOZER_BENCH_PARENT"), "{env}");
}
