//! The file `node`: the identity of the node that owns this data directory.
//!
//! The file is one block, and is replaced as a whole: written as `node.tmp`, synced, renamed, the directory synced.
//!
//! ```text
//!  0  16  preface
//! 16  16  node id
//! 32   8  raft id; 0 = not a member yet
//! 40   8  boot epoch
//! 48   8  incarnation
//! 56   8  cluster id; 0 = not known yet
//! 64   4  number of the cluster's voters
//! 68   2  1 = this node is one of them, else 0
//! 70   2  length of the cluster's name
//! 72   2  number of peers
//! 74   …  cluster's name, UTF-8
//!      …  addresses of peers, UTF-8, each behind its length (2 bytes)
//!      …  length (2 bytes) and address that this node advertised last, UTF-8; length 0 = none is known. Zeros follow.
//!         Programs that do not know this field ignore it, and write zeros in its place
//! ```
//! Invariants:
//! * The file is the last one made in a new data directory: a directory without it never acknowledged anything.
//! * The boot epoch rises at every start, and is durable before it is used: no two lives of a node give their mutations the same
//!   numbers.

use super::block::{Block, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::preface::{self, BODY, Kind, Unfit};
use super::segment::NodeId;
use crate::faults::{self, Fault};
use crate::limits::{ADDR_MAX, BLOCK, CLUSTER_NAME_MAX, COUNT_MAX};

const NODE: usize = BODY;
const RAFT: usize = NODE + 16;
const EPOCH: usize = RAFT + 8;
const INCARNATION: usize = EPOCH + 8;
const CLUSTER: usize = INCARNATION + 8;
const VOTERS: usize = CLUSTER + 8;
const VOTER: usize = VOTERS + 4;
const LENGTH: usize = VOTER + 2;
const PEERS: usize = LENGTH + 2;
const NAME: usize = PEERS + 2;
const _: () = assert!(NAME == 74 && NAME + CLUSTER_NAME_MAX <= BLOCK);
// The peers of a large cluster have room, with names of hosts as long as they may be.
const _: () = assert!(NAME + CLUSTER_NAME_MAX + 12 * (2 + 255 + ":65535".len()) + 2 + ADDR_MAX <= BLOCK);

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own id, which stays as long as its data directory.
    pub node: NodeId,
    /// Its id in the raft group; 0 as long as it is not a member. A node that sets its data aside gets another one.
    pub raft_id: u64,
    /// How often it was started.
    pub boot_epoch: u64,
    /// How often it has set its data aside and come back under another raft id.
    pub incarnation: u64,
    /// Name of its cluster.
    pub cluster: String,
    /// The number that its cluster drew when it was founded, which tells it from others of its name; 0 = not known yet.
    pub cluster_id: u64,
    /// How many voters the cluster had when this was written.
    pub voters: u32,
    /// Whether this node was one of them.
    pub voter: bool,
    /// Addresses of the other members, as last known: where the node looks for its cluster.
    pub peers: Vec<String>,
    /// The address that this node advertised last; empty if none is known.
    pub advertised: String,
}

