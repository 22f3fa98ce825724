//! Whether a node can go on from what a power cut has left, with all that it has promised.

use std::collections::BTreeMap;

use doozer::log::name;
use doozer::log::{self, FileInfo, Identity, Refusal, Survey};
use doozer::replica::rebuild::Rebuild;
use doozer::store::{Kind, Store};

use super::record::*;

/// A value, as far as it takes to tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub head: Vec<u8>,
    length: usize,
    crc: u32,
}

impl Value {
    pub fn of(bytes: &[u8]) -> Value {
        Value { head: bytes[..bytes.len().min(32)].to_vec(), length: bytes.len(), crc: crc32fast::hash(bytes) }
    }
}

/// What made a revision: a path, and what was written there unless it was deleted.
pub type Made = (String, Option<Value>);

/// What is known of a run, by those who were told.
#[derive(Debug, Default)]
pub struct Known {
    /// The history: what made the revisions 1, 2, 3…
    pub history: Vec<Made>,
    /// What was acknowledged: up to this revision, before that moment.
    pub acknowledged: Vec<(usize, i64)>,
    /// Who the node is, and in which epoch, from the moment that it acted so.
    pub boots: Vec<(usize, Identity)>,
    /// How many revisions stay readable, at least.
    pub readable: u64,
}

impl Known {
    /// The last revision that was acknowledged before this moment.
    pub fn acknowledged_at(&self, at: usize) -> i64 {
        self.acknowledged.iter().filter(|(when, _)| *when <= at).map(|(_, rev)| *rev).max().unwrap_or(0)
    }

    /// Who the node was at this moment, if it had acted yet.
    pub fn boot_at(&self, at: usize) -> Option<&Identity> {
        self.boots.iter().rfind(|(when, _)| *when <= at).map(|(_, identity)| identity)
    }

    fn files_at(&self, rev: usize) -> BTreeMap<&str, (usize, &Value)> {
        let mut files = BTreeMap::new();
        for (rev, (path, value)) in (1..).zip(&self.history[..rev]) {
            match value {
                Some(value) => _ = files.insert(path.as_str(), (rev, value)),
                None => _ = files.remove(path.as_str()),
            }
        }
        files
    }
}

/// Where a node goes on.
#[derive(Debug)]
pub struct Found {
    pub rev: i64,
    pub torn: bool,
    pub snapshot: bool,
}

/// Recovers what is in these files as the server does, and compares it with what is known to have been promised before the moment
/// `at`.
///
/// # Errors
/// What is wrong.
pub fn check(files: Option<&Files>, known: &Known, at: usize) -> Result<Found, String> {
    let (acknowledged, boot) = (known.acknowledged_at(at), known.boot_at(at));
    let none = Files::new();
    let files = files.unwrap_or(&none);
    let listing: Vec<FileInfo> =
        files.iter().map(|(name, content)| FileInfo { name: name.clone(), length: content.size }).collect();
    let survey = log::survey(&listing).map_err(|damage| format!("refused: {damage}"))?;
    let new = |why: &str| match (boot, acknowledged) {
        (None, 0) => Ok(Found { rev: 0, torn: false, snapshot: false }),
        _ => Err(format!("{why}, after {acknowledged} was acknowledged by {boot:?}")),
    };
    if survey == Survey::Empty {
        return new("the directory is a new one");
    }
    let bytes = files[name::IDENTITY].read(0, index(files[name::IDENTITY].size));
    let identity = Identity::decode(&bytes).map_err(|e| format!("refused: {e}"))?;
    if let Some(boot) = boot
        && (identity.node, identity.cluster_id, identity.raft_id) != (boot.node, boot.cluster_id, boot.raft_id)
    {
        return Err(format!("another node: {identity:?}, not {boot:?}"));
    }
    if identity.boot_epoch == 0 && survey == Survey::IdentityOnly {
        return new("the node is a new one");
    }
    let mut rebuild = Rebuild::new(identity.node, known.readable);
    let mut read = |name: &str, offset: u64, into: &mut [u8]| -> Result<(), String> {
        let file = &files[name];
        if offset + into.len() as u64 > file.size {
            return Err("beyond the end of the file".into());
        }
        file.read_into(offset, into);
        Ok(())
    };
    let recovered = log::recover(&identity.node, &listing, &mut read, &mut |event| rebuild.take(event));
    let recovered = recovered.map_err(|refusal: Refusal<String>| format!("refused: {refusal}"))?;
    if let Some((file, damage)) = &recovered.fell_back {
        return Err(format!("the snapshot {file} is damaged: {damage}"));
    }
    let (machine, start) =
        rebuild.finish(identity.raft_id, 1, &recovered).map_err(|unusable| format!("refused: {unusable}"))?;
    let epoch = machine.seen().get(&start.id).map_or(0, |seen| seen.epoch).max(identity.boot_epoch) + 1;
    if let Some(boot) = boot
        && epoch <= boot.boot_epoch
    {
        return Err(format!("epoch {epoch} was used before"));
    }
    compare(&machine.store, known, acknowledged)?;
    Ok(Found { rev: machine.store.revision(), torn: recovered.torn.is_some(), snapshot: recovered.snapshot.is_some() })
}

/// Compares the history and the files with what they have to be.
fn compare(store: &Store, known: &Known, acknowledged: i64) -> Result<(), String> {
    let rev = store.revision();
    if rev < acknowledged {
        return Err(format!("lost: revision {acknowledged} was acknowledged, and {rev} is the last that is there"));
    }
    let last = usize::try_from(rev).expect("not negative");
    if last > known.history.len() {
        return Err(format!("revision {rev} was never made"));
    }
    let first = store.first_revision().max(1);
    if rev.saturating_sub(first) + 1 < rev.min(i64::try_from(known.readable).expect("a small number")) {
        return Err(format!("the history begins at {first}, and ends at {rev}"));
    }
    let mut path = Vec::new();
    for at in first..=rev {
        let event = store.event(at, &mut path).ok_or_else(|| format!("revision {at} is missing"))?;
        let value = (event.kind == Kind::Set).then(|| Value::of(event.value));
        let made = (String::from_utf8_lossy(&path).into_owned(), value);
        let expected = &known.history[usize::try_from(at).expect("positive") - 1];
        if made != *expected {
            return Err(format!("revision {at} is {made:?}, and was {expected:?}"));
        }
    }
    let mut files = known.files_at(last);
    let mut wrong = Vec::new();
    store.files_at(rev, None, &mut isize::MAX.clone(), |path, rev, value| {
        let path = String::from_utf8_lossy(path).into_owned();
        let expected = files.remove(path.as_str());
        if !expected.is_some_and(|(at, was)| i64::try_from(at) == Ok(rev) && *was == Value::of(value)) {
            wrong.push(format!("{path} at {rev} is not {expected:?}"));
        }
        true
    });
    wrong.extend(files.keys().map(|path| format!("{path} is missing")));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
