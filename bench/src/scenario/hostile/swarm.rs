//! The attacker: many connections on one thread, none of which waits for another.
//!
//! What each sends comes from a function that is asked for more whenever a connection has nothing left to send. A connection that the
//! server closes is made again, if the attack is of that kind.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::failure::{Context, Failure};

/// Bytes that a connection sends or receives before the next one has its turn.
const TURN: usize = 256 << 10;
/// How long the attacker rests when no connection can do anything.
const REST: Duration = Duration::from_millis(1);
/// Receive buffer of connections that do not read: as small as the kernel makes them.
const SMALL: usize = 4096;

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells an attack to end.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Tells it.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Rests, unless it was told meanwhile.
    pub fn rest(&self, time: Duration) {
        let end = std::time::Instant::now() + time;
        while !self.is_set() && std::time::Instant::now() < end {
            std::thread::park_timeout(time.min(Duration::from_millis(10)));
        }
    }
}

/// How a swarm behaves.
#[derive(Clone, Copy, Debug)]
pub struct Swarm {
    /// How many connections it has.
    pub conns: usize,
    /// Whether it reads what it is answered.
    pub reads: bool,
    /// Whether it connects again when it is closed.
    pub returns: bool,
}

/// One connection.
struct Bot {
    stream: Option<TcpStream>,
    output: Vec<u8>,
    sent: usize,
    /// How often it was asked for more since it connected.
    turn: u64,
}

impl Swarm {
    /// Attacks until it is told to stop. `more` is asked what the connection of this number sends next, and how often it was asked
    /// since the connection was made; nothing means that it rests.
    pub fn run(self, addr: SocketAddr, stop: &Stop, mut more: impl FnMut(usize, u64, &mut Vec<u8>)) {
        let mut input = vec![0; TURN];
        let bot = |_| Bot { stream: self.connect(addr).ok(), output: Vec::new(), sent: 0, turn: 0 };
        let mut bots: Vec<Bot> = (0..self.conns).take_while(|_| !stop.is_set()).map(bot).collect();
        while !stop.is_set() {
            let mut moved = false;
            for (number, bot) in bots.iter_mut().enumerate() {
                if stop.is_set() {
                    break;
                }
                match bot.go(self.reads, &mut input, |turn, output| more(number, turn, output)) {
                    Ok(bytes) => moved |= bytes > 0,
                    Err(_) if self.returns => {
                        *bot = Bot { stream: self.connect(addr).ok(), output: Vec::new(), sent: 0, turn: 0 };
                    }
                    Err(_) => bot.stream = None,
                }
            }
            if !moved {
                std::thread::park_timeout(REST);
            }
        }
    }

    fn connect(self, addr: SocketAddr) -> Result<TcpStream, Failure> {
        let stream = connect(addr, self.reads)?;
        stream.set_nonblocking(true).context("O_NONBLOCK")?;
        Ok(stream)
    }
}

impl Bot {
    /// Sends and receives what it can without waiting, and says how many bytes.
    fn go(&mut self, reads: bool, input: &mut [u8], more: impl FnOnce(u64, &mut Vec<u8>)) -> std::io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        if self.sent == self.output.len() {
            (self.sent, self.turn) = (0, self.turn + 1);
            self.output.clear();
            more(self.turn - 1, &mut self.output);
        }
        let mut moved = 0;
        let end = self.output.len().min(self.sent + TURN);
        if self.sent < end {
            let sent = ready(stream.write(&self.output[self.sent..end]))?;
            (self.sent, moved) = (self.sent + sent, sent);
        }
        if reads {
            match stream.read(input) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                received => moved += ready(received)?,
            }
        }
        Ok(moved)
    }
}

/// Nothing, where the kernel would wait.
fn ready(outcome: std::io::Result<usize>) -> std::io::Result<usize> {
    match outcome {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        outcome => outcome,
    }
}

/// Connects. Without `reads`, with a receive buffer as small as the kernel makes them: what is not read stays with the server.
///
/// # Errors
/// The server does not take the connection.
pub fn connect(addr: SocketAddr, reads: bool) -> Result<TcpStream, Failure> {
    let what = format!("cannot connect to {addr}");
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).context(&what)?;
    if !reads {
        sockopt::set_socket_recv_buffer_size(&socket, SMALL).context(&what)?;
    }
    // From an address of the attacker's own: the innocent clients do not run out of ports because the attacker does.
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 2], 0))).context(&what)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE)).context(&what)?;
    rustix::net::connect(&socket, &addr).context(&what)?;
    Ok(TcpStream::from(socket))
}

/// Closes a connection at once, as a process that is killed does: with RST.
pub fn reset(stream: TcpStream) {
    let _outcome = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}

/// Ends a stream, and waits until the server has closed the connection, too.
pub fn end(mut stream: TcpStream) {
    let _outcome = stream.shutdown(Shutdown::Write);
    let _outcome = stream.set_read_timeout(Some(Duration::from_secs(1)));
    while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A server that closes the attacker's connections would be rid of it, and the figures would be those of no attack.
    #[test]
    fn a_swarm_comes_back_when_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, begun) = (Stop::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..6 {
                    let (mut stream, from) = listener.accept().unwrap();
                    assert_eq!(from.ip().to_string(), "127.0.0.2");
                    // It closes the connection when the first bytes have come.
                    stream.read_exact(&mut [0; 5]).unwrap();
                }
                stop.set();
            });
            Swarm { conns: 2, reads: true, returns: true }.run(addr, &stop, |number, turn, output| {
                assert!(number < 2);
                begun.fetch_add(usize::from(turn == 0), Ordering::Relaxed);
                output.extend_from_slice(b"hello");
            });
        });
        assert!(begun.into_inner() >= 6);
    }

    /// An attacker that waits for one of its connections does not attack with the others.
    #[test]
    fn a_connection_that_takes_nothing_does_not_stop_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Stop::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _silent = listener.accept().unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                let mut input = vec![0; 1 << 20];
                (0..32).for_each(|_| stream.read_exact(&mut input).unwrap());
                stop.set();
            });
            let piece = vec![7; 1 << 20];
            let swarm = Swarm { conns: 2, reads: false, returns: false };
            swarm.run(addr, &stop, |_, _, output| output.extend_from_slice(&piece));
        });
    }
}
