//! Who accepts from which socket, beyond what an assignment says: `scheduling`.
//!
//! - `shared`: every worker from the one socket, which its assignment brings.
//! - `reuseport`: every worker from the socket of its slot. A socket is made when the first worker of its slot is ready, so that
//!   no connection is led to where nobody is yet, and stays, because the kernel leads connections to it: the workers that are
//!   left share those of slots that are gone, and all workers do when the service returns to `shared`.
//! - `round_robin`: nobody but the master; see [`super::dispatch`].

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Master;
use super::dispatch::{Dispatcher, Source};
use super::journal::Fact;
use super::listeners::Bound;
use super::pool::WorkerId;
use super::service::ServiceKey;
use crate::channel::{self, ToWorker};
use crate::config::Scheduling;

impl Master {
    /// A worker is ready, or one that was is known to this master now: it gets what its assignment has not brought.
    pub(super) fn begin_accepting(&mut self, key: ServiceKey, id: WorkerId) {
        self.make_sockets(key, id);
        self.offer_to(key, id);
        self.share_sockets(key);
    }

    /// Have the sockets that a worker's slot should have. Before it counts as one that serves: it would be given another's.
    pub(super) fn make_sockets(&mut self, key: ServiceKey, id: WorkerId) {
        let Some(service) = self.services.get(&key) else { return };
        let Some(worker) = service.pool.worker(id) else { return };
        let Some(deployable) = service.generations.get(&worker.generation) else { return };
        if deployable.settings.scheduling != Scheduling::Reuseport {
            return;
        }
        for (listen, listener) in deployable.settings.listen.iter().zip(&deployable.listeners) {
            let slots = worker.slot.0 as usize + 1;
            if let Err(error) = self.listeners.spread(listener, &listen.options, slots) {
                let reason = format!(
                    "{}: slot {} accepts with others, it cannot have a socket of its own: {error}",
                    service.name, worker.slot.0
                );
                self.journal.record(&Fact::Trouble { reason });
            }
        }
    }

    fn offer_to(&mut self, key: ServiceKey, id: WorkerId) {
        let journal = self.journal.clone();
        let Some(service) = self.services.get_mut(&key) else { return };
        let (Some(worker), Some(running)) = (service.pool.worker(id), self.workers.get(&id)) else { return };
        let Some(deployable) = service.generations.get(&worker.generation) else { return };
        let regular = deployable.settings.scheduling == Scheduling::RoundRobin;
        let name = service.name.clone();
        let dispatcher = match &mut service.dispatcher {
            none @ None if regular => none.insert(Dispatcher::start(name, journal)),
            // Nobody has ever accepted for this service.
            None => return,
            Some(dispatcher) => dispatcher,
        };
        let listeners = deployable.settings.listen.iter().zip(&deployable.listeners);
        let bound = listeners.filter_map(|(listen, listener)| Some((listen, self.listeners.get(listener)?)));
        let sources = bound.map(|(listen, bound)| Source {
            number: bound.number,
            sockets: bound.sockets().cloned().collect(),
            nodelay: listen.options.nodelay != Some(false),
        });
        let sources = sources.collect();
        let joined = if regular { dispatcher.join(id, sources) } else { dispatcher.join_reserve(id, sources) };
        match joined {
            Ok(take) => drop(running.child.send(ToWorker::Offers, vec![take])),
            Err(error) => {
                let reason = format!("{}: worker {} is offered no connections: {error}", service.name, id.0);
                self.journal.record(&Fact::Trouble { reason });
            }
        }
    }

    /// Give every worker the sockets that it should accept from and has not got yet.
    pub(super) fn share_sockets(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get(&key) else { return };
        let size = service.pool.limits().size;
        for (id, worker) in service.pool.workers().filter(|(_, worker)| worker.state.serves()) {
            let (Some(running), Some(deployable)) =
                (self.workers.get_mut(&id), service.generations.get(&worker.generation))
            else {
                continue;
            };
            let settings = &deployable.settings;
            for (listen, listener) in settings.listen.iter().zip(&deployable.listeners) {
                let Some(bound) = self.listeners.get(listener) else { continue };
                for (index, socket) in wanted(bound, settings.scheduling, worker.slot.0, size) {
                    let place = (bound.number, index);
                    if running.sockets.contains(&place) {
                        continue;
                    }
                    let listener = channel::Listener {
                        name: listen.name.clone(),
                        address: bound.address.clone(),
                        proxy_protocol: listen.proxy_protocol,
                        kind: bound.kind,
                        nodelay: listen.options.nodelay,
                    };
                    // One that reads nothing is told when something happens the next time.
                    if running.child.send(ToWorker::Listen { listener }, vec![Arc::clone(socket)]) {
                        running.sockets.insert(place);
                    }
                }
            }
        }
    }
}

/// The sockets of a listener from which the worker of a slot accepts, besides what its assignment brings.
fn wanted(bound: &Bound, scheduling: Scheduling, slot: u32, size: u32) -> impl Iterator<Item = (usize, &Arc<OwnedFd>)> {
    let count = u32::try_from(bound.more.len() + 1).unwrap_or(u32::MAX);
    let all = bound.sockets().enumerate();
    all.filter(move |(index, _)| {
        let index = u32::try_from(*index).unwrap_or(u32::MAX);
        match scheduling {
            // The first came with the assignment.
            Scheduling::Shared => index > 0,
            // One that could have none of its own shares another's.
            Scheduling::Reuseport => index == slot % count || index >= size && index % size.max(1) == slot,
            Scheduling::RoundRobin => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, At, Listen, ListenOptions};
    use crate::master::listeners::{Key, Listeners};

    #[test]
    fn every_socket_has_somebody_whatever_the_number_of_workers() {
        let address = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let options = ListenOptions::default();
        let listen = [Listen { name: "front".to_owned(), address, proxy_protocol: false, options, at: At::default() }];
        let [key] = &Key::of(&"web".into(), &listen)[..] else { panic!("one") };
        let mut listeners = Listeners::default();
        listeners.hold(key, &options).expect("bound");
        listeners.spread(key, &options, 8).expect("bound");
        listeners.spread(key, &options, 3).expect("bound");
        let bound = listeners.get(key).expect("held");
        assert_eq!(bound.sockets().count(), 8);
        let of = |scheduling, slot, size| -> Vec<usize> {
            wanted(bound, scheduling, slot, size).map(|(index, _)| index).collect()
        };
        assert_eq!(of(Scheduling::Reuseport, 3, 8), [3]);
        assert_eq!(of(Scheduling::Reuseport, 1, 3), [1, 4, 7]);
        assert_eq!(of(Scheduling::Reuseport, 9, 10), [1], "it could not have its own");
        assert_eq!(of(Scheduling::RoundRobin, 0, 2), [] as [usize; 0]);
        for size in 1..10 {
            let mut all: Vec<usize> = (0..size).flat_map(|slot| of(Scheduling::Reuseport, slot, size)).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all, (0..8).collect::<Vec<_>>(), "{size} workers");
            let mut shared = of(Scheduling::Shared, 0, size);
            shared.push(0);
            shared.sort_unstable();
            assert_eq!(shared, (0..8).collect::<Vec<_>>());
        }
    }
}
