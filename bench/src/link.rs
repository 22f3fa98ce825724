//! One connection that never blocks: what is to be sent gathers and leaves with one write, and one read takes what is
//! there.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use crate::failure::{Context, Failure};

/// The receive buffer at the beginning. It grows when an answer does not fit.
const INPUT: usize = 64 << 10;
/// A longer answer is none.
const INPUT_MAX: usize = 8 << 20;

const _: () = assert!(INPUT_MAX >= 2 * doozer::limits::FRAME_MAX);

/// A connection that an epoll watches.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Its number in the epoll's events.
    number: usize,
    /// What is to be sent is appended here.
    pub output: Vec<u8>,
    sent: usize,
    /// Whether the kernel had no room for all of the output.
    blocked: bool,
    input: Vec<u8>,
    filled: usize,
}

impl Link {
    /// Connects, and has `epoll` watch for what comes, with `number` as its data.
    ///
    /// # Errors
    /// The server does not take the connection.
    pub fn connect(addr: SocketAddr, number: usize, epoll: &OwnedFd) -> Result<Link, Failure> {
        let stream = TcpStream::connect(addr).context(format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_nonblocking(true).context("O_NONBLOCK")?;
        epoll::add(epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN).context("epoll")?;
        Ok(Link { stream, number, output: Vec::new(), sent: 0, blocked: false, input: vec![0; INPUT], filled: 0 })
    }

    /// Receives once. False if there was nothing.
    ///
    /// # Errors
    /// The server is gone.
    pub fn fill(&mut self) -> Result<bool, Failure> {
        if self.filled == self.input.len() {
            if self.filled == INPUT_MAX {
                return Err(Failure::new(format!("an answer of more than {INPUT_MAX} bytes")));
            }
            self.input.resize(2 * self.filled, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Err(Failure::new("the server closed a connection")),
            Ok(n) => {
                self.filled += n;
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e).context("cannot receive"),
        }
    }

    /// What was received and not consumed.
    pub fn received(&self) -> &[u8] {
        &self.input[..self.filled]
    }

    /// The same, and where to append what is said in return.
    pub fn exchange(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[..self.filled], &mut self.output)
    }

    /// Drops `used` bytes at the front of what was received.
    pub fn consume(&mut self, used: usize) {
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
    }

    /// Sends as much of the output as the kernel has room for; `epoll` tells when there is more.
    ///
    /// # Errors
    /// The server is gone.
    pub fn flush(&mut self, epoll: &OwnedFd) -> Result<(), Failure> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("cannot send"),
            }
        }
        let blocked = self.sent < self.output.len();
        if !blocked {
            self.output.clear();
            self.sent = 0;
        }
        if blocked != self.blocked {
            self.blocked = blocked;
            let mut events = epoll::EventFlags::IN;
            events.set(epoll::EventFlags::OUT, blocked);
            let data = epoll::EventData::new_u64(self.number as u64);
            epoll::modify(epoll, &self.stream, data, events).context("epoll")?;
        }
        Ok(())
    }

    /// Waits until the server closes the connection, whatever it says until then.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_end(&mut self, patience: std::time::Duration) -> Result<(), Failure> {
        self.stream.set_nonblocking(false).context("O_NONBLOCK")?;
        self.stream.set_read_timeout(Some(patience)).context("SO_RCVTIMEO")?;
        loop {
            match self.stream.read(&mut self.input) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(e).context("the server does not close the connection"),
            }
        }
    }
}
