//! Decides whether this node has caught up: it has applied everything that was committed when it came up.
//!
//! A restarted node serves reads at once, from its own disk's state. The cluster can rely on the node only later, when it has the
//! entries that it missed. So after its start the node asks the leader for the index of the last committed entry (a read index, as
//! SYNC does), and has caught up when it has applied that entry. Until then it tells the others that it is behind (`FLAG_BEHIND`):
//! nobody hands leadership to it, and a stopping node waits for it ([`stewardship`](super::stewardship)).

use super::Replica;
use super::introduce::Introduced;

/// The node's progress since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// The node does not know yet how far the others are.
    Unknown,
    /// The node asked the leader, with this context, at this time.
    Asked { context: u64, at_ms: u64 },
    /// The node has to apply this entry. `said`: the operator was told.
    Behind { index: u64, since_ms: u64, said: bool },
    /// The node has caught up.
    Ready,
}

impl Replica {
    /// Returns whether this node has applied everything that was committed when it came up.
    pub fn has_caught_up(&self) -> bool {
        self.readiness == Readiness::Ready
    }

    /// Returns whether the leader has named an entry that this node has to apply before it has caught up.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.readiness, Readiness::Behind { .. })
    }

    /// Returns whether to tell the operator that the node is ready. Either it serves clients and has caught up, or it serves reads
    /// only, because it reaches no majority or its log is full.
    pub fn is_announced(&self) -> bool {
        self.is_stuck() || (self.serving() && (self.has_caught_up() || self.closed))
    }

    /// Asks the leader, and logs when this node has caught up.
    pub(super) fn see_to_readiness(&mut self) {
        let now = self.now_ms;
        match self.readiness {
            Readiness::Ready => {}
            Readiness::Asked { at_ms, .. } if now.saturating_sub(at_ms) < self.config.election_ms => {}
            Readiness::Unknown | Readiness::Asked { .. } => {
                self.readiness = Readiness::Unknown;
                // A leader answers once it has committed an entry of its own.
                let me = self.config.raft_id;
                let answers = self.leader().is_some_and(|leader| leader != me || self.group.leads());
                if answers && self.introduced == Introduced::Yes && !self.closed {
                    let context = self.next_context;
                    self.next_context += 1;
                    self.group.read_index(self.origin, context);
                    self.readiness = Readiness::Asked { context, at_ms: now };
                }
            }
            Readiness::Behind { index, .. } if self.group.applied() >= index => {
                self.readiness = Readiness::Ready;
                if !self.is_alone() {
                    let rev = self.machine.store.revision();
                    self.lines.push(format!("caught up with the cluster at revision {rev}"));
                }
            }
            Readiness::Behind { index, since_ms, said: false }
                if now.saturating_sub(since_ms) >= self.config.election_ms =>
            {
                self.readiness = Readiness::Behind { index, since_ms, said: true };
                let (applied, rev) = (self.group.applied(), self.machine.store.revision());
                self.lines.push(format!(
                    "catching up: entry {applied} of {index} is applied; reads are served meanwhile, as of revision {rev}"
                ));
            }
            Readiness::Behind { .. } => {}
        }
    }

    /// The leader has answered with the index of the last committed entry.
    pub(super) fn learn_committed(&mut self, context: u64, index: u64) {
        if matches!(self.readiness, Readiness::Asked { context: asked, .. } if asked == context) {
            self.readiness = Readiness::Behind { index, since_ms: self.now_ms, said: false };
        }
    }
}
