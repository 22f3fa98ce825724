//! The `doozer` command: one verb of the protocol, or a few, from a shell.
//!
//! * `args`: the command line. It has its own parser, a page long, because a revision may be `-1`, long names may have one dash,
//!   and flags may stand anywhere, as in the original.
//! * `duration`: `1m30s`, in Go's syntax.
//! * `paths`: checks paths and says what is wrong with them.
//! * `commands`: what each command does. `explain`: why a command failed. `json`: the output of `-json`.
//! * `help`: the help texts.
//!
//! Results go to stdout, everything else to stderr. The exit status tells a script the outcome: 0 success, 1 somebody else changed
//! the file (`REV_MISMATCH`), 2 any other error, 127 an invalid command line.

mod args;
mod commands;
mod duration;
mod explain;
mod help;
mod json;
mod paths;
mod stats;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::client::{Address, ErrCode, Error, Lost, Rounded};
use args::{Action, Usage};
use paths::BadPath;

/// The standard streams that were open when the process began. Rust's runtime replaces a closed one with `/dev/null`, which reads
/// as an empty body and swallows all output; so the program must check before that.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// True if stdin was open.
    pub stdin: bool,
    /// True if stdout was open.
    pub stdout: bool,
}

/// Runs a command line, given without the program's name, and returns the exit status.
///
/// ```no_run
/// use doozer::cli::{self, Streams};
///
/// let status = cli::run(["rev".into()], Streams { stdin: true, stdout: true });
/// ```
#[must_use = "the exit status is how scripts learn of a failure"]
pub fn run(arguments: impl IntoIterator<Item = OsString>, open: Streams) -> ExitCode {
    let result = match args::parse(arguments) {
        Ok(Action::Run(invocation)) => commands::run(&invocation, open, |name| env::var_os(name)),
        Ok(Action::Help(topic)) => print(&topic.map_or_else(help::overview, help::of), open),
        Ok(Action::Version) => print(&format!("doozer {}\n", env!("CARGO_PKG_VERSION")), open),
        Err(usage) => Err(Failure::Usage(usage)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_quiet() {
                // Where even stderr is closed, the exit status has to say it all.
                drop(writeln!(io::stderr(), "{failure}"));
            }
            failure.status()
        }
    }
}

fn print(text: &str, open: Streams) -> Result<(), Failure> {
    if !open.stdout {
        return Err(Failure::StdoutClosed);
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Stdout)
}

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command line makes no sense.
    Usage(Usage),
    /// An argument is not a valid path or glob.
    BadPath(BadPath),
    /// The server, or the way to it.
    Client(Error),
    /// The server answered with an error; the text says what it means here.
    Explained(ErrCode, String),
    /// Nothing happened in time.
    TimedOut(Duration, Option<Address>),
    /// What is to be stored cannot be read.
    Stdin(io::Error),
    /// There is nothing to store: stdin is closed.
    StdinClosed,
    /// What was found cannot be told.
    Stdout(io::Error),
    /// There is nowhere to print the result: stdout is closed.
    StdoutClosed,
    /// The system refuses what every program needs.
    System(io::Error),
}

impl Failure {
    /// Whether whoever reads our output has gone and wants no more: no error of ours.
    fn is_quiet(&self) -> bool {
        matches!(self, Self::Stdout(e) if e.kind() == ErrorKind::BrokenPipe)
    }

    fn status(&self) -> ExitCode {
        match self {
            _ if self.is_quiet() => ExitCode::SUCCESS,
            Self::Client(error) if error.is_rev_mismatch() => ExitCode::from(1),
            Self::Explained(ErrCode::RevMismatch, _) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(127),
            _ => ExitCode::from(2),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Usage(usage) = self {
            return usage.fmt(f);
        }
        f.write_str("Error: ")?;
        match self {
            Self::Usage(_) => Ok(()),
            Self::Client(error) => write_client_error(error, f),
            Self::BadPath(bad) => write!(f, "{}: {bad}", ErrCode::BadPath),
            Self::Explained(code, detail) => write!(f, "{code}: {detail}"),
            Self::TimedOut(limit, None) => write!(f, "timed out after {}: no server has answered", Rounded(*limit)),
            Self::TimedOut(limit, Some(server)) => {
                write!(f, "timed out after {}: no such event has come from {server}", Rounded(*limit))
            }
            Self::StdinClosed => f.write_str(
                "stdin is closed, and the body is read from it; nothing was written (for an empty body: </dev/null)",
            ),
            Self::StdoutClosed => f.write_str("cannot write to stdout: it is closed"),
            Self::Stdin(error) => write!(f, "cannot read the body from stdin: {error}"),
            Self::Stdout(error) => write!(f, "cannot write to stdout: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

fn write_client_error(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Error::Unreachable(unreachable) = error else {
        return write!(f, "{error}");
    };
    if unreachable.is_refused()
        && let Some((_, refusal)) = unreachable.attempts.first()
    {
        // The servers are there; what one said is the error.
        return write!(f, "{refusal}");
    }
    write!(f, "{unreachable}")?;
    let nobody = |e: &Error| matches!(e, Error::Disconnected { cause: Lost::Io(e), .. } if e.kind() == ErrorKind::ConnectionRefused);
    if unreachable.attempts.iter().all(|(_, e)| nobody(e)) {
        f.write_str(", is doozerd running there?")?;
    }
    Ok(())
}
