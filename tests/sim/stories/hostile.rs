//! A member says what no program of ours would. The others go on, and their data stays as it was.

use crate::client::{Load, Plan};
use crate::hostile::{FORGED, Hostile};
use crate::world::{LIMIT, World};

/// Lets hostile members talk to all nodes for a while, under load.
fn attacked(seed: u64, nodes: usize) {
    let mut world = World::cluster(seed, nodes);
    world.load(0..nodes, Load::default());
    world.add_client(0, Plan::Watch);
    for (host, letter) in (0..nodes).zip(b'Q'..) {
        world.add_client(host, Plan::Hostile(Box::new(Hostile::new(letter, nodes))));
    }
    let before: Vec<u32> = world.nodes.iter().map(|node| node.process).collect();
    world.run(5_000);
    for host in 0..nodes {
        world.write(host, LIMIT);
        assert_eq!(world.file(host, FORGED), None, "written in another's name");
    }
    let after: Vec<u32> = world.nodes.iter().map(|node| node.process).collect();
    assert_eq!(before, after, "a process has ended");
    assert_eq!(world.voters(0), nodes, "nobody was put out of the cluster");
    world.finish();
}

/// A compromised member crashed the others with thirty frames, replaced their data with one, and silenced them with another.
pub fn a_hostile_member_stops_nobody_and_changes_nothing() {
    for seed in super::seeds(3, 100..140) {
        attacked(seed, 3);
    }
}

/// A single node leads at once, and answers what others only pass on.
pub fn a_hostile_member_harms_no_single_node() {
    for seed in super::seeds(2, 200..220) {
        attacked(seed, 1);
    }
}
