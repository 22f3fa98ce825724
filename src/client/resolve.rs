//! Name look-ups that block nobody.
//!
//! The system's look-up blocks its thread until a name server answers, or for many seconds. Here each look-up runs on a thread of
//! its own, and the caller waits no longer than it likes. The thread ends by itself; neither a runtime nor the process waits for
//! it.
//!
//! Invariants:
//! * no name is looked up twice at the same time: all callers share the answer;
//! * at most [`LOOKUPS_MAX`] threads run; further names wait until one ends;
//! * the threads are children of one thread, `names`, and run on the cores that the process had when `names` started: a server
//!   calls [`prepare`] before it pins itself to a core.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::limits::LOOKUPS_MAX;

/// The IP addresses of a name, in the order in which to try them, or why there are none.
type Found = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// A message to the thread `names`.
enum Message {
    Ask(String, oneshot::Sender<Found>),
    Done(String, Found),
}

/// The thread `names`; `None` if it could not be started.
static NAMES: OnceLock<Option<mpsc::Sender<Message>>> = OnceLock::new();

/// Starts the thread `names`, which starts the look-ups, if it does not run yet.
#[cfg(feature = "server")]
pub(crate) fn prepare() {
    names();
}

fn names() -> Option<&'static mpsc::Sender<Message>> {
    let start = || {
        let (to, from) = mpsc::channel();
        let done = to.clone();
        let started = thread::Builder::new().name("names".into()).spawn(move || serve(&from, &done));
        started.is_ok().then_some(to)
    };
    NAMES.get_or_init(start).as_ref()
}

/// Hands each question to a thread, and each answer to all who asked.
fn serve(from: &mpsc::Receiver<Message>, done: &mpsc::Sender<Message>) {
    let mut asked: BTreeMap<String, Vec<oneshot::Sender<Found>>> = BTreeMap::new();
    let mut waiting: VecDeque<String> = VecDeque::new();
    let mut running = 0;
    while let Ok(message) = from.recv() {
        match message {
            Message::Ask(host, answer) => match asked.get_mut(&host) {
                Some(askers) => {
                    // Callers that have given up do not accumulate.
                    askers.retain(|answer| !answer.is_closed());
                    askers.push(answer);
                }
                None => {
                    asked.insert(host.clone(), vec![answer]);
                    waiting.push_back(host);
                }
            },
            Message::Done(host, found) => {
                running -= 1;
                answer(&mut asked, &host, &found);
            }
        }
        while running < LOOKUPS_MAX
            && let Some(host) = waiting.pop_front()
        {
            let (name, done) = (host.clone(), done.clone());
            let started = thread::Builder::new().name("name".into()).spawn(move || {
                let found = look_up(&name);
                // The thread `names` outlives this one.
                let _told = done.send(Message::Done(name, found));
            });
            match started {
                Ok(_) => running += 1,
                Err(e) => answer(&mut asked, &host, &Err((e.kind(), format!("no thread for the name look-up: {e}")))),
            }
        }
    }
}

fn answer(asked: &mut BTreeMap<String, Vec<oneshot::Sender<Found>>>, host: &str, found: &Found) {
    for asker in asked.remove(host).unwrap_or_default() {
        // The caller may have given up.
        let _told = asker.send(found.clone());
    }
}

fn look_up(host: &str) -> Found {
    match (host, 0).to_socket_addrs() {
        Ok(found) => Ok(found.collect()),
        Err(e) => Err((
            e.kind(),
            match host.split_once('%') {
                Some((_, zone)) => format!("this machine has no network interface {zone} ({e})"),
                None => e.to_string(),
            },
        )),
    }
}

/// A look-up, possibly still under way.
#[derive(Debug)]
pub(crate) struct Lookup {
    host: String,
    port: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    Known(SocketAddr),
    Asked(oneshot::Receiver<Found>),
    Unable,
}

impl Lookup {
    /// Begins to look up a host. An IP address needs no look-up.
    pub(crate) fn begin(host: &str, port: u16) -> Lookup {
        let state = match literal(host, port) {
            Some(known) => State::Known(known),
            None => {
                let (answer, answered) = oneshot::channel();
                let asked = names().map(|names| names.send(Message::Ask(host.to_owned(), answer)));
                if matches!(asked, Some(Ok(()))) { State::Asked(answered) } else { State::Unable }
            }
        };
        Lookup { host: host.to_owned(), port, state }
    }

    /// Waits up to `limit` for the answer. After a timeout the look-up continues, and the caller may wait again; an answer can be
    /// taken only once.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the answer has not come yet; another kind if the name has no address.
    pub(crate) async fn wait(&mut self, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        let answered = match &mut self.state {
            State::Known(known) => return Ok(vec![*known]),
            State::Unable => return Err(io::Error::other("no thread can be started for the name look-up")),
            State::Asked(answered) => timeout(limit, answered).await,
        };
        let slow = |_| {
            let why =
                format!("the look-up of the name {} takes longer than {limit:?}; see to the name servers", self.host);
            io::Error::new(io::ErrorKind::TimedOut, why)
        };
        let ended = |_| io::Error::other("the thread of the name look-ups has ended");
        let found = answered.map_err(slow)?.map_err(ended)?;
        let mut found = found.map_err(|(kind, why)| io::Error::new(kind, why))?;
        for address in &mut found {
            address.set_port(self.port);
        }
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the name {} has no address", self.host)));
        }
        Ok(found)
    }
}

/// Reads a host that is an IP address, with a number as its zone if it has one; no look-up is needed.
fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    if let Some((ip, zone)) = host.split_once('%') {
        let (ip, zone): (Ipv6Addr, u32) = (ip.parse().ok()?, zone.parse().ok()?);
        return Some(SocketAddrV6::new(ip, port, 0, zone).into());
    }
    host.parse::<IpAddr>().ok().map(|ip| (ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_ip_address_is_looked_up() {
        for (host, socket) in [("10.0.0.1", "10.0.0.1:7"), ("::1", "[::1]:7"), ("fe80::1%3", "[fe80::1%3]:7")] {
            let mut lookup = Lookup::begin(host, 7);
            assert!(matches!(lookup.state, State::Known(_)), "{host}");
            assert_eq!(run(lookup.wait(LONG)).unwrap(), [socket.parse().unwrap()]);
        }
    }

    /// Many callers ask at once for one name and for others: each gets its own answer.
    #[test]
    fn an_answer_is_lost_or_mixed_up() {
        run(async {
            let many: Vec<Lookup> = (0..200u16).map(|port| Lookup::begin("localhost", 1 + port)).collect();
            let mut none = Lookup::begin("a..b", 1);
            for (port, mut lookup) in (1..).zip(many) {
                let found = lookup.wait(LONG).await.unwrap();
                assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == port), "{found:?}");
            }
            assert!(none.wait(LONG).await.is_err());
            let error = Lookup::begin("fe80::1%nowhere0", 1).wait(LONG).await.unwrap_err();
            assert!(error.to_string().contains("interface nowhere0"), "{error}");
        });
    }
}
