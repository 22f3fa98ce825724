//! The name service: another cluster, in which the nodes of this one find each other.
//!
//! ```text
//! /ctl/boot/<cluster>       id of the node that founds the cluster: the one that creates this file, with revision 0
//! /ctl/ns/<cluster>/<id>    where node <id> listens
//! ```
//! A node that has no cluster yet asks the name service ([`consult`]). If it finds addresses, it attaches to them. Otherwise it
//! tries to become the founder, or else waits until the founder has registered its address ([`announce`]).
//!
//! Invariants:
//! * of all nodes that ask at once, one founds; a founder that restarts with the same id is still the founder;
//! * a node never attaches to itself;
//! * failed requests are repeated without limit, and each reason is logged once. A node gives up only on permanent errors: a
//!   malformed URI, an invalid name, a rejected secret.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::{Address, CLOBBER, Client, ErrCode, Error, MISSING, Options, Unreachable};
use crate::store::Path;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the name service may take to answer a request that needs no waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an address may take to accept a connection, and how long the client looks for another connection after losing one. Both
/// are less than [`PATIENCE`], so that the error is the reason, not the missing answer.
const CONNECT: Duration = Duration::from_secs(2);
const RECONNECT: Duration = Duration::from_secs(3);
/// While this node waits for the founder, it asks the name service for a sign of life this often.
const PROBE: Duration = Duration::from_secs(2);

/// What a node without a cluster must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Found the cluster.
    Found,
    /// Attach to the cluster at these addresses, at least one.
    Attach(Vec<String>),
}

/// Asks the name service at `uri` what node `node_id`, which has no cluster yet, must do. Sends lines for the operator to `say`.
/// Repeats the request without limit.
///
/// # Errors
/// One line, if asking again would not help.
pub async fn consult(uri: &str, cluster: &str, node_id: &str, say: &dyn Fn(&str)) -> Result<Decision, String> {
    let service = Service::new(uri, cluster, node_id)?;
    let mut lines = Lines { say, last: String::new() };
    loop {
        match service.consult(&mut lines).await {
            Ok(decision) => return Ok(decision),
            Err(Failure::Final(reason)) => return Err(format!("the name service does not serve: {reason}")),
            Err(Failure::Passing(reason)) => {
                lines.say(format!("the name service cannot be asked about cluster {cluster}, trying again: {reason}"));
            }
        }
        sleep(PAUSE).await;
    }
}

/// Registers with the name service at `uri` that node `node_id` of the cluster listens at `addr`, unless it is registered already.
/// Returns once it is, or at once if `uri` or `cluster` is invalid.
pub async fn announce(uri: &str, cluster: &str, node_id: &str, addr: &str) {
    let mut lines = Lines { say: &super::say, last: String::new() };
    let service = match Service::new(uri, cluster, node_id) {
        Ok(service) => service,
        Err(reason) => return lines.say(format!("the name service is not told where this node listens: {reason}")),
    };
    while let Err(Failure::Final(reason) | Failure::Passing(reason)) = service.announce(addr).await {
        lines.say(format!("the name service cannot be told where this node listens, trying again: {reason}"));
        sleep(PAUSE).await;
    }
}

/// Lines for the operator; repeats of the last line are dropped.
struct Lines<'a> {
    say: &'a dyn Fn(&str),
    last: String,
}

impl Lines<'_> {
    fn say(&mut self, line: String) {
        if line != self.last {
            (self.say)(&line);
            self.last = line;
        }
    }
}

/// Why the name service could not help.
enum Failure {
    /// It may help later.
    Passing(String),
    /// It will never help.
    Final(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let passing = match &error {
            Error::Server { code, .. } => matches!(code, ErrCode::Readonly | ErrCode::TooLate),
            Error::UnknownCode { .. } | Error::Uri(_) | Error::TooLarge { .. } => false,
            Error::Unreachable(why) => !why.is_refused(),
            _ => true,
        };
        let reason = match &error {
            Error::Unreachable(why) => in_order(why),
            _ => error.to_string(),
        };
        if passing { Failure::Passing(reason) } else { Failure::Final(reason) }
    }
}

/// Lists the reasons of all addresses, in the same order whichever was tried first.
fn in_order(why: &Unreachable) -> String {
    let reasons: BTreeSet<String> = why.attempts.iter().map(|(address, e)| format!("{address}: {e}")).collect();
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

async fn in_time<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, what).await.unwrap_or_else(|_| Err(Failure::Passing(format!("no answer within {PATIENCE:?}"))))
}

/// The name service's answer.
enum Answer {
    Decided(Decision),
    /// This node founds the cluster, as of that revision, and has not registered its address.
    Awaited {
        founder: String,
        rev: i64,
    },
}

/// The name service, as one node sees it.
struct Service<'a> {
    options: Options,
    cluster: &'a str,
    node_id: &'a str,
}

