//! The state machine: what the log's entries do, the same on every server.
//!
//! Its state is the store, and for each server the last of its mutations that was applied: a parcel that comes twice,
//! because a server sent it again to a new leader, is applied once. Nothing here depends on time, on the clients that
//! are connected, or on how long a history this server keeps.

use std::collections::BTreeMap;

use super::batch::{self, BadBatch, Origin};
use crate::store::{Refused, Store};

/// The last mutation of a server that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The boot of the server that sent it.
    pub epoch: u64,
    /// Its sequence number in that boot.
    pub seq: u64,
}

/// The replicated state.
#[derive(Debug)]
pub struct Machine {
    /// The tree, its history and its waiters.
    pub store: Store,
    seen: BTreeMap<u64, Seen>,
}

impl Machine {
    /// A machine around a store, which knows what it has seen of each server.
    pub fn new(store: Store, seen: BTreeMap<u64, Seen>) -> Machine {
        Machine { store, seen }
    }

    /// What was seen of each server, by raft id.
    pub fn seen(&self) -> &BTreeMap<u64, Seen> {
        &self.seen
    }

    /// Applies a batch: `each` gets the outcome of every command that was not seen before, in order.
    ///
    /// # Errors
    /// When the bytes are not a batch that this version can read. The checksum is verified before anything is
    /// applied.
    pub fn apply(
        &mut self,
        batch: &[u8],
        mut each: impl FnMut(&mut Store, Origin, u64, Result<i64, Refused>),
    ) -> Result<(), BadBatch> {
        let Machine { store, seen } = self;
        batch::decode(batch, |origin, seq, command| {
            let last = seen.entry(origin.node).or_insert(Seen { epoch: 0, seq: 0 });
            if origin.epoch < last.epoch || (origin.epoch == last.epoch && seq <= last.seq) {
                return;
            }
            *last = Seen { epoch: origin.epoch, seq };
            let outcome = store.apply(command);
            each(store, origin, seq, outcome);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::batch::Gather;
    use crate::store::Mutation;

    /// A server that cannot know whether its parcel arrived sends it again: a NOP makes a revision each time that it
    /// is applied, so applying it twice would show.
    #[test]
    fn a_parcel_sent_twice_is_applied_once() {
        let mut machine = Machine::new(Store::new(10), BTreeMap::new());
        let mut gather = Gather::new(Origin { node: 1, epoch: 5 });
        gather.push(&Mutation::Nop);
        gather.push(&Mutation::Nop);
        let batch = gather.take().unwrap();
        let mut outcomes = Vec::new();
        for _ in 0..2 {
            machine.apply(&batch, |_, _, seq, outcome| outcomes.push((seq, outcome))).unwrap();
        }
        assert_eq!(outcomes, [(1, Ok(1)), (2, Ok(2))]);
        assert_eq!(machine.store.revision(), 2);
    }

    /// A boot begins to count anew; what an earlier boot still has on the way must not be taken for new.
    #[test]
    fn an_earlier_boot_is_not_heard_again() {
        let mut machine = Machine::new(Store::new(10), BTreeMap::new());
        let mut apply = |epoch: u64| {
            let mut gather = Gather::new(Origin { node: 1, epoch });
            gather.push(&Mutation::Nop);
            let mut applied = 0;
            machine.apply(&gather.take().unwrap(), |_, _, _, _| applied += 1).unwrap();
            applied
        };
        assert_eq!([apply(1), apply(2), apply(1), apply(3)], [1, 1, 0, 1]);
    }
}
