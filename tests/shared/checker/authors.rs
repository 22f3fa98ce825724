//! Whose the events are that do not say it: deletions, NOPs, and SETs of values without a name.
//!
//! Of such a mutation is known between which revisions its own has to be: after all that were there before it was called, before all
//! that were called after its answer, and in its place among those of its connection. Of an event is known what it was applied to, so
//! whether a compare-and-set can be it. That makes a graph, of mutations and events that may be one; and it has to be possible
//! that each acknowledged mutation has an event to itself, and each event a mutation. (If the one is possible, and the other, then both
//! at once are: Mendelsohn and Dulmage.) Where a mutation can be only one event, it is this.

use std::collections::{BTreeMap, VecDeque};

use super::calls::{Mutation, Outcome};
use super::model::{Body, Kind, PathId};
use super::story::{About, Fault};
use super::{Checker, Conn};

/// Mutations and events of the same content.
#[derive(Default)]
struct Group {
    mutations: Vec<u32>,
    /// Revision, and what it was applied to.
    events: Vec<(i64, i64)>,
}

/// Between which revisions a mutation has to be.
#[derive(Clone, Copy)]
struct Window {
    after: i64,
    until: i64,
}

impl Checker {
    /// Finds the authors of all events that do not tell theirs.
    pub(super) fn find_authors(&mut self) -> Result<(), Fault> {
        let windows = self.windows();
        let mut groups: BTreeMap<(PathId, Kind, Body), Group> = BTreeMap::new();
        for (id, mutation) in (0..).zip(&self.mutations) {
            let there = matches!(mutation.outcome, Outcome::Done(_) | Outcome::Open | Outcome::Unknown);
            if !mutation.is_named && mutation.found.is_none() && there {
                groups.entry((mutation.path, mutation.kind, mutation.body)).or_default().mutations.push(id);
            }
        }
        for rev in 1..=self.model.solid() {
            let event = *self.model.event(rev).expect("it is before the first gap");
            if event.author.is_some() {
                continue;
            }
            let group = match groups.get_mut(&(event.path, event.kind, event.body)) {
                Some(group) => group,
                None if self.is_foreign(event.path) => continue,
                None => return Err(Fault::new(format!("nobody can have made revision {rev}")).and(About::Event(rev))),
            };
            group.events.push((rev, self.model.state(event.path, rev - 1).rev()));
        }
        for ((path, ..), group) in groups {
            self.match_group(path, &group, &windows)?;
        }
        Ok(())
    }

    /// Of each mutation.
    fn windows(&self) -> Vec<Window> {
        let last = self.model.solid();
        // What mutations were called after this one, or at any later time: the least of their revisions.
        let mut least = vec![last + 1; self.mutations.len() + 1];
        for (id, mutation) in self.mutations.iter().enumerate().rev() {
            least[id] = least[id + 1].min(mutation.found.unwrap_or(i64::MAX));
        }
        let mut windows: Vec<Window> = Vec::with_capacity(self.mutations.len());
        let mut latest: BTreeMap<usize, i64> = BTreeMap::new();
        for mutation in &self.mutations {
            let Mutation { conn: Conn(conn), floor, answered_at, .. } = mutation;
            let after = latest.get(conn).copied().unwrap_or(0).max(*floor);
            let mut until = last;
            if let Outcome::Done(_) = mutation.outcome {
                let later = self.mutations.partition_point(|other| other.asked_at <= *answered_at);
                until = least[later] - 1;
            }
            if let Some(found) = mutation.found {
                latest.insert(*conn, found);
            }
            windows.push(Window { after, until });
        }
        let mut next: BTreeMap<usize, i64> = BTreeMap::new();
        for (mutation, window) in self.mutations.iter().zip(&mut windows).rev() {
            let Conn(conn) = mutation.conn;
            window.until = next.get(&conn).map_or(window.until, |next| window.until.min(next - 1));
            if let Some(found) = mutation.found {
                next.insert(conn, found);
            }
        }
        windows
    }

    fn match_group(&mut self, path: PathId, group: &Group, windows: &[Window]) -> Result<(), Fault> {
        let Group { mutations, events } = group;
        let (mut acknowledged, mut by_mutation) = (Vec::new(), Vec::new());
        let mut by_event = vec![Vec::new(); events.len()];
        for (place, id) in mutations.iter().enumerate() {
            let mutation = &self.mutations[*id as usize];
            let Window { after, until } = windows[*id as usize];
            let begin = events.partition_point(|(rev, _)| *rev <= after);
            let end = events.partition_point(|(rev, _)| *rev <= until).max(begin);
            let fits = |at: &usize| mutation.rev == -1 || events[*at].1 <= mutation.rev;
            let edges: Vec<usize> = (begin..end).filter(fits).collect();
            edges.iter().for_each(|at| by_event[*at].push(place));
            if let Outcome::Done(_) = mutation.outcome {
                acknowledged.push(*id);
                by_mutation.push(edges);
            }
        }
        if let Err(at) = cover(&by_mutation, events.len()) {
            let id = acknowledged[at];
            let Window { after, until } = windows[id as usize];
            let fault = Fault::new(format!(
                "acknowledged, and not in the history, where it has to be after revision {after} and not after {until}"
            ));
            let near = events.iter().filter(|(rev, _)| (after..=until).contains(rev)).take(5);
            let fault = near.fold(fault.and(About::Mutation(id)), |fault, (rev, _)| fault.and(About::Event(*rev)));
            return Err(fault.and(About::Path(path, until)));
        }
        if !self.is_foreign(path)
            && let Err(at) = cover(&by_event, mutations.len())
        {
            let (rev, before) = events[at];
            let what =
                format!("nobody can have made revision {rev}, which was applied to what was of revision {before}");
            let fault = Fault::new(what).and(About::Event(rev)).and(About::Path(path, rev));
            let could = by_event[at].iter().take(5).map(|place| About::Mutation(mutations[*place]));
            return Err(could.fold(fault, Fault::and));
        }
        for (id, edges) in acknowledged.iter().zip(&by_mutation) {
            if let [only] = edges[..] {
                self.mutations[*id as usize].found = Some(events[only].0);
            }
            self.statistics.matched += 1;
        }
        Ok(())
    }

