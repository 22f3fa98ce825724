//! Where a client connects to, and how patient it is.

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
    /// Connects to any of these addresses. When the connection is lost, the client tries the next address.
    ///
    /// # Errors
    /// [`UriError::NoAddress`] if `addresses` is empty.
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

    /// Takes the addresses and the secret of a URI.
    ///
    /// # Errors
    /// [`UriError::NoAddress`] if the URI has no address.
    pub fn from_uri(uri: Uri) -> Result<Self, UriError> {
        let mut options = Self::new(uri.addresses)?;
        options.secret = uri.secret;
        Ok(options)
    }

    /// Reads a doozer URI, or one or more addresses separated by commas.
    ///
    /// # Errors
    /// If `target` is malformed.
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

    /// Sets the secret to present on each new connection.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret(secret.into()));
        self
    }

    /// How long connecting may take, 5 s by default. Each IP address has this long to accept the connection; the name look-up
    /// before, and presenting the secrets after, may each take as long again. If the name has several IP addresses, attempts start
    /// 250 ms apart and overlap.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a server that owes an answer may be silent before the client asks for a sign of life, 5 s by default. After as long
    /// again, the connection counts as lost. A server that is alive may take longer to answer: a wait for an event has no limit but
    /// the caller's.
    #[must_use]
    pub const fn quiet_limit(mut self, limit: Duration) -> Self {
        self.quiet = limit;
        self
    }

    /// How long a call looks for a server, counted from when it first had none, 10 s by default. Waits for events and watches
    /// continue for as long as their caller does.
    #[must_use]
    pub const fn retry_for(mut self, patience: Duration) -> Self {
        self.retry_for = patience;
        self
    }

    /// How long a server may take before the client tries another address in parallel, 1 s by default. The limit applies to
    /// accepting a connection, and to showing a sign of life while the server owes an answer (the client asks for one after half of
    /// this time). Reads and waits then move to the first other server that answers; a write stays, since the server may have
    /// carried it out. This setting has no effect with one address.
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

    /// How long the client tries a call at the other addresses after a server answered it with `READONLY`, 2 s by default. The
    /// client tries each address at least once, then all of them again after short pauses. If the time passes and all refuse, the
    /// call fails with `READONLY`. With one address, `READONLY` is returned at once.
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

    /// How often the client asks a server, with SYNC, whether it still reaches a majority of its cluster, 1 s by default. The
    /// client asks only while a caller waits for events, because a server without a majority has no news. See
    /// [`WhenStale`](super::WhenStale). Servers of the original do not know SYNC; the client asks them once.
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

    /// The number of addresses.
    #[cfg(feature = "cli")]
    pub(crate) const fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Connects to the first address that answers, starting with a random one; when [`slow_after`](Self::slow_after) has passed,
    /// the client tries the next address in parallel. Needs a tokio runtime with its I/O and time drivers; a task on that runtime
    /// serves the connection.
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
