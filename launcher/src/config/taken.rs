//! Which listening addresses of a file are taken, and by whom: one place can be listened on once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use super::{Address, ListenOptions};

/// Which listening addresses are taken, and by whom.
#[derive(Default)]
pub(super) struct Taken {
    paths: BTreeMap<PathBuf, Site>,
    /// Abstract names, and names of descriptors with their scheme.
    names: BTreeMap<String, Site>,
    ports: BTreeMap<(Transport, u16), Port>,
}

/// Where an address was written.
#[derive(Clone)]
pub(super) struct Site {
    /// Who listens there, for messages.
    pub owner: String,
    /// Where it stands in the file.
    pub span: Range<usize>,
}

/// TCP and UDP number their ports apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Default)]
struct Port {
    by_ip: BTreeMap<IpAddr, Site>,
    first: Option<Site>,
    first_v4: Option<Site>,
    first_v6: Option<Site>,
    /// `[::]` that takes IPv4 as well.
    both: Option<Site>,
}

impl Taken {
    /// Takes an address. The one that stands in its way is returned: the same, or one that includes it.
    pub(super) fn take(&mut self, address: &Address, options: &ListenOptions, site: Site) -> Option<Site> {
        match address {
            Address::Unix { path, .. } => first(&mut self.paths, path.clone(), site),
            Address::Abstract(name) => first(&mut self.names, format!("@{name}"), site),
            Address::Inherited(name) => first(&mut self.names, format!("fd://{name}"), site),
            Address::Tcp(address) => self.take_port(Transport::Tcp, *address, options, site),
            Address::Udp(address) => self.take_port(Transport::Udp, *address, options, site),
        }
    }

    fn take_port(
        &mut self,
        transport: Transport,
        address: SocketAddr,
        options: &ListenOptions,
        site: Site,
    ) -> Option<Site> {
        // The system chooses another port for each.
        if address.port() == 0 {
            return None;
        }
        let port = self.ports.entry((transport, address.port())).or_default();
        let (any_v4, any_v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let ip = address.ip();
        // `[::]` takes IPv4 as well (ipv6(7)) unless it is told not to.
        let takes_both = ip == any_v6 && options.ipv6_only != Some(true);
        let same = port.by_ip.get(&ip);
        let wider = match ip {
            IpAddr::V4(_) => port.both.as_ref().or_else(|| port.by_ip.get(&any_v4)),
            IpAddr::V6(_) => port.by_ip.get(&any_v6),
        };
        let narrower = match ip {
            _ if takes_both => port.first.as_ref(),
            ip if ip == any_v6 => port.first_v6.as_ref(),
            ip if ip == any_v4 => port.first_v4.as_ref(),
            _ => None,
        };
        let other = same.or(wider).or(narrower).cloned();
        let family = if ip.is_ipv4() { &mut port.first_v4 } else { &mut port.first_v6 };
        family.get_or_insert_with(|| site.clone());
        port.first.get_or_insert_with(|| site.clone());
        if takes_both {
            port.both.get_or_insert_with(|| site.clone());
        }
        port.by_ip.entry(ip).or_insert(site);
        other
    }
}

/// Keeps the first that takes a place; returns the one that has it already.
fn first<K: Ord>(taken: &mut BTreeMap<K, Site>, key: K, site: Site) -> Option<Site> {
    let other = taken.get(&key).cloned();
    taken.entry(key).or_insert(site);
    other
}
