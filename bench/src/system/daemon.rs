//! A server of another project as a child process: bound to our life, with what it says in a file, and waited for by
//! asking.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::child::own;
use crate::client::PATIENCE;
use crate::ending::Owned;
use crate::failure::{Context, Failure};
use crate::say::say;

/// Time between two looks at a server that is coming up.
const LOOK: Duration = Duration::from_millis(50);
/// Time that it may take to answer a question.
const ANSWER: Duration = Duration::from_secs(5);

/// The process. It is killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Owned,
    said: PathBuf,
}

impl Daemon {
    /// Starts a program; what it says goes to a file in `dir`, which is made.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<S: AsRef<OsStr>>(program: &Path, args: &[S], dir: &Path) -> Result<Daemon, Failure> {
        std::fs::create_dir_all(dir).context(format!("cannot make {}", dir.display()))?;
        let said = dir.join("said");
        let out = File::create(&said).context(said.display())?;
        let err = out.try_clone().context(said.display())?;
        let mut command = own()?;
        command.arg("guard").arg(program).args(args).current_dir(dir);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = Owned::start(&mut command).context(format!("cannot start {}", program.display()))?;
        Ok(Daemon { child, said })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// There is none, or the process has ended.
    pub fn wait_for<T>(&mut self, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(e) if Instant::now() > deadline => return Err(self.explain(e)),
                Err(_) => std::thread::park_timeout(LOOK),
            }
            if let Some(status) = self.child.try_wait().context("cannot wait for a server")? {
                return Err(self.explain(Failure::new(format!("the server ended with {status}"))));
            }
        }
    }

    /// Adds what it has said last.
    pub fn explain(&self, e: Failure) -> Failure {
        let text = std::fs::read(&self.said).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        match text.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => Failure::new(format!("{e} (the server's last line: {line})")),
            None => e,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait()) {
            say(format_args!("cannot kill process {}: {e}", self.child.id()));
        }
    }
}

/// Says something to a server on a connection of its own, and returns all that it says until it closes the connection.
///
/// # Errors
/// It does not answer.
pub fn ask(addr: SocketAddr, question: &str) -> Result<String, Failure> {
    let failed = || format!("no answer of {addr}");
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER).context(failed())?;
    stream.set_read_timeout(Some(ANSWER)).context(failed())?;
    stream.write_all(question.as_bytes()).context(failed())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context(failed())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Puts the address of the node that leads first; `leads` tells whether one does.
///
/// # Errors
/// None does within our patience, or more than one.
pub fn leader_first(
    mut addrs: Vec<SocketAddr>,
    mut leads: impl FnMut(SocketAddr) -> Result<bool, Failure>,
) -> Result<Vec<SocketAddr>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = addrs.iter().map(|&addr| leads(addr)).collect::<Result<Vec<bool>, Failure>>();
        match found.as_deref().map(|found| (found.iter().filter(|&&leads| leads).count(), found)) {
            Ok((1, found)) => {
                let at = found.iter().position(|&leads| leads).unwrap_or(0);
                addrs.swap(0, at);
                return Ok(addrs);
            }
            _ if Instant::now() < deadline => std::thread::park_timeout(LOOK),
            Ok((count, _)) => return Err(Failure::new(format!("{count} nodes say that they lead"))),
            Err(e) => return Err(Failure::new(e.to_string())),
        }
    }
}
