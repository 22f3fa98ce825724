//! Chooses the address that a node advertises: the other nodes dial it, and clients find it in `/ctl`.
//!
//! The first row that applies counts:
//!
//! | source | address |
//! |---|---|
//! | `-advertise` | as given; no name is looked up |
//! | `-l` with an address | that address |
//! | the last start | the address chosen then, if this machine still has it |
//! | the way to a node of `-a` | the address from which this node reached the node that let it in |
//! | the way to a known node | the address from which the kernel would reach that node |
//! | the default route | the address from which the kernel would reach the rest of the world |
//! | the machine | its only address except loopback |
//!
//! Only a server that listens on all addresses needs the rows after the second. If no row applies, the start fails: a wildcard
//! would mean a different machine to each node that dials it. For the same reason only a server that listens on loopback advertises
//! loopback.
//!
//! The choice is kept in the identity file, so a machine whose routes change keeps its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::StartError;
use crate::address::{Address, Advertise};

/// Addresses reserved for documentation, so they are on no local network: the kernel reaches them by its default route.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The flag of a temporary IPv6 address (RFC 8981) in `/proc/net/if_inet6`.
const TEMPORARY: u32 = 1;

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Local {
    interface: String,
    ip: IpAddr,
}

/// The node's own addresses: the listener, and the address that the flags settle, if they do.
#[derive(Debug)]
pub struct Own {
    listener: SocketAddr,
    given: Option<Address>,
}

impl Own {
    /// For a node that listens at `listener`; `given` is the value of `-advertise`.
    pub fn new(listener: SocketAddr, given: Option<&Advertise>) -> Own {
        Own { listener, given: given.map(|given| given.at(listener.port())) }
    }

    /// Returns whether a connection to this address would lead to this node itself.
    pub fn is_at(&self, socket: &SocketAddr) -> bool {
        let ip = socket.ip().to_canonical();
        let everywhere = || ip.is_loopback() || ip.is_unspecified() || locals().iter().any(|local| local.ip == ip);
        let listened = self.listener.ip().to_canonical();
        socket.port() == self.listener.port() && (ip == listened || (listened.is_unspecified() && everywhere()))
    }

    /// Returns whether this address is this node's own, as far as that is certain without looking up a name.
    pub fn is_known_as(&self, address: &Address) -> bool {
        let here = |ip| self.is_at(&SocketAddr::new(ip, address.port()));
        self.given.as_ref() == Some(address) || address.ip().is_some_and(here)
    }

    /// Returns the address that does not depend on the network, or else the address of the last start, if this machine still has
    /// it.
    pub fn settled(&self, kept: &str) -> Option<Address> {
        if self.given.is_some() {
            return self.given.clone();
        }
        if !self.listener.ip().is_unspecified() {
            return Some(self.spell(self.listener));
        }
        let kept = kept.parse::<Address>().ok()?;
        let ip = kept.ip()?;
        let has_it_still = locals().iter().any(|local| local.ip == ip);
        (has_it_still && self.is_reached_at(ip)).then(|| kept.with_port(self.listener.port()))
    }

    /// Returns the address from which this node reached another, if others can use it.
    pub fn on_the_way(&self, from: SocketAddr) -> Option<Address> {
        self.usable(from)
    }

    /// Returns the address from which the kernel would reach these nodes, or else the rest of the world, or else the machine's only
    /// address.
    ///
    /// # Errors
    /// If the machine has no address that others can reach, or has several and no default route.
    pub fn by_route<'a>(&self, known: impl IntoIterator<Item = &'a Address>) -> Result<Address, StartError> {
        let known = known.into_iter().filter_map(Address::ip).filter(|ip| !ip.is_loopback());
        let by_route = known.chain(ELSEWHERE).filter_map(way_to).find_map(|way| self.usable(permanent(way)));
        if let Some(address) = by_route {
            return Ok(address);
        }
        let mut others: Vec<Address> = Vec::new();
        for v4 in [true, false] {
            let locals = locals();
            let locals = locals.iter().filter(|local| local.ip.is_ipv4() == v4 && !is_link_local(local.ip));
            others.extend(locals.filter_map(|local| self.usable(SocketAddr::new(local.ip, 0))));
            if let [only] = others.as_slice() {
                return Ok(only.clone());
            }
        }
        let list = others.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        let why = match list.as_str() {
            "" => "this machine has no address that others can reach".to_owned(),
            list => format!("this machine has several addresses and no default route ({list})"),
        };
        Err(StartError::new(format!(
            "-l {}: {why}; name the one at which clients and other nodes find this node, with -advertise HOST:PORT, or listen on it \
             alone, with -l HOST:PORT",
            self.listener
        )))
    }

    /// Returns an address of this machine with the listener's port, if other machines reach the listener there.
    fn usable(&self, local: SocketAddr) -> Option<Address> {
        let ip = local.ip().to_canonical();
        if !self.is_reached_at(ip) {
            return None;
        }
        let mut socket = if ip.is_ipv4() { SocketAddr::new(ip, 0) } else { local };
        socket.set_port(self.listener.port());
        let address = self.spell(socket);
        // A link-local address is useless without its zone.
        (!(ip.is_ipv6() && is_link_local(ip)) || address.zone().is_some()).then_some(address)
    }

    /// Returns whether other machines reach the listener at this address.
    fn is_reached_at(&self, ip: IpAddr) -> bool {
        let of_its_family = ip.is_ipv4() || self.listener.is_ipv6();
        of_its_family && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
    }

    /// Returns a socket's address with the name of its interface as zone; the interface's number differs between machines.
    fn spell(&self, socket: SocketAddr) -> Address {
        let address = Address::from(socket);
        if address.zone().is_none() {
            return address;
        }
        let named = locals().into_iter().find(|local| local.ip == socket.ip());
        let named =
            named.and_then(|local| format!("[{}%{}]:{}", local.ip, local.interface, socket.port()).parse().ok());
        named.unwrap_or(address)
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Returns the address from which the kernel would reach `ip`. Connecting a UDP socket sends no packet.
fn way_to(ip: IpAddr) -> Option<SocketAddr> {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((ip, 9)).ok()?;
    socket.local_addr().ok()
}

/// Returns all addresses of this machine whose interfaces are up.
fn locals() -> Vec<Local> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let local = up.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        Some(Local { interface: interface.interface_name, ip })
    });
    local.collect()
}

