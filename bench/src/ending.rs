//! What must not outlive the run: its child processes and its directory. Both are noted here as soon as they are there, so that
//! a signal that ends the run takes them down, wherever the run is just then: processes first, for they would go on to
//! write into the directory.
//!
//! SIGKILL leaves no time for that: then the kernel ends the processes (`end_with_parent` in [`child`](crate::child)), and the next
//! run removes the directory.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Context, Failure};
use crate::say::say;

/// How often a directory is tried to be removed, as this process may be about to make a file in it.
const TRIES: usize = 100;

/// What is there.
static LEFT: Mutex<Left> = Mutex::new(Left { children: BTreeSet::new(), directories: Vec::new() });

/// What would be left.
#[derive(Debug)]
pub struct Left {
    /// Child processes that were not waited for yet.
    children: BTreeSet<u32>,
    directories: Vec<Directory>,
}

#[derive(Debug)]
struct Directory {
    own: PathBuf,
    /// The one that it is in, if that was made for it.
    parent: Option<PathBuf>,
}

/// What is there now. Nothing is added or taken away as long as this is held.
pub fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Left {
    /// Notes a directory, and the one that was made for it.
    pub fn add(&mut self, own: PathBuf, parent: Option<PathBuf>) {
        self.directories.push(Directory { own, parent });
    }

    /// Removes a directory that was noted.
    pub fn remove(&mut self, own: &PathBuf) {
        if let Some(at) = self.directories.iter().position(|directory| directory.own == *own) {
            self.directories.swap_remove(at).remove();
        }
    }

    /// Kills all processes, then removes all directories.
    fn end(&mut self) {
        let pids = || self.children.iter().filter_map(|&pid| Pid::from_raw(i32::try_from(pid).ok()?));
        for pid in pids() {
            // One that has ended is still there to be waited for, so its number is no other's.
            let _ended = kill_process(pid, Signal::KILL);
        }
        for pid in pids() {
            while waitpid(Some(pid), WaitOptions::empty()).err() == Some(rustix::io::Errno::INTR) {}
        }
        self.children.clear();
        self.directories.drain(..).for_each(|directory| directory.remove());
    }
}

impl Directory {
    fn remove(&self) {
        let mut removed = std::fs::remove_dir_all(&self.own);
        for _ in 1..TRIES {
            if removed.is_ok() {
                break;
            }
            removed = std::fs::remove_dir_all(&self.own);
        }
        if let Err(e) = removed {
            say(format_args!("cannot remove {}: {e}", self.own.display()));
        }
        if let Some(parent) = &self.parent {
            // It stays if someone else uses it by now.
            let _removed = std::fs::remove_dir(parent);
        }
    }
}

/// A child process, in a process group of its own: what a terminal sends to the run must not end a server before the run knows.
#[derive(Debug)]
pub struct Owned(Child);

impl Owned {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Owned> {
        let mut left = left();
        let child = command.process_group(0).spawn()?;
        left.children.insert(child.id());
        Ok(Owned(child))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its stderr, if that is a pipe that nobody has taken.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    /// Kills it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw)
            && left().children.contains(&self.id())
        {
            // Its number stays its own until what is held below is let go.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), ended).err() == Some(rustix::io::Errno::INTR) {}
        }
        let mut left = left();
        let status = self.0.wait()?;
        left.children.remove(&self.id());
        Ok(status)
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut left = left();
        let status = self.0.try_wait()?;
        if status.is_some() {
            left.children.remove(&self.id());
        }
        Ok(status)
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP take down what is there and end the process, with 128 and the signal's number as its
/// status. One that is ignored stays so: a run under `nohup` outlives its terminal.
///
/// # Errors
/// The kernel refuses.
pub fn on_signals() -> Result<(), Failure> {
    let failed = "cannot handle signals";
    let status = std::fs::read_to_string("/proc/self/status").context(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(failed)?;
    let within = runtime.enter();
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        if !is_ignored(&status, kind.as_raw_value()) {
            signals.push((kind.as_raw_value(), signal(kind).context(failed)?));
        }
    }
    drop(within);
    std::thread::spawn(move || {
        let number = runtime.block_on(std::future::poll_fn(|context| {
            let come = signals.iter_mut().find_map(|(number, signal)| {
                let come = signal.poll_recv(context).is_ready();
                come.then_some(*number)
            });
            come.map_or(Poll::Pending, Poll::Ready)
        }));
        // It is never let go: whoever starts, waits for or removes something now waits for the end.
        let mut left = left();
        left.end();
        say(format_args!("ended by signal {number}"));
        std::process::exit(128 + number)
    });
    Ok(())
}

/// Whether a signal is among those that `/proc/self/status` lists as ignored.
fn is_ignored(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_told_by_its_bit() {
        let status = "Name:\tx\nSigBlk:\t0000000000000007\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 13));
        assert!(!is_ignored(status, 2) && !is_ignored(status, 15));
    }

    /// A process that goes on writes into a directory that is being removed.
    #[test]
    fn processes_have_ended_before_their_directory_goes() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("data");
        let own = parent.join("run");
        std::fs::create_dir_all(&own).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready >&2; while :; do i=$((i+1)); : > $i; done"]).current_dir(&own);
        let mut child = command.process_group(0).stderr(std::process::Stdio::piped()).spawn().unwrap();
        io::Read::read_exact(&mut child.stderr.take().unwrap(), &mut [0; 6]).unwrap();
        let directories = vec![Directory { own, parent: Some(parent.clone()) }];
        Left { children: BTreeSet::from([child.id()]), directories }.end();
        assert!(!parent.exists());
        assert!(child.wait().is_err(), "it was waited for");
    }
}
