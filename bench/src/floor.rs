//! The floor: what a durable answer costs on this machine at the least.
//!
//! One blocking thread: receive a request, write one block of 4 KiB with O_DIRECT|O_DSYNC into a file that was filled
//! with zeros beforehand, answer. No consensus, no tree, no history, no second connection. It writes the blocks of
//! the file in order, as a log does, and begins again at its end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use doozer::limits::{BLOCK, SEGMENT};
use doozer::wire::Response;
use doozer::wire::frame::{Split, split};
use rustix::fs::OFlags;

use crate::failure::{Context, Failure};

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

/// Serves one connection after the other, until it is killed.
///
/// # Errors
/// The file cannot be written, or the core not be had.
pub fn serve(path: &Path, core: usize, first_rev: i64) -> Result<(), Failure> {
    crate::child::end_with_parent()?;
    crate::machine::pin(core)?;
    let mut log = Log::create(path)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    eprintln!("floor: listening on {}", listener.local_addr().context("cannot listen")?);
    if !log.direct {
        eprintln!("floor: O_DIRECT is refused here; writing with fdatasync");
    }
    let mut rev = first_rev;
    loop {
        let (stream, _) = listener.accept().context("cannot accept")?;
        connection(stream, &mut log, &mut rev)?;
    }
}

/// Answers every request as if it were a SET that is sent alone: with the tag 1 and a revision.
fn connection(mut stream: TcpStream, log: &mut Log, rev: &mut i64) -> Result<(), Failure> {
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
        if let Split::Whole { body, consumed } = split(&input[..filled]).context("from the client")? {
            log.append(&input[body]).context("cannot write")?;
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
            connection(listener.accept().unwrap().0, &mut log, &mut rev).unwrap();
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

    #[test]
    fn the_file_is_begun_again_at_its_end() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut log = Log::create(&dir.path().join("floor")).unwrap();
        log.next = SEGMENT - BLOCK as u64;
        log.append(b"last").unwrap();
        assert_eq!(log.next, 0);
    }
}
