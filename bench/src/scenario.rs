//! What is measured: one scenario a file, each with a server and a data directory of its own. Those of three nodes are in
//! [`cluster`].

mod cluster;
mod disk;
pub mod hostile;
mod latency;
mod memory;
mod snapshot;
mod throughput;
mod waits;

use std::path::{Path, PathBuf};
use std::process::Command;

use doozer::wire::{Request, Response, Verb};
use serde::Serialize;

use crate::args::{Options, What};
use crate::child::Server;
use crate::client::Client;
use crate::failure::{Context, Failure};
use crate::figure::Report;
use crate::machine::{self, Cores, Machine, on_core};
use crate::pool::{Driven, Pool};
use crate::process::Others;
use crate::say::say;
use crate::scratch::Scratch;
use crate::traffic::{Creates, Layout};

/// Connections of the scenarios that measure throughput.
const CONNS: usize = 64;
/// Requests outstanding on each.
const WINDOW: u8 = 16;
/// Hundredths of a core that others may take without a word about it.
const NOISE: f64 = 3.0;
/// A file by itself, for the scenarios that measure latency.
const ALONE: &[u8] = b"/bench/alone";

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// See [`latency`].
    Latency,
    /// See [`throughput`].
    Throughput,
    /// See [`waits`].
    Waits,
    /// See [`memory`].
    Memory {
        /// All files in one directory.
        flat: bool,
    },
    /// See [`snapshot`].
    Snapshot,
    /// See [`disk`].
    Disk,
    /// See [`hostile`].
    Hostile {
        /// This attack alone.
        only: Option<&'static str>,
    },
    /// See [`cluster::floor3`].
    Floor3,
    /// See [`cluster::latency`].
    ClusterLatency,
    /// See [`cluster::throughput`].
    ClusterThroughput,
    /// See [`cluster::failover`].
    Failover,
    /// See [`cluster::idle`].
    Idle,
    /// See [`cluster::get`].
    ClusterGet,
    /// See [`cluster::catch_up`].
    CatchUp,
}

/// Those of one server.
const SINGLE: [Scenario; 7] = [
    Scenario::Latency,
    Scenario::Throughput,
    Scenario::Waits,
    Scenario::Memory { flat: false },
    Scenario::Snapshot,
    Scenario::Disk,
    Scenario::Hostile { only: None },
];

/// Those of three.
const CLUSTER: [Scenario; 7] = [
    Scenario::Floor3,
    Scenario::ClusterLatency,
    Scenario::ClusterThroughput,
    Scenario::Failover,
    Scenario::Idle,
    Scenario::ClusterGet,
    Scenario::CatchUp,
];

/// The scenarios that `what` stands for.
pub fn chosen(what: &What) -> Vec<Scenario> {
    match what {
        What::Latency => vec![Scenario::Latency],
        What::Throughput => vec![Scenario::Throughput],
        What::Waits => vec![Scenario::Waits],
        What::Memory { flat } => vec![Scenario::Memory { flat: *flat }],
        What::Snapshot => vec![Scenario::Snapshot],
        What::Disk => vec![Scenario::Disk],
        What::Hostile { only } => vec![Scenario::Hostile { only: *only }],
        What::Floor3 => vec![Scenario::Floor3],
        What::ClusterLatency => vec![Scenario::ClusterLatency],
        What::ClusterThroughput => vec![Scenario::ClusterThroughput],
        What::Failover => vec![Scenario::Failover],
        What::Idle => vec![Scenario::Idle],
        What::ClusterGet => vec![Scenario::ClusterGet],
        What::CatchUp => vec![Scenario::CatchUp],
        What::Cluster => CLUSTER.to_vec(),
        What::All => [&SINGLE[..], &CLUSTER].concat(),
        What::Compare(_)
        | What::Page { .. }
        | What::FloorServer { .. }
        | What::EchoServer { .. }
        | What::Guard { .. } => Vec::new(),
    }
}

