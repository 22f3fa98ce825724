//! Addresses: where a server listens, where others reach it, and which server a node or a client dials.
//!
//! This module reads every address that a person or another node writes: the flags `-l`, `-a` and `-advertise`, the parameter `ca`
//! of a doozer URI, the files of the name service, and the address that a peer gives for itself. So all of them have one grammar:
//!
//! ```text
//! address = host [ ":" port ] | ":" port
//! host    = name | IPv4 | "[" IPv6 [ "%" zone ] "]"
//! name    = labels of 1 to 63 letters, digits, "-" and "_", joined by "."; the last is not a number; a "." may end it
//! zone    = the name or the number of a network interface; needed for link-local IPv6 addresses (fe80::/10), and only for them
//! port    = 0 to 65535, in decimal digits
//! ```
//!
//! | text | read as |
//! |---|---|
//! | `10.0.0.1:8047`, `db-1.example:8047`, `[2001:db8::1]:8047` | that host and port |
//! | `10.0.0.1`, `db-1`, `[::1]` | the default port, 8046; with `-advertise`, the port that the server listens on |
//! | `:8046` | all addresses of the machine; only with `-l` |
//! | `[fe80::1%eth0]:8046` | a link-local address, reached through the interface eth0. In a URI `%` is written `%25` |
//! | `::1`, `::1:8046` | refused: without brackets nobody can see where the IPv6 address ends |
//!
//! Each use has its own type: [`Listen`] may lack a host and may have port 0 (the system chooses one), [`Advertise`] may lack a
//! port, and is the address of one machine: no wildcard, multicast or broadcast address. [`Address`] has both. This module looks no
//! name up.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::str::FromStr;

use crate::limits::{ADDR_MAX, PORT_DEFAULT, ZONE_MAX};

/// The longest host name in the domain name system.
const NAME_MAX: usize = 253;
/// The longest part of a host name between two dots.
const LABEL_MAX: usize = 63;
// A node may send every address that this module accepts to the other nodes.
const _: () = assert!(NAME_MAX + ":65535".len() <= ADDR_MAX);

/// A host and a port, ready to be dialed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host name or IP address. An IPv6 address has no brackets; a zone follows it after a `%`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The IP address without its zone, or `None` if the host is a name. [`Address::zone`] returns the zone.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        ip(&self.host)
    }

    /// The network interface of a link-local address, as a name or a number; `None` for any other address.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.host.split_once('%').map(|(_, zone)| zone)
    }

    /// Returns the same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port }
    }

    /// Returns the address as a doozer URI spells it, with the zone's `%` escaped.
    #[must_use]
    pub fn in_uri(&self) -> String {
        self.to_string().replace('%', "%25")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_parts(f, &self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads an address to dial. The host is required; the port defaults to 8046.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        let parts = Parts::read(text)?;
        let port = parts.port.unwrap_or(PORT_DEFAULT);
        match parts.host {
            None => Err(AddressError::new(text, Fault::NoHost(port))),
            Some(_) if port == 0 => Err(AddressError::new(text, Fault::PortZero)),
            Some(host) => Ok(Address { host, port }),
        }
    }
}

impl From<SocketAddr> for Address {
    /// Uses the interface's number as the zone of a link-local address.
    fn from(socket: SocketAddr) -> Address {
        let host = match socket {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => socket.ip().to_string(),
        };
        Address { host, port: socket.port() }
    }
}

/// The address on which a server listens (`-l`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    host: Option<String>,
    port: u16,
}

impl Listen {
    /// The host as in [`Address::host`]; `None` means all addresses of the machine.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The TCP port; 0 lets the system choose one.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_parts(f, self.host.as_deref().unwrap_or_default(), self.port)
    }
}

impl FromStr for Listen {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Listen, AddressError> {
        let Parts { host, port } = Parts::read(text)?;
        Ok(Listen { host, port: port.unwrap_or(PORT_DEFAULT) })
    }
}

/// The address at which others reach a server (`-advertise`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    host: String,
    port: Option<u16>,
}

impl Advertise {
    /// Returns the address to advertise for a server that listens on `port`.
    #[must_use]
    pub fn at(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port: self.port.unwrap_or(port) }
    }
}

