//! The command line: the original's flags, with one dash or two, and our own.

use std::ffi::OsString;
use std::num::IntErrorKind;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

const ABOUT: &str = "\
A durable Doozer: a small, consistent store for the data that everything else depends on.

Without flags it listens on 127.0.0.1:8046 and keeps its data in ./doozer-data.
Say hello to it with `doozer find /ctl`, from another terminal.";

const AFTER: &str = "\
Flags may be written with one dash or two: `-l ADDR`, `--l ADDR`, `-l=ADDR`.

An address is HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 address in brackets: [::1]:8046. A link-local address
ends with its network interface: [fe80::1%eth0]:8046. The port defaults to 8046.

`doozerd tune` examines the machine and says what stands in the way of low latency. It changes nothing. See `doozerd tune --help`.

Environment:
  DOOZER_RWSECRET   the secret that grants reading and writing (default: everyone may)
  DOOZER_ROSECRET   the secret that grants reading (default: everyone may); needs DOOZER_RWSECRET
  DOOZER_BOOT_URI   as -b

Exit status: 0 stopped on request; 1 could not start; 2 wrong flags; 65 the data is damaged, newer or another node's;
74 an I/O error on the data directory; 130 or 143 ended at once, by a second SIGINT or SIGTERM.";

/// The default of `-hist`, as text.
const HISTORY_DEFAULT: &str = "360000";
const _: () = assert!(doozer::limits::HISTORY_DEFAULT == 360_000);

/// The flags, as they were given.
#[derive(Debug, Parser)]
#[command(name = "doozerd", about = ABOUT, after_help = AFTER, disable_version_flag = true)]
#[command(disable_help_flag = true, max_term_width = 100, args_override_self = true)]
pub struct Args {
    /// Listen on this address (clients; in a cluster, peers too); `:PORT` means all addresses of the machine
    #[arg(long = "l", value_name = "HOST:PORT", default_value = "127.0.0.1:8046")]
    pub listen: String,

    /// Give clients and the other nodes this address, for a node behind address translation or with a name; the port defaults to
    /// the one it listens on [default: the address it listens on; with all addresses, the one that leads to the other nodes]
    #[arg(long = "advertise", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Keep the data in this directory; the server creates it if it does not exist
    #[arg(long = "d", value_name = "DIR", default_value = "doozer-data")]
    pub dir: PathBuf,

    /// Size of the log's files in MiB, from 8 to 64. The server fills two of them with zeros before its first start: small files let
    /// it start sooner and take less of the disk, large ones are changed less often
    #[arg(long = "segment", value_name = "MIB", default_value_t = doozer::limits::SEGMENT >> 20,
          value_parser = clap::value_parser!(u64).range(doozer::limits::SEGMENT_MIN >> 20..=doozer::limits::SEGMENT >> 20))]
    pub segment: u64,

    /// Pin the server to this core; best is a core for the server alone that takes the disk's interrupts
    #[arg(long = "core", value_name = "N")]
    pub core: Option<usize>,

    /// After each event, poll for more for this many microseconds before the core sleeps: less latency, more CPU time; best on a
    /// core for the server alone; 0 means sleep at once
    #[arg(long = "busy-poll", value_name = "US", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub busy_poll: u64,

    /// Name of the cluster to found [default: local]; an existing cluster must have this name
    #[arg(long = "c", value_name = "NAME")]
    pub cluster: Option<String>,

    /// Keep this many past revisions readable
    #[arg(long = "hist", value_name = "N", default_value = HISTORY_DEFAULT, allow_negative_numbers = true)]
    pub history: Whole,

    /// Write the applied revision to `/ctl/node/<id>/applied` each time this many seconds have passed; 0 means never
    #[arg(long = "pulse", value_name = "SECONDS", default_value_t = 0.0)]
    pub pulse: f64,

    /// Attach to the cluster of the node that listens on this address; may be repeated. A node needs it only until it has joined
    #[arg(long = "a", value_name = "HOST:PORT")]
    pub attach: Vec<String>,

    /// URI of the cluster that serves as name service: a new node looks its cluster up there, or founds it
    #[arg(long = "b", value_name = "URI", env = "DOOZER_BOOT_URI", hide_env = true)]
    pub boot: Option<String>,

    /// Take a member that has been silent for this long out of its slot, so that a standby can move in
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 60.0, allow_negative_numbers = true)]
    pub timeout: f64,

    /// A follower stands for election after this many milliseconds without the leader, up to twice as many
    #[arg(long = "election", value_name = "MS", default_value_t = 400,
          value_parser = clap::value_parser!(u64).range(20..=600_000))]
    pub election: u64,

    /// The leader shows a sign of life each time this many milliseconds have passed; the same on all nodes, at most half of
    /// -election
    #[arg(long = "heartbeat", value_name = "MS", default_value_t = 50,
          value_parser = clap::value_parser!(u64).range(5..=300_000))]
    pub heartbeat: u64,

    /// Address of the original's web view; accepted, without effect
    #[arg(long = "w", value_name = "HOST:PORT")]
    pub web: Option<String>,

    /// A flag of the original; accepted, without effect
    #[arg(long = "fill", value_name = "SECONDS")]
    pub fill: Option<f64>,

    /// If the data directory is damaged, continue with the data before the damage; the damaged files stay beside the others
    #[arg(long = "salvage")]
    pub salvage: bool,

    /// Words that belong to no flag: start-up scripts of the original may contain some
    #[arg(hide = true)]
    pub stray: Vec<OsString>,

    /// Print the version
    #[arg(long = "v")]
    pub version: bool,

    /// Print this help
    #[arg(long = "help", alias = "h", action = clap::ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// A whole number of any length and sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// As it was given.
    pub given: String,
    /// The nearest number that fits.
    pub nearest: u64,
}