/// Why an identity file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// It is not an identity file, or not whole.
    Damaged,
    /// It is whole, but of this unknown version.
    UnknownVersion(u32),
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IdentityError::Damaged => f.write_str(
                "file node is damaged: start with -a as a new node of its cluster; a node that was alone has to be restored from a copy",
            ),
            IdentityError::UnknownVersion(version) => write!(
                f,
                "file node is of format version {version}, and this program knows version {}: use the program that wrote it. \
                 Nothing was changed.",
                preface::VERSION
            ),
        }
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// Begins the next boot, with an epoch above that of every earlier boot. `in_log` is the highest epoch in the log. That alone
    /// may be too low, because a boot may have written nothing to the log; the file alone may have come from an old copy.
    pub fn begin_boot(&mut self, in_log: u64) {
        let known = if faults::is_armed(Fault::EpochOfLogOnly) { 0 } else { self.boot_epoch };
        self.boot_epoch = known.max(in_log) + 1;
    }

    /// Returns the file's bytes: one block. If there is no room for all peers, those with the longest addresses are left out.
    ///
    /// # Panics
    /// If the cluster's name is longer than [`CLUSTER_NAME_MAX`], or the advertised address longer than [`ADDR_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<Block> {
        let name = self.cluster.as_bytes();
        assert!(name.len() <= CLUSTER_NAME_MAX, "a cluster's name of {} bytes", name.len());
        let length = u16::try_from(name.len()).expect("a name within the limit");
        let mut block = Block::ZERO;
        block.0[NODE..RAFT].copy_from_slice(&self.node);
        put_u64(&mut block.0, RAFT, self.raft_id);
        put_u64(&mut block.0, EPOCH, self.boot_epoch);
        put_u64(&mut block.0, INCARNATION, self.incarnation);
        put_u64(&mut block.0, CLUSTER, self.cluster_id);
        put_u32(&mut block.0, VOTERS, self.voters);
        put_u16(&mut block.0, VOTER, u16::from(self.voter));
        put_u16(&mut block.0, LENGTH, length);
        let mut at = NAME + name.len();
        block.0[NAME..at].copy_from_slice(name);
        let own = self.advertised.as_bytes();
        assert!(own.len() <= ADDR_MAX, "an advertised address of {} bytes", own.len());
        let mut count = 0;
        for (peer, length) in fitting(&self.peers, BLOCK - at - 2 - own.len()) {
            put_u16(&mut block.0, at, length);
            at += 2;
            block.0[at..at + peer.len()].copy_from_slice(peer);
            at += peer.len();
            count += 1;
        }
        put_u16(&mut block.0, PEERS, count);
        put_u16(&mut block.0, at, u16::try_from(own.len()).expect("an address within the limit"));
        block.0[at + 2..at + 2 + own.len()].copy_from_slice(own);
        preface::encode(Kind::Identity, &mut block);
        vec![block]
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// If the bytes are not exactly what [`Identity::encode`] makes, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let [block] = blocks else {
            return Err(IdentityError::Damaged);
        };
        preface::check(Kind::Identity, block).map_err(|unfit| match unfit {
            Unfit::Bad => IdentityError::Damaged,
            Unfit::Version(version) => IdentityError::UnknownVersion(version),
        })?;
        let length = usize::from(get_u16(block, LENGTH));
        if !rest.is_empty() || length > CLUSTER_NAME_MAX {
            return Err(IdentityError::Damaged);
        }
        let mut at = NAME + length;
        let cluster = text(&block[NAME..at])?;
        let mut next = || {
            let rest = block.get(at..).filter(|rest| rest.len() >= 2).ok_or(IdentityError::Damaged)?;
            let end = at + 2 + usize::from(get_u16(rest, 0));
            let found = text(block.get(at + 2..end).ok_or(IdentityError::Damaged)?)?;
            at = end;
            Ok(found)
        };
        let peers = (0..get_u16(block, PEERS)).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
        // Peers written by an older program may fill the block.
        let advertised = next().ok().filter(|own| own.len() <= ADDR_MAX).unwrap_or_default();
        let mut node = [0; 16];
        node.copy_from_slice(&block[NODE..RAFT]);
        let counted = [RAFT, EPOCH, INCARNATION].map(|at| get_u64(block, at));
        // The id is a name in paths; from these numbers the node counts on.
        if !node.iter().all(u8::is_ascii_alphanumeric) || counted.into_iter().any(|number| number > COUNT_MAX) {
            return Err(IdentityError::Damaged);
        }
        Ok(Identity {
            node,
            raft_id: get_u64(block, RAFT),
            boot_epoch: get_u64(block, EPOCH),
            incarnation: get_u64(block, INCARNATION),
            cluster,
            cluster_id: get_u64(block, CLUSTER),
            voters: get_u32(block, VOTERS),
            voter: match get_u16(block, VOTER) {
                0 => false,
                1 => true,
                _ => return Err(IdentityError::Damaged),
            },
            peers,
            advertised,
        })
    }
}

fn text(bytes: &[u8]) -> Result<String, IdentityError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| IdentityError::Damaged)
}

