//! What can go wrong, by what the caller may conclude from it.
//!
//! * The server answered: [`Error::Server`], [`Error::UnknownCode`].
//! * The request was certainly not carried out: [`Error::Disconnected`], [`Error::Unreachable`], [`Error::TooLarge`],
//!   and everything about URIs.
//! * It is not known whether a write was carried out: [`Error::OutcomeUnknown`]. Never tried again by the client: read,
//!   and decide.
//! * The server does not speak the protocol: [`Error::BadAnswer`], and [`Lost::is_malformed`] causes.

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
    /// The server's answer is an error.
    #[error("{}{}", .code.name(), after_colon(.detail))]
    Server {
        /// Which.
        code: ErrCode,
        /// What the server says beyond the code; often empty.
        detail: String,
    },
    /// The server's answer is an error that this client does not know.
    #[error("unknown error {code}{}", after_colon(.detail))]
    UnknownCode {
        /// Its number.
        code: i32,
        /// What the server says beyond the code.
        detail: String,
    },
    /// The URI or address cannot be understood.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The name service knows no address of this cluster.
    #[error("the name service knows no address of cluster `{0}`")]
    NotRegistered(String),
    /// No address could be connected to.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The connection was lost and the request was certainly not carried out, or only read.
    #[error("not connected{}: {cause}", before(" to ", .address))]
    Disconnected {
        /// The server's address, if there was a server.
        address: Option<Address>,
        /// How the connection ended.
        #[source]
        cause: Lost,
    },
    /// The connection was lost after a write may have been received and before its answer came.
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
    /// The server sent what is no message of the protocol, or an answer without what it must have.
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
        /// Bytes of its frame.
        len: usize,
        /// The most that a frame may have.
        max: usize,
    },
    /// The runtime that the client's task ran on has ended.
    #[error("the client has ended")]
    Closed,
}

impl Error {
    /// The protocol's code, if the server answered with one that is known.
    #[must_use]
    pub const fn code(&self) -> Option<ErrCode> {
        match self {
            Self::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the file changed in between: read it again, and decide again.
    #[must_use]
    pub fn is_rev_mismatch(&self) -> bool {
        self.code() == Some(ErrCode::RevMismatch)
    }

    /// Whether the revision has left the history.
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
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The server said nothing for this long, though it was asked.
    #[error("no answer for {}", Rounded(*.0))]
    Quiet(Duration),
    /// A frame of an impossible length.
    #[error("{0}")]
    Frame(#[source] FrameError),
    /// A frame that holds no message.
    #[error("{0}")]
    Malformed(#[source] Malformed),
    /// An answer without a tag, or with that of no outstanding request.
    #[error("an answer to no request (tag {0:?})")]
    Tag(Option<i32>),
    /// An answer without a field that it must have, or with a value that the field cannot have.
    #[error("an answer to {0:?} with no or a wrong `{1}`")]
    Field(Verb, &'static str),
    /// The task of this client ended, with its runtime.
    #[error("the client has ended")]
    Ended,
}

impl Lost {
    /// Whether the server is at fault: it sent what is not the protocol.
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

/// Every address that was tried, and why it failed.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// In the order in which they were tried; at least one.
    pub attempts: Vec<(Address, Error)>,
}

impl Unreachable {
    /// Whether nothing is to be had by trying again: every server refuses the secret, or does not speak the protocol.
    pub(super) fn is_hopeless(&self) -> bool {
        let hopeless =
            |e: &Error| matches!(e, Error::Server { .. } | Error::UnknownCode { .. } | Error::BadAnswer { .. });
        self.attempts.iter().all(|(_, error)| hopeless(error))
    }

    /// Whether every server was there and refused the secret (or answered ACCESS with some other error).
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
