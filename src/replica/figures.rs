//! What STATS tells: figures of the state as it is, and what the [`stages`](super::stages) of commits have counted.

use super::Replica;
use crate::stats::Stats;

impl Replica {
    /// What this node measures of itself. Revisions and indexes are as they are counted, sizes in bytes, times in the unit that
    /// their name ends with.
    pub fn stats(&mut self) -> Stats {
        let histograms = self.stages.histograms();
        let store = &self.machine.store;
        let members = &self.machine.members;
        let figures = [
            ("uptime_ms", self.now_ms),
            ("raft_id", self.config.raft_id),
            ("boot_epoch", self.config.epoch),
            ("leader_raft_id", self.leader().unwrap_or(0)),
            ("term", self.group.term()),
            ("members", members.voters().len() as u64),
            ("standbys", members.standbys().len() as u64),
            ("changing_members", u64::from(self.is_changing_members())),
            ("writable", u64::from(!self.is_closed())),
            ("caught_up", u64::from(self.has_caught_up())),
            ("log_write_age_ms", self.disk.write_age_ms(self.now_ms)),
            ("revision", store.revision().unsigned_abs()),
            ("first_revision", store.first_revision().unsigned_abs()),
            ("last_entry", self.group.last_index()),
            ("committed_entry", self.group.committed()),
            ("applied_entry", self.group.applied()),
            ("snapshot_entry", self.snapshots.last()),
            ("snapshot_bytes", self.snapshots.last_bytes()),
            ("log_bytes", self.log.bytes_since(self.snapshots.last())),
            ("connections", self.desk.sessions.count() as u64),
            ("parked_requests", self.desk.parked() as u64),
            ("pending_commands", self.pending.len() as u64),
            ("output_bytes", self.desk.sessions.buffered() as u64),
        ];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        Stats { figures, histograms }
    }
}
