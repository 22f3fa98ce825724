//! What a node does before its replica runs, as the server's directory does it: who it is, what its disk holds, and, if it is of
//! no cluster, how it gets into one.

use doozer::limits;
use doozer::log::{self, Identity, Log, Params};
use doozer::replica::boot::{self, Finding, Plan, ReadError, Told};
use doozer::replica::handshake::Key;
use doozer::replica::join::Joiner;
use doozer::replica::members::FOUNDER;
use doozer::replica::rebuild::Rebuild;
use doozer::replica::{Recovered, Standing};

use crate::chance::Chance;
use crate::disk::{Disk, Op};
use crate::node::{Flags, SECRET};

/// Usual size of a segment: large enough for whatever raft sends at once, small enough to be read quickly.
const SEGMENT: u64 = 8 << 20;
/// Size of the log at which a server with segments of the usual size takes a snapshot.
pub const SNAPSHOT_AFTER: u64 = limits::SNAPSHOT_AFTER * limits::SEGMENT;
/// Past revisions that stay readable: all.
pub const HISTORY: u64 = 10_000_000;
/// Sizes that decide when something happens.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of a segment of the log.
    pub segment: u64,
    /// Of the applied entries that are kept for peers.
    pub keep: usize,
    /// Of the log at which a snapshot is taken.
    pub snapshot_after: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { segment: SEGMENT, keep: limits::KEEP, snapshot_after: SNAPSHOT_AFTER }
    }
}

impl Sizes {
    /// The same with segments of another size. What raft sends at once to a peer that is behind has to fit into one, or is never
    /// taken: of small ones less is kept for peers. (Those of a server are many times as large as anything that is sent at once.)
    pub fn with_segments(self, segment: u64) -> Sizes {
        let most = if segment < SEGMENT { usize::try_from(segment / 4).expect("a small segment") } else { usize::MAX };
        Sizes { segment, keep: self.keep.min(most), ..self }
    }
}

/// Name of the cluster.
pub const CLUSTER: &str = "local";

const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Where a start has got to.
pub enum Boot {
    /// The replica can run.
    Run(Identity, Box<Recovered>),
    /// The node has to ask for a raft id at one of these addresses.
    Join(Identity, Vec<String>),
    /// It does not start with what its disk holds.
    Refuse(String),
}

/// Starts a node from its disk. `attach` is where it is told that its cluster is.
pub fn boot(
    disk: &mut Disk,
    flags: &Flags,
    attach: &[String],
    own: &str,
    chance: &mut Chance,
    lines: &mut Vec<String>,
) -> Boot {
    let told = Told {
        cluster: None,
        attaches: !attach.is_empty(),
        salvage: false,
        history: flags.history,
        keep: flags.sizes.keep,
        seed: chance.next(),
    };
    let error = |said| ReadError { denied: false, said };
    let mut read = |name: &str, offset: u64, into: &mut [u8]| disk.read(name, offset, into).map_err(error);
    let plan = boot::look(&told, &disk.listing(), &mut read);
    let identity = match plan {
        Err(refused) if refused.found == Finding::Damage => {
            assert!(disk.is_harmed(), "a crash has left damage: {refused}");
            return Boot::Refuse(refused.line);
        }
        Err(refused) => return Boot::Refuse(refused.line),
        Ok(Plan::Resume(identity, held)) => {
            held.found.steps.iter().for_each(|step| disk.step(step));
            let recovered = held.resume(Params { segment_size: flags.sizes.segment, node: identity.node });
            return run(disk, identity, recovered);
        }
        Ok(Plan::New) => {
            let mut identity = founder(chance);
            if !attach.is_empty() {
                (identity.raft_id, identity.cluster_id, identity.voters, identity.voter) = (0, 0, 0, false);
                identity.cluster.clear();
                identity.peers = attach.to_vec();
            }
            write(disk, &identity);
            identity
        }
        Ok(Plan::Join(identity) | Plan::Begin(identity)) => identity,
        Ok(Plan::ComeBack(mut identity, damage)) => {
            assert!(disk.is_harmed(), "a crash has left damage: {damage}");
            lines.push(format!("the data cannot be used: {}; it comes back from the others", damage.what()));
            leave(&mut identity);
            write(disk, &identity);
            identity
        }
        Ok(plan @ (Plan::Attach(_) | Plan::Salvage(..))) => {
            unreachable!("an identity is written as a whole, and nobody asks for salvage: {plan:?}")
        }
    };
    if identity.raft_id != 0 {
        return begin(disk, flags, identity, chance);
    }
    let mut addresses = attach.to_vec();
    addresses.extend(identity.peers.iter().filter(|p| !attach.contains(p)).cloned());
    addresses.retain(|a| a != own);
    assert!(!addresses.is_empty(), "a node that is to join knows where");
    Boot::Join(identity, addresses)
}

