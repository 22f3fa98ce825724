//! The operator's log: a bounded buffer, and a thread that writes it to stderr.
//!
//! stderr may be a pipe that nobody reads, or a file on a disk that hangs, and a write to it may never end. So no caller waits for
//! it. Lines that do not fit into the buffer are dropped and counted, and the log says how many as soon as stderr takes lines
//! again. Repeated lines are counted as well: see `repeats`.
//!
//! The thread starts before the server pins itself to its core, because a new thread starts on the cores of the thread that starts
//! it. It keeps off the server's core, if it may use another.
//!
//! Invariants:
//! * the lock is never held during a write;
//! * once a line is dropped, all lines are, until the thread takes the buffer: so the count stands where the lines are missing.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::repeats::{Class, Repeats};
use super::{StartError, pin, stop};
use crate::limits::LINES_MAX;
use crate::replica::Line;

/// How long a process that ends waits for stderr to take another piece.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long it waits in all.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(1);
/// Time between two attempts to write when stderr would block.
const RETRY: Duration = Duration::from_millis(20);
/// Bytes of one write: a pipe takes this many at once.
const PIECE: usize = 4096;

/// Logs a line to stderr without waiting; [`finish`] waits for it. The line contains no words that a stranger can choose; otherwise it
/// belongs to `log`.
pub fn say(line: &str) {
    say_as(Class::Own, line);
}

/// Logs a line of the replica as [`say`] does.
pub fn log(line: &Line) {
    say_as(if line.of_others { Class::Others } else { Class::Own }, &line.text);
}

fn say_as(class: Class, line: &str) {
    match shared() {
        Some(lines) => lines.say(class, line),
        // The thread could not be started. The server does not start then; this line says so.
        None => drop(write_to_stderr(format!("doozerd: {line}\n").as_bytes())),
    }
}

/// Logs all lines of a text as [`say`] does, but without the limit on repeated lines.
pub fn say_text(text: &str) {
    if let Some(lines) = shared() {
        let mut state = lines.state();
        text.lines().for_each(|line| state.push(line));
        lines.changed.notify_all();
    }
}

/// Starts the thread that writes, if no line has started it yet.
///
/// # Errors
/// If the system refuses a thread.
pub fn start() -> Result<(), StartError> {
    match shared() {
        Some(_) => Ok(()),
        None => Err(StartError::no_thread(&io::Error::last_os_error())),
    }
}

/// Keeps the thread that writes off a core.
pub fn keep_off(core: usize) {
    if let Some(lines) = shared() {
        lines.state().avoid = Some(core);
        lines.changed.notify_all();
    }
}

/// Gives stderr up to 1 s to take the remaining lines. Call it before the process ends.
pub fn finish() {
    // If nothing was logged, there is no thread, and none is needed.
    if let Some(Some(lines)) = SHARED.get() {
        lines.finish();
    }
}

static SHARED: OnceLock<Option<&'static Lines>> = OnceLock::new();

/// The lines of this process.
fn shared() -> Option<&'static Lines> {
    *SHARED.get_or_init(|| {
        let lines: &'static Lines = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("lines".into());
        let write = move || {
            // A line may start this thread before the main thread blocks the signals.
            stop::block();
            lines.write(write_to_stderr);
        };
        thread.spawn(write).ok().map(|_| lines)
    })
}

/// Writes without the lock of `std::io::Stderr`. A panic takes that lock for its message, and would have to wait for this write.
fn write_to_stderr(bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(io::stderr().as_fd(), bytes)?)
}

struct Lines {
    began: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    /// Lines dropped after the text.
    lost: u64,
    repeats: Repeats,
    /// True while the thread writes text that it took out.
    writing: bool,
    /// Number of pieces written.
    pieces: u64,
    /// A core that the thread keeps off.
    avoid: Option<usize>,
}

impl State {
    fn push(&mut self, line: &str) {
        // One call makes one line, even if the text of others in it contains line breaks.
        let line = line.replace(['\n', '\r'], " ");
        if self.lost > 0 || self.text.len() + line.len() > LINES_MAX {
            self.lost += 1;
        } else {
            self.text.extend_from_slice(format!("doozerd: {line}\n").as_bytes());
        }
    }

    fn is_done(&self) -> bool {
        self.text.is_empty() && self.lost == 0 && !self.writing
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { began: Instant::now(), state: Mutex::default(), changed: Condvar::new() }
    }
}

impl Lines {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves nothing half done in the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn say(&self, class: Class, line: &str) {
        let mut state = self.state();
        if state.repeats.allows(self.now_ms(), class, line) {
            state.push(line);
        }
        // Wake the thread for a counted line too: it must know when to log the count.
        self.changed.notify_all();
    }

