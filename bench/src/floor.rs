//! The floor: what a durable answer costs on this machine at the least.
//!
//! One blocking thread: receive a request, write one block of 4 KiB with O_DIRECT|O_DSYNC into a file that was filled
//! with zeros beforehand, answer. No consensus, no tree, no history, no second connection. It writes the blocks of
//! the file in order, as a log does, and begins again at its end.
//!
//! The floor of a cluster is three of them: the first passes each request on to the other two before it writes, and
//! answers once it has written itself and one of the others has answered, whichever that is.
//!
//! The peer echo is what one message between two processes costs, there and back.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use doozer::limits::{BLOCK, SEGMENT};
use doozer::wire::Response;
use doozer::wire::frame::{Split, split};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

use crate::failure::{Context, Failure};

/// Bytes of the peer echo's message.
pub const ECHO: usize = 128;

/// A block, aligned as O_DIRECT asks for.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

const _: () = assert!(align_of::<Block>() == BLOCK && size_of::<Block>() == BLOCK);

/// Where the blocks go.
struct Log {
    file: File,
    /// Else a buffered write and fdatasync, as the server does where O_DIRECT is refused.
    direct: bool,
    block: Box<Block>,
    next: u64,
}

impl Log {
    fn create(path: &Path) -> Result<Log, Failure> {
        let failed = || format!("cannot write {}", path.display());
        let file = File::create(path).context(failed())?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..SEGMENT).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset).context(failed())?;
        }
        file.sync_all().context(failed())?;
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).unwrap_or(0);
            std::fs::OpenOptions::new().write(true).custom_flags(flags).open(path)
        };
        let (file, direct) = match open(OFlags::DIRECT | OFlags::DSYNC) {
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => (open(OFlags::empty()), false),
            opened => (opened, true),
        };
        Ok(Log { file: file.context(failed())?, direct, block: Box::new(Block([0; BLOCK])), next: 0 })
    }

    fn append(&mut self, record: &[u8]) -> std::io::Result<()> {
        let size = record.len().min(BLOCK);
        self.block.0[..size].copy_from_slice(&record[..size]);
        self.file.write_all_at(&self.block.0, self.next)?;
        if !self.direct {
            self.file.sync_data()?;
        }
        self.next = (self.next + BLOCK as u64) % SEGMENT;
        Ok(())
    }
}

/// The processes that are to have written, too: one of them is enough.
#[derive(Default)]
struct Peers {
    links: Vec<Link>,
    /// Requests that were passed on.
    passed: u64,
}

/// A connection to one of them.
struct Link {
    stream: TcpStream,
    /// Answers that came; they come in order.
    answered: u64,
    input: [u8; 4096],
    filled: usize,
}

impl Peers {
    fn connect(addrs: &[SocketAddr]) -> Result<Peers, Failure> {
        let open = |addr: &SocketAddr| {
            let stream = TcpStream::connect(addr).context(format!("cannot connect to {addr}"))?;
            stream.set_nodelay(true).context("TCP_NODELAY")?;
            Ok(Link { stream, answered: 0, input: [0; 4096], filled: 0 })
        };
        Ok(Peers { links: addrs.iter().map(open).collect::<Result<_, Failure>>()?, passed: 0 })
    }

    fn pass(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.passed += 1;
        self.links.iter_mut().try_for_each(|link| link.stream.write_all(frame).context("cannot pass on"))
    }

    /// Waits until one has answered all that was passed on. The answers of the slower one are taken later.
    fn wait(&mut self) -> Result<(), Failure> {
        while !self.links.is_empty() && self.links.iter().all(|link| link.answered < self.passed) {
            let mut ready: Vec<PollFd<'_>> =
                self.links.iter().map(|link| PollFd::new(&link.stream, PollFlags::IN)).collect();
            poll(&mut ready, None).context("poll")?;
            let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
            self.links.iter_mut().zip(ready).filter(|(_, ready)| *ready).try_for_each(|(link, _)| link.take())?;
        }
        Ok(())
    }
}

impl Link {
    /// Receives once, and counts the answers.
    fn take(&mut self) -> Result<(), Failure> {
        match self.stream.read(&mut self.input[self.filled..]).context("from a peer")? {
            0 => return Err(Failure::new("a peer is gone")),
            n => self.filled += n,
        }
        let mut used = 0;
        while let Split::Whole { consumed, .. } = split(&self.input[used..self.filled]).context("from a peer")? {
            used += consumed;
            self.answered += 1;
        }
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }
}

/// Serves one connection after the other, until it is killed.
///
/// # Errors
/// The file cannot be written, the core not be had, or a peer is gone.
pub fn serve(path: &Path, core: Option<usize>, first_rev: i64, peers: &[SocketAddr]) -> Result<(), Failure> {
    crate::child::end_with_parent()?;
    core.map_or(Ok(()), crate::machine::pin)?;
    let mut log = Log::create(path)?;
    let mut peers = Peers::connect(peers)?;
    let listener = listen("floor")?;
    if !log.direct {
        tell("floor: O_DIRECT is refused here; writing with fdatasync")?;
    }
    let mut rev = first_rev;
    loop {
        let (stream, _) = listener.accept().context("cannot accept")?;
        connection(stream, &mut log, &mut peers, &mut rev)?;
    }
}

fn listen(name: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    tell(&format!("{name}: listening on {}", listener.local_addr().context("cannot listen")?))?;
    Ok(listener)
}

