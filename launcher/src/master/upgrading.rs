//! Another program in the place of this one: looked at first, then started by the keeper when this master has left; kept
//! by systemd, this process becomes it. Workers serve on meanwhile and are replaced afterwards.
//!
//! ```text
//! order ──> executed as `PROGRAM contracts` ──> same contracts: written down, this master leaves
//!                  └─> anything else: nothing is changed          ──> adopted by the program, workers restarted
//!                                                                 └─> did not serve: this program again, and says so
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::control::{Asked, Reply};
use super::journal::Fact;
use super::kept::{Keeper, Keeping};
use super::memory::Contracts;
use super::{Event, Master, Phase};
use crate::api::{LastUpgrade, Refusal, RefusalCode, UpgradeResult, Upgrading};
use crate::channel::Plugin;
use crate::keeping::ToKeeper;
use crate::sys;
use crate::sys::named_descriptors::Program;

/// How long a program may take to tell its contracts.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what it may print.
const ANSWER: u64 = 4096;

/// A program that was looked at.
#[derive(Debug)]
pub(super) struct Verified {
    path: PathBuf,
    why: String,
    asked: Option<Asked>,
    result: Result<(OwnedFd, Contracts), String>,
}

impl Master {
    /// Look at the program at `path`, or at the one by which the launcher was started; then let it take over.
    pub(super) fn upgrade(&mut self, path: Option<String>, why: String, asked: Option<Asked>) {
        let path = path.map_or_else(|| self.program.clone(), PathBuf::from);
        if self.keeping.is_none() {
            let reason = "nobody keeps anything for another program: this launcher was started without a keeper";
            return self.refuse_upgrade(&path, reason.to_owned(), asked);
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = verify(&path).await;
            drop(events.send(Event::Verified(Box::new(Verified { path, why, asked, result }))).await);
        });
    }

    pub(super) fn on_verified(&mut self, verified: Verified) {
        let Verified { path, why, asked, result } = verified;
        let result = match self.phase {
            Phase::Stopping(_) => Err("the launcher is stopping".to_owned()),
            Phase::Starting => Err("the launcher has not started yet".to_owned()),
            Phase::Serving => result,
        };
        let (file, contracts) = match result.and_then(|good| self.can_load(&good.1).map(|()| good)) {
            Ok(good) => good,
            Err(reason) => return self.refuse_upgrade(&path, reason, asked),
        };
        let program = path.display().to_string();
        let version = contracts.launcher;
        let fact = Fact::UpgradeStarted { program: program.clone(), version: version.clone(), trigger: why };
        self.journal.record(&fact);
        if let Some(asked) = asked {
            asked.answer(Ok(Reply::Upgrading(Upgrading { program, version })));
        }
        self.upgrade = Some((path, Arc::new(file)));
    }

    /// What is compiled for this program's WASM engine is of no use to another one, and is not compiled anew: then a
    /// worker that crashed could not be replaced.
    fn can_load(&self, contracts: &Contracts) -> Result<(), String> {
        let mut pinned = self.services.values().flat_map(|service| service.generations.values());
        if contracts.compiler == self.pinner.compiler || !pinned.any(|it| matches!(it.pinned.plugin, Plugin::Wasm(_))) {
            return Ok(());
        }
        Err("its WASM engine is another one, which cannot load what is compiled: stop this launcher and start it"
            .to_owned())
    }

    fn refuse_upgrade(&mut self, path: &Path, reason: String, asked: Option<Asked>) {
        let program = path.display().to_string();
        if let Some(asked) = asked {
            let error = format!("not upgraded to {program}: {reason}");
            asked.answer(Err(Refusal { code: RefusalCode::BadProgram, error, suggestion: None }));
        }
        self.failed_upgrade(program, reason);
    }

    fn failed_upgrade(&mut self, program: String, reason: String) {
        self.last_upgrade =
            Some(LastUpgrade { program: program.clone(), result: UpgradeResult::Failed, reason: Some(reason.clone()) });
        self.journal.record(&Fact::UpgradeFailed { program, reason });
    }

    /// Everything is written down and nobody is spoken to any more: make way for the program. It returns if that failed.
    pub(super) fn make_way(&mut self) -> String {
        let Some((_, file)) = self.upgrade.clone() else { return "there is no program".to_owned() };
        self.remembered = None;
        self.remember();
        let Some(keeping) = &mut self.keeping else { return "there is no keeper".to_owned() };
        match keeping.keeper {
            Keeper::Own { .. } => {
                keeping.tell(ToKeeper::Upgrade, Some(file));
                keeping.tell(ToKeeper::Leaves(0), None);
                sys::process::exit_at_once(0);
            }
            Keeper::Systemd { .. } => {
                let (ledger, keeper) = (keeping.ledger.clone(), keeping.keeper);
                let real = self.keeping.replace(Keeping::collecting(keeper, ledger));
                self.remember_everything();
                let collected = std::mem::replace(&mut self.keeping, real);
                let collected = collected.map(Keeping::collected).unwrap_or_default();
                let descriptors = collected.iter().map(|(name, kept)| (name.clone(), kept.as_fd())).collect();
                let arguments = std::env::args_os().collect();
                Program { file: Some(file.as_fd()), arguments, descriptors }.become_it().to_string()
            }
        }
    }

    /// The program that was to take over did not; this one goes on.
    pub(super) fn not_upgraded(&mut self, program: Option<PathBuf>, reason: String) {
        self.failed_upgrade(program.unwrap_or_default().display().to_string(), reason);
    }

    /// This program has taken over: so do its workers.
    pub(super) fn on_taken_over(&mut self, program: PathBuf) {
        self.journal.record(&Fact::Upgraded { version: env!("CARGO_PKG_VERSION") });
        let program = program.display().to_string();
        self.last_upgrade = Some(LastUpgrade { program, result: UpgradeResult::Replacing, reason: None });
        let running = self.services.iter().filter(|(_, service)| service.runs());
        for key in running.map(|(key, _)| *key).collect::<Vec<_>>() {
            // One that serves nothing yet has no workers of another program.
            let _ = self.restart(key, "upgrade");
        }
    }

    /// The last upgrade, as it is now.
    pub(super) fn last_upgrade(&self) -> Option<LastUpgrade> {
        let mut last = self.last_upgrade.clone()?;
        let replacing = self.services.values().any(|service| !service.settling.is_empty());
        if last.result == UpgradeResult::Replacing && !replacing {
            last.result = UpgradeResult::Done;
        }
        Some(last)
    }
}

