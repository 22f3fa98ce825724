//! The file system that the data is on: what a durable write costs is also its choice, and its options'.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file system, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Such as ext4.
    pub file_system: String,
    /// Of the mount, then of the file system itself.
    pub options: String,
}

impl Mount {
    /// The one that holds a directory.
    pub fn of(dir: &Path) -> Option<Mount> {
        let dir = dir.canonicalize().ok()?;
        find(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &dir)
    }
}

/// The line of `/proc/self/mountinfo` whose mount point is the nearest; the last of those hides the others.
///
/// ```text
/// 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw,errors=continue
/// ```
fn find(mountinfo: &str, dir: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let point = PathBuf::from(unescaped(mount.next()?));
        let mut system = system.split(' ');
        let (file_system, _source) = (system.next()?, system.next()?);
        let options = format!("{},{}", mount.next()?, system.next()?);
        dir.starts_with(&point).then(|| (point.components().count(), file_system.to_string(), options))
    });
    let (_, file_system, options) = mounts.max_by_key(|(depth, ..)| *depth)?;
    let mut once: Vec<&str> = Vec::new();
    for option in options.split(',') {
        if !once.contains(&option) {
            once.push(option);
        }
    }
    Some(Mount { file_system, options: once.join(",") })
}

/// What would end a field is written in octal.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_string(), |field, (code, character)| field.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/root rw,discard
28 27 0:30 / /data rw,nosuid shared:1 master:2 - tmpfs none rw,size=1k
29 27 8:1 / /data rw,noatime shared:3 - xfs /dev/sda1 rw,attr2
30 27 8:2 / /with\\040space ro - btrfs /dev/sda2 rw
";

    /// `/database` is not below `/data`.
    #[test]
    fn the_nearest_mount_point_above_is_the_one() {
        let of = |dir: &str| find(MOUNTINFO, Path::new(dir)).map(|mount| (mount.file_system, mount.options));
        let mount = |system: &str, options: &str| Some((system.to_string(), options.to_string()));
        assert_eq!(of("/database/run"), mount("ext4", "rw,relatime,discard"));
        assert_eq!(of("/data/run"), mount("xfs", "rw,noatime,attr2"));
        assert_eq!(of("/with space"), mount("btrfs", "ro,rw"));
        assert_eq!(find("", Path::new("/")), None);
    }
}
