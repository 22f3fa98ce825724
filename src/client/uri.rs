//! Doozer URIs.
//!
//! A URI is `doozer:?` and parameters written like those of an HTTP query: separated by `&` (or `;`), each repeatable,
//! percent-encoded, `+` for a space:
//!
//! | parameter | meaning |
//! |---|---|
//! | `ca` | an address, `host[:port]`, as [`crate::address`] describes; the `%` before a zone is written `%25` |
//! | `cn` | the cluster's name; a name service knows its addresses |
//! | `sk` | the secret for ACCESS |
//! | `un` | the cluster's unique name; kept, not used |
//!
//! Of `cn`, `sk` and `un` the first one counts, as in the original's client. Other parameters are ignored, so a URI can carry
//! parameters for other clients.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::address::{Address, AddressError};

/// What every doozer URI begins with.
pub const PREFIX: &str = "doozer:?";

/// A secret; `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The parts of a doozer URI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// `ca`: addresses of the cluster; may be empty if a name service knows them.
    pub addresses: Vec<Address>,
    /// `cn`: the cluster's name.
    pub cluster: Option<String>,
    /// `sk`: the secret to present on each new connection.
    pub secret: Option<Secret>,
    /// `un`: the cluster's unique name.
    pub unique_name: Option<String>,
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let query = text.strip_prefix(PREFIX).ok_or_else(|| UriError::Prefix(text.to_owned()))?;
        let mut uri = Self::default();
        for parameter in query.split(['&', ';']) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode(value).ok_or_else(|| UriError::Escape(name.to_owned()))?;
            match name {
                "ca" => uri.addresses.push(utf8(name, value)?.parse::<Address>()?),
                "cn" if uri.cluster.is_none() => uri.cluster = Some(utf8(name, value)?),
                "sk" if uri.secret.is_none() => uri.secret = Some(Secret(value)),
                "un" if uri.unique_name.is_none() => uri.unique_name = Some(utf8(name, value)?),
                _ => {}
            }
        }
        Ok(uri)
    }
}

fn utf8(name: &str, value: Vec<u8>) -> Result<String, UriError> {
    String::from_utf8(value).map_err(|_| UriError::Utf8(name.to_owned()))
}

/// Undoes `%xx` and `+`. Returns `None` if a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Some(out),
            [b'%', high, low, rest @ ..] => {
                out.push(hex(*high)? << 4 | hex(*low)?);
                rest
            }
            [b'%', ..] => return None,
            [b'+', rest @ ..] => {
                out.push(b' ');
                rest
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
        }
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Why a text is not a doozer URI, or contains an invalid address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UriError {
    /// The text does not begin with `doozer:?`.
    #[error("a doozer URI begins with `{PREFIX}`, this one does not: {0}")]
    Prefix(String),
    /// A `%` is not followed by two hexadecimal digits.
    #[error("parameter `{0}` of the doozer URI has a `%` that is no escape; a bare `%` is written `%25`")]
    Escape(String),
    /// A parameter is not UTF-8.
    #[error("parameter `{0}` of the doozer URI is not UTF-8")]
    Utf8(String),
    /// An invalid address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The URI has no address to connect to.
    #[error("the doozer URI names no address: give `ca=host:port`, or `cn=name` and a name service")]
    NoAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_apart() {
        let uri: Uri =
            "doozer:?ca=10.0.0.1&ca=b:2;ca=[fe80::1%25eth0]:3&cn=c&sk=s%2fk%25+%FF&un=u&new=1".parse().unwrap();
        let addresses: Vec<String> = uri.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1:8046", "b:2", "[fe80::1%eth0]:3"]);
        assert_eq!(uri.cluster.as_deref(), Some("c"));
        assert_eq!(uri.secret, Some(Secret(b"s/k% \xff".to_vec())));
        assert_eq!(uri.unique_name.as_deref(), Some("u"));
    }

    #[test]
    fn the_first_name_and_secret_count() {
        let uri: Uri = "doozer:?cn=a&cn=b&sk=&sk=x".parse().unwrap();
        assert_eq!(uri.cluster.as_deref(), Some("a"));
        assert_eq!(uri.secret, Some(Secret(vec![])));
    }

    #[test]
    fn each_way_to_be_no_uri_has_its_error() {
        let error = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(error("http://x"), UriError::Prefix("http://x".into()));
        assert_eq!(error("doozer:ca=x"), UriError::Prefix("doozer:ca=x".into()));
        assert_eq!(error("doozer:?sk=%"), UriError::Escape("sk".into()));
        assert_eq!(error("doozer:?sk=%1"), UriError::Escape("sk".into()));
        assert_eq!(error("doozer:?sk=%1x"), UriError::Escape("sk".into()));
        assert_eq!(error("doozer:?cn=%ff"), UriError::Utf8("cn".into()));
        assert!(matches!(error("doozer:?ca=a:b"), UriError::Address(_)));
        assert_eq!(error("doozer:?ca=[fe80::1%eth0]"), UriError::Escape("ca".into()));
        assert_eq!("doozer:?".parse::<Uri>(), Ok(Uri::default()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(doozer:\\?)?([a-z]{2}=)?[\\PC%+&;:=\\[\\]]{0,40}") {
            drop(text.parse::<Uri>());
        }
    }

    #[test]
    fn a_secret_is_not_told_to_logs() {
        let uri: Uri = "doozer:?sk=hunter2".parse().unwrap();
        assert!(!format!("{uri:?}").contains("hunter2"));
    }
}
