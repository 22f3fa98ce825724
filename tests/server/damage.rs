//! What is damaged is refused by name, in one line with the remedy, and left as it is; what a crash can leave is not.
//! `--salvage` goes on with what precedes. What is not damaged, but newer or another's, is refused, and touched by nobody. The byte
//! layout is that of `src/log/block.rs` and `src/log/preface.rs`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use crate::common::cluster::*;
use crate::common::eventually;
use crate::common::process::{Exited, Setup, text};
use crate::common::wire::*;
use doozer::log::{Identity, NodeId, SnapshotWriter, bytes_of};

const BLOCK: usize = 4096;
const FIRST: &str = "0000000000000001.log";
const SECOND: &str = "0000000000000002.log";
const DAMAGED: i32 = 65;

/// A data directory whose last write is of several blocks.
struct Written {
    setup: Setup,
    /// Revisions of `/before` and `/last`.
    before: i64,
    last: i64,
    /// First block of the last write, and the number of its blocks.
    at: usize,
    blocks: usize,
}

fn number(block: &[u8], at: usize, len: usize) -> u64 {
    block[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn write_of(block: &[u8]) -> u64 {
    number(block, 16, 8)
}

impl Written {
    fn new() -> Written {
        let setup = Setup::new();
        let server = setup.start();
        let mut c = server.connect();
        for i in 0..20 {
            c.put(&format!("/some/{i}"), b"x");
        }
        let before = c.put("/before", b"kept");
        let last = c.put("/last", &vec![b'l'; 10_000]);
        // The segment to come is there.
        eventually("the second segment", || setup.files("").contains(&SECOND.to_string()).then_some(()));
        eventually("nothing in the making", || setup.files(".tmp").is_empty().then_some(()));
        server.kill();
        let log = setup.read(FIRST);
        let blocks: Vec<&[u8]> = log.chunks(BLOCK).collect();
        let end = blocks.iter().rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
        let write = write_of(blocks[end - 1]);
        let at = (1..end).find(|i| write_of(blocks[*i]) == write).unwrap();
        assert_eq!((number(blocks[at], 28, 4), end - at), (3, 3), "the last write is the large one");
        Written { setup, before, last, at, blocks: end - at }
    }

    /// The same directory, started otherwise.
    fn with(&self, setup: Setup) -> Written {
        Written { setup, ..*self }
    }

    /// Bytes of the last write, in the first segment.
    fn range(&self) -> std::ops::Range<usize> {
        self.at * BLOCK..(self.at + self.blocks) * BLOCK
    }

    /// Every file's name, length, time of change and first MiB, and when the directory itself was changed.
    fn files(&self) -> Vec<(String, u64, SystemTime, Vec<u8>)> {
        let look = |name: String| {
            let file = File::open(self.setup.dir.join(&name)).unwrap();
            let about = file.metadata().unwrap();
            let mut first = Vec::new();
            if about.is_file() {
                file.take(1 << 20).read_to_end(&mut first).unwrap();
            }
            (name, about.len(), about.modified().unwrap(), first)
        };
        self.setup.files("").into_iter().chain([".".to_owned()]).map(look).collect()
    }

    /// Asserts that a server refuses this directory, in one line with these words, and changes nothing.
    #[track_caller]
    fn refused(&self, what: &str, words: &[&str]) {
        let before = self.files();
        refuses(&self.setup, what, words);
        assert!(self.files() == before, "{what}: the refusal has changed {:?}", self.setup.files(""));
    }
}

#[track_caller]
fn refuses(setup: &Setup, what: &str, words: &[&str]) {
    refuses_with(DAMAGED, setup, what, words);
}

#[track_caller]
fn refuses_with(wanted: i32, setup: &Setup, what: &str, words: &[&str]) {
    let Exited { status, stderr, .. } = setup.refused();
    assert_eq!(status, Some(wanted), "{what}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    for word in words.iter().chain(&[text(&setup.dir)]) {
        assert!(stderr.contains(word), "{what}: {word:?} is not in: {stderr}");
    }
}

/// Starts, and asserts that what precedes the last write is there. Returns what `/last` has.
#[track_caller]
fn starts(written: &Written, setup: &Setup) -> (String, String) {
    let server = setup.start();
    let mut c = server.connect();
    assert_eq!(c.ask(&get("/before")), format!("rev={} value=\"kept\"", written.before));
    for i in 0..20 {
        assert!(c.call(&get(&format!("/some/{i}"))).revision() > 0);
    }
    let last = c.ask(&get("/last"));
    assert!(c.put("/after", b"x") > written.before);
    let stopped = server.stop();
    assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
    (last, stopped.stderr)
}

const MISSING: &str = "rev=0 value=\"\"";

fn patch(setup: &Setup, name: &str, offset: usize, bytes: &[u8]) {
    File::options().write(true).open(setup.dir.join(name)).unwrap().write_all_at(bytes, offset as u64).unwrap();
}

/// A segment that is cut short, at any byte of its last record, is damage: a crash cannot shorten a file.
#[test]
fn a_truncated_segment_is_taken_for_a_shorter_log() {
    let written = Written::new();
    let (setup, range) = (&written.setup, written.range());
    let whole = setup.read(FIRST);
    let mut cuts: Vec<usize> = (range.start..range.end).step_by(997).collect();
    cuts.extend([0, 1, BLOCK - 1, BLOCK, range.start - 1, range.start + 1, range.end - 1, range.end, whole.len() - 1]);
    for cut in cuts {
        let file = File::options().write(true).open(setup.dir.join(FIRST)).unwrap();
        file.set_len(cut as u64).unwrap();
        written.refused(&format!("cut at {cut}"), &[FIRST, "length", "Restore"]);
        file.set_len(whole.len() as u64).unwrap();
        file.write_all_at(&whole[cut..range.end.max(cut)], cut as u64).unwrap();
    }
    // The same of the segment to come.
    let second = setup.read(SECOND);
    for cut in [0, 1, BLOCK, BLOCK + 1, second.len() - 1] {
        setup.write(SECOND, &second[..cut]);
        written.refused(&format!("the second, cut at {cut}"), &[SECOND]);
    }
    setup.write(SECOND, &second);
    // It was all in vain: nothing is lost.
    let (last, _) = starts(&written, setup);
    assert_eq!(last, format!("rev={} value=<10000 bytes>", written.last));
}

/// Of an only segment that was cut short nothing is relied on, not even with `--salvage`: it says so, and leaves the file to
/// whoever can make it whole again.
#[test]
fn salvage_of_a_truncated_only_segment_throws_it_away() {
    let written = Written::new();
    let setup = &written.setup;
    let whole = setup.read(FIRST);
    let file = File::options().write(true).open(setup.dir.join(FIRST)).unwrap();
    let cut = written.range().start + 5_000;
    file.set_len(cut as u64).unwrap();
    let salvaging = written.with(setup.clone().flags(["--salvage"]));
    salvaging.refused("cut, with --salvage", &[FIRST, "length", "no good entry precedes it", "Restore"]);
    file.set_len(whole.len() as u64).unwrap();
    file.write_all_at(&whole[cut..], cut as u64).unwrap();
    let (last, _) = starts(&written, setup);
    assert_eq!(last, format!("rev={} value=<10000 bytes>", written.last));
}

/// A bit that rots anywhere in the last write is seen. It is not taken for a write that was torn: that would drop what was
/// acknowledged without a word.
#[test]
fn rot_in_the_last_record_is_cut_silently() {
    let written = Written::new();
    let (setup, range) = (&written.setup, written.range());
    let whole = setup.read(FIRST);
    // The header, field by field; the payload; the padding behind it.
    let mut places: Vec<usize> = [0, 5, 7, 9, 17, 25, 29, 32, 80, 116, 2_000, BLOCK - 1].to_vec();
    places.extend([BLOCK, BLOCK + 3_000, 2 * BLOCK + 1, 3 * BLOCK - 1]);
    for place in places {
        let at = range.start + place;
        patch(setup, FIRST, at, &[whole[at] ^ 0x40]);
        written.refused(&format!("byte {place} flipped"), &[FIRST, "byte", "crc", "Restore", "--salvage"]);
        patch(setup, FIRST, at, &whole[at..=at]);
    }
    // A whole block of noise, of ones; and a block that belongs elsewhere.
    let noise = crate::common::Random(6).bytes(BLOCK);
    for (what, block) in
        [("noise", noise), ("ones", vec![0xff; BLOCK]), ("another block", whole[BLOCK..2 * BLOCK].to_vec())]
    {
        for i in 0..written.blocks {
            let at = range.start + i * BLOCK;
            patch(setup, FIRST, at, &block);
            written.refused(&format!("{what} in block {i}"), &[FIRST, "--salvage"]);
            patch(setup, FIRST, at, &whole[at..at + BLOCK]);
        }
    }
    // Salvage gives up the last write, and keeps the file as it was.
    let at = range.start + BLOCK + 9;
    patch(setup, FIRST, at, &[whole[at] ^ 1]);
    let damaged = setup.read(FIRST);
    let (last, said) = starts(&written, &setup.clone().flags(["--salvage"]));
    assert_eq!(last, MISSING);
    assert!(said.contains("salvage") && said.contains(FIRST), "{said}");
    let kept = std::fs::read_dir(setup.dir.join("damaged")).unwrap();
    let kept: Vec<Vec<u8>> = kept.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(kept.contains(&damaged), "the damaged file is kept as it was");
    assert_eq!(starts(&written, setup).0, MISSING);
}

/// A salvage that is itself cut short can be begun anew; what precedes the damage is safe at every moment of it.
#[test]
fn a_salvage_that_is_killed_loses_what_precedes() {
    let written = Written::new();
    let setup = &written.setup;
    let at = written.range().start + BLOCK + 9;
    patch(setup, FIRST, at, &[setup.read(FIRST)[at] ^ 1]);
    let salvage = setup.clone().flags(["--salvage"]);
    let mut random = crate::common::Random(7);
    for _ in 0..8 {
        let salvaging = salvage.spawn();
        std::thread::sleep(Duration::from_micros(random.next() % 400_000));
        salvaging.kill();
    }
    assert_eq!(starts(&written, &salvage).0, MISSING);
    assert_eq!(starts(&written, setup).0, MISSING);
}

/// Rot before the end, behind which acknowledged writes stand.
#[test]
fn rot_in_the_midst_is_passed_over() {
    let written = Written::new();
    let setup = &written.setup;
    let whole = setup.read(FIRST);
    let block = |i: usize| i * BLOCK..(i + 1) * BLOCK;
    for i in [1, 2, written.at / 2, written.at - 1] {
        patch(setup, FIRST, i * BLOCK + 100, &[whole[i * BLOCK + 100] ^ 4]);
        written.refused(&format!("a bit of block {i}"), &[FIRST, "crc"]);
        patch(setup, FIRST, i * BLOCK, &[0; BLOCK]);
        written.refused(&format!("block {i} is zero"), &[FIRST, "missing"]);
        patch(setup, FIRST, i * BLOCK, &whole[block(i)]);
    }
    // The first block is the preface, which says what the file is.
    patch(setup, FIRST, 50, &[1]);
    written.refused("a bit of the preface", &[FIRST]);
    patch(setup, FIRST, 0, &[0; BLOCK]);
    written.refused("no preface", &[FIRST]);
    patch(setup, FIRST, 0, &whole[block(0)]);
    // Far behind the end.
    patch(setup, FIRST, 5 << 20, &[1]);
    written.refused("a byte in what was never written", &[FIRST, &(5 << 20).to_string()]);
    patch(setup, FIRST, 5 << 20, &[0]);
    assert_ne!(starts(&written, setup).0, MISSING);
}

/// What a crash can leave of the last write is cut, with a word, and the server starts: some of its blocks are not there.
#[test]
fn a_torn_write_is_taken_for_damage() {
    for missing in 1..7 {
        let written = Written::new();
        for i in (0..3).filter(|i| missing & 1 << i != 0) {
            patch(&written.setup, FIRST, (written.at + i) * BLOCK, &[0; BLOCK]);
        }
        let (last, said) = starts(&written, &written.setup);
        assert_eq!(last, MISSING, "blocks {missing:#b} were missing");
        let line = said.lines().find(|line| line.contains("never acknowledged")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(FIRST), "{line}");
        // Nothing of it comes back, though another write has taken its place.
        let (last, said) = starts(&written, &written.setup);
        assert_eq!(last, MISSING);
        assert!(!said.contains("never acknowledged"), "{said}");
    }
}

/// Files that are missing, exchanged, or another node's.
#[test]
fn a_directory_with_the_wrong_files_is_used() {
    let written = Written::new();
    let (setup, dir) = (&written.setup, &written.setup.dir);
    let (first, second, node) = (setup.read(FIRST), setup.read(SECOND), setup.read("node"));
    let remove = |name: &str| std::fs::remove_file(dir.join(name)).unwrap();
    remove("node");
    written.refused("no identity", &["node", "identity"]);
    for (what, bytes) in [("empty", vec![]), ("short", node[..100].to_vec()), ("zeros", vec![0; BLOCK])] {
        setup.write("node", &bytes);
        written.refused(&format!("an identity that is {what}"), &["node", "damaged"]);
    }
    let mut rotten = node.clone();
    rotten[20] ^= 1;
    setup.write("node", &rotten);
    written.refused("an identity with a wrong bit", &["node", "damaged"]);
    setup.write("node", &node);
    remove(FIRST);
    written.refused("no first segment", &[SECOND, "missing"]);
    remove(SECOND);
    written.refused("no segment", &["no segment"]);
    setup.write(FIRST, &second);
    written.refused("the second segment in the place of the first", &[FIRST, "another name"]);
    setup.write(FIRST, &first);
    setup.write(SECOND, &first);
    written.refused("the first segment in the place of the second", &[SECOND]);
    let other = Setup::new();
    other.start().kill();
    setup.write(SECOND, &second);
    setup.write(FIRST, &other.read(FIRST));
    written.refused("another node's segment", &[FIRST, "node"]);
    setup.write(FIRST, &first);
    assert_ne!(starts(&written, setup).0, MISSING);
}

/// The preface of any file with another version, its checksum right.
fn of_version(block: &[u8], version: u32) -> Vec<u8> {
    let mut block = block[..BLOCK].to_vec();
    block[12..16].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    block
}

/// After a downgrade, the data of a later version must not be taken for damaged, let alone be salvaged.
#[test]
fn a_later_version_is_taken_for_damage() {
    let written = Written::new();
    let setup = &written.setup;
    let salvage = written.with(setup.clone().flags(["--salvage"]));
    let refused = |name: &str, version: u32| {
        for written in [&written, &salvage] {
            written.refused(&format!("{name} of version {version}"), &[name, "version", &version.to_string()]);
        }
    };
    for version in [0, 2, 77, u32::MAX] {
        for name in ["node", FIRST, SECOND] {
            let whole = setup.read(name);
            patch(setup, name, 0, &of_version(&whole, version));
            refused(name, version);
            patch(setup, name, 0, &whole[..BLOCK]);
        }
        let mut snapshot = vec![0; 3 * BLOCK];
        snapshot[..8].copy_from_slice(b"doozersn");
        snapshot[BLOCK..].fill(7);
        let preface = of_version(&snapshot, version);
        snapshot[..BLOCK].copy_from_slice(&preface);
        let name = "0000000000000005.snap";
        setup.write(name, &snapshot);
        refused(name, version);
        std::fs::remove_file(setup.dir.join(name)).unwrap();
    }
    assert_ne!(starts(&written, setup).0, MISSING);
}

/// The contents of a snapshot that a node has written, as far as they tell whose it is.
fn snapshot_of(node: NodeId) -> Vec<u8> {
    let meta = [&[1][..], &node].concat();
    let mut writer = SnapshotWriter::new(5, 1, &meta);
    writer.finish();
    let mut bytes = Vec::new();
    while let Some(part) = writer.next_write() {
        bytes.extend_from_slice(part.bytes());
    }
    bytes
}

/// Only what is damaged is ever set aside. A file of a newer version, of another node, or one that cannot be read as a file, may be
/// whole: a server that moves it away takes the data of every node when all of them are downgraded. A single node and a member of
/// three, which could come back from the others, with and without `--salvage`: each refuses, names the file, and touches nothing, not
/// even its lock.
#[test]
fn data_that_is_not_damaged_is_set_aside() {
    const SNAPSHOT: &str = "0000000000000005.snap";
    let written = Written::new();
    let setup = &written.setup;
    let single = Identity::decode(&setup.read("node")).unwrap();
    let member = Identity { voters: 3, voter: true, peers: vec!["127.0.0.1:9".into()], ..single.clone() };
    let stranger = *b"SOMEBODYELSESIDX";
    for (who, identity) in [("a single node", &single), ("a member of three", &member)] {
        setup.write("node", bytes_of(&identity.encode()));
        let node = setup.read("node");
        for flags in [&[][..], &["--salvage"]] {
            let written = written.with(setup.clone().flags(flags));
            for name in ["node", FIRST, SECOND, SNAPSHOT] {
                let what = format!("{who}, {flags:?}, {name}");
                if name == SNAPSHOT {
                    setup.write(name, &snapshot_of(identity.node));
                }
                let whole = setup.read(name);
                // Of a newer version.
                patch(setup, name, 0, &of_version(&whole, 2));
                written.refused(&format!("{what} is newer"), &[name, "version 2", "use the program that wrote it"]);
                patch(setup, name, 0, &whole[..BLOCK]);
                // Of another node: the identity is, if all others are not of the node that it names.
                match name {
                    "node" => setup.write(name, bytes_of(&Identity { node: stranger, ..identity.clone() }.encode())),
                    SNAPSHOT => setup.write(name, &snapshot_of(stranger)),
                    _ => {
                        let mut other = whole[..BLOCK].to_vec();
                        other[32..48].copy_from_slice(&stranger);
                        patch(setup, name, 0, &of_version(&other, 1));
                    }
                }
                let file = if name == "node" { FIRST } else { name };
                written.refused(&format!("{what} is another node's"), &[file, "node SOMEBODYELSESIDX", "two nodes"]);
                match name {
                    SNAPSHOT => std::fs::remove_file(setup.dir.join(name)).unwrap(),
                    "node" => setup.write(name, &node),
                    _ => patch(setup, name, 0, &whole[..BLOCK]),
                }
                // Something else than a file: it is moved away for the time of that.
                let path = setup.dir.join(name);
                let kept = setup.dir.parent().unwrap().join("kept");
                let was_there = std::fs::rename(&path, &kept).is_ok();
                std::fs::create_dir(&path).unwrap();
                let before = written.files();
                refuses_with(1, &written.setup, &format!("{what} is a directory"), &[name, "move it away"]);
                assert!(written.files() == before, "{what}: the refusal has changed something");
                std::fs::remove_dir(&path).unwrap();
                if was_there {
                    std::fs::rename(&kept, &path).unwrap();
                }
            }
        }
        let yours = written.with(setup.clone().flags(["-c", "yours"]));
        let before = yours.files();
        refuses_with(1, &yours.setup, &format!("{who}, of another cluster"), &["-c yours", "node", "local", "-d"]);
        assert!(yours.files() == before, "{who}: the refusal has changed something");
    }
    // The same byte with a wrong checksum is damage: the member goes to look for the others. Until they let it in, its data stays.
    patch(setup, FIRST, 12, &[2]);
    let server = setup.spawn();
    let said = server.says("cannot be used");
    assert!(said.contains(FIRST) && said.contains("comes back from the others"), "{said}");
    server.says("cannot attach to the node at");
    server.kill();
    let files = setup.files("");
    assert!([FIRST, SECOND].iter().all(|name| files.iter().any(|file| file == name)), "{files:?}");
    assert!(!files.iter().any(|file| file == "damaged"), "{files:?}");
    // The single node keeps it.
    let written = Written::new();
    patch(&written.setup, FIRST, 12, &[2]);
    written.refused("a wrong byte", &[FIRST, "byte 0", "Restore"]);
    patch(&written.setup, FIRST, 12, &[1]);
    assert_ne!(starts(&written, &written.setup).0, MISSING);
}

/// A node whose identity is damaged may have been the only one of its cluster. What it is told with `-a` proves nothing: it may be the
/// node's own address, or one at which nobody lives. So its data stays in its place until another node has let it in.
#[test]
fn the_only_data_is_moved_away_before_another_node_lets_this_one_in() {
    let written = Written::new();
    let (own, dead) = (fresh_address(), fresh_address());
    let setup = written.setup.clone().listen(own);
    let with = |words: &[String]| written.with(setup.clone().flags(words.iter().flat_map(|word| ["-a", word])));
    let whole = setup.read("node");
    let data = || [FIRST, SECOND].map(|name| setup.read(name));
    let before = data();
    let mut rotten = whole.clone();
    rotten[20] ^= 1;
    for (what, identity) in [("cut short", &whole[..4000]), ("rotten", &rotten)] {
        setup.write("node", identity);
        with(&[own.to_string()])
            .refused(&format!("{what}, its own address"), &["node", "damaged", "with -a", "Restore"]);
        // A name that leads to the node itself is found out by looking it up.
        let everywhere = setup.clone().listen(format!("0.0.0.0:{}", own.port()));
        let itself = everywhere.flags(["-a", &format!("localhost:{}", own.port())]).refused();
        assert_eq!(itself.status, Some(DAMAGED), "{what}: {}", itself.stderr);
        assert!(itself.stderr.contains("with -a"), "{what}: {}", itself.stderr);
        for addresses in [&[dead.to_string()][..], &[own.to_string(), dead.to_string()]] {
            let server = with(addresses).setup.spawn();
            let said = server.says("cannot be used");
            assert!(said.contains("when a node of the cluster has let it in"), "{what}: {said}");
            server.says("cannot attach to the node at");
            assert_eq!(server.stop().status, Some(0), "{what}");
        }
        assert!(setup.read("node") == identity && data() == before, "{what}: the data was changed");
        assert!(!setup.files("").contains(&"damaged".to_owned()), "{what}");
    }
    // Nothing is lost: with its identity it starts.
    setup.write("node", &whole);
    assert_ne!(starts(&written, &setup).0, MISSING);
    // When another node lets it in, its data is kept, but no longer used.
    setup.write("node", &rotten);
    let before = data();
    let other = Setup::new().start();
    let server = with(&[own.to_string(), other.addr().to_string()]).setup.start();
    server.says("attached to cluster");
    let aside = std::fs::read_dir(setup.dir.join("damaged")).unwrap();
    let aside: Vec<Vec<u8>> = aside.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(before.iter().chain([&rotten]).all(|file| aside.contains(file)), "{} files", aside.len());
    assert_eq!(server.stop().status, Some(0));
    assert_eq!(setup.start().stop().status, Some(0), "it has an identity of its own");
}

/// Of two members, one has a damaged identity. The other alone is no majority and cannot let it in, so the data has to stay.
#[test]
fn one_of_two_members_with_a_damaged_identity_moves_its_data() {
    let _turn = together();
    let mut cluster = Cluster::new(2).up(2);
    cluster.connect(0).put("/x", b"1");
    cluster.converges();
    cluster.kill(1);
    let setup = cluster.setup(1).clone();
    let whole = setup.read("node");
    let (logs, other) = (setup.files(".log"), cluster.addr(0).to_string());
    setup.write("node", &whole[..4000]);
    let server = setup.clone().flags(["-a", &other]).spawn();
    server.says("cannot attach to the node at");
    server.kill();
    assert_eq!((setup.files(".log"), setup.files("damaged")), (logs, vec![]));
    setup.write("node", &whole);
    cluster.start(1);
    cluster.has_members(2);
}

/// Files in the making are of no meaning after a crash, and other people's files are none of our business.
#[test]
fn a_leftover_file_stops_the_start_or_a_strangers_file_is_touched() {
    let written = Written::new();
    let setup = &written.setup;
    let making = ["node.tmp", "0000000000000003.log.tmp", "0000000000000009.snap.tmp", "probe.tmp"];
    for name in making {
        setup.write(name, b"half of something");
    }
    let others =
        ["notes.txt", "0000000000000001.log.old", "1.log", "000000000000000A.snap", "node.bak", "x.tmp", "core"];
    for name in others {
        setup.write(name, name.as_bytes());
    }
    std::fs::create_dir(setup.dir.join("0000000000000007.old")).unwrap();
    assert_ne!(starts(&written, setup).0, MISSING);
    for name in others {
        assert_eq!(setup.read(name), name.as_bytes());
    }
    for name in making {
        assert!(!setup.files("").contains(&name.to_string()), "{name} is left");
    }
    assert!(setup.dir.join("0000000000000007.old").is_dir());
    // What bears one of our names and is no file is in the way; that is said, not mended.
    std::fs::create_dir(setup.dir.join("0000000000000007.log")).unwrap();
    let refused = setup.refused();
    assert_eq!((refused.status, refused.stderr.lines().count()), (Some(1), 1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("0000000000000007.log") && refused.stderr.contains("move it"),
        "{}",
        refused.stderr
    );
}
