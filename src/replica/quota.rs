//! How many registrations of new nodes each node may bring into the cluster: a bucket of permits for each, which fills slowly.
//!
//! A cluster has few places ([`limits::NODES_MAX`]), and forgets a node that never came only after a while. So no node may fill all of
//! them.

use std::collections::BTreeMap;

use crate::limits;

/// The permits that each node has used lately.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// For each node: the permits in use, and when the last of them began to come back, in milliseconds.
    used: BTreeMap<u64, (u32, u64)>,
}

impl Quota {
    /// Takes a permit for a registration that the node `origin` brings. Returns `false` if `most` are in use.
    pub(super) fn take(&mut self, origin: u64, most: u32, now_ms: u64) -> bool {
        let (used, since) = self.used.entry(origin).or_insert((0, now_ms));
        let back = now_ms.saturating_sub(*since) / limits::REGISTRATION_MS;
        *since = if back >= u64::from(*used) { now_ms } else { *since + back * limits::REGISTRATION_MS };
        *used -= u32::try_from(back).unwrap_or(u32::MAX).min(*used);
        let is_free = *used < most;
        *used += u32::from(is_free);
        // Raft ids of nodes that are gone.
        while self.used.len() > 2 * limits::NODES_MAX {
            self.used.pop_first();
        }
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One node with a flood of joins would take all places of the cluster, and a crash of the bound would take them for ever.
    #[test]
    fn permits_are_used_up_and_come_back_slowly() {
        let mut quota = Quota::default();
        let taken = |quota: &mut Quota, now| (0..100).filter(|_| quota.take(7, 16, now)).count();
        assert_eq!(taken(&mut quota, 0), 16);
        assert!(quota.take(8, 16, 0), "another node has its own");
        assert_eq!(taken(&mut quota, limits::REGISTRATION_MS - 1), 0);
        assert_eq!(taken(&mut quota, 3 * limits::REGISTRATION_MS), 3);
        assert_eq!(taken(&mut quota, 1_000 * limits::REGISTRATION_MS), 16);
    }
}
