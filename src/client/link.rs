//! A connection in service: the requests that its server holds, whether the server lives, and whether it reaches a majority.
//!
//! * **Life.** A server that owes an answer and says nothing is asked for a sign of life (REV, which every server answers at
//!   once). It is *slow* if none comes soon, which is a reason to look for another server, and the connection is lost if none
//!   comes at all.
//! * **Currency.** A server that was cut off from the majority goes on to serve reads and waits, of an old state. While somebody
//!   waits for an event here, the server is asked with SYNC now and then; READONLY says that the link is *stale*. Servers that do
//!   not know SYNC are not asked again.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::call::{Answer, Ask, Call, Kind};
use super::conn::Conn;
use super::error::{Error, Lost};
use crate::address::Address;
use crate::limits::{CLIENT_ABANDONED, CLIENT_OUTPUT};
use crate::wire::{ErrCode, Response, Verb};

pub(super) struct Link {
    conn: Conn,
    pub address: Address,
    sent: BTreeMap<i32, Sent>,
    next_tag: i32,
    /// Number of requests in `sent` at which it is searched for abandoned ones.
    search_at: usize,
    life: Life,
    currency: Currency,
}

/// A request in the server's hands.
struct Sent {
    who: Who,
    /// The stream's position behind its frame.
    end: u64,
}

/// Who awaits an answer.
enum Who {
    /// A caller.
    Call(Call),
    /// Nobody any more; or it was only a sign of life.
    Nobody,
    /// The link itself, with a SYNC.
    Link,
}

/// How long a server may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For so long before it is asked for a sign of life, and again before the connection is lost.
    pub quiet: Duration,
    /// After a request, for so long before another server is looked for; `None` if there is no other.
    pub slow: Option<Duration>,
    /// Time between two SYNCs.
    pub sync_every: Duration,
}

