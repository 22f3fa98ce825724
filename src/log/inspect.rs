//! Looks at the first block of every file before anything else: may this program touch these files at all?
//!
//! Invariant: a directory with a file of an unknown version, or of another node, is refused for that reason, even if something else
//! is wrong as well. So damage found beside such a file never causes the file to be moved or changed.

use super::block::Block;
use super::damage::{Damage, Refusal, Wrong};
use super::directory::{Directory, FileInfo};
use super::identity::{Identity, IdentityError};
use super::name;
use super::preface::{self, Kind, Unfit};
use super::read::Reader;
use super::recovery::Read;
use super::segment::{Header, NodeId};
use crate::limits::BLOCK;

/// Checks the first block of every segment and snapshot. It skips a damaged block: [`super::recover`] says more about damage.
/// Without `node` it does not check whose the files are.
///
/// # Errors
/// If a file is of an unknown version, a segment is another node's, or `read` fails.
pub fn inspect<E>(node: Option<&NodeId>, listing: &[FileInfo], read: &mut Read<'_, E>) -> Result<(), Refusal<E>> {
    let directory = Directory::sort(listing);
    let mut reader = Reader::new(node.unwrap_or(&[0; 16]), &[], read);
    let segments = directory.segments.iter().map(|(&generation, &length)| (name::segment(generation), length, true));
    let snapshots = directory.snapshots.iter().map(|(&index, &length)| (name::snapshot(index), length, false));
    for (file, length, is_segment) in segments.chain(snapshots) {
        if length < BLOCK as u64 {
            continue;
        }
        let mut block = [Block::ZERO];
        reader.read(&file, 0, &mut block)?;
        let unfit = if is_segment {
            match (Header::decode(&block[0].0), node) {
                (Ok(header), Some(node)) if header.node != *node => {
                    return Err(Refusal::Foreign { file, owner: header.node, node: *node });
                }
                (header, _) => header.err(),
            }
        } else {
            preface::check(Kind::Snapshot, &block[0].0).err()
        };
        if let Some(Unfit::Version(version)) = unfit {
            return Err(Refusal::UnknownVersion { file, version });
        }
    }
    Ok(())
}

/// Reads the identity, which must be in `listing`.
///
/// # Errors
/// If the identity is damaged or of an unknown version, or if `read` fails.
pub fn read_identity<E>(listing: &[FileInfo], read: &mut Read<'_, E>) -> Result<Identity, Refusal<E>> {
    let file = name::IDENTITY.to_owned();
    let length = listing.iter().find(|info| info.name == file).map_or(0, |info| info.length);
    let damage = Damage { file: file.clone(), offset: 0, wrong: Wrong::Identity, last: None, salvage: None };
    if length != BLOCK as u64 {
        return Err(Refusal::Damage(Box::new(damage)));
    }
    let mut block = [Block::ZERO];
    Reader::new(&[0; 16], &[], read).read(&file, 0, &mut block)?;
    Identity::decode(&block[0].0).map_err(|error| match error {
        IdentityError::Damaged => Refusal::Damage(Box::new(damage)),
        IdentityError::UnknownVersion(version) => Refusal::UnknownVersion { file, version },
    })
}
