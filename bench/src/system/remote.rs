//! A system that runs elsewhere: only its addresses are known.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use clap::ValueEnum;

use super::{Kind, System};

/// Where a system runs: `etcd=10.0.0.1:2379,10.0.0.2:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Which.
    pub kind: Kind,
    /// Its nodes; the first is asked where the leader is to be.
    pub addrs: Vec<SocketAddr>,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Remote, String> {
        let (kind, addrs) = text.split_once('=').ok_or("not of the form SYSTEM=ADDR,…")?;
        let kind = Kind::from_str(kind, false)?;
        let resolve = |addr: &str| {
            let found = addr.to_socket_addrs().map_err(|e| format!("{addr}: {e}"))?.next();
            found.ok_or_else(|| format!("{addr}: no such address"))
        };
        Ok(Remote { kind, addrs: addrs.split(',').map(resolve).collect::<Result<_, String>>()? })
    }
}

impl System for Remote {
    fn addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn version(&self) -> String {
        "elsewhere".to_string()
    }
}