impl FromStr for Whole {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Whole, Self::Err> {
        let nearest = match text.parse::<i128>() {
            Ok(number) => u64::try_from(number.max(0)).unwrap_or(u64::MAX),
            Err(e) if *e.kind() == IntErrorKind::PosOverflow => u64::MAX,
            Err(e) if *e.kind() == IntErrorKind::NegOverflow => 0,
            Err(e) => return Err(e),
        };
        Ok(Whole { given: text.to_owned(), nearest })
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Args>),
    /// Examine the machine.
    Tune(TuneArgs),
}

const TUNE_ABOUT: &str = "\
Examines this machine for a server that will run here. For each knob it says what the value is, what it should be, why, and which
command changes it. It only reads; as root it can read everything.";

const TUNE_AFTER: &str = "\
Each knob is good, bad (it certainly costs latency or safety), advice (weigh it) or unknown.
If a server runs on the data directory, its limits and its core are examined, otherwise those of this shell.

Exit status: 0 nothing is bad; 1 something is bad; 2 wrong flags.";

/// The flags of `doozerd tune`. Those that the server has too mean the same.
#[derive(Debug, Parser)]
#[command(name = "doozerd tune", about = TUNE_ABOUT, after_help = TUNE_AFTER, disable_help_flag = true, max_term_width = 100,
          args_override_self = true)]
pub struct TuneArgs {
    /// The data directory; if it does not exist yet, the nearest directory above it is examined [default: doozer-data]
    #[arg(long = "d", alias = "dir", value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// The core to which the server will be pinned
    #[arg(long = "core", value_name = "N")]
    pub core: Option<usize>,

    /// The address on which the server will listen; it tells which network card to examine [default: that of the default route]
    #[arg(long = "l", value_name = "HOST:PORT")]
    pub listen: Option<String>,

    /// Print JSON: an array with one object for each knob
    #[arg(long = "json")]
    pub json: bool,

    /// Print this help
    #[arg(long = "help", alias = "h", action = clap::ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// Parses the command line.
///
/// # Errors
/// On wrong flags; also if help was requested, in which case the error holds the help text.
pub fn parse() -> Result<Command, clap::Error> {
    let words = normalize(std::env::args_os());
    if words.get(1).is_some_and(|word| word == "tune") {
        return TuneArgs::try_parse_from(words.into_iter().skip(1)).map(Command::Tune);
    }
    Args::try_parse_from(words).map(|args| Command::Serve(Box::new(args)))
}

/// Flags without a value.
const SWITCHES: &[&str] = &["v", "salvage", "json", "help", "h"];

/// Writes every flag with two dashes, because the original accepts one dash as well. Rewrites a switch with a value in Go's style:
/// `-v=true` becomes `--v`, `-v=false` is dropped.
fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_operands = false;
    let two_dashes = |(i, arg): (usize, OsString)| {
        let bytes = arg.as_encoded_bytes();
        only_operands |= bytes == b"--";
        let dashes = bytes.iter().take_while(|byte| **byte == b'-').count();
        let is_flag = (1..=2).contains(&dashes) && bytes.get(dashes).is_some_and(u8::is_ascii_alphabetic);
        if i == 0 || only_operands || !is_flag {
            return Some(arg);
        }
        let mut two = if dashes == 1 { OsString::from("-") } else { OsString::new() };
        two.push(&arg);
        match switch(&two) {
            Some((name, true)) => Some(format!("--{name}").into()),
            Some((_, false)) => None,
            None => Some(two),
        }
    };
    args.into_iter().enumerate().filter_map(two_dashes).collect()
}

