//! What runs, and what should be true of it: the services with their plugins, and the versions that must serve.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clients::{Group, Habit};
use crate::judge::{Loss, Want};
use crate::launcher::{Launcher, PATIENCE};
use crate::ledger::Ledger;
use crate::options::Options;
use crate::plugins::{self, RUST, Versions, WASM};
use crate::site::Site;
use crate::tamper::Tamper;

/// Its workers are never harmed: whatever happens, none of its clients may notice.
pub const JUDGE: &str = "judge";
/// A plugin in C whose workers are harmed in every way.
pub const VICTIM: &str = "victim";
/// A component that traps when it is sent DELETE.
pub const WASM_SERVICE: &str = "wasm";
/// A plugin in Rust, behind a symbolic link.
pub const RUST_SERVICE: &str = "rust";
/// `plugins/misbehave`: nobody's clients, only the faults' own.
pub const WILD: &str = "wild";

/// `reload.probation` of every service.
pub const PROBATION: Duration = Duration::from_millis(1500);

/// Services that clients use, and whose plugins have versions.
pub const VERSIONED: [&str; 4] = [JUDGE, VICTIM, WASM_SERVICE, RUST_SERVICE];
/// Services whose workers may die of a fault.
pub const MORTALS: [&str; 3] = [VICTIM, WASM_SERVICE, RUST_SERVICE];

/// A service as it should be.
#[derive(Debug)]
pub struct Wanted {
    /// Where it listens.
    pub address: SocketAddr,
    /// Workers that should be ready.
    pub workers: u32,
    /// The version that should answer.
    pub version: u32,
    /// The last version that was ever made: versions only go up.
    pub newest: u32,
    /// Its file's name.
    pub file: &'static str,
    versions: Option<Versions>,
}

/// Everything that a fault acts upon.
pub struct World {
    /// Its directory.
    pub site: Site,
    /// What is tested.
    pub launcher: Launcher,
    /// What the clients note.
    pub ledger: Arc<Ledger>,
    /// The services, by name.
    pub services: BTreeMap<&'static str, Wanted>,
    /// Connections that had to be lost.
    pub losses: Vec<Loss>,
    /// When plugins got no memory.
    pub wants: Vec<Want>,
    /// What its processes are made to believe.
    pub tamper: Tamper,
    /// What the configuration says besides, as a fault has set it.
    pub edits: Edits,
}

/// The parts of the configuration that faults change.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// An environment variable of every service.
    pub edition: u32,
    /// `config.start` of [`WILD`].
    pub start: Option<&'static str>,
    /// There is one service more.
    pub extra: bool,
}

