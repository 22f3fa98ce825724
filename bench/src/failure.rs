//! Why a run is no result: one line.

use std::fmt;

/// Ends the run.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure that is described by `line`.
    pub fn new(line: impl Into<String>) -> Failure {
        Failure(line.into())
    }

    /// Says in the course of what it happened.
    #[must_use]
    pub fn within(self, what: &str) -> Failure {
        Failure(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Says what was attempted when something fails.
pub trait Context<T> {
    /// Turns an error into a [`Failure`] that begins with `what`.
    ///
    /// # Errors
    /// The error.
    fn context(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}
