//! Bytes that nobody wrote: no panic, and nothing made up.

use super::disk::*;
use crate::limits::BLOCK;
use crate::log::*;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

/// What is done to an image.
#[derive(Clone, Debug)]
enum Change {
    Flip { file: usize, at: usize, bit: u8 },
    Zero { file: usize, block: usize, count: usize },
    Copy { file: usize, block: usize, from: usize, source: usize },
    Truncate { file: usize, length: usize },
    Remove { file: usize },
    Rename { file: usize, number: u64 },
    Junk { file: usize, block: usize, seed: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let number = any::<usize>;
    prop_oneof![
        (number(), number(), 0_u8..8).prop_map(|(file, at, bit)| Change::Flip { file, at, bit }),
        (number(), number(), 1_usize..4).prop_map(|(file, block, count)| Change::Zero { file, block, count }),
        (number(), number(), number(), number())
            .prop_map(|(file, block, from, source)| { Change::Copy { file, block, from, source } }),
        (number(), number()).prop_map(|(file, length)| Change::Truncate { file, length }),
        number().prop_map(|file| Change::Remove { file }),
        (number(), 0_u64..9).prop_map(|(file, number)| Change::Rename { file, number }),
        (number(), number(), any::<u64>()).prop_map(|(file, block, seed)| Change::Junk { file, block, seed }),
    ]
}

fn apply(disk: &mut Disk, change: &Change) {
    let names: Vec<_> = disk.files.keys().cloned().collect();
    let pick = |file: usize| names[file % names.len()].clone();
    let blocks = |disk: &Disk, file: &str| (disk.files[file].len() / BLOCK).max(1);
    match *change {
        Change::Flip { file, at, bit } => {
            let bytes = disk.files.get_mut(&pick(file)).unwrap();
            let at = at % bytes.len().max(1);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        Change::Zero { file, block, count } => {
            let name = pick(file);
            let at = block % blocks(disk, &name) * BLOCK;
            let bytes = disk.files.get_mut(&name).unwrap();
            bytes.iter_mut().skip(at).take(count * BLOCK).for_each(|byte| *byte = 0);
        }
        Change::Copy { file, block, from, source } => {
            let (name, other) = (pick(file), pick(source));
            let at = block % blocks(disk, &name) * BLOCK;
            let from = from % blocks(disk, &other) * BLOCK;
            let bytes: Vec<_> = disk.files[&other].iter().skip(from).take(BLOCK).copied().collect();
            let target = disk.files.get_mut(&name).unwrap();
            target.iter_mut().skip(at).zip(bytes).for_each(|(to, byte)| *to = byte);
        }
        Change::Truncate { file, length } => {
            let bytes = disk.files.get_mut(&pick(file)).unwrap();
            let length = length % (bytes.len() + 2 * BLOCK);
            bytes.resize(length, 0);
        }
        Change::Remove { file } => _ = disk.files.remove(&pick(file)),
        Change::Rename { file, number } => {
            let name = pick(file);
            let bytes = disk.files.remove(&name).unwrap();
            let snapshot = name.ends_with(".snap");
            disk.files.insert(if snapshot { name::snapshot(number) } else { name::segment(number) }, bytes);
        }
        Change::Junk { file, block, seed } => {
            let name = pick(file);
            let at = block % blocks(disk, &name) * BLOCK;
            let junk = Rng::new(seed).bytes(BLOCK);
            let target = disk.files.get_mut(&name).unwrap();
            target.iter_mut().skip(at).zip(junk).for_each(|(to, byte)| *to = byte);
        }
    }
}

/// A log over some segments, the first of which are gone, with a snapshot; some of its records come in writes of several blocks.
fn image(seed: u64) -> Disk {
    let mut rng = Rng::new(seed);
    let mut node = Node::create();
    let mut index = 0;
    while node.disk.files.len() < 4 {
        for _ in 0..=rng.below(3) {
            index += 1;
            let size = [10, 2000, 6000][rng.below(3)];
            node.log.append_entry(index, 1, 0, &rng.bytes(size));
        }
        node.log.append_hard_state(1, 1, index);
        node.flush();
        if index > 6 && rng.below(8) == 0 {
            node.disk.files.retain(|name, _| !name.ends_with(".snap"));
            node.disk.snapshot(index - 3, 1, &[b"a", b"b"]);
            node.log.release(index - 3);
            node.prepare();
        }
    }
    node.disk
}

/// A block, in the file of its generation, of a write behind `write`: such a trace proves that `write` was durable.
fn trace_behind(disk: &Disk, write: u64) -> Option<(String, usize)> {
    disk.files.iter().find_map(|(file, bytes)| {
        let name::Name::Segment(generation) = name::parse(file) else {
            return None;
        };
        let blocks = bytes.as_chunks::<BLOCK>().0.iter().enumerate().skip(1);
        let traces = blocks.filter(|(_, block)| {
            let head = block::Head::decode(block);
            head.is_ok_and(|head| head.generation == generation && head.write > write)
        });
        traces.map(|(at, _)| (file.clone(), at)).next()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a data directory: it is refused, or what comes back is what was there, up to some write that ends it;
    /// what is missing left no trace but, at most, blocks of one torn write.
    #[test]
    fn a_changed_image_is_refused_or_read_up_to_a_write_that_nothing_follows(
        seed in 0_u64..50,
        changes in prop::collection::vec(change(), 1..4),
    ) {
        let disk = image(seed);
        let whole = disk.recover().unwrap();
        let position = whole.recovered.durable.position().0;
        let mut changed = disk.clone();
        changes.iter().for_each(|change| apply(&mut changed, change));
        let Ok(mut outcome) = changed.recover() else { return Ok(()) };
        if outcome.recovered.restart.is_some() {
            // Not in the log: what recovery adds where the log ends before the snapshot.
            outcome.records.pop();
        }
        let durable = outcome.recovered.durable;
        prop_assert_eq!(trace_behind(&changed, durable.write() + 1), None);
        prop_assert!(durable.position().0 <= position);
        for (position, kept) in &outcome.records {
            let same = whole.records.iter().find(|(other, _)| other == position);
            if let Some((_, other)) = same {
                prop_assert_eq!(kept, other);
            }
        }
        if durable.position().0 == position {
            prop_assert_eq!(outcome.recovered.hard_state, whole.recovered.hard_state);
        }
    }

    /// Salvage ends, without a panic, in something that can be started from.
    #[test]
    fn salvage_comes_to_an_end(seed in 0_u64..50, changes in prop::collection::vec(change(), 1..4)) {
        let mut disk = image(seed);
        changes.iter().for_each(|change| apply(&mut disk, change));
        for _ in 0..20 {
            match disk.recover() {
                Ok(_) => {
                    let mut node = Node::start(disk);
                    let index = node.log.last_index() + 1;
                    node.entry(index, 100, 10);
                    prop_assert_eq!(node.disk.recover().unwrap().recovered.last_index, index);
                    return Ok(());
                }
                Err(Refusal::Damage(damage)) => match damage.salvage {
                    Some(salvage) => disk.salvage(&salvage),
                    None => return Ok(()),
                },
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "no end");
    }

    /// Arbitrary bytes under any of our names.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000), number in 1_u64..4) {
        prop_assert!(Identity::decode(&bytes).is_err());
        let mut reader = SnapshotReader::new();
        if reader.feed(&bytes, &mut |_| {}).is_ok() {
            prop_assert!(reader.finish().is_err());
        }
        for name in [name::segment(number), name::segment(u64::MAX), name::snapshot(number)] {
            let mut disk = Node::create().disk;
            disk.files.insert(name, bytes.clone());
            disk.recover().ok();
        }
    }

    /// Whole blocks around arbitrary bytes: the crc is right, and nothing else is.
    #[test]
    fn arbitrary_payloads_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        fields in any::<[u64; 9]>(),
        kind in 0_u8..5,
    ) {
        let mut node = Node::create();
        node.entry(1, 1, 10);
        let next = node.log.position().0 + 1;
        let state = record::State { position: next, ..node.disk.recover().unwrap().recovered.tail.state };
        for opening in [state.encode().to_vec(), fields[..6].iter().flat_map(|field| field.to_le_bytes()).collect()] {
            let mut bytes = opening;
            let entry = Record::Entry { index: fields[6], term: fields[7], entry_type: 0, data: &payload };
            let hard = Record::HardState(HardState { term: fields[6], vote: fields[7], commit: fields[8] });
            let restart = Record::Restart { index: fields[6], term: fields[7] };
            for record in [Some(entry), Some(hard), Some(restart), None].into_iter().skip(usize::from(kind)).flatten() {
                let (head, data) = record::encode(&record, next);
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(data.bytes());
            }
            if kind == 4 {
                bytes.extend_from_slice(&payload);
            }
            let mut block = Block::ZERO;
            block.0[block::HEAD..block::HEAD + bytes.len()].copy_from_slice(&bytes);
            let length = u16::try_from(bytes.len()).unwrap();
            let head = block::Head { length, flags: 0, generation: 1, write: 2, index: 0, count: 1 };
            head.encode(&mut block.0);
            let mut disk = node.disk.clone();
            disk.put(&name::segment(1), 2 * BLOCK as u64, &block.0);
            disk.recover().ok();
        }
    }
}
