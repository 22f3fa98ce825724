//! The name service: a cluster that knows the addresses of others, in `/ctl/ns/<name>/*`.

use super::error::Error;
use super::options::Options;
use super::uri::{PREFIX, Uri};
use super::verbs::Client;
use crate::address::Address;
use crate::wire::ErrCode;

impl Options {
    /// Reads the addresses and the secret of `target`, as [`Options::parse`] does. If `target` is a URI with a name (`cn`), asks
    /// the name service at `boot` for the addresses; `boot` has the same form as `target`.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] if the name service knows no address; [`Error::Uri`] if `target` or `boot` is malformed; and the
    /// errors of [`Client::connect`] for the name service.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use doozer::client::Options;
    /// # async fn example() -> Result<(), doozer::client::Error> {
    /// let options = Options::parse_via("doozer:?cn=shop", "10.0.0.1").await?;
    /// let client = options.retry_for(Duration::from_secs(3)).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn parse_via(target: &str, boot: &str) -> Result<Self, Error> {
        if !target.starts_with(PREFIX) {
            return Ok(Self::parse(target)?);
        }
        let mut uri: Uri = target.parse()?;
        if let Some(cluster) = uri.cluster.take() {
            let names = Client::connect(boot).await?;
            uri.addresses = names.lookup(&cluster).await?;
        }
        Ok(Self::from_uri(uri)?)
    }
}

impl Client {
    /// Connects to the cluster of `target`, which has the form described at [`Client::connect`]. If `target` is a URI with a name
    /// (`cn`), the name service at `boot`, which has the same form, provides the addresses; otherwise `target` does. `target` also
    /// provides the secret.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] if the name service knows no address; otherwise the errors of [`Client::connect`], for either
    /// cluster.
    pub async fn connect_via(target: &str, boot: &str) -> Result<Self, Error> {
        Options::parse_via(target, boot).await?.connect().await
    }

    /// Returns the addresses that this cluster, as a name service, has for the cluster `name`. Skips entries that are not
    /// addresses.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] if it has no address.
    pub async fn lookup(&self, name: &str) -> Result<Vec<Address>, Error> {
        let directory = format!("/ctl/ns/{name}");
        let mut ids = self.getdir(&directory, None);
        let mut addresses = Vec::new();
        while let Some(id) = ids.next().await {
            let id = match id {
                Ok(id) => id,
                Err(error) if error.code() == Some(ErrCode::Noent) => break,
                Err(error) => return Err(error),
            };
            let file = self.get(&format!("{directory}/{id}"), ids.rev()).await?;
            addresses.extend(String::from_utf8_lossy(&file.value).trim().parse::<Address>());
        }
        if addresses.is_empty() {
            return Err(Error::NotRegistered(name.to_owned()));
        }
        Ok(addresses)
    }
}
