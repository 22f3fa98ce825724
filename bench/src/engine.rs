//! Many connections to one system, driven by one thread, whatever the system's protocol is.
//!
//! Like [`pool`](crate::pool), it does little, for it must not be what is measured: one read and one write for all that is
//! ready on a connection, and one reading of the clock for both. What is asked and what becomes of the answers is the
//! [`Driver`]'s business.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::client::PATIENCE;
use crate::codec::{Codec, Event, Operation};
use crate::failure::{Context, Failure};
use crate::link::Link;

/// Connections that are made at a time: fewer than servers have room for before they take them.
const AT_A_TIME: usize = 32;
/// Time after which idle connections are to say that they live.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One operation after the other is outstanding here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The connection's number.
    pub conn: usize,
    /// The operation's among those outstanding on it.
    pub slot: u16,
}

/// What asks, and judges the answers.
pub trait Driver {
    /// The operation that is asked in a place now.
    fn operation(&mut self, place: Place) -> Operation<'_>;

    /// Takes what a server has said. The places that are appended to `asks` ask next.
    ///
    /// # Errors
    /// It is not what the server has to say.
    fn event(&mut self, conn: usize, event: &Event<'_>, now: Instant, asks: &mut Vec<Place>) -> Result<(), Failure>;
}

/// The connections.
pub struct Engine {
    epoll: OwnedFd,
    conns: Vec<Conn>,
    ready: Vec<epoll::Event>,
    asks: Vec<Place>,
    kept_alive: Instant,
    /// How often drivers were told something.
    told: u64,
    /// What takes longer to be told will not be.
    patience: Duration,
    addrs: Vec<SocketAddr>,
}

struct Conn {
    link: Link,
    codec: Box<dyn Codec>,
}

impl Engine {
    /// Connects `conns` times, to the addresses in turn.
    ///
    /// # Errors
    /// A server does not take a connection.
    pub fn connect(addrs: &[SocketAddr], codec: fn() -> Box<dyn Codec>, conns: usize) -> Result<Engine, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let ready = Vec::with_capacity(256);
        let mut engine = Engine {
            epoll,
            conns: Vec::new(),
            ready,
            asks: Vec::new(),
            kept_alive: Instant::now(),
            told: 0,
            patience: PATIENCE,
            addrs: addrs.to_vec(),
        };
        while engine.conns.len() < conns {
            let first = engine.conns.len();
            for number in first..conns.min(first + AT_A_TIME) {
                let link = Link::connect(addrs[number % addrs.len()], number, &engine.epoll)?;
                let mut conn = Conn { link, codec: codec() };
                conn.codec.open(&mut conn.link.output);
                conn.link.flush(&engine.epoll)?;
                engine.conns.push(conn);
            }
            let mut opening = Opening(engine.conns.len() - first);
            while opening.0 > 0 {
                engine.patiently(&mut opening)?;
            }
        }
        Ok(engine)
    }

    /// How many connections.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether a watch of these connections goes on after it was woken.
    pub fn watch_stays(&self) -> bool {
        self.conns.first().is_some_and(|conn| conn.codec.watch_stays())
    }

    /// Asks in a place. It is sent by [`Engine::flush`].
    pub fn ask(&mut self, driver: &mut dyn Driver, place: Place) {
        let Conn { link, codec } = &mut self.conns[place.conn];
        codec.encode(place.slot, driver.operation(place), &mut link.output);
    }

    /// Sends what was asked on a connection.
    ///
    /// # Errors
    /// The server is gone.
    pub fn flush(&mut self, conn: usize) -> Result<(), Failure> {
        self.conns[conn].link.flush(&self.epoll)
    }