/// Goes on when the cluster has given a raft id.
pub fn joined(
    disk: &mut Disk,
    flags: &Flags,
    mut identity: Identity,
    welcome: (u64, u64, String),
    peers: Vec<String>,
    chance: &mut Chance,
) -> Boot {
    // Not before: until another node has let this one in, nobody knows that there are other copies.
    disk.set_all_aside();
    (identity.raft_id, identity.cluster_id, identity.cluster) = welcome;
    identity.peers = peers;
    write(disk, &identity);
    begin(disk, flags, identity, chance)
}

/// Who asks to join.
pub fn joiner(identity: &Identity, addr: &str, secret: bool) -> Joiner {
    Joiner {
        node: identity.node,
        incarnation: identity.incarnation,
        cluster: identity.cluster.clone(),
        cluster_id: identity.cluster_id,
        key: Key::of_secret(if secret { SECRET.as_bytes() } else { b"" }),
        addr: addr.to_owned(),
    }
}

/// Gives up the place in the cluster.
pub fn leave(identity: &mut Identity) {
    identity.incarnation += 1;
    (identity.raft_id, identity.boot_epoch, identity.voter) = (0, 0, false);
}

/// What the node stands for in its cluster.
pub fn stand(identity: &mut Identity, standing: Standing) {
    (identity.voters, identity.voter, identity.peers) = (standing.voters, standing.voter, standing.peers);
}

/// The bytes of the identity's file.
pub fn encode(identity: &Identity) -> Vec<u8> {
    log::bytes_of(&identity.encode()).to_vec()
}

fn write(disk: &mut Disk, identity: &Identity) {
    disk.do_now(&Op::Identity(encode(identity)));
}

fn founder(chance: &mut Chance) -> Identity {
    let mut node = [0; 16];
    for letter in &mut node {
        *letter = chance.pick(LETTERS);
    }
    Identity {
        node,
        raft_id: FOUNDER,
        boot_epoch: 0,
        incarnation: 0,
        cluster: CLUSTER.into(),
        cluster_id: chance.next().max(1),
        voters: 1,
        voter: true,
        peers: Vec::new(),
        advertised: String::new(),
    }
}

/// A node that never ran.
fn begin(disk: &mut Disk, flags: &Flags, identity: Identity, chance: &mut Chance) -> Boot {
    let mut log = Log::create(Params { segment_size: flags.sizes.segment, node: identity.node });
    if let Some(prepare) = log.wants_segment() {
        let generation = prepare.generation;
        disk.do_now(&Op::Prepare(prepare));
        log.prepared(generation);
    }
    let (machine, start) = Rebuild::new(identity.node, flags.history).founded(identity.raft_id, chance.next());
    run(disk, identity, Recovered { machine, start, log, snapshot: 0, snapshot_bytes: 0 })
}

fn run(disk: &mut Disk, mut identity: Identity, recovered: Recovered) -> Boot {
    identity.begin_boot(recovered.epoch());
    write(disk, &identity);
    Boot::Run(identity, Box::new(recovered))
}
