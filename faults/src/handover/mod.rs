//! Measurements of the live hand-over: that nobody notices it, what it costs, how long it takes.

pub mod idle;
pub mod latency;
pub mod reloads;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::launcher::{Launcher, PATIENCE};
use crate::plugins::{self, RUST, Versions, WASM};
use crate::site::Site;

/// One service whose plugin is replaced again and again.
pub struct Stage {
    /// Its directory.
    pub site: Site,
    /// What serves.
    pub launcher: Arc<Launcher>,
    /// Where.
    pub address: SocketAddr,
    versions: Versions,
    file: PathBuf,
    version: u32,
    workers: usize,
}

/// The kinds of plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Native, in C.
    C,
    /// Native, in Rust.
    Rust,
    /// A component.
    Wasm,
}

impl Language {
    /// All.
    pub const ALL: [Language; 3] = [Language::C, Language::Rust, Language::Wasm];

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Language::C => "native, C",
            Language::Rust => "native, Rust",
            Language::Wasm => "WASM",
        }
    }
}

impl Stage {
    /// Starts a launcher with so many workers of version 1. `hello` is `plugins/hello` as a library.
    ///
    /// # Errors
    /// It does not serve.
    pub fn start(binary: &Path, language: Language, hello: &Path, workers: usize, more: &str) -> Result<Self, String> {
        let site = Site::new("handover")?;
        let (name, versions) = match language {
            Language::C => ("plugin.so", plugins::witness(&site.path(""))?),
            Language::Rust => ("plugin.so", Versions::of(hello, RUST)?),
            Language::Wasm => ("plugin.wat", Versions::of(&plugins::project()?.join("plugins/hello.wat"), WASM)?),
        };
        site.write(name, versions.version(1))?;
        let services = format!(
            "services: {{ hello: {{ plugin: {name}, listen: 127.0.0.1:0, workers: {workers}, limits: {{ connections: 20000 }}{more} }} }}\n"
        );
        let launcher = Arc::new(site.run(binary, &services)?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, launcher.port("hello")?));
        launcher.wait(0, workers, PATIENCE, "ready worker", |fact| fact.is("ready"))?;
        let file = site.path(name);
        Ok(Self { site, launcher, address, versions, file, version: 1, workers })
    }

    /// The version that serves.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Replaces the plugin and waits for the promotion; gives the place in the log where that began.
    ///
    /// # Errors
    /// It is not promoted.
    pub fn reload(&mut self) -> Result<usize, String> {
        let mark = self.launcher.mark();
        plugins::replace(&self.file, &self.versions.version(self.version + 1))?;
        self.launcher.wait(mark, 1, PATIENCE, "promotion", |fact| fact.is("promoted"))?;
        self.version += 1;
        Ok(mark)
    }

    /// Waits until the old workers of a reload have left, and gives the milliseconds between the first word of it and
    /// the last exit, by the launcher's own clock.
    ///
    /// # Errors
    /// They do not leave, or not with 0.
    pub fn left(&self, mark: usize) -> Result<u64, String> {
        let told = self.launcher.wait(mark, self.workers, PATIENCE, "draining", |fact| fact.is("draining"))?;
        let exits = self.launcher.wait(mark, self.workers, PATIENCE, "exit", |fact| fact.is("exited"))?;
        if let Some(bad) = exits.iter().find(|fact| fact.number("code") != 0 || fact.text("reason").contains("signal"))
        {
            return Err(format!("an old worker did not leave in peace: {}", bad.line));
        }
        let first = told.iter().map(|fact| fact.number("monotonic_ms")).min().unwrap_or_default();
        let last = exits.iter().map(|fact| fact.number("monotonic_ms")).max().unwrap_or_default();
        Ok(last.saturating_sub(first))
    }
}
