//! The codec against an independent one, and every leniency and malformation by name.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::wire::frame::{Split, split};

/// The request as `prost` derives it; strings as bytes, since a path may be any.
#[derive(Clone, PartialEq, prost::Message)]
struct ProstRequest {
    #[prost(int32, optional, tag = "1")]
    tag: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    verb: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "4")]
    path: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    value: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "7")]
    offset: Option<i32>,
    #[prost(int64, optional, tag = "9")]
    rev: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProstResponse {
    #[prost(int32, optional, tag = "1")]
    tag: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    flags: Option<i32>,
    #[prost(int64, optional, tag = "3")]
    rev: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "5")]
    path: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    value: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "8")]
    len: Option<i32>,
    #[prost(int32, optional, tag = "100")]
    err_code: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "101")]
    err_detail: Option<Vec<u8>>,
}

impl ProstRequest {
    fn ours(&self) -> Request<'_> {
        Request {
            tag: self.tag,
            verb: self.verb,
            path: self.path.as_deref(),
            value: self.value.as_deref(),
            offset: self.offset,
            rev: self.rev,
        }
    }
}

impl ProstResponse {
    fn ours(&self) -> Response<'_> {
        Response {
            tag: self.tag,
            flags: self.flags,
            rev: self.rev,
            path: self.path.as_deref(),
            value: self.value.as_deref(),
            len: self.len,
            err_code: self.err_code,
            err_detail: self.err_detail.as_deref(),
        }
    }
}

fn edgy_i32() -> impl Strategy<Value = Option<i32>> {
    proptest::option::of(prop_oneof![
        any::<i32>(),
        -300..300_i32,
        Just(i32::MIN),
        Just(i32::MAX),
        (0..31_u32).prop_map(|s| 1 << s)
    ])
}

fn edgy_i64() -> impl Strategy<Value = Option<i64>> {
    proptest::option::of(prop_oneof![
        any::<i64>(),
        -300..300_i64,
        Just(i64::MIN),
        Just(i64::MAX),
        (0..63_u32).prop_map(|s| 1 << s)
    ])
}

fn some_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))
}

fn requests() -> impl Strategy<Value = ProstRequest> {
    (edgy_i32(), edgy_i32(), some_bytes(), some_bytes(), edgy_i32(), edgy_i64())
        .prop_map(|(tag, verb, path, value, offset, rev)| ProstRequest { tag, verb, path, value, offset, rev })
}

fn responses() -> impl Strategy<Value = ProstResponse> {
    let first = (edgy_i32(), edgy_i32(), edgy_i64(), some_bytes());
    let second = (some_bytes(), edgy_i32(), edgy_i32(), some_bytes());
    (first, second).prop_map(|((tag, flags, rev, path), (value, len, err_code, err_detail))| ProstResponse {
        tag,
        flags,
        rev,
        path,
        value,
        len,
        err_code,
        err_detail,
    })
}

/// A varint as other encoders write it, padded to `width` bytes if that is more than it needs.
fn varint(mut value: u64, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 || out.len() + 1 < width {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
    out
}

/// Bytes that look like fields more often than noise does: known and unknown numbers, any wire type, groups.
fn fieldish() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![1..12_u64, 98..103_u64, 0..3_u64, 1..1_u64 << 40];
    let field = (number, 0..8_u64, any::<u64>(), 0..12_usize, proptest::collection::vec(any::<u8>(), 0..20));
    proptest::collection::vec(field, 0..8).prop_map(|fields| {
        let mut out = Vec::new();
        for (number, wire, n, width, bytes) in fields {
            out.extend(varint(number << 3 | wire, 1));
            match wire {
                0 => out.extend(varint(n >> (n % 64), width)),
                1 => out.extend(n.to_le_bytes()),
                2 => {
                    out.extend(varint(bytes.len() as u64, width));
                    out.extend(bytes);
                }
                3 => out.extend(varint(number << 3 | 4, 1)),
                5 => out.extend_from_slice(&n.to_le_bytes()[..4]),
                _ => {}
            }
        }
        out
    })
}

