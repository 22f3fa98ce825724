//! Signals. A thread of its own receives them, so the server reacts to them even while the loop is busy (recovery, a name look-up).
//!
//! | signal | while starting | while serving | while stopping |
//! |---|---|---|---|
//! | SIGTERM, SIGINT | ends at once, with 0: there is nothing to finish | stops cleanly | ends at once, with 128 + the signal |
//! | SIGHUP, SIGUSR1, SIGUSR2 | logs a line | logs a line | logs a line |
//! | SIGXFSZ | nothing: the write that is too large fails, and the server says so | the same | the same |
//!
//! All other signals have the kernel's default effect: SIGQUIT ends the server with a core dump, for a debugger. However the server
//! ends, the writes that it has acknowledged are durable.
//!
//! All other threads block these signals, except SIGXFSZ. Otherwise the kernel may give a signal to the main thread, where it stays
//! pending while that thread is in a system call that nothing interrupts, for example on a disk that hangs.
//!
//! The thread starts before the server pins itself to a core: see `lines`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::{StartError, lines, pin, say};

/// A signal so soon after the first counts as the same one: `timeout` and terminals send it to the process and to its group.
const ONE: Duration = Duration::from_millis(50);

/// What a request to stop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Ends the process: there is nothing to finish.
    Starting,
    /// Stops the server cleanly.
    Serving,
    /// Ends the process: the first request to stop came at this time.
    Stopping(Instant),
}

#[derive(Debug)]
struct Shared {
    phase: Mutex<Phase>,
    stop: Notify,
}

/// The requests to stop. The server hears them as soon as this value exists.
#[derive(Clone, Debug)]
pub struct StopRequests(Arc<Shared>);

/// The reaction to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    End,
    Stop,
    Ignore,
    EndAtOnce,
}

impl Phase {
    fn request(&mut self, now: Instant) -> Action {
        match *self {
            Phase::Starting => Action::End,
            Phase::Serving => {
                *self = Phase::Stopping(now);
                Action::Stop
            }
            Phase::Stopping(since) if now.saturating_duration_since(since) < ONE => Action::Ignore,
            Phase::Stopping(_) => Action::EndAtOnce,
        }
    }
}

impl StopRequests {
    /// Starts to listen for signals, on a thread that keeps off `core`.
    ///
    /// # Errors
    /// If the system refuses a thread or the signal handlers.
    pub fn hear(core: Option<usize>) -> Result<StopRequests, StartError> {
        let failed = |e: io::Error| StartError::new(format!("cannot wait for signals: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let heard = {
            let _within = runtime.enter();
            Heard::new().map_err(failed)?
        };
        // Threads that this one starts later inherit the mask.
        block();
        let requests = StopRequests(Arc::new(Shared { phase: Mutex::new(Phase::Starting), stop: Notify::new() }));
        let to = requests.clone();
        let thread = std::thread::Builder::new().name("signals".into());
        let forward = move || {
            core.into_iter().for_each(pin::keep_off);
            // If it fails, no signal is heard; it cannot fail for a set of valid signals.
            let _failed = handled().thread_unblock();
            runtime.block_on(heard.forward(&to));
        };
        thread.spawn(forward).map_err(|e| StartError::no_thread(&e))?;
        Ok(requests)
    }

    /// From now on a request to stop does not end the process, but completes [`StopRequests::wait`].
    pub fn begin_serving(&self) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Serving;
    }

    /// Waits for a request to stop. It may be dropped and called again: a request is not lost.
    pub async fn wait(&self) {
        self.0.stop.notified().await;
    }

    fn request(&self, name: &str, number: i32) {
        let action = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner).request(Instant::now());
        match action {
            Action::Ignore => {}
            Action::Stop => self.0.stop.notify_one(),
            Action::End => {
                say("stopped before it could serve");
                end_at_once(0);
            }
            Action::EndAtOnce => {
                say(&format!("{name} again: ended at once, before all was finished; what was acknowledged is durable"));
                end_at_once(128 + number);
            }
        }
    }
}

/// The signals that the thread of this module handles.
fn handled() -> SigSet {
    [Number::SIGTERM, Number::SIGINT, Number::SIGHUP, Number::SIGUSR1, Number::SIGUSR2].into_iter().collect()
}

/// Makes the kernel give the handled signals to another thread than the calling one.
pub fn block() {
    // If it fails, this thread may take a signal too; it cannot fail for a set of valid signals.
    let _failed = handled().thread_block();
}

struct Heard {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// Registered only to have a handler.
    _file_size: Signal,
}

impl Heard {
    fn new() -> io::Result<Heard> {
        Ok(Heard {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn forward(mut self, to: &StopRequests) {
        let nothing = |name: &str| {
            say(&format!("{name} changes nothing: the server has no file to read anew or to reopen; SIGTERM stops it"));
        };
        loop {
            tokio::select! {
                _ = self.terminate.recv() => to.request("SIGTERM", libc::SIGTERM),
                _ = self.interrupt.recv() => to.request("SIGINT", libc::SIGINT),
                _ = self.hangup.recv() => nothing("SIGHUP"),
                _ = self.user1.recv() => nothing("SIGUSR1"),
                _ = self.user2.recv() => nothing("SIGUSR2"),
            }
        }
    }
}

/// Ends the process, even if other threads are busy.
fn end_at_once(status: i32) -> ! {
    lines::finish();
    // SAFETY: the call takes no pointer, and nothing runs after it. `std::process::exit` would run exit handlers while the other
    // threads still run.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `timeout` sends the same signal twice: that is one request. An operator who sends it twice makes two.
    #[test]
    fn a_second_request_is_not_told_from_an_echo() {
        let now = Instant::now();
        let mut phase = Phase::Starting;
        assert_eq!(phase.request(now), Action::End);
        phase = Phase::Serving;
        assert_eq!(phase.request(now), Action::Stop);
        assert_eq!(phase.request(now + ONE / 2), Action::Ignore);
        assert_eq!(phase.request(now + ONE), Action::EndAtOnce);
    }
}
