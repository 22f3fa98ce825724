//! One blocking connection: one write and one read an operation.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use doozer::stats::Stats;
use doozer::wire::frame::{self, Split};
use doozer::wire::{ErrCode, Request, Response, Verb};
use hdrhistogram::Histogram;

use crate::failure::{Context, Failure};

/// An answer that takes longer will not come.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tag of requests that are sent one at a time.
const TAG: i32 = 1;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The server does not take the connection.
    pub fn connect(addr: SocketAddr) -> Result<Client, Failure> {
        let stream = TcpStream::connect(addr).context(format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
        Ok(Client { stream, output: Vec::new(), input: vec![0; 64 << 10], start: 0, end: 0 })
    }

    /// Sends a request and returns its answer, which is no error.
    ///
    /// # Errors
    /// The answer is an error, that of another request, or does not come.
    pub fn call(&mut self, request: Request<'_>) -> Result<Response<'_>, Failure> {
        self.send(Request { tag: Some(TAG), ..request });
        self.flush()?;
        let response = self.receive()?;
        if response.tag != Some(TAG) {
            return Err(Failure::new(format!("an answer to nothing that was asked: {response:?}")));
        }
        Ok(response)
    }

    /// Shows a secret, so that this connection may do what that grants.
    ///
    /// # Errors
    /// It is not one of the server's.
    pub fn access(&mut self, secret: &[u8]) -> Result<(), Failure> {
        self.call(Request { value: Some(secret), ..Request::new(Verb::Access) }).map(|_| ())
    }

    /// Adds bytes, which are whole requests, to those that the next [`Client::flush`] sends.
    pub fn send_bytes(&mut self, requests: &[u8]) {
        self.output.extend_from_slice(requests);
    }

    /// Adds a request to those that the next [`Client::flush`] sends.
    pub fn send(&mut self, request: Request<'_>) {
        request.encode(&mut self.output);
    }

    /// Sends what was added.
    ///
    /// # Errors
    /// The server is gone.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.output).context("cannot send")?;
        self.output.clear();
        Ok(())
    }

    /// Sends as much of what was added as the socket takes without waiting; the rest is sent by the next call. For connections that do
    /// not block.
    ///
    /// # Errors
    /// The server is gone.
    pub fn flush_some(&mut self) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("cannot send"),
            }
        }
        self.output.drain(..sent);
        Ok(())
    }

    /// Waits for the next answer, which is no error.
    ///
    /// # Errors
    /// It is one, or it does not come.
    pub fn receive(&mut self) -> Result<Response<'_>, Failure> {
        let body = loop {
            if let Some(body) = self.front()? {
                break body;
            }
            if !self.fill()? {
                return Err(Failure::new(format!("no answer within {} s", PATIENCE.as_secs())));
            }
        };
        decode(&self.input[body])
    }

    /// The next answer, which is no error, if there is one. For connections that do not block.
    ///
    /// # Errors
    /// It is one, or there will be none.
    pub fn try_receive(&mut self) -> Result<Option<Response<'_>>, Failure> {
        let body = loop {
            if let Some(body) = self.front()? {
                break body;
            }
            if !self.fill()? {
                return Ok(None);
            }
        };
        decode(&self.input[body]).map(Some)
    }

    /// Takes the frame that is whole, if there is one, and returns where its body is.
    fn front(&mut self) -> Result<Option<Range<usize>>, Failure> {
        match frame::split(&self.input[self.start..self.end]).context("from the server")? {
            Split::Whole { body, consumed } => {
                let body = self.start + body.start..self.start + body.end;
                self.start += consumed;
                Ok(Some(body))
            }
            Split::Partial { needed } => {
                self.make_room(needed.unwrap_or(frame::HEADER));
                Ok(None)
            }
        }
    }

    /// Receives once. False if nothing came within the socket's patience.
    fn fill(&mut self) -> Result<bool, Failure> {
        loop {
            match self.stream.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(Failure::new("the server closed the connection")),
                Ok(n) => {
                    self.end += n;
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e).context("cannot receive"),
            }
        }
    }

    /// Whether sending and receiving wait.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_blocking(&self, blocking: bool) -> Result<(), Failure> {
        self.stream.set_nonblocking(!blocking).context("O_NONBLOCK")
    }

    fn make_room(&mut self, needed: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + needed > self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.input.resize(self.input.len().max(needed), 0);
        }
    }

    /// Whether nothing has come that was not received.
    ///
    /// # Errors
    /// The server closed the connection.
    pub fn is_silent(&mut self) -> Result<bool, Failure> {
        if self.start < self.end {
            return Ok(false);
        }
        self.set_blocking(false)?;
        let peeked = self.stream.peek(&mut [0]);
        self.set_blocking(true)?;
        match peeked {
            Ok(0) => Err(Failure::new("the server closed the connection")),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(e).context("cannot receive"),
        }
    }

    /// Ends the stream and waits for the server to close the connection: it has forgotten it then.
    ///
    /// # Errors
    /// It says something instead.
    pub fn close(mut self) -> Result<(), Failure> {
        self.stream.shutdown(std::net::Shutdown::Write).context("cannot shut down")?;
        match self.stream.read(&mut self.input) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Failure::new("an answer to nothing that was asked")),
            Err(e) => Err(e).context("the server does not close the connection"),
        }
    }

    /// The server's revision.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn revision(&mut self) -> Result<i64, Failure> {
        let response = self.call(Request::new(Verb::Rev))?;
        response.rev.ok_or_else(|| Failure::new("an answer to REV without a revision"))
    }

    /// What the server measures of itself.
    ///
    /// # Errors
    /// As for [`Client::call`]; or the answer is not understood.
    pub fn stats(&mut self) -> Result<Stats, Failure> {
        let response = self.call(Request::new(Verb::Stats))?;
        let text = std::str::from_utf8(response.value.unwrap_or_default()).context("the answer to STATS")?;
        Stats::decode(text).context("the answer to STATS")
    }

    /// Sets a file, whatever its revision is, and returns its new one.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn set(&mut self, path: &[u8], value: &[u8]) -> Result<i64, Failure> {
        self.compare_and_set(path, value, -1)
    }

    /// Sets a file whose revision is `rev`, and returns its new one.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn compare_and_set(&mut self, path: &[u8], value: &[u8], rev: i64) -> Result<i64, Failure> {
        let request = Request { path: Some(path), value: Some(value), rev: Some(rev), ..Request::new(Verb::Set) };
        let response = self.call(request)?;
        response.rev.filter(|&rev| rev > 0).ok_or_else(|| Failure::new("an answer to SET without a revision"))
    }

    /// A file's revision and value: now, or at a revision, which is waited for.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn get(&mut self, path: &[u8], at: Option<i64>) -> Result<(i64, Vec<u8>), Failure> {
        let response = self.call(Request { path: Some(path), rev: at, ..Request::new(Verb::Get) })?;
        let found = response.rev.zip(response.value).map(|(rev, value)| (rev, value.to_vec()));
        found.ok_or_else(|| Failure::new("an answer to GET without a revision or a value"))
    }

    /// The first event at or after revision `from` that sets `path`: its revision and the value.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn wait(&mut self, path: &[u8], from: i64) -> Result<(i64, Vec<u8>), Failure> {
        let response = self.call(Request { path: Some(path), rev: Some(from), ..Request::new(Verb::Wait) })?;
        let event = response.rev.zip(response.value).map(|(rev, value)| (rev, value.to_vec()));
        event.ok_or_else(|| Failure::new("an answer to WAIT without a revision or a value"))
    }

    /// The server's id.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn id(&mut self) -> Result<String, Failure> {
        let response = self.call(Request::new(Verb::SelfId))?;
        let id = response.value.and_then(|id| std::str::from_utf8(id).ok()).map(String::from);
        id.filter(|id| !id.is_empty()).ok_or_else(|| Failure::new("an answer to SELF without an id"))
    }

    /// Sets the same file over and over, one request at a time, and returns the latencies in nanoseconds, from before
    /// the request is sent to after its answer is decoded. Each answer's revision has to be one more than the last.
    ///
    /// # Errors
    /// As for [`Client::call`], and when a revision is off.
    pub fn time_sets(&mut self, path: &[u8], value: &[u8], count: u64) -> Result<Histogram<u64>, Failure> {
        let mut latency = histogram();
        let mut last = None;
        for _ in 0..count {
            let start = Instant::now();
            let rev = self.set(path, value)?;
            latency.saturating_record(nanos(start.elapsed()));
            if last.is_some_and(|last| rev != last + 1) {
                return Err(Failure::new(format!("revision {rev} after {last:?}, though nobody else writes")));
            }
            last = Some(rev);
        }
        Ok(latency)
    }
}

