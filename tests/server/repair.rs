//! A member whose data is damaged, or gone: it sets aside what it cannot trust, and comes back from its peers. Until it has
//! all that it once acknowledged, it neither votes nor acknowledges. Nothing that was acknowledged is lost.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::common::cluster::*;
use crate::common::eventually;
use crate::common::history::{check, untroubled};
use crate::common::process::Setup;
use crate::common::wire::*;
use doozer::limits::{BLOCK, VALUE_MAX};
use doozer::log::Identity;

/// The last segment that something was written to, and the number of blocks that were, the preface among them.
fn written(setup: &Setup) -> (String, usize) {
    let blocks_of = |name: &String| {
        let bytes = setup.read(name);
        bytes.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).map_or(0, |last| last + 1)
    };
    let mut segments = setup.files(".log").into_iter().map(|name| (blocks_of(&name), name));
    // A segment to come has a preface at most.
    let (blocks, name) = segments.rfind(|(blocks, _)| *blocks > 1).expect("a log that was written to");
    (name, blocks)
}

fn patch(setup: &Setup, name: &str, at: usize, change: impl Fn(u8) -> u8) {
    let file = File::options().read(true).write(true).open(setup.dir.join(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[change(byte[0])], at as u64).unwrap();
}

/// A kind of damage, by its name.
type Damage = (&'static str, fn(&Setup));

/// What befalls the log of a member. Each leaves less than the member has acknowledged, or a doubt of it.
const DAMAGE: &[Damage] = &[
    ("a bit in the middle", |setup| {
        let (name, blocks) = written(setup);
        patch(setup, &name, blocks / 2 * BLOCK + 200, |byte| byte ^ 4);
    }),
    ("a bit in the last write", |setup| {
        let (name, blocks) = written(setup);
        patch(setup, &name, (blocks - 1) * BLOCK + 50, |byte| byte ^ 0x40);
    }),
    ("a block of zeros in the middle", |setup| {
        let (name, blocks) = written(setup);
        let file = File::options().write(true).open(setup.dir.join(&name)).unwrap();
        file.write_all_at(&[0; BLOCK], (blocks / 2 * BLOCK) as u64).unwrap();
    }),
    ("noise in the tail", |setup| {
        let (name, blocks) = written(setup);
        let file = File::options().write(true).open(setup.dir.join(&name)).unwrap();
        let noise = crate::common::Random(12).bytes(2 * BLOCK);
        file.write_all_at(&noise, ((blocks - 2) * BLOCK) as u64).unwrap();
    }),
    ("a segment that is cut short", |setup| {
        let (name, blocks) = written(setup);
        let file = File::options().write(true).open(setup.dir.join(&name)).unwrap();
        file.set_len((blocks / 2 * BLOCK) as u64).unwrap();
    }),
    ("a missing segment", |setup| {
        std::fs::remove_file(setup.dir.join(written(setup).0)).unwrap();
    }),
    ("no log at all", |setup| {
        for name in setup.files(".log").iter().chain(&setup.files(".snap")) {
            std::fs::remove_file(setup.dir.join(name)).unwrap();
        }
    }),
];

/// One member after the other, under load: it says what is damaged, and is a member again before long, by itself. The
/// clients of the others see nothing of it.
#[test]
fn a_member_with_a_damaged_log_is_gone_for_good() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-timeout", "2"]).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 200);
    for (round, (what, damage)) in DAMAGE.iter().enumerate() {
        let victim = round % 3;
        load.gets_on(&[0, 1, 2], 50);
        if round % 2 == 0 {
            cluster.kill(victim);
        } else {
            cluster.stop(victim);
        }
        load.gets_on(&cluster.live(), 10);
        damage(cluster.setup(victim));
        cluster.start(victim);
        let said = cluster.stderr(victim);
        assert!(said.contains("damage") || said.contains("missing"), "{what}: the log does not say so: {said}");
        cluster.has_members(3);
        cluster.converges();
        load.gets_on(&[0, 1, 2], 10);
        // What it has now is whole: it starts on it like any other.
        if round == 0 {
            cluster.kill(victim);
            cluster.start(victim);
            let said = cluster.stderr(victim);
            assert!(!said.contains("damage"), "{what}, and again: {said}");
            cluster.converges();
        }
    }
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

/// A member whose data is damaged asks to be let in as another. From then on the others may count on the other, so it must not come
/// back as the one it was, even if it is killed before they answer.
#[test]
fn a_member_that_asks_for_another_place_keeps_its_old_one() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    cluster.converges();
    let identity = |cluster: &Cluster| Identity::decode(&cluster.setup(1).read("node")).unwrap();
    eventually("its directory knows how many they are", || (identity(&cluster).voters == 3).then_some(()));
    (0..3).for_each(|node| cluster.kill(node));
    let before = identity(&cluster);
    let (_, damage) = DAMAGE[0];
    damage(cluster.setup(1));
    let server = cluster.setup(1).clone().spawn();
    server.says("cannot attach to the node at");
    server.kill();
    let now = identity(&cluster);
    assert_eq!((now.node, now.cluster_id), (before.node, before.cluster_id));
    assert_eq!((now.raft_id, now.incarnation, now.voter), (0, before.incarnation + 1, false));
    assert!(cluster.setup(1).files("damaged").is_empty(), "nobody has let it in");
}

/// The trap: a write is acknowledged by two of three, the third is behind. Then of the two that have it one is down, and the
/// other's log is damaged just there. If the damaged one gave its vote on what is left, the one that is behind would
/// lead, and the write be gone. So there is no quorum, until the one with the write is back.
#[test]
fn a_damaged_member_votes_away_what_it_has_acknowledged() {
    let _turn = together();
    for (what, damage) in DAMAGE.iter().filter(|(what, _)| what.contains("last") || what.contains("no log")) {
        let mut cluster = Cluster::new(3).up(3);
        cluster.converges();
        // A member of two would refuse to start rather than come back as another, and be right.
        eventually("its directory knows how many they are", || {
            let identity = Identity::decode(&cluster.setup(1).read("node")).ok()?;
            (identity.voters == 3).then_some(())
        });
        cluster.kill(2);
        let mut c = cluster.connect(0);
        let mut made = Vec::new();
        for i in 0..20 {
            made.push(c.put(&format!("/kept/{i}"), what.as_bytes()));
        }
        cluster.kill_all(&[0, 1]);
        damage(cluster.setup(1));
        cluster.spawn(1);
        cluster.start(2);
        // Longer than a couple of elections would take, as seen from the one that is behind.
        cluster.refuses_writes(2);
        let mut behind = cluster.connect(2);
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(
                behind.ask(&set("/never", -1, b"")),
                "READONLY",
                "{what}: a quorum without the acknowledged writes"
            );
            assert_eq!(behind.ask(&get("/kept/19")), "rev=0 value=\"\"");
        }
        cluster.start(0);
        eventually("it takes writes again", || behind.call(&set("/again", -1, b"")).rev);
        cluster.serves(1);
        cluster.converges();
        for node in 0..3 {
            let mut c = cluster.connect(node);
            for (i, rev) in made.iter().enumerate() {
                let said = c.ask(&get(&format!("/kept/{i}")));
                assert_eq!(said, format!("rev={rev} value=\"{what}\""), "node {node}");
            }
        }
        check(&[], &cluster);
    }
}

