//! The verbs that look and do not touch: `check`, `inspect`, `schema`. No plugin is ever executed here.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use launcher::config::{PluginKind, Service};
use launcher::plugin_file::{self, PluginFile, Verified};

use wasm_host::Purpose;

use crate::BAD_INPUT;
use crate::cli::print_diagnostics;

/// `launcher check`: everything that `run` would refuse.
pub(crate) fn check(path: &Path) -> ExitCode {
    let config = match launcher::config::load(path) {
        Ok(config) => config,
        Err(diagnostics) => {
            print_diagnostics(&diagnostics);
            return ExitCode::from(BAD_INPUT);
        }
    };
    print_diagnostics(&config.warnings);
    let mut bad = false;
    for (name, service) in &config.services {
        match check_plugin(service) {
            Ok(found) => {
                let kind = found.as_ref().map(|verified| match (verified, verified.plugin().owns_sockets()) {
                    (Verified::Wasm { .. }, true) => PluginKind::Program,
                    (Verified::Native(_), true) => PluginKind::Socket,
                    (_, false) => PluginKind::Http,
                });
                let misfits = kind.map_or_else(Vec::new, |kind| service.misfits(kind));
                if !misfits.is_empty() {
                    bad = true;
                    print_diagnostics(&config.diagnostics(misfits));
                }
                let found = found.map_or_else(|| "missing; `run` will build it".to_owned(), |it| it.summary());
                print(&format!("{name}: {}: {found}\n", service.plugin));
            }
            Err(problem) => {
                bad = true;
                eprintln!("error: service `{name}`: {}: {problem}", service.plugin);
            }
        }
    }
    if bad {
        return ExitCode::from(BAD_INPUT);
    }
    print(&format!("{}: good\n", path.display()));
    ExitCode::SUCCESS
}

/// What the plugin is; `None`: it is missing, and `run` will build it.
fn check_plugin(service: &Service) -> Result<Option<Verified>, String> {
    if service.build.is_some() && !service.plugin_path.exists() {
        return Ok(None);
    }
    let file = PluginFile::read(&service.plugin_path).map_err(|error| error.to_string())?;
    plugin_file::verify(file.bytes(), &service.plugin_path, Purpose::Production)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// `launcher inspect`: what a plugin is.
pub(crate) fn inspect(path: &Path) -> ExitCode {
    let described = PluginFile::read(path)
        .map_err(|error| error.to_string())
        .and_then(|file| plugin_file::describe(file.bytes(), path).map_err(|error| error.to_string()));
    match described {
        Ok(text) => {
            print(&format!("{}\n{text}", path.display()));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {}: {problem}", path.display());
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// `launcher schema`.
pub(crate) fn schema() -> ExitCode {
    print(&format!("{:#}\n", launcher::config::schema()));
    ExitCode::SUCCESS
}

/// A reader that went away (`| head`) is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
