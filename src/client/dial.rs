//! Connects to a host. If the host's name has several addresses, the attempts overlap, and the first address that accepts wins.
//!
//! Browsers do the same (RFC 8305). If a name has an IPv6 address that leads nowhere, the client tries the IPv4 address after
//! [`STAGGER`], without waiting for the first attempt to end.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::race;
use super::resolve::Lookup;
use crate::address::Address;
use crate::limits::DIAL_ADDRESSES_MAX;

/// Time from the start of one attempt to the next; the next starts sooner if all earlier attempts have failed.
const STAGGER: Duration = Duration::from_millis(250);

/// How long the parts of connecting may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The name look-up.
    pub(crate) lookup: Duration,
    /// Each address of the name, until it accepts the connection.
    pub(crate) connect: Duration,
}

/// Looks a host up and connects to it.
///
/// # Errors
/// If the look-up fails, or if no address accepts a connection; the error gives the reason for each address.
pub(crate) async fn connect(address: &Address, patience: Patience) -> io::Result<TcpStream> {
    let found = Lookup::begin(address.host(), address.port()).wait(patience.lookup).await?;
    connect_any(&found, patience.connect).await
}

/// Connects to one of these addresses, each of which may take up to `limit`. Dropping the future ends all attempts.
///
/// # Errors
/// If no address accepts a connection. The error gives the reason for each address, and has the kind of the first failure.
pub(crate) async fn connect_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let attempts = in_turns(addresses).into_iter().map(|address| async move {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not accept a connection");
        let connected = timeout(limit, TcpStream::connect(address)).await;
        connected.unwrap_or_else(|_| Err(late())).map_err(|e| (address, e))
    });
    let stream = race::first(attempts, STAGGER).await.map_err(all)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns the addresses in the system's order, but with IPv6 and IPv4 in turns: if a host's IPv6 does not work, the second attempt
/// uses IPv4.
fn in_turns(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    let mut turns = VecDeque::new();
    while turns.len() < DIAL_ADDRESSES_MAX && (!one.is_empty() || !other.is_empty()) {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    turns.truncate(DIAL_ADDRESSES_MAX);
    turns
}

/// Joins all failures into one error.
fn all(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if failures.len() == 1
        && let Some((_, only)) = failures.pop()
    {
        return only;
    }
    let Some((_, first)) = failures.first() else { return io::Error::other("there is no address") };
    let kind = first.kind();
    let each: Vec<String> = failures.iter().map(|(address, e)| format!("{}: {e}", address.ip())).collect();
    io::Error::new(kind, each.join("; "))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::time::Instant;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Returns a listener that accepts nothing and whose backlog is full, so a connection to it gets no answer.
    fn hole() -> (TcpListener, Vec<std::net::TcpStream>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut fill = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            fill.push(stream);
        }
        (listener, fill, address)
    }

    /// The limit applies to each address: one that does not answer must not use up the next one's time, or delay it.
    #[test]
    fn a_dead_address_hides_a_live_one() {
        let (_listener, _fill, dead) = hole();
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let began = Instant::now();
        let stream = run(connect_any(&[dead, live.local_addr().unwrap()], Duration::from_secs(600))).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
        assert!(began.elapsed() >= STAGGER, "the first address has a start");
        // A refused attempt costs no waiting.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(run(connect_any(&[gone, live.local_addr().unwrap()], Duration::from_secs(600))).is_ok());
    }

    #[test]
    fn the_reason_of_an_address_is_not_said() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_listener, _fill, dead) = hole();
        let error = run(connect_any(&[gone], Duration::from_secs(600))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = run(connect_any(&[dead, gone], Duration::from_millis(300))).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("127.0.0.1: it does not accept a connection") && said.contains("refused"), "{said}");
        assert!(run(connect_any(&[], Duration::from_secs(600))).is_err());
    }

    #[test]
    fn one_family_is_tried_to_its_end_before_the_other() {
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 1);
        let given = ["fd00::1", "fd00::2", "fd00::3", "10.0.0.1", "10.0.0.2"].map(address);
        let wanted = ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "fd00::3"].map(address);
        assert_eq!(Vec::from(in_turns(&given)), wanted);
        let many: Vec<SocketAddr> = (1..100).map(|port| SocketAddr::new("10.0.0.1".parse().unwrap(), port)).collect();
        assert_eq!(Vec::from(in_turns(&many)), many[..DIAL_ADDRESSES_MAX]);
    }
}