impl Scenario {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Latency => "latency",
            Scenario::Throughput => "throughput",
            Scenario::Waits => "waits",
            Scenario::Memory { flat: false } => "memory",
            Scenario::Memory { flat: true } => "memory, one directory",
            Scenario::Snapshot => "snapshot",
            Scenario::Disk => "disk",
            Scenario::Hostile { .. } => "hostile",
            Scenario::Floor3 => "floor3",
            Scenario::ClusterLatency => "cluster-latency",
            Scenario::ClusterThroughput => "cluster-throughput",
            Scenario::Failover => "failover",
            Scenario::Idle => "idle",
            Scenario::ClusterGet => "cluster-get",
            Scenario::CatchUp => "catch-up",
        }
    }

    /// Measures.
    ///
    /// # Errors
    /// The run is no result.
    pub fn run(self, bench: &Bench) -> Result<Report, Failure> {
        let mut report = Report::new(self.name(), !bench.quick);
        let others = Others::begin()?;
        match self {
            Scenario::Latency => latency::run(bench, &mut report)?,
            Scenario::Throughput => throughput::run(bench, &mut report)?,
            Scenario::Waits => waits::run(bench, &mut report)?,
            Scenario::Memory { flat } => memory::run(bench, flat, &mut report)?,
            Scenario::Snapshot => snapshot::run(bench, &mut report)?,
            Scenario::Disk => disk::run(bench, &mut report)?,
            Scenario::Hostile { only } => hostile::run(bench, only, &mut report)?,
            Scenario::Floor3 => cluster::floor3::run(bench, &mut report)?,
            Scenario::ClusterLatency => cluster::latency::run(bench, &mut report)?,
            Scenario::ClusterThroughput => cluster::throughput::run(bench, &mut report)?,
            Scenario::Failover => cluster::failover::run(bench, &mut report)?,
            Scenario::Idle => cluster::idle::run(bench, &mut report)?,
            Scenario::ClusterGet => cluster::get::run(bench, &mut report)?,
            Scenario::CatchUp => cluster::catch_up::run(bench, &mut report)?,
        }
        let (others, stolen) = others.since()?;
        for (who, percent) in [("other processes", others), ("other guests of this machine", stolen)] {
            if percent >= NOISE {
                report.remarks.push(format!("{who} took {percent:.0} % of a core meanwhile"));
            }
        }
        Ok(report)
    }
}

/// Where and how everything is measured.
#[derive(Debug)]
pub struct Bench {
    cores: Cores,
    doozerd: PathBuf,
    scratch: Scratch,
    /// Rounds that were asked for.
    rounds: Option<u32>,
    quick: bool,
}

/// What a record says of that.
#[derive(Debug, Serialize)]
pub struct Setting {
    doozerd: PathBuf,
    /// As it tells it.
    version: String,
    quick: bool,
    rounds: u32,
    machine: Machine,
}

impl Bench {
    /// Finds the server and the cores, and makes the directory.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub fn new(options: &Options) -> Result<Bench, Failure> {
        let doozerd = find_doozerd(options.doozerd.as_deref())?;
        let scratch = Scratch::new(&options.dir)?;
        let nodes = options.node_cores.as_ref();
        let cores = machine::choose(&scratch.path(""), options.server_core, options.client_core, nodes)?;
        say(format_args!("server on core {}, client on core {}: {}", cores.server, cores.client, cores.reason));
        if cfg!(debug_assertions) {
            say("this is a debug build, so the client may be what is measured; use --release");
        }
        Ok(Bench { cores, doozerd, scratch, rounds: options.rounds, quick: options.quick })
    }

    /// Where and how it measures.
    pub fn describe(&self) -> Setting {
        Setting {
            doozerd: self.doozerd.clone(),
            version: version(&self.doozerd).unwrap_or_default(),
            quick: self.quick,
            rounds: self.rounds(),
            machine: Machine::describe(&self.scratch.path(""), &self.cores),
        }
    }

    /// How many rounds.
    fn rounds(&self) -> u32 {
        self.rounds_of(5)
    }

    /// How many rounds of a scenario that takes so many by default.
    fn rounds_of(&self, full: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { full })
    }

    /// `full`, or `quick` if that is asked for.
    fn count(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Starts a server on the data directory `name`.
    fn server(&self, name: &str) -> Result<Server, Failure> {
        Server::doozerd(&self.doozerd, &self.scratch.path(name), self.cores.server, &[])
    }

    /// Frees the disk of all that a scenario has left that failed; its servers have ended.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear(&self) -> Result<(), Failure> {
        self.scratch.clear()
    }

    /// Frees the disk of a data directory whose server has ended.
    fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.scratch.path(name);
        std::fs::remove_dir_all(&path).context(format!("cannot remove {}", path.display()))
    }

    /// Runs a client's part on the client's core; a failure is told with the server's last words.
    fn client<T: Send>(&self, server: &Server, body: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
        on_core(self.cores.client, body).map_err(|e| server.explain(e))
    }
}

