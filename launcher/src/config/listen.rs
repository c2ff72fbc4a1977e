//! Addresses: where a service listens, and whom a guest may reach.
//!
//! Text becomes a socket address or a path, or a [`Complaint`]. Names are resolved by a function that the caller
//! gives; [`Names`] is the one that asks the system, with a bound on the time of a whole file. Nothing is bound here.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::diagnostics::{Complaint, meant, quoted};
use super::{Address, ListenOptions};

/// Longest path of a Unix socket: `sun_path` of unix(7) less its NUL.
const LONGEST_PATH: usize = 107;

/// Longest name of a descriptor: `FDNAME_MAX` of systemd.
const LONGEST_NAME: usize = 255;

/// Largest backlog: listen(2) takes an `int`, and the kernel clamps it to `net.core.somaxconn`.
const MOST_BACKLOG: u32 = i32::MAX.unsigned_abs();

/// Time that all names of a file together may take. A dead name server would otherwise hold `check` for minutes.
const RESOLVING: Duration = Duration::from_secs(1);

/// Addresses of a host name.
pub(super) type Resolve<'a> = dyn Fn(&str, u16) -> Result<Vec<SocketAddr>, String> + 'a;

/// What an address looks like, for advice.
const FORMS: &str = "addresses look like `127.0.0.1:8080`, `tcp://localhost:8080?backlog=1024`, `udp://127.0.0.1:5353`, \
     `unix:/path?mode=0660`, `unix:@name` or `fd://NAME`";

/// A listening address and the options behind its `?`; a relative path is relative to `base`.
pub(super) fn address(text: &str, base: &Path, resolve: &Resolve<'_>) -> Result<(Address, ListenOptions), Complaint> {
    let (place, query) = match text.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (text, None),
    };
    let mut parameters = Parameters::read(query)?;
    let address = match place.split_once(':') {
        Some(("unix", path)) => unix(path, base, parameters.mode.take())?,
        Some(("tcp", rest)) if rest.starts_with("//") => Address::Tcp(host_port(&rest[2..], resolve)?),
        Some(("udp", rest)) if rest.starts_with("//") => Address::Udp(host_port(&rest[2..], resolve)?),
        Some(("fd", rest)) if rest.starts_with("//") => Address::Inherited(inherited(&rest[2..])?),
        Some((_, rest)) if rest.starts_with("//") => {
            return Err(Complaint::new(format!("{} is not an address", quoted(text))).help(FORMS));
        }
        // A host may have such a name, and then a port follows.
        Some((kind @ ("tcp" | "udp" | "fd"), rest)) if rest.parse::<u16>().is_err() => {
            let meant = format!("did you mean `{kind}://{rest}`?");
            return Err(Complaint::new(format!("{} is not an address", quoted(text))).help(meant));
        }
        _ => Address::Tcp(host_port(place, resolve)?),
    };
    Ok((address.clone(), parameters.fitting(&address)?))
}

/// What stands behind the `?`.
#[derive(Default)]
struct Parameters {
    mode: Option<u32>,
    options: ListenOptions,
}

impl Parameters {
    const NAMES: [&str; 4] = ["mode", "backlog", "ipv6_only", "nodelay"];

