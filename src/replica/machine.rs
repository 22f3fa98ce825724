//! The state machine: what the log's entries do, the same on every server.
//!
//! Its state is the store, and for each server the last of its mutations that was applied: a parcel that comes twice,
//! because a server sent it again to a new leader, is applied once. Nothing here depends on time, on the clients that
//! are connected, or on how long a history this server keeps.

use std::collections::BTreeMap;

use super::batch::{self, BadBatch, Command, Origin};
use super::members::{Change, Denied, Members};
use crate::faults::{self, Fault};
use crate::store::{Lookup, Mutation, Refused, Store};

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// By the rules of the store.
    Store(Refused),
    /// By those of the membership.
    Members(Denied),
}

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
    /// Who is in the cluster.
    pub members: Members,
    seen: BTreeMap<u64, Seen>,
}

impl Machine {
    /// A machine around a store, which knows the members and what it has seen of each server.
    pub fn new(mut store: Store, mut members: Members, seen: BTreeMap<u64, Seen>) -> Machine {
        members.find_slots(&mut store);
        Machine { store, members, seen }
    }

    /// The empty state with which every cluster begins.
    pub fn founding(history: u64) -> Machine {
        Machine::new(Store::new(history), Members::founding(), BTreeMap::new())
    }

    /// What was seen of each server, by raft id.
    pub fn seen(&self) -> &BTreeMap<u64, Seen> {
        &self.seen
    }

    /// Goes on with a later state. Those who wait are taken along.
    pub fn succeed(&mut self, later: Machine) {
        self.store.succeed(later.store);
        self.members = later.members;
        self.seen = later.seen;
    }

    /// Applies a batch: `each` gets the outcome of every command that was not seen before, in order. For a registration that is
    /// the raft id. Returns the work of the commands: see [`BATCH_WORK`](crate::limits::BATCH_WORK).
    ///
    /// A command counts only as the next of its origin: one that comes again is dropped, and so is one in front of which
    /// others are missing; the origin sends them again, in order.
    ///
    /// # Errors
    /// When the bytes are not a batch that this version can read. The checksum is verified before anything is
    /// applied.
    pub fn apply(
        &mut self,
        batch: &[u8],
        mut each: impl FnMut(&mut Store, Origin, u64, Result<i64, Rejected>),
    ) -> Result<usize, BadBatch> {
        let Machine { store, members, seen } = self;
        let mut work = 0;
        batch::decode(batch, |origin, seq, command| {
            work += command.work();
            if members.is_retired(origin.node) {
                return;
            }
            let last = seen.entry(origin.node).or_insert(Seen { epoch: 0, seq: 0 });
            let next = if origin.epoch == last.epoch { last.seq + 1 } else { 1 };
            let again = seq < next && !faults::is_armed(Fault::AppliedTwice);
            let early = seq > next && !faults::is_armed(Fault::GapAccepted);
            if origin.epoch < last.epoch || again || early {
                return;
            }
            *last = Seen { epoch: origin.epoch, seq };
            let outcome = match command {
                Command::Store(mutation) => mutate(store, members, mutation),
                Command::Register(r) => match members.register(&r) {
                    Ok(id) => Ok(id.cast_signed()),
                    Err(denied) => Err(Rejected::Members(denied)),
                },
            };
            each(store, origin, seq, outcome);
        })?;
        Ok(work)
    }

    /// Applies a change of the members. Whether it took effect: raft is to be told then.
    pub fn change(&mut self, change: &Change) -> bool {
        let Machine { store, members, seen } = self;
        let gone = match change {
            Change::Remove(id) => members.nodes().get(id).map(|member| member.node),
            _ => None,
        };
        let Some(mut tree) = members.change(change) else { return false };
        // The name service is to name it no more, if it is gone for good.
        if let Some(node) = gone
            && members.nodes().values().all(|member| member.node != node)
            && let Lookup::File { value: cluster, .. } = store.lookup(b"/ctl/name", store.revision())
        {
            tree.push(([b"/ctl/ns/", cluster, b"/", &node].concat(), None));
        }
        if let Change::Remove(id) = change {
            // What still comes from it is dropped for its raft id alone.
            seen.remove(id);
        }
        for (path, value) in tree {
            let path = &path[..];
            let mutation = match &value {
                Some(value) => Mutation::Set { path, rev: -1, value },
                None if matches!(store.lookup(path, store.revision()), Lookup::File { .. }) => {
                    Mutation::Del { path, rev: -1 }
                }
                None => continue,
            };
            // A slot is a file, and what is deleted was found: neither can be refused.
            if let Ok(rev) = store.apply(mutation) {
                members.applied(&mutation, rev);
                members.reopen(path);
            }
        }
        true
    }
}

