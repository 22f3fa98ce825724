//! A request under way, and its answer.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::{Error, Lost};
use crate::address::Address;
use crate::wire::{ErrCode, Request, Response, Verb};

/// What the client may do with a call whose connection is lost after it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server may have carried it out: never sent again.
    Write,
    /// Sent again a few times, for a limited time.
    Read,
    /// A wait for an event: sent again until it is answered or the caller gives it up.
    Wait,
}

/// A request that owns its bytes.
#[derive(Debug)]
pub(super) struct Ask {
    pub verb: Verb,
    pub path: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub offset: Option<i32>,
    pub rev: Option<i64>,
    /// True if waiting at a server without a majority is pointless when another server has one.
    pub wants_majority: bool,
}

impl Ask {
    pub fn new(verb: Verb) -> Self {
        Self { verb, path: None, value: None, offset: None, rev: None, wants_majority: false }
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.into());
        self
    }

    pub fn value(mut self, value: Vec<u8>) -> Self {
        self.value = Some(value);
        self
    }

    pub fn offset(mut self, offset: i32) -> Self {
        self.offset = Some(offset);
        self
    }

    pub fn rev(mut self, rev: Option<i64>) -> Self {
        self.rev = rev;
        self
    }

    pub fn wants_majority(mut self, wants: bool) -> Self {
        self.wants_majority = wants;
        self
    }

    pub fn request(&self, tag: i32) -> Request<'_> {
        Request {
            tag: Some(tag),
            verb: Some(self.verb.code()),
            path: self.path.as_deref(),
            value: self.value.as_deref(),
            offset: self.offset,
            rev: self.rev,
        }
    }

    pub const fn kind(&self) -> Kind {
        match self.verb {
            Verb::Set | Verb::Del | Verb::Nop => Kind::Write,
            Verb::Wait => Kind::Wait,
            Verb::Get
            | Verb::Rev
            | Verb::Walk
            | Verb::Getdir
            | Verb::Stat
            | Verb::SelfId
            | Verb::Sync
            | Verb::Stats
            | Verb::Access => Kind::Read,
        }
    }
}

/// How many times a read is sent before the client gives up: a request that kills servers must not kill all of them.
pub(super) const ATTEMPTS: u32 = 3;

/// A request and the caller that awaits its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub ask: Ask,
    pub reply: oneshot::Sender<Result<Answer, Error>>,
    /// How many times it was sent.
    pub attempts: u32,
    /// When it first had no connection.
    pub stranded: Option<Instant>,
    /// When a server first answered this call with READONLY, and that answer.
    pub refused: Option<(Instant, Error)>,
}

impl Call {
    pub fn new(ask: Ask) -> (Self, oneshot::Receiver<Result<Answer, Error>>) {
        let (reply, answer) = oneshot::channel();
        let call = Self { ask, reply, attempts: 0, stranded: None, refused: None };
        (call, answer)
    }

    /// Returns whether the client may send the call to another server while this one may still carry it out.
    pub fn may_be_sent_again(&self) -> bool {
        match self.ask.kind() {
            Kind::Write => false,
            Kind::Read => self.attempts < ATTEMPTS,
            Kind::Wait => true,
        }
    }

    /// Decides what becomes of a call whose connection to `address` was lost after the server may have received it. Returns the
    /// error for the caller, or `None` to send the call again.
    pub fn verdict(&self, address: &Address, cause: &Lost) -> Option<Error> {
        match self.ask.kind() {
            Kind::Write => Some(Error::OutcomeUnknown { address: Some(address.clone()), cause: cause.clone() }),
            Kind::Read if self.attempts >= ATTEMPTS => Some(self.not_answered(address, cause)),
            Kind::Read | Kind::Wait => None,
        }
    }

    /// Notes that a server answered with READONLY. It certainly did not carry the call out, so the client may send it again, as if it
    /// had not sent it yet.
    pub fn note_refusal(&mut self, error: Error) {
        self.refused.get_or_insert((Instant::now(), error));
        self.uncount();
    }

    /// Takes back the last attempt: the server did not get the call, or the client itself gave the connection up.
    pub const fn uncount(&mut self) {
        self.attempts -= 1;
    }

    /// Returns the error for a call that the server at `address` certainly did not carry out, or that is a read, when its connection
    /// was lost.
    pub fn not_answered(&self, address: &Address, cause: &Lost) -> Error {
        let (address, cause) = (Some(address.clone()), cause.clone());
        match self.ask.kind() {
            Kind::Read | Kind::Wait if cause.is_malformed() => Error::BadAnswer { address, cause },
            _ => Error::Disconnected { address, cause },
        }
    }

    /// Returns whether the caller has gone.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    pub fn answer(self, result: Result<Answer, Error>) {
        // A caller that has gone needs no answer.
        drop(self.reply.send(result));
    }
}

/// A server's answer that is not an error.
#[derive(Debug)]
pub(super) struct Answer {
    verb: Verb,
    flags: Option<i32>,
    rev: Option<i64>,
    path: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    len: Option<i32>,
}

impl Answer {
    /// Copies the fields that the caller will need out of the receive buffer.
    pub fn read(verb: Verb, response: &Response<'_>) -> Result<Self, Error> {
        if let Some(code) = response.err_code {
            let detail = String::from_utf8_lossy(response.err_detail.unwrap_or_default()).into_owned();
            return Err(match ErrCode::try_from(code) {
                Ok(code) => Error::Server { code, detail },
                Err(_) => Error::UnknownCode { code, detail },
            });
        }
        Ok(Self {
            verb,
            flags: response.flags,
            rev: response.rev,
            path: response.path.map(Into::into),
            value: response.value.map(Into::into),
            len: response.len,
        })
    }

    pub fn bad(&self, field: &'static str) -> Error {
        Error::BadAnswer { address: None, cause: Lost::Field(self.verb, field) }
    }

    pub fn rev(&self) -> Result<i64, Error> {
        self.rev.ok_or_else(|| self.bad("rev"))
    }

    pub fn flags(&self) -> Result<i32, Error> {
        self.flags.ok_or_else(|| self.bad("flags"))
    }

    pub fn len(&self) -> Result<u32, Error> {
        let len = self.len.ok_or_else(|| self.bad("len"))?;
        u32::try_from(len).map_err(|_| self.bad("len"))
    }

    pub fn path(&mut self) -> Result<String, Error> {
        let path = self.path.take().ok_or_else(|| self.bad("path"))?;
        String::from_utf8(path).map_err(|_| self.bad("path"))
    }

    /// Returns the value. A missing value is empty, as in the original's client.
    pub fn value(&mut self) -> Vec<u8> {
        self.value.take().unwrap_or_default()
    }
}