/// Replaces a temporary IPv6 address, which will change, with a permanent one of the same interface.
fn permanent(way: SocketAddr) -> SocketAddr {
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[ip, _, _, _, flags, interface] = words.as_slice() else { return None };
        let ip = Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?);
        Some((ip, u32::from_str_radix(flags, 16).ok()?, interface.to_owned()))
    };
    let all: Vec<(Ipv6Addr, u32, String)> = table.lines().filter_map(of_line).collect();
    let temporary = all.iter().find(|(ip, flags, _)| IpAddr::V6(*ip) == way.ip() && flags & TEMPORARY != 0);
    let Some((_, _, interface)) = temporary else { return way };
    let lasting =
        all.iter().find(|(ip, flags, on)| on == interface && flags & TEMPORARY == 0 && !is_link_local(IpAddr::V6(*ip)));
    lasting.map_or(way, |(ip, ..)| SocketAddr::new(IpAddr::V6(*ip), way.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listener: &str, given: Option<&str>) -> Own {
        Own::new(listener.parse().unwrap(), given.map(|given| given.parse().unwrap()).as_ref())
    }

    fn settled(listener: &str, given: Option<&str>, kept: &str) -> Option<String> {
        own(listener, given).settled(kept).map(|address| address.to_string())
    }

    /// Behind address translation only the operator knows the address. A name is for the others to look up.
    #[test]
    fn what_was_given_is_not_advertised_as_it_is() {
        for (given, wanted) in [("db-1", "db-1:80"), ("db-1:81", "db-1:81"), ("10.0.0.1", "10.0.0.1:80")] {
            assert_eq!(settled("0.0.0.0:80", Some(given), "10.9.9.9:80").as_deref(), Some(wanted));
            assert_eq!(settled("127.0.0.1:80", Some(given), "").as_deref(), Some(wanted));
        }
    }

    #[test]
    fn a_wildcard_or_a_strange_address_is_advertised() {
        assert_eq!(settled("10.0.0.1:80", None, "10.0.0.2:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(settled("127.0.0.1:80", None, "").as_deref(), Some("127.0.0.1:80"));
        // A foreign address, a name, loopback, a wildcard, an invalid text: other machines cannot reach this one there.
        for kept in ["192.0.2.7:80", "db-1:80", "127.0.0.1:80", "0.0.0.0:80", "[::1]:80", "", "x y"] {
            for wildcard in ["0.0.0.0:80", "[::]:80"] {
                assert_eq!(settled(wildcard, None, kept), None, "{kept}");
            }
        }
        for (listener, from, wanted) in [
            ("0.0.0.0:80", "10.0.0.2:4711", Some("10.0.0.2:80")),
            ("[::]:80", "10.0.0.2:4711", Some("10.0.0.2:80")),
            ("[::]:80", "[::ffff:10.0.0.2]:4711", Some("10.0.0.2:80")),
            ("[::]:80", "[2001:db8::2]:4711", Some("[2001:db8::2]:80")),
            ("[::]:80", "[fe80::2%7]:4711", Some("[fe80::2%7]:80")),
            ("[::]:80", "[fe80::2]:4711", None),
            ("0.0.0.0:80", "[2001:db8::2]:4711", None),
            ("0.0.0.0:80", "127.0.0.1:4711", None),
            ("[::]:80", "[::1]:4711", None),
            ("[::]:80", "0.0.0.0:4711", None),
        ] {
            let found = own(listener, None).on_the_way(from.parse().unwrap()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), wanted, "{listener} {from}");
        }
    }

    /// A node that is given the addresses of all nodes, including its own, must not wait for itself.
    #[test]
    fn a_node_takes_itself_for_another() {
        let own_at = |listener: &str, socket: &str| own(listener, None).is_at(&socket.parse().unwrap());
        assert!(own_at("10.0.0.1:80", "10.0.0.1:80"));
        assert!(!own_at("10.0.0.1:80", "10.0.0.1:81") && !own_at("10.0.0.1:80", "10.0.0.2:80"));
        assert!(!own_at("10.0.0.1:80", "127.0.0.1:80"));
        assert!(own_at("0.0.0.0:80", "127.0.0.1:80") && own_at("[::]:80", "[::1]:80"));
        assert!(!own_at("0.0.0.0:80", "127.0.0.1:81") && !own_at("[::]:80", "192.0.2.7:80"));
        assert!(own_at("[::]:80", "127.0.0.1:80"));
        let known = |listener: &str, address: &str| own(listener, Some("db-1")).is_known_as(&address.parse().unwrap());
        assert!(known("10.0.0.1:80", "db-1:80") && known("10.0.0.1:80", "10.0.0.1:80") && known("[::]:80", "[::1]:80"));
        assert!(
            !known("10.0.0.1:80", "db-1:81")
                && !known("10.0.0.1:80", "db-2:80")
                && !known("10.0.0.1:80", "10.0.0.2:80")
        );
    }
}