fn body(frame: &[u8]) -> &[u8] {
    let Ok(Split::Whole { body, consumed }) = split(frame) else { panic!("not one whole frame: {frame:?}") };
    assert_eq!(consumed, frame.len());
    &frame[body]
}

proptest! {
    #[test]
    fn a_request_is_the_bytes_that_another_encoder_writes(theirs in requests()) {
        let mut out = vec![0xee];
        theirs.ours().encode(&mut out);
        prop_assert_eq!(out.len() - 1, theirs.ours().frame_len());
        let body = body(&out[1..]);
        prop_assert_eq!(body, theirs.encode_to_vec());
        prop_assert_eq!(Request::decode(body), Ok(theirs.ours()));
    }

    #[test]
    fn a_response_is_the_bytes_that_another_encoder_writes(theirs in responses()) {
        let mut out = vec![0xee];
        theirs.ours().encode(&mut out);
        prop_assert_eq!(out.len() - 1, theirs.ours().frame_len());
        let body = body(&out[1..]);
        prop_assert_eq!(body, theirs.encode_to_vec());
        prop_assert_eq!(Response::decode(body), Ok(theirs.ours()));
    }

    #[test]
    fn what_another_decoder_accepts_means_the_same_here(bytes in fieldish()) {
        if let Ok(theirs) = ProstRequest::decode(&*bytes) {
            prop_assert_eq!(Request::decode(&bytes), Ok(theirs.ours()));
        }
        if let Ok(theirs) = ProstResponse::decode(&*bytes) {
            prop_assert_eq!(Response::decode(&bytes), Ok(theirs.ours()));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), fieldish()]) {
        let split = split(&bytes);
        let request = Request::decode(&bytes);
        let response = Response::decode(&bytes);
        prop_assert_eq!(request.is_ok(), response.is_ok(), "{:?}", split);
        // What was accepted is accepted again in its canonical form.
        if let Ok(request) = request {
            let mut out = Vec::new();
            request.encode(&mut out);
            prop_assert_eq!(Request::decode(body(&out)), Ok(request));
        }
        if let Ok(response) = response {
            let mut out = Vec::new();
            response.encode(&mut out);
            prop_assert_eq!(Response::decode(body(&out)), Ok(response));
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_refused_or_a_shorter_message(theirs in requests(), cut in any::<prop::sample::Index>()) {
        let bytes = theirs.encode_to_vec();
        if !bytes.is_empty() {
            let cut = cut.index(bytes.len());
            // Between two fields, a cut is the end of a valid message; within one, it is truncation.
            let ours = Request::decode(&bytes[..cut]);
            prop_assert_eq!(ours.is_ok(), ProstRequest::decode(&bytes[..cut]).is_ok());
            prop_assert!(matches!(ours, Ok(_) | Err(Malformed::Truncated)));
        }
    }
}

fn decoded(bytes: &[u8]) -> Request<'_> {
    Request::decode(bytes).expect("accepted")
}

fn refused(bytes: &[u8]) -> Malformed {
    Request::decode(bytes).expect_err("refused")
}

const TAG_7: Request<'static> = Request { tag: Some(7), verb: None, path: None, value: None, offset: None, rev: None };

#[test]
fn an_empty_message_is_a_request_without_a_verb() {
    assert_eq!(decoded(&[]), Request::default());
}

#[test]
fn absent_and_empty_are_not_the_same() {
    assert_eq!(decoded(&[0x22, 0]).path, Some(&b""[..]));
    assert_eq!(decoded(&[0x2a, 0]).value, Some(&b""[..]));
    assert_eq!(decoded(&[0x08, 0]).tag, Some(0));
}

#[test]
fn a_path_that_is_not_utf8_is_the_stores_to_judge() {
    assert_eq!(decoded(&[0x22, 2, 0xff, 0xfe]).path, Some(&[0xff, 0xfe][..]));
}

