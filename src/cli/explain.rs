//! Why a command failed, in words that name the path and what stands there now.
//!
//! A server answers with a code. Its name comes first in what is printed, since scripts look for it, and a reason follows. Some
//! reasons are asked for afterwards, so they tell what holds at that moment, which somebody may have changed since.

use std::time::Duration;

use tokio::time::timeout;

use super::Failure;
use crate::client::{Client, ErrCode, Error, Stat};

/// How long a reason may take to ask for. Without it, the error is told without what stands there now.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was asked of a path.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// To be read, at this revision if one was given.
    Read(Option<i64>),
    /// To be created.
    Create,
    /// To be changed if its revision is not greater than this one.
    Change(i64),
    /// To be written again as it had just been read, at this revision.
    Touch(i64),
}

/// The failure that the command ends with.
pub async fn explain(client: &Client, path: &str, asked: Asked, error: Error) -> Failure {
    let Error::Server { code, detail } = &error else { return Failure::Client(error) };
    if !detail.is_empty() {
        // The server has said why; only who may not do it has not been told what.
        return match detail == "permission denied" {
            true => {
                Failure::Explained(*code, format!("{detail}: {path}; is a secret missing, or wrong? (`sk` in the URI)"))
            }
            false => Failure::Client(error),
        };
    }
    let detail = match code {
        ErrCode::RevMismatch => mismatch(path, asked, now(client, path).await),
        ErrCode::Readonly => {
            format!("{path}: nothing was written; no server that was asked reaches a majority of the cluster")
        }
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

/// Nothing stands at the path.
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

/// The path's parent that is a file.
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