    /// Waits until there is something to tell the driver, and tells it. Bytes that are no whole answer are not.
    ///
    /// # Errors
    /// It is wrong, or does not come for long. The connections are of no use then.
    pub fn patiently(&mut self, driver: &mut dyn Driver) -> Result<(), Failure> {
        let (deadline, told) = (Instant::now() + self.patience, self.told);
        while self.told == told {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let addrs: Vec<_> = self.addrs.iter().map(SocketAddr::to_string).collect();
                let (addrs, seconds) = (addrs.join(" or "), self.patience.as_secs());
                return Err(Failure::new(format!("no answer of {addrs} within {seconds} s")));
            }
            self.turn(driver, left.min(KEEP_ALIVE))?;
        }
        Ok(())
    }

    /// Waits for so long at most, and has the driver take all that has come. False if nothing has.
    ///
    /// # Errors
    /// It is wrong.
    pub fn turn(&mut self, driver: &mut dyn Driver, timeout: Duration) -> Result<bool, Failure> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("epoll"),
        }
        let now = Instant::now();
        if now.duration_since(self.kept_alive) >= KEEP_ALIVE {
            self.kept_alive = now;
            self.keep_alive()?;
        }
        let mut ready = std::mem::take(&mut self.ready);
        let any = !ready.is_empty();
        for event in ready.drain(..) {
            let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            // Anything but room to send is to be learned by receiving.
            let flags = event.flags;
            if flags != epoll::EventFlags::OUT && self.conns[number].link.fill()? {
                self.take(driver, number)?;
            }
            self.flush(number)?;
        }
        self.ready = ready;
        Ok(any)
    }

    /// Has the driver take what a connection has received, and asks what it asks.
    fn take(&mut self, driver: &mut dyn Driver, number: usize) -> Result<(), Failure> {
        let now = Instant::now();
        let mut used = 0;
        let mut asks = std::mem::take(&mut self.asks);
        loop {
            let Conn { link, codec } = &mut self.conns[number];
            let (input, output) = link.exchange();
            let Some(taken) = codec.decode(&input[used..], output)? else { break };
            used += taken.consumed;
            if let Some(event) = taken.event {
                self.told += 1;
                driver.event(number, &event, now, &mut asks)?;
            }
            for place in asks.drain(..) {
                self.ask(driver, place);
                if place.conn != number {
                    self.flush(place.conn)?;
                }
            }
        }
        self.asks = asks;
        self.conns[number].link.consume(used);
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), Failure> {
        for Conn { link, codec } in &mut self.conns {
            codec.keep_alive(&mut link.output);
            link.flush(&self.epoll)?;
        }
        Ok(())
    }

    /// Takes leave of the server.
    ///
    /// # Errors
    /// It does not let go.
    pub fn close(mut self) -> Result<(), Failure> {
        let mut closing = Vec::new();
        for (number, Conn { link, codec }) in self.conns.iter_mut().enumerate() {
            if codec.close(&mut link.output) {
                link.flush(&self.epoll)?;
                closing.push(number);
            }
        }
        closing.into_iter().try_for_each(|number| self.conns[number].link.wait_for_end(PATIENCE))
    }
}

/// Counts the connections that are yet to be taken.
struct Opening(usize);

impl Driver for Opening {
    fn operation(&mut self, _: Place) -> Operation<'_> {
        unreachable!("nothing is asked while connections are made")
    }

    fn event(&mut self, _: usize, event: &Event<'_>, _: Instant, _: &mut Vec<Place>) -> Result<(), Failure> {
        match event {
            Event::Open => self.0 -= 1,
            other => return Err(Failure::new(format!("{other:?} on a connection that is being opened"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::system::Kind;

    /// A server that hangs, but for a few bytes now and then, would hold the run for ever.
    #[test]
    fn bytes_that_are_no_answer_are_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            // Of an answer to REV that would have 1 MiB.
            stream.write_all(&[0, 16, 0, 0]).unwrap();
            while stream.write_all(&[0]).is_ok() {
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let mut engine = Engine::connect(&[addr], Kind::Doozer.codec(), 0).unwrap();
        engine.patience = Duration::from_millis(100);
        let link = Link::connect(addr, 0, &engine.epoll).unwrap();
        engine.conns.push(Conn { link, codec: Kind::Doozer.codec()() });
        let e = engine.patiently(&mut Opening(1)).unwrap_err().to_string();
        assert!(e.contains(&format!("no answer of {addr}")), "{e}");
        drop(engine);
        server.join().unwrap();
    }
}