#[test]
fn unknown_fields_of_every_wire_type_are_skipped() {
    assert_eq!(decoded(&[0x50, 0x96, 0x01, 0x08, 7]), TAG_7); // varint
    assert_eq!(decoded(&[0x51, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 7]), TAG_7); // 64-bit
    assert_eq!(decoded(&[0x52, 3, 0x08, 9, 9, 0x08, 7]), TAG_7); // bytes
    assert_eq!(decoded(&[0x53, 0x08, 9, 0x54, 0x08, 7]), TAG_7); // group
    assert_eq!(decoded(&[0x55, 1, 2, 3, 4, 0x08, 7]), TAG_7); // 32-bit
}

#[test]
fn other_tag_is_ignored() {
    assert_eq!(decoded(&[0x30, 9, 0x08, 7]), TAG_7);
}

#[test]
fn a_group_holds_fields_of_every_wire_type_and_groups() {
    let group = [
        0x53, // group 10
        0x08, 9, // a varint that looks like a tag
        0x09, 1, 2, 3, 4, 5, 6, 7, 8, // 64-bit
        0x22, 1, 0x54, // bytes that look like the group's end
        0x0d, 1, 2, 3, 4, // 32-bit
        0x0b, 0x13, 0x08, 9, 0x14, 0x0c, // groups 1 and 2, nested
        0x54, // the end of group 10
        0x08, 7,
    ];
    assert_eq!(decoded(&group), TAG_7);
}

#[test]
fn a_group_nested_a_million_deep_does_not_exhaust_the_stack() {
    let mut bytes = vec![0x53; 1 << 20];
    assert_eq!(refused(&bytes), Malformed::UnterminatedGroup);
    bytes.extend(vec![0x54; 1 << 20]);
    bytes.extend([0x08, 7]);
    assert_eq!(decoded(&bytes), TAG_7);
}

#[test]
fn the_end_of_a_group_closes_the_innermost_whatever_its_number() {
    assert_eq!(decoded(&[0x53, 0x5c, 0x08, 7]), TAG_7);
}

#[test]
fn the_last_of_a_repeated_field_wins() {
    assert_eq!(decoded(&[0x08, 1, 0x08, 2, 0x08, 7]), TAG_7);
    assert_eq!(decoded(&[0x22, 1, b'a', 0x22, 1, b'b']).path, Some(&b"b"[..]));
}

#[test]
fn fields_may_come_in_any_order() {
    let request = decoded(&[0x48, 5, 0x38, 4, 0x2a, 1, b'v', 0x22, 1, b'p', 0x10, 2, 0x08, 7]);
    let all = Request { verb: Some(2), path: Some(b"p"), value: Some(b"v"), offset: Some(4), rev: Some(5), ..TAG_7 };
    assert_eq!(request, all);
}

#[test]
fn a_known_field_of_the_wrong_wire_type_is_as_if_absent() {
    assert_eq!(decoded(&[0x0a, 1, 9]), Request::default()); // tag as bytes
    assert_eq!(decoded(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8]), Request::default()); // tag as 64-bit
    assert_eq!(decoded(&[0x0b, 0x0c]), Request::default()); // tag as a group
    assert_eq!(decoded(&[0x15, 1, 2, 3, 4]), Request::default()); // verb as 32-bit
    assert_eq!(decoded(&[0x20, 9]), Request::default()); // path as a varint
    assert_eq!(decoded(&[0x4a, 0]), Request::default()); // rev as bytes
    assert_eq!(decoded(&[0x08, 7, 0x0a, 1, 9]), TAG_7, "and does not take back what came before");
}

#[test]
fn overlong_varints_of_up_to_ten_bytes_are_accepted() {
    for width in 1..=10 {
        let mut bytes = vec![0x08];
        bytes.extend(varint(7, width));
        assert_eq!(bytes.len(), 1 + width);
        assert_eq!(decoded(&bytes), TAG_7);
    }
    // Key and length, too.
    let mut bytes = varint(0x22, 10);
    bytes.extend(varint(1, 10));
    bytes.push(b'p');
    assert_eq!(decoded(&bytes).path, Some(&b"p"[..]));
}

