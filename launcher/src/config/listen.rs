//! Addresses: where a service listens, and whom a guest may reach.
//!
//! Text becomes a socket address or a path, or a [`Complaint`]. Names are resolved by a function that the caller
//! gives; [`Names`] is the one that asks the system, with a bound on the time of a whole file. Nothing is bound here.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::Address;
use super::diagnostics::{Complaint, meant, quoted};

/// Longest path of a Unix socket: `sun_path` of unix(7) less its NUL.
const LONGEST_PATH: usize = 107;

/// Time that all names of a file together may take. A dead name server would otherwise hold `check` for minutes.
const RESOLVING: Duration = Duration::from_secs(1);

/// Addresses of a host name.
pub(super) type Resolve<'a> = dyn Fn(&str, u16) -> Result<Vec<SocketAddr>, String> + 'a;

/// A listening address; a relative path is relative to `base`.
pub(super) fn address(text: &str, base: &Path, resolve: &Resolve<'_>) -> Result<Address, Complaint> {
    match text.split_once(':') {
        Some(("unix", path)) => unix(path, base),
        Some(("tcp", rest)) if rest.starts_with("//") => host_port(&rest[2..], resolve).map(Address::Tcp),
        Some((scheme @ ("udp" | "fd"), rest)) if rest.starts_with("//") => {
            Err(Complaint::new(format!("{}: `{scheme}://` is not supported by this version", quoted(text)))
                .help("listen on HOST:PORT or unix:/path"))
        }
        Some((_, rest)) if rest.starts_with("//") => Err(Complaint::new(format!("{} is not an address", quoted(text)))
            .help("addresses look like `127.0.0.1:8080`, `tcp://localhost:8080` or `unix:/path?mode=0660`")),
        _ => host_port(text, resolve).map(Address::Tcp),
    }
}

/// `HOST:PORT`, resolved. No host and `*` are all interfaces, IPv4 and IPv6 by one socket where the system has IPv6.
pub(super) fn host_port(text: &str, resolve: &Resolve<'_>) -> Result<SocketAddr, Complaint> {
    let (host, port) = split(text)?;
    match host {
        Host::Any if Path::new("/proc/net/if_inet6").exists() => Ok((Ipv6Addr::UNSPECIFIED, port).into()),
        Host::Any => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Host::Literal(ip) => Ok((ip, port).into()),
        // RFC 6761 section 6.3: always loopback; a container without /etc/hosts would ask a name server.
        Host::Name("localhost") => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Host::Name(name) => {
            let found = resolve(name, port)
                .map_err(|reason| Complaint::new(format!("the host {} is not known: {reason}", quoted(name))))?;
            found
                .iter()
                .find(|address| address.is_ipv4())
                .or(found.first())
                .copied()
                .ok_or_else(|| Complaint::new(format!("the host {} has no address", quoted(name))))
        }
    }
}

/// `host:port` of a peer, not resolved; IPv6 loses its brackets.
pub(super) fn peer(text: &str) -> Result<(String, u16), Complaint> {
    let (host, port) = split(text)?;
    let host = match host {
        Host::Any => {
            return Err(Complaint::new(format!("{} names no host", quoted(text)))
                .help("name each peer as host:port, such as `api.example.com:443`"));
        }
        Host::Literal(ip) => ip.to_string(),
        Host::Name(name) => name.to_owned(),
    };
    match port {
        0 => Err(Complaint::new(format!("{}: a peer has no port 0", quoted(text)))),
        port => Ok((host, port)),
    }
}

enum Host<'a> {
    Any,
    Literal(IpAddr),
    Name(&'a str),
}

fn split(text: &str) -> Result<(Host<'_>, u16), Complaint> {
    let bad = |help: String| Complaint::new(format!("{} is not HOST:PORT", quoted(text))).help(help);
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text.parse::<u16>() {
            Ok(port) => bad(format!("did you mean `127.0.0.1:{port}`?")),
            Err(_) => bad(format!("a port is missing; did you mean `{}:8080`?", text.trim())),
        });
    };
    let host = if let Some(inner) = host.strip_prefix('[') {
        match inner.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(ip)) => Host::Literal(ip.into()),
            _ => return Err(bad("an IPv6 address looks like `[::1]:8080`".to_owned())),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() || host.contains(':') {
        let help = match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("an IPv6 address needs brackets: did you mean `[{host}]:{port}`?"),
            Err(_) => "an IPv6 address needs brackets, as in `[::1]:8080`".to_owned(),
        };
        return Err(bad(help));
    } else if host.is_empty() || host == "*" {
        Host::Any
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        Host::Literal(ip.into())
    } else if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        // The system's resolver takes `127.1` and would ask a name server about `999.1.1.1`.
        return Err(Complaint::new(format!("{} is not an IPv4 address", quoted(host)))
            .help("an IPv4 address looks like `127.0.0.1`"));
    } else if host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    {
        Host::Name(host)
    } else {
        return Err(Complaint::new(format!("{} is not a host's name", quoted(host))));
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits => Ok((host, port)),
        _ => Err(Complaint::new(format!("the port {} is not a number from 0 to 65535", quoted(port)))),
    }
}

