//! The servers that are compared: started, found, ended.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a server may take until it says where it listens.
const START: Duration = Duration::from_secs(30);

/// A server that runs.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The launcher's workers end with it: their channel does. A child that is gone already is no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where things are.
pub(crate) struct Places {
    /// The project's directory.
    pub(crate) project: PathBuf,
    /// The directory of built programs and libraries.
    pub(crate) built: PathBuf,
    /// A temporary one.
    pub(crate) scratch: PathBuf,
}

/// Starts a server under its name, or says why that is not possible here.
type Start = fn(&'static str, &Places) -> Result<Server, String>;

/// A server that can be compared.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// The name of what it is compared with; its own, if that is what others are compared with.
    pub(crate) baseline: &'static str,
    pub(crate) start: Start,
}

const fn entry(name: &'static str, baseline: &'static str, start: Start) -> Entry {
    Entry { name, baseline, start }
}

/// The handler of `plugins/hello` on hyper.
const HYPER: &str = "bare hyper";
/// The application of `examples/sockets/axum` by itself.
const AXUM: &str = "bare axum";

/// What can be compared.
pub(crate) const SERVERS: [Entry; 9] = [
    entry(HYPER, HYPER, bare),
    entry("native, Rust", HYPER, |name, at| launcher(name, at, &at.built.join("libhello.so"), "")),
    entry("native, C", HYPER, |name, at| launcher(name, at, &c_plugin(at)?, "")),
    entry("WASM, instances reused", HYPER, |name, at| launcher(name, at, &wat(at), ", wasm: { reuse: 1000000 }")),
    entry("WASM, fresh instances", HYPER, |name, at| launcher(name, at, &wat(at), "")),
    entry("wasmtime serve", HYPER, wasmtime),
    entry("nginx", HYPER, nginx),
    entry(AXUM, AXUM, |name, at| start(name, &mut Command::new(axum(at)?.join("examples/bare")))),
    entry("axum, owns its socket", AXUM, |name, at| launcher(name, at, &axum(at)?.join("libaxum_app.so"), "")),
];

fn bare(name: &'static str, _: &Places) -> Result<Server, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    start(name, Command::new(program).arg("bare"))
}

fn wat(at: &Places) -> PathBuf {
    at.project.join("plugins/hello.wat")
}

fn c_plugin(at: &Places) -> Result<PathBuf, String> {
    let library = at.scratch.join("hello-c.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-I"]).arg(at.project.join("worker-sdk/include"));
    compiler.arg(at.project.join("plugins/hello-c/hello.c")).arg("-o").arg(&library).arg("-lpthread");
    match compiler.status() {
        Ok(status) if status.success() => Ok(library),
        Ok(status) => Err(format!("cc failed: {status}")),
        Err(error) => Err(format!("no C compiler: {error}")),
    }
}

/// Where the application of axum is built, as a program and as a plugin.
fn axum(at: &Places) -> Result<PathBuf, String> {
    let target = at.built.with_file_name("axum");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    cargo.args(["build", "--release", "--quiet", "--locked", "--lib", "--example", "bare", "--manifest-path"]);
    cargo.arg(at.project.join("examples/sockets/axum/Cargo.toml")).arg("--target-dir").arg(&target);
    match cargo.status() {
        Ok(status) if status.success() => Ok(target.join("release")),
        Ok(status) => Err(format!("cargo failed: {status}")),
        Err(error) => Err(format!("cargo does not start: {error}")),
    }
}

pub(crate) fn launcher(name: &'static str, at: &Places, plugin: &Path, more: &str) -> Result<Server, String> {
    let workers = if more.contains("workers:") { "" } else { ", workers: 1" };
    let id: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let config = at.scratch.join(format!("{id}.yaml"));
    let text = format!(
        "master: {{ state_dir: {:?} }}\nservices:\n  hello: {{ plugin: {:?}, listen: 127.0.0.1:0{workers}{more} }}\n",
        at.scratch.join(id),
        plugin,
    );
    fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    start(name, Command::new(at.built.join("launcher")).arg("run").arg(config))
}

fn wasmtime(name: &'static str, at: &Places) -> Result<Server, String> {
    start(name, Command::new("wasmtime").args(["serve", "--addr", "127.0.0.1:0"]).arg(wat(at)))
}

fn nginx(name: &'static str, at: &Places) -> Result<Server, String> {
    // It does not say which port it got: one that is free at this moment.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = address.map_err(|error| format!("no free port: {error}"))?;
    let config = at.scratch.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr notice; events {{}}
http {{
  access_log off; keepalive_requests 100000000; default_type \"text/plain; charset=utf-8\";
  server {{ listen {address}; location / {{ return 200 'Hello from nginx\\n'; }} }}
}}
"
    );
    fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    let child = spawn(Command::new("nginx").arg("-p").arg(&at.scratch).arg("-c").arg(&config))?;
    let mut server = Server { name, address, child };
    let said = listen_for(&mut server.child, |line| line.contains("start worker process").then_some(()));
    said.map(|()| server)
}

/// Starts a server that says `… 127.0.0.1:PORT…` on one of its outputs when it listens.
fn start(name: &'static str, command: &mut Command) -> Result<Server, String> {
    let child = spawn(command)?;
    let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = Server { name, address: unspecified, child };
    server.address = listen_for(&mut server.child, |line| {
        let at = line.find("127.0.0.1:")?;
        let end = line[at + 10..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |end| at + 10 + end);
        line[at..end].parse().ok()
    })?;
    Ok(server)
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("missing: {:?} does not start: {error}", command.get_program()))
}

/// Waits until a line of the child's output is what is looked for, and reads on for as long as the child lives.
pub(crate) fn listen_for<T: Send + 'static>(
    child: &mut Child,
    find: impl FnMut(&str) -> Option<T> + Clone + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = mpsc::channel();
    let outputs: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for pipe in outputs.into_iter().flatten() {
        let (tell, mut find) = (tell.clone(), find.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // Nobody listens any more once it was found.
                let _ = tell.send((find(&line), line));
            }
        });
    }
    drop(tell);
    let mut said = String::new();
    loop {
        match told.recv_timeout(START) {
            Ok((Some(found), _)) => return Ok(found),
            Ok((None, line)) => said = said + "\n    " + &line,
            Err(_) => return Err(format!("it did not start:{said}")),
        }
    }
}
