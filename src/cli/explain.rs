//! Explains why a command failed, in words that name the path and its present state.
//!
//! A server answers with a code. The output begins with the code's name, because scripts look for it; a reason follows. To find
//! some reasons, the command asks the server again. They describe the state at that later moment, which may have changed since the
//! failure.

use std::time::Duration;

use tokio::time::timeout;

use super::Failure;
use crate::client::{Client, ErrCode, Error, Stat};
use crate::limits::VALUE_MAX;

/// What READONLY means after all addresses were tried.
const NO_MAJORITY: &str = "nothing was written; no server that was asked reaches a majority of the cluster";

/// What a denied permission may mean.
const SECRET: &str = "is a secret missing, or wrong? (`sk` in the URI)";

/// How long asking for a reason may take. After that, the error is printed without the present state.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the command wanted to do with the path.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// Read it, at this revision if one was given.
    Read(Option<i64>),
    /// Create it.
    Create,
    /// Change it, if its revision is not greater than this one.
    Change(i64),
    /// Write it again unchanged, as it was at this revision.
    Touch(i64),
}

/// Returns the failure that the command ends with.
pub async fn explain(client: &Client, path: &str, asked: Asked, error: Error) -> Failure {
    let Error::Server { code, detail } = &error else { return Failure::Client(error) };
    if !detail.is_empty() {
        // The server has given a reason. Only "permission denied" does not say what was denied.
        return match detail == "permission denied" {
            true => Failure::Explained(*code, format!("{detail}: {path}; {SECRET}")),
            false => Failure::Client(error),
        };
    }
    let detail = match code {
        ErrCode::RevMismatch => mismatch(path, asked, now(client, path).await),
        ErrCode::Readonly => format!("{path}: {NO_MAJORITY}"),
        ErrCode::Notdir => match timeout(PATIENCE, file_above(client, path)).await {
            Ok(Some(file)) => format!("{path}: {file} is a file, and nothing can stand below a file"),
            _ => format!("{path}: a file stands where its directory would be"),
        },
        ErrCode::Isdir => format!("{path} is a directory"),
        ErrCode::TooLate => too_late(asked),
        ErrCode::BadPath => format!("{path} is no path to this server"),
        _ => path.to_owned(),
    };
    Failure::Explained(*code, detail)
}

/// Returns the failure of a nop, which has no path.
pub fn nop(error: Error) -> Failure {
    match &error {
        Error::Server { code: code @ ErrCode::Readonly, detail } if detail.is_empty() => {
            Failure::Explained(*code, NO_MAJORITY.to_owned())
        }
        Error::Server { code, detail } if detail == "permission denied" => {
            Failure::Explained(*code, format!("{detail}; {SECRET}"))
        }
        _ => Failure::Client(error),
    }
}

/// Returns the failure of a body that is larger than any server accepts. `size` is its size, if it is known.
pub fn too_large(path: &str, size: Option<u64>) -> Failure {
    let size = size.map_or_else(|| format!("more than {VALUE_MAX} bytes"), |size| format!("{size} bytes"));
    Failure::Explained(ErrCode::Other, format!("value too large for {path}: {size}, the limit is {VALUE_MAX}"))
}

/// The failure of a path that does not exist.
pub fn missing(path: &str, rev: Option<i64>) -> Failure {
    let detail = match rev {
        Some(rev) => format!("{path} did not exist at revision {rev}"),
        None => format!("{path} does not exist"),
    };
    Failure::Explained(ErrCode::Noent, detail)
}

async fn now(client: &Client, path: &str) -> Option<Stat> {
    timeout(PATIENCE, client.stat(path, None)).await.ok()?.ok()
}

fn mismatch(path: &str, asked: Asked, now: Option<Stat>) -> String {
    match (asked, now) {
        (Asked::Create, Some(Stat::File { rev, .. })) => format!("{path} exists already, at revision {rev}"),
        (Asked::Create, None) => format!("{path} exists already"),
        (Asked::Create, Some(_)) => format!("{path} existed, and has just been deleted"),
        (Asked::Change(given), Some(Stat::File { rev, .. })) if given < rev => {
            format!("{path} is at revision {rev}, later than {given}")
        }
        (Asked::Change(given), Some(Stat::Directory { .. })) => {
            format!("{path} is a directory, and no file at revision {given}")
        }
        (Asked::Change(_), Some(Stat::Missing)) => format!("{path} does not exist"),
        (Asked::Change(given), _) => format!("{path} was at a later revision than {given}"),
        (Asked::Touch(read) | Asked::Read(Some(read)), _) => {
            format!("{path} was written by somebody else after it was read at revision {read}; theirs stands")
        }
        (Asked::Read(None), _) => path.to_owned(),
    }
}

fn too_late(asked: Asked) -> String {
    match asked {
        Asked::Read(Some(rev)) => format!("revision {rev} has left the server's history"),
        _ => "the revision has left the server's history".to_owned(),
    }
}

/// Returns the ancestor of the path that is a file, if there is one.
async fn file_above(client: &Client, path: &str) -> Option<String> {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    for end in ends {
        match client.stat(&path[..end], None).await.ok()? {
            Stat::File { .. } => return Some(path[..end].to_owned()),
            Stat::Directory { .. } => {}
            Stat::Missing => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A nop has no path, and its error named one.
    #[test]
    fn the_failure_of_a_nop_names_no_path() {
        let failed = |code, detail: &str| nop(Error::Server { code, detail: detail.to_owned() }).to_string();
        assert_eq!(
            failed(ErrCode::Readonly, ""),
            "Error: READONLY: nothing was written; no server that was asked reaches a majority of the cluster"
        );
        assert_eq!(failed(ErrCode::Readonly, "the disk is stuck"), "Error: READONLY: the disk is stuck");
        assert_eq!(
            failed(ErrCode::Other, "permission denied"),
            "Error: OTHER: permission denied; is a secret missing, or wrong? (`sk` in the URI)"
        );
    }

    #[test]
    fn a_mismatch_tells_what_stands_there() {
        let file = Some(Stat::File { rev: 9, len: 0 });
        assert_eq!(mismatch("/a", Asked::Create, file), "/a exists already, at revision 9");
        assert_eq!(mismatch("/a", Asked::Create, None), "/a exists already");
        assert_eq!(mismatch("/a", Asked::Create, Some(Stat::Missing)), "/a existed, and has just been deleted");
        assert_eq!(mismatch("/a", Asked::Change(5), file), "/a is at revision 9, later than 5");
        assert_eq!(mismatch("/a", Asked::Change(5), None), "/a was at a later revision than 5");
        assert_eq!(mismatch("/a", Asked::Change(-2), Some(Stat::Missing)), "/a does not exist");
    }
}
