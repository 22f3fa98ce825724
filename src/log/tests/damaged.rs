//! What a crash cannot leave is refused, never cut; and what precedes it can be salvaged.

use super::disk::*;
use crate::limits::BLOCK;
use crate::log::block::{Head, SEAL};
use crate::log::*;

/// A log over three segments and the prepared fourth, all of whose writes are complete.
fn sample() -> Node {
    let mut node = Node::create();
    node.fill_to(3);
    let index = node.log.last_index() + 1;
    node.entry(index, 1, 9000);
    node.log.append_hard_state(1, 1, index);
    node.log.append_entry(index + 1, 1, 0, &Rng::new(1).bytes(9000));
    node.flush();
    node
}

/// Offset and bytes of the last write.
fn last_write(disk: &Disk) -> (String, usize, usize) {
    let file = name::segment(3);
    let heads = disk.files[&file].chunks(BLOCK).skip(1).map(|block| {
        let block: &[u8; BLOCK] = block.try_into().unwrap();
        Head::decode(block).ok()
    });
    let (at, head) = heads.enumerate().filter_map(|(i, head)| Some((i + 1, head?))).next_back().unwrap();
    let count = usize::try_from(head.count).unwrap();
    (file, (at + 1 - count) * BLOCK, count * BLOCK)
}

fn block(disk: &Disk, file: &str, at: usize) -> [u8; BLOCK] {
    disk.files[file][at * BLOCK..][..BLOCK].try_into().unwrap()
}

/// Salvages as often as it takes; what is left must be a prefix of what was there.
fn salvage(disk: &Disk, whole: &[Kept]) -> usize {
    let mut disk = disk.clone();
    for _ in 0..10 {
        match disk.recover() {
            Ok(outcome) => {
                let kept = outcome.kept();
                assert_eq!(kept, whole[..kept.len()]);
                let mut node = Node::start(disk);
                let index = node.log.last_index() + 1;
                node.entry(index, 9, 10);
                assert_eq!(node.disk.recover().unwrap().recovered.last_index, index);
                return kept.len();
            }
            Err(Refusal::Damage(damage)) => match damage.salvage {
                Some(salvage) => disk.salvage(&salvage),
                None => {
                    assert_eq!(damage.last.unwrap_or(0), 0, "nothing precedes it");
                    return 0;
                }
            },
            Err(refusal) => panic!("{refusal}"),
        }
    }
    panic!("no end of salvage");
}

/// A file that lost its end is not the work of a crash: segments have their full size before they have their name.
#[test]
fn a_segment_cut_at_any_byte_is_refused() {
    let node = sample();
    let whole = node.disk.recover().unwrap().kept();
    for file in [name::segment(1), name::segment(3), name::segment(4)] {
        let length = node.disk.files[&file].len();
        let (.., last) = last_write(&node.disk);
        for cut in (0..length).step_by(61).chain(length - last - 100..length) {
            let mut disk = node.disk.clone();
            disk.files.get_mut(&file).unwrap().truncate(cut);
            let damage = disk.damage();
            assert_eq!(damage.wrong, Wrong::Log(Fault::Length), "{file} cut at {cut}");
            assert_eq!(damage.file, file);
        }
        let mut disk = node.disk.clone();
        disk.files.get_mut(&file).unwrap().push(0);
        assert_eq!(disk.fault(), Fault::Length);
        salvage(&disk, &whole);
    }
}

/// Rot in the very last write, which was acknowledged, must not pass for a torn write.
#[test]
fn every_flipped_byte_of_the_last_write_is_refused() {
    let node = sample();
    let whole = node.disk.recover().unwrap().kept();
    let (file, offset, length) = last_write(&node.disk);
    let mut disk = node.disk.clone();
    for at in offset..offset + length {
        disk.files.get_mut(&file).unwrap()[at] ^= 0x40;
        let damage = disk.damage();
        assert_eq!(damage.wrong, Wrong::Log(Fault::Block), "byte {at}");
        assert_eq!(damage.offset, (at - at % BLOCK) as u64);
        if at % 997 == 0 {
            assert_eq!(salvage(&disk, &whole), whole.len() - 2);
        }
        disk.files.get_mut(&file).unwrap()[at] ^= 0x40;
    }
}

/// The same in every other block of every segment, used or not.
#[test]
fn a_flipped_byte_anywhere_is_refused() {
    let node = sample();
    let whole = node.disk.recover().unwrap().kept();
    for file in node.disk.files.keys() {
        for at in (0..node.disk.files[file].len()).step_by(509) {
            let mut disk = node.disk.clone();
            disk.files.get_mut(file).unwrap()[at] ^= 1;
            assert_eq!(&disk.damage().file, file, "byte {at}");
            salvage(&disk, &whole);
        }
    }
}

