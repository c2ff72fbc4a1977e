//! Answers [`ToWorker::Verify`](crate::channel::ToWorker::Verify): is this plugin usable? For WASM: compile it.
//!
//! Runs in a process of its own that ends with the answer, so neither a hostile file nor the memory of the
//! compiler reaches the master.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wasm_host::Purpose;

use crate::channel::{Plugin, ToMaster};
use crate::plugin_file::{self, PluginFile};

/// The answer for the plugin in `source`; its compiled form, if it has one, is written to `compiled`.
pub(super) fn verify(path: &str, purpose: Purpose, source: OwnedFd, compiled: OwnedFd) -> ToMaster {
    match answer(path, purpose, source, &File::from(compiled)) {
        Ok(plugin) => ToMaster::Verified { plugin },
        Err(reason) => ToMaster::Failed { reason },
    }
}

fn answer(path: &str, purpose: Purpose, source: OwnedFd, compiled: &File) -> Result<Plugin, String> {
    let file = PluginFile::from_file(File::from(source)).map_err(|error| error.to_string())?;
    let verified = plugin_file::verify(file.bytes(), Path::new(path), purpose).map_err(|error| error.to_string())?;
    if let Some(code) = verified.compiled() {
        let written: io::Result<()> = compiled.write_all_at(code, 0);
        written.map_err(|error| format!("the compiled form could not be written: {error}"))?;
    }
    Ok(verified.plugin())
}