/// Says a line to whoever has started this.
fn tell(line: &str) -> Result<(), Failure> {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).context("cannot say where it listens")
}

/// Answers every request as if it were a SET that is sent alone: with the tag 1 and a revision.
fn connection(mut stream: TcpStream, log: &mut Log, peers: &mut Peers, rev: &mut i64) -> Result<(), Failure> {
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    let mut input = [0; 64 << 10];
    let mut filled = 0;
    let mut output = Vec::new();
    loop {
        match stream.read(&mut input[filled..]) {
            Ok(n) if n > 0 => filled += n,
            // The client is gone, or has sent more than a request.
            _ => return Ok(()),
        }
        // The slower peer may find several.
        while let Split::Whole { body, consumed } = split(&input[..filled]).context("from the client")? {
            peers.pass(&input[..consumed])?;
            log.append(&input[body]).context("cannot write")?;
            peers.wait()?;
            output.clear();
            Response { tag: Some(1), rev: Some(*rev), ..Response::default() }.encode(&mut output);
            *rev += 1;
            input.copy_within(consumed..filled, 0);
            filled -= consumed;
            if stream.write_all(&output).is_err() {
                return Ok(());
            }
        }
    }
}

/// Sends back what it gets, message by message, one connection after the other, until it is killed.
///
/// # Errors
/// The core cannot be had.
pub fn echo(core: Option<usize>) -> Result<(), Failure> {
    crate::child::end_with_parent()?;
    core.map_or(Ok(()), crate::machine::pin)?;
    let listener = listen("echo")?;
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        let mut message = [0; ECHO];
        while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    /// The floor has to do what it is the floor of: one block on the disk a request, and an answer of the same size.
    #[test]
    fn each_request_writes_a_block_and_is_answered() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("floor");
        let mut log = Log::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SEGMENT);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut rev = 1000;
            connection(listener.accept().unwrap().0, &mut log, &mut Peers::default(), &mut rev).unwrap();
            (log.next, rev)
        });
        let mut client = Client::connect(addr).unwrap();
        let latency = client.time_sets(b"/bench/latency", &[0xab; 128], 3).unwrap();
        assert_eq!(latency.len(), 3);
        client.close().unwrap();
        assert_eq!(server.join().unwrap(), (3 * 4096, 1003));
        let written = std::fs::read(&path).unwrap();
        for block in 0..3 {
            let count = written[block * BLOCK..(block + 1) * BLOCK].iter().filter(|&&b| b == 0xab).count();
            assert_eq!(count, 128, "block {block}");
        }
        assert!(written[3 * BLOCK..].iter().all(|&b| b == 0));
    }

    /// An answer before anyone else has the request on the disk would be a floor below what a cluster promises; one that
    /// waits for both would be above it.
    #[test]
    fn one_peers_answer_is_waited_for_and_the_others_is_not() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut log = Log::create(&dir.path().join("floor")).unwrap();
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap());
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = first.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut peers = Peers::connect(&addrs).unwrap();
            connection(first.accept().unwrap().0, &mut log, &mut peers, &mut 1000).unwrap();
        });
        let [mut slow, mut quick] = listeners.map(|listener| listener.accept().unwrap().0);
        let mut client = TcpStream::connect(addr).unwrap();
        let request = [0, 0, 0, 4, 0x08, 1, 0x10, 2];
        let answer_of = |stream: &mut TcpStream| {
            let mut answer = [0; 9];
            stream.read_exact(&mut answer).unwrap();
            answer
        };
        let is_silent = |client: &TcpStream| {
            client.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
            let peeked = client.peek(&mut [0]);
            client.set_read_timeout(None).unwrap();
            peeked.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
        };
        for round in 0..3 {
            client.write_all(&request).unwrap();
            let mut passed = [0; 8];
            quick.read_exact(&mut passed).unwrap();
            assert_eq!(passed, request);
            assert!(is_silent(&client), "round {round}");
            quick.write_all(&[0, 0, 0, 5, 0x08, 1, 0x18, 0x88, 7]).unwrap();
            assert_eq!(answer_of(&mut client)[..7], [0, 0, 0, 5, 0x08, 1, 0x18]);
        }
        // The slower one's answers to what is answered already are no answers to the next.
        client.write_all(&request).unwrap();
        quick.read_exact(&mut [0; 8]).unwrap();
        slow.write_all(&[0, 0, 0, 5, 0x08, 1, 0x18, 0x88, 7].repeat(3)).unwrap();
        assert!(is_silent(&client));
        slow.write_all(&[0, 0, 0, 5, 0x08, 1, 0x18, 0x88, 7]).unwrap();
        answer_of(&mut client);
        drop(client);
        server.join().unwrap();
    }

    /// What comes in one segment of TCP is as many requests as it holds; one that was left in the buffer would be
    /// answered by the next.
    #[test]
    fn requests_that_come_together_are_all_answered() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut log = Log::create(&dir.path().join("floor")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            connection(listener.accept().unwrap().0, &mut log, &mut Peers::default(), &mut 1000).unwrap();
        });
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(&[0, 0, 0, 4, 0x08, 1, 0x10, 2].repeat(3)).unwrap();
        client.read_exact(&mut [0; 27]).unwrap();
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn the_file_is_begun_again_at_its_end() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut log = Log::create(&dir.path().join("floor")).unwrap();
        log.next = SEGMENT - BLOCK as u64;
        log.append(b"last").unwrap();
        assert_eq!(log.next, 0);
    }
}
