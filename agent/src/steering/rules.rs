//! What rules are written with: networks in the notation `address/length`, Services and namespaces by name,
//! pods by label and annotation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use mirador_ebpf_shared::{Address, MAPPED};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// The network of one address.
    pub(super) fn of(address: IpAddr) -> Self {
        Self { network: address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The network's address and length in the table of the programs, where IPv4 lies in `::ffff:0:0/96`.
    pub(super) fn key(self) -> (u32, Address) {
        match self.network {
            IpAddr::V4(_) => (96 + u32::from(self.length), words(self.network)),
            IpAddr::V6(_) => (u32::from(self.length), words(self.network)),
        }
    }
}

/// An address as the programs see it.
pub(super) fn words(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => [0, 0, MAPPED, u32::from_ne_bytes(address.octets())],
        IpAddr::V6(address) => {
            let octets = address.octets();
            let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
            [word(0), word(4), word(8), word(12)]
        }
    }
}

/// The address of [`words`].
pub(super) fn address(words: &Address) -> IpAddr {
    let mut octets = [0_u8; 16];
    for (four, word) in octets.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network: write an address, or address/length without bits behind the length, as 10.0.0.0/8 or fd00::/8"
)]
pub struct NotANetwork(String);

impl FromStr for Cidr {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(bits), |length| length.parse::<u8>().map_err(|_| wrong()))?;
        let value = match network {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let host = value & 1_u128.checked_shl(u32::from(bits.saturating_sub(length))).unwrap_or(0).wrapping_sub(1);
        if length > bits || host != 0 {
            return Err(wrong());
        }
        Ok(Self { network, length })
    }
}

impl TryFrom<String> for Cidr {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// A Service: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ServiceName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Why a text names nothing in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct NotAName {
    text: String,
    what: &'static str,
}

/// Whether Kubernetes could have an object of this name (RFC 1123 label, 63 characters).
fn is_name(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(sound) && !text.starts_with('-') && !text.ends_with('-')
}

impl TryFrom<String> for ServiceName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(NotAName { text, what: "Service: write namespace/name, as monitoring/otel-collector" }),
        }
    }
}

impl From<ServiceName> for String {
    fn from(service: ServiceName) -> Self {
        service.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Namespace(pub(super) String);

impl TryFrom<String> for Namespace {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        if is_name(&text) { Ok(Self(text)) } else { Err(NotAName { text, what: "namespace: write its name alone" }) }
    }
}

impl From<Namespace> for String {
    fn from(namespace: Namespace) -> Self {
        namespace.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A label or an annotation: `key`, whatever its value, or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Match {
    key: String,
    value: Option<String>,
}

impl Match {
    /// Whether one of `pairs` is meant.
    pub(super) fn is_in(&self, pairs: Option<&BTreeMap<String, String>>) -> bool {
        let found = pairs.and_then(|pairs| pairs.get(&self.key));
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

impl TryFrom<String> for Match {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        let (key, value) = text.split_once('=').map_or((text.as_str(), None), |(key, value)| (key, Some(value)));
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if key.is_empty() || !key.bytes().all(sound) {
            let what = "label or annotation: write key or key=value, as mirador.io/steer=false";
            return Err(NotAName { text, what });
        }
        Ok(Self { key: key.to_owned(), value: value.map(ToOwned::to_owned) })
    }
}

impl From<Match> for String {
    fn from(of: Match) -> Self {
        of.to_string()
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written_and_what_is_none_is_refused_with_an_example() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "fd00::/8", "::/0", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse::<Cidr>().unwrap().to_string(), "192.0.2.7/32");
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "fd00::/129", "fd00::1/64", "a/8", "10.0.0.0/"] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains("10.0.0.0/8"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_lie_in_the_programs_words_in_network_order() {
        for text in ["192.0.2.7", "2001:db8::17", "::1", "0.0.0.0"] {
            let parsed: IpAddr = text.parse().unwrap();
            assert_eq!(address(&words(parsed)), parsed);
        }
        let (length, words) = "10.0.0.0/8".parse::<Cidr>().unwrap().key();
        assert_eq!((length, words), (104, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 0])]));
    }

    #[test]
    fn names_are_read_and_written_and_what_is_none_is_refused_with_an_example() {
        for text in ["monitoring/otel-collector", "a/b"] {
            assert_eq!(ServiceName::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for text in ["collector", "Monitoring/x", "a/b/c", "/b", "a/", "-a/b", "a/b."] {
            let error = ServiceName::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains("monitoring/otel-collector"), "{text}: {error}");
        }
        assert!(Namespace::try_from("kube-system".to_owned()).is_ok());
        assert!(Namespace::try_from("kube-system/x".to_owned()).is_err());
    }

    #[test]
    fn a_label_is_meant_by_its_key_alone_or_with_its_value() {
        let pairs: BTreeMap<String, String> = [("mirador.io/steer".to_owned(), "false".to_owned())].into();
        let is_meant = |text: &str| Match::try_from(text.to_owned()).unwrap().is_in(Some(&pairs));
        assert!(is_meant("mirador.io/steer") && is_meant("mirador.io/steer=false"));
        assert!(!is_meant("mirador.io/steer=true") && !is_meant("mirador.io/steer=") && !is_meant("steer"));
        assert!(!Match::try_from("a".to_owned()).unwrap().is_in(None));
        for text in ["", "=x", "a b", "a b=c"] {
            assert!(Match::try_from(text.to_owned()).unwrap_err().to_string().contains("key=value"), "{text}");
        }
        assert_eq!(Match::try_from("a=b=c".to_owned()).unwrap().to_string(), "a=b=c");
    }
}