/// The server to measure.
///
/// # Errors
/// It is not there, or cannot be run.
pub fn find_doozerd(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe().context("cannot find this program")?.with_file_name("doozerd"),
    };
    let absent = |_| {
        let at = path.display();
        Failure::new(format!(
            "no server at {at}: `cargo build --release --bin doozerd`, or name one with --doozerd PATH"
        ))
    };
    let path = path.canonicalize().map_err(absent)?;
    // A program that cannot be run at all is better found now than after the first scenario.
    version(&path)?;
    Ok(path)
}

/// A server's version, as it tells it.
///
/// # Errors
/// It does not.
pub fn version(doozerd: &Path) -> Result<String, Failure> {
    let told = Command::new(doozerd).arg("--v").output().context(doozerd.display())?;
    if !told.status.success() {
        return Err(Failure::new(format!("{} --v: {}", doozerd.display(), told.status)));
    }
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_string())
}

/// Checks that the revision has risen by exactly the number of writes.
fn count_revisions(addr: std::net::SocketAddr, before: i64, writes: u64) -> Result<i64, Failure> {
    let after = Client::connect(addr)?.revision()?;
    if u64::try_from(after - before) == Ok(writes) {
        Ok(after)
    } else {
        Err(Failure::new(format!("revision {after} after {writes} writes, from revision {before}")))
    }
}

/// Loads a large tree, and checks that it is there.
fn load(bench: &Bench, server: &Server, layout: Layout) -> Result<Driven, Failure> {
    let driven = bench.client(server, || {
        let before = Client::connect(server.addr())?.revision()?;
        let driven = Pool::connect(server.addr(), CONNS, WINDOW)?.drive(&mut Creates::new(layout))?;
        count_revisions(server.addr(), before, layout.files)?;
        Ok(driven)
    })?;
    check_load(server, layout)?;
    Ok(driven)
}

/// Checks that a large tree is there: its directories, and some of its files.
fn check_load(server: &Server, layout: Layout) -> Result<(), Failure> {
    let mut client = Client::connect(server.addr())?;
    let stat = |client: &mut Client, path: &str, entries: u64| {
        let response = client.call(Request { path: Some(path.as_bytes()), ..Request::new(Verb::Stat) })?;
        let expected = Response { rev: Some(-2), len: i32::try_from(entries).ok(), ..Response::default() };
        if (response.rev, response.len) == (expected.rev, expected.len) {
            Ok(())
        } else {
            Err(Failure::new(format!("{path}: {response:?} instead of {entries} entries")))
        }
    };
    let files_of = |directory: u64| layout.per_directory.min(layout.files - directory * layout.per_directory);
    stat(&mut client, "/bench", layout.directories())?;
    for directory in 0..layout.directories() {
        stat(&mut client, &layout.directory(directory), files_of(directory))?;
    }
    for number in (0..layout.files).step_by(997) {
        let path = layout.path(number);
        let response = client.call(Request { path: Some(path.as_bytes()), ..Request::new(Verb::Get) })?;
        if response.value != Some(&crate::traffic::value(number)) {
            return Err(Failure::new(format!("{path}: not what was set")));
        }
    }
    Ok(())
}

/// The tree that is large: 1,000,000 files, 1,000 a directory.
fn large(bench: &Bench) -> Layout {
    Layout { files: bench.count(1_000_000, 10_000), per_directory: 1000 }
}
