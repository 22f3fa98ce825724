//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::machine::Placing;
use crate::system::Kind;
use crate::system::remote::Remote;

const AFTER: &str = "\
Exit status: 0 measured, whether the goals are met or missed; 1 something is no result (an error, a wrong answer, a
miscount), and the others of `all` and `cluster` were measured nevertheless; 2 wrong flags. See bench/README.md for what
each figure means.";

/// Measures doozerd against the figures that it promises.
#[derive(Debug, Parser)]
#[command(name = "doozer-bench", version, after_help = AFTER, max_term_width = 100)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
    /// How.
    #[command(flatten)]
    pub options: Options,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum What {
    /// SET with one outstanding, against the floor: one durable 4 KiB write and an echo
    #[command(visible_alias = "floor")]
    Latency,
    /// SET/s and GET/s over 64 connections with 16 outstanding each
    Throughput,
    /// SET with one outstanding while 100,000 waits are outstanding, against without
    Waits,
    /// Resident memory with 1,000,000 files, and the time to recover them
    Memory {
        /// All files in one directory, not in 1,000
        #[arg(long)]
        flat: bool,
    },
    /// SET while a snapshot of 1,000,000 files is taken, against without
    Snapshot,
    /// Disk use over 10,000,000 overwrites of 1,000 files
    Disk,
    /// What attackers cost the others: REV, SET and GET, memory, servers that die
    Hostile {
        /// This attack alone
        #[arg(long, value_name = "NAME", value_parser = crate::scenario::hostile::named)]
        only: Option<&'static str>,
    },
    /// The floor of a cluster, of one server, and an echo between two processes
    Floor3,
    /// SET with one outstanding at the leader and at a follower, against the floor of a cluster
    ClusterLatency,
    /// SET/s of three nodes over 64 connections with 16 outstanding each
    ClusterThroughput,
    /// The longest gap between writes when the leader is killed, or hangs
    Failover,
    /// CPU time, disk and revisions of three nodes that nobody asks anything
    Idle,
    /// GET/s of each of three nodes, against a single one
    ClusterGet,
    /// SET while a new node receives 1,000,000 files, against before
    CatchUp,
    /// All that are of three nodes, from floor3 on
    Cluster,
    /// All of these, and a summary
    All,
    /// doozerd beside ZooKeeper and etcd, each installed from its package and started by this program
    Compare(Compare),
    /// Make the page of a record again, from the JSON that `compare --record` has written
    Page {
        /// The record.
        record: PathBuf,
    },
    /// The server that `latency` and `floor3` compare with
    #[command(hide = true)]
    FloorServer {
        /// The file that it writes.
        #[arg(long)]
        file: PathBuf,
        /// The core to be pinned to.
        #[arg(long)]
        core: Option<usize>,
        /// Revision of its first answer, so that answers are of the same size as the other server's.
        #[arg(long)]
        first_rev: i64,
        /// Those to pass requests on to, one of which is to answer.
        #[arg(long)]
        peer: Vec<SocketAddr>,
    },
    /// Sends back what it gets
    #[command(hide = true)]
    EchoServer {
        /// The core to be pinned to.
        #[arg(long)]
        core: Option<usize>,
    },
    /// Runs a command that ends when its parent does
    #[command(hide = true)]
    Guard {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// What to compare.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Compare {
    /// What is measured: `one` or `three` for what this program brings with it, or a file [default: both]
    #[arg(value_name = "DEFINITION")]
    pub definitions: Vec<String>,

    /// Only these systems [default: those of the definition]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub systems: Vec<Kind>,

    /// Only these loads of the definition
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub only: Vec<String>,

    /// A system that runs elsewhere, the leader first; may be given for each system
    #[arg(long, value_name = "SYSTEM=ADDR,…")]
    pub endpoints: Vec<Remote>,

    /// Write a report with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write the JSON of --json to a file, beside the table
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Core of the server [default: the one that takes most interrupts of the disk that holds DIR]
    #[arg(long, global = true, value_name = "N")]
    pub server_core: Option<usize>,

    /// Core of the client [default: another one]
    #[arg(long, global = true, value_name = "N")]
    pub client_core: Option<usize>,

    /// Cores of a cluster's nodes, such as 1,0,1, or `free` [default: the server's, then others, the client's last]
    #[arg(long, global = true, value_name = "LIST")]
    pub node_cores: Option<Placing>,

    /// The server to measure [default: beside this program]
    #[arg(long, global = true, value_name = "PATH")]
    pub doozerd: Option<PathBuf>,

    /// Where the servers' data goes, on the disk that is to be measured; removed at the end
    #[arg(long, global = true, value_name = "DIR", default_value = "bench-data")]
    pub dir: PathBuf,

    /// Rounds whose median is taken [default: 5, 20 of failover, 2 with --quick]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Small counts, to see that it works; the figures are not judged
    #[arg(long, global = true)]
    pub quick: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("doozer-bench").chain(args.iter().copied()))
    }

    /// A flag in the other place must not be dropped without a word.
    #[test]
    fn flags_stand_before_or_after_what_is_measured() {
        for args in [["--quick", "--rounds", "3", "waits"], ["waits", "--quick", "--rounds", "3"]] {
            let args = parse(&args).unwrap();
            assert_eq!(args.what, What::Waits);
            assert_eq!((args.options.quick, args.options.rounds), (true, Some(3)));
        }
    }

    /// What is printed by --help and what the README names have to be the names that are taken.
    #[test]
    fn each_scenario_has_a_name_of_its_own() {
        for (name, what) in [
            ("hostile", What::Hostile { only: None }),
            ("floor3", What::Floor3),
            ("cluster-latency", What::ClusterLatency),
            ("cluster-throughput", What::ClusterThroughput),
            ("failover", What::Failover),
            ("idle", What::Idle),
            ("cluster-get", What::ClusterGet),
            ("catch-up", What::CatchUp),
            ("cluster", What::Cluster),
            ("all", What::All),
        ] {
            assert_eq!(parse(&[name]).unwrap().what, what);
            assert!(include_str!("../README.md").contains(&format!("`{name}`")), "{name} is not in the README");
        }
    }

    /// A command line that the README shows is one that somebody pastes.
    #[test]
    fn the_readmes_command_lines_are_understood() {
        let lines =
            include_str!("../README.md").lines().filter_map(|line| line.split_once("target/release/doozer-bench "));
        let lines: Vec<&str> = lines.map(|(_, args)| args.split([';', '#']).next().unwrap()).collect();
        assert!(lines.len() >= 10, "{lines:?}");
        for line in lines.iter().filter(|line| !line.contains('`')) {
            let args = line.replace("$(date +%F)", "2026-11-23").replace("${RECORD%json}", "$RECORD.");
            let args: Vec<&str> = args.split_whitespace().filter(|word| !word.starts_with('>')).collect();
            parse(&args).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn latency_is_called_floor_as_well() {
        assert_eq!(parse(&["floor"]).unwrap().what, What::Latency);
        assert_eq!(parse(&["latency"]).unwrap().what, What::Latency);
    }

    /// The guard hands on what follows as it is.
    #[test]
    fn the_guards_command_keeps_its_own_flags() {
        let args = parse(&["guard", "doozerd", "-l", "127.0.0.1:0", "--core", "1"]).unwrap();
        let What::Guard { command } = args.what else { panic!("{:?}", args.what) };
        assert_eq!(command, ["doozerd", "-l", "127.0.0.1:0", "--core", "1"]);
    }

    #[test]
    fn systems_that_run_elsewhere_are_named_with_their_addresses() {
        let args = parse(&["compare", "three", "--endpoints", "etcd=127.0.0.1:1,127.0.0.1:2"]).unwrap();
        let What::Compare(compare) = args.what else { panic!("{:?}", args.what) };
        let [remote] = &compare.endpoints[..] else { panic!("{compare:?}") };
        assert_eq!((remote.kind, remote.addrs.len()), (Kind::Etcd, 2));
        for wrong in ["etcd", "consul=127.0.0.1:1", "etcd=127.0.0.1"] {
            assert!(parse(&["compare", "--endpoints", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_flags_are_refused() {
        for args in [
            &[][..],
            &["nope"],
            &["waits", "--rounds", "0"],
            &["latency", "--flat"],
            &["disk", "--server-core", "x"],
            &["idle", "--node-cores", "x"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
