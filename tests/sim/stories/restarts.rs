//! Nodes that are stopped and started in order: what they say is true when they say it, and a rolling restart that goes by it is noticed
//! by nobody.

use doozer::limits::STOP_CATCH_UP_MS;

use super::seeds;
use crate::boot::Sizes;
use crate::client::{Load, Plan};
use crate::node::Flags;
use crate::world::{LIMIT, World, set};

/// Nodes that keep little for those who are behind: these get a snapshot.
fn forgetful() -> Flags {
    Flags { sizes: Sizes { keep: 1 << 20, ..Sizes::default() }, ..Flags::default() }
}

fn is_announced(world: &mut World, host: usize) -> bool {
    world.nodes[host].replica().is_some_and(|replica| replica.is_announced())
}

fn applied(world: &mut World, host: usize) -> u64 {
    world.nodes[host].replica().expect("it runs").applied()
}

/// A cluster of which a follower was stopped, and megabytes were written since.
fn one_is_stopped(seed: u64) -> (World, usize, usize) {
    let mut world = World::with(seed, 3, 3, forgetful());
    world.run(500);
    let leader = world.find_leader();
    let behind = (0..3).find(|host| *host != leader).expect("a follower");
    world.stop(behind);
    world.until(LIMIT, "it has stopped", |world| !world.nodes[behind].is_up());
    world.fill(leader, 100, 100_000);
    (world, leader, behind)
}

/// Starts a node whose disk takes so long for an operation, from and to, in microseconds. Returns when the node serves reads.
fn start_slowly(world: &mut World, host: usize, latency: (u64, u64)) {
    world.disk(host).latency = latency;
    world.start(host);
    world.until(LIMIT, "it serves", |world| world.nodes[host].replica().is_some_and(|replica| replica.serving()));
}

/// Who goes on with the next node when this one is announced must be able to rely on it.
pub fn a_node_is_announced_when_it_has_caught_up() {
    for seed in seeds(5, 4_000..4_010) {
        let (mut world, leader, behind) = one_is_stopped(seed);
        let there = applied(&mut world, leader);
        let began = world.now();
        start_slowly(&mut world, behind, (5_000, 20_000));
        assert!(!is_announced(&mut world, behind), "as soon as it serves reads");
        world.until(LIMIT, "it is announced", |world| is_announced(world, behind));
        assert!(applied(&mut world, behind) >= there, "{} of {there}", applied(&mut world, behind));
        assert!(world.has_said(behind, "caught up with the cluster at revision", began));
        world.finish();
    }
}

/// A standby that was stopped knows the founder as the only member. Meanwhile the cluster has grown, and the founder is gone. The
/// standby hears of a leader, so there is a quorum, although it reaches no member that it knows.
pub fn a_node_that_knows_none_of_the_members_is_announced_when_it_has_caught_up() {
    for seed in seeds(5, 4_020..4_040) {
        let mut world = World::with(seed, 4, 1, forgetful());
        world.run(500);
        for host in 1..4 {
            world.start(host);
        }
        world.until(LIMIT, "the standby is announced", |world| is_announced(world, 3));
        world.stop(3);
        world.until(LIMIT, "it has stopped", |world| !world.nodes[3].is_up());
        for slot in 1..3 {
            world.add_slot(0, slot);
        }
        world.until(LIMIT, "the cluster has grown", |world| world.voters(0) == 3);
        world.fill(0, 100, 100_000);
        world.kill(0);
        world.write(1, LIMIT);
        let there = applied(&mut world, 1);
        world.disk(3).latency = (100_000, 200_000);
        let began = world.now();
        world.start(3);
        world.until(LIMIT, "it is announced", |world| is_announced(world, 3));
        assert!(applied(&mut world, 3) >= there, "{} of {there}", applied(&mut world, 3));
        assert!(!world.has_said(3, "no quorum", began));
        world.disk(3).heal();
        world.finish();
    }
}

/// A client writes at a node that is behind and catches up slowly. The write waits until the node has caught up: the others have a
/// quorum, and so has the node. Nothing in its log says otherwise, and nobody goes on with the next node before.
pub fn a_write_at_a_node_that_catches_up_slowly_waits_for_it() {
    let (mut world, leader, behind) = one_is_stopped(4_050);
    world.fill(leader, 100, 100_000);
    let began = world.now();
    start_slowly(&mut world, behind, (300_000, 400_000));
    let client = world.add_client(behind, Plan::Hand);
    world.until(1_000, "it is connected", |world| world.clients[client].is_connected());
    world.ask(client, &set("/at-the-one-behind", -1, b"x"));
    world.until(LIMIT, "it is announced", |world| is_announced(world, behind));
    assert!(world.now() - began > 15_000, "it has caught up within {} ms: too soon to tell", world.now() - began);
    assert!(world.has_said(behind, "caught up with the cluster at revision", began));
    assert!(!world.has_said(behind, "no quorum", began));
    world.until(LIMIT, "the write is answered", |world| !world.clients[client].answers.is_empty());
    assert_eq!(world.clients[client].answers[0].err, None);
    world.disk(behind).heal();
    world.finish();
}

