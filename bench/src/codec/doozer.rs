//! Doozer's protocol. A slot is the tag less one.
//!
//! A watch is WAIT, which asks from which revision on: so the revision is asked for first. WAIT is answered with the
//! change alone. A REV behind it is answered when the server has the WAIT, for it takes a connection's frames in order.

use doozer::wire::frame::{Split, split};
use doozer::wire::{ErrCode, FLAG_DEL, Request, Response, Verb};

use super::{Answer, Codec, Event, Operation, Slots, Taken};
use crate::client::checked;
use crate::failure::{Context, Failure};

/// Added to the tag of a watch, it is the tag of the REV behind its WAIT.
const BARRIER: i32 = 1 << 20;

/// What is outstanding.
#[derive(Debug)]
enum Pending {
    Write,
    Get,
    Delete,
    /// A watch of this path, whose REV is outstanding.
    Look(Vec<u8>),
    /// A watch whose WAIT is.
    Wait,
}

/// One connection.
#[derive(Debug)]
pub struct Doozer {
    open: bool,
    pending: Slots<Pending>,
}

impl Doozer {
    /// A new connection.
    pub fn new() -> Doozer {
        Doozer { open: false, pending: Slots::new() }
    }
}

impl Codec for Doozer {
    fn open(&mut self, output: &mut Vec<u8>) {
        Request { tag: Some(1), ..Request::new(Verb::Rev) }.encode(output);
    }

    fn encode(&mut self, slot: u16, operation: Operation<'_>, output: &mut Vec<u8>) {
        let write = |path, value, rev| Request { path: Some(path), value, rev: Some(rev), ..Request::new(Verb::Set) };
        let (request, pending) = match operation {
            Operation::Create { path, value } => (write(path, Some(value), 0), Pending::Write),
            Operation::Set { path, value } => (write(path, Some(value), -1), Pending::Write),
            Operation::CompareAndSet { path, value, token } => (write(path, Some(value), token), Pending::Write),
            Operation::Get { path } => (Request { path: Some(path), ..Request::new(Verb::Get) }, Pending::Get),
            Operation::Delete { path } => {
                (Request { verb: Some(Verb::Del.code()), ..write(path, None, -1) }, Pending::Delete)
            }
            Operation::Watch { path } => (Request::new(Verb::Rev), Pending::Look(path.to_vec())),
        };
        self.pending.put(slot, pending);
        Request { tag: Some(tag(slot)), ..request }.encode(output);
    }

    fn decode<'a>(&'a mut self, input: &'a [u8], output: &mut Vec<u8>) -> Result<Option<Taken<'a>>, Failure> {
        let Split::Whole { body, consumed } = split(input).context("from doozerd")? else { return Ok(None) };
        let response = Response::decode(&input[body]).context("from doozerd")?;
        let event = self.judge(&response, output)?;
        Ok(Some(Taken { consumed, event }))
    }
}

impl Doozer {
    fn judge<'a>(&mut self, response: &Response<'a>, output: &mut Vec<u8>) -> Result<Option<Event<'a>>, Failure> {
        let wrong = |what: &str| Failure::new(format!("doozerd: {what}: {response:?}"));
        let error = || checked(*response).err().map(|e| e.within("doozerd"));
        let tag = response.tag.ok_or_else(|| wrong("an answer without a tag"))?;
        if !self.open {
            self.open = true;
            return error().map_or(Ok(Some(Event::Open)), Err);
        }
        let of = |tag: i32| u16::try_from(tag - 1).map_err(|_| wrong("an answer to nothing that was asked"));
        if tag > BARRIER {
            return Ok(Some(Event::Watching { slot: of(tag - BARRIER)? }));
        }
        let slot = of(tag)?;
        let pending = self.pending.take(slot).ok_or_else(|| wrong("an answer to nothing that was asked"))?;
        if response.err_code == Some(ErrCode::RevMismatch.code()) && matches!(pending, Pending::Write) {
            return Ok(Some(Event::Answer { slot, answer: Answer::Mismatch }));
        }
        if let Some(e) = error() {
            return Err(e);
        }
        let rev = response.rev.filter(|&rev| rev > 0).ok_or_else(|| wrong("no revision"));
        let event = match pending {
            Pending::Write => rev.map(|rev| Answer::Written { revision: rev, token: rev })?,
            Pending::Get => Answer::Value {
                token: rev.map_err(|_| wrong("there is no such file"))?,
                value: response.value.ok_or_else(|| wrong("no value"))?,
            },
            Pending::Delete => Answer::Deleted,
            Pending::Look(path) => {
                let wait = Request { path: Some(&path), rev: Some(rev? + 1), ..Request::new(Verb::Wait) };
                Request { tag: Some(tag), ..wait }.encode(output);
                Request { tag: Some(tag + BARRIER), ..Request::new(Verb::Rev) }.encode(output);
                self.pending.put(slot, Pending::Wait);
                return Ok(None);
            }
            Pending::Wait => {
                let flags = response.flags.ok_or_else(|| wrong("an event without flags"))?;
                return Ok(Some(Event::Woken { slot, revision: Some(rev?), deleted: flags & FLAG_DEL != 0 }));
            }
        };
        Ok(Some(Event::Answer { slot, answer: event }))
    }
}

fn tag(slot: u16) -> i32 {
    i32::from(slot) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of bytes tell nobody what is to be done.
    #[test]
    fn an_error_is_told_in_its_own_words() {
        let mut doozer = Doozer::new();
        let mut input = Vec::new();
        Response::error(Some(1), ErrCode::Other, Some(b"permission denied")).encode(&mut input);
        let e = doozer.decode(&input, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(e, "doozerd: the server answered with error 127: permission denied");
    }
}
