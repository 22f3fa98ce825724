//! Decides when to send a snapshot again to a peer that did not take it, and which failures the operator has heard of.
//!
//! A snapshot is hundreds of megabytes, and most reasons for a failure last for a while: the peer's disk is full, or does not
//! answer. So each failure doubles the pause before the next attempt, up to [`PAUSE_MAX_MS`]. The pause ends at once when the peer
//! restarts, or says that it has room again.

use std::collections::{BTreeMap, BTreeSet};

/// The pause after the first failure.
const PAUSE_MIN_MS: u64 = 1_000;
/// The longest pause.
const PAUSE_MAX_MS: u64 = 60_000;

/// The peers that did not take a snapshot, by raft id.
#[derive(Debug, Default)]
pub struct Backoff {
    peers: BTreeMap<u64, Peer>,
}

#[derive(Debug)]
struct Peer {
    /// The boot of the peer in which the snapshot failed.
    epoch: u64,
    /// The next pause.
    pause_ms: u64,
    until_ms: u64,
    /// True while the peer says that it has no room.
    no_room: bool,
    /// The last reason that the operator was told.
    told: String,
}

impl Backoff {
    /// Records that a peer in its boot `epoch` did not take a snapshot. Returns whether the operator should be told.
    pub fn failed(&mut self, peer: u64, epoch: u64, why: &str, now_ms: u64) -> bool {
        let entry = self.entry(peer, epoch, now_ms);
        entry.until_ms = now_ms + entry.pause_ms;
        entry.pause_ms = (2 * entry.pause_ms).min(PAUSE_MAX_MS);
        let is_news = entry.told != why;
        why.clone_into(&mut entry.told);
        is_news
    }

    /// Records a peer's present boot, and whether it has no room for a snapshot.
    pub fn hear(&mut self, peer: u64, epoch: u64, no_room: bool, now_ms: u64) {
        if no_room {
            self.entry(peer, epoch, now_ms).no_room = true;
        } else if let Some(known) = self.peers.get_mut(&peer)
            && (epoch > known.epoch || known.no_room)
        {
            *known = Peer {
                epoch: epoch.max(known.epoch),
                pause_ms: PAUSE_MIN_MS,
                until_ms: now_ms,
                no_room: false,
                told: std::mem::take(&mut known.told),
            };
        }
    }

    /// A peer seen for the first time gets the shortest pause.
    fn entry(&mut self, peer: u64, epoch: u64, now_ms: u64) -> &mut Peer {
        self.peers.entry(peer).or_insert_with(|| Peer {
            epoch,
            pause_ms: PAUSE_MIN_MS,
            until_ms: now_ms + PAUSE_MIN_MS,
            no_room: false,
            told: String::new(),
        })
    }

    /// Records that a peer has taken a snapshot.
    pub fn done(&mut self, peer: u64) {
        self.peers.remove(&peer);
    }

    /// Keeps only the peers for which `keep` returns true.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.peers.retain(|peer, _| keep(*peer));
    }

    /// Returns whether a failure was logged. If so, further attempts are not logged until one succeeds.
    pub fn was_told(&self, peer: u64) -> bool {
        self.peers.get(&peer).is_some_and(|known| !known.told.is_empty())
    }

    /// Returns the peers that get no snapshot now.
    pub fn paused(&self, now_ms: u64) -> BTreeSet<u64> {
        self.peers.iter().filter(|(_, known)| now_ms < known.until_ms).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(backoff: &Backoff, from_ms: u64) -> u64 {
        (0..).find(|ms| backoff.paused(from_ms + ms).is_empty()).unwrap()
    }

    /// A peer whose disk was full got 150 MB every 27 seconds for as long as that lasted.
    #[test]
    fn a_peer_that_cannot_take_a_snapshot_is_sent_it_again_and_again() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for attempt in 0..9 {
            let is_news = backoff.failed(2, 1, "no room", now);
            assert_eq!(is_news, attempt == 0, "it is said once");
            pauses.push(pause(&backoff, now));
            now += 100_000;
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert!(backoff.failed(2, 1, "another reason", now));
        assert_eq!(backoff.paused(now), BTreeSet::from([2]), "others are sent theirs");
        backoff.done(2);
        assert!(backoff.paused(now).is_empty() && !backoff.was_told(2));
    }

    /// A peer that has room again, or has restarted, must not wait for the end of a long pause.
    #[test]
    fn a_peer_that_has_room_again_waits_for_the_end_of_its_pause() {
        for by_boot in [false, true] {
            let mut backoff = Backoff::default();
            for _ in 0..6 {
                backoff.failed(2, 1, "no room", 0);
            }
            backoff.hear(2, 1, true, 10);
            assert_eq!(pause(&backoff, 10), 31_990);
            backoff.hear(2, 1, true, 20);
            assert_eq!(pause(&backoff, 20), 31_980, "it says it again and again");
            backoff.hear(2, if by_boot { 2 } else { 1 }, false, 30);
            assert!(backoff.paused(30).is_empty());
            assert!(backoff.was_told(2), "that it is over is said when it has the snapshot");
            assert!(!backoff.failed(2, 2, "no room", 40));
            assert_eq!(pause(&backoff, 40), 1_000);
        }
    }

    /// A new leader has seen no failure, and hears only that the peer has no room: it tries to send, but not at once.
    #[test]
    fn a_new_leader_believes_nothing() {
        let mut backoff = Backoff::default();
        backoff.hear(2, 1, false, 0);
        assert!(backoff.paused(0).is_empty());
        backoff.hear(2, 1, true, 0);
        assert_eq!(pause(&backoff, 0), 1_000);
        assert!(backoff.failed(2, 1, "no room", 1_000), "it has not said it yet");
    }
}
