//! What a service's settings mean for the kind of its plugin. The kind is read from the plugin's file, which a
//! configuration does not open: whoever has read it asks here.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::diagnostics::{Diagnostic, Diagnostics};
use super::{Address, Config, Service};

/// How a plugin is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// The worker speaks HTTP and asks it for each request.
    Http,
    /// It is given the listening sockets.
    Socket,
    /// It is a WASM program, which binds them: the worker stands between.
    Program,
}

/// Where something is written: bytes of the file's text. Any two are equal, because a configuration is the same
/// wherever its lines are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct At(pub Range<usize>);

impl PartialEq for At {
    fn eq(&self, _: &At) -> bool {
        true
    }
}

impl Eq for At {}

/// Keys that were given although they may have no effect, and where. Any two are equal: what they are set to is
/// compared elsewhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HttpKeys(pub Vec<(String, At)>);

impl PartialEq for HttpKeys {
    fn eq(&self, _: &HttpKeys) -> bool {
        true
    }
}

/// Keys of a service that say how HTTP is spoken, which a worker does not do for a plugin of the other kind.
pub(super) const HTTP_KEYS: [&str; 8] = [
    "balance",
    "scheduling",
    "forwarded",
    "access_log",
    "limits.request_timeout",
    "limits.idle_timeout",
    "limits.connections",
    "limits.max_requests",
];

impl Service {
    /// What a plugin of this kind cannot be served with, in the order of the file.
    pub fn misfits(&self, kind: PluginKind) -> Vec<Diagnostic> {
        match kind {
            PluginKind::Http => {
                let datagrams = self.listen.iter().filter(|listen| matches!(listen.address, Address::Udp(_)));
                datagrams.map(|listen| self.not_for_http(&listen.at, "a UDP socket")).collect()
            }
            PluginKind::Socket | PluginKind::Program => {
                // The worker accepts for a program, and counts what is open.
                let obeyed = |key: &str| kind == PluginKind::Program && key == "limits.connections";
                let given = self.http_keys.0.iter().filter(|(key, _)| !obeyed(key));
                let proxied = self.listen.iter().filter(|listen| listen.proxy_protocol);
                let proxied = proxied.map(|listen| self.no_http("listen: proxy_protocol", &listen.at));
                let unix = self.listen.iter().filter(|listen| {
                    kind == PluginKind::Program && matches!(listen.address, Address::Unix { .. } | Address::Abstract(_))
                });
                let unix = unix.map(|listen| self.not_for_a_program(&listen.at, "a Unix socket"));
                given.map(|(key, at)| self.no_http(key, at)).chain(proxied).chain(unix).collect()
            }
        }
    }

    fn no_http(&self, key: &str, at: &At) -> Diagnostic {
        let message =
            format!("{key}: has no effect: {} owns its sockets, and the launcher speaks no HTTP for it", self.plugin);
        Diagnostic::error(at.0.clone(), message).help("remove it; what it asks for is the plugin's own business")
    }

    /// The complaint about a place that is a socket of this kind, for a WASM program.
    pub fn not_for_a_program(&self, at: &At, socket: &str) -> Diagnostic {
        let message = format!("{} is a WASM program, which cannot listen on {socket}", self.plugin);
        Diagnostic::error(at.0.clone(), message)
            .help("WASI has sockets of TCP and UDP only: listen on HOST:PORT or udp://HOST:PORT")
    }

    /// The complaint about a place that is a socket of this kind, for a plugin that answers HTTP.
    pub fn not_for_http(&self, at: &At, socket: &str) -> Diagnostic {
        let message = format!("{} answers HTTP requests, which do not come over {socket}", self.plugin);
        Diagnostic::error(at.0.clone(), message)
            .help("listen on HOST:PORT or unix:/path, or use a plugin that owns its sockets (#[worker_sdk::socket])")
    }
}

impl Config {
    /// Complaints about this file with its lines, for a person.
    pub fn diagnostics(&self, list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics::new(self.warnings.path(), self.warnings.text(), list)
    }
}

impl Diagnostics {
    /// All of them in one line, as `FILE:LINE:COLUMN: what is wrong; what to do`, for a log.
    pub fn in_a_line(&self) -> String {
        let one = |diagnostic: &Diagnostic| {
            let place =
                self.position(diagnostic).map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
            let help = diagnostic.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
            format!("{}{place}: {}{help}", self.path(), diagnostic.message)
        };
        self.iter().map(one).collect::<Vec<_>>().join(" | ")
    }
}
