//! Every frame there and back, and whatever else may come.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use protobuf::{ProtobufEnum, SingularPtrField};
use raft::eraftpb::{ConfState, Entry, EntryType, MessageType, Snapshot, SnapshotMetadata};

use super::*;

const ROUTE: Route = Route { from: 3, to: 0x0102_0304_0506_0708, hops: 4 };

fn encoded(route: Route, frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(route, frame, &mut out);
    out
}

/// A frame of any kind with any body and a right checksum.
fn raw(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    framed(ROUTE, kind, body.len(), &mut out, |out| out.extend_from_slice(body));
    out
}

/// One frame of each kind, with all fields set.
fn samples() -> Vec<Frame<'static>> {
    vec![
        Frame::Hello(Hello {
            version: VERSION,
            cluster: "løcal",
            node: *b"ABCDEFGHIJKLMNOP",
            raft_id: 1,
            epoch: 2,
            life: 9,
            incarnation: 3,
            cluster_id: 4,
            secret: b"hush",
            addr: "127.0.0.1:8046",
        }),
        Frame::Refuse { reason: Refusal::Cluster, detail: "this is cluster løcal" },
        Frame::Join { incarnation: 7, addr: "127.0.0.1:8046" },
        Frame::Welcome { raft_id: 5, cluster_id: 6, cluster: "løcal" },
        Frame::Ping,
        Frame::Links(Links { node: 1, epoch: 2, version: 3, flags: 4, peers: vec![2, 3, u64::MAX] }),
        Frame::Raft(Box::new(message())),
        Frame::Forward(b"a batch"),
        Frame::Chunk { transfer: 8, seq: 9, last: true, records: b"records" },
        Frame::ChunkAck { transfer: 8, next: 10 },
        Frame::ChunkFailed { transfer: 8, reason: ChunkFailure::NoRoom },
        Frame::Challenge([7; 32]),
        Frame::Proof([9; 32]),
    ]
}

fn message() -> Message {
    let entry = |index, data: &'static [u8]| Entry {
        entry_type: EntryType::EntryConfChangeV2,
        term: 11,
        index,
        data: Bytes::from_static(data),
        context: Bytes::from_static(b"why"),
        ..Entry::default()
    };
    Message {
        msg_type: MessageType::MsgSnapshot,
        to: 1,
        from: 2,
        term: 3,
        log_term: 4,
        index: 5,
        entries: vec![entry(6, b"first"), entry(7, b"")].into(),
        commit: 8,
        commit_term: 9,
        snapshot: SingularPtrField::some(snapshot([vec![1, 2], vec![3], vec![], vec![4]], true, 12, 13)),
        request_snapshot: 10,
        reject: true,
        reject_hint: 14,
        context: Bytes::from_static(b"context"),
        priority: -1,
        ..Message::default()
    }
}

fn snapshot(lists: [Vec<u64>; 4], auto_leave: bool, index: u64, term: u64) -> Snapshot {
    let [voters, learners, voters_outgoing, learners_next] = lists;
    let conf = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() };
    let conf_state = SingularPtrField::some(conf);
    let metadata = SnapshotMetadata { conf_state, index, term, ..SnapshotMetadata::default() };
    Snapshot { metadata: SingularPtrField::some(metadata), ..Snapshot::default() }
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (0..3, any::<u64>(), any::<u64>(), any_bytes(), any_bytes()).prop_map(|(kind, term, index, data, context)| Entry {
        entry_type: EntryType::from_i32(kind).unwrap(),
        term,
        index,
        data,
        context,
        ..Entry::default()
    })
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let lists = proptest::array::uniform4(vec(any::<u64>(), 0..5));
    (lists, any::<bool>(), any::<u64>(), any::<u64>()).prop_map(|(l, auto, index, term)| snapshot(l, auto, index, term))
}

fn any_message() -> impl Strategy<Value = Message> {
    let numbers = any::<[u64; 9]>();
    let rest = (any::<bool>(), any::<i64>(), any_bytes());
    (0..19, numbers, vec(any_entry(), 0..5), proptest::option::of(any_snapshot()), rest).prop_map(
        |(kind, n, entries, snapshot, (reject, priority, context))| Message {
            msg_type: MessageType::from_i32(kind).unwrap(),
            to: n[0],
            from: n[1],
            term: n[2],
            log_term: n[3],
            index: n[4],
            commit: n[5],
            commit_term: n[6],
            reject_hint: n[7],
            request_snapshot: n[8],
            entries: entries.into(),
            snapshot: snapshot.into(),
            reject,
            priority,
            context,
            ..Message::default()
        },
    )
}

