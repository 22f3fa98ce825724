//! The limit of open files: each connection is one, and a load may have ten thousand.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;

/// Files that are open beside connections, of a client or of a server.
const SPARE: u64 = 200;

/// Raises the limit of this process, and of those that it starts, as far as may be.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it is refused, a load that needs more says so.
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Whether as many connections can be open as something needs.
///
/// # Errors
/// They cannot.
pub fn check(what: &str, connections: usize) -> Result<(), Failure> {
    enough(what, connections, getrlimit(Resource::Nofile).current)
}

fn enough(what: &str, connections: usize, limit: Option<u64>) -> Result<(), Failure> {
    let needed = connections as u64 + SPARE;
    match limit {
        Some(limit) if limit < needed => Err(Failure::new(format!(
            "{what} has {connections} connections, so {needed} files have to be open at a time, and {limit} may be: raise the \
             hard limit (`ulimit -n {needed}` as root, LimitNOFILE= of systemd, --ulimit of a container), or leave it out \
             with --only"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the run ends after an hour, when that load comes.
    #[test]
    fn a_limit_that_is_too_low_is_said_with_the_remedy() {
        let e = enough("fan-out-10000", 10_001, Some(10_200)).unwrap_err().to_string();
        assert!(e.contains("fan-out-10000") && e.contains("ulimit -n 10201") && e.contains("--only"), "{e}");
        enough("fan-out-10000", 10_000, Some(10_200)).unwrap();
        enough("fan-out-10000", 10_001, None).unwrap();
    }

    #[test]
    fn the_limit_is_the_hard_one() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