/// A device lost a block of a write that was durable: what comes behind it proves that it was.
#[test]
fn a_lost_block_with_a_later_write_behind_it_is_refused() {
    let node = sample();
    let whole = node.disk.recover().unwrap().kept();
    let (_, last, _) = last_write(&node.disk);
    for generation in 1..=3 {
        let file = name::segment(generation);
        for at in 1..BLOCKS {
            let mut disk = node.disk.clone();
            let was = block(&disk, &file, at);
            disk.put(&file, (at * BLOCK) as u64, &[0; BLOCK]);
            let fault = match Head::decode(&was) {
                Err(_) => continue,
                Ok(_) if generation == 3 && at * BLOCK >= last => continue,
                Ok(head) if head.flags == SEAL => Fault::Unsealed,
                Ok(_) => Fault::Hole,
            };
            if fault == Fault::Unsealed && generation == 1 {
                // Its successor was written to, and is followed by others.
                assert_eq!(disk.fault(), Fault::Unsealed);
            } else {
                assert_eq!(disk.fault(), fault, "{file} block {at}");
            }
            assert!(salvage(&disk, &whole) < whole.len());
        }
    }
}

/// A block that a device wrote to the wrong place is whole: only its place gives it away.
#[test]
fn a_misplaced_block_is_refused() {
    let node = sample();
    let (file, offset, length) = last_write(&node.disk);
    let end = (offset + length) as u64;
    let first = block(&node.disk, &file, 1);
    let mut disk = node.disk.clone();
    disk.put(&file, end, &first);
    assert_eq!(disk.fault(), Fault::Astray, "an earlier block of the same segment");
    let mut disk = node.disk.clone();
    let own = block(&disk, &file, offset / BLOCK + 1);
    disk.put(&file, offset as u64, &own);
    assert_eq!(disk.fault(), Fault::Astray, "a block of the write twice");
    let mut disk = node.disk.clone();
    disk.put(&name::segment(2), SEGMENT - BLOCK as u64, &first);
    assert_eq!(disk.fault(), Fault::Newer, "a block of a later segment");
    // Two writes that do not fit into one segment: the first is sealed early.
    let mut node = Node::create();
    node.entry(1, 1, 18_000);
    node.entry(2, 1, 18_000);
    let past = block(&node.disk, &name::segment(1), 1);
    node.disk.put(&name::segment(1), SEGMENT - BLOCK as u64, &past);
    assert_eq!(node.disk.fault(), Fault::BehindSeal);
}

/// Files that are lost, from the first to the prepared one.
#[test]
fn a_missing_segment_is_refused() {
    let node = sample();
    let whole = node.disk.recover().unwrap().kept();
    let without = |generations: &[u64]| {
        let mut disk = node.disk.clone();
        for &generation in generations {
            disk.files.remove(&name::segment(generation));
        }
        disk
    };
    assert_eq!(without(&[1]).fault(), Fault::Gap);
    assert_eq!(without(&[1]).damage().salvage, None, "nothing precedes it");
    assert_eq!(without(&[2]).fault(), Fault::Gap);
    assert_eq!(without(&[3]).fault(), Fault::Gap);
    assert_eq!(without(&[3, 4]).fault(), Fault::NoSuccessor);
    assert_eq!(without(&[1, 2, 3]).fault(), Fault::Gap);
    assert_eq!(without(&[1, 2, 3, 4]).fault(), Fault::NoLog);
    for gone in [&[2_u64][..], &[3], &[3, 4], &[2, 3, 4]] {
        let kept = salvage(&without(gone), &whole);
        assert!(kept > 0 && kept < whole.len());
    }
    // The prepared one is no loss: nothing was ever in it.
    assert_eq!(without(&[4]).recover().unwrap().kept(), whole);
}

/// The seal is lost, and with it perhaps writes before it; what follows gives it away even if it is empty.
#[test]
fn an_unsealed_segment_with_too_many_behind_it_is_refused() {
    let mut node = Node::create();
    // The seal of segment 1 is durable, segment 3 prepared, and nothing written to segment 2 yet.
    let seal = loop {
        let index = node.log.last_index() + 1;
        node.log.append_entry(index, 1, 0, b"x");
        let write = node.log.next_write().unwrap();
        node.disk.write(&write);
        let offset = write.offset;
        _ = node.log.written(write);
        if node.log.staged() {
            break offset;
        }
    };
    node.prepare();
    let whole = node.disk.recover().unwrap().kept();
    node.disk.put(&name::segment(1), seal, &[0; BLOCK]);
    assert_eq!(node.disk.fault(), Fault::Surplus);
    assert_eq!(salvage(&node.disk, &whole), whole.len());
}

/// A preface that is gone, of another file, of another node, of a later program.
#[test]
fn a_preface_that_does_not_fit_is_refused() {
    let node = sample();
    let with = |file: u64, preface: &[u8]| {
        let mut disk = node.disk.clone();
        disk.put(&name::segment(file), 0, preface);
        disk
    };
    for generation in 1..=4 {
        assert_eq!(with(generation, &[0; BLOCK]).fault(), Fault::Preface);
    }
    let other = block(&node.disk, &name::segment(2), 0);
    for generation in [1, 3, 4] {
        assert_eq!(with(generation, &other).fault(), Fault::Misnamed);
    }
    let later = preface::with_version(Block(other), 2);
    match with(2, &later.0).recover() {
        Err(Refusal::UnknownVersion { file, version: 2 }) => assert_eq!(file, name::segment(2)),
        other => panic!("{other:?}"),
    }
    let foreign = segment::Header { generation: 2, size: SEGMENT, node: *b"SOMEBODYELSESIDX" };
    match with(2, &foreign.encode().0).recover() {
        Err(Refusal::Foreign { file, owner, .. }) => {
            assert_eq!((file, owner), (name::segment(2), foreign.node));
        }
        other => panic!("{other:?}"),
    }
}

