//! The servers that are compared: started, found, ended.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::Bench;
use crate::load::Ask;
use crate::supervised::Supervised;
use crate::{load, usage};

/// How long a server may take until it serves.
pub(crate) const START: Duration = Duration::from_secs(30);
/// How long one may take to end when it is asked to.
const END: Duration = Duration::from_secs(30);

/// A server that runs.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    /// What it says, line by line, and when that was read.
    said: Receiver<(Instant, String)>,
}

/// What a time of load cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Microseconds of processor time a request.
    pub(crate) cost: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

impl Server {
    /// Starts a program. Where it listens is not known yet, unless `address` says it.
    pub(crate) fn spawn(
        name: &'static str,
        command: &mut Command,
        address: Option<SocketAddr>,
    ) -> Result<Server, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child =
            started.map_err(|error| format!("missing: {:?} does not start: {error}", command.get_program()))?;
        let (tell, said) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for pipe in outputs.into_iter().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    // It must be read in any case, or the server would wait.
                    let _ = tell.send((Instant::now(), line));
                }
            });
        }
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Server { name, address: address.unwrap_or(unknown), child, said })
    }

    /// One that says `… 127.0.0.1:PORT…` when it listens.
    pub(crate) fn telling(name: &'static str, command: &mut Command) -> Result<Server, String> {
        let mut server = Server::spawn(name, command, None)?;
        let (_, address) = server.wait(START, |line| {
            let at = line.find("127.0.0.1:")?;
            let end = line[at + 10..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |end| at + 10 + end);
            line[at..end].parse().ok()
        })?;
        server.address = address;
        Ok(server)
    }

    /// One that is told where to listen, and answers there when it is ready.
    pub(crate) fn told(name: &'static str, address: SocketAddr, command: &mut Command) -> Result<Server, String> {
        let mut server = Server::spawn(name, command, Some(address))?;
        let deadline = Instant::now() + START;
        while load::ask(address, Duration::from_secs(1)).is_err() {
            let ended = server.child.try_wait().ok().flatten();
            if let Some(status) = ended {
                return Err(format!("it ended ({status}): {}", server.words()));
            }
            if Instant::now() > deadline {
                return Err(format!("it does not answer: {}", server.words()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    /// The first line from now on in which something is found, and when it was read.
    pub(crate) fn wait<T>(&self, within: Duration, find: impl Fn(&str) -> Option<T>) -> Result<(Instant, T), String> {
        let deadline = Instant::now() + within;
        let mut before = String::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) => match find(&line) {
                    Some(found) => return Ok((at, found)),
                    None => before += &format!("\n    {line}"),
                },
                Err(RecvTimeoutError::Timeout) => return Err(format!("{} is waited for in vain:{before}", self.name)),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("{} did not start:{before}", self.name)),
            }
        }
    }

    /// What it has said that nobody has read.
    fn words(&self) -> String {
        self.said.try_iter().map(|(_, line)| format!("{line}; ")).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It and all that descend from it.
    pub(crate) fn family(&self) -> Vec<u32> {
        usage::family(self.pid())
    }

    /// Loads it for `time`.
    pub(crate) fn sample(&self, ask: &Ask, connections: usize, time: Duration) -> Result<Sample, String> {
        let family = self.family();
        let before = usage::processor_time(&family);
        let done = load::closed::load(self.address, ask, connections, time);
        let done = done.map_err(|error| format!("{}: {error}", self.name))?;
        let used = usage::processor_time(&family).saturating_sub(before);
        if done.requests == 0 {
            return Err(format!("{}: no request was answered", self.name));
        }
        let requests = done.requests as f64;
        Ok(Sample { cost: used.as_secs_f64() * 1e6 / requests, rate: requests / done.time.as_secs_f64() })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        signal_to(self.pid(), signal)
    }
}

/// Sends a signal to a process.
pub(crate) fn signal_to(pid: u32, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(pid).map_err(|error| error.to_string())?;
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal} to {pid}: {error}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let family: Vec<_> = self.family().into_iter().map(|pid| (pid, usage::started(pid))).collect();
        // Whoever has children ends them when it is asked to, and not when it is killed.
        let _ = self.signal(Signal::SIGTERM);
        ended_within(&mut self.child, END);
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (pid, started) in family.iter().skip(1) {
            // Unless its number is another's by now.
            if started.is_some() && usage::started(*pid) == *started {
                let _ = signal_to(*pid, Signal::SIGKILL);
            }
        }
    }
}

/// Waits for the end of a process, so long at most.
pub(crate) fn ended_within(child: &mut Child, patience: Duration) {
    let deadline = Instant::now() + patience;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An address that is free at this moment, for servers that do not say which they got.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    address.map_err(|error| format!("no free port: {error}"))
}

/// The baseline; `processes`: so many share its listener.
pub(crate) fn bare(processes: Option<u32>) -> Result<Server, String> {
    // By this path, because the build may have replaced the file.
    let mut command = Command::new("/proc/self/exe");
    command.arg("bare").args(processes.map(|n| n.to_string()));
    Server::telling("bare hyper", &mut command)
}

/// A launcher that serves one plugin.
pub(crate) fn launcher(bench: &Bench, name: &'static str, plugin: &Path, more: &str) -> Result<Server, String> {
    let launcher = Supervised::start(bench, name, plugin, more)?;
    launcher.wait("serving")?;
    Ok(launcher.server)
}