fn decode(body: &[u8]) -> Result<Response<'_>, Failure> {
    checked(Response::decode(body).context("from the server")?)
}

/// The answer, unless it is an error.
///
/// # Errors
/// It is.
pub fn checked(response: Response<'_>) -> Result<Response<'_>, Failure> {
    match response.err_code {
        None => Ok(response),
        Some(code) => {
            let detail = response.err_detail.unwrap_or_default();
            let detail = if detail.is_empty() { String::new() } else { format!(": {}", detail.escape_ascii()) };
            let name = ErrCode::try_from(code).ok().filter(|name| *name != ErrCode::Other);
            let name = name.map_or(String::new(), |name| format!(" ({name})"));
            Err(Failure::new(format!("the server answered with error {code}{name}{detail}")).with_code(code))
        }
    }
}

/// For latencies in nanoseconds, to three digits.
///
/// # Panics
/// Never: the bounds are valid.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000_000, 3).expect("the bounds are valid")
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn sets_are_timed_and_counted() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        let before = client.revision().unwrap();
        let latency = client.time_sets(b"/a", &[1; 128], 100).unwrap();
        assert_eq!(latency.len(), 100);
        assert!(latency.min() > 0);
        assert_eq!(client.revision().unwrap(), before + 100);
        client.close().unwrap();
    }

    /// A benchmark that measured errors is no benchmark.
    #[test]
    fn an_error_answer_ends_the_run() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        let e = client.set(b"bad path", b"").unwrap_err().to_string();
        assert!(e.contains("error 6"), "{e}");
    }

    #[test]
    fn a_revision_that_skips_ends_the_run() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        let e = client.time_sets(b"/skip", b"", 2).unwrap_err().to_string();
        assert!(e.contains("nobody else writes"), "{e}");
    }

    #[test]
    fn answers_larger_than_the_buffer_are_received() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        let value = vec![9; 200_000];
        client.set(b"/large", &value).unwrap();
        let get = Request { path: Some(b"/large"), ..Request::new(Verb::Get) };
        assert_eq!(client.call(get).unwrap().value, Some(&value[..]));
    }

    #[test]
    fn nothing_is_received_without_waiting_until_it_is_there() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        client.set_blocking(false).unwrap();
        assert_eq!(client.try_receive().unwrap(), None);
        for tag in [3, 4] {
            client.send(Request { tag: Some(tag), ..Request::new(Verb::Rev) });
        }
        client.flush().unwrap();
        for tag in [3, 4] {
            let answer = loop {
                if let Some(answer) = client.try_receive().unwrap() {
                    break answer.tag;
                }
            };
            assert_eq!(answer, Some(tag));
        }
        assert_eq!(client.try_receive().unwrap(), None);
    }

    /// A server that does not read for a while has not gone, and nothing may be lost or sent twice.
    #[test]
    fn what_the_socket_does_not_take_is_sent_later() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.set_blocking(false).unwrap();
        let value = vec![7; 1 << 20];
        let mut sent = 0;
        while client.output.is_empty() {
            client.send(Request { value: Some(&value), ..Request::new(Verb::Set) });
            sent += client.output.len();
            client.flush_some().unwrap();
        }
        let reader = std::thread::spawn(move || std::io::copy(&mut server, &mut std::io::sink()).unwrap());
        while !client.output.is_empty() {
            client.flush_some().unwrap();
        }
        drop(client);
        assert_eq!(usize::try_from(reader.join().unwrap()).unwrap(), sent);
    }

    #[test]
    fn a_closed_connection_is_an_error_and_silence_is_none() {
        let fake = Fake::start();
        let mut client = Client::connect(fake.addr()).unwrap();
        assert!(client.is_silent().unwrap());
        client.send(Request { tag: Some(5), ..Request::new(Verb::Rev) });
        client.flush().unwrap();
        assert_eq!(client.receive().unwrap().tag, Some(5));
        assert!(client.is_silent().unwrap());
        let e = client.set(b"/close", b"").unwrap_err().to_string();
        assert!(e.contains("closed the connection"), "{e}");
    }
}
