//! What a stopping server waits for, and how long.
//!
//! The server waits only for work that makes progress: it gives each of the three kinds below up once that has made none for its
//! patience. So a client that does not read, or a write that no majority can commit, delays the end no longer than that.

use std::time::{Duration, Instant};

use super::Shell;

/// A write of the log that does not end: the disk may be slow, or stuck.
const DISK: Duration = Duration::from_secs(3);
/// Mutations that do not commit, and a hand-over that does not happen. The longest time that a follower waits for its leader is
/// added: another node may be about to lead.
const CLUSTER: Duration = Duration::from_millis(100);
/// Answers of which no client takes another byte.
const CLIENTS: Duration = Duration::from_millis(400);
/// The longest wait in all, even with progress: a client could take a byte now and then for ever.
const ALL: Duration = Duration::from_secs(8);
/// Time between two checks.
const LOOK: Duration = Duration::from_millis(5);

/// Tracks progress: the last position, and the time at which it was reached.
struct Watch<T> {
    at: Option<T>,
    since: Instant,
}

impl<T: PartialEq> Watch<T> {
    fn new(now: Instant) -> Watch<T> {
        Watch { at: None, since: now }
    }

    /// Returns whether the position has changed within `patience`; `at` is the present position.
    fn moves(&mut self, at: T, now: Instant, patience: Duration) -> bool {
        if self.at.as_ref() != Some(&at) {
            (self.at, self.since) = (Some(at), now);
        }
        now.saturating_duration_since(self.since) < patience
    }
}

/// Waits until all work is finished or given up, at most 8 s.
pub async fn finish(shell: &Shell) {
    let began = Instant::now();
    let (mut disk, mut cluster, mut clients) = (Watch::new(began), Watch::new(began), Watch::new(began));
    loop {
        let now = Instant::now();
        let left = shell.replica.borrow().unfinished();
        let disk = left.writing && disk.moves(shell.writes.get(), now, DISK);
        let cluster = (left.mutations > 0 || left.leads)
            && cluster.moves((left.mutations, left.applied, left.term), now, CLUSTER + 2 * shell.election);
        let clients = left.output > 0 && clients.moves(shell.taken.get(), now, CLIENTS);
        // Let the last frames to the peers leave.
        let peers = shell.sending.get() > 0 && !left.is_anything() && now < began + CLIENTS;
        if (disk || cluster || clients || peers) && now < began + ALL {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        if left.is_anything() {
            shell.say(&format!(
                "left unfinished: writes of clients that were not committed: {}; bytes of answers that clients did not take: {}{}",
                left.mutations,
                left.output,
                if left.writing { "; a write of the log that did not end" } else { "" },
            ));
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slow progress must not be given up, and a standstill must not be waited for.
    #[test]
    fn patience_is_for_the_whole_and_not_for_a_step() {
        let began = Instant::now();
        let mut watch = Watch::new(began);
        let at = |n: u32| began + n * CLIENTS / 2;
        assert!((0..20).all(|n| watch.moves(n, at(n), CLIENTS)));
        assert!(watch.moves(19, at(20), CLIENTS));
        assert!(!watch.moves(19, at(21), CLIENTS));
        assert!(watch.moves(20, at(22), CLIENTS), "it gets on again");
    }
}
