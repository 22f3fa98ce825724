//! The task behind a client: it serves one connection, and every call from its queueing to its answer.
//!
//! A call is in one of four places:
//!
//! ```text
//! queue (bounded)  ->  waiting (sent back, or met no connection)  ->  a link (by tag, until answered)
//!                         ^----------------  refused (answered with READONLY)  <----------'
//! ```
//! Each turn takes what has arrived, joins all queued requests, and hands them to the kernel with one write. When the connection is
//! lost:
//!
//! | the call | its frame | |
//! |---|---|---|
//! | write | was taken whole by the kernel | [`Error::OutcomeUnknown`] |
//! | any other | | sent again; see below for how long |
//!
//! A read that the server may have received is sent up to [`ATTEMPTS`](super::call::ATTEMPTS) times. Reads and writes are retried
//! for `retry_for`, counted from when the call first had no connection. Then the call fails with [`Error::Disconnected`], or with
//! [`Error::Unreachable`] if no address accepted a connection. Waits are retried without limit. A server that sends garbage is left
//! like one that closes the connection. No call is retried if as many connections in a row as there are addresses ended with garbage
//! ([`Error::BadAnswer`]; [`Error::Disconnected`] for a write that the kernel did not take), or if every server refuses the secret
//! or answers it with garbage.
//!
//! A watch is a sequence of waits, each from a revision that its caller names. So a repeated wait can neither lose nor repeat an
//! event.
//!
//! # A better server
//! An established connection may lead to the wrong server: one that hangs, or one that is cut off from the majority. Then a *scout*
//! looks for a better server among the other addresses, while the driver still serves the connection:
//!
//! | what the driver sees | what the scout wants |
//! |---|---|
//! | the server shows no sign of life for `slow_after` | any server that answers |
//! | the server answers a call with READONLY: it certainly did not carry the call out | a server that answers SYNC, and so reaches a majority |
//! | the server answers SYNC with READONLY, and somebody waits for events | a server that answers SYNC, and so reaches a majority |
//!
//! If the scout succeeds, its connection takes over. Calls that may be sent again move there. The driver keeps the old connection
//! until its writes are answered, because it never repeats a write whose outcome is unknown. If the scout fails, refused calls go
//! to the old server and then to another scout, with pauses, for `readonly_for`; then the driver answers them with READONLY.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::call::{Answer, Ask, Call, Kind};
use super::conn::Conn;
use super::error::{Error, Lost, Stale, Unreachable};
use super::link::{Held, Link, Patience};
use super::options::Options;
use super::race;
use super::uri::Secret;
use crate::address::Address;
use crate::limits::{CLIENT_LEFT, CLIENT_WAITING};
use crate::wire::{ErrCode, Verb};

/// The pause after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest pause between two scouts.
const SCOUT_PAUSE_MAX: Duration = Duration::from_millis(250);

pub(super) struct Driver {
    options: Options,
    queue: mpsc::Receiver<Call>,
    waiting: VecDeque<Call>,
    /// Calls that a server answered with READONLY; the driver tries them at other servers.
    refused: Vec<Call>,
    scout: Option<Scout>,
    /// Runs after a scout has failed.
    scout_pause: Option<Pin<Box<Sleep>>>,
    /// Number of scouts that failed in a row.
    scouts_failed: u32,
    /// The secrets that were accepted, in order.
    secrets: Vec<Secret>,
    /// The address to try next.
    next_address: usize,
    /// Number of connections and rounds in a row that brought no answer.
    failures: u32,
    /// Number of connections in a row that ended with garbage.
    garbled: usize,
    state: watch::Sender<State>,
}

/// What the driver tells the handles about the connection.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The server's address: the one in service, or the last one.
    pub address: Address,
    /// Why events may be missing; `None` if none can be.
    pub stale: Option<Stale>,
}

/// What a scout requires of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// The server answers.
    Alive,
    /// The server reaches a majority.
    Majority,
}

