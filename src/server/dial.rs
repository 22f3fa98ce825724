//! Connections to peers: their names are looked up anew each time, and nothing waits for that but the dial itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::original::{self, Kind};
use super::{StartError, pin};
use crate::address::Address;
use crate::client::dial::{Patience, connect};
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
    /// With the addresses of `-a`.
    pub fn new(given: &[Address]) -> Dialer {
        Dialer { unasked: RefCell::new(given.iter().map(Address::to_string).collect()) }
    }

    /// Connects to a peer.
    ///
    /// # Errors
    /// If `addr` is not an address, cannot be looked up, does not accept a connection, or is that of an original.
    pub async fn dial(&self, addr: &str) -> io::Result<std::net::TcpStream> {
        let address: Address = addr.parse().map_err(io::Error::other)?;
        let stream = connect(&address, PATIENCE).await?;
        if self.unasked.borrow().contains(addr) {
            // A member that waits for its peers does not serve clients yet: silence says nothing.
            if original::ask_at(stream.peer_addr()?).await? == Kind::Original {
                return Err(io::Error::other(original::CANNOT_JOIN));
            }
            self.unasked.borrow_mut().remove(addr);
        }
        // What tokio has made is handed over to the ring.
        stream.into_std()
    }
}
