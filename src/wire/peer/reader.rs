//! Reading and writing the fixed fields of a peer's frame. All numbers are little-endian.
//!
//! Invariant: what is read is checked against the bytes that are there before anything is made of it.

use super::BadFrame;

/// The rest of a body, read from its front.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8]) -> Reader<'a> {
        Reader(body)
    }

    /// So many bytes are left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], BadFrame> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadFrame::Body)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(BadFrame::Body)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, BadFrame> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, BadFrame> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadFrame::Body),
        }
    }

    pub fn u16(&mut self) -> Result<u16, BadFrame> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<usize, BadFrame> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    pub fn u64(&mut self) -> Result<u64, BadFrame> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], BadFrame> {
        let length = self.u32()?;
        self.take(length)
    }

    /// Text behind its length.
    pub fn text(&mut self) -> Result<&'a str, BadFrame> {
        std::str::from_utf8(self.bytes()?).map_err(|_| BadFrame::Body)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// All that is left, as numbers.
    pub fn rest_u64(&mut self) -> Result<Vec<u64>, BadFrame> {
        let (numbers, rest) = self.0.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(BadFrame::Body);
        }
        self.0 = &[];
        Ok(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    /// Numbers behind their count.
    pub fn list_u64(&mut self) -> Result<Vec<u64>, BadFrame> {
        let count = self.u32()?;
        let size = count.checked_mul(8).ok_or(BadFrame::Body)?;
        Reader(self.take(size)?).rest_u64()
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<(), BadFrame> {
        if self.0.is_empty() { Ok(()) } else { Err(BadFrame::Body) }
    }
}

/// A count or length of what is in memory, which is below the largest frame or else asserted there.
pub fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("a length of what is to be in one frame");
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub fn put_list_u64(out: &mut Vec<u8>, numbers: &[u64]) {
    put_u32(out, numbers.len());
    for number in numbers {
        put_u64(out, *number);
    }
}
