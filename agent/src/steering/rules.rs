//! Networks in the notation `address/length`, and the rules that are made of them.

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
}
