//! Whether a plugin can be served as its service says: the plugin is known when it was read, and what a socket is that
//! the launcher was started with, when it is held.

use super::Master;
use super::journal::Name;
use super::listeners::Key;
use super::service::PrepareError;
use crate::channel::Plugin;
use crate::config::{self, PluginKind};
use crate::sys::socket_kind::Kind;

impl Master {
    /// What stands in the way of serving this plugin with these settings, each with its place in the file.
    pub(super) fn fit(&self, service: &Name, settings: &config::Service, plugin: &Plugin) -> Result<(), PrepareError> {
        let kind = match plugin {
            Plugin::Awaited => return Ok(()),
            Plugin::Wasm(_) if plugin.owns_sockets() => PluginKind::Program,
            Plugin::NativeSocket => PluginKind::Socket,
            Plugin::Wasm(_) | Plugin::Native => PluginKind::Http,
        };
        let mut problems = settings.misfits(kind);
        if problems.is_empty() {
            let held = settings.listen.iter().zip(Key::of(service, &settings.listen));
            let held = held.filter_map(|(listen, key)| Some((listen, self.listeners.kind(&key)?)));
            problems.extend(held.filter_map(|(listen, socket)| match kind {
                PluginKind::Http if !socket.is_stream() => Some(settings.not_for_http(&listen.at, socket.name())),
                PluginKind::Program if !matches!(socket, Kind::Tcp | Kind::Udp) => {
                    Some(settings.not_for_a_program(&listen.at, socket.name()))
                }
                PluginKind::Http | PluginKind::Program | PluginKind::Socket => None,
            }));
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(PrepareError::Settings(self.config.diagnostics(problems).in_a_line())),
        }
    }
}