fn mutate(store: &mut Store, members: &mut Members, mutation: Mutation<'_>) -> Result<i64, Rejected> {
    if let Some(denied) = members.deny(store, &mutation) {
        return Err(Rejected::Members(denied));
    }
    let mut taken = mutation;
    if let Mutation::Set { rev, .. } | Mutation::Del { rev, .. } = &mut taken
        && faults::is_armed(Fault::ComparedOnArrival)
    {
        *rev = -1;
    }
    let rev = store.apply(taken).map_err(Rejected::Store)?;
    members.applied(&mutation, rev);
    Ok(rev)
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
        let mut machine = Machine::founding(10);
        let mut gather = Gather::new(Origin { node: 1, epoch: 5 });
        gather.push(&Mutation::Nop.into());
        gather.push(&Mutation::Nop.into());
        let batch = gather.take().unwrap();
        let mut outcomes = Vec::new();
        for _ in 0..2 {
            machine.apply(&batch, |_, _, seq, outcome| outcomes.push((seq, outcome))).unwrap();
        }
        assert_eq!(outcomes, [(1, Ok(1)), (2, Ok(2))]);
        assert_eq!(machine.store.revision(), 2);
    }

    /// A later parcel may overtake an earlier one on its way to the leader: applied first, it would make the earlier one look
    /// like one that was seen.
    #[test]
    fn a_parcel_that_comes_too_early_is_not_applied() {
        let mut machine = Machine::founding(10);
        let mut gather = Gather::new(Origin { node: 1, epoch: 5 });
        let mut parcel = || {
            gather.push(&Mutation::Nop.into());
            gather.take().unwrap()
        };
        let (first, second) = (parcel(), parcel());
        let mut applied = Vec::new();
        for batch in [&second, &first, &second] {
            machine.apply(batch, |_, _, seq, _| applied.push(seq)).unwrap();
        }
        assert_eq!(applied, [1, 2]);
    }

    /// A boot begins to count anew; what an earlier boot still has on the way must not be taken for new.
    #[test]
    fn an_earlier_boot_is_not_heard_again() {
        let mut machine = Machine::founding(10);
        let mut apply = |epoch: u64| {
            let mut gather = Gather::new(Origin { node: 1, epoch });
            gather.push(&Mutation::Nop.into());
            let mut applied = 0;
            machine.apply(&gather.take().unwrap(), |_, _, _, _| applied += 1).unwrap();
            applied
        };
        assert_eq!([apply(1), apply(2), apply(1), apply(3)], [1, 1, 0, 1]);
    }

    /// A turn applies entries up to a bound of work. If a write with a deep path counted no more than a NOP, a turn would apply many
    /// entries of deep paths and hold up everybody.
    #[test]
    fn applying_counts_the_work_of_the_paths() {
        let mut machine = Machine::founding(10);
        let mut gather = Gather::new(Origin { node: 1, epoch: 5 });
        let deep = "/a".repeat(100);
        for path in ["/a", &deep] {
            gather.push(&Mutation::Set { path: path.as_bytes(), rev: -1, value: b"" }.into());
            gather.push(&Mutation::Del { path: path.as_bytes(), rev: -1 }.into());
        }
        gather.push(&Mutation::Nop.into());
        let work = machine.apply(&gather.take().unwrap(), |_, _, _, _| ()).unwrap();
        assert_eq!(work, 5 + 2 * (deep.len() / crate::limits::WORK_PATH));
    }
}
