//! A listening socket that the program inherits. It outlives the guest's sockets: what a guest closes and binds again is
//! the same queue.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::{Accept, ErrorCode, Open, Sockets};

/// How long nothing is accepted after an error that is the process's own, such as no free descriptor. A guest that was
/// told would try again at once, for ever.
const PAUSE: Duration = Duration::from_millis(100);

/// One of `listen:`.
pub(super) struct Listening {
    address: SocketAddr,
    state: Mutex<State>,
}

struct State {
    /// `None`: nothing is accepted any more.
    accept: Option<Box<dyn Accept>>,
    /// Accepted, but not by the guest yet.
    kept: VecDeque<TcpStream>,
    pause: Option<Pin<Box<Sleep>>>,
    /// A socket of the guest is bound to it.
    claimed: bool,
    /// A socket of the guest listens, or has.
    used: bool,
    waker: Option<Waker>,
}

impl Listening {
    pub(super) fn new(address: SocketAddr, accept: Box<dyn Accept>) -> Listening {
        let state = State {
            accept: Some(accept),
            kept: VecDeque::new(),
            pause: None,
            claimed: false,
            used: false,
            waker: None,
        };
        Listening { address, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn was_used(&self) -> bool {
        self.lock().used
    }

    pub(super) fn has_kept(&self) -> bool {
        !self.lock().kept.is_empty()
    }

    /// Has whoever waits for a connection look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.lock().waker.take() {
            waker.wake();
        }
    }

    /// Lets the socket go, but for a connection for which this process was woken.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if let Some(mut accept) = state.accept.take()
            && let Some(Ok((stream, _))) = accept.leave()
        {
            state.kept.push_back(stream);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    pub(super) fn nudge(&self) {
        if let Some(accept) = &mut self.lock().accept {
            accept.nudge();
        }
    }
}

/// A guest's hold on an inherited socket: it is bound to it.
pub(crate) struct Claim {
    listening: Arc<Listening>,
    sockets: Arc<Sockets>,
}

impl Claim {
    /// Of a socket that no other socket of the guest is bound to.
    pub(super) fn of(listening: &Arc<Listening>, sockets: &Arc<Sockets>) -> Result<Claim, ErrorCode> {
        let mut state = listening.lock();
        if state.claimed {
            return Err(ErrorCode::AddressInUse);
        }
        state.claimed = true;
        Ok(Claim { listening: Arc::clone(listening), sockets: Arc::clone(sockets) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// The guest listens. The kernel's queue is as long as the master made it: it is everybody's.
    pub(super) fn listen(&self) {
        let first = !std::mem::replace(&mut self.listening.lock().used, true);
        self.sockets.note_used(first);
    }

    /// Whether a connection can be taken. It stays here until it is.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.listening.lock();
        if !state.kept.is_empty() {
            return Poll::Ready(());
        }
        if self.sockets.has_room() {
            while let Some(accepted) = state.poll_accept(cx) {
                if let Ok(stream) = accepted {
                    state.kept.push_back(stream);
                    return Poll::Ready(());
                }
            }
        } else if let Some(Ok((stream, _))) = state.accept.as_mut().and_then(|accept| accept.leave()) {
            // One too many, rather than one that waits for a worker that will not look.
            state.kept.push_back(stream);
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next connection.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<(TcpStream, Open)> {
        std::task::ready!(self.poll_ready(cx));
        let mut state = self.listening.lock();
        match state.kept.pop_front() {
            Some(stream) => Poll::Ready((stream, Open::new(&self.sockets))),
            None => Poll::Pending,
        }
    }
}

impl State {
    /// `None`: there is none now.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Option<io::Result<TcpStream>> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.pause = None;
        }
        match self.accept.as_mut()?.poll_accept(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok((stream, _))) => Some(Ok(stream)),
            Poll::Ready(Err(error)) => {
                self.pause = Some(Box::pin(sleep(PAUSE)));
                Some(Err(error))
            }
        }
    }
}

impl Claim {
    /// Leaves the queue of the socket: the guest is not interested any more, for now.
    pub(super) fn leave(&self) {
        let mut state = self.listening.lock();
        if let Some(Ok((stream, _))) = state.accept.as_mut().and_then(|accept| accept.leave()) {
            state.kept.push_back(stream);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.leave();
        self.listening.lock().claimed = false;
    }
}
