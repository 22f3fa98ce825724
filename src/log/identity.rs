//! The file `node`: who this data directory is.
//!
//! One block, replaced as a whole: written as `node.tmp`, synced, renamed, the directory synced.
//!
//! ```text
//!  0  16  preface
//! 16  16  node id
//! 32   8  raft id; 0 = not a member yet
//! 40   8  boot epoch
//! 48   2  length of the cluster's name
//! 50   …  cluster's name, UTF-8; zeros behind it
//! ```
//! Invariants:
//! * It is made last when a data directory is made: a directory without it never acknowledged anything.
//! * The boot epoch is raised at every start, and durable before it is used: no two lives of a node number their mutations alike.

use super::block::{Block, get_u16, get_u64, put_u16, put_u64};
use super::preface::{self, BODY, Kind, Unfit};
use super::segment::NodeId;
use crate::limits::{BLOCK, CLUSTER_NAME_MAX};

const NODE: usize = BODY;
const RAFT: usize = NODE + 16;
const EPOCH: usize = RAFT + 8;
const LENGTH: usize = EPOCH + 8;
const NAME: usize = LENGTH + 2;
const _: () = assert!(NAME == 50 && NAME + CLUSTER_NAME_MAX <= BLOCK);

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own id, which stays as long as its data directory.
    pub node: NodeId,
    /// Its id in the raft group; 0 as long as it is not a member. A node that sets its data aside gets another one.
    pub raft_id: u64,
    /// How often it was started.
    pub boot_epoch: u64,
    /// Name of its cluster.
    pub cluster: String,
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
                "file node is damaged: restore the directory from a copy, or start with an empty directory as a new node",
            ),
            IdentityError::UnknownVersion(version) => write!(
                f,
                "file node is of format version {version}, and this program knows version {}: use the program that wrote it",
                preface::VERSION
            ),
        }
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// The bytes of the file: one block.
    ///
    /// # Panics
    /// If the cluster's name is longer than [`CLUSTER_NAME_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<Block> {
        let name = self.cluster.as_bytes();
        assert!(name.len() <= CLUSTER_NAME_MAX, "a cluster's name of {} bytes", name.len());
        let length = u16::try_from(name.len()).expect("a name within the limit");
        let mut block = Block::ZERO;
        block.0[NODE..RAFT].copy_from_slice(&self.node);
        put_u64(&mut block.0, RAFT, self.raft_id);
        put_u64(&mut block.0, EPOCH, self.boot_epoch);
        put_u16(&mut block.0, LENGTH, length);
        block.0[NAME..NAME + name.len()].copy_from_slice(name);
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
        let name = std::str::from_utf8(&block[NAME..NAME + length]).map_err(|_| IdentityError::Damaged)?;
        let mut node = [0; 16];
        node.copy_from_slice(&block[NODE..RAFT]);
        let (raft_id, boot_epoch) = (get_u64(block, RAFT), get_u64(block, EPOCH));
        Ok(Identity { node, raft_id, boot_epoch, cluster: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::bytes_of;
    use super::*;

    fn sample() -> Identity {
        Identity { node: *b"ABCDEFGHIJKLMNOP", raft_id: 3, boot_epoch: 41, cluster: "løcal".to_owned() }
    }

    /// A node that forgets its epoch numbers its mutations twice.
    #[test]
    fn an_identity_reads_back_as_it_was_written() {
        let longest = Identity { cluster: "x".repeat(CLUSTER_NAME_MAX), ..sample() };
        for identity in [sample(), longest, Identity { cluster: String::new(), ..sample() }] {
            assert_eq!(Identity::decode(bytes_of(&identity.encode())), Ok(identity));
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

    /// After a downgrade the data must be called newer, not damaged: damage invites salvage.
    #[test]
    fn an_identity_of_a_later_version_is_named_as_such() {
        let later = preface::with_version(sample().encode()[0], 9);
        let error = Identity::decode(bytes_of(&[later])).unwrap_err();
        assert_eq!(error, IdentityError::UnknownVersion(9));
        assert!(error.to_string().contains("version 9"));
    }
}
