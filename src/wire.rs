//! The protocols as bytes: frames and messages of clients, and frames of peers.
//!
//! A client's message is proto2 protobuf behind a 4-byte big-endian length. The codec is our own for two reasons: what the
//! original accepts (a known field of the wrong wire type, keys and tags of more than 32 bits, overlong varints, paths
//! that are not UTF-8) cannot be had from a derive; and a frame is found, and its message decoded, where the bytes lie,
//! without an allocation. The derive of `prost` is the independent witness in the tests.
//!
//! * [`frame`]: where a frame begins and ends in a receive buffer.
//! * [`fields`]: the protobuf encoding itself: varints, keys, groups, and every leniency and malformation.
//! * [`message`]: [`Request`] and [`Response`].
//! * [`code`]: [`Verb`], [`ErrCode`] and the flags of an event.
//! * `peer`: what the servers of a cluster say to each other. It shares nothing with the above but the port.

pub mod code;
pub mod fields;
pub mod frame;
pub mod message;
#[cfg(feature = "server")]
pub mod peer;

pub use code::{ErrCode, FLAG_DEL, FLAG_SET, UnknownCode, Verb};
pub use fields::Malformed;
pub use message::{Request, Response};
