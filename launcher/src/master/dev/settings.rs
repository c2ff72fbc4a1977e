//! What `launcher dev` changes in a configuration as it is read: how it is run, never what the plugin sees of it.

use std::time::Duration;

use crate::config::Config;

/// A worker that an author replaces need not wait for a browser that keeps a download open.
const DRAIN: Duration = Duration::from_secs(2);
/// Stillness of a plugin that somebody else builds.
const SETTLE: Duration = Duration::from_millis(20);

/// One worker a service, quick to leave; the desk and not the watcher looks at plugins that are built here.
pub(in crate::master) fn adjust(mut config: Config) -> Config {
    for service in config.services.values_mut() {
        service.workers = 1;
        service.drain_timeout = service.drain_timeout.min(DRAIN);
        service.reload.settle = service.reload.settle.min(SETTLE);
        if service.build.is_some() {
            service.reload.watch = false;
        }
        service.env.entry("RUST_BACKTRACE".to_owned()).or_insert_with(|| "1".to_owned());
    }
    config
}
