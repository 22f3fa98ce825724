//! Connections to peers: their names are looked up anew each time, and nothing waits for that but the dial itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::original;
use super::{StartError, pin};
use crate::address::Address;
use crate::client::dial::{Patience, connect, connect_any};
use crate::client::resolve;

/// The look-up of a name may take longer than a connection: a name server that does not answer costs the system 5 s.
const PATIENCE: Patience = Patience { lookup: Duration::from_secs(20), connect: Duration::from_secs(1) };

/// Makes ready for the look-ups of names. Their threads run where the one runs that starts the first of them: off the server's core.
///
/// # Errors
/// If the system refuses a thread.
pub fn prepare(core: Option<usize>) -> Result<(), StartError> {
    let start = move || {
        core.into_iter().for_each(pin::keep_off);
        resolve::prepare();
    };
    let thread = std::thread::Builder::new().spawn(start).map_err(|e| StartError::no_thread(&e))?;
    // It ends at once, and cannot panic.
    let _ended = thread.join();
    Ok(())
}

/// Dials peers.
#[derive(Debug)]
pub struct Dialer {
    /// Addresses that the operator gave, at which there may be an original: what is there was not asked yet.
    unasked: RefCell<BTreeSet<String>>,
}

impl Dialer {
    /// With the addresses of `-a`, and those at which this node has found members before.
    pub fn new(given: &[Address], members: &[String]) -> Dialer {
        let given = given.iter().map(Address::to_string);
        Dialer { unasked: RefCell::new(given.filter(|address| !members.contains(address)).collect()) }
    }

    /// Connects to a peer.
    ///
    /// # Errors
    /// If `addr` is not an address, cannot be looked up, does not accept a connection, or if what listens there does not prove to be a
    /// node of this program.
    pub async fn dial(&self, addr: &str) -> io::Result<std::net::TcpStream> {
        let address: Address = addr.parse().map_err(io::Error::other)?;
        let mut stream = connect(&address, PATIENCE).await?;
        if self.unasked.borrow().contains(addr) {
            let socket = stream.peer_addr()?;
            original::ask(stream).await.may_be_a_node()?;
            self.unasked.borrow_mut().remove(addr);
            stream = connect_any(&[socket], PATIENCE.connect).await?;
        }
        // What tokio has made is handed over to the ring.
        stream.into_std()
    }
}