/// Its configuration; `more`: further keys of the service, as they stand between braces.
pub(crate) fn configuration(bench: &Bench, name: &str, plugin: &Path, more: &str) -> Result<PathBuf, String> {
    configuration_with(bench, name, plugin, more, "")
}

/// The same with further keys of `master:`, each with a comma before it.
pub(crate) fn configuration_with(
    bench: &Bench,
    name: &str,
    plugin: &Path,
    more: &str,
    master: &str,
) -> Result<PathBuf, String> {
    let place = bench.scratch(name)?;
    let config = place.join("config.yaml");
    let log = "log: { format: json, level: debug }";
    let text = format!(
        "master: {{ state_dir: {:?}, {log}{master} }}\nservices:\n  hello: {{ plugin: {plugin:?}, listen: '127.0.0.1:0', {more} }}\n",
        place.join("state")
    );
    fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    Ok(config)
}

/// `wasmtime serve`, of `peers.sh` or of the path.
pub(crate) fn wasmtime(bench: &Bench, name: &'static str, component: &Path, more: &[&str]) -> Result<Server, String> {
    let program = bench.peer("bin/wasmtime").unwrap_or_else(|_| PathBuf::from("wasmtime"));
    let mut command = Command::new(program);
    // What a component of Rust's standard library imports.
    command.args(["serve", "--addr", "127.0.0.1:0", "-Scli"]).args(more).arg(component);
    Server::telling(name, &mut command)
}

/// The same with instances reused and one thread.
pub(crate) fn wasmtime_tuned(bench: &Bench, name: &'static str, component: &Path) -> Result<Server, String> {
    let program = bench.peer("bin/wasmtime").unwrap_or_else(|_| PathBuf::from("wasmtime"));
    let mut command = Command::new(program);
    command.args(["serve", "--addr", "127.0.0.1:0", "-Scli", "--max-instance-reuse-count", "1000000"]).arg(component);
    Server::telling(name, command.env("TOKIO_WORKER_THREADS", "1"))
}

pub(crate) fn nginx(bench: &Bench) -> Result<Server, String> {
    let (name, address, place) = ("nginx", free_address()?, bench.scratch("nginx")?);
    let config = place.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr notice; events {{}}
http {{
  access_log off; keepalive_requests 100000000; default_type \"text/plain; charset=utf-8\";
  server {{ listen {address}; location / {{ return 200 'Hello from nginx\\n'; }} }}
}}
"
    );
    fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    // Not on every path of a user.
    let sbin = Path::new("/usr/sbin/nginx");
    let program = if sbin.exists() { sbin } else { Path::new("nginx") };
    Server::told(name, address, Command::new(program).arg("-p").arg(&place).arg("-c").arg(&config))
}

/// The servers of other languages, with so many workers. `version`: a file whose text they answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    NodeCluster,
    Pm2,
    Gunicorn,
    Granian,
}

impl Peer {
    pub(crate) const ALL: [Peer; 4] = [Peer::NodeCluster, Peer::Pm2, Peer::Gunicorn, Peer::Granian];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::NodeCluster => "Node cluster",
            Peer::Pm2 => "pm2",
            Peer::Gunicorn => "gunicorn + uvicorn",
            Peer::Granian => "granian",
        }
    }

    pub(crate) fn start(self, bench: &Bench, workers: u32, version: Option<&Path>) -> Result<Started, String> {
        let (address, peers) = (free_address()?, bench.project.join("bench/peers"));
        let (port, place) = (address.port().to_string(), bench.scratch("peer")?);
        let workers = workers.to_string();
        let mut command = match self {
            Peer::NodeCluster => {
                let mut command = Command::new("node");
                command.arg(peers.join("hello.js")).env("WORKERS", &workers);
                command
            }
            Peer::Pm2 => {
                let mut command = Command::new(bench.peer("node_modules/.bin/pm2")?);
                command.args(["start", "--no-daemon", "--name", "hello", "-i", &workers]).arg(peers.join("hello.js"));
                command.env("PM2_HOME", &place);
                command
            }
            Peer::Gunicorn => {
                let mut command = Command::new(bench.peer(".venv/bin/gunicorn")?);
                command.args(["-k", "uvicorn_worker.UvicornWorker", "-w", &workers, "-b", &address.to_string()]);
                command.args(["--log-level", "warning", "hello:application"]);
                command
            }
            Peer::Granian => {
                let mut command = Command::new(bench.peer(".venv/bin/granian")?);
                command.args(["--interface", "asgi", "--workers", &workers, "--host", "127.0.0.1", "--port", &port]);
                command.args(["--respawn-failed-workers", "--log-level", "warning", "hello:application"]);
                command
            }
        };
        command.current_dir(&peers).env("PORT", &port);
        if let Some(version) = version {
            command.env("VERSION_FILE", version);
        }
        let server = Server::told(self.name(), address, &mut command)?;
        Ok(Started { server, home: place })
    }
}

/// A peer that runs.
pub(crate) struct Started {
    pub(crate) server: Server,
    /// Its directory: pm2's, by which it is steered.
    pub(crate) home: PathBuf,
}