impl<'a> Service<'a> {
    fn new(uri: &str, cluster: &'a str, node_id: &'a str) -> Result<Service<'a>, String> {
        let options = Options::parse(uri).map_err(|e| e.to_string())?;
        let options = options.connect_timeout(CONNECT).retry_for(RECONNECT);
        // Each is one component of a path, and so has no letter with a special meaning in a glob.
        for name in [cluster, node_id] {
            let path = format!("/{name}");
            if Path::parse(path.as_bytes()).is_none_or(|path| path.components().count() != 1) {
                return Err(format!(
                    "{name:?} cannot be a name in the name service; a cluster's name has to be of letters, digits, dots and hyphens"
                ));
            }
        }
        Ok(Service { options, cluster, node_id })
    }

    fn founder_path(&self) -> String {
        format!("/ctl/boot/{}", self.cluster)
    }

    fn addresses_glob(&self) -> String {
        format!("/ctl/ns/{}/*", self.cluster)
    }

    fn own_path(&self) -> String {
        format!("/ctl/ns/{}/{}", self.cluster, self.node_id)
    }

    async fn connect(&self) -> Result<Client, Failure> {
        Ok(self.options.clone().connect().await?)
    }

    async fn consult(&self, lines: &mut Lines<'_>) -> Result<Decision, Failure> {
        let client = self.connect().await?;
        loop {
            match in_time(self.ask(&client)).await? {
                Answer::Decided(decision) => return Ok(decision),
                Answer::Awaited { founder, rev } => {
                    lines.say(format!(
                        "waiting for the address of cluster {} in the name service: node {founder} founds it; if that node is \
                         gone, delete {} there",
                        self.cluster,
                        self.founder_path(),
                    ));
                    self.change(&client, rev).await?;
                }
            }
        }
    }

    /// Looks for addresses, and tries to become the founder if there are none.
    async fn ask(&self, client: &Client) -> Result<Answer, Failure> {
        let rev = current(client).await?;
        let addresses = self.addresses(client, rev).await?;
        if !addresses.is_empty() {
            return Ok(Answer::Decided(Decision::Attach(addresses)));
        }
        match client.set(&self.founder_path(), MISSING, self.node_id).await {
            Ok(_) => return Ok(Answer::Decided(Decision::Found)),
            Err(error) if error.is_rev_mismatch() => {}
            // If the write was carried out after all, the next attempt finds its own id there.
            Err(error) => return Err(error.into()),
        }
        // The client may be connected to another server now, one that is behind the server that refused.
        current(client).await?;
        let founder = client.get(&self.founder_path(), None).await?.value;
        if founder == self.node_id.as_bytes() {
            return Ok(Answer::Decided(Decision::Found));
        }
        Ok(Answer::Awaited { founder: founder.escape_ascii().to_string(), rev })
    }

    /// Returns the addresses of other nodes; skips entries that are not addresses.
    async fn addresses(&self, client: &Client, rev: i64) -> Result<Vec<String>, Failure> {
        let mut addresses = Vec::new();
        let mut files = client.walk(&self.addresses_glob(), Some(rev));
        while let Some(file) = files.next().await {
            let file = file?;
            if file.path != self.own_path()
                && let Ok(address) = String::from_utf8_lossy(&file.value).trim().parse::<Address>()
            {
                addresses.push(address.to_string());
            }
        }
        Ok(addresses)
    }

    /// Waits until an address, or the founder, differs from that at `rev`.
    async fn change(&self, client: &Client, rev: i64) -> Result<(), Failure> {
        let (glob, founder) = (self.addresses_glob(), self.founder_path());
        let mut address = pin!(client.wait(&glob, rev + 1));
        let mut founder = pin!(client.wait(&founder, rev + 1));
        loop {
            tokio::select! {
                event = &mut address => return event.map(drop).map_err(Failure::from),
                event = &mut founder => return event.map(drop).map_err(Failure::from),
                // A wait survives lost connections for ever, without an error; a read does not.
                () = sleep(PROBE) => in_time(async { Ok(client.rev().await?) }).await.map(drop)?,
            }
        }
    }

    async fn announce(&self, addr: &str) -> Result<(), Failure> {
        let client = self.connect().await?;
        in_time(async {
            let rev = current(&client).await?;
            if client.get(&self.own_path(), Some(rev)).await?.value != addr.as_bytes() {
                client.set(&self.own_path(), CLOBBER, addr).await?;
            }
            Ok(())
        })
        .await
    }
}

/// Returns a revision that includes all acknowledged writes, or the current revision of a server that does not know SYNC.
async fn current(client: &Client) -> Result<i64, Error> {
    match client.sync().await {
        Err(error) if error.code() == Some(ErrCode::UnknownVerb) => client.rev().await,
        outcome => outcome,
    }
}
