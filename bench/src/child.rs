//! Servers as child processes: started, waited for by what they say and answer, and stopped by their id.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::client::{Client, PATIENCE};
use crate::ending::Owned;
use crate::failure::{Context, Failure};
use crate::say::say;

/// In the environment of this program's own children: their parent's process.
const PARENT: &str = "DOOZER_BENCH_PARENT";
/// Lines of a server's that are kept for when something goes wrong.
const TAIL: usize = 20;

/// A running server. It is killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Owned,
    addr: SocketAddr,
    ready_after: Duration,
    revision: i64,
    lines: Mutex<Lines>,
}

/// A line that a server has said.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it came.
    pub at: Instant,
    /// Without its end.
    pub text: String,
}

/// What a server says on stderr.
#[derive(Debug)]
struct Lines {
    /// Ends when the process does.
    receiver: Receiver<Line>,
    /// Those that were received and that nobody has asked for.
    unread: VecDeque<Line>,
    /// The last ones.
    tail: VecDeque<String>,
}

impl Lines {
    fn receive(&mut self, patience: Duration) -> Result<Line, RecvTimeoutError> {
        let line = self.receiver.recv_timeout(patience)?;
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.text.clone());
        Ok(line)
    }

    fn tail(&mut self) -> &VecDeque<String> {
        while let Ok(line) = self.receive(Duration::ZERO) {
            self.unread.push_back(line);
        }
        &self.tail
    }
}

/// How a `doozerd` is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its data directory.
    pub dir: PathBuf,
    /// The address to listen on; with port 0 it is told which one.
    pub listen: SocketAddr,
    /// The core to be pinned to.
    pub core: Option<usize>,
    /// A node of the cluster to attach to.
    pub attach: Option<SocketAddr>,
    /// Other flags.
    pub flags: Vec<String>,
    /// The secret that grants reading and writing; none is set without one.
    pub secret: Option<String>,
}

/// Flags, as a launch has them.
pub fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().copied().map(String::from).collect()
}

impl Server {
    /// Starts `doozerd` on a free port and a data directory.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn doozerd(program: &Path, dir: &Path, core: usize, flags: &[&str]) -> Result<Server, Failure> {
        let (dir, listen) = (dir.to_path_buf(), SocketAddr::from(([127, 0, 0, 1], 0)));
        Server::launch(
            program,
            &Launch { dir, listen, core: Some(core), attach: None, flags: owned(flags), secret: None },
        )
    }

    /// Starts `doozerd`.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn launch(program: &Path, launch: &Launch) -> Result<Server, Failure> {
        let mut command = own()?;
        command.arg("guard").arg(program).args(["-l", &launch.listen.to_string(), "-d"]).arg(&launch.dir);
        if let Some(core) = launch.core {
            command.args(["--core", &core.to_string()]);
        }
        if let Some(attach) = launch.attach {
            command.args(["-a", &attach.to_string()]);
        }
        command.args(&launch.flags);
        for name in ["DOOZER_RWSECRET", "DOOZER_ROSECRET", "DOOZER_BOOT_URI"] {
            command.env_remove(name);
        }
        if let Some(secret) = &launch.secret {
            command.env("DOOZER_RWSECRET", secret);
        }
        Server::start(command).and_then(Server::answering).map_err(|e| e.within(&program.display().to_string()))
    }

    /// Starts the floor, which passes what it receives on to `peers`.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn floor(file: &Path, core: Option<usize>, first_rev: i64, peers: &[SocketAddr]) -> Result<Server, Failure> {
        let mut command = own()?;
        command.args(["floor-server", "--first-rev", &first_rev.to_string(), "--file"]).arg(file);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        for peer in peers {
            command.args(["--peer", &peer.to_string()]);
        }
        Server::start(command).and_then(Server::answering).map_err(|e| e.within("the floor"))
    }

    /// Starts a server that sends back what it gets.
    ///
    /// # Errors
    /// It does not start.
    pub fn echo(core: Option<usize>) -> Result<Server, Failure> {
        let mut command = own()?;
        command.arg("echo-server");
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        Server::start(command).map_err(|e| e.within("the echo"))
    }

    /// Starts a server and waits until it says where it listens.
    ///
    /// # Errors
    /// It does not say so.
    pub fn start(mut command: Command) -> Result<Server, Failure> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = Owned::start(&mut command).context("cannot start")?;
        let (sender, receiver) = channel();
        let stderr = child.stderr();
        std::thread::spawn(move || {
            for text in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
                // Nobody listens once the server has been stopped.
                if sender.send(Line { at: Instant::now(), text }).is_err() {
                    break;
                }
            }
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let lines = Mutex::new(Lines { receiver, unread: VecDeque::new(), tail: VecDeque::new() });
        // From here on it is killed if anything goes wrong.
        let mut server = Server { child, addr, ready_after: Duration::ZERO, revision: 0, lines };
        server.addr = loop {
            let mut lines = server.lines();
            match lines.receive(PATIENCE) {
                Ok(line) => match address(&line.text) {
                    Some(addr) => break addr,
                    None => lines.unread.push_back(line),
                },
                Err(e) => {
                    drop(lines);
                    let what = match e {
                        RecvTimeoutError::Timeout => "does not say where it listens",
                        RecvTimeoutError::Disconnected => "ended",
                    };
                    return Err(server.explain(Failure::new(what)));
                }
            }
        };
        server.ready_after = begun.elapsed();
        Ok(server)
    }

    /// Waits until it answers.
    fn answering(mut self) -> Result<Server, Failure> {
        let listening = Instant::now();
        let revision = Client::connect(self.addr).and_then(|mut client| client.revision());
        self.revision = revision.map_err(|e| self.explain(e))?;
        self.ready_after += listening.elapsed();
        Ok(self)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time from its exec until it had answered a first REV.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What it answered to that.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// What it has said since it was last asked.
    pub fn said(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.tail();
        lines.unread.drain(..).map(|line| line.text).collect()
    }

    /// The next line that it says; none if it says nothing for so long.
    ///
    /// # Errors
    /// It has ended.
    pub fn line(&self, patience: Duration) -> Result<Option<Line>, Failure> {
        let mut lines = self.lines();
        if let Some(line) = lines.unread.pop_front() {
            return Ok(Some(line));
        }
        match lines.receive(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                drop(lines);
                Err(self.explain(Failure::new("the server has ended")))
            }
        }
    }

    /// The last lines that it has said.
    pub fn tail(&self) -> Vec<String> {
        self.lines().tail().iter().cloned().collect()
    }

    /// Adds what the server said last.
    pub fn explain(&self, e: Failure) -> Failure {
        match self.lines().tail().back() {
            Some(line) => Failure::new(format!("{e} (the server's last line: {line})")),
            None => e,
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// There is no such process.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new("no such process"))?;
        kill_process(pid, signal).context(format!("cannot send {signal:?} to the server"))
    }

    /// Ends it with SIGTERM; it has to exit with 0.
    ///
    /// # Errors
    /// It does not.
    pub fn terminate(mut self) -> Result<(), Failure> {
        self.signal(Signal::TERM)?;
        loop {
            let line = self.lines().receive(PATIENCE);
            match line {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(Failure::new("the server does not stop on SIGTERM")),
            }
        }
        let status = self.child.wait().context("cannot wait for the server")?;
        if !status.success() {
            return Err(self.explain(Failure::new(format!("the server ended with {status} on SIGTERM"))));
        }
        Ok(())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// It was gone already.
    pub fn kill(mut self) -> Result<(), Failure> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.end().context("cannot kill the server")?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            return Err(self.explain(Failure::new(format!("the server had ended already, with {status}"))));
        }
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            say(format_args!("cannot kill process {}: {e}", self.pid()));
        }
    }
}

