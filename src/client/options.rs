//! Where to connect to, and how long to be patient.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Client;
use super::driver::Driver;
use super::error::Error;
use super::uri::{Address, PREFIX, Secret, Uri, UriError};
use crate::limits::CLIENT_QUEUE;

/// How a [`Client`] connects and when it gives up.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) addresses: Vec<Address>,
    pub(super) secret: Option<Secret>,
    pub(super) connect_timeout: Duration,
    pub(super) quiet: Duration,
    pub(super) retry_for: Duration,
}

impl Options {
    /// Any of these addresses is as good as another; a lost connection is replaced by one to the next of them.
    ///
    /// # Errors
    /// There is none.
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
        let addresses: Result<Vec<Address>, UriError> = target.split(',').map(|a| a.trim().parse()).collect();
        Self::new(addresses?)
    }

    /// Presents this secret on each new connection.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret(secret.into()));
        self
    }

    /// How long one address may take to accept a connection and the secret. 5 s unless told.
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

    /// Connects to the first address that answers, beginning with a random one. Needs a tokio runtime with its I/O and
    /// time drivers; the connection is served by a task on it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], with the reason of each address.
    pub async fn connect(self) -> Result<Client, Error> {
        let (calls, queue) = mpsc::channel(CLIENT_QUEUE);
        let mut driver = Driver::new(self, queue);
        let conn = driver.round().await.map_err(Error::Unreachable)?;
        tokio::spawn(driver.run(conn));
        Ok(Client { calls })
    }
}
