//! Port security of a network: which addresses a container may use, and which servers it may run.

use core::fmt;
use core::str::FromStr;

/// How far a network believes the addresses in the frames of its containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortSecurity {
    /// Addresses that are registered (those of endpoints and of the gateway) can be used by their owner only. All
    /// others are free for everybody.
    #[default]
    Registered,
    /// A container uses its own registered addresses and nothing else.
    Strict,
    /// Nothing is checked but that nobody sends with the gateway's MAC address.
    Off,
}

impl PortSecurity {
    pub const fn as_str(self) -> &'static str {
        match self {
            PortSecurity::Registered => "registered",
            PortSecurity::Strict => "strict",
            PortSecurity::Off => "off",
        }
    }
}

impl fmt::Display for PortSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("port security is registered, strict or off")]
pub struct ParsePortSecurityError;

impl FromStr for PortSecurity {
    type Err = ParsePortSecurityError;

    fn from_str(text: &str) -> Result<PortSecurity, ParsePortSecurityError> {
        let all = [PortSecurity::Registered, PortSecurity::Strict, PortSecurity::Off];
        all.into_iter().find(|mode| mode.as_str() == text).ok_or(ParsePortSecurityError)
    }
}

/// Servers that configure the other hosts of a network, and that its containers may run. None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Servers {
    /// DHCPv4 and DHCPv6 servers.
    pub dhcp: bool,
    /// IPv6 routers: router advertisements and redirects.
    pub router: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the servers are dhcp and router, with a comma between them")]
pub struct ParseServersError;

impl FromStr for Servers {
    type Err = ParseServersError;

    fn from_str(text: &str) -> Result<Servers, ParseServersError> {
        let mut servers = Servers::default();
        for name in text.split(',') {
            match name.trim() {
                "dhcp" => servers.dhcp = true,
                "router" => servers.router = true,
                _ => return Err(ParseServersError),
            }
        }
        Ok(servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_one_spelling() {
        for mode in [PortSecurity::Registered, PortSecurity::Strict, PortSecurity::Off] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        for text in ["", "Strict", "on", " off", "registered,strict"] {
            assert_eq!(text.parse::<PortSecurity>(), Err(ParsePortSecurityError), "{text:?}");
        }
    }

    #[test]
    fn servers_are_a_list() {
        for (text, dhcp, router) in [
            ("dhcp", true, false),
            ("router", false, true),
            ("dhcp,router", true, true),
            ("router, dhcp", true, true),
        ] {
            assert_eq!(text.parse(), Ok(Servers { dhcp, router }), "{text:?}");
        }
        for text in ["", "none", "dhcp,", "DHCP", "ra"] {
            assert_eq!(text.parse::<Servers>(), Err(ParseServersError), "{text:?}");
        }
    }
}