#[test]
fn bits_beyond_the_64th_are_dropped() {
    let mut bytes = vec![0x48];
    bytes.extend([0xff; 9]);
    bytes.push(0x7f);
    assert_eq!(decoded(&bytes).rev, Some(-1));
    bytes[10] = 0x7e;
    assert_eq!(decoded(&bytes).rev, Some(i64::MAX));
}

#[test]
fn an_int32_of_more_than_32_bits_is_truncated() {
    let mut bytes = vec![0x08];
    bytes.extend(varint((0xabcd << 32) + 7, 0));
    assert_eq!(decoded(&bytes), TAG_7);
    bytes.truncate(1);
    bytes.extend(varint(0xffff_ffff, 0));
    assert_eq!(decoded(&bytes).tag, Some(-1));
}

#[test]
fn negative_numbers_take_ten_bytes() {
    let mut out = Vec::new();
    Request { tag: Some(-1), ..Request::default() }.encode(&mut out);
    assert_eq!(out, [0, 0, 0, 11, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    assert_eq!(decoded(&out[4..]).tag, Some(-1));
}

#[test]
fn a_key_over_32_bits_is_an_unknown_field() {
    // 1 << 32 | 8 would be the tag, were it cut to 32 bits.
    let mut bytes = varint(1 << 32 | 8, 0);
    bytes.push(9);
    assert_eq!(decoded(&bytes), Request::default());
    bytes.extend([0x08, 7]);
    assert_eq!(decoded(&bytes), TAG_7);
}

#[test]
fn a_truncated_field_is_malformed() {
    assert_eq!(refused(&[0x08]), Malformed::Truncated);
    assert_eq!(refused(&[0x88]), Malformed::Truncated);
    assert_eq!(refused(&[0x08, 0x80]), Malformed::Truncated);
    assert_eq!(refused(&[0x22]), Malformed::Truncated);
    assert_eq!(refused(&[0x22, 2, b'p']), Malformed::Truncated);
    assert_eq!(refused(&[0x51, 1, 2, 3, 4, 5, 6, 7]), Malformed::Truncated);
    assert_eq!(refused(&[0x55, 1, 2, 3]), Malformed::Truncated);
    assert_eq!(refused(&[0x53, 0x08]), Malformed::Truncated);
}

#[test]
fn a_length_beyond_any_memory_is_malformed() {
    let mut bytes = vec![0x22];
    bytes.extend(varint(u64::MAX, 0));
    assert_eq!(refused(&bytes), Malformed::Truncated);
    bytes.truncate(1);
    bytes.extend(varint(i64::MAX.cast_unsigned(), 0));
    assert_eq!(refused(&bytes), Malformed::Truncated);
}

#[test]
fn field_number_0_is_malformed() {
    assert_eq!(refused(&[0x00, 7]), Malformed::FieldZero);
    assert_eq!(refused(&[0x02, 0]), Malformed::FieldZero);
    assert_eq!(refused(&[0x53, 0x00, 7, 0x54]), Malformed::FieldZero);
}

#[test]
fn wire_types_6_and_7_are_malformed() {
    assert_eq!(refused(&[0x0e, 7]), Malformed::WireType(6));
    assert_eq!(refused(&[0x57, 7]), Malformed::WireType(7));
    assert_eq!(refused(&[0x53, 0x57, 0x54]), Malformed::WireType(7));
}

#[test]
fn an_11_byte_varint_is_malformed() {
    let mut bytes = vec![0x08];
    bytes.extend(varint(7, 11));
    assert_eq!(refused(&bytes), Malformed::LongVarint);
    assert_eq!(refused(&varint(8, 11)), Malformed::LongVarint);
}

#[test]
fn an_unterminated_group_is_malformed() {
    assert_eq!(refused(&[0x53]), Malformed::UnterminatedGroup);
    assert_eq!(refused(&[0x53, 0x0b, 0x0c]), Malformed::UnterminatedGroup);
}

#[test]
fn a_stray_end_of_a_group_is_malformed() {
    assert_eq!(refused(&[0x54]), Malformed::StrayEndGroup);
    assert_eq!(refused(&[0x08, 7, 0x0c]), Malformed::StrayEndGroup);
}
