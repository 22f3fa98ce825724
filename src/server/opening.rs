//! Watches the disk while the data directory is opened.
//!
//! The calls of the file system block the server's only thread then. If the disk does not answer, that thread cannot say so: this
//! one does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::StartError;
use crate::limits::DISK_SAID_MS;

/// How often the thread looks.
const PAUSE: Duration = Duration::from_millis(DISK_SAID_MS / 4);

/// Watches until it is dropped.
pub struct Opening {
    shared: Arc<Shared>,
    /// The thread ends when the sender is dropped.
    _ends: mpsc::Sender<()>,
}

#[derive(Default)]
struct Shared {
    /// How many calls have returned.
    returned: AtomicU64,
    /// The server waits for something other than the disk.
    elsewhere: AtomicBool,
}

/// Until it is dropped, the server waits for something other than the disk.
pub struct Elsewhere<'a>(&'a Shared);

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        self.0.returned.fetch_add(1, Ordering::Relaxed);
        self.0.elsewhere.store(false, Ordering::Relaxed);
    }
}

impl Opening {
    /// Starts to watch. `say` gets a line for the operator when no call has returned for [`DISK_SAID_MS`], and another one when
    /// calls return again.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn watch(dir: &Path, say: impl Fn(&str) + Send + 'static) -> Result<Opening, StartError> {
        let (ends, ended) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let (watched, dir) = (Arc::clone(&shared), dir.display().to_string());
        let watch = move || {
            let (mut seen, mut since, mut said) = (0, Instant::now(), false);
            while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let returned = watched.returned.load(Ordering::Relaxed);
                if returned != seen || watched.elsewhere.load(Ordering::Relaxed) {
                    if said {
                        say(&format!("the disk works again after {} s: {dir}", since.elapsed().as_secs()));
                    }
                    (seen, since, said) = (returned, Instant::now(), false);
                } else if !said && since.elapsed() >= Duration::from_millis(DISK_SAID_MS) {
                    said = true;
                    say(&format!(
                        "the disk is stuck: a read, write or sync of the data directory {dir} has not ended for 1 s; the server \
                         starts when the disk answers"
                    ));
                }
            }
        };
        let thread = std::thread::Builder::new().name("opening".into());
        thread.spawn(watch).map_err(|e| StartError::no_thread(&e))?;
        Ok(Opening { shared, _ends: ends })
    }

    /// A call of the file system has returned.
    pub fn returned(&self) {
        self.shared.returned.fetch_add(1, Ordering::Relaxed);
    }

    /// The server waits for something other than the disk, or for a large file.
    pub fn elsewhere(&self) -> Elsewhere<'_> {
        self.shared.elsewhere.store(true, Ordering::Relaxed);
        Elsewhere(&self.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> (Opening, mpsc::Receiver<String>) {
        let (lines, said) = mpsc::channel();
        let say = move |line: &str| lines.send(line.to_owned()).expect("somebody reads");
        (Opening::watch(Path::new("/data/here"), say).expect("a thread"), said)
    }

    /// Without the thread the operator of a stuck disk would see a server that says nothing.
    #[test]
    fn a_disk_that_does_not_answer_is_passed_over_in_silence() {
        let (opening, said) = watched();
        let line = said.recv().unwrap();
        assert!(line.starts_with("the disk is stuck") && line.contains("/data/here"), "{line}");
        opening.returned();
        let line = said.recv().unwrap();
        assert!(line.starts_with("the disk works again") && line.contains("/data/here"), "{line}");
        // Once for each time.
        assert!(said.recv().unwrap().starts_with("the disk is stuck"));
        drop(opening);
        assert_eq!(said.iter().count(), 0, "the thread has ended");
    }

    /// A node may wait for its cluster for days.
    #[test]
    fn a_node_that_waits_for_others_blames_its_disk() {
        let (opening, said) = watched();
        let elsewhere = opening.elsewhere();
        let quiet = Duration::from_millis(2 * DISK_SAID_MS);
        assert_eq!(said.recv_timeout(quiet), Err(RecvTimeoutError::Timeout));
        drop(elsewhere);
        assert!(said.recv().unwrap().starts_with("the disk is stuck"));
    }
}
