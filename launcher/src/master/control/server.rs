//! The control socket: who may connect, how many at once, and for how long without a word.
//!
//! The socket has the master's rights, so only its own user and root may use it, and no process that descends from
//! the master: a plugin that runs as the same user would steer the launcher that supervises it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::super::Event;
use super::super::journal::Journal;
use super::routes;
use crate::sys::listener::{self, ListenError, UnixPath};
use crate::sys::peer::{self, Peer};

/// Connections at once. One more takes the place of the oldest that asks nothing, else of the oldest that only
/// listens: whoever opens many connections and says nothing must not keep an operator out.
const CLIENTS: usize = 64;
/// From one request to the end of the next one's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after an accept that failed: for want of descriptors it would fail again at once.
const PAUSE: Duration = Duration::from_millis(200);

/// The control socket; it goes with this.
#[derive(Debug)]
pub(in crate::master) struct Server {
    _place: Option<UnixPath>,
    /// Kept by somebody, so that whoever connects while there is no master waits for the next one.
    pub(in crate::master) socket: Arc<OwnedFd>,
    clients: Arc<Clients>,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Doing {
    /// It has asked nothing, or its request is not complete.
    Nothing,
    /// It receives a stream.
    Listening,
    /// It waits for an answer.
    Asking,
}

/// What a connection does, told by the routes and read when room is needed.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<AtomicU8>);

impl Seat {
    /// From now on it does this.
    pub(super) fn set(&self, doing: Doing) {
        self.0.store(doing as u8, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Clients(Mutex<Seats>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    /// Oldest first.
    taken: Vec<(u64, Seat, Option<AbortHandle>)>,
}

impl Clients {
    fn seats(&self) -> std::sync::MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one more; `None`: everybody is being answered.
    fn sit(self: &Arc<Self>) -> Option<Taken> {
        let mut seats = self.seats();
        if seats.taken.len() >= CLIENTS {
            let least = |doing: Doing| seats.taken.iter().position(|(_, seat, _)| seat.get() == doing as u8);
            let place = least(Doing::Nothing).or_else(|| least(Doing::Listening))?;
            if let (_, _, Some(task)) = seats.taken.remove(place) {
                task.abort();
            }
        }
        seats.next += 1;
        let (number, seat) = (seats.next, Seat(Arc::new(AtomicU8::new(Doing::Nothing as u8))));
        seats.taken.push((number, seat.clone(), None));
        Some(Taken { clients: Arc::clone(self), number, seat })
    }

    fn occupy(&self, number: u64, task: AbortHandle) {
        if let Some(taken) = self.seats().taken.iter_mut().find(|(taken, ..)| *taken == number) {
            taken.2 = Some(task);
        }
    }
}

/// A seat, given back when dropped.
struct Taken {
    clients: Arc<Clients>,
    number: u64,
    seat: Seat,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.clients.seats().taken.retain(|(number, ..)| *number != self.number);
    }
}

fn refused(path: &Path, source: io::Error) -> ListenError {
    ListenError::Refused { place: format!("unix:{}", path.display()), hint: "", source }
}

impl Server {
    /// Listen at `path`, which belongs to the directory that this master has locked: what is there already was left
    /// by one that is gone.
    pub(in crate::master) fn start(
        path: &Path,
        roots: Arc<Roots>,
        events: mpsc::Sender<Event>,
        journal: Journal,
    ) -> Result<Server, ListenError> {
        let (socket, place) = listener::unix(path, Some(0o600), &listener::Options::default())?;
        Server::serve(socket, Some(place), roots, events, journal).map_err(|source| refused(path, source))
    }

    /// Go on with the socket of an earlier master.
    pub(in crate::master) fn adopt(
        socket: OwnedFd,
        path: &Path,
        roots: Arc<Roots>,
        events: mpsc::Sender<Event>,
        journal: Journal,
    ) -> Result<Server, ListenError> {
        Server::serve(socket, UnixPath::of(path).ok(), roots, events, journal).map_err(|source| refused(path, source))
    }

    fn serve(
        socket: OwnedFd,
        place: Option<UnixPath>,
        roots: Arc<Roots>,
        events: mpsc::Sender<Event>,
        journal: Journal,
    ) -> io::Result<Server> {
        let kept = Arc::new(socket.try_clone()?);
        let socket = UnixListener::from_std(socket.into())?;
        let clients = Arc::new(Clients::default());
        tokio::spawn(accept(socket, Arc::clone(&clients), roots, events, journal));
        Ok(Server { _place: place, socket: kept, clients })
    }

    /// Let streams that are being read come to their end, but not for longer than `patience`.
    pub(in crate::master) async fn finish(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let open = || self.clients.seats().taken.iter().any(|(_, seat, _)| seat.get() != Doing::Nothing as u8);
        while open() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn accept(
    socket: UnixListener,
    clients: Arc<Clients>,
    roots: Arc<Roots>,
    events: mpsc::Sender<Event>,
    journal: Journal,
) {
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Nobody to tell who is refused: he sees the connection closed.
        let Some(taken) = clients.sit() else { continue };
        let number = taken.number;
        let task = tokio::spawn(serve(stream, taken, Arc::clone(&roots), events.clone(), journal.clone()));
        clients.occupy(number, task.abort_handle());
    }
}

async fn serve(stream: UnixStream, taken: Taken, roots: Arc<Roots>, events: mpsc::Sender<Event>, journal: Journal) {
    let admitted = peer::of(&stream).map_err(|error| format!("who you are is not known: {error}"));
    let admitted = admitted.and_then(|peer| admit(peer, &roots));
    let seat = taken.seat.clone();
    let service = service_fn(|request| routes::respond(request, admitted.clone(), &events, &journal, &seat));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A client's error is its own.
    let _ = connection.await;
}

/// The processes whose descendants may not steer the launcher: the master, its keeper, and workers of an earlier master.
#[derive(Debug, Default)]
pub(in crate::master) struct Roots(Mutex<BTreeSet<u32>>);

impl Roots {
    /// One more.
    pub(in crate::master) fn add(&self, pid: u32) {
        self.pids().insert(pid);
    }

    /// It is gone.
    pub(in crate::master) fn remove(&self, pid: u32) {
        self.pids().remove(&pid);
    }

    fn pids(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, pid: u32) -> bool {
        pid == std::process::id() || self.pids().contains(&pid)
    }
}

/// Whether the peer may steer this launcher: his name for triggers, or why not.
fn admit(peer: Peer, roots: &Roots) -> Result<String, String> {
    let own = peer::own_uid();
    if peer.uid != own && peer.uid != 0 {
        return Err(format!("this launcher runs as uid {own}: only that user and root may steer it"));
    }
    let name = if peer.uid == 0 { "root".to_owned() } else { format!("uid {}", peer.uid) };
    let Some(pid) = peer.pid else { return Ok(format!("by {name}")) };
    match peer::descends_from(pid, |ancestor| roots.has(ancestor)) {
        Ok(false) => Ok(format!("by {name} (pid {pid})")),
        Ok(true) => Err("a process that descends from the launcher may not steer it".to_owned()),
        Err(_) => Err("the process that connected is gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_and_root_are_admitted_and_nobody_else() {
        let roots = Roots::default();
        let own = peer::own_uid();
        let parent = Some(1);
        assert!(admit(Peer { pid: parent, uid: own }, &roots).is_ok());
        assert!(admit(Peer { pid: parent, uid: 0 }, &roots).is_ok());
        assert!(admit(Peer { pid: None, uid: own }, &roots).is_ok(), "of another pid namespace");
        let stranger = admit(Peer { pid: parent, uid: own + 1 }, &roots).expect_err("a stranger");
        assert!(stranger.contains(&format!("uid {own}")), "{stranger}");
        let itself = admit(Peer { pid: Some(std::process::id()), uid: own }, &roots).expect_err("the launcher itself");
        assert!(itself.contains("descends"), "{itself}");
        assert!(admit(Peer { pid: Some(u32::MAX >> 1), uid: own }, &roots).is_err(), "gone");
    }

    #[test]
    fn one_more_takes_the_place_of_who_asks_nothing_then_of_who_only_listens_and_never_of_who_waits() {
        let clients = Arc::new(Clients::default());
        let mut taken: Vec<_> = (0..CLIENTS).map(|_| clients.sit().expect("a seat")).collect();
        let doing = [Doing::Asking, Doing::Listening];
        for (number, seat) in taken.iter().enumerate() {
            seat.seat.set(doing[number % 2]);
        }
        taken[5].seat.set(Doing::Nothing);
        let numbers = || clients.seats().taken.iter().map(|(number, ..)| *number).collect::<Vec<_>>();
        taken.push(clients.sit().expect("the idle one's"));
        assert!(!numbers().contains(&taken[5].number));
        taken[CLIENTS].seat.set(Doing::Asking);
        taken.push(clients.sit().expect("the oldest listener's"));
        assert!(!numbers().contains(&taken[1].number));
        for seat in &taken {
            seat.seat.set(Doing::Asking);
        }
        assert!(clients.sit().is_none());
        drop(taken);
        assert!(numbers().is_empty());
    }
}
