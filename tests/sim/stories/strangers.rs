//! Nodes that have to prove a secret to each other, while their connections break, hang and come late.

use crate::client::Load;
use crate::node::Flags;
use crate::stories::seeds;
use crate::world::{LIMIT, World};

fn guarded() -> Flags {
    Flags { secret: true, ..Flags::default() }
}

/// Connections break at any moment of the handshake, nodes hang in the middle of it and find old connections in their backlog, and a
/// node attaches meanwhile. In the end all are linked, and no client has lost anything.
pub fn nodes_prove_the_secret_whatever_becomes_of_their_connections() {
    for seed in seeds(2, 6_000..6_020) {
        let mut world = World::with(seed, 4, 3, guarded());
        world.load([0, 1, 2], Load { pause: 50_000, ..Load::default() });
        world.start(3);
        for _ in 0..60 {
            let (a, b) = (world.chance.index(4), world.chance.index(3) + 1);
            world.break_between(a, (a + b) % 4);
            // A handshake takes about a millisecond.
            let us = world.chance.below(3_000);
            world.run_us(us);
            if world.chance.once_in(10) && world.nodes[a].runs() {
                world.pause(a);
                let ms = world.chance.pick(&[5, 50, 700, 1_500]);
                world.run(ms);
                world.resume(a);
            }
            if world.chance.once_in(15) && world.nodes[a].runs() {
                world.restart(a);
            }
        }
        world.until(LIMIT, "the node is let in", |world| !world.is_joining(3) && world.nodes[3].runs());
        world.settle();
        world.all_write(&[0, 1, 2, 3], LIMIT);
        world.finish();
    }
}

/// A member comes back with another secret, here with none. It is linked with nobody, all say why, and the others go on. When its
/// operator has set the secret, it is a member as before.
pub fn a_member_without_the_secret_is_linked_with_nobody() {
    let mut world = World::with(6_100, 3, 3, guarded());
    let leader = world.find_leader();
    let stray = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|host| *host != stray).collect();
    world.kill(stray);
    world.nodes[stray].flags.secret = false;
    let began = world.now();
    world.start(stray);
    world.run(5_000);
    for host in 0..3 {
        assert!(world.has_said(host, "DOOZER_RWSECRET", began), "node {host} does not say why");
        let links = world.nodes[host].said.iter().filter(|(at, line)| *at > began * 1_000 && line.contains("is up"));
        assert_eq!(links.count(), 0, "node {host} is linked");
    }
    world.all_write(&others, 1_000);
    world.kill(stray);
    world.nodes[stray].flags.secret = true;
    world.start(stray);
    world.all_write(&[0, 1, 2], LIMIT);
    world.finish();
}
