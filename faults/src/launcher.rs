//! A launcher that runs: its facts as they come, its control socket, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::process;
use crate::tamper::Tamper;

/// The variable that marks every process of a run, workers of native plugins included: what is left behind is found.
pub const MARK: &str = "FAULTS_RUN";

/// How long anything may take that the launcher does by itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A fact of the launcher's log.
#[derive(Debug, Clone)]
pub struct Fact {
    /// When it was read.
    pub at: Instant,
    /// Its line.
    pub line: String,
    fields: Value,
}

impl Fact {
    /// Whether it is of that kind.
    pub fn is(&self, kind: &str) -> bool {
        self.fields["event"] == kind
    }

    /// Whether it is of that kind and about that service.
    pub fn of(&self, kind: &str, service: &str) -> bool {
        self.is(kind) && self.fields["service"] == service
    }

    /// A number among its fields; 0 if there is none.
    pub fn number(&self, field: &str) -> u64 {
        self.fields[field].as_u64().unwrap_or_default()
    }

    /// Whether a field is true.
    pub fn flag(&self, field: &str) -> bool {
        self.fields[field] == true
    }

    /// A text among its fields.
    pub fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }
}

#[derive(Default)]
struct Log {
    facts: Mutex<Vec<Fact>>,
    more: Condvar,
}

