//! From a plugin's path to bytes that nobody can change: pinned, verified, and for WASM compiled.
//!
//! path → sealed memfd + hash → the cache's compiled form, or a child that verifies and compiles → [`Pinned`].
//!
//! The bytes are never executed here, and never read by the master beyond hashing them: a child does that,
//! because a compiler takes hundreds of megabytes and a hostile file must meet a process that may die.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Semaphore, mpsc};
use wasm_host::Purpose;

use super::cache::Cache;
use super::child::{self, Child};
use crate::channel::{Plugin, ToMaster, ToWorker};
use crate::sys;

/// The largest plugin, bytes: beyond it a mistake (a core dump, a disk image) is likelier than a plugin.
const LARGEST: u64 = 1 << 30;
/// How long verifying and compiling may take. A 35 MB component takes about a minute on two slow cores.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes of what a verifying child printed before it died that are told.
const LAST_WORDS: usize = 4096;

/// A plugin whose bytes no longer depend on its file.
#[derive(Debug)]
pub struct Pinned {
    /// Unique in the launcher's life.
    pub number: u64,
    /// What it is.
    pub plugin: Plugin,
    /// SHA-256 of the file's bytes.
    pub hash: String,
    /// The file's bytes, sealed. Kept for WASM too: another engine cannot load the compiled form.
    pub source: Arc<OwnedFd>,
    /// What a worker loads: the library itself, or the compiled component; sealed.
    pub loadable: Arc<OwnedFd>,
}

