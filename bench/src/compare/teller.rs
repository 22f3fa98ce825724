//! What a leader of ours tells of itself, on a connection of its own, before and after what is measured.

use doozer::stats::Stats;
use doozer::wire::ErrCode;

use crate::client::Client;
use crate::compare::definition::{At, Load, Work};
use crate::compare::subject::Subject;
use crate::failure::Failure;
use crate::system::Kind;

/// The connection; none where nothing is to be told.
pub struct Teller(Option<Client>);

impl Teller {
    /// Connects, if the system counts the stages of what the load does.
    ///
    /// # Errors
    /// The server does not take the connection.
    pub fn connect(subject: &Subject, load: &Load) -> Result<Teller, Failure> {
        let counts = matches!(subject.kind, Kind::Doozer | Kind::Polling);
        if !counts || load.work != Work::Set || load.at != At::Leader {
            return Ok(Teller(None));
        }
        let leader = subject.system.addrs().into_iter().next();
        leader.map(Client::connect).transpose().map(Teller)
    }

    /// What the server has counted since it was started. One that does not know how to tell is not asked again.
    ///
    /// # Errors
    /// It does not answer, or is not understood.
    pub fn ask(&mut self) -> Result<Option<Stats>, Failure> {
        let told = self.0.as_mut().map(Client::stats).transpose();
        match told {
            Err(e) if e.code() == Some(ErrCode::UnknownVerb.code()) => {
                self.0 = None;
                Ok(None)
            }
            told => told,
        }
    }
}