/// A search for a better server.
struct Scout {
    want: Want,
    job: Pin<Box<dyn Future<Output = Found> + Send>>,
}

/// A connection to a server that has met the requirement, and the number of its address.
type Found = Option<(usize, Conn)>;

/// Why the driver stops serving a connection.
enum Ended {
    /// The connection is lost.
    Lost(Lost),
    /// The connection has too many abandoned calls.
    Crowded,
    /// The last handle has gone.
    Finished,
}

/// Connections that a better one replaced, with calls on them that cannot be sent again.
#[derive(Default)]
struct Left {
    links: Vec<Link>,
    /// Calls to send again: the servers certainly did not carry them out.
    again: Vec<Call>,
}

impl Driver {
    pub fn new(options: Options, queue: mpsc::Receiver<Call>) -> Self {
        let secrets = options.secret.iter().cloned().collect();
        let next_address = random() % options.addresses.len();
        let (state, _) = watch::channel(State { address: options.addresses[next_address].clone(), stale: None });
        Self {
            options,
            queue,
            waiting: VecDeque::new(),
            refused: Vec::new(),
            scout: None,
            scout_pause: None,
            scouts_failed: 0,
            secrets,
            next_address,
            failures: 0,
            garbled: 0,
            state,
        }
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Tries each address once; attempts overlap if one takes long.
    pub async fn round(&mut self) -> Result<Link, Unreachable> {
        let limit = self.options.connect_timeout;
        let secrets = &self.secrets;
        let attempts = self.addresses_from(self.next_address).into_iter().map(|(n, address)| async move {
            match Conn::dial(&address, secrets, limit).await {
                Ok(conn) => Ok((n, address, conn)),
                Err(error) => Err((address, error)),
            }
        });
        let (n, address, conn) =
            race::first(attempts, self.options.slow_after).await.map_err(|attempts| Unreachable { attempts })?;
        Ok(self.begin(n, address, conn))
    }

    /// Returns all addresses, starting with number `first`.
    fn addresses_from(&self, first: usize) -> Vec<(usize, Address)> {
        let addresses = &self.options.addresses;
        let numbers = (0..addresses.len()).map(|i| (first + i) % addresses.len());
        numbers.map(|n| (n, addresses[n].clone())).collect()
    }

    /// Puts a connection into service.
    fn begin(&mut self, n: usize, address: Address, conn: Conn) -> Link {
        self.next_address = n;
        self.state.send_modify(|state| {
            state.address = address.clone();
            // The server has not said yet whether it reaches a majority.
            state.stale.take_if(|stale| matches!(stale, Stale::Unreachable(_)));
        });
        Link::new(conn, address)
    }

    /// Makes the next address the one to try.
    fn turn(&mut self) {
        self.next_address = (self.next_address + 1) % self.options.addresses.len();
    }

    fn patience(&self) -> Patience {
        let several = self.options.addresses.len() > 1;
        Patience {
            quiet: self.options.quiet,
            slow: several.then_some(self.options.slow_after),
            sync_every: self.options.sync_every,
        }
    }

    /// Serves calls until the last handle has gone.
    pub async fn run(mut self, mut link: Link) {
        let mut left = Left::default();
        loop {
            let ended = poll_fn(|cx| self.poll(&mut link, &mut left, cx)).await;
            if link.spoke() {
                self.failures = 0;
            }
            (self.scout, self.scout_pause) = (None, None);
            match ended {
                Ended::Finished => return,
                Ended::Crowded => self.take_back(&mut link),
                Ended::Lost(cause) => {
                    self.failures += u32::from(!link.spoke());
                    if cause.is_malformed() {
                        self.garbled += 1;
                    } else if link.spoke() {
                        self.garbled = 0;
                    }
                    self.turn();
                    self.lose(&mut link, &cause);
                }
            }
            drop(link);
            link = match self.replace(&mut left).await {
                Some(new) => new,
                None => return,
            };
        }
    }

    /// Connects again, and serves the replaced connections meanwhile. `None` when the last handle has gone.
    async fn replace(&mut self, left: &mut Left) -> Option<Link> {
        let patience = self.patience();
        loop {
            self.waiting.extend(left.again.drain(..));
            let mut reconnect = pin!(self.reconnect());
            let done = poll_fn(|cx| {
                left.poll(&patience, cx);
                if !left.again.is_empty() {
                    return Poll::Ready(None);
                }
                reconnect.as_mut().poll(cx).map(Some)
            });
            if let Some(done) = done.await {
                return done;
            }
        }
    }

    /// One turn of a connection's service.
    fn poll(&mut self, link: &mut Link, left: &mut Left, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let patience = self.patience();
            let received = match link.poll_receive(cx, |call, result| self.answer(call, result)) {
                Ok(received) => received,
                Err(cause) => return Poll::Ready(Ended::Lost(cause)),
            };
            left.poll(&patience, cx);
            self.waiting.extend(left.again.drain(..));
            let full = !link.has_room();
            let Ok(gathered) = self.gather(link, &patience, cx) else {
                return Poll::Ready(Ended::Finished);
            };
            if let Poll::Ready(Err(cause)) = link.poll_flush(cx) {
                return Poll::Ready(Ended::Lost(cause));
            }
            let asked = match link.poll_life(&patience, cx) {
                Ok(asked) => asked | link.poll_currency(&patience, cx),
                Err(cause) => return Poll::Ready(Ended::Lost(cause)),
            };
            if link.is_crowded() {
                return Poll::Ready(Ended::Crowded);
            }
            let scouted = self.poll_scout(link, left, cx);
            // While too much output waited, nobody looked at the queue.
            let unblocked = full && link.has_room();
            if !(received || gathered || unblocked || asked || scouted) {
                return Poll::Pending;
            }
        }
    }

