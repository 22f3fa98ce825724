//! What a run says: its progress on stderr, which it can do without, and its results on stdout, which it cannot.

use std::fmt::Display;
use std::io::Write;

use crate::failure::{Context, Failure};

/// Says a line on stderr. If nobody takes it, that is no reason to stop.
pub fn say(line: impl Display) {
    let line = format!("doozer-bench: {line}\n");
    let _said = std::io::stderr().write_all(line.as_bytes());
}

/// Prints a result.
///
/// # Errors
/// Nobody takes it, or there is no room for it.
pub fn print(text: impl Display) -> Result<(), Failure> {
    let (text, mut stdout) = (text.to_string(), std::io::stdout());
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}
