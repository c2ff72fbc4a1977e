//! One worker process seen from the master: its process, its channel, its output.
//!
//! A task of its own waits for all three and turns what happens into [`Event`]s; the master sends it
//! orders. The pid and the pidfd are known here only. Nothing is decided here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Notify, mpsc};

use crate::channel::{self, Channel, Large, ToMaster, ToWorker};
use crate::sys;
use crate::sys::process::Stranger;

/// Messages that may wait for a worker that does not read its channel. The master sends a handful in a
/// worker's whole life; one more is dropped, and the deadlines of the pool deal with the worker.
const UNREAD: usize = 64;

/// How long the keeper may take to tell how a worker ended that is not our child.
const TOLD: Duration = Duration::from_secs(1);

/// How long a worker that is stuck may take to tell where it is before it is killed.
const ANSWER: Duration = Duration::from_secs(5);

/// What a child does.
#[derive(Debug)]
pub enum Event {
    /// It said something.
    Said(ToMaster),
    /// It sent what is not of the protocol.
    Babbled(String),
    /// It is gone and reaped. Always the last event. `None`: how it ended is not known.
    Exited(Option<ExitStatus>),
}

/// How long a worker may go on without its channel: when a process ends, its sockets are closed before that is seen.
const CLOSED: Duration = Duration::from_secs(5);

/// How a child ended, in words.
pub fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "ended; how is not known".to_owned(), sys::process::describe)
}

/// A message with its descriptors.
pub type Parcel = (ToWorker, Vec<Arc<OwnedFd>>);

/// The master's handle of a child. Dropping it does not end the child.
#[derive(Debug)]
pub struct Child {
    /// For messages and for `status`.
    pub pid: u32,
    /// By which it is known.
    pub pidfd: Arc<OwnedFd>,
    /// The master's end of the channel.
    pub channel: Arc<Channel>,
    /// Its output.
    pub output: Output,
    orders: mpsc::UnboundedSender<Order>,
    parcels: mpsc::Sender<Parcel>,
}

/// What becomes of a child.
#[derive(Debug, Clone, Copy)]
enum Order {
    Kill,
    /// Ask it where it is, by the signal that ends it with a backtrace; kill it if it does not answer.
    Ask,
}

/// A child's output pipes.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Arc<Receiver>,
    /// Standard error.
    pub stderr: Arc<Receiver>,
}

impl Output {
    /// Must be called within a runtime.
    fn new(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Output> {
        let receiver = |pipe| Receiver::from_owned_fd(pipe).map(Arc::new);
        Ok(Output { stdout: receiver(stdout)?, stderr: receiver(stderr)? })
    }
}

/// A worker that an earlier master has started, as it was kept.
#[derive(Debug)]
pub struct Orphan {
    /// Its process.
    pub pid: u32,
    /// By which it is known.
    pub pidfd: OwnedFd,
    /// The master's end of the channel.
    pub channel: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The process behind a child.
enum Body {
    Own(sys::process::Process),
    /// Somebody else reaps it and tells how it ended, perhaps.
    Adopted {
        process: Stranger,
        pid: u32,
        fates: Arc<Fates>,
        patience: Duration,
    },
}

impl Child {
    /// Start a worker process with its first message. `report` is awaited for every event, so a child that talks much is
    /// slowed down by its own socket and costs the master no memory.
    pub fn spawn<F, R>(command: &mut Command, first: Parcel, report: F) -> io::Result<Child>
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        let (ours, theirs) = channel::pair()?;
        let channel = Arc::new(Channel::new(ours)?);
        let borrowed: Vec<_> = first.1.iter().map(|descriptor| descriptor.as_fd()).collect();
        // Before anything else, so that a worker whose channel is kept has it whatever becomes of this process.
        let sent = channel.send_now(&first.0, &borrowed).map_err(io::Error::other)?;
        command.stdin(Stdio::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = sys::process::Process::spawn(command)?;
        // `command` keeps the worker's end of the channel open: let it go, or its end of file never comes.
        command.stdin(Stdio::null());
        let (pid, pidfd) = (process.id(), Arc::clone(process.pidfd()));
        let (Some(stdout), Some(stderr)) = process.take_output() else { return Err(io::ErrorKind::Other.into()) };
        let output = Output::new(stdout.into(), stderr.into())?;
        let child = Child::attend(Body::Own(process), pid, pidfd, channel, output, report)?;
        if !sent {
            child.send(first.0, first.1);
        }
        Ok(child)
    }

    /// Go on with a worker that an earlier master has started; `told`: the keeper will tell in `fates` how it ends.
    pub fn adopt<F, R>(orphan: Orphan, fates: &Arc<Fates>, told: bool, report: F) -> io::Result<Child>
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        let Orphan { pid, pidfd, channel, stdout, stderr } = orphan;
        let pidfd = Arc::new(pidfd);
        let process = Stranger::known_by(Arc::clone(&pidfd));
        let body = Body::Adopted {
            process,
            pid,
            fates: Arc::clone(fates),
            patience: if told { TOLD } else { Duration::ZERO },
        };
        let channel = Arc::new(Channel::new(channel)?);
        Child::attend(body, pid, pidfd, channel, Output::new(stdout, stderr)?, report)
    }