    fn answer(&mut self, mut call: Call, result: Result<Answer, Error>) {
        if call.ask.verb == Verb::Access && result.is_ok() {
            // Keep the secret for the next connection, after the others.
            let secret = Secret(call.ask.value.take().unwrap_or_default());
            self.secrets.retain(|s| *s != secret);
            self.secrets.push(secret);
        }
        match result {
            Err(error) if error.code() == Some(ErrCode::Readonly) && self.options.addresses.len() > 1 => {
                // The server certainly did not carry it out, so another server may, without the risk of doing it twice.
                call.note_refusal(error);
                self.refused.push(call);
            }
            result => call.answer(result),
        }
    }

    /// Queues requests for the kernel while there is room. Returns whether there were any, or `Err` if there will never be more.
    fn gather(&mut self, link: &mut Link, patience: &Patience, cx: &mut Context<'_>) -> Result<bool, ()> {
        let mut gathered = false;
        while link.has_room() {
            let call = match self.waiting.pop_front() {
                Some(call) => call,
                None => match self.queue.poll_recv(cx) {
                    Poll::Ready(Some(call)) => call,
                    Poll::Ready(None) => return Err(()),
                    Poll::Pending => break,
                },
            };
            if !call.is_abandoned() {
                link.send(call, patience);
                gathered = true;
            }
        }
        Ok(gathered)
    }

    // ---- a better server ----

    /// Returns what a scout should look for: `None` if this server is good enough, or if there is no other address.
    fn want(&mut self, link: &Link, left: &Left) -> Option<Want> {
        if self.options.addresses.len() < 2 {
            return None;
        }
        if left.links.len() >= CLIENT_LEFT {
            self.refuse(Duration::ZERO);
            return None;
        }
        if link.is_slow() {
            return Some(Want::Alive);
        }
        self.refused.retain(|call| !call.is_abandoned());
        let stale = link.is_current() == Some(false) && link.is_watched();
        (stale || !self.refused.is_empty()).then_some(Want::Majority)
    }

