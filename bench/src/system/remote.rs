//! A system that runs elsewhere: only its addresses are known.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use clap::ValueEnum;

use super::{Kind, System, twice};
use crate::failure::Failure;

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

/// Whether these are those that a definition of these systems, with so many nodes of each, can use.
///
/// # Errors
/// One would be left out without a word, or is not whole.
pub fn check(remotes: &[Remote], systems: &[Kind], nodes: usize) -> Result<(), Failure> {
    for (number, Remote { kind, addrs }) in remotes.iter().enumerate() {
        let wrong = |what: &str| Err(Failure::new(format!("--endpoints {kind}: {what}")));
        if !systems.contains(kind) {
            return wrong("that system takes no part");
        }
        if remotes[..number].iter().any(|other| other.kind == *kind) {
            return wrong("given twice");
        }
        if addrs.len() != nodes {
            return wrong(&format!("{} addresses, and there are {nodes} nodes of each system", addrs.len()));
        }
        if let Some(addr) = twice(addrs) {
            return wrong(&format!("{addr} is given twice"));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a system would be started here while the user takes its figures for those of the servers that he named.
    #[test]
    fn endpoints_that_do_not_fit_are_refused() {
        let remotes = |texts: &[&str]| -> Vec<Remote> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let one = |texts: &[&str]| check(&remotes(texts), &[Kind::Doozer, Kind::Etcd], 1);
        let three = |text: &str| check(&remotes(&[text]), &[Kind::Etcd], 3);
        one(&["etcd=127.0.0.1:1", "doozer=127.0.0.1:1"]).unwrap();
        three("etcd=127.0.0.1:1,127.0.0.1:2,127.0.0.1:3").unwrap();
        for (outcome, why) in [
            (one(&["zookeeper=127.0.0.1:1"]), "takes no part"),
            (one(&["etcd=127.0.0.1:1", "etcd=127.0.0.1:2"]), "etcd: given twice"),
            (one(&["etcd=127.0.0.1:1,127.0.0.1:2"]), "2 addresses"),
            (three("etcd=127.0.0.1:1"), "3 nodes"),
            (three("etcd=127.0.0.1:1,127.0.0.1:2,127.0.0.1:1"), "127.0.0.1:1 is given twice"),
        ] {
            let e = outcome.unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
    }
}
