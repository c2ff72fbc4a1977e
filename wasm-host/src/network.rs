//! Which peers a guest may reach.
//!
//! An [`Endpoint`] names a peer. A guest may connect to an address if an endpoint with this port resolves to it. A host
//! name grants public addresses only: whoever controls a name's DNS could otherwise point it at the launcher's own
//! network. Loopback, private and link-local addresses have to be named literally, or as `localhost`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use wasmtime_wasi::sockets::SocketAddrUse;

use crate::Endpoint;

/// How long a resolved name is used for checks before it is resolved again.
const FRESH: Duration = Duration::from_secs(30);

/// Why a guest gets no connection.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("{0} is not in wasm.network")]
    NotListed(String),
    #[error("{0} resolves only to private addresses, which wasm.network has to name literally")]
    Private(String),
    #[error("{0} cannot be resolved")]
    Unresolved(String),
}

/// The list of peers and what their names resolved to.
pub(crate) struct Network {
    peers: Vec<Peer>,
    resolved: Mutex<HashMap<String, Resolved>>,
}

struct Peer {
    host: Host,
    port: u16,
}

#[derive(PartialEq)]
enum Host {
    Address(IpAddr),
    Localhost,
    /// Lower case, without the final dot.
    Name(String),
}

struct Resolved {
    addresses: Vec<IpAddr>,
    at: Instant,
}

impl Host {
    fn parse(host: &str) -> Host {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Host::Address(address.to_canonical());
        }
        let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
        if name == "localhost" { Host::Localhost } else { Host::Name(name) }
    }
}

impl Network {
    pub(crate) fn new(endpoints: &[Endpoint]) -> Network {
        let peers =
            endpoints.iter().map(|endpoint| Peer { host: Host::parse(&endpoint.host), port: endpoint.port }).collect();
        Network { peers, resolved: Mutex::default() }
    }

    /// Whether the guest may use any socket.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether the guest may look a name up.
    pub(crate) fn permits_lookup(&self, name: &str) -> bool {
        let host = Host::parse(name);
        self.peers.iter().any(|peer| peer.host == host)
    }

    /// Whether a guest's socket may do this. Guests do not listen; binding is granted as far as a connection or a
    /// datagram to an allowed peer needs it, which is an ephemeral port of no particular address.
    pub(crate) async fn permits(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                !self.is_empty() && address.port() == 0 && address.ip().is_unspecified()
            }
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                self.permits_peer(address).await
            }
        }
    }

    async fn permits_peer(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        for peer in self.peers.iter().filter(|peer| peer.port == address.port()) {
            let permitted = match &peer.host {
                Host::Address(listed) => *listed == ip,
                Host::Localhost => LOCALHOST.contains(&ip),
                Host::Name(name) => is_public(ip) && self.lookup(name).await.contains(&ip),
            };
            if permitted {
                return true;
            }
        }
        false
    }

    /// The addresses that a guest may reach under a host and port, in the order of the resolver.
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let shown = || format!("{host}:{port}");
        let host = Host::parse(host);
        if !self.peers.iter().any(|peer| peer.port == port && peer.host == host) {
            return Err(Refusal::NotListed(shown()));
        }
        let addresses = match host {
            Host::Address(address) => vec![address],
            Host::Localhost => LOCALHOST.to_vec(),
            Host::Name(name) => {
                let all = self.lookup(&name).await;
                if all.is_empty() {
                    return Err(Refusal::Unresolved(shown()));
                }
                let public: Vec<IpAddr> = all.into_iter().filter(|ip| is_public(*ip)).collect();
                if public.is_empty() {
                    return Err(Refusal::Private(shown()));
                }
                public
            }
        };
        Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// The public addresses of a listed name, for a guest's own look-up.
    pub(crate) async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        match Host::parse(name) {
            Host::Address(address) => vec![address],
            Host::Localhost => LOCALHOST.to_vec(),
            Host::Name(name) => {
                let mut all = self.lookup(&name).await;
                all.retain(|ip| is_public(*ip));
                all
            }
        }
    }

    /// All addresses of a name; none if it does not resolve.
    async fn lookup(&self, name: &str) -> Vec<IpAddr> {
        if let Some(known) = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && known.at.elapsed() < FRESH
        {
            return known.addresses.clone();
        }
        let Ok(found) = tokio::net::lookup_host((name, 0)).await else {
            return Vec::new();
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found {
            let ip = address.ip().to_canonical();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let resolved = Resolved { addresses: addresses.clone(), at: Instant::now() };
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), resolved);
        addresses
    }
}

