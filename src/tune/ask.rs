//! What has to be tried to be known. Nothing stays behind.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, major, minor, statx};
use rustix::io::Errno;

use super::Options;
use super::machine::{Asked, Direct};
use crate::address::Listen;
use crate::server::lock::holder;
use crate::server::try_ring;

/// The server's own default.
const DIR: &str = "doozer-data";

/// Asks the kernel.
///
/// # Errors
/// One line, when the options name what is not there.
pub fn ask(options: &Options) -> Result<Asked, String> {
    let listen = match &options.listen {
        Some(address) => listen(address)?,
        None => None,
    };
    let dir = directory(options)?;
    let device = fs::metadata(&dir).map_err(|e| format!("cannot examine {}: {e}", dir.display()))?.dev();
    Ok(Asked {
        holder: holder(&dir),
        ring: try_ring(),
        direct: direct(&dir),
        device: (major(device), minor(device)),
        listen,
        coalescing,
        dir,
    })
}

/// Returns the data directory, or the nearest existing directory above it: the server creates the missing ones.
fn directory(options: &Options) -> Result<PathBuf, String> {
    let dir = options.dir.as_deref().unwrap_or(Path::new(DIR));
    let cannot =
        |why: &dyn std::fmt::Display| format!("-d {}: {why}; name a directory, or one that can be made", dir.display());
    let absolute = std::path::absolute(dir).map_err(|e| cannot(&e))?;
    for above in absolute.ancestors() {
        return match fs::canonicalize(above) {
            Ok(found) if found.is_dir() => Ok(found),
            Ok(found) => Err(cannot(&format!("{} is not a directory", found.display()))),
            // A dangling symbolic link exists, and prevents the making of a directory.
            Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(above).is_err() => continue,
            Err(e) => Err(cannot(&e)),
        };
    }
    Err(cannot(&"nothing of it is there"))
}

/// The address that is meant by `-l`, as the server reads it; none for all addresses.
fn listen(address: &str) -> Result<Option<IpAddr>, String> {
    let wrong = |why: String| format!("-l {address}: {why}; give an address of this machine as HOST:PORT");
    let parsed: Listen = address.parse().map_err(|e| format!("-l {e}"))?;
    let Some(host) = parsed.host() else { return Ok(None) };
    let found = (host, 0).to_socket_addrs().map_err(|e| wrong(e.to_string()))?.next();
    let found = found.ok_or_else(|| wrong("it names no address".into()))?;
    let ip = found.ip();
    // Nothing is sent: the kernel only says whether the address is its own.
    UdpSocket::bind(found).map_err(|e| wrong(e.to_string()))?;
    Ok(Some(ip).filter(|ip| !ip.is_unspecified()))
}

/// Opens a file without a name, of no bytes. Where the file system knows none, nothing is tried.
fn direct(dir: &Path) -> Direct {
    let open = |flags| rustix::fs::open(dir, OFlags::TMPFILE | OFlags::WRONLY | flags, Mode::RUSR | Mode::WUSR);
    match open(OFlags::DIRECT) {
        Ok(file) => Direct::Yes(alignment(&file)),
        Err(Errno::INVAL) if open(OFlags::empty()).is_ok() => Direct::No,
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            Direct::Unknown("this file system has no files without a name to try it with".into())
        }
        Err(e) => Direct::Unknown(format!("no file can be opened in {}: {e}", dir.display())),
    }
}

/// What direct writes to a file have to be aligned to; 0 if it takes none.
fn alignment(file: &OwnedFd) -> Option<u32> {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    (told.stx_mask & StatxFlags::DIOALIGN.bits() != 0).then_some(told.stx_dio_offset_align)
}

fn coalescing(card: &str) -> Option<String> {
    // Where programs for root are is not always on the path of others.
    let mut programs = ["ethtool", "/usr/sbin/ethtool", "/sbin/ethtool"].into_iter();
    let output = programs.find_map(|program| Command::new(program).args(["-c", card]).output().ok())?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
