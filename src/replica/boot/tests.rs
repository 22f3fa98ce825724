//! Tests of the decision table, with directories that are whole, damaged, newer, or another node's.

mod forged;

use std::collections::BTreeMap;

use super::*;
use crate::log::{NodeId, bytes_of};
use crate::replica::snapshot::{Part as Piece, Snapshots};

const NODE: NodeId = *b"TESTTESTTESTTEST";
const OTHER: NodeId = *b"SOMEBODYELSESIDX";
const BLOCK: usize = crate::limits::BLOCK;

const FINDINGS: [Finding; 10] = [
    Finding::Damage,
    Finding::Version,
    Finding::OtherNode,
    Finding::OtherCluster,
    Finding::Contents,
    Finding::Denied,
    Finding::Unreadable,
    Finding::NotAFile,
    Finding::Link,
    Finding::NotALock,
];

/// A combination without a row would end the process with a panic; for one with two rows the rows' order would decide.
#[test]
fn every_finding_has_exactly_one_decision() {
    for found in FINDINGS {
        for &part in ANY {
            for &salvage in EITHER {
                let rows = DECISIONS.iter().filter(|row| {
                    row.found.contains(&found) && row.part.contains(&part) && row.salvage.contains(&salvage)
                });
                assert_eq!(rows.count(), 1, "{found:?} {part:?} {salvage}");
                // Without proven damage the node touches nothing, whatever its role and flags are.
                let touches = !matches!(decide(found, part, salvage), Decision::Exit(_));
                assert!(!touches || found == Finding::Damage, "{found:?} {part:?} {salvage}");
            }
        }
    }
}

/// A data directory in memory.
#[derive(Clone, Default)]
struct Disk(BTreeMap<String, Vec<u8>>);

impl Disk {
    /// A node with a snapshot and two segments, of which the first has records.
    fn new(identity: &Identity) -> Disk {
        let mut disk = Disk::default();
        let mut log = Log::create(Params { segment_size: 10 * BLOCK as u64, node: identity.node });
        for turn in 0..2 {
            let prepare = log.wants_segment().expect("a segment to come");
            let file = disk.0.entry(prepare.file()).or_default();
            file.resize(10 * BLOCK, 0);
            file[..BLOCK].copy_from_slice(bytes_of(&prepare.header));
            log.prepared(prepare.generation);
            if turn == 0 {
                log.append_hard_state(1, 1, 0);
                let write = log.next_write().expect("what was staged");
                disk.put(&write.file(), usize::try_from(write.offset).unwrap(), write.bytes());
                let _durable = log.written(write);
            }
        }
        let mut snapshots = Snapshots::new(0, 0, crate::limits::SEGMENT);
        let mut machine = Machine::founding(100);
        snapshots.begin(&mut machine, &identity.node, 7, 1);
        assert!(snapshots.take_in_hand());
        let name = snapshots.name();
        loop {
            match snapshots.next_part(&mut machine.store) {
                Piece::Nothing => break,
                Piece::Write(part) => {
                    let at = usize::try_from(part.offset).unwrap();
                    disk.0.entry(name.clone()).or_default().resize(at + part.bytes().len(), 0);
                    disk.put(&name, at, part.bytes());
                }
                Piece::Later => {}
                other => panic!("{other:?}"),
            }
        }
        disk.0.insert(name::IDENTITY.into(), bytes_of(&identity.encode()).to_vec());
        disk
    }

    fn put(&mut self, file: &str, at: usize, bytes: &[u8]) {
        self.0.get_mut(file).unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn look(&self, told: &Told<'_>) -> Result<Plan, Refused> {
        self.look_with(told, &mut |_| None)
    }

    /// Like `look`, but reading a file fails if `fails` returns an error for it.
    fn look_with(&self, told: &Told<'_>, fails: &mut dyn FnMut(&str) -> Option<ReadError>) -> Result<Plan, Refused> {
        let listing: Vec<FileInfo> =
            self.0.iter().map(|(name, bytes)| FileInfo { name: name.clone(), length: bytes.len() as u64 }).collect();
        let mut read = |file: &str, offset: u64, into: &mut [u8]| {
            if let Some(error) = fails(file) {
                return Err(error);
            }
            let at = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.0[file][at..at + into.len()]);
            Ok(())
        };
        look(told, &listing, &mut read)
    }

