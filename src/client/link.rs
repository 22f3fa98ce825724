//! A connection in service: the requests that its server holds, whether the server lives, and whether it reaches a majority.
//!
//! * **Life.** If a server owes an answer and is silent, the link asks for a sign of life (REV, which every server answers at
//!   once). If none comes soon, the server is *slow*, which is a reason to look for another one. If none comes at all, the
//!   connection is lost. A sign of life is a whole answer, or at least [`CLIENT_PROGRESS`] bytes of a long one: a server that sends
//!   one byte now and then does not live.
//! * **Currency.** A server that is cut off from the majority still serves reads and waits, from an old state. While a caller waits
//!   for an event, the link regularly asks the server with SYNC; READONLY means that the link is *stale*. The link does not ask
//!   again if the server does not know SYNC.

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
use crate::limits::{CLIENT_ABANDONED, CLIENT_OUTPUT, CLIENT_PROGRESS};
use crate::wire::{ErrCode, Response, Verb};

pub(super) struct Link {
    conn: Conn,
    pub address: Address,
    sent: BTreeMap<i32, Sent>,
    next_tag: i32,
    /// When `sent` has this many requests, the link searches it for abandoned ones.
    search_at: usize,
    life: Life,
    currency: Currency,
}

/// A request that the server has or may get.
struct Sent {
    who: Who,
    /// The position in the output stream where its frame ends.
    end: u64,
}

/// Who gets the answer.
enum Who {
    /// A caller.
    Call(Call),
    /// Nobody: the caller has given up, or the request only asked for a sign of life.
    Nobody,
    /// The link itself, which sent a SYNC.
    Link,
}

/// How long a server may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Silence after which the link asks for a sign of life; after as long again, the connection is lost.
    pub quiet: Duration,
    /// Time after a request until another server is looked for; `None` if there is no other.
    pub slow: Option<Duration>,
    /// Time between two SYNCs.
    pub sync_every: Duration,
}