    fn attend<F, R>(
        body: Body,
        pid: u32,
        pidfd: Arc<OwnedFd>,
        channel: Arc<Channel>,
        output: Output,
        report: F,
    ) -> io::Result<Child>
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        let exit = sys::readiness::register(pidfd.try_clone()?, Interest::READABLE)?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let (parcels, outgoing) = mpsc::channel(UNREAD);
        let sender = tokio::spawn(send_all(Arc::clone(&channel), outgoing));
        let watched = Arc::clone(&channel);
        tokio::spawn(async move {
            let status = watch(body, exit, &watched, ordered, &report).await;
            sender.abort();
            report(Event::Exited(status)).await;
        });
        Ok(Child { pid, pidfd, channel, output, orders, parcels })
    }

    /// Queue a message. `false`: it was dropped, the child does not read.
    pub fn send(&self, message: ToWorker, descriptors: Vec<Arc<OwnedFd>>) -> bool {
        self.parcels.try_send((message, descriptors)).is_ok()
    }

    /// Queue a message that the child can do without, unless its queue is half full: the other half is for orders.
    pub fn send_spare(&self, message: ToWorker, descriptors: Vec<Arc<OwnedFd>>) -> bool {
        self.parcels.capacity() > UNREAD / 2 && self.send(message, descriptors)
    }

    /// Kill the child and its whole process group.
    pub fn kill(&self) {
        // The task is gone only when the child is.
        let _ = self.orders.send(Order::Kill);
    }

    /// End the child, which does nothing any more; it is told to say where it is, which takes a while.
    pub fn end_stuck(&self) {
        let _ = self.orders.send(Order::Ask);
    }
}

impl Body {
    fn kill(&self) {
        match self {
            Body::Own(process) => drop(process.kill()),
            Body::Adopted { process, pid, .. } => {
                if !process.ended() {
                    sys::process::kill_group(*pid);
                }
            }
        }
    }

    /// After the pidfd became readable: how it ended; `Err`: it has not.
    async fn end(&mut self) -> Result<Option<ExitStatus>, ()> {
        match self {
            Body::Own(process) => match process.reap() {
                Ok(Some(status)) => Ok(Some(status)),
                Ok(None) => Err(()),
                // Somebody else reaped it.
                Err(_) => Ok(None),
            },
            Body::Adopted { process, .. } if !process.ended() => Err(()),
            Body::Adopted { pid, fates, patience, .. } => {
                // Grandchildren hold the listeners too. The number is the group's for as long as it has members.
                sys::process::kill_group(*pid);
                Ok(fates.of(*pid, *patience).await)
            }
        }
    }
}

/// How processes ended that are not our children, as the keeper tells it.
#[derive(Debug, Default)]
pub struct Fates {
    told: Mutex<BTreeMap<u32, ExitStatus>>,
    changed: Notify,
}

impl Fates {
    /// The keeper has told one.
    pub fn tell(&self, pid: u32, status: ExitStatus) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, status);
        self.changed.notify_waiters();
    }

    async fn of(&self, pid: u32, patience: Duration) -> Option<ExitStatus> {
        let told = async {
            loop {
                let changed = self.changed.notified();
                if let Some(status) = self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid) {
                    return status;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, told).await.ok()
    }
}

async fn send_all(channel: Arc<Channel>, mut outgoing: mpsc::Receiver<Parcel>) {
    while let Some((message, descriptors)) = outgoing.recv().await {
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        if channel.send(&message, &borrowed).await.is_err() {
            return; // gone: the pidfd tells it
        }
    }
}

async fn watch<F, R>(
    mut body: Body,
    exit: tokio::io::unix::AsyncFd<OwnedFd>,
    channel: &Channel,
    mut orders: mpsc::UnboundedReceiver<Order>,
    report: &F,
) -> Option<ExitStatus>
where
    F: Fn(Event) -> R,
    R: Future<Output = ()>,
{
    let mut talking = true;
    let mut ordered = true;
    let mut kill_at = None;
    let mut deaf_at = None;
    let status = loop {
        tokio::select! {
            biased;
            ready = exit.readable() => {
                match body.end().await {
                    Ok(status) => break status,
                    Err(()) => if let Ok(mut ready) = ready { ready.clear_ready() },
                }
            }
            order = orders.recv(), if ordered => match order {
                Some(Order::Kill) => body.kill(),
                Some(Order::Ask) => {
                    // It may have ended by itself.
                    let _ = sys::process::ask_where(exit.get_ref());
                    kill_at = Some(Instant::now() + ANSWER);
                }
                None => ordered = false,
            },
            () = super::until(deaf_at), if deaf_at.is_some() => {
                deaf_at = None;
                report(Event::Babbled("it has closed its channel and goes on".to_owned())).await;
            }
            () = super::until(kill_at), if kill_at.is_some() => {
                kill_at = None;
                body.kill();
            }
            received = channel.receive::<ToMaster>(Large::Refused), if talking => match received {
                Ok(Some((message, _))) => report(Event::Said(message)).await,
                Ok(None) => {
                    talking = false;
                    // Normally the first that is seen of its end.
                    deaf_at = Some(Instant::now() + CLOSED);
                }
                Err(error) => {
                    talking = false;
                    report(Event::Babbled(error.to_string())).await;
                }
            },
        }
    };
    // Its last words: why it failed is often said just before the end. Only what is here already: a
    // grandchild that kept the other end must not keep the exit from being told.
    while talking {
        match channel.receive_now::<ToMaster>(Large::Refused) {
            Ok(Some((message, _))) => report(Event::Said(message)).await,
            Ok(None) | Err(_) => talking = false,
        }
    }
    status
}
