//! The listener of `-l`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::{BACKLOG, KEEPALIVE, StartError};
use crate::address::Listen;
use crate::client::resolve::Lookup;

/// How long to retry a busy port: the kernel takes the ring of a killed server down only after that server's end.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a name look-up may take.
const LOOKUP: Duration = Duration::from_secs(30);

/// Listens on the first free address of the host. May wait for a name server (up to 30 s) or for a port (up to 2 s).
///
/// # Errors
/// If this machine has none of the host's addresses, or the port is taken.
pub async fn listen(address: &Listen) -> Result<TcpListener, StartError> {
    let wrong =
        |why: String| StartError::new(format!("-l {address}: {why}; give an address of this machine as HOST:PORT"));
    let addresses: Vec<SocketAddr> = match address.host() {
        // All addresses of the machine, as in Go.
        None => vec![(Ipv6Addr::UNSPECIFIED, address.port()).into(), (Ipv4Addr::UNSPECIFIED, address.port()).into()],
        Some(host) => Lookup::begin(host, address.port()).wait(LOOKUP).await.map_err(|e| wrong(e.to_string()))?,
    };
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        let mut last = None;
        for address in &addresses {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    set_up(&listener).map_err(|e| wrong(e.to_string()))?;
                    return Ok(listener);
                }
                Err(e) => last = Some(e),
            }
        }
        match last {
            None => return Err(wrong("it names no address".into())),
            Some(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(StartError::new(format!(
                    "-l {address}: {e}; a low port takes a privilege: choose one of 1024 or more, give the server the capability \
                     CAP_NET_BIND_SERVICE (AmbientCapabilities= of systemd), or lower sysctl net.ipv4.ip_unprivileged_port_start"
                )));
            }
            Some(e) if e.kind() != std::io::ErrorKind::AddrInUse => return Err(wrong(e.to_string())),
            Some(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            Some(_) => {
                return Err(StartError::new(format!(
                    "-l {address}: another process listens there; stop it, or choose another port"
                )));
            }
        }
    }
}

/// Sets options that accepted connections inherit: no delay for answers, and keep-alive to notice a dead peer.
fn set_up(listener: &TcpListener) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    rustix::net::listen(listener, BACKLOG)?;
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(listener, KEEPALIVE)
}
