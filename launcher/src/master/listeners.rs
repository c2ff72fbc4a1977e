//! Every listening socket of the launcher, by what was asked for: bound before it is needed, kept while any
//! service wants it, so that a connection that waits in its queue is never lost to a change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::journal::Name;
use crate::config::{Address, Listen, ListenOptions};
use crate::sys::listener::{self, Kind, ListenError, Options, UnixPath};

/// A bound listener.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Unique in the launcher's life.
    pub number: u64,
    /// The socket; where each slot has its own, that of the first.
    pub socket: Arc<OwnedFd>,
    /// Those of the other slots, in their order. They stay for as long as the first: connections come to them.
    pub more: Vec<Arc<OwnedFd>>,
    /// As told to workers and people: `127.0.0.1:8080`, `udp://127.0.0.1:53`, `unix:/path`.
    pub address: String,
    /// What it is.
    pub kind: Kind,
    /// Keeps a Unix socket's path while somebody listens there.
    _path: Option<Arc<UnixPath>>,
}

impl Bound {
    /// All sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        std::iter::once(&self.socket).chain(&self.more)
    }
}

/// What identifies a listener across changes of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A fixed place, whoever uses it: it may move from a service to another and keeps its queue.
    Place(Address),
    /// Port 0: the n-th listener of a service, since every one of them is another port.
    Ephemeral {
        /// The service.
        service: Name,
        /// Its place in the service's list.
        index: usize,
        /// The address, for its host.
        address: SocketAddr,
        /// UDP.
        #[serde(default)]
        datagrams: bool,
    },
}

impl Key {
    /// The keys of a service's `listen:`.
    pub fn of(service: &Name, listen: &[Listen]) -> Vec<Key> {
        let key = |(index, listen): (usize, &Listen)| match &listen.address {
            place @ (Address::Tcp(address) | Address::Udp(address)) if address.port() == 0 => {
                let datagrams = matches!(place, Address::Udp(_));
                Key::Ephemeral { service: service.clone(), index, address: *address, datagrams }
            }
            place => Key::Place(place.clone()),
        };
        listen.iter().enumerate().map(key).collect()
    }
}

/// The listeners that are held.
#[derive(Debug, Default)]
pub struct Listeners {
    held: BTreeMap<Key, Bound>,
    last_number: u64,
    /// What the launcher was started with, by name. It is nobody's to close: who stops using it may use it again.
    inherited: BTreeMap<String, Arc<OwnedFd>>,
}

impl Listeners {
    /// What the launcher was started with.
    pub fn inherit(&mut self, sockets: impl IntoIterator<Item = (String, OwnedFd)>) {
        self.inherited.extend(sockets.into_iter().map(|(name, socket)| (name, Arc::new(socket))));
    }

    /// See [`inherit`](Self::inherit).
    pub fn inherited(&self) -> impl Iterator<Item = (&String, &Arc<OwnedFd>)> {
        self.inherited.iter()
    }

