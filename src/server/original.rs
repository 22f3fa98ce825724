//! Telling a node of this program from an original server, before it is spoken to as a peer.
//!
//! The original of 2011 to 2013 dies of the first bytes of the peer protocol, which it reads as a frame of a negative length. So a
//! server at an address of `-a` is asked an ordinary request first, on a connection of its own: STATS, which this program answers, be
//! it with a refusal, and which the original does not know.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::frame::{self, Split};
use crate::wire::{ErrCode, Request, Response, Verb};

/// How long the answer may take. A node that has no data yet answers only when its cluster has sent it some.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why an original is left alone, for the operator.
pub const CANNOT_JOIN: &str =
    "it is an original doozerd (of 2011 to 2013), which cannot be joined; give the address of a node of this program";

/// What answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An original.
    Original,
    /// Something that a peer's first bytes do not harm, most likely a node of this program: it answers, or closes the connection.
    Other,
    /// It did not answer in time.
    Silent,
    /// What it says is not the protocol.
    Stranger,
}

impl Kind {
    /// Whether a peer's first bytes may be sent there. What is silent may be an original that is busy with another client.
    ///
    /// # Errors
    /// If not: why, for the operator.
    pub fn may_be_a_node(self) -> io::Result<()> {
        let why = match self {
            Kind::Other => return Ok(()),
            Kind::Original => CANNOT_JOIN,
            Kind::Stranger => "what listens there does not speak the protocol; is it a doozerd?",
            Kind::Silent => "it does not answer",
        };
        Err(io::Error::other(why))
    }
}

/// Asks the server at the other end of a new connection what it is.
pub async fn ask(mut stream: TcpStream) -> Kind {
    timeout(PATIENCE, converse(&mut stream)).await.unwrap_or(Kind::Silent)
}

async fn converse(stream: &mut TcpStream) -> Kind {
    let mut bytes = Vec::new();
    Request { tag: Some(0), ..Request::new(Verb::Stats) }.encode(&mut bytes);
    if stream.write_all(&bytes).await.is_err() {
        return Kind::Other;
    }
    bytes.clear();
    loop {
        match frame::split(&bytes) {
            Ok(Split::Whole { body, .. }) => {
                return match Response::decode(&bytes[body]) {
                    Ok(answer) if answer.err_code == Some(ErrCode::UnknownVerb.code()) => Kind::Original,
                    Ok(_) => Kind::Other,
                    Err(_) => Kind::Stranger,
                };
            }
            Ok(Split::Partial { .. }) => {}
            Err(_) => return Kind::Stranger,
        }
        match stream.read_buf(&mut bytes).await {
            // A node that has no room for clients closes their connections, and still takes its peers.
            Ok(0) | Err(_) => return Kind::Other,
            Ok(_) => {}
        }
    }
}
