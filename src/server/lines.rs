//! Lines for the operator: a bounded buffer, and a thread of its own that writes it to stderr.
//!
//! stderr may be a pipe that nobody reads, or a file on a disk that hangs, and a write to it then takes for ever. So nobody who
//! says a line waits for it. What the buffer cannot take is counted, and the count is said when stderr takes lines again. What
//! is said too often is counted as well: see `repeats`.
//!
//! The thread is started before the server pins itself to its core, since a thread starts on the cores of the one that starts
//! it; and it keeps off that core, if it may use another.
//!
//! Invariants:
//! * the lock is never held during a write;
//! * after the first line that was lost, all are lost until the buffer was taken: so the count stands where they are missing.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::repeats::Repeats;
use super::{StartError, pin};
use crate::limits::LINES_MAX;

/// How long the end of the process waits for stderr to take another piece.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long it waits for that in all.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(1);
/// Time between two attempts to write to a stderr that would block.
const RETRY: Duration = Duration::from_millis(20);
/// Bytes of one write: what a pipe takes whole.
const PIECE: usize = 4096;

/// Says a line on stderr, without waiting for it: see [`finish`].
pub fn say(line: &str) {
    match shared() {
        Some(lines) => lines.say(line),
        // No thread could be made. The server does not start then; this line says so.
        None => drop(write_to_stderr(format!("doozerd: {line}\n").as_bytes())),
    }
}

/// Says all lines of a text, as [`say`] does, however often they were said.
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
/// If the system refuses another thread.
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

/// Gives stderr a short time to take what was said; to be called before the process ends.
pub fn finish() {
    // If nothing was said, there is no thread to start for it.
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
        thread.spawn(move || lines.write(write_to_stderr)).ok().map(|_| lines)
    })
}

/// Writes without the lock of `std::io::Stderr`: a panic, whose message takes that lock, would wait for this write.
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
    /// Lines that did not fit behind the text.
    lost: u64,
    repeats: Repeats,
    /// The text that was taken out is being written.
    writing: bool,
    /// Pieces that were written.
    pieces: u64,
    /// A core to keep off.
    avoid: Option<usize>,
}

impl State {
    fn push(&mut self, line: &str) {
        // A line of the buffer is one line of the log, whatever others' words are in it.
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
        // Nothing is left half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn say(&self, line: &str) {
        let mut state = self.state();
        if state.repeats.allows(self.now_ms(), line) {
            state.push(line);
        }
        // Also for a line that is counted: the thread has to know when the count is due.
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

    /// Writes what is said, for ever. `write` takes the front of some bytes, and says of how many.
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

    /// Waits for something to write, and takes it: text, and the number of lines that were lost behind it.
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
                // Whoever made it so that it does not block shares it with this process: it may be free soon.
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

    /// Lines with a writer that hands each piece over and then waits until it is told how it ended.
    fn lines() -> (&'static Lines, mpsc::Receiver<String>, mpsc::Sender<io::Result<()>>) {
        let lines: &'static Lines = Box::leak(Box::default());
        let (piece, pieces) = mpsc::channel();
        let (outcome, outcomes) = mpsc::channel::<io::Result<()>>();
        std::thread::spawn(move || {
            lines.write(|bytes| {
                // The test has ended when nobody takes it.
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

    /// A stderr that takes nothing must neither hold up who speaks nor fill the memory; and what was lost has to be said where
    /// it is missing.
    #[test]
    fn who_speaks_waits_for_stderr() {
        let (lines, pieces, outcome) = lines();
        lines.say("first");
        assert_eq!(pieces.recv().unwrap(), "doozerd: first\n");
        // The write of that does not end. Letters, so that each is a kind of its own.
        let word = |i: usize| {
            format!("{}{} {}", char::from(b'a' + u8::try_from(i % 26).unwrap()), "x".repeat(i / 26), "y".repeat(8000))
        };
        (0..100).for_each(|i| lines.say(&word(i)));
        let (text, lost) = {
            let state = lines.state();
            (String::from_utf8(state.text.clone()).unwrap(), state.lost)
        };
        assert!(text.len() <= LINES_MAX + 100 && lost > 0, "{} bytes, {lost} lost", text.len());
        assert_eq!(text.lines().count() as u64 + lost, 100);
        let began = Instant::now();
        lines.finish();
        assert!(began.elapsed() < 10 * PATIENCE_IN_ALL, "the end waits for ever");
        // It takes lines again.
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
        lines.say("one");
        assert_eq!(pieces.recv().unwrap(), "doozerd: one\n");
        outcome.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        lines.say("two");
        assert_eq!(pieces.recv().unwrap(), "doozerd: 1 line was lost because stderr did not take them\n");
        outcome.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        assert_eq!(pieces.recv().unwrap(), "doozerd: 1 line was lost because stderr did not take them\n");
        outcome.send(Ok(())).unwrap();
        assert_eq!(pieces.recv().unwrap(), "doozerd: two\n");
        outcome.send(Ok(())).unwrap();
        lines.finish();
        assert!(lines.state().is_done());
    }

    /// Who speaks last before the end, from whatever thread, must be heard.
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
        (0..5).for_each(|_| lines.say("fatal: the disk"));
        lines.finish();
        let said = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(said.matches("doozerd: fatal: the disk\n").count(), 3, "{said}");
        assert!(said.ends_with("doozerd: 2 times more within 10 s, this or its like: fatal: the disk\n"), "{said}");
    }
}