impl FromStr for Advertise {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Advertise, AddressError> {
        let fault = match Parts::read(text)? {
            Parts { host: None, port } => Fault::NoHost(port.unwrap_or(PORT_DEFAULT)),
            Parts { port: Some(0), .. } => Fault::PortZero,
            Parts { host: Some(host), port } => match ip(&host).map(|ip| ip.to_canonical()) {
                Some(ip) if ip.is_unspecified() => Fault::Wildcard,
                Some(ip) if ip.is_multicast() || ip == Ipv4Addr::BROADCAST => Fault::Group,
                _ => return Ok(Advertise { host, port }),
            },
        };
        Err(AddressError::new(text, fault))
    }
}

/// Returns the IP address without its zone, or `None` if the host is a name.
fn ip(host: &str) -> Option<IpAddr> {
    host.split_once('%').map_or(host, |(ip, _)| ip).parse().ok()
}

/// Returns whether an address is in fe80::/10, and so valid on one interface only.
fn is_link_local(ip: &Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn write_parts(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// A text, split into its parts and checked: the work that all uses share.
struct Parts {
    /// Without brackets; an IP address in its canonical form.
    host: Option<String>,
    port: Option<u16>,
}

impl Parts {
    fn read(text: &str) -> Result<Parts, AddressError> {
        Parts::split(text).map_err(|fault| AddressError::new(text, fault))
    }

    fn split(text: &str) -> Result<Parts, Fault> {
        if text.is_empty() {
            return Err(Fault::Empty);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, rest) = rest.split_once(']').ok_or(Fault::Brackets)?;
            let port = match rest {
                "" => None,
                _ => Some(port(rest.strip_prefix(':').ok_or(Fault::Brackets)?)?),
            };
            return Ok(Parts { host: Some(bracketed(inner)?), port });
        }
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((_, rest)) if rest.contains(':') => return Err(bare(text)),
            Some((host, digits)) => (host, Some(port(digits)?)),
        };
        if host.is_empty() {
            return Ok(Parts { host: None, port });
        }
        Ok(Parts { host: Some(name(host)?), port })
    }
}

/// Reads the text between brackets: an IPv6 address, with a zone if it is link-local.
fn bracketed(inner: &str) -> Result<String, Fault> {
    let (ip, zone) = match inner.split_once('%') {
        None => (inner, None),
        Some((ip, zone)) => (ip, Some(zone)),
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| Fault::NotV6)?;
    match zone {
        None if is_link_local(&ip) => Err(Fault::NoZone(ip)),
        None => Ok(ip.to_string()),
        Some(_) if !is_link_local(&ip) => Err(Fault::ZoneOfGlobal),
        Some(zone) => {
            let fits = (1..=ZONE_MAX).contains(&zone.len());
            let letters = zone.bytes().all(|b| b.is_ascii_graphic() && !b"%/[]".contains(&b));
            if fits && letters { Ok(format!("{ip}%{zone}")) } else { Err(Fault::Zone) }
        }
    }
}

/// Reads a name or an IPv4 address.
fn name(host: &str) -> Result<String, Fault> {
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Ok(v4.to_string());
    }
    if host.contains('%') {
        return Err(Fault::ZoneOutside);
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if host.len() > NAME_MAX || !host.bytes().all(letter) {
        return Err(Fault::Name);
    }
    // The system's own look-up would read `10.1` and `0` as IPv4 addresses in an old form that nobody uses.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::NotV4);
    }
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    if labels.any(|label| label.is_empty() || label.len() > LABEL_MAX) {
        return Err(Fault::Name);
    }
    Ok(host.to_owned())
}

fn port(digits: &str) -> Result<u16, Fault> {
    // `parse` alone would accept "+80".
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits).ok_or(Fault::Port)
}