    fn read(query: Option<&str>) -> Result<Self, Complaint> {
        let mut read = Parameters::default();
        for parameter in query.iter().flat_map(|query| query.split('&')) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let options = &mut read.options;
            let again = match name {
                "mode" => read.mode.replace(mode(value)?).is_some(),
                "backlog" => options.backlog.replace(backlog(value)?).is_some(),
                "ipv6_only" => options.ipv6_only.replace(flag(name, value)?).is_some(),
                "nodelay" => options.nodelay.replace(flag(name, value)?).is_some(),
                _ => {
                    let help = match meant(name, Self::NAMES) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => format!("there are `{}`", Self::NAMES.join("`, `")),
                    };
                    return Err(Complaint::new(format!("unknown parameter {}", quoted(name))).help(help));
                }
            };
            if again {
                return Err(Complaint::new(format!("the parameter `{name}` is given twice")));
            }
        }
        Ok(read)
    }

    /// The options, if all of them mean something for this kind of address.
    fn fitting(self, address: &Address) -> Result<ListenOptions, Complaint> {
        let options = self.options;
        let (tcp, ipv6) = match address {
            Address::Tcp(address) => (true, address.is_ipv6()),
            Address::Udp(address) => (false, address.is_ipv6()),
            // What it is shows when the launcher is started with it.
            Address::Inherited(_) => (true, false),
            Address::Unix { .. } | Address::Abstract(_) => (false, false),
        };
        let stream = !matches!(address, Address::Udp(_));
        for (given, fits, name, whose) in [
            (self.mode.is_some(), false, "mode", "the path of a Unix socket, as in `unix:/run/app.sock?mode=0660`"),
            (options.backlog.is_some(), stream, "backlog", "sockets that queue connections"),
            (options.ipv6_only.is_some(), ipv6, "ipv6_only", "an IPv6 address, as in `[::]:80?ipv6_only=true`"),
            (options.nodelay.is_some(), tcp, "nodelay", "TCP"),
        ] {
            if given && !fits {
                return Err(
                    Complaint::new(format!("`{name}` means nothing here")).help(format!("`{name}` belongs to {whose}"))
                );
            }
        }
        Ok(options)
    }
}

fn mode(value: &str) -> Result<u32, Complaint> {
    let octal = (3..=4).contains(&value.len()) && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(value, 8) {
        Ok(bits) if octal && bits <= 0o777 => Ok(bits),
        _ => Err(Complaint::new(format!("{} is not the mode of a file", quoted(value)))
            .help("a mode is three octal digits, such as 0660")),
    }
}

fn backlog(value: &str) -> Result<u32, Complaint> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u32>() {
        Ok(number) if digits && (1..=MOST_BACKLOG).contains(&number) => Ok(number),
        _ => Err(Complaint::new(format!("{} is not a number from 1 to {MOST_BACKLOG}", quoted(value)))
            .help("`backlog` is how many connections may wait in the kernel, as in `?backlog=1024`")),
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Complaint> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Complaint::new(format!("{} is neither true nor false", quoted(value)))
            .help(format!("write `?{name}=true`"))),
    }
}

/// The name of a descriptor with which the launcher is started: sd_listen_fds(3), `FileDescriptorName=` of
/// systemd.socket(5), which allows neither control characters nor `:`.
fn inherited(name: &str) -> Result<String, Complaint> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(allowed) {
        return Err(Complaint::new(format!("{} is not the name of a descriptor", quoted(name)))
            .help("write `fd://NAME`, where NAME is what `FileDescriptorName=` of the socket unit says"));
    }
    Ok(name.to_owned())
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

fn unix(rest: &str, base: &Path, mode: Option<u32>) -> Result<Address, Complaint> {
    // `unix:///run/x.sock` is written as well.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let form = "a Unix socket looks like `unix:/run/app.sock?mode=0660`, one without a file like `unix:@name`";
    if let Some(name) = path.strip_prefix('@') {
        // The NUL that marks an abstract name (unix(7)) takes the place of the one behind a path.
        if name.is_empty() || name.len() > LONGEST_PATH || name.contains('\0') {
            return Err(
                Complaint::new(format!("the name of an abstract Unix socket has 1 to {LONGEST_PATH} bytes")).help(form)
            );
        }
        if mode.is_some() {
            return Err(Complaint::new("an abstract Unix socket has no file, and no `mode`")
                .help("whoever may be in this network namespace may connect; use a path to admit fewer"));
        }
        return Ok(Address::Abstract(name.to_owned()));
    }
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(Complaint::new("the Unix socket has no path").help(form));
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