    /// Looks for a better server if there is a reason to, and moves to it. Returns whether anything happened.
    fn poll_scout(&mut self, link: &mut Link, left: &mut Left, cx: &mut Context<'_>) -> bool {
        self.note_currency(link);
        if let Some(pause) = &mut self.scout_pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            // The server may have found a majority meanwhile.
            self.scout_pause = None;
            self.waiting.extend(self.refused.drain(..));
            return true;
        }
        if self.scout.is_none()
            && let Some(want) = self.want(link, left)
        {
            self.scout = Some(self.send_scout(want));
        }
        let Some(scout) = &mut self.scout else { return false };
        let Poll::Ready(found) = scout.job.as_mut().poll(cx) else { return false };
        let want = scout.want;
        self.scout = None;
        match found {
            // The server may have recovered meanwhile.
            Some((n, conn)) if self.want(link, left).is_some() => self.move_to(n, conn, link, left),
            Some(_) => {}
            None => self.scout_failed(want, link),
        }
        true
    }

    /// Tells the handles what the server says about its majority, if there is no better server.
    fn note_currency(&self, link: &Link) {
        let alone = self.options.addresses.len() < 2;
        self.state.send_if_modified(|state| match link.is_current() {
            Some(true) => state.stale.take().is_some(),
            Some(false) if alone && state.stale.is_none() => {
                state.stale = Some(Stale::NoMajority(link.address.clone()));
                true
            }
            _ => false,
        });
    }

    fn send_scout(&self, want: Want) -> Scout {
        let mut others = self.addresses_from(self.next_address);
        others.remove(0);
        let ask = Ask::new(match want {
            Want::Alive => Verb::Rev,
            Want::Majority => Verb::Sync,
        });
        let limit = match want {
            Want::Alive => self.options.connect_timeout,
            // Refused calls wait no longer than their limit.
            Want::Majority => self.options.connect_timeout.min(self.options.readonly_for.max(self.options.slow_after)),
        };
        let (secrets, stagger) = (self.secrets.clone(), self.options.slow_after);
        let job = Box::pin(async move {
            let (secrets, ask) = (&secrets, &ask);
            let attempts = others.into_iter().map(|(n, address)| async move {
                let proven = async {
                    let mut conn = Conn::dial(&address, secrets, limit).await?;
                    conn.ask(ask).await?;
                    Ok::<_, Error>(conn)
                };
                match timeout(limit, proven).await {
                    Ok(Ok(conn)) => Ok((n, conn)),
                    Ok(Err(_)) | Err(_) => Err(()),
                }
            });
            race::first(attempts, stagger).await.ok()
        });
        Scout { want, job }
    }

    fn move_to(&mut self, n: usize, conn: Conn, link: &mut Link, left: &mut Left) {
        let address = self.options.addresses[n].clone();
        let mut old = mem::replace(link, self.begin(n, address, conn));
        (self.scouts_failed, self.failures) = (0, 0);
        let moved: Vec<Call> = old.take_idempotent().into_iter().map(Held::again).collect();
        self.put_back(moved);
        let refused = mem::take(&mut self.refused);
        self.put_back(refused);
        if old.is_bound() {
            left.links.push(old);
        }
    }

    fn scout_failed(&mut self, want: Want, link: &mut Link) {
        self.scouts_failed = self.scouts_failed.saturating_add(1);
        if want == Want::Majority && link.is_current() == Some(false) {
            self.state.send_if_modified(|state| {
                let news = state.stale.is_none();
                state.stale.get_or_insert_with(|| Stale::NoMajority(link.address.clone()));
                news
            });
        }
        let mut pause = pause(self.scouts_failed);
        if want == Want::Majority {
            self.refuse(self.options.readonly_for);
            // For callers that wait for events, the next SYNC starts the next scout.
            link.forget_currency();
            pause = pause.min(SCOUT_PAUSE_MAX);
        }
        self.scout_pause = Some(Box::pin(sleep(pause)));
    }

    /// Answers the calls that were first refused at least `limit` ago.
    fn refuse(&mut self, limit: Duration) {
        for mut call in mem::take(&mut self.refused) {
            match call.refused.take_if(|(since, _)| since.elapsed() >= limit) {
                Some((_, error)) => call.answer(Err(error)),
                None => self.refused.push(call),
            }
        }
    }

    // ---- a lost connection ----

    /// Puts calls in front of those that wait.
    fn put_back(&mut self, calls: Vec<Call>) {
        for call in calls.into_iter().rev() {
            self.waiting.push_front(call);
        }
    }

    /// Takes all calls back from a connection that the driver gives up; no write is under way on it.
    fn take_back(&mut self, link: &mut Link) {
        let again = |mut held: Held| {
            held.call.uncount();
            held.call
        };
        let calls = link.take_all().into_iter().map(again).collect();
        self.put_back(calls);
        let refused = mem::take(&mut self.refused);
        self.put_back(refused);
    }

    /// Sorts out the calls of a lost connection: see the table at the top.
    fn lose(&mut self, link: &mut Link, cause: &Lost) {
        let mut again = mem::take(&mut self.refused);
        for held in link.take_all() {
            match held.taken.then(|| held.call.verdict(&link.address, cause)).flatten() {
                Some(error) => held.call.answer(Err(error)),
                None => again.push(held.again()),
            }
        }
        self.put_back(again);
        self.strand();
        // The waiting calls were not carried out, or are reads.
        let hopeless = self.garbled >= self.options.addresses.len();
        self.give_up(hopeless, |call| call.not_answered(&link.address, cause));
        if hopeless {
            // The next call tries all of them again.
            self.garbled = 0;
        }
    }

    /// Notes for each waiting call that it has no connection from now on.
    fn strand(&mut self) {
        let now = Instant::now();
        for call in &mut self.waiting {
            call.stranded.get_or_insert(now);
        }
    }

    /// Fails waiting calls: all of them, or those that have waited for too long.
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

    /// Connects again as soon as a call needs it. Returns `None` when the last handle has gone.
    async fn reconnect(&mut self) -> Option<Link> {
        loop {
            self.await_need().await?;
            if self.failures > 0 {
                sleep(pause(self.failures)).await;
            }
            match self.round().await {
                Ok(link) => return Some(link),
                Err(unreachable) => {
                    self.failures = self.failures.saturating_add(1);
                    self.state.send_if_modified(|state| {
                        let news = state.stale.is_none();
                        state.stale.get_or_insert_with(|| Stale::Unreachable(unreachable.clone()));
                        news
                    });
                    self.give_up(unreachable.is_hopeless(), |_| Error::Unreachable(unreachable.clone()));
                }
            }
        }
    }

    /// Returns when a call waits for a connection. Returns `None` if none ever will.
    async fn await_need(&mut self) -> Option<()> {
        self.waiting.retain(|call| !call.is_abandoned());
        if self.waiting.is_empty() {
            // No caller had to wait for the failed attempts, so forget them.
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

impl Held {
    /// Returns the call, to be sent again. It counts as an attempt only if the server may have received it.
    fn again(mut self) -> Call {
        if !self.taken {
            self.call.uncount();
        }
        self.call
    }
}

impl Left {
    /// Serves these connections until nobody awaits an answer on them.
    fn poll(&mut self, patience: &Patience, cx: &mut Context<'_>) {
        let patience = Patience { slow: None, ..*patience };
        let again = &mut self.again;
        self.links.retain_mut(|link| {
            if let Err(cause) = serve(link, &patience, again, cx) {
                for held in link.take_all() {
                    match held.taken.then(|| held.call.verdict(&link.address, &cause)).flatten() {
                        Some(error) => held.call.answer(Err(error)),
                        None => again.push(held.again()),
                    }
                }
            }
            link.is_bound()
        });
    }
}

/// Runs one turn of a connection that a better one replaced.
fn serve(link: &mut Link, patience: &Patience, again: &mut Vec<Call>, cx: &mut Context<'_>) -> Result<(), Lost> {
    let mut answer = |mut call: Call, result: Result<Answer, Error>| match result {
        Err(error) if error.code() == Some(ErrCode::Readonly) => {
            call.note_refusal(error);
            again.push(call);
        }
        result => call.answer(result),
    };
    loop {
        let received = link.poll_receive(cx, &mut answer)?;
        if let Poll::Ready(flushed) = link.poll_flush(cx) {
            flushed?;
        }
        let asked = link.poll_life(patience, cx)?;
        if !(received || asked) {
            return Ok(());
        }
    }
}

/// Returns the pause before the next round: it doubles, and is shortened by up to a half so that clients do not all come at once.
fn pause(failures: u32) -> Duration {
    let full = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let thousandths = u32::try_from(random() % 500).unwrap_or(0);
    full - full / 1000 * thousandths
}

/// Returns a number that differs between processes and calls. Nothing depends on its quality.
fn random() -> usize {
    let bytes = RandomState::new().hash_one(0_u8).to_ne_bytes();
    usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::super::call::ATTEMPTS;
    use super::super::link::tests::link;
    use super::*;

    /// A read is given up after a few attempts, since it may be what kills the servers. What cannot have killed one must not count, or a
    /// harmless read fails when a connection happens to end.
    #[test]
    fn a_read_is_given_up_for_connections_that_it_did_not_end() {
        let address: Address = "127.0.0.1:1".parse().unwrap();
        let refusal = || Error::Server { code: ErrCode::Readonly, detail: String::new() };
        let (mut call, _answer) = Call::new(Ask::new(Verb::Sync));
        for _ in 0..3 {
            call.attempts += 1;
            call.note_refusal(refusal());
            call.attempts += 1;
            call = Held { call, taken: false }.again();
        }
        assert!(call.attempts == 0 && call.refused.is_some());
        for attempt in 1..=ATTEMPTS {
            call.attempts += 1;
            let (last, error) = (attempt == ATTEMPTS, call.verdict(&address, &Lost::Closed));
            assert_eq!((call.may_be_sent_again(), error.is_some()), (!last, last), "attempt {attempt}");
            call = Held { call, taken: true }.again();
        }
    }

    /// Callers count on the order in which they asked. And a connection that the client gives up by itself, because too many of its
    /// calls are abandoned, was no attempt of the others.
    #[tokio::test]
    async fn a_connection_that_is_given_up_or_lost_changes_the_order_of_its_calls() {
        let names = |driver: &Driver| {
            let name =
                |call: &Call| (call.ask.path.clone().unwrap_or_default().escape_ascii().to_string(), call.attempts);
            driver.waiting.iter().map(name).collect::<Vec<_>>()
        };
        let ends: [fn(&mut Driver, &mut Link); 2] =
            [Driver::take_back, |driver, link| driver.lose(link, &Lost::Closed)];
        for end in ends {
            let (mut link, _listener) = link().await;
            let options = Options::new([link.address.clone()]).unwrap();
            let mut driver = Driver::new(options, mpsc::channel(1).1);
            let mut answers = Vec::new();
            let mut call = |verb, path| {
                let (call, answer) = Call::new(Ask::new(verb).path(path));
                answers.push(answer);
                call
            };
            link.send(call(Verb::Get, "/1"), &driver.patience());
            link.send(call(Verb::Wait, "/2"), &driver.patience());
            link.send(call(Verb::Set, "/3"), &driver.patience());
            driver.refused.push(call(Verb::Set, "/0"));
            driver.waiting.push_back(call(Verb::Get, "/4"));
            end(&mut driver, &mut link);
            // The kernel has taken nothing of the connection's output, so these were not sent either.
            let expected = ["/0", "/1", "/2", "/3", "/4"].map(|path| (path.to_string(), 0));
            assert_eq!(names(&driver), expected);
        }
    }
}
