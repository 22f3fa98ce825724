//! Attaching: how a node without a raft id asks a node of the cluster for one. Without a socket or a clock, like the replica.
//!
//! It says who it is, the other says who it is, and it asks to be registered. The answer comes when the cluster has committed the
//! registration. Asked twice, the cluster gives the same raft id: so whatever gets lost on the way, it asks again.

use crate::log::NodeId;
use crate::wire::peer::{self, BadFrame, Frame, Hello, PREAMBLE, Refusal, Route, Split, VERSION};

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// Its own id.
    pub node: NodeId,
    /// How often it has set its data aside.
    pub incarnation: u64,
    /// The cluster that it wants to join, if it minds.
    pub cluster: String,
    /// That cluster's id, or 0.
    pub cluster_id: u64,
    /// What lets a node into the cluster.
    pub secret: Vec<u8>,
    /// Where it listens.
    pub addr: String,
}

/// What a node of the cluster says to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is registered.
    Welcome {
        /// Its raft id.
        raft_id: u64,
        /// The cluster's id.
        cluster_id: u64,
        /// The cluster's name.
        cluster: String,
    },
    /// It is refused, and asking again will not help.
    Refused(String),
    /// It is to try again.
    Later(String),
}

impl Joiner {
    /// What is sent first.
    pub fn opening(&self) -> Vec<u8> {
        let mut out = PREAMBLE.to_vec();
        let hello = Hello {
            version: VERSION,
            cluster: &self.cluster,
            node: self.node,
            raft_id: 0,
            epoch: 0,
            life: 0,
            incarnation: self.incarnation,
            cluster_id: self.cluster_id,
            secret: &self.secret,
            addr: &self.addr,
        };
        peer::encode(ROUTE, &Frame::Hello(hello), &mut out);
        out
    }

    /// Takes what came: how much of it was used, and the answer, if it is there. What is to be sent is appended to `out`.
    ///
    /// # Errors
    /// When what came is nothing that a node of a cluster would say.
    pub fn receive(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Answer>), BadFrame> {
        let mut used = 0;
        while let Split::Whole { size } = peer::split(&bytes[used..])? {
            let frame = peer::decode(&bytes[used..used + size])?.frame;
            used += size;
            match frame {
                Frame::Hello(hello) => match self.objection(&hello) {
                    Some(answer) => return Ok((used, Some(answer))),
                    None => {
                        let join = Frame::Join { incarnation: self.incarnation, addr: &self.addr };
                        peer::encode(ROUTE, &join, out);
                    }
                },
                Frame::Welcome { raft_id, cluster_id, cluster } if raft_id != 0 => {
                    let cluster = cluster.to_owned();
                    return Ok((used, Some(Answer::Welcome { raft_id, cluster_id, cluster })));
                }
                Frame::Refuse { reason, detail } => {
                    let detail = detail.to_owned();
                    let later = matches!(reason, Refusal::Unavailable | Refusal::Myself | Refusal::Other(_));
                    return Ok((used, Some(if later { Answer::Later(detail) } else { Answer::Refused(detail) })));
                }
                _ => {}
            }
        }
        Ok((used, None))
    }

    fn objection(&self, hello: &Hello<'_>) -> Option<Answer> {
        if hello.version != VERSION {
            let version = hello.version;
            let why = format!(
                "it speaks version {version} of the peer protocol, not {VERSION}: run the same program everywhere"
            );
            return Some(Answer::Refused(why));
        }
        if !self.cluster.is_empty() && hello.cluster != self.cluster {
            return Some(Answer::Refused(format!("it is of cluster {}, not {}", hello.cluster, self.cluster)));
        }
        (hello.raft_id == 0).then(|| Answer::Later("it is not in a cluster itself yet".into()))
    }
}

const ROUTE: Route = Route { from: 0, to: 0, hops: 0 };