    /// The listener for `key`, bound now if it is not held yet; the flag says whether it was. A listener that is held
    /// listens on as it did; see [`adjust`](Self::adjust).
    pub fn hold(&mut self, key: &Key, options: &ListenOptions) -> Result<(Bound, bool), ListenError> {
        if let Some(bound) = self.held.get(key) {
            return Ok((bound.clone(), false));
        }
        let number = self.last_number + 1;
        let options = meant(options);
        let mut place_in_files = None;
        let (socket, address, kind) = match key {
            Key::Place(Address::Tcp(address)) | Key::Ephemeral { address, datagrams: false, .. } => {
                let (socket, address) = listener::tcp(*address, &options)?;
                (Arc::new(socket), address.to_string(), Kind::Tcp)
            }
            Key::Place(Address::Udp(address)) | Key::Ephemeral { address, datagrams: true, .. } => {
                let (socket, address) = listener::udp(*address, &options)?;
                (Arc::new(socket), format!("udp://{address}"), Kind::Udp)
            }
            Key::Place(Address::Unix { path, mode }) => {
                let (socket, place) = listener::unix(path, *mode, &options)?;
                place_in_files = Some(Arc::new(place));
                (Arc::new(socket), format!("unix:{}", path.display()), Kind::Unix)
            }
            Key::Place(Address::Abstract(name)) => {
                (Arc::new(listener::abstract_unix(name, &options)?), format!("unix:@{name}"), Kind::Unix)
            }
            Key::Place(Address::Inherited(name)) => {
                let Some(socket) = self.inherited.get(name) else {
                    let given = self.inherited.keys().cloned().collect();
                    return Err(ListenError::NotPassed { name: name.clone(), given });
                };
                let (kind, address) = listener::inherited(name, socket, &options)?;
                (Arc::clone(socket), address, kind)
            }
        };
        let bound = Bound { number, socket, more: Vec::new(), address, kind, _path: place_in_files };
        self.last_number = number;
        self.held.insert(key.clone(), bound.clone());
        Ok((bound, true))
    }

    /// As [`hold`](Self::hold), and what is held listens from now on as `options` say.
    pub fn adjust(&mut self, key: &Key, options: &ListenOptions) -> Result<(Bound, bool), ListenError> {
        let (bound, new) = self.hold(key, options)?;
        let options = meant(options);
        let place = || bound.address.clone();
        if !new && !listener::agrees(&bound.socket, &options) && !matches!(key, Key::Place(Address::Inherited(_))) {
            return Err(ListenError::Held { place: place() });
        }
        if !new {
            let adjusted = bound.sockets().try_for_each(|socket| listener::adjust(socket, bound.kind, &options));
            adjusted.map_err(|source| ListenError::Refused { place: place(), hint: "", source })?;
        }
        Ok((bound, new))
    }

    /// Go on with a listener that an earlier master has bound.
    pub fn adopt(&mut self, key: Key, number: u64, socket: OwnedFd, more: Vec<OwnedFd>, address: String) {
        let path = match &key {
            Key::Place(Address::Unix { path, .. }) => UnixPath::of(path).ok().map(Arc::new),
            _ => None,
        };
        self.last_number = self.last_number.max(number);
        let kind = Kind::of(&socket).ok().flatten().unwrap_or_default();
        let more = more.into_iter().map(Arc::new).collect();
        self.held.insert(key, Bound { number, socket: Arc::new(socket), more, address, kind, _path: path });
    }

    /// Have a socket for each of so many slots.
    ///
    /// # Errors
    /// As socket(2); those that there are stay.
    pub fn spread(&mut self, key: &Key, options: &ListenOptions, slots: usize) -> io::Result<()> {
        let Some(bound) = self.held.get_mut(key) else { return Ok(()) };
        while bound.more.len() + 1 < slots {
            bound.more.push(Arc::new(listener::beside(&bound.socket, &meant(options))?));
        }
        Ok(())
    }

    /// The listener for `key`, if it is held.
    pub fn get(&self, key: &Key) -> Option<&Bound> {
        self.held.get(key)
    }

    /// What the listener for `key` is, if it is held.
    pub fn kind(&self, key: &Key) -> Option<Kind> {
        self.held.get(key).map(|bound| bound.kind)
    }

    /// Everything that is held.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Bound)> {
        self.held.iter()
    }

    /// Where the listener for `key` listens, if it is held.
    pub fn address(&self, key: &Key) -> Option<String> {
        self.held.get(key).map(|bound| bound.address.clone())
    }

    /// Let every listener go that is not wanted.
    pub fn retain(&mut self, wanted: &BTreeSet<Key>) {
        self.held.retain(|key, _| wanted.contains(key));
    }
}

fn meant(options: &ListenOptions) -> Options {
    Options { backlog: options.backlog, ipv6_only: options.ipv6_only, nodelay: options.nodelay }
}
