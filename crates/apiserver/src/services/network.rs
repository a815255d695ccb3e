//! The ranges that addresses and ports are taken from.

use rand::Rng;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Why a range cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {text:?}: {reason}")]
pub struct RangeError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

/// Cluster IPs and node ports.
#[derive(Clone, Debug)]
pub struct ServiceNetwork {
    base: u32,
    /// Addresses in the subnet.
    size: u32,
    /// Node ports.
    pub ports: RangeInclusive<u16>,
    /// The subnet as text.
    pub cidr: String,
}

impl ServiceNetwork {
    /// Parses a subnet such as `10.96.0.0/16` and a range of ports such as `30000-32767`.
    pub fn parse(cidr: &str, ports: &str) -> Result<Self, RangeError> {
        let bad = |reason| RangeError {
            what: "service subnet",
            text: cidr.into(),
            reason,
        };
        let (address, bits) = cidr.split_once('/').ok_or_else(|| bad("no prefix length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("not an IPv4 subnet"))?;
        let bits: u32 = bits.parse().map_err(|_| bad("not a prefix length"))?;
        if !(8..=28).contains(&bits) {
            return Err(bad("the prefix length must be 8 to 28"));
        }
        let size = 1u32 << (32 - bits);
        let base = u32::from(address) & !(size - 1);
        let bad = |reason| RangeError {
            what: "node port range",
            text: ports.into(),
            reason,
        };
        let (first, last) = ports.split_once('-').ok_or_else(|| bad("not FIRST-LAST"))?;
        let first: u16 = first.parse().map_err(|_| bad("not a port"))?;
        let last: u16 = last.parse().map_err(|_| bad("not a port"))?;
        if first == 0 || last < first {
            return Err(bad("empty"));
        }
        Ok(Self {
            base,
            size,
            ports: first..=last,
            cidr: cidr.to_owned(),
        })
    }

    /// The address of the `kubernetes` Service.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Whether an address can be given to a Service.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(self.base);
        offset > 0 && offset < self.size - 1
    }

    /// A random address from the part that is not kept for addresses chosen by people.
    pub fn random(&self) -> Ipv4Addr {
        let offset = rand::rng().random_range(self.reserved() + 1..self.size - 1);
        Ipv4Addr::from(self.base + offset)
    }

    /// All addresses, those kept for people last.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let reserved = self.reserved();
        let dynamic = reserved + 1..self.size - 1;
        dynamic
            .chain(1..=reserved)
            .map(|offset| Ipv4Addr::from(self.base + offset))
    }

    /// Addresses at the start that are given only to those who ask for them (KEP-3070).
    fn reserved(&self) -> u32 {
        (self.size / 16).clamp(16, 256).min(self.size - 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let network = ServiceNetwork::parse("10.96.0.0/16", "30000-32767").unwrap();
        assert_eq!(network.first(), Ipv4Addr::new(10, 96, 0, 1));
        assert!(network.contains(Ipv4Addr::new(10, 96, 0, 10)));
        assert!(!network.contains(Ipv4Addr::new(10, 96, 0, 0)));
        assert!(!network.contains(Ipv4Addr::new(10, 96, 255, 255)));
        assert!(!network.contains(Ipv4Addr::new(10, 97, 0, 1)));
        for _ in 0..100 {
            assert!(network.contains(network.random()));
        }
        let small = ServiceNetwork::parse("10.0.0.0/28", "1-2").unwrap();
        assert_eq!(small.all().count(), 14);
        assert!(ServiceNetwork::parse("10.96.0.0/33", "1-2").is_err());
        assert!(ServiceNetwork::parse("10.96.0.0/16", "2-1").is_err());
    }
}