/// What frames borrow from.
type Parts = (String, String, Vec<u8>, [u64; 4], bool);

fn any_parts() -> impl Strategy<Value = Parts> {
    (".{0,40}", ".{0,40}", vec(any::<u8>(), 0..200), any::<[u64; 4]>(), any::<bool>())
}

/// All kinds but raft's, made of the parts.
fn made_of((a, b, bytes, n, flag): &Parts) -> Vec<Frame<'_>> {
    let hello = Hello {
        version: VERSION,
        cluster: a,
        node: std::array::from_fn(|i| u8::try_from(i).unwrap()),
        raft_id: n[0],
        epoch: n[1],
        life: n[0] ^ n[1],
        incarnation: n[2],
        cluster_id: n[3],
        secret: bytes,
        addr: b,
    };
    let flags = n[3].to_le_bytes()[0];
    let links = Links { node: n[0], epoch: n[1], version: n[2], flags, peers: n[..usize::from(flags % 5)].to_vec() };
    vec![
        Frame::Hello(hello),
        Frame::Refuse { reason: Refusal::of(flags), detail: a },
        Frame::Join { incarnation: n[0], addr: a },
        Frame::Welcome { raft_id: n[0], cluster_id: n[1], cluster: b },
        Frame::Ping,
        Frame::Links(links),
        Frame::Forward(bytes),
        Frame::Chunk { transfer: n[0], seq: n[1], last: *flag, records: bytes },
        Frame::ChunkAck { transfer: n[0], next: n[1] },
        Frame::ChunkFailed { transfer: n[0], reason: ChunkFailure::of(n[1] % 9) },
        Frame::Challenge([flags; 32]),
        Frame::Proof([flags; 32]),
    ]
}

proptest! {
    /// A field that does not arrive is a vote, a term or a mutation that is taken for another.
    #[test]
    fn every_frame_reads_back_as_it_was_written(parts in any_parts(), from: u64, to: u64, hops: u8) {
        let route = Route { from, to, hops };
        for frame in made_of(&parts) {
            let bytes = encoded(route, &frame);
            prop_assert_eq!(split(&bytes), Ok(Split::Whole { size: bytes.len() }));
            prop_assert_eq!(super::route(&bytes), route);
            prop_assert_eq!(decode(&bytes), Ok(Received { route, frame }));
        }
    }

    /// The same for raft's messages, which have an encoding of their own.
    #[test]
    fn every_message_of_raft_reads_back_as_it_was_written(message in any_message()) {
        let mut bytes = Vec::new();
        encode_raft(ROUTE, &message, &mut bytes);
        let boxed = Frame::Raft(Box::new(message));
        prop_assert_eq!(&encoded(ROUTE, &boxed), &bytes);
        prop_assert_eq!(decode(&bytes), Ok(Received { route: ROUTE, frame: boxed }));
    }

    /// A peer's bytes, of whatever kind, must not bring a server down; what is read of them is all that they say.
    #[test]
    fn arbitrary_bodies_never_panic_and_say_nothing_twice(kind in 0_u8..14, body in vec(any::<u8>(), 0..200)) {
        let bytes = raw(kind, &body);
        if let Ok(Received { route, frame }) = decode(&bytes)
            && !matches!(frame, Frame::Hello(Hello { version, .. }) if version != VERSION)
        {
            prop_assert_eq!(encoded(route, &frame), bytes);
        }
    }

    /// The same where nearly all is right, which bytes at random hardly ever are.
    #[test]
    fn bodies_with_a_few_other_bytes_never_panic(
        which in 0_usize..10,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = encoded(ROUTE, &samples()[which]);
        let mut body = whole[HEADER..].to_vec();
        if !body.is_empty() {
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            for body in [&body[..], &body[..cut.index(body.len())]] {
                let bytes = raw(whole[KIND], body);
                if let Ok(Received { route, frame }) = decode(&bytes)
                    && !matches!(frame, Frame::Hello(Hello { version, .. }) if version != VERSION)
                {
                    prop_assert_eq!(encoded(route, &frame), bytes);
                }
            }
        }
    }

    /// Bytes of no frame at all.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..100)) {
        if let Ok(Split::Whole { size }) = split(&bytes) {
            prop_assert!(size <= bytes.len() && size >= HEADER);
        }
        prop_assert!(decode(&bytes).is_err(), "a checksum by chance");
    }
}