/// Blocks that are whole, around records that are not: only a fault of the writer, or of memory, makes such.
#[test]
fn records_that_make_no_sense_are_refused() {
    let node = sample();
    let (file, offset, _) = last_write(&node.disk);
    let at = offset / BLOCK;
    let forge = |change: &dyn Fn(&mut [u8; BLOCK])| {
        let mut disk = node.disk.clone();
        let mut bytes = block(&disk, &file, at);
        let head = Head::decode(&bytes).unwrap();
        change(&mut bytes);
        head.encode(&mut bytes);
        disk.put(&file, offset as u64, &bytes);
        disk.fault()
    };
    let payload = block::HEAD;
    assert_eq!(forge(&|bytes| bytes[payload] ^= 1), Fault::Opening, "the opening");
    assert_eq!(forge(&|bytes| bytes[payload + record::OPENING + 9] ^= 1), Fault::Record, "a record");
    // Whole records, in an order that the writer would never stage.
    let append = |record: &Record<'_>, position: u64| {
        let mut disk = node.disk.clone();
        let recovered = disk.recover().unwrap().recovered;
        let mut gather = gather::Gather::new(Vec::new(), recovered.tail.state);
        let mut bogus = recovered.tail.state;
        bogus.position = position;
        let mut forged = gather::Gather::new(Vec::new(), bogus);
        forged.push(record, bogus);
        gather.push(record, bogus);
        let gather = if position == recovered.tail.state.position { gather } else { forged };
        let mut blocks = gather.close(3, recovered.tail.next_write, 0);
        if position != recovered.tail.state.position {
            let head = Head::decode(&blocks[0].0).unwrap();
            let opening = recovered.tail.state.encode();
            blocks[0].0[payload..payload + record::OPENING].copy_from_slice(&opening);
            head.encode(&mut blocks[0].0);
        }
        disk.put(&file, segment::offset(recovered.tail.current.next), bytes_of(&blocks));
        disk.fault()
    };
    let next = node.log.position().0 + 1;
    let index = node.log.last_index();
    let hard = node.log.hard_state();
    let entry = |index| Record::Entry { index, term: 1, entry_type: 0, data: b"" };
    assert_eq!(append(&entry(index + 2), next), Fault::Sequence, "a gap");
    assert_eq!(append(&entry(1), next), Fault::Sequence, "a committed entry");
    assert_eq!(append(&entry(index + 1), next + 1), Fault::Sequence, "a position");
    let falls = HardState { term: 0, ..hard };
    assert_eq!(append(&Record::HardState(falls), next), Fault::Sequence, "the term");
    let above = HardState { commit: index + 1, ..hard };
    assert_eq!(append(&Record::HardState(above), next), Fault::Sequence, "commit");
    assert_eq!(append(&Record::Restart { index: 1, term: 1 }, next), Fault::Sequence, "a restart");
}

/// The operator has nothing but this line to go by.
#[test]
fn the_message_says_where_what_how_far_and_what_to_do() {
    let mut node = sample();
    let (file, offset, _) = last_write(&node.disk);
    node.disk.files.get_mut(&file).unwrap()[offset + 100] ^= 1;
    let line = node.disk.damage().to_string();
    for part in [&file[..], &format!("byte {offset}"), "crc", "last good entry is", "copy", "--salvage"] {
        assert!(line.contains(part), "{part:?} in {line:?}");
    }
    assert_eq!(line.lines().count(), 1);
}

/// An identity that is lost must not make a directory with data look new.
#[test]
fn a_directory_with_data_is_not_taken_for_an_empty_one() {
    let mut node = sample();
    assert_eq!(survey(&[]), Ok(Survey::Empty));
    assert!(survey(&node.disk.listing()).is_err());
    node.disk.files.insert(name::IDENTITY.to_owned(), Vec::new());
    assert_eq!(survey(&node.disk.listing()), Ok(Survey::Founded));
    node.disk.files.retain(|name, _| name == name::IDENTITY);
    assert_eq!(survey(&node.disk.listing()), Ok(Survey::IdentityOnly));
    assert_eq!(node.disk.fault(), Fault::NoLog);
}

/// A read error is not damage: the disk may come back.
#[test]
fn a_read_error_is_handed_on() {
    let node = sample();
    let mut listing = node.disk.listing();
    listing.retain(|file| file.name != name::segment(3));
    let refusal = recover(&NODE, &listing, &mut |_, _, _| Err("EIO"), &mut |_| {}).unwrap_err();
    assert_eq!(refusal, Refusal::Read { file: name::segment(1), offset: 0, error: "EIO" });
}
