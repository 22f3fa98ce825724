//! Header blocks (HPACK, RFC 7541), as far as calls of gRPC need them: those that we send are always the same, and of those
//! that come only the two statuses are looked at. Names in Huffman code are compared, not decoded.
//!
//! ```text
//! 1 index:7                     a name and a value of the static table
//! 01 index:6  0000 index:4      a name of the static table (0: a string follows), and a value: a string
//! 001 size:5                    size of the dynamic table, which is 0
//! huffman:1 length:7 bytes      a string
//! ```

use crate::failure::Failure;

/// `grpc-status`, plain and in Huffman code.
const GRPC_STATUS: [&[u8]; 2] = [b"grpc-status", &[0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f]];

/// The header block of a call: the path is that of the method, such as `/etcdserverpb.KV/Put`.
pub fn block(path: &str) -> Vec<u8> {
    // Indexed: `:method: POST`, `:scheme: http`. Literal, with names of the static table: `:path`, `:authority`,
    // `content-type`; with a name of its own: `te`.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(&[0x04][..], path), (&[0x01], "localhost"), (&[0x0f, 0x10], "application/grpc")] {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).ok().filter(|length| *length < 127).unwrap_or(0));
        block.extend_from_slice(value.as_bytes());
    }
    block.extend_from_slice(b"\x00\x02te\x08trailers");
    block
}

/// The status of gRPC in a header block, if there is one.
///
/// # Errors
/// The status of HTTP is not 200, or the block is cut short.
pub fn grpc_status(block: &[u8]) -> Result<Option<&[u8]>, Failure> {
    const STATUS_200: usize = 8;
    /// Those with a status, in the static table.
    const STATUSES: std::ops::RangeInclusive<usize> = 8..=14;
    let mut block = Block(block);
    let mut found = None;
    while let Some(&first) = block.0.first() {
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = block.integer(bits)?;
        match bits {
            // All of the field is in the static table.
            7 if STATUSES.contains(&index) && index != STATUS_200 => return Err(Failure::new("not the status 200")),
            // Size of the table.
            7 | 5 => continue,
            _ => {}
        }
        let name = if index == 0 { Some(block.string()?) } else { None };
        let value = block.string()?;
        if STATUSES.contains(&index) {
            return Err(Failure::new(format!("the status {}", String::from_utf8_lossy(value))));
        }
        if name.is_some_and(|name| GRPC_STATUS.contains(&name)) {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Reads a header block from its front.
struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    /// An integer in the low `bits` of a byte and, if they are all set, in those that follow, seven bits each.
    fn integer(&mut self, bits: u32) -> Result<usize, Failure> {
        let cut = || Failure::new("cut short");
        let (&first, mut rest) = self.0.split_first().ok_or_else(cut)?;
        let most = (1_usize << bits) - 1;
        let mut value = usize::from(first) & most;
        if value == most {
            for shift in (0..28).step_by(7) {
                let (&byte, more) = rest.split_first().ok_or_else(cut)?;
                rest = more;
                value += (usize::from(byte) & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
        }
        self.0 = rest;
        Ok(value)
    }

    /// The bytes of a string, in Huffman code or plain.
    fn string(&mut self) -> Result<&'a [u8], Failure> {
        let length = self.integer(7)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or_else(|| Failure::new("cut short"))?;
        self.0 = rest;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server says, in each form that a field can have.
    #[test]
    fn a_status_is_found_however_it_is_written() {
        for name in GRPC_STATUS {
            let length = u8::try_from(name.len()).unwrap() | if name == GRPC_STATUS[1] { 0x80 } else { 0 };
            for literal in [0x00, 0x10, 0x40] {
                let field = [&[literal, length][..], name, &[1, b'5']].concat();
                // A table of size 0, `:status: 200` and `content-type` before it, another field behind.
                let block = [b"\x20\x88\x0f\x10\x02ab", &field[..], b"\x00\x01x\x01y"].concat();
                assert_eq!(grpc_status(&block).unwrap(), Some(&b"5"[..]), "{block:?}");
            }
        }
        assert_eq!(grpc_status(&[0x88]).unwrap(), None);
        for (wrong, why) in [
            (&[0x8d][..], "not the status 200"),
            (&[0x48, 3, b'4', b'1', b'5'], "the status 415"),
            (&[0x00, 5, b'x'], "cut short"),
            (&[0x0f], "cut short"),
        ] {
            assert!(grpc_status(wrong).unwrap_err().to_string().contains(why), "{wrong:?}");
        }
    }

    /// The block is one that this reader, too, can read to its end.
    #[test]
    fn the_block_of_a_call_is_whole() {
        let block = block("/etcdserverpb.KV/Put");
        assert_eq!(grpc_status(&block).unwrap(), None);
        assert!(block.windows(20).any(|part| part == b"/etcdserverpb.KV/Put"));
    }
}
