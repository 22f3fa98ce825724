//! The task behind a client: one connection at a time, and every call from its queueing to its answer.
//!
//! A call is in one of three places, and moves only to the right but for what a lost connection sends back:
//!
//! ```text
//! queue (bounded)  ->  waiting (sent back, or met no connection)  ->  sent (by tag, until answered)
//! ```
//! Each turn takes what has arrived, gathers what is queued behind one another and hands it to the kernel with one
//! write. When the connection is lost:
//!
//! | the call | its frame | |
//! |---|---|---|
//! | write | was taken whole by the kernel | [`Error::OutcomeUnknown`] |
//! | any other | | sent again; see below for how long |
//!
//! A read that was taken is sent up to [`ATTEMPTS`] times. A read or write is sent again for `retry_for`, counted from
//! when it first had no connection; then it is [`Error::Disconnected`], or [`Error::Unreachable`] if no address could be
//! connected to. A wait is sent again for ever. None is if the server sent garbage ([`Error::BadAnswer`]; a write that was
//! not taken is [`Error::Disconnected`]), or if every server refuses the secret or answers it with garbage.
//!
//! A watch is a row of waits, each from a revision that its caller names: sent again, it can neither lose nor repeat an
//! event.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::call::{Answer, Ask, Call, Kind};
use super::conn::Conn;
use super::error::{Error, Lost, Unreachable};
use super::options::Options;
use super::uri::{Address, Secret};
use crate::limits::{CLIENT_ABANDONED, CLIENT_OUTPUT, CLIENT_WAITING};
use crate::wire::{Response, Verb};

/// How often a read is sent before it is given up: one that kills servers is not to kill all of them.
const ATTEMPTS: u32 = 3;
/// The pause after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    options: Options,
    queue: mpsc::Receiver<Call>,
    waiting: VecDeque<Call>,
    sent: BTreeMap<i32, Sent>,
    next_tag: i32,
    /// Number of calls in `sent` at which it is searched for abandoned ones.
    search_at: usize,
    /// What was presented with success, in order.
    secrets: Vec<Secret>,
    /// The address to try next.
    next_address: usize,
    /// Connections and rounds of them in a row that brought no answer.
    failures: u32,
}

/// A request in the server's hands.
struct Sent {
    /// `None`: nobody awaits the answer.
    call: Option<Call>,
    /// The stream's position behind its frame.
    end: u64,
}

/// Why a connection is no longer served.
enum Ended {
    /// It is lost.
    Lost(Lost),
    /// Too many abandoned calls are open on it.
    Stale,
    /// The last handle has gone.
    Finished,
}

/// Whether the other side lives, as far as we can tell.
struct Pulse {
    /// When it last spoke, or was last asked after having owed nothing.
    heard: Instant,
    /// When it was asked for a sign of life, if it has not spoken since.
    asked: Option<Instant>,
    /// Whether it answered anything on this connection.
    spoke: bool,
    timer: Pin<Box<Sleep>>,
}

impl Driver {
    pub fn new(options: Options, queue: mpsc::Receiver<Call>) -> Self {
        let secrets = options.secret.iter().cloned().collect();
        let next_address = random() % options.addresses.len();
        Self {
            options,
            queue,
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
            next_tag: 0,
            search_at: CLIENT_ABANDONED,
            secrets,
            next_address,
            failures: 0,
        }
    }

    /// Tries each address once.
    pub async fn round(&mut self) -> Result<Conn, Unreachable> {
        let mut attempts = Vec::new();
        for _ in 0..self.options.addresses.len() {
            let address = self.options.addresses[self.next_address].clone();
            match self.dial(&address).await {
                Ok(conn) => return Ok(conn),
                Err(error) => attempts.push((address, error)),
            }
            self.turn();
        }
        Err(Unreachable { attempts })
    }

    async fn dial(&self, address: &Address) -> Result<Conn, Error> {
        let limit = self.options.connect_timeout;
        let dialled = timeout(limit, Conn::dial(address, &self.secrets)).await;
        dialled.unwrap_or(Err(Error::Disconnected(Lost::Quiet(limit))))
    }

    /// From now on the next address is the one to try.
    fn turn(&mut self) {
        self.next_address = (self.next_address + 1) % self.options.addresses.len();
    }

    /// Serves calls until the last handle has gone.
    pub async fn run(mut self, mut conn: Conn) {
        loop {
            let mut pulse = Pulse::new();
            let ended = poll_fn(|cx| self.poll(&mut conn, &mut pulse, cx)).await;
            if pulse.spoke {
                self.failures = 0;
            }
            match ended {
                Ended::Finished => return,
                Ended::Stale => self.take_back(),
                Ended::Lost(cause) => {
                    self.failures += u32::from(!pulse.spoke);
                    self.turn();
                    self.lose(&cause, conn.written());
                }
            }
            drop(conn);
            match self.reconnect().await {
                Some(new) => conn = new,
                None => return,
            }
        }
    }