/// Guesses the meaning of a text with several colons and no brackets.
fn bare(text: &str) -> Fault {
    let (ip, zone) = text.split_once('%').map_or((text, ""), |(ip, zone)| (ip, zone));
    let whole = ip.parse::<Ipv6Addr>().ok();
    if !zone.is_empty() {
        // A port may follow the zone.
        let (zone, port) = zone.split_once(':').unwrap_or((zone, ""));
        let port = port.parse().unwrap_or(PORT_DEFAULT);
        return whole
            .map_or(Fault::Colons, |ip| Fault::Bare { whole: Some(format!("[{ip}%{zone}]:{port}")), cut: None });
    }
    let cut = text.rsplit_once(':').and_then(|(ip, port)| {
        let (ip, port): (Ipv6Addr, u16) = (ip.parse().ok()?, port.parse().ok()?);
        Some(format!("[{ip}]:{port}"))
    });
    match (whole.map(|ip| format!("[{ip}]:{PORT_DEFAULT}")), cut) {
        (None, None) => Fault::Colons,
        (whole, cut) => Fault::Bare { whole, cut },
    }
}

/// Why a text is not an address: one line that includes the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    fault: Fault,
}

impl AddressError {
    fn new(text: &str, fault: Fault) -> AddressError {
        AddressError { text: text.to_owned(), fault }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Empty,
    NoHost(u16),
    PortZero,
    Port,
    Wildcard,
    Group,
    Brackets,
    NotV6,
    NotV4,
    Name,
    Colons,
    /// An IPv6 address without brackets: the spelling if all of it is the address, and the spelling if its end is the port.
    Bare {
        whole: Option<String>,
        cut: Option<String>,
    },
    Zone,
    ZoneOutside,
    ZoneOfGlobal,
    NoZone(Ipv6Addr),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an address: ", self.text)?;
        match &self.fault {
            Fault::Empty => f.write_str("write HOST:PORT"),
            Fault::NoHost(port) => write!(f, "the host is missing; write HOST:{port}"),
            Fault::PortZero => {
                f.write_str("nobody can be reached at port 0; write the port that the server listens on")
            }
            Fault::Port => f.write_str("a port is a number from 0 to 65535; write HOST:PORT"),
            Fault::Wildcard => {
                f.write_str("it means all addresses of a machine; write one at which others reach this node, HOST:PORT")
            }
            Fault::Group => {
                f.write_str("it means many machines; write an address at which others reach this node alone, HOST:PORT")
            }
            Fault::Brackets => f.write_str("brackets enclose an IPv6 address; write [::1]:PORT"),
            Fault::NotV6 => {
                f.write_str("what stands in brackets is not an IPv6 address; write a name or an IPv4 address without")
            }
            Fault::NotV4 => f.write_str("an IPv4 address has four numbers from 0 to 255; write 10.0.0.1:PORT"),
            Fault::Name => write!(
                f,
                "a host name has at most {NAME_MAX} letters, digits, hyphens and underscores, with a dot after at most {LABEL_MAX}; write \
                 HOST:PORT"
            ),
            Fault::Colons => {
                f.write_str("it has several colons; write HOST:PORT, and an IPv6 address in brackets, [::1]:PORT")
            }
            Fault::Bare { whole: Some(whole), cut: Some(cut) } => {
                write!(f, "an IPv6 address needs brackets; write {whole}, or {cut} if its end is the port")
            }
            Fault::Bare { whole, cut } => write!(
                f,
                "an IPv6 address needs brackets; write {}",
                whole.as_deref().or(cut.as_deref()).unwrap_or("[::1]:PORT")
            ),
            Fault::Zone => write!(
                f,
                "behind % stands the name of a network interface, of at most {ZONE_MAX} letters; write [fe80::1%eth0]:PORT"
            ),
            Fault::ZoneOutside => {
                f.write_str("a zone belongs to an IPv6 address in brackets; write [fe80::1%eth0]:PORT")
            }
            Fault::ZoneOfGlobal => {
                f.write_str("only a link-local address (fe80::…) has a zone; leave the part from % on away")
            }
            Fault::NoZone(ip) => {
                write!(
                    f,
                    "a link-local address needs its network interface; write [{ip}%eth0]:PORT with the interface's name"
                )
            }
        }
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// How each use reads a text: the address, or a word of the error that names the remedy.
    struct Case {
        text: &'static str,
        /// `-a`, `ca=`, peers.
        dial: Result<&'static str, &'static str>,
        /// `-l`.
        listen: Result<&'static str, &'static str>,
        /// `-advertise`, listening on port 7.
        advertise: Result<&'static str, &'static str>,
    }

    const fn same(text: &'static str, read: &'static str) -> Case {
        Case { text, dial: Ok(read), listen: Ok(read), advertise: Ok(read) }
    }

    /// Without a port.
    const fn portless(text: &'static str, dial: &'static str, advertise: &'static str) -> Case {
        Case { text, dial: Ok(dial), listen: Ok(dial), advertise: Ok(advertise) }
    }

    const fn refused(text: &'static str, word: &'static str) -> Case {
        Case { text, dial: Err(word), listen: Err(word), advertise: Err(word) }
    }

    const fn wildcard(text: &'static str, read: &'static str) -> Case {
        Case { text, dial: Ok(read), listen: Ok(read), advertise: Err("all addresses of a machine") }
    }

    const fn group(text: &'static str, read: &'static str) -> Case {
        Case { text, dial: Ok(read), listen: Ok(read), advertise: Err("many machines") }
    }

    const CASES: &[Case] = &[
        // A host and a port.
        same("10.0.0.1:8047", "10.0.0.1:8047"),
        same("127.0.0.1:65535", "127.0.0.1:65535"),
        same("localhost:1", "localhost:1"),
        same("db-1.Example.org.:80", "db-1.Example.org.:80"),
        same("my_host:80", "my_host:80"),
        same("4you.example:80", "4you.example:80"),
        same("[::1]:8047", "[::1]:8047"),
        same("[2001:DB8:0:0::1]:8047", "[2001:db8::1]:8047"),
        same("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
        same("[fe80::1%eth0]:8047", "[fe80::1%eth0]:8047"),
        same("[fe80::1%2]:8047", "[fe80::1%2]:8047"),
        same("[febf::1%a-b.c_d@e]:1", "[febf::1%a-b.c_d@e]:1"),
        // Without a port.
        portless("10.0.0.1", "10.0.0.1:8046", "10.0.0.1:7"),
        portless("localhost", "localhost:8046", "localhost:7"),
        portless("[::1]", "[::1]:8046", "[::1]:7"),
        portless("[fe80::1%eth0]", "[fe80::1%eth0]:8046", "[fe80::1%eth0]:7"),
        // All addresses of a machine.
        Case { text: ":8047", dial: Err("write HOST:8047"), listen: Ok(":8047"), advertise: Err("write HOST:8047") },
        wildcard("0.0.0.0:8047", "0.0.0.0:8047"),
        wildcard("[::]:8047", "[::]:8047"),
        wildcard("[::]", "[::]:8046"),
        wildcard("[::ffff:0.0.0.0]:80", "[::ffff:0.0.0.0]:80"),
        // Many machines.
        group("224.0.0.1:80", "224.0.0.1:80"),
        group("239.255.255.255:80", "239.255.255.255:80"),
        group("255.255.255.255:80", "255.255.255.255:80"),
        group("[ff02::1]:80", "[ff02::1]:80"),
        group("[::ffff:224.0.0.1]:80", "[::ffff:224.0.0.1]:80"),
        group("[::ffff:255.255.255.255]:80", "[::ffff:255.255.255.255]:80"),
        // A port for the system to choose.
        Case { text: "a:0", dial: Err("port 0"), listen: Ok("a:0"), advertise: Err("port 0") },
        Case { text: ":0", dial: Err("host is missing"), listen: Ok(":0"), advertise: Err("host is missing") },
        // An IPv6 address without brackets.
        refused("::1", "write [::1]:8046"),
        refused("::", "write [::]:8046"),
        refused("2001:db8::a", "write [2001:db8::a]:8046"),
        refused("::1:8047", "write [::1:8047]:8046, or [::1]:8047 if"),
        refused("1:2:3:4:5:6:7:8:8047", "write [1:2:3:4:5:6:7:8]:8047"),
        refused("fe80::1%eth0", "write [fe80::1%eth0]:8046"),
        refused("fe80::1%eth0:8047", "write [fe80::1%eth0]:8047"),
        // Zones.
        refused("[fe80::1]:8047", "write [fe80::1%eth0]:PORT"),
        refused("[fe80::1%]:8047", "network interface"),
        refused("[fe80::1%a/b]:8047", "network interface"),
        refused("[fe80::1%a%b]:8047", "network interface"),
        refused("[fe80::1%sixteen-letters-]:8047", "network interface"),
        refused("[2001:db8::1%eth0]:8047", "only a link-local address"),
        refused("10.0.0.1%eth0:8047", "brackets"),
        // Ports.
        refused("a:", "65535"),
        refused(":", "65535"),
        refused("a:b", "65535"),
        refused("a:65536", "65535"),
        refused("a:-1", "65535"),
        refused("a:+1", "65535"),
        refused("a: 1", "65535"),
        refused("[::1]:", "65535"),
        // Hosts.
        refused("", "HOST:PORT"),
        refused("a b:1", "host name"),
        refused("a..b:1", "host name"),
        refused(".a:1", "host name"),
        refused("a..:1", "host name"),
        refused(" a:1", "host name"),
        refused("a/b", "host name"),
        refused("h\u{f6}st:1", "host name"),
        refused("10.0.0.256:1", "IPv4"),
        refused("10.1:1", "IPv4"),
        refused("8046", "IPv4"),
        refused("a:1:2", "several colons"),
        refused("http://a:1", "several colons"),
        refused("[::1", "brackets"),
        refused("[::1]1", "brackets"),
        refused("[a]:1", "brackets"),
        refused("[10.0.0.1]:1", "brackets"),
    ];

    #[track_caller]
    fn check<T: ToString>(text: &str, read: Result<T, AddressError>, wanted: Result<&str, &str>) {
        match (read, wanted) {
            (Ok(read), Ok(wanted)) => assert_eq!(read.to_string(), wanted, "{text}"),
            (Err(error), Err(word)) => {
                let said = error.to_string();
                assert!(said.starts_with(&format!("`{text}` ")) && said.contains(word), "{said}: {word}");
                assert_eq!(said.lines().count(), 1, "{said}");
            }
            (Ok(read), Err(_)) => panic!("{text} is read as {}", read.to_string()),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }

    /// If one flag accepts an address and another refuses it or reads it differently, people search for the reason in vain.
    #[test]
    fn the_uses_read_an_address_differently() {
        for Case { text, dial, listen, advertise } in CASES {
            check(text, text.parse::<Address>(), *dial);
            check(text, text.parse::<Listen>(), *listen);
            check(text, text.parse::<Advertise>().map(|advertise| advertise.at(7)), *advertise);
        }
        // Four labels, the last one letter shorter or longer than the longest name.
        let name = |last: usize| format!("{0}.{0}.{0}.{1}:80", "a".repeat(LABEL_MAX), "b".repeat(last));
        let long = name(NAME_MAX - 3 * (LABEL_MAX + 1) + 1);
        check(&long, long.parse::<Address>(), Err("host name"));
        assert!(name(NAME_MAX - 3 * (LABEL_MAX + 1)).parse::<Address>().is_ok());
        let long = format!("{}.a:80", "a".repeat(LABEL_MAX + 1));
        check(&long, long.parse::<Address>(), Err("host name"));
    }

    #[test]
    fn a_zone_is_lost() {
        let address: Address = "[fe80::1%eth0]:8046".parse().unwrap();
        assert_eq!((address.host(), address.zone()), ("fe80::1%eth0", Some("eth0")));
        assert_eq!(address.ip(), "fe80::1".parse().ok());
        assert_eq!(address.in_uri(), "[fe80::1%25eth0]:8046");
        let socket = SocketAddr::V6(core::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 8046, 0, 3));
        assert_eq!(Address::from(socket).to_string(), "[fe80::1%3]:8046");
        assert_eq!("localhost:1".parse::<Address>().unwrap().ip(), None);
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_a_panic(text in "[\\PC%:.\\[\\]a0]{0,40}") {
            drop(text.parse::<Address>());
            drop(text.parse::<Listen>());
            drop(text.parse::<Advertise>());
        }

        #[test]
        fn an_address_is_not_read_as_it_was_written(
            host in "[a-z][a-z0-9_-]{0,20}|10\\.0\\.0\\.1|::1|fe80::[1-9a-f]%[a-z0-9]{1,4}",
            port in 1..=u16::MAX,
        ) {
            let address = Address { host, port };
            proptest::prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
}
