//! Many connections with many requests outstanding on each, driven by one thread.
//!
//! The client must not be what is measured, so it does little: requests are appended to a connection's buffer and
//! leave with one write, answers are taken from where one read has put them, a request's tag is its slot among those
//! outstanding on its connection. What requests and answers are is the [`Traffic`]'s business.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::client::{PATIENCE, histogram, nanos};
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::process::thread_cpu;

/// Which of the outstanding requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The connection's number.
    pub conn: usize,
    /// The request's number among those outstanding on it; below 128.
    pub slot: u8,
}

/// An answer at the front of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it answers.
    pub slot: u8,
    /// Its bytes.
    pub consumed: usize,
}

/// What is asked, and what has to be answered.
pub trait Traffic {
    /// Appends the next request to `output`; false if there are no more.
    fn request(&mut self, place: Place, output: &mut Vec<u8>) -> bool;

    /// Finds the answer at the front of `input`, and judges it; `None` if it is not whole yet.
    ///
    /// # Errors
    /// It is not what has to be answered.
    fn answer(&mut self, conn: usize, input: &[u8]) -> Result<Option<Answer>, Failure>;
}

/// What came of it.
#[derive(Debug)]
pub struct Driven {
    /// Requests that were answered.
    pub count: u64,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// CPU time of the client's thread.
    pub cpu: Duration,
    /// From when a request is about to be written until its answer is found, in nanoseconds; as many requests share a
    /// clock reading as share a write.
    pub latency: Histogram<u64>,
}

impl Driven {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        crate::figure::float(self.count) / self.wall.as_secs_f64()
    }
}

struct Conn {
    link: Link,
    /// When each outstanding request was sent.
    slots: Vec<Option<Instant>>,
}

/// The connections.
pub struct Pool {
    epoll: OwnedFd,
    conns: Vec<Conn>,
}

impl Pool {
    /// Connects `conns` times; on each connection `window` requests will be outstanding.
    ///
    /// # Errors
    /// The server does not take a connection.
    pub fn connect(addr: SocketAddr, conns: usize, window: u8) -> Result<Pool, Failure> {
        Pool::spread(&[addr], conns, window)
    }

    /// The same, to several servers in turn.
    ///
    /// # Errors
    /// As for [`Pool::connect`].
    pub fn spread(addrs: &[SocketAddr], conns: usize, window: u8) -> Result<Pool, Failure> {
        assert!((1..128).contains(&window), "a slot is a tag of one byte");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let open = |number: usize| {
            let addr = addrs[number % addrs.len()];
            let link = Link::connect(addr, number, &epoll)?;
            Ok(Conn { link, slots: vec![None; usize::from(window)] })
        };
        let conns = (0..conns).map(open).collect::<Result<_, Failure>>()?;
        Ok(Pool { epoll, conns })
    }

    /// Asks for all that `traffic` has, with every slot in use as long as there is more, until all is answered.
    ///
    /// # Errors
    /// An answer is wrong, or does not come. The pool is of no use then.
    pub fn drive(&mut self, traffic: &mut impl Traffic) -> Result<Driven, Failure> {
        let (begun, cpu) = (Instant::now(), thread_cpu());
        let mut latency = histogram();
        let mut outstanding = 0_u64;
        for (number, conn) in self.conns.iter_mut().enumerate() {
            for slot in 0..u8::try_from(conn.slots.len()).unwrap_or(u8::MAX) {
                outstanding += u64::from(conn.ask(traffic, Place { conn: number, slot }, begun));
            }
            conn.link.flush(&self.epoll)?;
        }
        let mut count = 0;
        let mut events = Vec::with_capacity(256);
        let timeout = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        while outstanding > 0 {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(0) => return Err(Failure::new(format!("{outstanding} requests are not answered"))),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e).context("epoll"),
            }
            for event in events.drain(..) {
                let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                let conn = &mut self.conns[number];
                // Anything but room to send is to be learned by receiving.
                let flags = event.flags;
                if flags != epoll::EventFlags::OUT && conn.link.fill()? {
                    let (answered, asked) = conn.take(traffic, number, &mut latency)?;
                    count += answered;
                    outstanding = outstanding - answered + asked;
                }
                conn.link.flush(&self.epoll)?;
            }
        }
        Ok(Driven { count, wall: begun.elapsed(), cpu: thread_cpu().saturating_sub(cpu), latency })
    }
}

impl Conn {
    fn ask(&mut self, traffic: &mut impl Traffic, place: Place, now: Instant) -> bool {
        let asked = traffic.request(place, &mut self.link.output);
        if asked {
            self.slots[usize::from(place.slot)] = Some(now);
        }
        asked
    }

    /// Takes all answers that are there, and asks again in their place.
    fn take(
        &mut self,
        traffic: &mut impl Traffic,
        number: usize,
        latency: &mut Histogram<u64>,
    ) -> Result<(u64, u64), Failure> {
        let now = Instant::now();
        let (mut answered, mut asked, mut used) = (0, 0, 0);
        while let Some(answer) = traffic.answer(number, &self.link.received()[used..])? {
            used += answer.consumed;
            let slot = self.slots.get_mut(usize::from(answer.slot)).and_then(Option::take);
            let sent = slot
                .ok_or_else(|| Failure::new(format!("an answer with tag {}, which is not outstanding", answer.slot)))?;
            latency.saturating_record(nanos(now.duration_since(sent)));
            answered += 1;
            asked += u64::from(self.ask(traffic, Place { conn: number, slot: answer.slot }, now));
        }
        self.link.consume(used);
        Ok((answered, asked))
    }
}
