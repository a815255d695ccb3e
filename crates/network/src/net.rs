//! IPv4 subnets.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// A subnet in its canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    network: u32,
    length: u8,
}

impl Subnet {
    /// Whether an address lies in it.
    pub(crate) fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & mask(self.length) == self.network
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text} is not an IPv4 subnet");
        let (ip, length) = text.trim().split_once('/').ok_or_else(wrong)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().ok().filter(|l| *l <= 32).ok_or_else(wrong)?;
        Ok(Self {
            network: u32::from(ip) & mask(length),
            length,
        })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_canonical_and_checked() {
        let subnet: Subnet = "10.128.7.9/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.128.0.0/16");
        assert!(subnet.contains("10.128.255.1".parse().unwrap()));
        assert!(!subnet.contains("10.129.0.1".parse().unwrap()));
        assert!(
            "0.0.0.0/0"
                .parse::<Subnet>()
                .unwrap()
                .contains([1, 2, 3, 4].into())
        );
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0/8"] {
            assert!(wrong.parse::<Subnet>().is_err());
        }
    }
}
