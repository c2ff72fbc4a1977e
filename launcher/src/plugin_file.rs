//! A plugin's file: what its bytes say that it is. Nothing is ever executed here.
//!
//! The kind is read from the bytes and not from the name, so a mislabelled file is told apart by its contents.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use wasm_host::{Purpose, World};

use crate::channel::Plugin;
use crate::worker::plugin::native::{self, NativeKind, NativeManifest};

/// The bytes of a plugin's file.
#[derive(Debug)]
pub struct PluginFile {
    bytes: Vec<u8>,
}

impl PluginFile {
    /// Read the file at `path`.
    pub fn read(path: &Path) -> io::Result<PluginFile> {
        PluginFile::from_file(crate::sys::file::open_regular(path)?)
    }

    /// Read an open file from its start to its end.
    pub fn from_file(mut file: File) -> io::Result<PluginFile> {
        io::Seek::rewind(&mut file)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(PluginFile { bytes })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a file is not a plugin.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// As a WASM component.
    #[error(transparent)]
    Wasm(#[from] wasm_host::PluginError),
    /// As a native library.
    #[error(transparent)]
    Native(#[from] native::ManifestError),
}

/// A plugin that is usable.
#[derive(Debug)]
pub enum Verified {
    /// A WASM component.
    Wasm {
        /// What it is.
        manifest: wasm_host::Manifest,
        /// Its compiled form, which a worker loads instead of the file.
        compiled: Vec<u8>,
    },
    /// A native library.
    Native(NativeManifest),
}

impl Verified {
    /// What it is, for the channel.
    pub fn plugin(&self) -> Plugin {
        match self {
            Verified::Wasm { manifest, .. } => Plugin::Wasm(manifest.clone()),
            Verified::Native(manifest) => match manifest.kind {
                NativeKind::Http => Plugin::Native,
                NativeKind::Socket => Plugin::NativeSocket,
            },
        }
    }

    /// What a worker loads instead of the file, if that is not the file itself.
    pub fn compiled(&self) -> Option<&[u8]> {
        match self {
            Verified::Wasm { compiled, .. } => Some(compiled),
            Verified::Native(_) => None,
        }
    }

    /// What it is, in a line.
    pub fn summary(&self) -> String {
        match self {
            Verified::Wasm { manifest, .. } => world(manifest.world).to_owned(),
            Verified::Native(manifest) => native_line(manifest),
        }
    }
}

const ELF: &[u8] = b"\x7fELF";
const WASM: &[u8] = b"\0asm";

/// Whether a file is judged as a native library: by its bytes; those that say nothing (an empty file, text) by its name,
/// so that the message speaks of what its author meant to build.
fn is_native(bytes: &[u8], path: &Path) -> bool {
    bytes.starts_with(ELF) || path.extension().is_some_and(|extension| extension == "so") && !bytes.starts_with(WASM)
}

/// Check a plugin, and compile it for this purpose if it is WASM.
pub fn verify(bytes: &[u8], path: &Path, purpose: Purpose) -> Result<Verified, VerifyError> {
    if is_native(bytes, path) {
        return Ok(Verified::Native(native::verify(bytes)?));
    }
    let (manifest, compiled) = wasm_host::compile(bytes, purpose)?;
    Ok(Verified::Wasm { manifest, compiled })
}

/// Tell what a plugin is and what it can use, in lines.
pub fn describe(bytes: &[u8], path: &Path) -> Result<String, VerifyError> {
    if is_native(bytes, path) {
        let manifest = native::verify(bytes)?;
        let mut text = format!("  {}\n  {} bytes\n", native_line(&manifest), bytes.len());
        for library in &manifest.needed {
            let _ = writeln!(text, "  needs {library}");
        }
        if manifest.panic_aborts {
            text.push_str("  built with panic = \"abort\": a panic ends the worker instead of one request\n");
        }
        return Ok(text);
    }
    let description = wasm_host::describe(bytes)?;
    let what = description.manifest.as_ref().map_or(NO_WORLD, |manifest| world(manifest.world));
    let mut text = format!("  {what}\n  {} bytes\n", description.size);
    if description.was_module {
        text.push_str("  a core module: the launcher makes a component of it, with the adapter of WASI preview 1\n");
    }
    for (title, names) in [("exports", &description.exports), ("imports", &description.imports)] {
        for name in names {
            let _ = writeln!(text, "  {title} {name}");
        }
    }
    for (used, key, what) in [
        (description.uses_env, "env", "environment variables"),
        (description.uses_config, "config", "configuration values (wasi:config/store)"),
        (description.uses_dirs, "wasm.dirs", "files"),
        (description.uses_network, "wasm.network", "the network"),
    ] {
        if used {
            let _ = writeln!(text, "  may use {what}: granted by `{key}`");
        }
    }
    Ok(text)
}

/// A component that the launcher does not serve; `check` says what is missing.
const NO_WORLD: &str = "WASM component, exports nothing that the launcher serves: wasi:http/incoming-handler@0.2 or \
     wasi:http/handler@0.3 is needed (Rust: #[worker_sdk::http]; WIT: `export wasi:http/incoming-handler@0.2.3;`), or \
     wasi:cli/run for a program that owns its sockets";

fn native_line(manifest: &NativeManifest) -> String {
    let kind = match manifest.kind {
        NativeKind::Http => "answers HTTP requests",
        NativeKind::Socket => "owns its sockets",
    };
    format!("native plugin {} {}, {kind} (ABI {})", manifest.name, manifest.version, manifest.abi)
}

fn world(world: World) -> &'static str {
    match world {
        World::Http02 => "WASM component, answers HTTP requests (wasi:http/incoming-handler@0.2)",
        World::Http03 => "WASM component, answers HTTP requests (wasi:http/handler@0.3)",
        World::Command02 => "WASM component, a program that owns its sockets (wasi:cli/run@0.2)",
        World::Command03 => "WASM component, a program that owns its sockets (wasi:cli/run@0.3)",
    }
}