/// A bit that was flipped on the way is a mutation that only one node has.
#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    for frame in samples() {
        let mut bytes = encoded(ROUTE, &frame);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(decode(&bytes).is_err(), "bit {bit} of byte {at} of {frame:?}");
                bytes[at] ^= 1 << bit;
            }
            assert!(decode(&bytes[..at]).is_err(), "cut at {at} of {frame:?}");
        }
        bytes.push(0);
        assert!(decode(&bytes).is_err(), "a byte too many behind {frame:?}");
    }
}

/// One who claims four thousand million entries in a few bytes would have the memory of all of them.
#[test]
fn a_count_without_the_bytes_for_it_is_refused_before_memory_is_set_aside() {
    const COUNT: usize = 84;
    let whole = encoded(ROUTE, &Frame::Raft(Box::new(message())));
    let body = &whole[HEADER..];
    for at in [COUNT, COUNT + 4, COUNT + 8 + b"context".len() + 16] {
        let mut body = body.to_vec();
        body[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&raw(kind::RAFT, &body)), Err(BadFrame::Body), "length at {at}");
    }
    for kind in [kind::HELLO, kind::REFUSE] {
        let front: &[u8] = if kind == kind::HELLO { &[1, 0] } else { &[1] };
        let body = [front, &u32::MAX.to_le_bytes(), b"abc"].concat();
        assert_eq!(decode(&raw(kind, &body)), Err(BadFrame::Body), "kind {kind}");
    }
}

/// A buffer grows to what a length says, so lengths that no frame has are refused from their four bytes.
#[test]
fn a_frame_is_whole_only_at_its_last_byte_and_never_larger_than_the_limit() {
    let whole = encoded(ROUTE, &Frame::Forward(b"abc"));
    for cut in 0..whole.len() {
        let needed = (cut >= LENGTH).then_some(whole.len());
        assert_eq!(split(&whole[..cut]), Ok(Split::Partial { needed }));
    }
    let two = [&whole[..], &whole[..]].concat();
    assert_eq!(split(&two), Ok(Split::Whole { size: whole.len() }));
    let at = |n: usize| split(&u32::try_from(n).unwrap().to_le_bytes());
    assert_eq!(at(PEER_FRAME_MAX), Ok(Split::Partial { needed: Some(LENGTH + PEER_FRAME_MAX) }));
    assert_eq!(at(PEER_FRAME_MAX + 1), Err(BadFrame::TooLong(PEER_FRAME_MAX + 1)));
    assert_eq!(at(u32::MAX as usize), Err(BadFrame::TooLong(u32::MAX as usize)));
    assert_eq!(at(HEADER - LENGTH), Ok(Split::Partial { needed: Some(HEADER) }));
    assert_eq!(at(HEADER - LENGTH - 1), Err(BadFrame::TooShort(HEADER - LENGTH - 1)));
}

/// A client's port must tell a peer by its first bytes, whatever else is sent there.
#[test]
fn the_preamble_is_no_frame_of_a_client() {
    assert!(crate::wire::frame::split(&PREAMBLE).is_err());
}

/// A frame that goes round in a circle must come to rest; on its way it must stay what it was.
#[test]
fn a_relayed_frame_is_the_same_with_one_hop_less_until_it_has_none() {
    for frame in samples() {
        let mut at = encoded(Route { hops: 3, ..ROUTE }, &frame);
        for hops in [2, 1] {
            let mut out = b"before".to_vec();
            assert!(relay(&at, &mut out));
            at = out.split_off(b"before".len());
            let received = decode(&at).unwrap();
            assert_eq!(received, Received { route: Route { hops, ..ROUTE }, frame: decode(&at).unwrap().frame });
            assert_eq!(received.frame, frame);
        }
        let mut out = Vec::new();
        assert!(!relay(&at, &mut out), "a last hop");
        assert!(!relay(&encoded(Route { hops: 0, ..ROUTE }, &frame), &mut out), "no hop");
        assert!(out.is_empty());
    }
}

