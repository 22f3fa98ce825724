//! The `doozer` command: one verb of the protocol, or a few, from a shell.
//!
//! * `args`: the command line. Our own parser, a page long: a revision may be `-1`, long names may have one dash, and
//!   flags may stand anywhere, as it was with the original.
//! * `duration`: `1m30s`, as Go writes it.
//! * `commands`: what each command does.
//! * `help`: the words.
//!
//! Results go to stdout, all else to stderr. The exit status says what a script needs to know: 0 success, 1 the file was
//! changed by somebody else (`REV_MISMATCH`), 2 any other error, 127 a command line that makes no sense.

mod args;
mod commands;
mod duration;
mod help;
mod stats;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::client::{ErrCode, Error, Lost};
use args::{Action, Usage};

/// Carries out a command line, without the program's name in front.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match args::parse(arguments) {
        Ok(Action::Run(invocation)) => commands::run(&invocation, |name| env::var_os(name)),
        Ok(Action::Help(topic)) => print(&topic.map_or_else(help::overview, help::of)),
        Ok(Action::Version) => print(&format!("doozer {}\n", env!("CARGO_PKG_VERSION"))),
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

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Stdout)
}

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command line makes no sense.
    Usage(Usage),
    /// The server, or the way to it.
    Client(Error),
    /// Nothing is there.
    Missing,
    /// Nothing happened in time.
    TimedOut(Duration),
    /// What is to be stored cannot be read.
    Stdin(io::Error),
    /// What was found cannot be told.
    Stdout(io::Error),
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
            Self::Missing => f.write_str(ErrCode::Noent.name()),
            Self::TimedOut(limit) => write!(f, "timed out after {limit:?}"),
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