/// The component: `plugins/hello.wat`, which also traps when it is sent DELETE.
fn trapping(wat: &str) -> Result<String, String> {
    let method = "(export \"outgoing-response\" (type $outgoing-response (sub resource)))";
    let method_type = "(export \"outgoing-response\" (type $outgoing-response (sub resource)))
    (type $method-cases (variant (case \"get\") (case \"head\") (case \"post\") (case \"put\") (case \"delete\")
      (case \"connect\") (case \"options\") (case \"trace\") (case \"patch\") (case \"other\" string)))
    (export \"method\" (type $method (eq $method-cases)))
    (export \"[method]incoming-request.method\" (func
      (param \"self\" (borrow $incoming-request)) (result $method)))";
    let steps = [
        (method, method_type),
        (
            "(import \"http\" \"drop-request\" (func $drop-request (param i32)))",
            "(import \"http\" \"drop-request\" (func $drop-request (param i32)))
    (import \"http\" \"method\" (func $method (param $request i32) (param $result i32)))",
        ),
        (
            "(call $drop-request (local.get $request))",
            "(call $method (local.get $request) (global.get $result))
      (if (i32.eq (i32.load8_u (global.get $result)) (i32.const 4)) (then unreachable))
      (call $drop-request (local.get $request))",
        ),
        (
            "(core func $drop-request (canon resource.drop $incoming-request))",
            "(core func $drop-request (canon resource.drop $incoming-request))
  (core func $method (canon lower (func $http \"[method]incoming-request.method\") (memory $mem) (realloc $realloc)))",
        ),
        (
            "(export \"drop-request\" (func $drop-request))",
            "(export \"drop-request\" (func $drop-request))
      (export \"method\" (func $method))",
        ),
    ];
    let mut text = wat.to_owned();
    for (old, new) in steps {
        if text.matches(old).count() != 1 {
            return Err(format!("plugins/hello.wat has changed: {old:?} is not in it once"));
        }
        text = text.replace(old, new);
    }
    Ok(text)
}

impl World {
    /// Builds plugins, writes everything, starts the launcher and waits until it serves. `prepare` may mount something at
    /// the state directory.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn start<T>(options: &Options, prepare: impl FnOnce(&Site) -> T) -> Result<(Self, T), String> {
        let site = Site::new("schedule")?;
        let prepared = prepare(&site);
        let witness = plugins::witness(&site.path(""))?;
        let wat = plugins::project()?.join("plugins/hello.wat");
        let wat = fs::read_to_string(&wat).map_err(|error| format!("cannot read {}: {error}", wat.display()))?;
        site.write("trapping.wat", trapping(&wat)?)?;
        site.write("misbehave.so", read(&options.libraries.join("libmisbehave.so"))?)?;
        site.write("extra.wat", wat)?;
        let plugins = [
            (JUDGE, "judge.so", Some(witness.clone())),
            (VICTIM, "victim.so", Some(witness)),
            (WASM_SERVICE, "wasm.wat", Some(Versions::of(&site.path("trapping.wat"), WASM)?)),
            (RUST_SERVICE, "rust.so", Some(Versions::of(&options.libraries.join("libhello.so"), RUST)?)),
            (WILD, "misbehave.so", None),
        ];
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut services = BTreeMap::new();
        for (name, file, versions) in plugins {
            let workers = usual_workers(name);
            services.insert(name, Wanted { address: nowhere, workers, version: 1, newest: 1, file, versions });
        }
        for name in VERSIONED {
            let wanted = &services[name];
            let bytes = wanted.versions.as_ref().map(|versions| versions.version(1)).unwrap_or_default();
            let file = if name == RUST_SERVICE { "rust-1.so" } else { wanted.file };
            site.write(file, bytes)?;
        }
        let link = symlink("rust-1.so", site.path("rust.so"));
        link.map_err(|error| format!("cannot make a symbolic link: {error}"))?;
        let edits = Edits::default();
        let tamper = Tamper::build(&site.path(""))?;
        let launcher = site.run_tampered(&options.binary, &configuration(&services, &edits), &tamper)?;
        for (name, wanted) in &mut services {
            wanted.address.set_port(launcher.port(name)?);
            let ready = |fact: &crate::launcher::Fact| fact.of("ready", name);
            launcher.wait(0, wanted.workers as usize, PATIENCE, "ready worker", ready)?;
        }
        let world = Self {
            site,
            launcher,
            ledger: Arc::default(),
            services,
            losses: Vec::new(),
            wants: Vec::new(),
            tamper,
            edits,
        };
        Ok((world, prepared))
    }

    /// The clients of this world.
    pub fn crowd(&self) -> Vec<Group> {
        let group = |service, habit, count| Group { service, address: self.services[service].address, habit, count };
        let mut groups = Vec::new();
        for service in [JUDGE, VICTIM] {
            for (habit, count) in [
                (Habit::Eager, 1),
                (Habit::Pausing(5000), 60),
                (Habit::Pausing(50), 2),
                (Habit::Fresh, 4),
                (Habit::SlowReader, 4),
                (Habit::Uploader, 4),
                (Habit::CutHead, 6),
                (Habit::Patient, 6),
                (Habit::Rude, 4),
            ] {
                groups.push(group(service, habit, count));
            }
        }
        for service in [WASM_SERVICE, RUST_SERVICE] {
            for (habit, count) in [
                (Habit::Eager, 1),
                (Habit::Pausing(5000), 40),
                (Habit::Fresh, 3),
                (Habit::CutHead, 4),
                (Habit::Rude, 2),
            ] {
                groups.push(group(service, habit, count));
            }
        }
        groups
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> &Wanted {
        &self.services[name]
    }

    /// The same, to change it.
    ///
    /// # Errors
    /// There is none.
    pub fn service_mut(&mut self, name: &str) -> Result<&mut Wanted, String> {
        self.services.get_mut(name).ok_or_else(|| format!("no service {name}"))
    }

    /// Where a service's plugin is.
    pub fn file(&self, service: &str) -> PathBuf {
        self.site.path(self.services[service].file)
    }

    /// The bytes of a version of a service's plugin, whose workers die after so many milliseconds (0: not).
    pub fn bytes(&self, service: &str, version: u32, dies: u32) -> Vec<u8> {
        let versions = self.services[service].versions.as_ref();
        versions.map(|versions| versions.mortal(version, dies)).unwrap_or_default()
    }

    /// Puts a version in place, in one step.
    ///
    /// # Errors
    /// The system refuses.
    pub fn put(&self, service: &str, version: u32, bytes: &[u8]) -> Result<(), String> {
        if service != RUST_SERVICE {
            return plugins::replace(&self.file(service), bytes);
        }
        // The file is a link that is swapped, as whole releases are; what it named before is removed.
        let fail = |error: std::io::Error| format!("cannot swap {}: {error}", self.file(service).display());
        let old = fs::read_link(self.file(service)).map_err(fail)?;
        let name = format!("rust-{version}.so");
        self.site.write(&name, bytes)?;
        symlink(&name, self.site.path("rust.so.new")).map_err(fail)?;
        fs::rename(self.site.path("rust.so.new"), self.file(service)).map_err(fail)?;
        if old.as_os_str() == name.as_str() {
            Ok(())
        } else {
            fs::remove_file(self.site.path("").join(old)).map_err(fail)
        }
    }

    /// Writes the configuration as it should be now.
    ///
    /// # Errors
    /// The system refuses.
    pub fn configure(&self) -> Result<(), String> {
        let text = self.site.config(&configuration(&self.services, &self.edits));
        plugins::replace(&self.site.path("config.yaml"), text.as_bytes())
    }

    /// Demands of every service from which no worker is leaving that the version that serves, or a newer one, answers.
    pub fn demand_versions(&self) {
        for name in VERSIONED {
            let wanted = self.service(name);
            let ready = self.launcher.ready().values().filter(|service| *service == name).count();
            if ready == wanted.workers as usize && self.launcher.alive(name).len() == ready {
                self.ledger.raise(name, wanted.version);
            }
        }
    }

    /// The configuration of the start again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn normalise(&mut self) -> Result<(), String> {
        for (name, wanted) in &mut self.services {
            wanted.workers = usual_workers(name);
        }
        self.edits.extra = false;
        self.configure()
    }

    /// Every TCP port of a service that clients use.
    pub fn ports(&self) -> Vec<u16> {
        self.services.values().map(|wanted| wanted.address.port()).collect()
    }
}

/// As many workers as a service has when no fault has changed that.
pub fn usual_workers(service: &str) -> u32 {
    if service == VICTIM { 3 } else { 2 }
}

fn configuration(services: &BTreeMap<&'static str, Wanted>, edits: &Edits) -> String {
    let mut text = "services:\n".to_owned();
    for (name, wanted) in services {
        let more = if *name == WILD {
            format!(", config: {{ start: {} }}", edits.start.unwrap_or("ok"))
        } else {
            format!(", env: {{ EDITION: \"{}\" }}", edits.edition)
        };
        // A budget that no schedule exhausts, and backoffs that fit into a probation several times.
        let probation = PROBATION.as_millis();
        let _ = writeln!(
            text,
            "  {name}: {{ plugin: {}, listen: 127.0.0.1:0, workers: {}, restart: {{ backoff: 10ms..200ms, budget: \
             1000/60s, reset_after: 1s }}, reload: {{ probation: {probation}ms, ready_timeout: 15s }}, \
             stop: {{ drain_timeout: 20s }}{more} }}",
            wanted.file, wanted.workers,
        );
    }
    if edits.extra {
        text += "  extra: { plugin: extra.wat, listen: 127.0.0.1:0, workers: 1 }\n";
    }
    text
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| {
        format!("cannot read {}: {error}; cargo build --release -p hello -p misbehave", path.display())
    })
}
