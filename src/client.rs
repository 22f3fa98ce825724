//! The client library.
//!
//! ```no_run
//! use doozer::client::{Client, MISSING};
//!
//! # async fn example() -> Result<(), doozer::client::Error> {
//! let client = Client::connect("doozer:?ca=10.0.0.1&ca=10.0.0.2&ca=10.0.0.3").await?;
//!
//! // Take a lock: only one of all who try creates the file.
//! match client.set("/lock/printer", MISSING, "host-1").await {
//!     Ok(rev) => println!("taken at revision {rev}"),
//!     Err(error) if error.is_rev_mismatch() => println!("somebody else has it"),
//!     Err(error) => return Err(error),
//! }
//!
//! // Read a configuration, then follow it without a gap.
//! let now = client.rev().await?;
//! let mut files = client.walk("/config/**", Some(now));
//! while let Some(file) = files.next().await {
//!     let file = file?;
//!     println!("{} is {} bytes", file.path, file.value.len());
//! }
//! let mut changes = client.watch("/config/**", now + 1);
//! while let Some(event) = changes.next().await {
//!     println!("{:?}", event?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is a handle. Its clones share one connection and send all their calls over it concurrently. The connection belongs
//! to a task on the tokio runtime that connected the client; the task ends with the last handle.
//!
//! * `verbs`: the methods, and the types of their answers.
//! * `streams`: walks, directories and watches, as [`futures_core::Stream`] and with an inherent `next`.
//! * `driver`: the task. The top of that file says what happens to a call when its connection is lost, and when another server is
//!   better.
//! * `link`: a connection in service. `conn`: its bytes. `race`: concurrent attempts. `call`: one request.
//! * `dial`: connects to one of a name's addresses. `resolve`: looks the name up. `options`, `uri`, `lookup`: where to connect.
//! * `error`: the errors. `rounded`: prints the times in them.

mod call;
mod conn;
pub(crate) mod dial;
mod driver;
mod error;
mod link;
mod lookup;
mod options;
mod race;
pub(crate) mod resolve;
mod rounded;
mod streams;
mod uri;
mod verbs;

pub use error::{Error, Lost, Stale, Unreachable};
pub use options::Options;
#[cfg(feature = "cli")]
pub(crate) use rounded::Rounded;
pub use streams::{Entries, Getdir, Walk, Watch, WhenStale};
pub use uri::{Secret, Uri, UriError};
pub use verbs::{CLOBBER, Change, Client, Entry, Event, File, MISSING, Stat};

pub use crate::address::{Address, AddressError};
pub use crate::wire::ErrCode;
