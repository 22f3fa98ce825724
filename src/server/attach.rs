//! Attaching to a cluster: asks the nodes at the addresses that are known, one after the other, until one lets this node in.
//!
//! This is done before anything is served, with sockets of tokio: what is said is a few frames, and an attempt that takes too long
//! can simply be dropped.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::replica::join::{Answer, Joiner};

/// How long a node may take to let this one in: its cluster commits that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to accept the connection.
const CONNECT: Duration = Duration::from_secs(1);
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
}

/// Asks until one lets it in.
///
/// # Errors
/// A line that says why none will.
pub async fn attach(joiner: &Joiner, addresses: &[String], say: &mut dyn FnMut(String)) -> Result<Welcome, String> {
    let mut told = Vec::new();
    loop {
        for addr in addresses {
            let line = match timeout(PATIENCE, ask(joiner, addr)).await {
                Ok(Ok(Answer::Welcome { raft_id, cluster_id, cluster })) => {
                    say(format!("attached to cluster {cluster} by the node at {addr}: raft id {raft_id}"));
                    return Ok(Welcome { raft_id, cluster_id, cluster });
                }
                Ok(Ok(Answer::Refused(why))) => {
                    return Err(format!("the node at {addr} does not let this node attach: {why}"));
                }
                Ok(Ok(Answer::Later(why))) => format!("cannot attach to the node at {addr} yet: {why}; trying again"),
                Ok(Err(e)) => format!("cannot attach to the node at {addr} yet: {e}; trying again"),
                Err(_) => format!("cannot attach to the node at {addr} yet: it does not answer; trying again"),
            };
            if !told.contains(&line) {
                say(line.clone());
                told.push(line);
            }
        }
        sleep(PAUSE).await;
    }
}

async fn ask(joiner: &Joiner, addr: &str) -> io::Result<Answer> {
    let mut stream = connect(addr).await?;
    stream.write_all(&joiner.opening()).await?;
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::other("it closed the connection; is it a doozerd of this version?"));
        }
        let mut out = Vec::new();
        let (used, answer) = joiner.receive(&bytes, &mut out).map_err(io::Error::other)?;
        bytes.drain(..used);
        stream.write_all(&out).await?;
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

/// Connects to a node, in bounded time.
///
/// # Errors
/// Those of the connection.
pub async fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = match timeout(CONNECT, TcpStream::connect(addr)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not accept a connection")),
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