/// A single node has no peers to recover from: it still refuses, as ever, rather than come up with less.
#[test]
fn a_single_damaged_node_makes_a_fresh_start() {
    let _turn = together();
    let mut cluster = Cluster::new(1).up(1);
    cluster.connect(0).put("/x", b"1");
    cluster.kill(0);
    DAMAGE[1].1(cluster.setup(0));
    cluster.spawn(0);
    let refused = cluster.exited(0);
    assert_eq!(refused.status, Some(65), "{}", refused.stderr);
}

/// A snapshot that rots, and the log behind it that was used again: only the peers have what it held.
#[test]
fn a_member_with_a_damaged_snapshot_is_gone_for_good() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-timeout", "2"]).up(3);
    let mut c = cluster.connect(0);
    let mut value = crate::common::Random(13).bytes(VALUE_MAX);
    for i in 0..56_usize {
        if i < 48 {
            value[..8].copy_from_slice(&i.to_le_bytes());
            c.send(&set(&format!("/large/{}", i % 40), -1, &value));
        }
        if i >= 8 {
            c.recv().revision();
        }
    }
    let load = cluster.load(&[0, 1, 2], 1, 100);
    for (victim, missing) in [(1, false), (2, true)] {
        let snapshot = eventually("a snapshot", || {
            let setup = cluster.setup(victim);
            let begins_later = !setup.files(".log").contains(&"0000000000000001.log".to_string());
            setup.files(".snap").pop().filter(|_| begins_later && setup.files(".tmp").is_empty())
        });
        load.gets_on(&[0, 1, 2], 10);
        cluster.kill(victim);
        if missing {
            std::fs::remove_file(cluster.setup(victim).dir.join(&snapshot)).unwrap();
        } else {
            patch(cluster.setup(victim), &snapshot, 8 << 20, |byte| byte ^ 1);
        }
        cluster.start(victim);
        let said = cluster.stderr(victim);
        assert!(said.contains("damage") || said.contains("missing"), "its log does not say so: {said}");
        cluster.has_members(3);
        load.gets_on(&[0, 1, 2], 10);
    }
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

/// A node whose directory is gone is a new node, on the old address: it attaches, and moves into the slot when the old one has
/// been given up. One after the other, until no node has the data that it began with.
#[test]
fn a_wiped_node_is_taken_for_one_that_is_merely_behind() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-timeout", "2"]).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    for victim in [2, 0, 1] {
        load.gets_on(&[0, 1, 2], 20);
        let old = cluster.id(victim).to_string();
        cluster.kill(victim);
        cluster.wipe(victim);
        cluster.start(victim);
        assert_ne!(cluster.id(victim), old);
        cluster.has_members(3);
        assert!(!cluster.slots().values().any(|id| *id == old));
    }
    load.gets_on(&[0, 1, 2], 20);
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}