    /// One turn of a connection's service.
    fn poll(&mut self, conn: &mut Conn, pulse: &mut Pulse, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let received = match self.poll_receive(conn, pulse, cx) {
                Ok(received) => received,
                Err(cause) => return Poll::Ready(Ended::Lost(cause)),
            };
            let full = conn.backlog() >= CLIENT_OUTPUT;
            let Ok(gathered) = self.gather(conn, pulse, cx) else {
                return Poll::Ready(Ended::Finished);
            };
            if let Poll::Ready(Err(cause)) = conn.poll_flush(cx) {
                return Poll::Ready(Ended::Lost(cause));
            }
            let asked = match self.poll_pulse(conn, pulse, cx) {
                Ok(asked) => asked,
                Err(cause) => return Poll::Ready(Ended::Lost(cause)),
            };
            if self.sent.len() >= self.search_at && self.is_stale() {
                return Poll::Ready(Ended::Stale);
            }
            // The queue was not looked at while too much was on its way out.
            let unblocked = full && conn.backlog() < CLIENT_OUTPUT;
            if !received && !gathered && !unblocked && !asked {
                return Poll::Pending;
            }
        }
    }

    /// Receives once and hands out the answers in it. Whether anything came.
    fn poll_receive(&mut self, conn: &mut Conn, pulse: &mut Pulse, cx: &mut Context<'_>) -> Result<bool, Lost> {
        match conn.poll_fill(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(filled) => filled?,
        }
        pulse.hear();
        while let Some(body) = conn.next_frame()? {
            pulse.spoke = true;
            let response = Response::decode(conn.input(body)).map_err(Lost::Malformed)?;
            let sent = response.tag.and_then(|tag| self.sent.remove(&tag));
            match sent {
                None => return Err(Lost::Tag(response.tag)),
                Some(Sent { call: None, .. }) => {}
                Some(Sent { call: Some(call), .. }) => self.answer(call, &response),
            }
        }
        Ok(true)
    }

    fn answer(&mut self, mut call: Call, response: &Response<'_>) {
        let result = Answer::read(call.ask.verb, response);
        if call.ask.verb == Verb::Access && result.is_ok() {
            // To be presented again on the next connection; the last one last.
            let secret = Secret(call.ask.value.take().unwrap_or_default());
            self.secrets.retain(|s| *s != secret);
            self.secrets.push(secret);
        }
        call.answer(result);
    }

    /// Queues requests for the kernel while there is room. Whether there were any; `Err` if there will never be more.
    fn gather(&mut self, conn: &mut Conn, pulse: &mut Pulse, cx: &mut Context<'_>) -> Result<bool, ()> {
        let mut gathered = false;
        while conn.backlog() < CLIENT_OUTPUT {
            let call = match self.waiting.pop_front() {
                Some(call) => call,
                None => match self.queue.poll_recv(cx) {
                    Poll::Ready(Some(call)) => call,
                    Poll::Ready(None) => return Err(()),
                    Poll::Pending => break,
                },
            };
            if !call.is_abandoned() {
                self.send(conn, pulse, call);
                gathered = true;
            }
        }
        Ok(gathered)
    }

    fn send(&mut self, conn: &mut Conn, pulse: &mut Pulse, mut call: Call) {
        call.attempts += 1;
        let tag = self.free_tag();
        let end = conn.push(&call.ask.request(tag));
        self.note(pulse, tag, Some(call), end);
    }

    fn note(&mut self, pulse: &mut Pulse, tag: i32, call: Option<Call>, end: u64) {
        if self.sent.is_empty() {
            pulse.begin();
        }
        self.sent.insert(tag, Sent { call, end });
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

    /// Asks a silent server for a sign of life, and loses patience with it. Whether it was asked.
    fn poll_pulse(&mut self, conn: &mut Conn, pulse: &mut Pulse, cx: &mut Context<'_>) -> Result<bool, Lost> {
        let quiet = self.options.quiet;
        if self.sent.is_empty() {
            return Ok(false);
        }
        let since = pulse.asked.unwrap_or(pulse.heard);
        if pulse.poll_until(since + quiet, cx).is_pending() {
            return Ok(false);
        }
        if pulse.asked.is_some() {
            return Err(Lost::Quiet(pulse.heard.elapsed()));
        }
        pulse.asked = Some(Instant::now());
        let tag = self.free_tag();
        let end = conn.push(&Ask::new(Verb::Rev).request(tag));
        self.note(pulse, tag, None, end);
        Ok(true)
    }

    /// Whether the server holds so many abandoned calls that a new connection is better; not while a write is out,
    /// whose answer would be lost.
    fn is_stale(&mut self) -> bool {
        let mut abandoned = 0;
        let mut writing = false;
        for sent in self.sent.values_mut() {
            if sent.call.as_ref().is_none_or(Call::is_abandoned) {
                sent.call = None;
                abandoned += 1;
            }
            writing |= sent.call.as_ref().is_some_and(|c| c.ask.kind() == Kind::Write);
        }
        self.search_at = self.sent.len() + CLIENT_ABANDONED;
        abandoned >= CLIENT_ABANDONED && !writing
    }

    /// All calls in the server's hands, in the order in which they were sent.
    fn drain_sent(&mut self) -> Vec<(Call, u64)> {
        self.search_at = CLIENT_ABANDONED;
        let mut sent: Vec<Sent> = mem::take(&mut self.sent).into_values().collect();
        sent.sort_by_key(|s| s.end);
        let held = |s: Sent| s.call.map(|call| (call, s.end));
        sent.into_iter().filter_map(held).filter(|(call, _)| !call.is_abandoned()).collect()
    }

    /// Puts calls in front of those that wait.
    fn put_back(&mut self, calls: Vec<Call>) {
        for call in calls.into_iter().rev() {
            self.waiting.push_front(call);
        }
    }

    /// The connection was given up by us, with no write out.
    fn take_back(&mut self) {
        let calls = self.drain_sent();
        let again = |(mut call, _): (Call, u64)| {
            call.attempts -= 1;
            call
        };
        self.put_back(calls.into_iter().map(again).collect());
    }

    /// The connection was lost when the kernel had taken `written` bytes: the table at the top.
    fn lose(&mut self, cause: &Lost, written: u64) {
        let mut again = Vec::new();
        for (mut call, end) in self.drain_sent() {
            if end > written {
                call.attempts -= 1;
                again.push(call);
                continue;
            }
            match call.ask.kind() {
                Kind::Write => call.answer(Err(Error::OutcomeUnknown(cause.clone()))),
                Kind::Read if call.attempts >= ATTEMPTS => call.answer(Err(Error::Disconnected(cause.clone()))),
                Kind::Read | Kind::Wait => again.push(call),
            }
        }
        self.put_back(again);
        self.strand();
        // What waits was not carried out, or only read.
        let garbage = cause.is_malformed();
        self.give_up(garbage, |call| match call.ask.kind() {
            Kind::Read | Kind::Wait if garbage => Error::BadAnswer(cause.clone()),
            _ => Error::Disconnected(cause.clone()),
        });
    }

    /// Marks the calls that have no connection from now on.
    fn strand(&mut self) {
        let now = Instant::now();
        for call in &mut self.waiting {
            call.stranded.get_or_insert(now);
        }
    }

    /// Fails the calls that wait: all, or those that have waited for long enough.
    fn give_up(&mut self, all: bool, error: impl Fn(&Call) -> Error) {
        let now = Instant::now();
        for call in mem::take(&mut self.waiting) {
            let waited = call.stranded.map_or(Duration::ZERO, |since| now - since);
            let tired = call.ask.kind() != Kind::Wait && waited >= self.options.retry_for;
            if all || tired {
                let error = error(&call);
                call.answer(Err(error));
            } else {
                self.waiting.push_back(call);
            }
        }
    }

    /// Connects anew as soon as somebody needs it. `None` when the last handle has gone.
    async fn reconnect(&mut self) -> Option<Conn> {
        loop {
            self.await_need().await?;
            if self.failures > 0 {
                sleep(pause(self.failures)).await;
            }
            match self.round().await {
                Ok(conn) => return Some(conn),
                Err(unreachable) => {
                    self.failures = self.failures.saturating_add(1);
                    self.give_up(unreachable.is_hopeless(), |_| Error::Unreachable(unreachable.clone()));
                }
            }
        }
    }

    /// Returns when a call waits for a connection; `None` if none ever will.
    async fn await_need(&mut self) -> Option<()> {
        self.waiting.retain(|call| !call.is_abandoned());
        if self.waiting.is_empty() {
            // Nobody was there to be kept waiting: begin afresh.
            self.failures = 0;
            let call = self.queue.recv().await?;
            self.waiting.push_back(call);
        }
        while self.waiting.len() < CLIENT_WAITING
            && let Ok(call) = self.queue.try_recv()
        {
            self.waiting.push_back(call);
        }
        self.strand();
        Some(())
    }
}

impl Pulse {
    fn new() -> Self {
        Self { heard: Instant::now(), asked: None, spoke: false, timer: Box::pin(sleep_until(Instant::now())) }
    }

    /// The server owes an answer, and did not before.
    fn begin(&mut self) {
        self.hear();
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.asked = None;
    }

    /// Ready once `deadline` has come. The timer is set again only when it has run out: what is heard moves the
    /// deadline often, and the timer seldom.
    fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
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

/// The pause before another round: doubling, and shortened by up to a half so that clients do not come all at once.
fn pause(failures: u32) -> Duration {
    let full = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let thousandths = u32::try_from(random() % 500).unwrap_or(0);
    full - full / 1000 * thousandths
}

/// A number that differs from process to process and from call to call. Nothing depends on its quality.
fn random() -> usize {
    let bytes = RandomState::new().hash_one(0_u8).to_ne_bytes();
    usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
}