    /// With what `find_authors` has found out: those of one connection are in their order, and what was called after another's answer
    /// comes after it, also a SYNC.
    pub(super) fn in_order(&self) -> Result<(), Fault> {
        let mut latest: BTreeMap<usize, (u32, i64)> = BTreeMap::new();
        for (id, mutation) in (0..).zip(&self.mutations) {
            let (Some(rev), Conn(conn)) = (mutation.found, mutation.conn) else { continue };
            if let Some((earlier, at)) = latest.insert(conn, (id, rev))
                && at >= rev
            {
                let what = format!("revisions {at} and {rev} are of one connection, in the wrong order");
                return Err(Fault::new(what).and(About::Mutation(earlier)).and(About::Mutation(id)));
            }
        }
        let is_done = |mutation: &&Mutation| matches!(mutation.outcome, Outcome::Done(_));
        let mut done: Vec<(u64, i64, u32)> = (0..)
            .zip(&self.mutations)
            .filter(|(_, mutation)| is_done(mutation))
            .filter_map(|(id, mutation)| Some((mutation.answered_at, mutation.found?, id)))
            .collect();
        done.sort_unstable();
        // The highest revision that was acknowledged so far, and whose it is.
        let highest = |done: &mut std::iter::Peekable<std::vec::IntoIter<_>>, high: &mut (i64, u32), asked_at: u64| {
            while let Some((_, rev, id)) = done.next_if(|(answered_at, ..): &(u64, i64, u32)| *answered_at < asked_at) {
                *high = (*high).max((rev, id));
            }
        };
        let (mut before, mut high) = (done.clone().into_iter().peekable(), (0, 0));
        for (id, mutation) in (0..).zip(&self.mutations) {
            highest(&mut before, &mut high, mutation.asked_at);
            if let Some(rev) = mutation.found
                && rev <= high.0
            {
                let what =
                    format!("it is revision {rev}, and revision {} was acknowledged before it was called", high.0);
                return Err(Fault::new(what).and(About::Mutation(id)).and(About::Mutation(high.1)));
            }
        }
        let mut syncs: Vec<_> = self.syncs.iter().collect();
        syncs.sort_unstable_by_key(|sync| sync.asked_at);
        let (mut before, mut high) = (done.into_iter().peekable(), (0, 0));
        for sync in syncs {
            highest(&mut before, &mut high, sync.asked_at);
            if sync.rev < high.0 {
                let (conn, called) = (sync.conn, sync.called);
                let verb = Some(doozer::wire::Verb::Sync);
                let what = format!("SYNC says {}, and revision {} was there before it was asked", sync.rev, high.0);
                let asked = super::story::Asked { conn, verb, called, answered: None };
                return Err(Fault::new(what).and(About::Asked(asked)).and(About::Mutation(high.1)));
            }
        }
        Ok(())
    }
}

/// Gives each on the left one of those on the right that it has an edge to, and none to two.
///
/// # Errors
/// One on the left for which none can be had.
fn cover(edges: &[Vec<usize>], right: usize) -> Result<(), usize> {
    let mut taken: Vec<Option<usize>> = vec![None; right];
    let mut seen = vec![usize::MAX; right];
    // From where on the left one on the right was reached.
    let mut from = vec![0; right];
    let mut queue = VecDeque::new();
    let mut holds: Vec<Option<usize>> = vec![None; edges.len()];
    for start in 0..edges.len() {
        queue.clear();
        queue.push_back(start);
        let free = 'search: loop {
            let Some(left) = queue.pop_front() else { return Err(start) };
            for at in &edges[left] {
                if seen[*at] == start {
                    continue;
                }
                (seen[*at], from[*at]) = (start, left);
                match taken[*at] {
                    None => break 'search *at,
                    Some(other) => queue.push_back(other),
                }
            }
        };
        // Along the way that was found, each gives up what it has for what was reached from it.
        let mut at = Some(free);
        while let Some(here) = at {
            let left = from[here];
            taken[here] = Some(left);
            at = holds[left].replace(here);
            if left == start {
                break;
            }
        }
    }
    Ok(())
}
