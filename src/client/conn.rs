//! One TCP connection: frames out, frames in, and how far the kernel has taken the output.
//!
//! The kernel's progress tells a write that may have been carried out from one that certainly was not: if the kernel has not taken
//! the last byte of a frame, the server cannot have the whole frame.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::call::{Answer, Ask};
use super::dial::{self, Patience};
use super::error::{Error, Lost};
use super::uri::Secret;
use crate::address::Address;
use crate::wire::frame::{self, Split};
use crate::wire::{Request, Response, Verb};

/// The receive buffer's first size; it grows to the longest frame received.
const INPUT: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Conn {
    stream: TcpStream,
    /// `output[taken..]` is what the kernel has not taken yet.
    output: Vec<u8>,
    taken: usize,
    /// Bytes that the kernel has taken since the connection began.
    written: u64,
    /// `input[arrived]` has arrived and was not consumed.
    input: Vec<u8>,
    arrived: Range<usize>,
}

impl Conn {
    /// Connects, and presents the secrets in order. The name look-up, the connection to each address, and presenting the secrets
    /// may each take up to `limit`.
    pub async fn dial(address: &Address, secrets: &[Secret], limit: Duration) -> Result<Self, Error> {
        let lost = |cause: Lost| Error::Disconnected { address: None, cause };
        let patience = Patience { lookup: limit, connect: limit };
        // This connection already gathers requests; the kernel need not wait for more.
        let stream = dial::connect(address, patience).await.map_err(|e| lost(e.into()))?;
        let present = timeout(limit, Self::present(stream, secrets)).await;
        present.unwrap_or_else(|_| Err(lost(Lost::Quiet(limit))))
    }

    async fn present(stream: TcpStream, secrets: &[Secret]) -> Result<Self, Error> {
        let mut conn = Self { stream, output: Vec::new(), taken: 0, written: 0, input: vec![0; INPUT], arrived: 0..0 };
        for secret in secrets {
            conn.access(secret).await?;
        }
        Ok(conn)
    }

    async fn access(&mut self, secret: &Secret) -> Result<(), Error> {
        self.ask(&Ask::new(Verb::Access).value(secret.0.clone())).await.map(drop)
    }

    /// Sends a request and awaits its answer; no other request may be under way.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, Error> {
        self.push(&ask.request(0));
        let lost = |cause: Lost| match cause.is_malformed() {
            true => Error::BadAnswer { address: None, cause },
            false => Error::Disconnected { address: None, cause },
        };
        poll_fn(|cx| self.poll_flush(cx)).await.map_err(lost)?;
        let body = loop {
            if let Some(body) = self.next_frame().map_err(lost)? {
                break body;
            }
            poll_fn(|cx| self.poll_fill(cx)).await.map_err(lost)?;
        };
        let response = Response::decode(&self.input[body]).map_err(|e| lost(Lost::Malformed(e)))?;
        if response.tag != Some(0) {
            return Err(lost(Lost::Tag(response.tag)));
        }
        Answer::read(ask.verb, &response)
    }

    /// Queues a request; returns the stream's position behind it.
    pub fn push(&mut self, request: &Request<'_>) -> u64 {
        request.encode(&mut self.output);
        self.written + self.backlog() as u64
    }

    /// Returns the queued bytes that the kernel has not taken.
    pub fn backlog(&self) -> usize {
        self.output.len() - self.taken
    }

    /// Returns the position up to which the kernel has taken the stream.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Hands the queued bytes to the kernel; ready when none are left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while self.taken < self.output.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output[self.taken..]))?;
            if n == 0 {
                return Poll::Ready(Err(Lost::Closed));
            }
            self.taken += n;
            self.written += n as u64;
        }
        self.output.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Receives more, and returns how many bytes came. Call it when [`Self::next_frame`] has no whole frame left.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Lost>> {
        if self.arrived.is_empty() {
            self.arrived = 0..0;
        }
        if self.arrived.end == self.input.len() {
            self.input.copy_within(self.arrived.clone(), 0);
            self.arrived = 0..self.arrived.len();
        }
        let mut space = ReadBuf::new(&mut self.input[self.arrived.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        let n = space.filled().len();
        if n == 0 {
            return Poll::Ready(Err(Lost::Closed));
        }
        self.arrived.end += n;
        Poll::Ready(Ok(n))
    }

    /// Takes the next whole frame. Its body stays in this range of [`Self::input`] until more is received.
    pub fn next_frame(&mut self) -> Result<Option<Range<usize>>, Lost> {
        match frame::split(&self.input[self.arrived.clone()]).map_err(Lost::Frame)? {
            Split::Whole { body, consumed } => {
                let start = self.arrived.start;
                self.arrived.start += consumed;
                Ok(Some(start + body.start..start + body.end))
            }
            Split::Partial { needed } => {
                // The limit on frames bounds the memory that a server can make the client use.
                if let Some(needed) = needed.filter(|n| *n > self.input.len()) {
                    self.input.resize(needed, 0);
                }
                Ok(None)
            }
        }
    }

    /// The receive buffer.
    pub fn input(&self, body: Range<usize>) -> &[u8] {
        &self.input[body]
    }
}
