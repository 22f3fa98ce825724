//! Servers as child processes: started, waited for by what they say and answer, and stopped by their id.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::client::{Client, PATIENCE};
use crate::failure::{Context, Failure};

/// A running server. It is killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    addr: SocketAddr,
    ready_after: Duration,
    revision: i64,
    /// What it says on stderr; ends when the process does.
    lines: Mutex<Receiver<String>>,
}

impl Server {
    /// Starts `doozerd` on a free port and a data directory.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn doozerd(program: &Path, dir: &Path, core: usize) -> Result<Server, Failure> {
        let core = core.to_string();
        let args = ["-l", "127.0.0.1:0", "--core", &core, "-d"].map(OsStr::new);
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(own);
        command.arg("guard").arg(program).args(args).arg(dir);
        for name in ["DOOZER_RWSECRET", "DOOZER_ROSECRET", "DOOZER_BOOT_URI"] {
            command.env_remove(name);
        }
        Server::start(command).map_err(|e| e.within(&program.display().to_string()))
    }

    /// Starts the floor.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn floor(file: &Path, core: usize, first_rev: i64) -> Result<Server, Failure> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(own);
        let (core, first_rev) = (core.to_string(), first_rev.to_string());
        command.args(["floor-server", "--core", &core, "--first-rev", &first_rev, "--file"]).arg(file);
        Server::start(command).map_err(|e| e.within("the floor"))
    }

    fn start(mut command: Command) -> Result<Server, Failure> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().context("cannot start")?;
        let (sender, lines) = channel();
        let stderr = child.stderr.take();
        std::thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
                // Nobody listens once the server has been stopped.
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on it is killed if anything goes wrong.
        let mut server = Server { child, addr, ready_after: Duration::ZERO, revision: 0, lines: Mutex::new(lines) };
        let mut said = String::new();
        server.addr = loop {
            let line = server.lines().recv_timeout(PATIENCE);
            match line {
                Ok(line) => match address(&line) {
                    Some(addr) => break addr,
                    None => said = line,
                },
                Err(RecvTimeoutError::Timeout) => return Err(Failure::new("does not say where it listens")),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new(format!("ended: {said}"))),
            }
        };
        server.revision = Client::connect(server.addr).and_then(|mut c| c.revision()).map_err(|e| server.explain(e))?;
        server.ready_after = begun.elapsed();
        Ok(server)
    }

    fn lines(&self) -> MutexGuard<'_, Receiver<String>> {
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
        self.lines().try_iter().collect()
    }

    /// Adds what the server said last.
    pub fn explain(&self, e: Failure) -> Failure {
        match self.lines().try_iter().last() {
            Some(line) => Failure::new(format!("{e} (the server's last line: {line})")),
            None => e,
        }
    }

    /// Ends it with SIGTERM; it has to exit with 0.
    ///
    /// # Errors
    /// It does not.
    pub fn terminate(mut self) -> Result<(), Failure> {
        let pid =
            i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or_else(|| Failure::new("no such process"))?;
        kill_process(pid, Signal::TERM).context("cannot stop the server")?;
        let mut last = String::new();
        loop {
            let line = self.lines().recv_timeout(PATIENCE);
            match line {
                Ok(line) => last = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(Failure::new("the server does not stop on SIGTERM")),
            }
        }
        let status = self.child.wait().context("cannot wait for the server")?;
        if !status.success() {
            return Err(Failure::new(format!("the server ended with {status} on SIGTERM: {last}")));
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
            eprintln!("doozer-bench: cannot kill process {}: {e}", self.pid());
        }
    }
}

/// The address in a line `…: listening on ADDR`.
fn address(line: &str) -> Option<SocketAddr> {
    line.split_once("listening on ")?.1.split_whitespace().next()?.parse().ok()
}

/// Has the kernel kill this process when its parent ends, however that comes about.
///
/// # Errors
/// The kernel refuses.
pub fn end_with_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be bound to the parent's life")
}

/// Becomes `command`, bound to the parent's life: a server that is left over would spoil every later measurement.
///
/// # Errors
/// It cannot be executed; else this does not return.
pub fn guard(command: &[OsString]) -> Result<(), Failure> {
    end_with_parent()?;
    let (program, args) = command.split_first().ok_or_else(|| Failure::new("guard: no command"))?;
    let e = Command::new(program).args(args).exec();
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
}