/// It has nobody to catch up with, and serves reads.
pub fn a_node_without_a_majority_is_announced_soon_and_says_that_there_is_none() {
    let mut world = World::cluster(4_100, 3);
    world.write(0, 1_000);
    for host in 0..3 {
        world.kill(host);
    }
    let began = world.now();
    world.start(1);
    let took = world.until(3_000, "it is announced", |world| is_announced(world, 1));
    assert!(took <= 1_500, "after {took} ms");
    assert!(world.has_said(1, "no quorum yet: 1 of 3 members in reach", 0));
    assert!(!world.has_said(1, "caught up", began));
    world.start(0);
    world.until(LIMIT, "they have caught up", |world| (0..2).all(|host| world.has_said(host, "caught up", began)));
    world.finish();
}

/// Members that are started one after the other within a second are no quorum that was lost.
pub fn a_cluster_that_starts_is_not_said_to_have_lost_its_quorum() {
    for seed in seeds(10, 4_200..4_220) {
        let mut world = World::cluster(seed, 3);
        world.write(0, 1_000);
        for host in 0..3 {
            world.stop(host);
        }
        world.until(LIMIT, "all have stopped", |world| (0..3).all(|host| !world.nodes[host].is_up()));
        let began = world.now();
        for host in 0..3 {
            world.start(host);
            world.run(400);
        }
        world.until(LIMIT, "all are announced", |world| (0..3).all(|host| is_announced(world, host)));
        for host in 0..3 {
            assert!(!world.has_said(host, "no quorum", began), "node {host}");
        }
        world.finish();
    }
}

/// A rolling restart that goes on too soon: without the leader the cluster would wait for the one that is catching up.
pub fn a_leader_that_stops_waits_for_a_majority_that_is_catching_up() {
    for seed in seeds(2, 4_300..4_305) {
        let (mut world, leader, behind) = one_is_stopped(seed);
        let stays = 3 - leader - behind;
        world.load([stays], Load { window: 2, pause: 5_000, ..Load::default() });
        start_slowly(&mut world, behind, (30_000, 60_000));
        world.run(400);
        let began = world.now();
        world.stop(leader);
        while world.nodes[leader].is_up() {
            world.write(stays, 400);
            assert!(world.now() - began < STOP_CATCH_UP_MS + 5_000, "it does not stop");
        }
        assert!(world.has_said(leader, "not stopping yet", began), "it has not waited");
        assert!(!world.has_said(leader, "without this node 1 of 3 members are left", began));
        world.write(stays, 400);
        world.finish();
    }
}

/// Two nodes are stopped at once. The first waits for a third that is catching up; the second must not count on the first.
pub fn a_leader_that_stops_counts_on_a_node_that_stops_too() {
    for seed in seeds(2, 4_500..4_505) {
        let (mut world, leader, behind) = one_is_stopped(seed);
        let stops = 3 - leader - behind;
        start_slowly(&mut world, behind, (30_000, 60_000));
        world.run(300);
        let began = world.now();
        world.stop(stops);
        // Its next sign of life says that it leaves.
        world.run(150);
        assert!(world.nodes[stops].is_up(), "it has not waited");
        world.stop(leader);
        world.until(LIMIT, "the leader stops", |world| !world.nodes[leader].is_up());
        assert!(world.has_said(leader, "without this node 0 of 3 members are left", began), "seed {seed}");
        assert!(!world.has_said(leader, "handing over", began), "seed {seed}");
        world.finish();
    }
}

/// A node is down, and the next is stopped: nothing can be done about it but to say so.
pub fn a_node_that_stops_warns_of_a_majority_that_is_not_left() {
    for of_the_leader in [false, true] {
        let mut world = World::cluster(4_400, 3);
        world.write(0, 1_000);
        let leader = world.find_leader();
        let follower = (0..3).find(|host| *host != leader).expect("a follower");
        let third = 3 - leader - follower;
        world.kill(third);
        world.run(1_000);
        let node = if of_the_leader { leader } else { follower };
        let began = world.now();
        world.stop(node);
        let took = world.until(LIMIT, "it stops", |world| !world.nodes[node].is_up());
        assert!(took < 2_000, "after {took} ms");
        assert!(world.has_said(node, "without this node 1 of 3 members are left", began));
        world.finish();
    }
}