struct Life {
    /// When the server last showed a sign of life, or began to owe an answer.
    heard: Instant,
    /// Bytes of an unfinished answer that came since then.
    partial: usize,
    /// When the first request since then was sent.
    owes_since: Option<Instant>,
    /// When the link asked for a sign of life, if the server has been silent since.
    asked: Option<Instant>,
    slow: bool,
    /// True if the server has answered anything on this connection.
    spoke: bool,
    timer: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Currency {
    /// Set while a caller waits for events.
    timer: Option<Pin<Box<Sleep>>>,
    out: bool,
    unknown: bool,
    /// Whether the server reached a majority at its last answer; `None` before the first.
    current: Option<bool>,
}

/// A call without an answer when its connection ended.
pub(super) struct Held {
    pub call: Call,
    /// True if the kernel took the whole frame, so that the server may have received it.
    pub taken: bool,
}

impl Link {
    pub fn new(conn: Conn, address: Address) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now));
        let life = Life { heard: now, partial: 0, owes_since: None, asked: None, slow: false, spoke: false, timer };
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

    /// Returns whether the server has answered anything.
    pub const fn spoke(&self) -> bool {
        self.life.spoke
    }

    /// Returns whether the server has been silent for so long that another one is better.
    pub const fn is_slow(&self) -> bool {
        self.life.slow
    }

    /// Returns whether the server reaches a majority; `None` if it has not said yet.
    pub const fn is_current(&self) -> Option<bool> {
        self.currency.current
    }

    /// Forgets what the server said about its majority; the next SYNC asks again.
    pub const fn forget_currency(&mut self) {
        self.currency.current = None;
    }

    /// Returns whether a caller waits for events here and wants a server that reaches a majority.
    pub fn is_watched(&self) -> bool {
        self.calls().any(|call| call.ask.wants_majority && !call.is_abandoned())
    }

    /// Returns whether the server holds a call that cannot be sent again as it is.
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
            // The first SYNC comes later, so a short wait costs none.
            self.currency.timer = Some(Box::pin(sleep_until(now + patience.sync_every)));
            self.currency.current = None;
        }
    }

    fn ask(&mut self, verb: Verb, who: Who) {
        let tag = self.free_tag();
        let end = self.conn.push(&Ask::new(verb).request(tag));
        self.sent.insert(tag, Sent { who, end });
    }

    /// Returns a tag that no outstanding request has.
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

    /// Receives once, and hands the answers to `answered`. Returns whether any bytes came.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        mut answered: impl FnMut(Call, Result<Answer, Error>),
    ) -> Result<bool, Lost> {
        let received = match self.conn.poll_fill(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(received) => received?,
        };
        let now = Instant::now();
        self.life.partial += received;
        if self.life.partial >= CLIENT_PROGRESS {
            self.life.hear(now);
        }
        while let Some(body) = self.conn.next_frame()? {
            self.life.hear(now);
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

    /// Asks a silent server for a sign of life, notes that it is slow, and finally gives the connection up. Returns whether
    /// anything happened.
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

    /// Asks whether the server reaches a majority, if it is time and a caller wants to know. Returns whether anything happened.
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

    /// Returns whether the server holds so many abandoned calls that a new connection is better. Never true while the server holds
    /// a write: its answer would be lost.
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

    /// Takes all calls off this connection, in the order in which they were sent.
    pub fn take_all(&mut self) -> Vec<Held> {
        self.take(|_| true)
    }

    /// Takes the calls that may be sent to another server, in the order in which they were sent. If this server still answers them,
    /// the answers are dropped.
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
        self.partial = 0;
        self.owes_since = None;
        self.asked = None;
        self.slow = false;
    }

    /// When the connection is lost. If this process slept and has only now asked, the server has time to answer.
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

    /// Ready once the deadline has passed. Most answers only move the deadline further away, so the timer is reset only when it
    /// fires or when the deadline has come nearer.
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
            // The server cannot tell now; the next SYNC asks again.
            Some(_) => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A connection to a listener that neither reads nor answers.
    pub async fn link() -> (Link, std::net::TcpListener) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let conn = Conn::dial(&address, &[], Duration::from_secs(600)).await.unwrap();
        (Link::new(conn, address), listener)
    }

    /// Tags begin again at 0 when there are no more, and a wait may be outstanding since the first of them: with its tag, a later
    /// request would get its event, and it would get that request's answer.
    #[tokio::test]
    async fn two_outstanding_requests_have_one_tag() {
        let (mut link, _listener) = link().await;
        let patience = Patience { quiet: Duration::from_secs(600), slow: None, sync_every: Duration::from_secs(600) };
        let mut waits = Vec::new();
        for tag in [0, 1, 3, i32::MAX] {
            link.next_tag = tag;
            let (call, answer) = Call::new(Ask::new(Verb::Wait));
            link.send(call, &patience);
            waits.push(answer);
        }
        link.next_tag = i32::MAX - 1;
        for _ in 0..4 {
            link.ask(Verb::Rev, Who::Nobody);
        }
        let tags: Vec<i32> = link.sent.keys().copied().collect();
        assert_eq!(tags, [0, 1, 2, 3, 4, 5, i32::MAX - 1, i32::MAX]);
        let ends: BTreeSet<u64> = link.sent.values().map(|sent| sent.end).collect();
        assert_eq!(ends.len(), tags.len());
        assert!(link.calls().count() == 4 && waits.iter_mut().all(|wait| wait.try_recv().is_err()));
    }

    /// A laptop that was closed, or a process that was stopped, finds all its time-outs past. The server could not answer a question
    /// that nobody asked, so its time begins with the question.
    #[tokio::test]
    async fn a_server_is_given_up_for_the_time_that_its_client_slept() {
        let (link, _listener) = link().await;
        let mut life = link.life;
        let (quiet, slow) = (Duration::from_secs(10), Duration::from_secs(2));
        let patience = Patience { quiet, slow: Some(slow), sync_every: quiet };
        let alone = Patience { slow: None, ..patience };
        let heard = life.heard;
        let at = |seconds: u64| heard + Duration::from_secs(seconds);

        // Nothing is owed yet; then a request is out since second 3: the question comes after half of the time for a slow server.
        assert_eq!((life.deadline(&patience), life.deadline(&alone)), (at(10), at(10)));
        life.owes_since = Some(at(3));
        assert_eq!((life.deadline(&patience), life.deadline(&alone)), (at(4), at(10)));

        // When it was asked; then when it is slow, and when it is lost.
        for (asked, slow, lost) in [(4, 5, 20), (10, 11, 20), (15, 16, 25), (3600, 3601, 3610)] {
            (life.asked, life.slow) = (Some(at(asked)), false);
            assert_eq!(
                (life.deadline(&patience), life.deadline(&alone)),
                (at(slow), at(lost)),
                "asked in second {asked}"
            );
            life.slow = true;
            assert_eq!((life.deadline(&patience), life.lost_at(at(asked), quiet)), (at(lost), at(lost)));
        }

        // A sign of life begins it all again.
        life.partial = CLIENT_PROGRESS - 1;
        life.hear(at(3605));
        assert_eq!((life.deadline(&patience), life.partial, life.slow), (at(3615), 0, false));
        assert_eq!((life.owes_since, life.asked), (None, None));
    }
}
