//! The errors, grouped by what the caller may conclude:
//!
//! * The server answered: [`Error::Server`], [`Error::UnknownCode`].
//! * The request was certainly not carried out: [`Error::Disconnected`], [`Error::Unreachable`], [`Error::TooLarge`], and all
//!   errors about URIs.
//! * A write may or may not have been carried out: [`Error::OutcomeUnknown`]. The client never retries it: read, then decide.
//! * The server does not speak the protocol: [`Error::BadAnswer`], and causes for which [`Lost::is_malformed`] is true.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::rounded::Rounded;
use super::uri::UriError;
use crate::address::Address;
use crate::wire::frame::FrameError;
use crate::wire::{ErrCode, Malformed, Verb};

/// Why a call failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with an error.
    #[error("{}{}", .code.name(), after_colon(.detail))]
    Server {
        /// The error's code.
        code: ErrCode,
        /// The server's explanation; often empty.
        detail: String,
    },
    /// The server answered with an error that this client does not know.
    #[error("unknown error {code}{}", after_colon(.detail))]
    UnknownCode {
        /// The error's number.
        code: i32,
        /// The server's explanation.
        detail: String,
    },
    /// The URI or address is malformed.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The name service knows no address of this cluster.
    #[error("the name service knows no address of cluster `{0}`")]
    NotRegistered(String),
    /// No address accepted a connection.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The connection was lost, and the request was certainly not carried out, or was a read.
    #[error("not connected{}: {cause}", before(" to ", .address))]
    Disconnected {
        /// The server's address, if there was a server.
        address: Option<Address>,
        /// How the connection ended.
        #[source]
        cause: Lost,
    },
    /// The connection was lost before the answer came, and the server may have received the write.
    #[error(
        "the connection{} was lost before the answer came, it is not known whether the change was made: {cause}",
        before(" to ", .address)
    )]
    OutcomeUnknown {
        /// The server's address, if there was a server.
        address: Option<Address>,
        /// How the connection ended.
        #[source]
        cause: Lost,
    },
    /// The server sent a message that is not of the protocol, or an answer that lacks a field.
    #[error("the server{} does not speak the protocol: {cause}", before(" at ", .address))]
    BadAnswer {
        /// The server's address, if it is known.
        address: Option<Address>,
        /// What was wrong with the answer.
        #[source]
        cause: Lost,
    },
    /// A watch may lack events for now: see [`WhenStale::Report`](super::WhenStale::Report). The watch continues after this error.
    #[error("events may be missing for now: {0}")]
    Stale(Stale),
    /// The request is longer than any server accepts; it was not sent.
    #[error("the request is too large: {len} bytes, the limit is {max}")]
    TooLarge {
        /// Size of the request's frame in bytes.
        len: usize,
        /// The largest allowed size in bytes.
        max: usize,
    },
    /// The tokio runtime of the client's task has ended.
    #[error("the client has ended")]
    Closed,
}

impl Error {
    /// Returns the protocol's code if the server answered with a known one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrCode> {
        match self {
            Self::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Returns whether somebody changed the file in between: read it again, and decide again.
    #[must_use]
    pub fn is_rev_mismatch(&self) -> bool {
        self.code() == Some(ErrCode::RevMismatch)
    }

    /// Returns whether the revision is no longer in the history.
    #[must_use]
    pub fn is_too_late(&self) -> bool {
        self.code() == Some(ErrCode::TooLate)
    }
}

fn before(word: &str, address: &Option<Address>) -> String {
    address.as_ref().map_or_else(String::new, |address| format!("{word}{address}"))
}

/// Why a watch may lack events for now. No event is lost: the watch gets them as soon as it reaches a server that has them.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Stale {
    /// The server reaches no majority of its cluster, and no other address leads to a server that does.
    #[error("{0} reaches no majority of the cluster, and no other address leads to one")]
    NoMajority(Address),
    /// No address accepted a connection.
    #[error("{0}")]
    Unreachable(Unreachable),
}

fn after_colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// How a connection ended.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Lost {
    /// A system call failed.
    #[error("{0}")]
    Io(#[source] Arc<io::Error>),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server was silent for this long although it was asked for a sign of life.
    #[error("no answer for {}", Rounded(*.0))]
    Quiet(Duration),
    /// The server sent a frame of an impossible length.
    #[error("{0}")]
    Frame(#[source] FrameError),
    /// The server sent a frame that contains no message.
    #[error("{0}")]
    Malformed(#[source] Malformed),
    /// The server sent an answer without a tag, or with a tag of no outstanding request.
    #[error("an answer to no request (tag {0:?})")]
    Tag(Option<i32>),
    /// The server sent an answer without a required field, or with an impossible value.
    #[error("an answer to {0:?} with no or a wrong `{1}`")]
    Field(Verb, &'static str),
    /// The task of this client ended, with its runtime.
    #[error("the client has ended")]
    Ended,
}

impl Lost {
    /// Returns whether the server is at fault, because it sent something that is not the protocol.
    #[must_use]
    pub const fn is_malformed(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Malformed(_) | Self::Tag(_) | Self::Field(..))
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The addresses that were tried, and why each failed.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// The attempts in order; at least one.
    pub attempts: Vec<(Address, Error)>,
}

impl Unreachable {
    /// Returns whether retrying is useless: every server refuses the secret, or does not speak the protocol.
    pub(super) fn is_hopeless(&self) -> bool {
        let hopeless =
            |e: &Error| matches!(e, Error::Server { .. } | Error::UnknownCode { .. } | Error::BadAnswer { .. });
        self.attempts.iter().all(|(_, error)| hopeless(error))
    }

    /// Returns whether every server was reached and refused the secret (or answered ACCESS with another error).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let refused = |e: &Error| matches!(e, Error::Server { .. } | Error::UnknownCode { .. });
        self.attempts.iter().all(|(_, error)| refused(error))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (address, error)) in self.attempts.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "; " })?;
            match error {
                // The word "not connected" adds nothing here.
                Error::Disconnected { cause, .. } => write!(f, "cannot connect to {address}: {cause}")?,
                _ => write!(f, "cannot connect to {address}: {error}")?,
            }
        }
        Ok(())
    }
}
