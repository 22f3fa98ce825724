//! Where to connect to, and how long to be patient.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Client;
use super::driver::Driver;
use super::error::Error;
use super::uri::{PREFIX, Secret, Uri, UriError};
use crate::address::Address;
use crate::limits::CLIENT_QUEUE;

/// How a [`Client`] connects and when it gives up.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) addresses: Vec<Address>,
    pub(super) secret: Option<Secret>,
    pub(super) connect_timeout: Duration,
    pub(super) quiet: Duration,
    pub(super) retry_for: Duration,
    pub(super) slow_after: Duration,
    pub(super) readonly_for: Duration,
    pub(super) sync_every: Duration,
}

impl Options {
    /// Any of these addresses is as good as another; a lost connection is replaced by one to the next of them.
    ///
    /// # Errors
    /// If `addresses` is empty.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Result<Self, UriError> {
        let addresses: Vec<Address> = addresses.into_iter().collect();
        if addresses.is_empty() {
            return Err(UriError::NoAddress);
        }
        Ok(Self {
            addresses,
            secret: None,
            connect_timeout: Duration::from_secs(5),
            quiet: Duration::from_secs(5),
            retry_for: Duration::from_secs(10),
            slow_after: Duration::from_secs(1),
            readonly_for: Duration::from_secs(2),
            sync_every: Duration::from_secs(1),
        })
    }

    /// The addresses and the secret of a URI.
    ///
    /// # Errors
    /// The URI has no address.
    pub fn from_uri(uri: Uri) -> Result<Self, UriError> {
        let mut options = Self::new(uri.addresses)?;
        options.secret = uri.secret;
        Ok(options)
    }

    /// Reads a doozer URI, or one address or several with commas in between.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(target: &str) -> Result<Self, UriError> {
        if target.starts_with(PREFIX) {
            return Self::from_uri(target.parse()?);
        }
        if target.starts_with("doozer:") {
            return Err(UriError::Prefix(target.to_owned()));
        }
        let addresses = target.split(',').map(|address| address.trim().parse::<Address>());
        Self::new(addresses.collect::<Result<Vec<_>, _>>()?)
    }

    /// Presents this secret on each new connection.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret(secret.into()));
        self
    }

    /// How long one address may take to accept a connection, and then the secret. 5 s unless told. The look-up of a name may take as
    /// long; if the name has several IP addresses, they are tried side by side, each 250 ms after the one before it, and each has
    /// the whole time.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a server that owes an answer may say nothing before it is asked for a sign of life; after as long again
    /// the connection counts as lost. 5 s unless told. (A server that is alive may still take its time: a wait for an
    /// event has no limit but the caller's.)
    #[must_use]
    pub const fn quiet_limit(mut self, limit: Duration) -> Self {
        self.quiet = limit;
        self
    }

    /// How long a call goes on trying to find a server, from the moment it first had none. 10 s unless told. Waits for
    /// events and watches go on for as long as their caller does.
    #[must_use]
    pub const fn retry_for(mut self, patience: Duration) -> Self {
        self.retry_for = patience;
        self
    }

    /// How long a server may take before another address is tried beside it: to accept a connection, or, while it owes an
    /// answer, to give a sign of life (half of this time after a request it is asked for one). Reads and waits then move to
    /// the first other server that answers; a write stays, since it may have been carried out. 1 s unless told. Without
    /// effect if there is one address.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use doozer::client::Options;
    /// let hasty = Options::parse("10.0.0.1,10.0.0.2")?.slow_after(Duration::from_millis(200));
    /// # Ok::<_, doozer::client::UriError>(())
    /// ```
    #[must_use]
    pub const fn slow_after(mut self, limit: Duration) -> Self {
        self.slow_after = limit;
        self
    }

    /// How long a call that a server answered with `READONLY` is tried at the other addresses, from that answer on: each of
    /// them at least once, then all again after short pauses, until one carries it out or the time has passed and all refuse.
    /// Then it is `READONLY`. 2 s unless told. With one address, `READONLY` is returned at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use doozer::client::Options;
    /// let once = Options::parse("10.0.0.1,10.0.0.2")?.readonly_for(Duration::ZERO);
    /// # Ok::<_, doozer::client::UriError>(())
    /// ```
    #[must_use]
    pub const fn readonly_for(mut self, limit: Duration) -> Self {
        self.readonly_for = limit;
        self
    }

    /// How often a server at which somebody waits for events is asked, with SYNC, whether it still reaches a majority of its
    /// cluster: a server that does not has no news. See [`WhenStale`](super::WhenStale). 1 s unless told. The servers of the
    /// original do not know SYNC, and are asked once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use doozer::client::Options;
    /// let relaxed = Options::parse("10.0.0.1,10.0.0.2")?.sync_every(Duration::from_secs(10));
    /// # Ok::<_, doozer::client::UriError>(())
    /// ```
    #[must_use]
    pub const fn sync_every(mut self, interval: Duration) -> Self {
        self.sync_every = interval;
        self
    }

    /// How many addresses there are.
    #[cfg(feature = "cli")]
    pub(crate) const fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Connects to the first address that answers, beginning with a random one; the next one is tried as well when
    /// [`slow_after`](Self::slow_after) has passed. Needs a tokio runtime with its I/O and
    /// time drivers; the connection is served by a task on it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], with the reason of each address.
    pub async fn connect(self) -> Result<Client, Error> {
        let (calls, queue) = mpsc::channel(CLIENT_QUEUE);
        let mut driver = Driver::new(self, queue);
        let link = driver.round().await.map_err(Error::Unreachable)?;
        let state = driver.state();
        tokio::spawn(driver.run(link));
        Ok(Client { calls, state })
    }
}