/// The peers for which `room` bytes are enough, in their order, with their lengths: the shortest ones.
fn fitting(peers: &[String], mut room: usize) -> impl Iterator<Item = (&[u8], u16)> {
    let mut shortest: Vec<usize> = (0..peers.len()).collect();
    shortest.sort_by_key(|at| peers[*at].len());
    shortest.retain(|at| {
        let size = 2 + peers[*at].len();
        let fits = size <= room;
        room = if fits { room - size } else { 0 };
        fits
    });
    shortest.sort_unstable();
    shortest.into_iter().map(|at| {
        let peer = peers[at].as_bytes();
        (peer, u16::try_from(peer.len()).expect("less than a block"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::block::bytes_of;
    use super::*;

    fn sample() -> Identity {
        Identity {
            node: *b"ABCDEFGHIJKLMNOP",
            raft_id: 3,
            boot_epoch: 41,
            incarnation: 2,
            cluster: "løcal".to_owned(),
            cluster_id: 0x0123_4567_89ab_cdef,
            voters: 5,
            voter: true,
            peers: vec!["127.0.0.1:8046".to_owned(), "[::1]:8046".to_owned()],
            advertised: "db-1.example:8046".to_owned(),
        }
    }

    fn read_back(identity: &Identity) -> Identity {
        Identity::decode(bytes_of(&identity.encode())).unwrap()
    }

    /// If two boots have the same number, the second one's mutations are dropped as already seen. A boot that wrote nothing is not
    /// in the log; a boot after the copy that was restored is only in the log.
    #[test]
    fn a_boot_is_numbered_like_an_earlier_one() {
        let mut identity = sample();
        for (in_file, in_log, next) in [(0, 0, 1), (41, 0, 42), (41, 40, 42), (41, 41, 42), (41, 57, 58)] {
            identity.boot_epoch = in_file;
            identity.begin_boot(in_log);
            assert_eq!(identity.boot_epoch, next, "{in_file} in the file, {in_log} in the log");
        }
    }

    /// A node that forgets its epoch numbers its mutations twice.
    #[test]
    fn an_identity_reads_back_as_it_was_written() {
        let longest = Identity { cluster: "x".repeat(CLUSTER_NAME_MAX), ..sample() };
        let alone = Identity { voter: false, voters: 0, peers: Vec::new(), ..sample() };
        let unknown = Identity { advertised: String::new(), ..sample() };
        for identity in [sample(), longest, alone, unknown, Identity { cluster: String::new(), ..sample() }] {
            assert_eq!(read_back(&identity), identity);
        }
    }

    proptest! {
        /// A field that comes back as another's is a node that votes where it has no vote, or looks for its cluster elsewhere.
        #[test]
        fn every_identity_reads_back_as_it_was_written(
            node in "[A-Z2-7]{16}",
            counted in [0..=COUNT_MAX, 0..=COUNT_MAX, 0..=COUNT_MAX],
            cluster_id: u64,
            voters: u32,
            voter: bool,
            cluster in ".{0,60}",
            peers in prop::collection::vec(".{0,30}", 0..20),
            advertised in ".{0,60}",
        ) {
            let [raft_id, boot_epoch, incarnation] = counted;
            let node = node.as_bytes().try_into().unwrap();
            let identity =
                Identity { node, raft_id, boot_epoch, incarnation, cluster, cluster_id, voters, voter, peers, advertised };
            prop_assert_eq!(read_back(&identity), identity);
        }

        /// However many and long the addresses are, the file is one block, which a disk that is full has room for.
        #[test]
        fn peers_that_do_not_fit_are_left_out_and_the_others_kept(
            lengths in prop::collection::vec(prop_oneof![0..100usize, 0..5000usize], 0..100),
            name in 0..=CLUSTER_NAME_MAX,
            own in 0..=ADDR_MAX,
        ) {
            let peers: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let (cluster, advertised) = ("c".repeat(name), "a".repeat(own));
            let identity = Identity { cluster, peers: peers.clone(), advertised: advertised.clone(), ..sample() };
            let found = read_back(&identity);
            prop_assert_eq!(&found.advertised, &advertised);
            let mut rest = peers.iter();
            prop_assert!(found.peers.iter().all(|peer| rest.any(|given| given == peer)), "in their order");
            let used = NAME + name + 2 + own + found.peers.iter().map(|peer| 2 + peer.len()).sum::<usize>();
            let mut left_out = lengths;
            for peer in &found.peers {
                left_out.remove(left_out.iter().position(|length| *length == peer.len()).unwrap());
            }
            if let Some(shortest) = left_out.iter().min() {
                prop_assert!(found.peers.iter().all(|peer| peer.len() <= *shortest));
                prop_assert!(used + 2 + shortest > BLOCK, "there was room for {}", shortest);
            }
            prop_assert_eq!(Identity { peers, ..found }, identity);
        }

        /// A crc is right by chance, or made by a foreign hand: what it covers must not index out of the block.
        #[test]
        fn fields_that_make_no_sense_are_damage_not_a_panic(changes in prop::collection::vec((BODY..200usize, any::<u8>()), 1..20)) {
            let mut block = sample().encode()[0];
            for (at, byte) in changes {
                block.0[at] = byte;
            }
            preface::encode(Kind::Identity, &mut block);
            match Identity::decode(bytes_of(&[block])) {
                Ok(identity) => prop_assert_eq!(read_back(&identity), identity),
                Err(error) => prop_assert_eq!(error, IdentityError::Damaged),
            }
        }
    }

    /// A count of peers that goes beyond the block, and a voter that is neither.
    #[test]
    fn numbers_out_of_range_are_damage() {
        for (at, value) in [(PEERS, 2000), (LENGTH, 256), (VOTER, 2), (NAME + "løcal".len(), 5000)] {
            let mut block = sample().encode()[0];
            put_u16(&mut block.0, at, value);
            preface::encode(Kind::Identity, &mut block);
            assert_eq!(Identity::decode(bytes_of(&[block])), Err(IdentityError::Damaged), "byte {at}");
        }
    }

    /// A node that takes a damaged identity for its own votes under another's name.
    #[test]
    fn every_cut_and_every_flipped_byte_of_an_identity_is_seen() {
        let blocks = sample().encode();
        let mut bytes = bytes_of(&blocks).to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert_eq!(Identity::decode(&bytes), Err(IdentityError::Damaged), "byte {at}");
            bytes[at] ^= 0x10;
            assert_eq!(Identity::decode(&bytes[..at]), Err(IdentityError::Damaged), "cut at {at}");
        }
        bytes.push(0);
        assert_eq!(Identity::decode(&bytes), Err(IdentityError::Damaged));
    }

    /// The previous version has no advertised address: this version reads its files, and it reads this version's files.
    #[test]
    fn an_upgrade_or_a_downgrade_damages_the_identity() {
        let identity = sample();
        let mut block = identity.encode()[0];
        let peers: usize = identity.peers.iter().map(|peer| 2 + peer.len()).sum();
        let own = NAME + identity.cluster.len() + peers;
        assert_eq!(usize::from(get_u16(&block.0, own)), identity.advertised.len(), "behind all that was there before");
        block.0[own..].fill(0);
        preface::encode(Kind::Identity, &mut block);
        let before = Identity { advertised: String::new(), ..identity };
        assert_eq!(Identity::decode(bytes_of(&[block])), Ok(before));
        // A block full of peers has no room for the address.
        let full = Identity { peers: vec!["x".repeat(BLOCK)], ..sample() };
        assert_eq!(read_back(&full), Identity { peers: Vec::new(), ..sample() });
    }

    /// After a downgrade the data must be called newer, not damaged: damage invites salvage.
    #[test]
    fn an_identity_of_a_later_version_is_named_as_such() {
        let later = preface::with_version(sample().encode()[0], 9);
        let error = Identity::decode(bytes_of(&[later])).unwrap_err();
        assert_eq!(error, IdentityError::UnknownVersion(9));
        assert!(error.to_string().contains("version 9"));
    }
}