fn unix(rest: &str, base: &Path) -> Result<Address, Complaint> {
    // `unix:///run/x.sock` is written as well.
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let form = "a Unix socket looks like `unix:/run/app.sock?mode=0660`";
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(Complaint::new("the Unix socket has no path").help(form));
    }
    if path.starts_with('@') {
        return Err(Complaint::new("abstract Unix sockets are not supported by this version").help(form));
    }
    let mut mode = None;
    for parameter in query.iter().flat_map(|query| query.split('&')) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name != "mode" {
            let help = match meant(name, ["mode"]) {
                Some(name) => format!("did you mean `{name}`?"),
                None => form.to_owned(),
            };
            return Err(Complaint::new(format!("unknown parameter {}", quoted(name))).help(help));
        }
        let octal = (3..=4).contains(&value.len()) && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(value, 8) {
            Ok(bits) if octal && bits <= 0o777 && mode.is_none() => mode = Some(bits),
            _ => {
                return Err(Complaint::new(format!("{} is not the mode of a file", quoted(value)))
                    .help("a mode is three octal digits, such as 0660"));
            }
        }
    }
    let path = tidy(&base.join(path));
    let length = path.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(Complaint::new(format!(
            "the path of the Unix socket has {length} bytes; the system allows {LONGEST_PATH}"
        ))
        .help("use a shorter path, for example below /run"));
    }
    if path.is_dir() {
        return Err(Complaint::new(format!("{} is a directory", quoted(&path.to_string_lossy()))).help(form));
    }
    Ok(Address::Unix { path, mode })
}

/// A path without its `.` components.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

/// The system's resolver, with one deadline for all names.
pub(super) struct Names {
    deadline: Cell<Option<Instant>>,
}

impl Names {
    /// A resolver whose time starts with the first name.
    pub(super) fn new() -> Self {
        Self { deadline: Cell::new(None) }
    }

    /// Addresses of a name, or a reason for a person.
    pub(super) fn resolve(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let now = Instant::now();
        let deadline = self.deadline.get().unwrap_or(now + RESOLVING);
        self.deadline.set(Some(deadline));
        let late = || "no answer from the name service in time".to_owned();
        if now >= deadline {
            return Err(late());
        }
        let (sender, receiver) = mpsc::channel();
        let host = name.to_owned();
        // getaddrinfo(3) has no deadline of its own. The thread may outlive this call and ends with its lookup.
        std::thread::Builder::new()
            .name("resolve".to_owned())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                // Nobody listens any more once the deadline has passed.
                let _ = sender.send(found.map(Iterator::collect));
            })
            .map_err(|error| error.to_string())?;
        match receiver.recv_timeout(deadline.saturating_duration_since(now)) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(late()),
        }
    }
}

/// Which listening addresses are taken, and by whom.
#[derive(Default)]
pub(super) struct Taken {
    paths: BTreeMap<PathBuf, Site>,
    ports: BTreeMap<u16, Port>,
}

/// Where an address was written.
#[derive(Clone)]
pub(super) struct Site {
    /// Who listens there, for messages.
    pub owner: String,
    /// Where it stands in the file.
    pub span: Range<usize>,
}

#[derive(Default)]
struct Port {
    by_ip: BTreeMap<IpAddr, Site>,
    first: Option<Site>,
    first_v4: Option<Site>,
}

impl Taken {
    /// Takes an address. The one that stands in its way is returned: the same, or one that includes it.
    pub(super) fn take(&mut self, address: &Address, site: Site) -> Option<Site> {
        let address = match address {
            Address::Unix { path, .. } => {
                let other = self.paths.get(path).cloned();
                self.paths.entry(path.clone()).or_insert(site);
                return other;
            }
            // The system chooses another port for each.
            Address::Tcp(address) if address.port() == 0 => return None,
            Address::Tcp(address) => address,
        };
        let port = self.ports.entry(address.port()).or_default();
        let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let any_v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let ip = address.ip();
        let same = port.by_ip.get(&ip);
        // `[::]` takes IPv4 as well (ipv6(7), IPV6_V6ONLY is off).
        let wider = port.by_ip.get(&any_v6).or(match ip {
            IpAddr::V4(_) => port.by_ip.get(&any_v4),
            IpAddr::V6(_) => None,
        });
        let narrower = match ip {
            ip if ip == any_v6 => port.first.as_ref(),
            ip if ip == any_v4 => port.first_v4.as_ref(),
            _ => None,
        };
        let other = same.or(wider).or(narrower).cloned();
        if ip.is_ipv4() {
            port.first_v4.get_or_insert_with(|| site.clone());
        }
        port.first.get_or_insert_with(|| site.clone());
        port.by_ip.entry(ip).or_insert(site);
        other
    }
}