    fn finish(&self) {
        let began = Instant::now();
        let mut state = self.state();
        for line in state.repeats.end(self.now_ms(), true) {
            state.push(&line);
        }
        self.changed.notify_all();
        let mut before = (state.pieces, Instant::now());
        while !state.is_done() && before.1.elapsed() < PATIENCE && began.elapsed() < PATIENCE_IN_ALL {
            state = self.changed.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner).0;
            if state.pieces != before.0 {
                before = (state.pieces, Instant::now());
            }
        }
    }

    /// Writes lines, for ever. `write` takes the first bytes of its argument and returns how many.
    fn write(&self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        let mut lost = 0;
        loop {
            let (text, lost_behind) = self.take();
            if lost == 0 || self.write_all(&said_of(lost), &mut write) == 0 {
                lost = self.write_all(&text, &mut write);
            } else {
                lost += lines_of(&text);
            }
            lost += lost_behind;
            if lost_behind > 0 && self.write_all(&said_of(lost), &mut write) == 0 {
                lost = 0;
            }
            self.state().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for something to write, and takes it: the text, and the number of lines dropped after it.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut state = self.state();
        loop {
            if let Some(core) = state.avoid.take() {
                pin::keep_off(core);
            }
            let now = self.now_ms();
            for line in state.repeats.end(now, false) {
                state.push(&line);
            }
            if !state.text.is_empty() || state.lost > 0 {
                state.writing = true;
                return (std::mem::take(&mut state.text), std::mem::take(&mut state.lost));
            }
            state = match state.repeats.due_ms() {
                Some(due) => {
                    let rest = Duration::from_millis(due.saturating_sub(now).max(1));
                    self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Writes text; returns how many of its lines could not be written.
    fn write_all(&self, mut text: &[u8], write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> u64 {
        while !text.is_empty() {
            match write(&text[..text.len().min(PIECE)]) {
                Ok(written) if written > 0 => {
                    text = &text[written..];
                    self.state().pieces += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares stderr has made it non-blocking; stderr may take bytes again soon.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                _ => return lines_of(text),
            }
        }
        0
    }
}

fn lines_of(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn said_of(lost: u64) -> Vec<u8> {
    let lines = if lost == 1 { "1 line was".into() } else { format!("{lost} lines were") };
    format!("doozerd: {lines} lost because stderr did not take them\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Returns lines whose writer hands over each piece and waits to learn the outcome of its write.
    fn lines() -> (&'static Lines, mpsc::Receiver<String>, mpsc::Sender<io::Result<()>>) {
        let lines: &'static Lines = Box::leak(Box::default());
        let (piece, pieces) = mpsc::channel();
        let (outcome, outcomes) = mpsc::channel::<io::Result<()>>();
        std::thread::spawn(move || {
            lines.write(|bytes| {
                // The test is over if nobody receives.
                drop(piece.send(String::from_utf8_lossy(bytes).into_owned()));
                outcomes
                    .recv()
                    .unwrap_or_else(|_| {
                        loop {
                            std::thread::park()
                        }
                    })
                    .map(|()| bytes.len())
            });
        });
        (lines, pieces, outcome)
    }

    /// A stderr that takes nothing must neither delay callers nor fill the memory, and the log must say where lines are missing.
    #[test]
    fn who_speaks_waits_for_stderr() {
        let (lines, pieces, outcome) = lines();
        lines.say(Class::Own, "first");
        assert_eq!(pieces.recv().unwrap(), "doozerd: first\n");
        // That write does not end. The words consist of letters, so that each is a kind of its own.
        let word = |i: usize| {
            format!("{}{} {}", char::from(b'a' + u8::try_from(i % 26).unwrap()), "x".repeat(i / 26), "y".repeat(8000))
        };
        (0..100).for_each(|i| lines.say(Class::Own, &word(i)));
        let (text, lost) = {
            let state = lines.state();
            (String::from_utf8(state.text.clone()).unwrap(), state.lost)
        };
        assert!(text.len() <= LINES_MAX + 100 && lost > 0, "{} bytes, {lost} lost", text.len());
        assert_eq!(text.lines().count() as u64 + lost, 100);
        let began = Instant::now();
        lines.finish();
        assert!(began.elapsed() < 10 * PATIENCE_IN_ALL, "the end waits for ever");
        // stderr takes lines again.
        let mut said = String::new();
        while !said.contains("lost because") {
            outcome.send(Ok(())).unwrap();
            said += &pieces.recv().unwrap();
        }
        assert_eq!(said, text + &format!("doozerd: {lost} lines were lost because stderr did not take them\n"));
    }

    /// A log on a full disk refuses lines: they are counted until one is taken.
    #[test]
    fn a_refused_line_is_lost_without_a_word() {
        let (lines, pieces, outcome) = lines();
        lines.say(Class::Own, "one");
        assert_eq!(pieces.recv().unwrap(), "doozerd: one\n");
        outcome.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        lines.say(Class::Own, "two");
        assert_eq!(pieces.recv().unwrap(), "doozerd: 1 line was lost because stderr did not take them\n");
        outcome.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        assert_eq!(pieces.recv().unwrap(), "doozerd: 1 line was lost because stderr did not take them\n");
        outcome.send(Ok(())).unwrap();
        assert_eq!(pieces.recv().unwrap(), "doozerd: two\n");
        outcome.send(Ok(())).unwrap();
        lines.finish();
        assert!(lines.state().is_done());
    }

    /// The last lines before the end must come out, whichever thread logs them.
    #[test]
    fn the_last_line_is_lost_at_the_end() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines: &'static Lines = Box::leak(Box::default());
        let to = Arc::clone(&written);
        std::thread::spawn(move || {
            lines.write(|bytes| {
                to.lock().unwrap().extend_from_slice(&bytes[..1]);
                Ok(1)
            });
        });
        (0..5).for_each(|_| lines.say(Class::Own, "fatal: the disk"));
        lines.finish();
        let said = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(said.matches("doozerd: fatal: the disk\n").count(), 3, "{said}");
        assert!(said.ends_with("doozerd: 2 times more within 10 s, this or its like: fatal: the disk\n"), "{said}");
    }
}