struct Life {
    /// When the server last spoke, or began to owe an answer.
    heard: Instant,
    /// The first request since then.
    owes_since: Option<Instant>,
    /// When it was asked for a sign of life, if it has not spoken since.
    asked: Option<Instant>,
    slow: bool,
    /// Whether it answered anything on this connection.
    spoke: bool,
    timer: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Currency {
    /// Set while somebody waits for events.
    timer: Option<Pin<Box<Sleep>>>,
    out: bool,
    unknown: bool,
    /// The last answer; `None` before the first.
    current: Option<bool>,
}

/// A call that was in the server's hands when its connection ended.
pub(super) struct Held {
    pub call: Call,
    /// Whether the kernel took its frame whole, so that the server may have it.
    pub taken: bool,
}

impl Link {
    pub fn new(conn: Conn, address: Address) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now));
        let life = Life { heard: now, owes_since: None, asked: None, slow: false, spoke: false, timer };
        Self {
            conn,
            address,
            sent: BTreeMap::new(),
            next_tag: 0,
            search_at: CLIENT_ABANDONED,
            life,
            currency: Currency::default(),
        }
    }

    /// Whether the server answered anything.
    pub const fn spoke(&self) -> bool {
        self.life.spoke
    }

    /// Whether it owes a sign of life for so long that another server is better.
    pub const fn is_slow(&self) -> bool {
        self.life.slow
    }

    /// Whether it reaches a majority, as far as it has said.
    pub const fn is_current(&self) -> Option<bool> {
        self.currency.current
    }

    /// Forgets what the server has said of a majority: the next SYNC tells anew.
    pub const fn forget_currency(&mut self) {
        self.currency.current = None;
    }

    /// Whether somebody waits for events here and wants to know of those that the server does not.
    pub fn is_watched(&self) -> bool {
        self.calls().any(|call| call.ask.wants_majority && !call.is_abandoned())
    }

    /// Whether the server holds a call that cannot be sent again as it is.
    pub fn is_bound(&self) -> bool {
        self.calls().any(|call| !call.is_abandoned() && !call.may_be_sent_again())
    }

    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.sent.values().filter_map(|sent| match &sent.who {
            Who::Call(call) => Some(call),
            Who::Nobody | Who::Link => None,
        })
    }

    pub fn has_room(&self) -> bool {
        self.conn.backlog() < CLIENT_OUTPUT
    }

    pub fn send(&mut self, mut call: Call, patience: &Patience) {
        call.attempts += 1;
        let wants_majority = call.ask.wants_majority;
        let tag = self.free_tag();
        let end = self.conn.push(&call.ask.request(tag));
        let now = Instant::now();
        if self.sent.is_empty() {
            self.life.hear(now);
        }
        self.life.owes_since.get_or_insert(now);
        self.sent.insert(tag, Sent { who: Who::Call(call), end });
        if wants_majority && self.currency.timer.is_none() {
            // A wait that ends soon costs no SYNC.
            self.currency.timer = Some(Box::pin(sleep_until(now + patience.sync_every)));
            self.currency.current = None;
        }
    }

    fn ask(&mut self, verb: Verb, who: Who) {
        let tag = self.free_tag();
        let end = self.conn.push(&Ask::new(verb).request(tag));
        self.sent.insert(tag, Sent { who, end });
    }

    /// A tag that no outstanding request has.
    fn free_tag(&mut self) -> i32 {
        loop {
            let tag = self.next_tag;
            self.next_tag = tag.checked_add(1).unwrap_or(0);
            if !self.sent.contains_key(&tag) {
                return tag;
            }
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.conn.poll_flush(cx)
    }

    /// Receives once and hands out the answers in it. Whether anything came.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        mut answered: impl FnMut(Call, Result<Answer, Error>),
    ) -> Result<bool, Lost> {
        match self.conn.poll_fill(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(filled) => filled?,
        }
        self.life.hear(Instant::now());
        while let Some(body) = self.conn.next_frame()? {
            self.life.spoke = true;
            let response = Response::decode(self.conn.input(body)).map_err(Lost::Malformed)?;
            match response.tag.and_then(|tag| self.sent.remove(&tag)) {
                None => return Err(Lost::Tag(response.tag)),
                Some(Sent { who: Who::Nobody, .. }) => {}
                Some(Sent { who: Who::Link, .. }) => self.currency.answer(&response),
                Some(Sent { who: Who::Call(call), .. }) => {
                    let result = Answer::read(call.ask.verb, &response);
                    answered(call, result);
                }
            }
        }
        Ok(true)
    }

    /// Asks a silent server for a sign of life, notices that it is slow, and loses patience with it. Whether anything was done.
    pub fn poll_life(&mut self, patience: &Patience, cx: &mut Context<'_>) -> Result<bool, Lost> {
        if self.sent.is_empty() || self.life.poll_due(patience, cx).is_pending() {
            return Ok(false);
        }
        let now = Instant::now();
        let Some(asked) = self.life.asked else {
            self.life.asked = Some(now);
            self.ask(Verb::Rev, Who::Nobody);
            return Ok(true);
        };
        if now >= self.life.lost_at(asked, patience.quiet) {
            return Err(Lost::Quiet(now - self.life.heard));
        }
        self.life.slow = true;
        Ok(true)
    }

    /// Asks whether the server reaches a majority, if it is time and somebody wants to know. Whether anything was done.
    pub fn poll_currency(&mut self, patience: &Patience, cx: &mut Context<'_>) -> bool {
        let Some(timer) = &mut self.currency.timer else { return false };
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        timer.as_mut().reset(Instant::now() + patience.sync_every);
        if self.currency.unknown || !self.is_watched() {
            self.currency.timer = None;
        } else if !self.currency.out {
            self.currency.out = true;
            self.ask(Verb::Sync, Who::Link);
        }
        true
    }

    /// Whether the server holds so many abandoned calls that a new connection is better; not while it holds a call that cannot
    /// be sent again, whose answer would be lost.
    pub fn is_crowded(&mut self) -> bool {
        if self.sent.len() < self.search_at {
            return false;
        }
        let mut abandoned = 0;
        for sent in self.sent.values_mut() {
            if matches!(&sent.who, Who::Call(call) if call.is_abandoned()) {
                sent.who = Who::Nobody;
            }
            abandoned += usize::from(matches!(sent.who, Who::Nobody));
        }
        self.search_at = self.sent.len() + CLIENT_ABANDONED;
        let writing = self.calls().any(|call| call.ask.kind() == Kind::Write);
        !writing && abandoned >= CLIENT_ABANDONED
    }

    /// Takes all calls from the server's hands, in the order in which they were sent.
    pub fn take_all(&mut self) -> Vec<Held> {
        self.take(|_| true)
    }

    /// Takes the calls that may be sent again to another server, in the order in which they were sent. Their answers, should
    /// they come, go to nobody.
    pub fn take_idempotent(&mut self) -> Vec<Held> {
        self.take(Call::may_be_sent_again)
    }

    fn take(&mut self, which: impl Fn(&Call) -> bool) -> Vec<Held> {
        let written = self.conn.written();
        let mut taken = Vec::new();
        for sent in self.sent.values_mut() {
            if matches!(&sent.who, Who::Call(call) if call.is_abandoned() || which(call))
                && let Who::Call(call) = mem::replace(&mut sent.who, Who::Nobody)
                && !call.is_abandoned()
            {
                taken.push((sent.end, call));
            }
        }
        taken.sort_by_key(|(end, _)| *end);
        taken.into_iter().map(|(end, call)| Held { call, taken: end <= written }).collect()
    }
}

impl Life {
    fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.owes_since = None;
        self.asked = None;
        self.slow = false;
    }

    /// When the connection is lost. One that was only now asked, since this process slept, has time to answer.
    fn lost_at(&self, asked: Instant, quiet: Duration) -> Instant {
        (self.heard + 2 * quiet).max(asked + quiet)
    }

    fn deadline(&self, patience: &Patience) -> Instant {
        let half = patience.slow.map(|slow| slow / 2);
        let (last, soon) = match self.asked {
            None => (self.heard + patience.quiet, self.owes_since.zip(half)),
            Some(asked) => (self.lost_at(asked, patience.quiet), half.filter(|_| !self.slow).map(|half| (asked, half))),
        };
        soon.map_or(last, |(since, half)| last.min(since + half))
    }

    /// Ready once the deadline has come. The timer is set again when it has run out, and when the deadline has come nearer:
    /// what is heard moves the deadline away often, and the timer seldom.
    fn poll_due(&mut self, patience: &Patience, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline(patience);
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl Currency {
    fn answer(&mut self, response: &Response<'_>) {
        self.out = false;
        match response.err_code.map(ErrCode::try_from) {
            None => self.current = Some(true),
            Some(Ok(ErrCode::Readonly)) => self.current = Some(false),
            Some(Ok(ErrCode::UnknownVerb)) => self.unknown = true,
            // The server cannot tell now; it is asked again.
            Some(_) => {}
        }
    }
}
