//! The name service: a cluster that knows the addresses of others, in `/ctl/ns/<name>/*`.

use super::error::Error;
use super::options::Options;
use super::uri::{Address, PREFIX, Uri, UriError};
use super::verbs::Client;
use crate::wire::ErrCode;

impl Client {
    /// Connects to the cluster that `target` means, which is as for [`Client::connect`]. If it is a URI with a name (`cn`),
    /// the addresses are those that the name service `boot` (a target like any other) has for it; else its own are used.
    /// The secret is that of `target`.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] if the name service knows no address; else those of [`Client::connect`], for either
    /// cluster.
    pub async fn connect_via(target: &str, boot: &str) -> Result<Self, Error> {
        if !target.starts_with(PREFIX) {
            return Self::connect(target).await;
        }
        let mut uri: Uri = target.parse()?;
        if let Some(cluster) = uri.cluster.take() {
            let names = Self::connect(boot).await?;
            uri.addresses = names.lookup(&cluster).await?;
        }
        Options::from_uri(uri)?.connect().await
    }

    /// The addresses that this cluster, as a name service, has for the cluster `name`. What is no address there is
    /// passed over.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] if there is none.
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
            let address: Result<Address, UriError> = String::from_utf8_lossy(&file.value).trim().parse();
            addresses.extend(address);
        }
        if addresses.is_empty() {
            return Err(Error::NotRegistered(name.to_owned()));
        }
        Ok(addresses)
    }
}
