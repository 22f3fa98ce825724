//! Who is reached through whom. Each node tells all others which peers it has a link to; from that each knows the shortest path of
//! links to every node. A link counts only when both its ends say that it is there: so a node that died is unreachable as
//! soon as its neighbours have noticed, and what it last said of itself does no harm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::faults::{self, Fault};
use crate::wire::peer::Links;

/// The shortest paths of links to all nodes.
#[derive(Debug)]
pub struct Routes {
    me: u64,
    /// What each node said last, and whether it said so on a link of its own to this node.
    heard: BTreeMap<u64, (Links, bool)>,
    own: Links,
    /// For every node that is reached, the neighbour to which what is for it is handed.
    hops: BTreeMap<u64, u64>,
}

impl Routes {
    /// Of the node `me` in its boot `epoch`, without a link.
    pub fn new(me: u64, epoch: u64) -> Routes {
        let own = Links { node: me, epoch, ..Links::default() };
        Routes { me, heard: BTreeMap::new(), own, hops: BTreeMap::new() }
    }

    /// What this node says of itself.
    pub fn own(&self) -> &Links {
        &self.own
    }

    /// What is known of the others.
    pub fn others(&self) -> impl Iterator<Item = &Links> {
        self.heard.values().map(|(links, _)| links)
    }

    /// What a node says of itself beside its links.
    pub fn flags(&self, node: u64) -> u8 {
        if node == self.me { self.own.flags } else { self.heard.get(&node).map_or(0, |(links, _)| links.flags) }
    }

    /// Returns the last known boot of a node; 0 if none is known.
    pub fn epoch(&self, node: u64) -> u64 {
        self.heard.get(&node).map_or(0, |(links, _)| links.epoch)
    }

    /// This node has links to these peers now, and says this beside. Whether anything changed: the others are to be told then.
    pub fn set_own(&mut self, peers: Vec<u64>, flags: u8) -> bool {
        if self.own.peers == peers && self.own.flags == flags {
            return false;
        }
        self.own.peers = peers;
        self.own.flags = flags;
        self.own.version += 1;
        self.compute();
        true
    }

    /// Another node says which links it has: on its own link to this node if `direct`, otherwise passed on by others. Returns whether
    /// that is news, to be passed on. What a node says itself replaces whatever others have said in its name.
    pub fn hear(&mut self, links: Links, direct: bool) -> bool {
        let epoch = |of: u64| if faults::is_armed(Fault::RestartUnheard) { links.epoch } else { of };
        let known = self.heard.get(&links.node).filter(|(_, known_direct)| *known_direct || !direct);
        let known = known.map(|(known, _)| (epoch(known.epoch), known.version));
        if links.node == self.me || links.node == 0 || known.is_some_and(|known| known >= (links.epoch, links.version))
        {
            return false;
        }
        self.heard.insert(links.node, (links, direct));
        self.compute();
        true
    }

    /// Forgets nodes that are in the cluster no more.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.heard.retain(|node, _| keep(*node));
        self.compute();
    }

    /// The neighbour through which a node is reached; itself, if there is a link to it.
    pub fn next_hop(&self, node: u64) -> Option<u64> {
        self.hops.get(&node).copied()
    }

    /// Whether a path of links leads to it.
    pub fn reaches(&self, node: u64) -> bool {
        node == self.me || self.hops.contains_key(&node)
    }

    fn links(&self, node: u64) -> Option<&Links> {
        if node == self.me { Some(&self.own) } else { self.heard.get(&node).map(|(links, _)| links) }
    }

    /// Breadth first from here, neighbours in the order of their ids: the same links give the same paths.
    fn compute(&mut self) {
        let mut hops = BTreeMap::new();
        let mut seen = BTreeSet::from([self.me]);
        let mut next = VecDeque::from([self.me]);
        while let Some(at) = next.pop_front() {
            let Some(links) = self.links(at) else { continue };
            let peers: BTreeSet<u64> = links.peers.iter().copied().collect();
            for peer in peers {
                // This node knows of its own links best: the other's word may still be on the way.
                let mutual = at == self.me || self.links(peer).is_some_and(|l| l.peers.contains(&at));
                if mutual && seen.insert(peer) {
                    let first = if at == self.me { peer } else { hops[&at] };
                    hops.insert(peer, first);
                    next.push_back(peer);
                }
            }
        }
        self.hops = hops;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(node: u64, version: u64, peers: &[u64]) -> Links {
        Links { node, epoch: 1, version, flags: 0, peers: peers.to_vec() }
    }

    fn hops(routes: &Routes, nodes: &[u64]) -> Vec<Option<u64>> {
        nodes.iter().map(|n| routes.next_hop(*n)).collect()
    }

    /// In a line of five the ends speak through all the others.
    #[test]
    fn a_line_is_walked_from_end_to_end() {
        let mut routes = Routes::new(1, 1);
        assert!(routes.set_own(vec![2], 0));
        for (node, peers) in [(2, [1, 3]), (3, [2, 4]), (4, [3, 5])] {
            assert!(routes.hear(links(node, 1, &peers), false));
        }
        assert_eq!(hops(&routes, &[2, 3, 4, 5]), [Some(2), Some(2), Some(2), None], "5 has not said that it hears 4");
        routes.hear(links(5, 1, &[4]), false);
        assert_eq!(routes.next_hop(5), Some(2));
        routes.set_own(vec![], 0);
        assert_eq!(hops(&routes, &[2, 3, 4, 5]), [None; 4]);
    }

    /// A hub that died still claims its links: nobody may be sent through it.
    #[test]
    fn the_links_of_a_dead_node_lead_nowhere() {
        let mut routes = Routes::new(1, 1);
        routes.set_own(vec![2], 0);
        routes.hear(links(2, 1, &[1, 3]), false);
        routes.hear(links(3, 1, &[2, 4]), false);
        routes.hear(links(4, 1, &[3]), false);
        assert!(routes.reaches(4));
        routes.hear(links(2, 2, &[1]), false);
        assert!(!routes.reaches(3) && !routes.reaches(4) && routes.reaches(2));
    }

    /// News that were overtaken on their way must not undo later ones, nor come from an earlier life of the node.
    #[test]
    fn old_news_are_not_heard() {
        let mut routes = Routes::new(1, 1);
        routes.set_own(vec![2], 0);
        assert!(routes.hear(links(2, 2, &[1, 3]), false));
        assert!(!routes.hear(links(2, 2, &[1]), false) && !routes.hear(links(2, 1, &[1]), false));
        assert!(routes.hear(Links { epoch: 2, version: 0, ..links(2, 0, &[1]) }, false));
        assert!(!routes.hear(links(1, 9, &[5]), false), "nobody else says which links this node has");
    }

    /// A member could claim the highest version in another's name, and nobody would hear that node again.
    #[test]
    fn what_others_say_of_a_node_gives_way_to_its_own_word() {
        let mut routes = Routes::new(1, 1);
        routes.set_own(vec![2], 0);
        assert!(routes.hear(Links { flags: 1, epoch: 9, ..links(2, u64::MAX, &[]) }, false));
        assert!(routes.hear(links(2, 1, &[1]), true));
        assert!(routes.reaches(2) && routes.flags(2) == 0 && routes.epoch(2) == 1);
        assert!(!routes.hear(links(2, 1, &[1]), true) && routes.hear(links(2, 2, &[1]), true));
    }
}