    /// Makes a file one of another version, with a right or a wrong checksum.
    fn later(&mut self, file: &str, right: bool) {
        let bytes = self.0.get_mut(file).unwrap();
        bytes[12] += 1;
        if right {
            let crc = crc32fast::hash(&bytes[12..BLOCK]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

fn identity(voters: u32, voter: bool, peers: bool) -> Identity {
    Identity {
        node: NODE,
        raft_id: 1,
        boot_epoch: 3,
        incarnation: 0,
        cluster: "mine".into(),
        cluster_id: 9,
        voters,
        voter,
        peers: if peers { vec!["127.0.0.1:1".into()] } else { Vec::new() },
        advertised: String::new(),
    }
}

fn told() -> Told<'static> {
    Told { cluster: None, attaches: false, salvage: false, history: 100, keep: 0, seed: 1 }
}

fn identities() -> Vec<(&'static str, Identity)> {
    vec![
        ("alone", identity(1, true, false)),
        ("one of two", identity(2, true, true)),
        ("a member of three", identity(3, true, true)),
        ("a standby", identity(3, false, true)),
        ("a standby that knows nobody", identity(3, false, false)),
    ]
}

fn files(disk: &Disk) -> Vec<String> {
    disk.0.keys().cloned().collect()
}

/// A plan or a refusal, in short.
fn outcome(result: Result<Plan, Refused>) -> String {
    match result {
        Ok(plan) => {
            let debug = format!("{plan:?}");
            debug.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
        }
        Err(refused) => {
            assert!(refused.line.contains("Nothing was changed") || refused.line.contains("-c "), "{refused}");
            format!("{:?} {}", refused.found, refused.status)
        }
    }
}

/// The whole table, with real files: what is wrong, in which file, on which node.
#[test]
fn what_is_found_where_decides_what_is_done() {
    for (who, identity) in identities() {
        let whole = Disk::new(&identity);
        assert_eq!(outcome(whole.look(&told())), "Resume", "{who}");
        let damaged = match who {
            "alone" | "one of two" | "a standby that knows nobody" => "Damage 65",
            _ => "ComeBack",
        };
        for file in files(&whole) {
            let of_identity = file == name::IDENTITY;
            for salvage in [false, true] {
                let told = Told { salvage, ..told() };
                let what = format!("{who}, {file}, salvage {salvage}");
                // A newer version, and a damaged byte that only looks like one.
                let mut disk = whole.clone();
                disk.later(&file, true);
                let refused = disk.look(&told).unwrap_err();
                assert!(refused.line.contains(&file) && refused.line.contains("version 2"), "{what}: {refused}");
                assert_eq!(outcome(Err(refused)), "Version 65", "{what}");
                let mut disk = whole.clone();
                disk.later(&file, false);
                let found = outcome(disk.look(&told));
                match (of_identity, salvage && who == "alone") {
                    (true, _) => assert_eq!(found, "Damage 65", "{what}"),
                    (false, false) => assert_eq!(found, damaged, "{what}"),
                    (false, true) => assert!(found == "Salvage" || found == "Damage 65", "{what}: {found}"),
                }
                // The permission is missing, or reading fails.
                for (denied, status) in [(true, "Denied 1"), (false, "Unreadable 1")] {
                    let mut fails = |name: &str| (name == file).then(|| ReadError { denied, said: "no".into() });
                    let refused = whole.look_with(&told, &mut fails).unwrap_err();
                    assert!(refused.line.contains(&file), "{what}: {refused}");
                    assert_eq!(outcome(Err(refused)), status, "{what}");
                }
            }
        }
        // Files of another node.
        let other = Disk::new(&Identity { node: OTHER, ..identity.clone() });
        for file in files(&whole) {
            let mut disk = whole.clone();
            disk.0.insert(file.clone(), other.0[&file].clone());
            let refused = disk.look(&told()).unwrap_err();
            // An identity of another node makes all others foreign.
            assert!(refused.line.contains(&file) || file == name::IDENTITY, "{who}, {file}: {refused}");
            assert_eq!(outcome(Err(refused)), "OtherNode 65", "{who}, {file}");
        }
        assert_eq!(outcome(whole.look(&Told { cluster: Some("yours"), ..told() })), "OtherCluster 1", "{who}");
        assert_eq!(outcome(whole.look(&Told { cluster: Some("mine"), ..told() })), "Resume", "{who}");
    }
}

/// A newer file beside a damaged one: the newer program may have written what looks damaged, and setting the damaged file aside
/// would move the newer file too.
#[test]
fn damage_beside_a_newer_file_moves_the_newer_file() {
    for (who, identity) in identities() {
        let whole = Disk::new(&identity);
        let names = files(&whole);
        for newer in &names {
            for broken in names.iter().filter(|name| *name != newer) {
                for attaches in [false, true] {
                    let told = Told { salvage: true, attaches, ..told() };
                    let mut disk = whole.clone();
                    disk.later(newer, true);
                    disk.later(broken, false);
                    // With a damaged identity nobody can tell whose the file is, but its version is known.
                    assert_eq!(outcome(disk.look(&told)), "Version 65", "{who}: {newer} is newer, {broken} damaged");
                }
            }
        }
        // The same with another node's snapshot, which only its contents reveal.
        let mut disk = whole.clone();
        let other = Disk::new(&Identity { node: OTHER, ..identity });
        let snapshot = names.iter().find(|name| name.ends_with(".snap")).unwrap();
        disk.0.insert(snapshot.clone(), other.0[snapshot].clone());
        disk.later(&names[1], false);
        assert_eq!(outcome(disk.look(&told())), "OtherNode 65", "{who}");
    }
}

/// A node whose identity is damaged or missing has no name: it gives up its data only with `-a`.
#[test]
fn a_node_without_a_name_gives_up_its_data_unasked() {
    let whole = Disk::new(&identity(3, true, true));
    let attaching = Told { attaches: true, ..told() };
    let mut damaged = whole.clone();
    damaged.later(name::IDENTITY, false);
    let mut missing = whole.clone();
    missing.0.remove(name::IDENTITY);
    for disk in [damaged, missing] {
        let refused = disk.look(&told()).unwrap_err();
        assert!(refused.line.contains("-a"), "{refused}");
        assert_eq!(outcome(Err(refused)), "Damage 65");
        // With its own address only it knows nobody, even if that turns out later.
        match disk.look(&attaching) {
            Ok(Plan::Attach(damage)) => assert_eq!(nobody(&damage), disk.look(&told()).unwrap_err()),
            other => panic!("{}", outcome(other)),
        }
        // It keeps the data if the file may be whole.
        let mut fails = |name: &str| (name != name::IDENTITY).then(|| ReadError { denied: true, said: "no".into() });
        assert_eq!(outcome(disk.look_with(&attaching, &mut fails)), "Denied 1");
    }
    let mut fails = |name: &str| (name == name::IDENTITY).then(|| ReadError { denied: true, said: "no".into() });
    assert_eq!(outcome(whole.look_with(&attaching, &mut fails)), "Denied 1");
}

/// A directory that contains no node, or a node that has not begun its log.
#[test]
fn a_directory_without_a_log_is_taken_for_a_lost_one() {
    assert_eq!(outcome(Disk::default().look(&told())), "New");
    let only =
        |identity: Identity| Disk(BTreeMap::from([(name::IDENTITY.to_owned(), bytes_of(&identity.encode()).to_vec())]));
    assert_eq!(outcome(only(Identity { raft_id: 0, ..identity(0, false, true) }).look(&told())), "Join");
    assert_eq!(outcome(only(Identity { boot_epoch: 0, ..identity(1, true, false) }).look(&told())), "Begin");
    assert_eq!(outcome(only(identity(1, true, false)).look(&told())), "Damage 65");
    assert_eq!(outcome(only(identity(3, true, true)).look(&told())), "ComeBack");
}
