//! Connections to peers. Each dial looks the name up again; only the dial waits for the look-up.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::original;
use super::{StartError, pin};
use crate::address::Address;
use crate::client::dial::{Patience, connect, connect_any};
use crate::client::resolve;

/// A look-up may take longer than connecting: the system waits 5 s for a name server that does not answer.
const PATIENCE: Patience = Patience { lookup: Duration::from_secs(20), connect: Duration::from_secs(1) };

/// Starts the thread for name look-ups from a thread that keeps off `core`. So the look-ups stay off the server's core too.
///
/// # Errors
/// If the system refuses a thread.
pub fn prepare(core: Option<usize>) -> Result<(), StartError> {
    let start = move || {
        core.into_iter().for_each(pin::keep_off);
        resolve::prepare();
    };
    let thread = std::thread::Builder::new().spawn(start).map_err(|e| StartError::no_thread(&e))?;
    // The thread ends at once, and cannot panic.
    let _ended = thread.join();
    Ok(())
}

/// Dials peers.
#[derive(Debug)]
pub struct Dialer {
    /// Addresses from the operator where an original may run: no server there has been asked yet.
    unasked: RefCell<BTreeSet<String>>,
}

impl Dialer {
    /// `given` are the addresses of `-a`, `members` those at which this node has found members before.
    pub fn new(given: &[Address], members: &[String]) -> Dialer {
        let given = given.iter().map(Address::to_string);
        Dialer { unasked: RefCell::new(given.filter(|address| !members.contains(address)).collect()) }
    }

    /// Connects to a peer. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// If `addr` is not an address, cannot be looked up, or does not accept a connection, or if the server there does not prove to
    /// be a node of this program.
    pub async fn dial(&self, addr: &str) -> io::Result<std::net::TcpStream> {
        let address: Address = addr.parse().map_err(io::Error::other)?;
        let mut stream = connect(&address, PATIENCE).await?;
        if self.unasked.borrow().contains(addr) {
            let socket = stream.peer_addr()?;
            original::ask(stream).await.may_be_a_node()?;
            self.unasked.borrow_mut().remove(addr);
            stream = connect_any(&[socket], PATIENCE.connect).await?;
        }
        // Hand tokio's socket over to the ring.
        stream.into_std()
    }
}