/// Why a plugin is not usable.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}{hint}")]
    Read {
        /// As the operator wrote it.
        path: String,
        /// What to do.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Too large.
    #[error("{path} has more than 1 GiB; is it a plugin?")]
    TooLarge {
        /// As the operator wrote it.
        path: String,
    },
    /// It was verified and is not good.
    #[error("{path}: {reason}")]
    Unusable {
        /// As the operator wrote it.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Verifying failed, which says nothing about the plugin.
    #[error("{path} could not be verified: {reason}")]
    Unverified {
        /// As the operator wrote it.
        path: String,
        /// What happened.
        reason: String,
    },
}

/// Pins plugins.
#[derive(Debug, Clone)]
pub struct Pinner {
    /// `None`: compile every time.
    pub cache: Option<Cache>,
    /// What compiled code depends on besides its source.
    pub compiler: String,
    /// This binary.
    pub binary: PathBuf,
    /// Verifying children at once.
    pub permits: Arc<Semaphore>,
    /// The last number that was given to something pinned.
    pub numbers: Arc<AtomicU64>,
    /// What WASM is compiled for; [`Pinner::compiler`] is of it.
    pub purpose: Purpose,
}

impl Pinner {
    /// Pin the file at `path`; `shown` is the path for messages. One of `known` is returned when the file has its hash.
    pub async fn pin(&self, path: &Path, shown: &str, known: Vec<Arc<Pinned>>) -> Result<Arc<Pinned>, PinError> {
        let (source, hash) = self.copy(path, shown).await?;
        if let Some(known) = known.into_iter().find(|known| known.hash == hash) {
            return Ok(known);
        }
        let key = format!("{hash}-{}", self.compiler);
        if let Some((plugin, compiled)) = self.cache.as_ref().and_then(|cache| cache.find(&key)) {
            let reader = tokio::task::spawn_blocking(move || seal_copy(compiled, "launcher-compiled"));
            if let Ok(Ok(loadable)) = reader.await {
                let source = Arc::new(OwnedFd::from(source));
                let number = self.number();
                return Ok(Arc::new(Pinned { number, plugin, hash, source, loadable: Arc::new(loadable.into()) }));
            }
        }
        self.verify(source, hash, &key, shown).await.map(Arc::new)
    }

    /// What stands for a plugin whose first build has not succeeded.
    pub fn awaited(&self) -> io::Result<Pinned> {
        let nothing = sys::memfd::create("launcher-awaited")?;
        sys::memfd::seal(&nothing)?;
        let (source, number) = (Arc::new(OwnedFd::from(nothing)), self.number());
        // No file's hash is empty.
        Ok(Pinned { number, plugin: Plugin::Awaited, hash: String::new(), loadable: Arc::clone(&source), source })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn copy(&self, path: &Path, shown: &str) -> Result<(File, String), PinError> {
        let path = path.to_owned();
        let copied = tokio::task::spawn_blocking(move || copy_and_hash(&path)).await;
        match copied {
            Ok(Ok(Some(copy))) => Ok(copy),
            Ok(Ok(None)) => Err(PinError::TooLarge { path: shown.to_owned() }),
            Ok(Err(source)) => {
                let hint = match source.kind() {
                    io::ErrorKind::NotFound => "; build it, or correct `plugin`",
                    io::ErrorKind::PermissionDenied => "; make it readable for the user that runs the launcher",
                    _ => "",
                };
                Err(PinError::Read { path: shown.to_owned(), hint, source })
            }
            Err(panic) => Err(PinError::Unverified { path: shown.to_owned(), reason: panic.to_string() }),
        }
    }

    async fn verify(&self, source: File, hash: String, key: &str, shown: &str) -> Result<Pinned, PinError> {
        let unverified = |reason: String| PinError::Unverified { path: shown.to_owned(), reason };
        let _permit = self.permits.acquire().await.map_err(|closed| unverified(closed.to_string()))?;
        let source = Arc::new(OwnedFd::from(source));
        let compiled = sys::memfd::create("launcher-compiled").map_err(|error| unverified(error.to_string()))?;
        let compiled = Arc::new(OwnedFd::from(compiled));

        let (events, mut said) = mpsc::channel(4);
        let mut command = own_process(&self.binary);
        command.args(["worker", "verify"]).arg(shown);
        let question = ToWorker::Verify { path: shown.to_owned(), purpose: self.purpose };
        let question = (question, vec![Arc::clone(&source), Arc::clone(&compiled)]);
        let child = Child::spawn(&mut command, question, move |event| {
            let events = events.clone();
            async move { drop(events.send(event).await) }
        })
        .map_err(|error| unverified(format!("no process could be started: {error}")))?;
        let words = tokio::spawn(last_words(child.output.stderr.clone()));
        let _child = KillOnDrop(child);

        let verdict = tokio::time::timeout(PATIENCE, verdict(&mut said));
        let plugin = match verdict.await {
            Err(_) => return Err(unverified(format!("it took more than {} s", PATIENCE.as_secs()))),
            Ok(Verdict::Good(plugin)) => plugin,
            Ok(Verdict::Bad(reason)) => return Err(PinError::Unusable { path: shown.to_owned(), reason }),
            Ok(Verdict::Lost(reason)) => {
                let words = words.await.unwrap_or_default();
                return Err(unverified(format!("the process that read it {reason}{words}")));
            }
        };
        let loadable = match &plugin {
            Plugin::Native | Plugin::NativeSocket | Plugin::Awaited => Arc::clone(&source),
            Plugin::Wasm(_) => {
                let file = File::from(compiled.try_clone().map_err(|error| unverified(error.to_string()))?);
                sys::memfd::seal(&file).map_err(|error| unverified(error.to_string()))?;
                if let Some(cache) = self.cache.clone() {
                    keep(cache, key.to_owned(), plugin.clone(), file).await;
                }
                compiled
            }
        };
        Ok(Pinned { number: self.number(), plugin, hash, source, loadable })
    }
}

/// A process of this program, which is to be a worker or something like it.
pub(super) fn own_process(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg0("launcher");
    for variable in sys::notify::VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// A verifying child must not outlive the interest in its answer.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

enum Verdict {
    Good(Plugin),
    Bad(String),
    Lost(String),
}

async fn verdict(said: &mut mpsc::Receiver<child::Event>) -> Verdict {
    match said.recv().await {
        Some(child::Event::Said(ToMaster::Verified { plugin })) => Verdict::Good(plugin),
        Some(child::Event::Said(ToMaster::Failed { reason })) => Verdict::Bad(reason),
        Some(child::Event::Said(_)) => Verdict::Lost("answered something else".to_owned()),
        Some(child::Event::Babbled(reason)) => Verdict::Lost(reason),
        Some(child::Event::Exited(status)) => Verdict::Lost(child::describe(status)),
        None => Verdict::Lost("vanished".to_owned()),
    }
}

/// What a verifying child printed before it died, as an appendix to a message.
async fn last_words(stderr: Arc<Receiver>) -> String {
    let mut text = Vec::new();
    while text.len() < LAST_WORDS && stderr.readable().await.is_ok() {
        let mut bytes = [0; LAST_WORDS];
        match stderr.try_read(&mut bytes[text.len()..]) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(&bytes[..][text.len()..][..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    match String::from_utf8_lossy(&text).trim() {
        "" => String::new(),
        words => format!(": {words}"),
    }
}

async fn keep(cache: Cache, key: String, plugin: Plugin, mut compiled: File) {
    // A full disk or a read-only one costs the next start some time, nothing else.
    let kept = tokio::task::spawn_blocking(move || {
        compiled.rewind()?;
        cache.keep(&key, &plugin, &mut compiled)
    });
    drop(kept.await);
}

/// Copy a file into a sealed memfd; `None`: it is too large.
fn copy_and_hash(path: &Path) -> io::Result<Option<(File, String)>> {
    let mut file = sys::file::open_regular(path)?;
    let mut copy = sys::memfd::create("launcher-plugin")?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += read as u64;
        if total > LARGEST {
            return Ok(None);
        }
        hash.update(&buffer[..read]);
        copy.write_all(&buffer[..read])?;
    }
    sys::memfd::seal(&copy)?;
    Ok(Some((copy, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())))
}

fn seal_copy(mut file: File, name: &str) -> io::Result<File> {
    let mut copy = sys::memfd::create(name)?;
    io::copy(&mut file, &mut copy)?;
    sys::memfd::seal(&copy)?;
    Ok(copy)
}
