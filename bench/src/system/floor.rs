//! The [`floor`](crate::floor) as a system, of one process or of three.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::System;
use crate::child::Server;
use crate::failure::{Context, Failure};
use crate::scratch::Scratch;

/// The processes.
#[derive(Debug)]
pub struct Floor {
    first: Server,
    /// Those that it passes requests on to. They end with it.
    others: Vec<Server>,
    files: Vec<PathBuf>,
}

impl Floor {
    /// One process on each of these cores; the first is asked. Its answers begin with the revision `first_rev`.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(scratch: &Scratch, cores: &[Option<usize>], first_rev: i64) -> Result<Floor, Failure> {
        let (&first, others) = cores.split_first().ok_or_else(|| Failure::new("a floor of no process"))?;
        let files: Vec<_> = (0..cores.len()).map(|number| scratch.path(&format!("floor-{number}"))).collect();
        let start = |(file, core): (&PathBuf, &Option<usize>)| Server::floor(file, *core, first_rev, &[]);
        let others = files[1..].iter().zip(others).map(start).collect::<Result<Vec<_>, _>>()?;
        let peers: Vec<SocketAddr> = others.iter().map(Server::addr).collect();
        Ok(Floor { first: Server::floor(&files[0], first, first_rev, &peers)?, others, files })
    }

    /// Where the first listens.
    pub fn addr(&self) -> SocketAddr {
        self.first.addr()
    }

    /// Ends it, frees the disk, and returns what the first has said.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn end(self) -> Result<Vec<String>, Failure> {
        let Floor { first, others, files } = self;
        let said = first.said();
        drop((first, others));
        for file in files {
            std::fs::remove_file(&file).context(format!("cannot remove {}", file.display()))?;
        }
        Ok(said)
    }
}

impl System for Floor {
    fn addrs(&self) -> Vec<SocketAddr> {
        vec![self.addr()]
    }

    fn pids(&self) -> Vec<u32> {
        std::iter::once(&self.first).chain(&self.others).map(Server::pid).collect()
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_string()
    }

    fn explain(&self, e: Failure) -> Failure {
        self.first.explain(e)
    }
}
