//! The protobuf encoding: keys, varints, length-delimited bytes, and what is skipped.
//!
//! A field is a key, `number << 3 | wire type`, and its payload:
//! ```text
//! wire type 0  varint   1..10 bytes, 7 bits each, the lowest first; bits beyond the 64th are dropped
//!           1  64-bit   8 bytes                     (no message of ours has one: skipped)
//!           2  bytes    a varint length, then that many
//!           3  group    fields up to an end group   (skipped, at any depth, by counting)
//!           4  the end of a group
//!           5  32-bit   4 bytes                     (skipped)
//!         6,7  malformed
//! ```
//! The reader is lenient where the original is: a key may have more than 32 bits (it is then a field that nobody
//! knows), and the end of a group closes the innermost one, whatever number it bears. Field number 0 is malformed.

use std::fmt;

/// Longest varint: 64 bits in groups of 7.
const VARINT_MAX: usize = 10;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A field ends beyond the message.
    Truncated,
    /// A varint of more than 10 bytes.
    LongVarint,
    /// A field of number 0.
    FieldZero,
    /// Wire type 6 or 7.
    WireType(u8),
    /// The message ends within a group.
    UnterminatedGroup,
    /// The end of a group that never began.
    StrayEndGroup,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("a field is cut short"),
            Self::LongVarint => write!(f, "a varint is longer than {VARINT_MAX} bytes"),
            Self::FieldZero => f.write_str("a field has number 0"),
            Self::WireType(t) => write!(f, "a field has wire type {t}"),
            Self::UnterminatedGroup => f.write_str("a group does not end"),
            Self::StrayEndGroup => f.write_str("a group ends that never began"),
        }
    }
}

impl std::error::Error for Malformed {}

/// What a field carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A varint, whatever its declared type.
    Varint(u64),
    /// Length-delimited bytes, where they lie.
    Bytes(&'a [u8]),
    /// A 32-bit or 64-bit number or a group: skipped.
    Skipped,
}

/// Reads the fields of one message in their order.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of one message's bytes.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and payload, or `None` at the end of the message.
    ///
    /// # Errors
    /// The bytes are malformed; the reader is then of no more use.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u64, Payload<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire) = self.key()?;
        let payload = match wire {
            0 => Payload::Varint(self.varint()?),
            2 => Payload::Bytes(self.delimited()?),
            3 => {
                self.skip_group()?;
                Payload::Skipped
            }
            4 => return Err(Malformed::StrayEndGroup),
            _ => {
                self.skip_plain(wire)?;
                Payload::Skipped
            }
        };
        Ok(Some((number, payload)))
    }

    #[inline]
    fn key(&mut self) -> Result<(u64, u8), Malformed> {
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed::FieldZero);
        }
        Ok((number, (key & 7) as u8))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (i, &byte) in self.rest.iter().take(VARINT_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < VARINT_MAX { Malformed::Truncated } else { Malformed::LongVarint })
    }

    #[inline]
    fn delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| Malformed::Truncated)?)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Skips a payload that is neither a group nor the end of one.
    fn skip_plain(&mut self, wire: u8) -> Result<(), Malformed> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.delimited().map(drop),
            5 => self.take(4).map(drop),
            _ => Err(Malformed::WireType(wire)),
        }
    }

    /// Skips to behind the end of a group whose key was read. Counts where one would recurse: the depth is the
    /// sender's choice.
    fn skip_group(&mut self) -> Result<(), Malformed> {
        let mut depth = 1_usize;
        while depth > 0 {
            if self.rest.is_empty() {
                return Err(Malformed::UnterminatedGroup);
            }
            match self.key()?.1 {
                3 => depth += 1,
                4 => depth -= 1,
                wire => self.skip_plain(wire)?,
            }
        }
        Ok(())
    }
}

/// The low 32 bits: what the original makes of a varint in an int32 field.
#[inline]
#[must_use]
pub const fn int32(varint: u64) -> i32 {
    ((varint & 0xffff_ffff) as u32).cast_signed()
}

/// Appends an int32 or enum field. Negative numbers take 10 bytes, as proto2 has it.
#[inline]
pub fn put_int32(out: &mut Vec<u8>, number: u32, value: Option<i32>) {
    put_int64(out, number, value.map(i64::from));
}

/// Appends an int64 field.
#[inline]
pub fn put_int64(out: &mut Vec<u8>, number: u32, value: Option<i64>) {
    if let Some(value) = value {
        put_varint(out, u64::from(number << 3));
        put_varint(out, value.cast_unsigned());
    }
}

/// Appends a string or bytes field.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: Option<&[u8]>) {
    if let Some(value) = value {
        put_bytes_head(out, number, value.len());
        out.extend_from_slice(value);
    }
}

/// Appends what precedes the bytes of a field of `len` bytes.
#[inline]
pub fn put_bytes_head(out: &mut Vec<u8>, number: u32, len: usize) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, len as u64);
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Bytes of an int32, int64 or enum field, or of none.
#[inline]
#[must_use]
pub const fn int_len(number: u32, value: Option<i64>) -> usize {
    match value {
        Some(value) => varint_len((number as u64) << 3) + varint_len(value.cast_unsigned()),
        None => 0,
    }
}

/// Bytes of a string or bytes field, or of none.
#[inline]
#[must_use]
pub const fn bytes_len(number: u32, value: Option<&[u8]>) -> usize {
    match value {
        Some(value) => varint_len((number as u64) << 3) + varint_len(value.len() as u64) + value.len(),
        None => 0,
    }
}

#[inline]
const fn varint_len(value: u64) -> usize {
    // At least one byte, also for 0.
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}