impl Log {
    fn facts(&self) -> MutexGuard<'_, Vec<Fact>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A launcher in the foreground.
pub struct Launcher {
    child: Child,
    log: Arc<Log>,
    socket: PathBuf,
    mark: String,
    ended: bool,
}

impl Launcher {
    /// Starts `binary run config`, whose state directory is `state`, with what `tamper` needs in its environment.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        binary: &Path,
        config: &Path,
        state: &Path,
        mark: &str,
        tamper: Option<&Tamper>,
    ) -> Result<Self, String> {
        let mut command = Command::new(binary);
        command.arg("run").arg(config).env(MARK, mark).stdin(Stdio::null());
        command.envs(tamper.into_iter().flat_map(Tamper::variables));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let log = Arc::new(Log::default());
        let told = child.stderr.take().ok_or("its standard error is no pipe")?;
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(told).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                // What is no fact (a panic's words) is kept for whoever reads the log after a failure.
                let fields = serde_json::from_str(&line).unwrap_or(Value::Null);
                shared.facts().push(Fact { at: Instant::now(), line, fields });
                shared.more.notify_all();
            }
        });
        Ok(Self { child, log, socket: state.join("control.sock"), mark: mark.to_owned(), ended: false })
    }

    /// Pid of the process that was started: the master, or whatever keeps it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A place in the log: what follows it is new.
    pub fn mark(&self) -> usize {
        self.log.facts().len()
    }

    /// The first `count` facts after a mark that fit, waited for.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn wait(
        &self,
        mark: usize,
        count: usize,
        patience: Duration,
        what: &str,
        fits: impl Fn(&Fact) -> bool,
    ) -> Result<Vec<Fact>, String> {
        let deadline = Instant::now() + patience;
        let mut facts = self.log.facts();
        loop {
            let fitting: Vec<_> = facts[mark..].iter().filter(|fact| fits(fact)).take(count).cloned().collect();
            if fitting.len() == count {
                return Ok(fitting);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no {what} within {patience:?} ({} of {count})", fitting.len()));
            }
            facts = self.log.more.wait_timeout(facts, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The facts after a mark that fit, as of now.
    pub fn facts(&self, mark: usize, fits: impl Fn(&Fact) -> bool) -> Vec<Fact> {
        self.log.facts()[mark..].iter().filter(|fact| fits(fact)).cloned().collect()
    }

    /// Workers that are ready and were not told to leave, by pid, with their service; by the log.
    pub fn ready(&self) -> BTreeMap<u32, String> {
        let mut ready = BTreeMap::new();
        for fact in self.log.facts().iter() {
            let pid = u32::try_from(fact.number("pid")).unwrap_or_default();
            if fact.is("ready") {
                ready.insert(pid, fact.text("service").to_owned());
            } else if fact.is("draining") || fact.is("exited") {
                ready.remove(&pid);
            }
        }
        ready
    }

    /// Workers that are ready, by pid, with their service; by `status`: the last words of a master that was killed may
    /// be missing in the log.
    ///
    /// # Errors
    /// As [`Launcher::status`].
    pub fn serving(&self) -> Result<Vec<(u32, String)>, String> {
        let status = self.status()?;
        let services = status["services"].as_array().into_iter().flatten();
        let workers = services.flat_map(|service| {
            let name = service["name"].as_str().unwrap_or_default();
            let workers = service["workers"].as_array().into_iter().flatten();
            workers.filter(|worker| worker["state"] == "ready").map(move |worker| (&worker["pid"], name.to_owned()))
        });
        Ok(workers.filter_map(|(pid, name)| Some((u32::try_from(pid.as_u64()?).ok()?, name))).collect())
    }

    /// Workers of a service that were spawned and have not ended; by the log.
    pub fn alive(&self, service: &str) -> BTreeSet<u32> {
        let mut alive = BTreeSet::new();
        for fact in self.log.facts().iter().filter(|fact| fact.fields["service"] == service) {
            let pid = u32::try_from(fact.number("pid")).unwrap_or_default();
            if fact.is("spawned") {
                alive.insert(pid);
            } else if fact.is("exited") {
                alive.remove(&pid);
            }
        }
        alive
    }

    /// The port on which a service listens on TCP.
    ///
    /// # Errors
    /// It does not, in time.
    pub fn port(&self, service: &str) -> Result<u16, String> {
        let listening = |fact: &Fact| fact.of("listening", service) && !fact.text("address").starts_with("unix:");
        let fact = self.wait(0, 1, PATIENCE, &format!("address of {service}"), listening)?;
        let port = fact[0].text("address").rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.ok_or_else(|| format!("{} is no address", fact[0].text("address")))
    }

    /// One request to the control API: status and JSON.
    ///
    /// # Errors
    /// There is no answer within `patience`.
    pub fn ask(&self, method: &str, target: &str, body: &str, patience: Duration) -> Result<(u16, Value), String> {
        let fail = |error: std::io::Error| format!("{method} {target} of the control socket: {error}");
        let mut stream = UnixStream::connect(&self.socket).map_err(fail)?;
        stream.set_read_timeout(Some(patience)).map_err(fail)?;
        stream.set_write_timeout(Some(patience)).map_err(fail)?;
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: launcher\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(fail)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(fail)?;
        let text = String::from_utf8_lossy(&bytes);
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
        let (Some(status), Some(body)) = (status, body) else {
            return Err(format!("{method} {target} of the control socket: no answer, but {text:?}"));
        };
        // A stream of lines is no object; whoever asks for it does not look at it here.
        Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// Sends bytes to the control socket as they are and reads what comes within a moment; that may be nothing.
    pub fn offend(&self, bytes: &[u8]) {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 4096]);
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// As [`Launcher::ask`], and every status but 200.
    pub fn status(&self) -> Result<Value, String> {
        self.status_within(Duration::from_secs(10))
    }

    /// `GET /v1/status`, with less patience.
    ///
    /// # Errors
    /// As [`Launcher::status`].
    pub fn status_within(&self, patience: Duration) -> Result<Value, String> {
        match self.ask("GET", "/v1/status", "", patience)? {
            (200, status) => Ok(status),
            (code, what) => Err(format!("status is answered with {code} {what}")),
        }
    }

    /// An order of an operator, carried out when this returns.
    ///
    /// # Errors
    /// It is refused or fails.
    pub fn order(&self, target: &str, body: &str) -> Result<Value, String> {
        match self.ask("POST", target, body, PATIENCE)? {
            (200..=299, value) => Ok(value),
            (code, what) => Err(format!("POST {target} is answered with {code} {what}")),
        }
    }

    /// Pid of the master, which is not the process that was started if that one keeps it.
    ///
    /// # Errors
    /// As [`Launcher::status`].
    pub fn master(&self) -> Result<u32, String> {
        self.pid_in_status("pid")
    }

    /// Pid of the keeper: the process that was started, until it is killed.
    ///
    /// # Errors
    /// As [`Launcher::status`].
    pub fn keeper(&self) -> Result<u32, String> {
        self.pid_in_status("keeper")
    }

    fn pid_in_status(&self, name: &str) -> Result<u32, String> {
        let status = self.status()?;
        let pid = status[name].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| format!("no {name} in {status}"))
    }

    /// Asks for the end and waits for it.
    ///
    /// # Errors
    /// It goes on, or does not end with 0.
    pub fn stop(&mut self, patience: Duration) -> Result<(), String> {
        let keeper = self.keeper()?;
        process::signal(keeper, Signal::TERM);
        if keeper != self.pid() {
            // Nobody's child here: its exit code is told to nobody.
            let _ = self.child.wait();
            if !process::until(patience, || self.family().is_empty()) {
                return Err(format!("something is left {patience:?} after TERM: {:?}", self.family()));
            }
            self.ended = true;
            return Ok(());
        }
        if !process::until(patience, || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))) {
            return Err(format!("it does not end within {patience:?} of TERM"));
        }
        let status: ExitStatus = self.child.wait().map_err(|error| format!("cannot wait for it: {error}"))?;
        self.ended = true;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status} after TERM")) }
    }

    /// The lines of its log from `from` on, at most `most` of the last ones.
    pub fn story(&self, from: Instant, most: usize) -> Vec<String> {
        let facts = self.log.facts();
        let lines: Vec<_> = facts.iter().filter(|fact| fact.at >= from).map(|fact| fact.line.clone()).collect();
        lines[lines.len().saturating_sub(most)..].to_vec()
    }

    /// Every process of this run that is there now.
    pub fn family(&self) -> Vec<u32> {
        process::marked(MARK, &self.mark)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Until nobody is left: what keeps a master starts another one when it is killed first.
        process::until(Duration::from_secs(5), || {
            let mut family = self.family();
            family.push(self.pid());
            for pid in family {
                process::signal(pid, Signal::KILL);
            }
            let _ = self.child.wait();
            self.family().is_empty()
        });
    }
}

/// The binary that a path names, or the one that cargo has built beside this program.
///
/// # Errors
/// There is none.
pub fn binary(named: Option<&OsStr>) -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("launcher"));
    let path = named.map(PathBuf::from).or_else(beside).ok_or("this program is in no directory")?;
    // The launcher starts its workers by its own path: a relative one would mean something else there.
    path.canonicalize().map_err(|error| {
        format!("no launcher at {}: {error}; cargo build --release -p launcher, or --binary PATH", path.display())
    })
}
