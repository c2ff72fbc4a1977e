//! One worker process seen from the master: its process, its channel, its output.
//!
//! A task of its own waits for all three and turns what happens into [`Event`]s; the master sends it
//! orders. The pid and the pidfd are known here only. Nothing is decided here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::sync::mpsc;

use crate::channel::{self, Channel, Large, ToMaster, ToWorker};
use crate::sys;

/// Messages that may wait for a worker that does not read its channel. The master sends a handful in a
/// worker's whole life; one more is dropped, and the deadlines of the pool deal with the worker.
const UNREAD: usize = 64;

/// What a child does.
#[derive(Debug)]
pub enum Event {
    /// It said something.
    Said(ToMaster),
    /// It sent what is not of the protocol.
    Babbled(String),
    /// It is gone and reaped. Always the last event.
    Exited(ExitStatus),
}

/// A message with its descriptors.
pub type Parcel = (ToWorker, Vec<Arc<OwnedFd>>);

/// The master's handle of a child. Dropping it does not end the child.
#[derive(Debug)]
pub struct Child {
    /// For messages and for `status`.
    pub pid: u32,
    kill: mpsc::UnboundedSender<()>,
    parcels: mpsc::Sender<Parcel>,
}

/// A child's output pipes.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

impl Child {
    /// Start a worker process. `report` is awaited for every event, so a child that talks much is slowed
    /// down by its own socket and costs the master no memory.
    pub fn spawn<F, R>(command: &mut Command, report: F) -> io::Result<(Child, Output)>
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        let (ours, theirs) = channel::pair()?;
        let channel = Arc::new(Channel::new(ours)?);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = sys::process::Process::spawn(command)?;
        // `command` keeps the worker's end of the channel open: let it go, or its end of file never comes.
        command.stdin(Stdio::null());
        let pid = process.id();
        let (stdout, stderr) = process.take_output();
        let output = Output { stdout: stdout.map(OwnedFd::from), stderr: stderr.map(OwnedFd::from) };
        let exit = sys::readiness::register(process.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let (kill, kills) = mpsc::unbounded_channel();
        let (parcels, outgoing) = mpsc::channel(UNREAD);
        let sender = tokio::spawn(send_all(Arc::clone(&channel), outgoing));
        tokio::spawn(async move {
            let status = watch(process, exit, &channel, kills, &report).await;
            sender.abort();
            report(Event::Exited(status)).await;
        });
        Ok((Child { pid, kill, parcels }, output))
    }

    /// Queue a message. `false`: it was dropped, the child does not read.
    pub fn send(&self, message: ToWorker, descriptors: Vec<Arc<OwnedFd>>) -> bool {
        self.parcels.try_send((message, descriptors)).is_ok()
    }

    /// Kill the child and its whole process group.
    pub fn kill(&self) {
        // The task is gone only when the child is.
        let _ = self.kill.send(());
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
    mut process: sys::process::Process,
    exit: tokio::io::unix::AsyncFd<OwnedFd>,
    channel: &Channel,
    mut kills: mpsc::UnboundedReceiver<()>,
    report: &F,
) -> ExitStatus
where
    F: Fn(Event) -> R,
    R: Future<Output = ()>,
{
    let mut talking = true;
    let mut ordered = true;
    let status = loop {
        tokio::select! {
            biased;
            ready = exit.readable() => {
                match process.reap() {
                    Ok(Some(status)) => break status,
                    // Not yet, or never: an error of waitid(2) here means that somebody else reaped it.
                    Ok(None) => if let Ok(mut ready) = ready { ready.clear_ready() },
                    Err(_) => break ExitStatus::default(),
                }
            }
            order = kills.recv(), if ordered => match order {
                Some(()) => drop(process.kill()),
                None => ordered = false,
            },
            received = channel.receive::<ToMaster>(Large::Refused), if talking => match received {
                Ok(Some((message, _))) => report(Event::Said(message)).await,
                Ok(None) => talking = false,
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