/// This program, to be started with other arguments.
///
/// # Errors
/// It cannot be found.
pub fn own() -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.env(PARENT, std::process::id().to_string());
    Ok(command)
}

/// The address in a line `…: listening on ADDR`.
fn address(line: &str) -> Option<SocketAddr> {
    line.split_once("listening on ")?.1.split_whitespace().next()?.parse().ok()
}

/// Has the kernel kill this process when its parent ends, however that comes about.
///
/// # Errors
/// The kernel refuses, or the parent has ended already: then nobody would be told.
pub fn end_with_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be bound to the parent's life")?;
    let parent = getppid().map_or(0, Pid::as_raw_pid);
    match std::env::var(PARENT) {
        Ok(started_by) if started_by != parent.to_string() => {
            Err(Failure::new("the program that started this has ended"))
        }
        _ => Ok(()),
    }
}

/// Becomes `command`, bound to the parent's life: a server that is left over would spoil every later measurement.
///
/// # Errors
/// It cannot be executed; else this does not return.
pub fn guard(command: &[OsString]) -> Result<(), Failure> {
    end_with_parent()?;
    let (program, args) = command.split_first().ok_or_else(|| Failure::new("guard: no command"))?;
    let e = Command::new(program).args(args).env_remove(PARENT).exec();
    Err(e).context(format!("cannot execute {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_what_a_server_says() {
        let addr = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        assert_eq!(address("doozerd: listening on 127.0.0.1:4711"), addr);
        assert_eq!(address("doozerd: listening on 127.0.0.1:4711 (all data in memory)"), addr);
        assert_eq!(address("doozerd: listening"), None);
        assert_eq!(address("doozerd: recovered revision 7"), None);
    }

    /// What a server says before it dies is the reason that a user needs.
    #[test]
    fn a_server_that_dies_is_reported_with_its_last_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo the disk is on fire >&2; exit 3"]);
        let e = Server::start(command).unwrap_err().to_string();
        assert!(e.contains("the disk is on fire"), "{e}");
    }

    #[test]
    fn a_server_that_dies_of_sigterm_has_not_stopped_in_order() {
        let fake = crate::fake::Fake::start();
        let start = || {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo x: listening on {} >&2; exec cat /dev/zero", fake.addr())]);
            Server::start(command).unwrap()
        };
        let e = start().terminate().unwrap_err().to_string();
        assert!(e.contains("signal: 15"), "{e}");
        start().kill().unwrap();
    }

    /// What a server says before it listens may be who leads: it must not be lost; nor the reason of its end, because
    /// someone has read it before.
    #[test]
    fn every_line_is_handed_out_once_and_the_last_ones_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo early >&2; echo x: listening on 127.0.0.1:1 >&2; echo late >&2; echo oops >&2"]);
        let server = Server::start(command).unwrap();
        let next = || server.line(PATIENCE).map(|line| line.unwrap().text);
        assert_eq!([next().unwrap(), next().unwrap(), next().unwrap()], ["early", "late", "oops"]);
        let e = next().unwrap_err().to_string();
        assert!(e.contains("ended") && e.contains("oops"), "{e}");
        assert_eq!(server.tail(), ["early", "x: listening on 127.0.0.1:1", "late", "oops"]);
    }
}
