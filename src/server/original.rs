//! Tells a node of this program from an original server before speaking to it as a peer.
//!
//! The first bytes of the peer protocol kill the original of 2011 to 2013, which reads them as a frame of a negative length. So the
//! node first sends an ordinary request to a server at an address of `-a`, on a connection of its own. It sends STATS: this program
//! answers STATS, even if only with a refusal, and the original does not know the verb.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::frame::{self, Split};
use crate::wire::{ErrCode, Request, Response, Verb};

/// How long the answer may take. A node without data answers only when its cluster has sent it some.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the operator why the node leaves an original alone.
pub const CANNOT_JOIN: &str =
    "it is an original doozerd (of 2011 to 2013), which cannot be joined; give the address of a node of this program";

/// What runs at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An original server.
    Original,
    /// A server that a peer's first bytes do not harm, most likely a node of this program: it answered, or closed the connection.
    Other,
    /// A server that did not answer in time.
    Silent,
    /// A server that does not speak the protocol.
    Stranger,
}

impl Kind {
    /// Checks that a peer's first bytes may be sent there. A silent server may be an original that is busy with another client.
    ///
    /// # Errors
    /// If they may not, with the reason for the operator.
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

/// Asks the server at the other end of a new connection what it is. Takes up to 1 s.
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
            // A node that has no room for clients closes their connections, and still accepts its peers.
            Ok(0) | Err(_) => return Kind::Other,
            Ok(_) => {}
        }
    }
}
