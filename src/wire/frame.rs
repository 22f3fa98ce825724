//! Where a frame begins and ends.
//!
//! ```text
//! offset 0        4              4 + n
//!        | n (BE) | body, n bytes |
//! ```
//! `n` is a signed 32-bit number. One that is negative or over [`FRAME_MAX`] is refused as soon as its four bytes are
//! there, before any memory is set aside for it. A body of no bytes is a whole frame.

use std::fmt;
use std::ops::Range;

use crate::limits::FRAME_MAX;

/// Bytes of the length in front of each body.
pub const HEADER: usize = 4;

/// What the front of a buffer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// A whole frame.
    Whole {
        /// The body's place in the buffer.
        body: Range<usize>,
        /// Bytes of the frame, its length included: the next frame begins here.
        consumed: usize,
    },
    /// The beginning of a frame, or nothing.
    Partial {
        /// Bytes of the whole frame, its length included, once that is known.
        needed: Option<usize>,
    },
}

/// A length that no frame has. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is below zero.
    Negative(i32),
    /// The length is over [`FRAME_MAX`].
    TooLong(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Negative(n) => write!(f, "a frame of negative length ({n})"),
            Self::TooLong(n) => write!(f, "a frame of {n} bytes; the limit is {FRAME_MAX}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Finds the frame at the front of `buf`.
///
/// # Errors
/// The length is negative or over the limit.
#[inline]
pub fn split(buf: &[u8]) -> Result<Split, FrameError> {
    let Some(header) = buf.first_chunk::<HEADER>() else {
        return Ok(Split::Partial { needed: None });
    };
    let signed = i32::from_be_bytes(*header);
    let len = usize::try_from(signed).map_err(|_| FrameError::Negative(signed))?;
    if len > FRAME_MAX {
        return Err(FrameError::TooLong(len));
    }
    let consumed = HEADER + len;
    Ok(if buf.len() < consumed {
        Split::Partial { needed: Some(consumed) }
    } else {
        Split::Whole { body: HEADER..consumed, consumed }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_frame_that_arrives_byte_by_byte_is_whole_only_at_its_last() {
        let whole = frame(b"abc");
        for cut in 0..whole.len() {
            let needed = (cut >= HEADER).then_some(whole.len());
            assert_eq!(split(&whole[..cut]), Ok(Split::Partial { needed }));
        }
        assert_eq!(split(&whole), Ok(Split::Whole { body: 4..7, consumed: 7 }));
    }

    #[test]
    fn pipelined_frames_come_off_one_by_one() {
        let mut buf = frame(b"abc");
        buf.extend(frame(b""));
        buf.extend(frame(b"d"));
        assert_eq!(split(&buf), Ok(Split::Whole { body: 4..7, consumed: 7 }));
        assert_eq!(split(&buf[7..]), Ok(Split::Whole { body: 4..4, consumed: 4 }));
        assert_eq!(split(&buf[11..]), Ok(Split::Whole { body: 4..5, consumed: 5 }));
        assert_eq!(split(&buf[16..]), Ok(Split::Partial { needed: None }));
    }

    #[test]
    fn a_negative_length_is_refused_from_its_four_bytes_alone() {
        assert_eq!(split(&(-1_i32).to_be_bytes()), Err(FrameError::Negative(-1)));
        assert_eq!(split(&i32::MIN.to_be_bytes()), Err(FrameError::Negative(i32::MIN)));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_its_four_bytes_alone() {
        let at = |n: usize| split(&u32::try_from(n).unwrap().to_be_bytes());
        assert_eq!(at(FRAME_MAX), Ok(Split::Partial { needed: Some(FRAME_MAX + 4) }));
        assert_eq!(at(FRAME_MAX + 1), Err(FrameError::TooLong(FRAME_MAX + 1)));
        assert!(matches!(split(&i32::MAX.to_be_bytes()), Err(FrameError::TooLong(_))));
    }
}
