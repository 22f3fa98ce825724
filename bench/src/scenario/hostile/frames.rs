//! What attackers send: requests of a client, and frames of a peer.
//!
//! The frames of a peer are written here byte by byte, for an attacker has no use for the server's own code, and must be able to
//! write what that would not: they are those of version 1 of the protocol, which every later version still has to refuse unharmed.

use doozer::wire::{Request, Verb};

/// What a peer sends first.
pub const PREAMBLE: &[u8] = b"\xD0doozerP";
const HELLO: u8 = 1;
const JOIN: u8 = 3;
const CHALLENGE: u8 = 11;
const PROOF: u8 = 12;

/// A request, as bytes.
pub fn request(verb: Verb, path: &[u8], fill: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
    let mut request = Request { tag: Some(1), path: Some(path), ..Request::new(verb) };
    fill(&mut request);
    let mut frame = Vec::new();
    request.encode(&mut frame);
    frame
}

/// A SET of an empty value, whatever the file's revision is.
pub fn set(path: &[u8]) -> Vec<u8> {
    request(Verb::Set, path, |request| {
        request.rev = Some(-1);
        request.value = Some(b"");
    })
}

/// A frame of a peer, with a right checksum.
fn peer(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut rest = vec![kind, 0, 0, 0];
    // From and to: the node at the other end.
    rest.extend_from_slice(&[0; 16]);
    rest.extend_from_slice(body);
    let length = u32::try_from(rest.len() + 4).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], &crc32fast::hash(&rest).to_le_bytes(), &rest].concat()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], bytes].concat()
}

/// A Hello of the node with this number, with this secret.
pub fn hello(node: u64, cluster: &[u8], secret: &[u8]) -> Vec<u8> {
    let id = format!("{node:016}");
    let mut body = 1_u16.to_le_bytes().to_vec();
    body.extend_from_slice(&counted(cluster));
    body.extend_from_slice(&id.as_bytes()[..16]);
    for number in [0, 1, 7, 0, 0_u64] {
        // Raft id, boot, life, incarnation, cluster id.
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&counted(secret));
    body.extend_from_slice(&counted(&[b'a'; 290]));
    peer(HELLO, &body)
}

/// A challenge to prove the secret: where one is set, a peer begins with it.
pub fn challenge() -> Vec<u8> {
    peer(CHALLENGE, &[7; 32])
}

/// A proof that does not fit any challenge.
pub fn proof() -> Vec<u8> {
    peer(PROOF, &[9; 32])
}

/// Asks to be let into the cluster.
pub fn join() -> Vec<u8> {
    peer(JOIN, &[&0_u64.to_le_bytes()[..], &counted(&[b'x'; 290])].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use doozer::replica::handshake::{Handshake, Key, Step, Unproved};
    use doozer::wire::frame::{self, Split};
    use doozer::wire::peer;

    /// A server that refused the frames for another reason would not compute an HMAC: that would be no flood of proofs.
    #[test]
    fn the_server_checks_the_proof_before_it_refuses() {
        let (challenge, proof) = (challenge(), proof());
        let key = Key::of_secret(b"a secret").unwrap();
        let mut handshake = Handshake::accept([1; 32]);
        let challenge = peer::decode(&challenge).unwrap().frame;
        assert_eq!(handshake.take(&key, &challenge), Ok(Step::Say(peer::Frame::Challenge([1; 32]))));
        let proof = peer::decode(&proof).unwrap().frame;
        assert_eq!(handshake.take(&key, &proof), Err(Unproved::Secret));
        let mut handshake = Handshake::accept([1; 32]);
        handshake.take(&key, &challenge).unwrap();
        assert_eq!(handshake.take(&key, &challenge), Err(Unproved::Protocol));
    }

    #[test]
    fn a_request_is_a_whole_frame() {
        let bytes = request(Verb::Getdir, b"/d", |request| request.offset = Some(7));
        match frame::split(&bytes).unwrap() {
            Split::Whole { body, consumed } => {
                assert_eq!(consumed, bytes.len());
                let request = Request::decode(&bytes[body]).unwrap();
                assert_eq!((request.path, request.offset), (Some(&b"/d"[..]), Some(7)));
            }
            Split::Partial { .. } => panic!("half a frame"),
        }
    }

    /// A frame with a wrong length or checksum is dropped before anything of it is looked at: that would be no attack.
    #[test]
    fn a_frame_of_a_peer_has_the_length_and_the_checksum_that_it_says() {
        for frame in [hello(3, b"local", b"guess"), join(), challenge(), proof()] {
            let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
            assert_eq!(length as usize, frame.len() - 4);
            assert_eq!(u32::from_le_bytes(frame[4..8].try_into().unwrap()), crc32fast::hash(&frame[8..]));
        }
    }
}
