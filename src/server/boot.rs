//! The name service: another cluster, in which the nodes of this one find each other.
//!
//! ```text
//! /ctl/boot/<cluster>       id of the node that founds the cluster: who creates this file, with revision 0, is the one
//! /ctl/ns/<cluster>/<id>    where node <id> listens
//! ```
//! A node that has no cluster yet asks there ([`consult`]): if addresses are known, it attaches to them; else it tries to be
//! the founder; else it waits until the founder has said where it is ([`announce`]).
//!
//! Invariants:
//! * of all who ask at once, one founds; a node that was about to and comes back under the same id is still the one;
//! * a node never attaches to itself;
//! * what cannot be asked is asked again for as long as it takes, and said once for each reason. Given up is only what no
//!   time will change: a URI that is none, a name that is none, a secret that is refused.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::{Address, CLOBBER, Client, ErrCode, Error, MISSING, Options, Unreachable};
use crate::store::Path;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the name service may take to answer what needs no waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one address may take to accept a connection, and how long another connection is looked for when one is lost:
/// less than [`PATIENCE`], so that what is said is the reason, not that there was no answer.
const CONNECT: Duration = Duration::from_secs(2);
const RECONNECT: Duration = Duration::from_secs(3);
/// While the founder is waited for, the name service is asked for a sign of life so often.
const PROBE: Duration = Duration::from_secs(2);

/// What a node without a cluster is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Found the cluster.
    Found,
    /// Attach to it: its members' addresses, at least one.
    Attach(Vec<String>),
}

/// Asks the name service at `uri` what node `node_id`, which has no cluster yet, is to do. Lines for the operator go to `say`.
///
/// # Errors
/// One line, where asking again would not help.
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

/// Tells the name service at `uri` that node `node_id` of the cluster listens at `addr`, unless it knows. Returns once it is
/// told, or at once when `uri` or `cluster` make no sense.
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

/// Lines for the operator, none of them twice in a row.
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

/// Why the name service was of no help.
enum Failure {
    /// It may be later.
    Passing(String),
    /// It will not be.
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

/// The reasons of all addresses, in an order that is the same whichever was tried first.
fn in_order(why: &Unreachable) -> String {
    let reasons: BTreeSet<String> = why.attempts.iter().map(|(address, e)| format!("{address}: {e}")).collect();
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

async fn in_time<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, what).await.unwrap_or_else(|_| Err(Failure::Passing(format!("no answer within {PATIENCE:?}"))))
}

/// What the name service says.
enum Answer {
    Decided(Decision),
    /// This node founds the cluster, as of that revision, and has not said where it is.
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
        // Each is one component of a path, and so holds no letter that means something in a glob.
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

    /// Looks for addresses, and tries to be the founder where there are none.
    async fn ask(&self, client: &Client) -> Result<Answer, Failure> {
        let rev = current(client).await?;
        let addresses = self.addresses(client, rev).await?;
        if !addresses.is_empty() {
            return Ok(Answer::Decided(Decision::Attach(addresses)));
        }
        match client.set(&self.founder_path(), MISSING, self.node_id).await {
            Ok(_) => return Ok(Answer::Decided(Decision::Found)),
            Err(error) if error.is_rev_mismatch() => {}
            // If it was carried out after all, the next attempt finds its own id there.
            Err(error) => return Err(error.into()),
        }
        // The client may be with another server by now, which has not come as far as the one that refused.
        current(client).await?;
        let founder = client.get(&self.founder_path(), None).await?.value;
        if founder == self.node_id.as_bytes() {
            return Ok(Answer::Decided(Decision::Found));
        }
        Ok(Answer::Awaited { founder: founder.escape_ascii().to_string(), rev })
    }

    /// The addresses of other nodes. What is no address there is passed over.
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

    /// Waits until an address or the founder is another than at `rev`.
    async fn change(&self, client: &Client, rev: i64) -> Result<(), Failure> {
        let (glob, founder) = (self.addresses_glob(), self.founder_path());
        let mut address = pin!(client.wait(&glob, rev + 1));
        let mut founder = pin!(client.wait(&founder, rev + 1));
        loop {
            tokio::select! {
                event = &mut address => return event.map(drop).map_err(Failure::from),
                event = &mut founder => return event.map(drop).map_err(Failure::from),
                // A wait goes on for ever through lost connections, without a word; a read does not.
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

/// A revision that holds all that was acknowledged before; of a server that does not know SYNC, its current one.
async fn current(client: &Client) -> Result<i64, Error> {
    match client.sync().await {
        Err(error) if error.code() == Some(ErrCode::UnknownVerb) => client.rev().await,
        outcome => outcome,
    }
}