/// Execute a program to learn whether it can go on for this one.
async fn verify(path: &Path) -> Result<(OwnedFd, Contracts), String> {
    let owned = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || open(&owned)).await;
    let file = opened.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.arg0("launcher").arg("contracts").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in sys::notify::VARIABLES {
        command.env_remove(variable);
    }
    let mut process =
        sys::process::Process::spawn(&mut command).map_err(|error| format!("it cannot be executed: {error}"))?;
    let (stdout, stderr) = process.take_output();
    let ended = async {
        let (said, complained) = tokio::join!(read(stdout.map(Into::into)), read(stderr.map(Into::into)));
        process.ended().await.map(|status| (status, said, complained))
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    let ended = match ended {
        Ok(ended) => ended.map_err(|error| error.to_string())?,
        Err(_) => {
            let _ = process.kill();
            let _ = process.ended().await;
            return Err(format!("it did not tell its contracts within {} s", PATIENCE.as_secs()));
        }
    };
    let (status, said, complained) = ended;
    if !status.success() {
        let words = complained.lines().next().map_or_else(String::new, |line| format!(": {line}"));
        return Err(format!("asked for its contracts it {}{words}", sys::process::describe(status)));
    }
    let contracts: Contracts =
        serde_json::from_str(said.trim()).map_err(|_| "it is another program than launcher".to_owned())?;
    contracts.refuse()?;
    Ok((file.into(), contracts))
}

fn open(path: &Path) -> io::Result<File> {
    let file = sys::file::open_regular(path)?;
    if file.metadata()?.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"));
    }
    Ok(file)
}

async fn read(pipe: Option<OwnedFd>) -> String {
    let mut bytes = Vec::new();
    if let Some(Ok(pipe)) = pipe.map(Receiver::from_owned_fd) {
        let _ = pipe.take(ANSWER).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
