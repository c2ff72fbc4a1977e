//! Every listening socket of the launcher, by what was asked for: bound before it is needed, kept while any
//! service wants it, so that a connection that waits in its queue is never lost to a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::journal::Name;
use crate::config::{Address, Listen};
use crate::sys::listener::{self, ListenError, UnixPath};

/// A bound listener.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Unique in the launcher's life.
    pub number: u64,
    /// The socket.
    pub socket: Arc<OwnedFd>,
    /// As told to workers and people: `127.0.0.1:8080`, `unix:/path`.
    pub address: String,
    /// Keeps a Unix socket's path while somebody listens there.
    _path: Option<Arc<UnixPath>>,
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
    },
}

impl Key {
    /// The keys of a service's `listen:`.
    pub fn of(service: &Name, listen: &[Listen]) -> Vec<Key> {
        let key = |(index, listen): (usize, &Listen)| match &listen.address {
            Address::Tcp(address) if address.port() == 0 => {
                Key::Ephemeral { service: service.clone(), index, address: *address }
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
}

impl Listeners {
    /// The listener for `key`, bound now if it is not held yet; the flag says whether it was.
    pub fn hold(&mut self, key: &Key) -> Result<(Bound, bool), ListenError> {
        if let Some(bound) = self.held.get(key) {
            return Ok((bound.clone(), false));
        }
        let number = self.last_number + 1;
        let bound = match key {
            Key::Place(Address::Tcp(address)) | Key::Ephemeral { address, .. } => {
                let (socket, address) = listener::tcp(*address)?;
                Bound { number, socket: Arc::new(socket), address: address.to_string(), _path: None }
            }
            Key::Place(Address::Unix { path, mode }) => {
                let (socket, place) = listener::unix(path, *mode)?;
                let address = format!("unix:{}", path.display());
                Bound { number, socket: Arc::new(socket), address, _path: Some(Arc::new(place)) }
            }
        };
        self.last_number = number;
        self.held.insert(key.clone(), bound.clone());
        Ok((bound, true))
    }

    /// Go on with a listener that an earlier master has bound.
    pub fn adopt(&mut self, key: Key, number: u64, socket: OwnedFd, address: String) {
        let path = match &key {
            Key::Place(Address::Unix { path, .. }) => UnixPath::of(path).ok().map(Arc::new),
            _ => None,
        };
        self.last_number = self.last_number.max(number);
        self.held.insert(key, Bound { number, socket: Arc::new(socket), address, _path: path });
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