/// Reads a switch with a value as Go does. Returns `None` for any other value, which the parser then refuses.
fn switch(flag: &OsString) -> Option<(&'static str, bool)> {
    let (name, value) = flag.to_str()?.strip_prefix("--")?.split_once('=')?;
    let name = SWITCHES.iter().find(|switch| **switch == name)?;
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some((name, true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some((name, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_from(args: &[&str]) -> Result<Args, clap::Error> {
        let all = std::iter::once("doozerd").chain(args.iter().copied());
        Args::try_parse_from(normalize(all.map(OsString::from)))
    }

    /// Scripts of the original write `-hist 10` and `-l=:8046`; others write two dashes.
    #[test]
    fn one_dash_two_dashes_and_equals_signs_mean_the_same() {
        for args in [
            ["-hist", "10", "-l", "127.0.0.1:1"].as_slice(),
            &["--hist", "10", "--l", "127.0.0.1:1"],
            &["-hist=10", "--l=127.0.0.1:1"],
        ] {
            let args = parse_from(args).unwrap();
            assert_eq!((args.history.nearest, args.listen.as_str()), (10, "127.0.0.1:1"));
        }
    }

    /// Go's switches may have a value, but no other value may be read as one.
    #[test]
    fn a_switch_of_go_is_refused() {
        for (word, on) in
            [("-v", true), ("-v=true", true), ("--v=1", true), ("-v=T", true), ("-v=false", false), ("--v=0", false)]
        {
            assert_eq!(parse_from(&[word]).unwrap().version, on, "{word}");
        }
        let args = parse_from(&["-w=false", "-salvage=true", "-v=FALSE", "-l=:1"]).unwrap();
        assert_eq!((args.web.as_deref(), args.salvage, args.version), (Some("false"), true, false));
        assert_eq!(args.listen, ":1");
        for word in ["-v=yes", "-salvage=", "--v=2"] {
            assert!(parse_from(&[word]).is_err(), "{word}");
        }
        // The value of a flag may look like a switch.
        assert_eq!(parse_from(&["-c", "v=true"]).unwrap().cluster.as_deref(), Some("v=true"));
    }

    /// Words that belong to no flag are set aside, wherever they stand; the flags around them still count.
    #[test]
    fn a_stray_argument_hides_a_flag() {
        let args = parse_from(&["stray", "-hist", "10", "other"]).unwrap();
        assert_eq!((args.history.nearest, args.stray), (10, vec![OsString::from("stray"), OsString::from("other")]));
    }

    /// A mistyped flag must not be read as another flag, nor a malformed number as a default.
    #[test]
    fn wrong_flags_are_refused() {
        for args in [
            &["-nope"][..],
            &["-hist", "-"],
            &["-hist", "many"],
            &["-hist", "-5x"],
            &["-core", "-1"],
            &["-segment", "7"],
            &["-segment", "65"],
        ] {
            assert!(parse_from(args).is_err(), "{args:?}");
        }
    }

    /// Go's flags take any number and, of a flag that is given twice, the last. Addresses to attach to add up.
    #[test]
    fn a_number_out_of_range_or_a_flag_given_twice_is_refused() {
        let long = "9".repeat(60);
        for (text, nearest) in
            [("-5", 0), ("0", 0), ("99999999999999999999", u64::MAX), (&long, u64::MAX), (&format!("-{long}"), 0)]
        {
            assert_eq!(parse_from(&["-hist", text]).unwrap().history, Whole { given: text.into(), nearest });
            assert_eq!(parse_from(&[&format!("-hist={text}")]).unwrap().history.nearest, nearest);
        }
        let args =
            parse_from(&["-l", ":1", "-a", "x", "-timeout", "-1", "-l=:2", "-a", "y", "-salvage", "-salvage"]).unwrap();
        assert_eq!((args.listen.as_str(), args.attach, args.timeout), (":2", vec!["x".into(), "y".into()], -1.0));
    }

    /// Only the first word is the command: a directory or a cluster may well be named like it.
    #[test]
    fn a_value_is_taken_for_the_command() {
        let args = parse_from(&["-d", "tune", "-c", "tune"]).unwrap();
        assert_eq!((args.dir, args.cluster.as_deref()), (PathBuf::from("tune"), Some("tune")));
    }
}
