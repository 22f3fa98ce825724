//! Why a run is no result: one line.

use std::fmt;

/// Ends the run.
#[derive(Debug)]
pub struct Failure {
    line: String,
    /// If it is an answer that is an error: its code.
    code: Option<i32>,
}

impl Failure {
    /// A failure that is described by `line`.
    pub fn new(line: impl Into<String>) -> Failure {
        Failure { line: line.into(), code: None }
    }

    /// The answer was an error with this code.
    #[must_use]
    pub fn with_code(self, code: i32) -> Failure {
        Failure { code: Some(code), ..self }
    }

    /// If it is an answer that is an error: its code.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Says in the course of what it happened.
    #[must_use]
    pub fn within(self, what: &str) -> Failure {
        Failure { line: format!("{what}: {}", self.line), code: self.code }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
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
        self.map_err(|e| Failure::new(format!("{what}: {e}")))
    }
}
