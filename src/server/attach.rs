//! Attaches to a cluster: asks the nodes at the known addresses one after the other, until one lets this node in.
//!
//! This happens before the server serves anybody, with tokio's sockets: the exchange is a few frames, and an attempt that takes too
//! long can simply be dropped. All name look-ups run in parallel; a round skips a name whose look-up takes long.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::advertise::Own;
use super::original::{self, Kind};
use crate::address::Address;
use crate::client::dial;
use crate::client::resolve::Lookup;
use crate::replica::handshake::Challenges;
use crate::replica::join::{Answer, Attempt, Joiner};

/// How long a node may take to let this one in: its cluster commits that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an address may take to accept the connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a round waits for a name look-up.
const LOOKUP: Duration = Duration::from_secs(1);
/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// A node that was let in.
pub struct Welcome {
    /// Its raft id.
    pub raft_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The address that this node advertises.
    pub advertised: Address,
}

/// Why asking again will not help.
pub enum Failure {
    /// Every address leads to this node itself.
    OnlyMyself,
    /// A server refuses this node, or cannot be joined.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::OnlyMyself => {
                "every address that this node was given to attach to is its own: give the address of another node of the cluster \
                 with -a"
            }
            Failure::Refused(line) => line,
        })
    }
}

/// The outcome of asking a node.
enum Asked {
    Answer(Answer, Address),
    /// The address is this node's own.
    Myself,
    /// Asking again will not help, for this reason.
    Never(String),
}

/// A node to ask.
struct Target<'a> {
    address: &'a Address,
    lookup: Option<Lookup>,
}

/// Asks until a node lets this one in; without limit. The address to advertise is `advertised`, or, if that is `None`, the address
/// from which this node reaches the node that answers. Each attempt has a challenge of its own.
///
/// # Errors
/// If asking again will not help.
pub async fn attach(
    joiner: &Joiner,
    challenges: &mut Challenges,
    own: &Own,
    advertised: Option<&Address>,
    addresses: &[Address],
    say: &mut dyn FnMut(String),
) -> Result<Welcome, Failure> {
    let mut told = Vec::new();
    let mut targets: Vec<Target<'_>> = addresses.iter().map(|address| Target { address, lookup: None }).collect();
    loop {
        let mut others = false;
        for Target { address, lookup } in &mut targets {
            lookup.get_or_insert_with(|| Lookup::begin(address.host(), address.port()));
        }
        for target in &mut targets {
            let addr = target.address;
            let asked = ask(joiner, challenges, own, advertised, target).await;
            others |= !matches!(asked, Ok(Asked::Myself));
            let line = match asked {
                Ok(Asked::Answer(Answer::Welcome { raft_id, cluster_id, cluster }, advertised)) => {
                    say(format!("attached to cluster {cluster} by the node at {addr}: raft id {raft_id}"));
                    return Ok(Welcome { raft_id, cluster_id, cluster, advertised });
                }
                Ok(Asked::Answer(Answer::Refused(why), _)) => {
                    let line = format!("the node at {addr} does not let this node attach: {why}");
                    return Err(Failure::Refused(line));
                }
                Ok(Asked::Never(why)) => {
                    return Err(Failure::Refused(format!("cannot attach to the server at {addr}: {why}")));
                }
                Ok(Asked::Myself) => continue,
                Ok(Asked::Answer(Answer::Later(why), _)) => {
                    format!("cannot attach to the node at {addr} yet: {why}; trying again")
                }
                Err(e) => format!("cannot attach to the node at {addr} yet: {e}; trying again"),
            };
            if !told.contains(&line) {
                say(line.clone());
                told.push(line);
            }
        }
        if !others {
            return Err(Failure::OnlyMyself);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(
    joiner: &Joiner,
    challenges: &mut Challenges,
    own: &Own,
    advertised: Option<&Address>,
    target: &mut Target<'_>,
) -> io::Result<Asked> {
    let found = match &mut target.lookup {
        Some(lookup) => lookup.wait(LOOKUP).await,
        None => return Err(io::Error::other("its name was not looked up")),
    };
    if !found.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::TimedOut) {
        target.lookup = None;
    }
    let mut found = found?;
    found.retain(|socket| !own.is_at(socket));
    if found.is_empty() {
        return Ok(Asked::Myself);
    }
    let first = dial::connect_any(&found, CONNECT).await?;
    let socket = first.peer_addr()?;
    match original::ask(first).await {
        Kind::Original => return Ok(Asked::Never(original::CANNOT_JOIN.into())),
        kind => kind.may_be_a_node()?,
    }
    let stream = dial::connect_any(&[socket], CONNECT).await?;
    let advertised = match advertised.cloned().or_else(|| own.on_the_way(stream.local_addr().ok()?)) {
        Some(advertised) => advertised,
        None => match own.by_route([]) {
            Ok(advertised) => advertised,
            Err(e) => return Ok(Asked::Never(e.to_string())),
        },
    };
    let joiner = Joiner { addr: advertised.to_string(), ..joiner.clone() };
    let answer = timeout(PATIENCE, join(joiner.attempt(challenges.make()), stream)).await;
    Ok(Asked::Answer(answer.unwrap_or_else(|_| Err(io::Error::other("it does not answer")))?, advertised))
}

async fn join(mut attempt: Attempt, mut stream: TcpStream) -> io::Result<Answer> {
    stream.write_all(&attempt.opening()).await?;
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::other(attempt.closed()));
        }
        let mut out = Vec::new();
        let (used, answer) = attempt.receive(&bytes, &mut out).map_err(io::Error::other)?;
        bytes.drain(..used);
        stream.write_all(&out).await?;
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}
