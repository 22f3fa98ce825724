//! Ways are cut. Whoever is connected to a majority, directly or through others, writes on; on the others reads go on, and writes are
//! refused, until the ways are whole.

use doozer::wire::{ErrCode, Request, Verb};

use super::seeds;
use crate::client::{Load, Plan};
use crate::world::{LIMIT, World};

/// How long it may take until everyone who is connected to a majority writes on, in milliseconds.
const BOUND: u64 = 4_000;
/// How long it may take until a node without a majority refuses writes, in milliseconds: what the README promises.
const READONLY_BOUND: u64 = 1_500;

fn busy(seed: u64, voters: usize) -> World {
    let mut world = World::cluster(seed, voters);
    world.load(0..voters, Load::default());
    for host in 0..voters {
        world.add_client(host, Plan::Watch);
    }
    world.run(500);
    world
}

/// Everyone writes on after so long, and for a while.
#[track_caller]
fn all_go_on(world: &mut World, nodes: &[usize]) {
    world.all_write(nodes, BOUND);
    for _ in 0..5 {
        world.run(1_000);
        for node in nodes {
            world.write(*node, 300);
        }
    }
}

/// Writes are refused here, and reads go on.
#[track_caller]
fn reads_only(world: &mut World, nodes: &[usize]) {
    for node in nodes {
        let answer = world.call(*node, &Request::new(Verb::Nop), 300);
        assert_eq!(answer.err, Some(ErrCode::Readonly), "a write at node {node}: {answer:?}");
        let answer = world.call(*node, &Request::new(Verb::Rev), 300);
        assert!(answer.rev > Some(0), "{answer:?}");
    }
}

/// In a chain the two ends do not hear each other; whoever leads, all three write.
pub fn in_a_chain_of_three_everyone_writes() {
    for middle in 0..3 {
        let mut world = busy(1_000 + middle as u64, 3);
        let (a, b) = ((middle + 1) % 3, (middle + 2) % 3);
        world.only(&[(a, middle), (middle, b)]);
        all_go_on(&mut world, &[0, 1, 2]);
        world.finish();
    }
}

/// A line of five: what its ends say to each other passes all others.
pub fn in_a_line_of_five_everyone_writes() {
    for (seed, line) in (1_100..).zip([[0, 1, 2, 3, 4], [1, 2, 0, 3, 4], [2, 0, 3, 1, 4]]) {
        let mut world = busy(seed, 5);
        let ways: Vec<(usize, usize)> = line.windows(2).map(|pair| (pair[0], pair[1])).collect();
        world.only(&ways);
        all_go_on(&mut world, &[0, 1, 2, 3, 4]);
        world.finish();
    }
}

/// All five are connected through one only, whose log is behind; then the leader dies. The hub cannot be elected as it is, and the
/// others do not hear each other but through it.
pub fn a_stale_hub_lets_the_others_elect_a_leader() {
    for seed in seeds(2, 0..5) {
        let mut world = busy(1_200 + seed, 5);
        let leader = world.find_leader();
        let hub = (leader + 1) % 5;
        let spokes: Vec<usize> = (0..5).filter(|host| *host != hub).collect();
        world.isolate(hub);
        world.run(2_000);
        // In one moment the leader dies, and the hub is all that the others have.
        world.heal_all();
        let ways: Vec<(usize, usize)> = spokes.iter().map(|spoke| (hub, *spoke)).collect();
        world.only(&ways);
        world.kill(leader);
        let rest: Vec<usize> = (0..5).filter(|host| *host != leader).collect();
        all_go_on(&mut world, &rest);
        world.start(leader);
        world.write(leader, BOUND);
        world.finish();
    }
}