/// Two versions that cannot read each other's hello could not say so, and an operator would see links that break.
#[test]
fn a_hello_of_another_version_is_read_as_far_as_its_cluster() {
    let read = |body: &[u8]| match decode(&raw(kind::HELLO, body)).unwrap().frame {
        Frame::Hello(hello) => (hello.version, hello.cluster.to_owned(), hello.addr.to_owned()),
        other => panic!("{other:?}"),
    };
    let later = |rest: &[u8]| [&2_u16.to_le_bytes()[..], rest].concat();
    assert_eq!(read(&later(b"\x03\0\0\0abc and what nobody knows yet")), (2, "abc".to_owned(), String::new()));
    assert_eq!(read(&later(b"\x03\0\0\0abc")), (2, "abc".to_owned(), String::new()));
    for unreadable in [&b""[..], b"\x03\0\0\0ab", b"\xff\xff\xff\xffabc", b"\x02\0\0\0\xff\xff"] {
        assert_eq!(read(&later(unreadable)), (2, String::new(), String::new()));
    }
    assert_eq!(read(&0_u16.to_le_bytes()), (0, String::new(), String::new()));
    assert_eq!(decode(&raw(kind::HELLO, b"\x02")), Err(BadFrame::Body), "not even a version");
}

/// A reason that a later version has added is passed on as it is.
#[test]
fn every_reason_of_a_refusal_has_its_own_code() {
    for code in 0..=u8::MAX {
        assert_eq!(Refusal::of(code).code(), code);
    }
}

/// What this version does not know is an error with its number, not a guess.
#[test]
fn an_unknown_kind_is_named() {
    assert_eq!(decode(&raw(0, b"")), Err(BadFrame::Kind(0)));
    assert_eq!(decode(&raw(99, b"abc")), Err(BadFrame::Kind(99)));
}

/// The memory is set aside once: a batch of four megabytes must not be moved while its frame is made.
#[test]
fn a_large_frame_is_made_without_moving_it() {
    let data = Bytes::from(vec![7; 1 << 20]);
    let entry = Entry { index: 1, term: 1, data: data.clone(), ..Entry::default() };
    let message = Message { entries: vec![entry.clone(), entry].into(), ..Message::default() };
    let mut out = Vec::new();
    encode_raft(ROUTE, &message, &mut out);
    assert_eq!(out.capacity(), out.len(), "exactly what was reserved");
    let forward = encoded(ROUTE, &Frame::Forward(&data));
    assert_eq!(forward.capacity(), forward.len());
}

/// The secret lets anyone into the cluster; logs are read by more than that.
#[test]
fn a_hello_that_is_printed_keeps_the_secret() {
    let text = format!("{:?}", samples()[0]);
    assert!(text.contains("ABCDEFGHIJKLMNOP") && !text.contains("hush") && !text.contains("104"), "{text}");
}

/// During an upgrade one node at a time, the previous version reads this version's frames, and the other way round: a refused
/// snapshot is an acknowledgement with a flag, as it always was. The previous version writes 0 in the place of the reason, and does
/// not read it.
#[test]
fn a_reason_for_a_failed_snapshot_closes_the_link_to_an_older_node() {
    let body = |next: u64, failed: u8| [&8_u64.to_le_bytes()[..], &next.to_le_bytes(), &[failed]].concat();
    let of_before = raw(kind::CHUNK_ACK, &body(0, 1));
    let unsaid = Frame::ChunkFailed { transfer: 8, reason: ChunkFailure::Unsaid };
    assert_eq!(decode(&of_before).map(|received| received.frame), Ok(unsaid));
    let now = encoded(ROUTE, &Frame::ChunkFailed { transfer: 8, reason: ChunkFailure::NoRoom });
    assert_eq!(now[HEADER..], body(1, 1));
    let now = encoded(ROUTE, &Frame::ChunkAck { transfer: 8, next: 3 });
    assert_eq!(now[HEADER..], body(3, 0));
}