const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Addresses that no host name grants: those of RFC 6890 that lead into the host or its networks.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address that a gateway would connect to.
            let octets = ip.octets();
            let embedded = match (first, second) {
                (0x0064, 0xff9b) => Some(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])),
                (0x2002, _) => Some(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5])),
                _ => None,
            };
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || embedded.is_some_and(|ip| !is_public_v4(ip)))
        }
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    let shared = first == 100 && (64..128).contains(&second);
    !(first == 0
        || shared
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(list: &[(&str, u16)]) -> Network {
        let endpoints: Vec<Endpoint> =
            list.iter().map(|(host, port)| Endpoint { host: (*host).to_owned(), port: *port }).collect();
        Network::new(&endpoints)
    }

    fn known(network: &Network, name: &str, addresses: &[&str]) {
        let resolved = Resolved {
            addresses: addresses.iter().map(|ip| ip.parse().expect("address")).collect(),
            at: Instant::now(),
        };
        network.resolved.lock().expect("lock").insert(name.to_owned(), resolved);
    }

    async fn connects(network: &Network, address: &str) -> bool {
        network.permits(address.parse().expect("address"), SocketAddrUse::TcpConnect).await
    }

    #[tokio::test]
    async fn nothing_is_reachable_by_default() {
        let network = network(&[]);
        assert!(!connects(&network, "127.0.0.1:80").await);
        assert!(!connects(&network, "93.184.216.34:443").await);
        assert!(!network.permits_lookup("example.com"));
        assert!(!network.permits("0.0.0.0:0".parse().expect("address"), SocketAddrUse::TcpBind).await);
    }

    #[tokio::test]
    async fn a_literal_grants_exactly_itself() {
        let network = network(&[("10.1.2.3", 5432), ("::1", 80), ("localhost", 8080)]);
        assert!(connects(&network, "10.1.2.3:5432").await);
        assert!(connects(&network, "[::ffff:10.1.2.3]:5432").await);
        assert!(!connects(&network, "10.1.2.3:5433").await);
        assert!(!connects(&network, "10.1.2.4:5432").await);
        assert!(connects(&network, "[::1]:80").await);
        assert!(!connects(&network, "127.0.0.1:80").await);
        assert!(connects(&network, "127.0.0.1:8080").await);
        assert!(network.resolve("[::1]", 80).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_grants_its_public_addresses_only() {
        let network = network(&[("API.example.com.", 443)]);
        known(&network, "api.example.com", &["93.184.216.34", "127.0.0.1", "10.0.0.1"]);
        assert!(connects(&network, "93.184.216.34:443").await);
        assert!(!connects(&network, "127.0.0.1:443").await);
        assert!(!connects(&network, "10.0.0.1:443").await);
        let reachable = network.resolve("api.example.COM", 443).await.expect("listed");
        assert_eq!(reachable, ["93.184.216.34:443".parse().expect("address")]);
        known(&network, "api.example.com", &["169.254.169.254"]);
        assert!(matches!(network.resolve("api.example.com", 443).await, Err(Refusal::Private(_))));
        assert!(matches!(network.resolve("other.example.com", 443).await, Err(Refusal::NotListed(_))));
        assert!(matches!(network.resolve("api.example.com", 80).await, Err(Refusal::NotListed(_))));
    }

    #[test]
    fn addresses_that_lead_inside_are_not_public() {
        for inside in [
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(inside.parse().expect("address")), "{inside}");
        }
        for outside in ["93.184.216.34", "100.128.0.1", "2606:2800:220:1::1", "64:ff9b::5db8:d822"] {
            assert!(is_public(outside.parse().expect("address")), "{outside}");
        }
    }

    #[tokio::test]
    async fn guests_do_not_listen() {
        let network = network(&[("localhost", 80)]);
        let any = "0.0.0.0:0".parse().expect("address");
        assert!(network.permits(any, SocketAddrUse::TcpBind).await);
        assert!(!network.permits(any, SocketAddrUse::TcpListen).await);
        let fixed = "0.0.0.0:80".parse().expect("address");
        assert!(!network.permits(fixed, SocketAddrUse::TcpBind).await);
        assert!(!network.permits(fixed, SocketAddrUse::UdpBind).await);
    }
}