/// What one node sends to another does not get there, while all else does.
pub fn one_way_loss_between_two_nodes_stops_nobody() {
    for (seed, (from, to)) in (1_300..).zip([(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]) {
        let mut world = busy(seed, 3);
        world.cut_way(from, to);
        all_go_on(&mut world, &[0, 1, 2]);
        world.finish();
    }
}

/// The same for everything that the leader sends, or everything that is sent to it.
pub fn a_leader_that_is_only_half_connected_is_replaced() {
    for seed in seeds(2, 0..4) {
        let mut world = busy(1_400 + seed, 3);
        let leader = world.find_leader();
        let others: Vec<usize> = (0..3).filter(|host| *host != leader).collect();
        for other in &others {
            if seed % 2 == 0 { world.cut_way(leader, *other) } else { world.cut_way(*other, leader) }
        }
        all_go_on(&mut world, &others);
        reads_only(&mut world, &[leader]);
        world.finish();
    }
}

/// The cluster is parted in two. The larger part goes on, the smaller one refuses; and when the ways are whole, all is as if nothing had
/// been. Then the other way round.
pub fn the_larger_part_goes_on_and_the_smaller_one_says_so() {
    for seed in seeds(2, 0..4) {
        let mut world = busy(1_500 + seed, 5);
        let leader = world.find_leader();
        let next = |n: usize| (leader + n) % 5;
        // Once with the leader in the smaller part, once in the larger one.
        for small in [[leader, next(1)], [next(2), next(3)]] {
            let large: Vec<usize> = (0..5).filter(|host| !small.contains(host)).collect();
            for a in small {
                for b in &large {
                    world.cut(a, *b);
                }
            }
            all_go_on(&mut world, &large);
            reads_only(&mut world, &small);
            world.heal_all();
            world.all_write(&[0, 1, 2, 3, 4], BOUND);
        }
        world.finish();
    }
}

/// No part is a majority: nobody writes, everybody reads. Afterwards everybody writes.
pub fn without_a_majority_anywhere_everything_waits_for_better_times() {
    let mut world = busy(1_600, 5);
    world.only(&[(0, 1), (2, 3)]);
    world.until(LIMIT, "all know", |world| (0..5).all(|host| world.has_said(host, "no quorum", 0)));
    reads_only(&mut world, &[0, 1, 2, 3, 4]);
    world.run(20_000);
    reads_only(&mut world, &[0, 1, 2, 3, 4]);
    world.heal_all();
    world.all_write(&[0, 1, 2, 3, 4], BOUND);
    world.finish();
}

/// A node that has lost its majority, in whichever way, refuses new writes from then on, at once, and reads go on.
pub fn writes_are_refused_within_the_time_that_is_promised() {
    for seed in 0..6 {
        for lost in ["is cut off", "is not heard", "hears nobody", "others hang", "others go dark"] {
            for leads in [false, true] {
                let mut world = busy(1_900 + seed, 3);
                let leader = world.find_leader();
                let node = if leads { leader } else { (leader + 1) % 3 };
                for other in (0..3).filter(|other| *other != node) {
                    match lost {
                        "is cut off" => world.cut(node, other),
                        "is not heard" => world.cut_way(node, other),
                        "hears nobody" => world.cut_way(other, node),
                        "others hang" => world.pause(other),
                        _ => world.power_off(other),
                    }
                }
                world.run(READONLY_BOUND);
                let answer = world.try_call(node, &Request::new(Verb::Nop), 100);
                let refused = answer.as_ref().is_some_and(|answer| answer.err == Some(ErrCode::Readonly));
                assert!(
                    refused,
                    "seed {seed}, {READONLY_BOUND} ms after node {node} (leads: {leads}) {lost}: {answer:?}"
                );
                reads_only(&mut world, &[node]);
            }
        }
    }
}

/// A way comes and goes faster than anyone can get used to it.
pub fn a_way_that_flaps_stops_nobody_for_long() {
    for seed in seeds(1, 0..3) {
        let mut world = busy(1_700 + seed, 3);
        let leader = world.find_leader();
        let (a, b) = (leader, (leader + 1) % 3);
        for _ in 0..30 {
            world.cut(a, b);
            let ms = world.chance.between((50, 1_500));
            world.run(ms);
            world.heal(a, b);
            let ms = world.chance.between((50, 1_500));
            world.run(ms);
            world.all_write(&[0, 1, 2], BOUND);
        }
        world.finish();
    }
}

/// Connections break all the time, as with a faulty switch: what was on its way comes again.
pub fn links_that_break_all_the_time_lose_nothing() {
    let mut world = busy(1_800, 3);
    for _ in 0..100 {
        let (a, b) = world.chance.pick(&[(0, 1), (1, 2), (0, 2)]);
        world.break_between(a, b);
        let ms = world.chance.between((1, 100));
        world.run(ms);
    }
    world.all_write(&[0, 1, 2], BOUND);
    world.finish();
}

/// A node takes long to start, and the others dial it, again and again: what waits for it when it runs are connections that have been
/// given up since. Each was said to be up, and then lost; for that long its leader seemed to come and go.
pub fn a_node_that_starts_slowly_sees_its_links_flap() {
    for seed in seeds(2, 1_900..1_904) {
        let mut world = busy(seed, 3);
        world.restart(2);
        world.pause(2);
        world.run(14_000);
        let since = world.now();
        world.resume(2);
        world.write(2, BOUND);
        world.run(3_000);
        assert_eq!(world.times_said(2, "is lost", since), 0);
        assert_eq!(world.times_said(2, "is up", since), 2);
        world.finish();
    }
}
