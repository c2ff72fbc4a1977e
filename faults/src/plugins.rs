//! The plugins that a run serves, in any number of versions, each told by what it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A plugin of which there are versions.
#[derive(Debug, Clone)]
pub struct Versions {
    bytes: Vec<u8>,
    kind: Kind,
}

/// How a version is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `plugins/witness.c`: `version N pid P`.
    Witness,
    /// The text of `plugins/hello.wat`, or of `plugins/hello` as a native library, overwritten.
    Text(&'static str),
}

/// `plugins/hello.wat`.
pub const WASM: Kind = Kind::Text("Hello from WebAssembly!");
/// `plugins/hello`.
pub const RUST: Kind = Kind::Text("Hello from Rust!");

/// The project's directory.
///
/// # Errors
/// It is gone.
pub fn project() -> Result<&'static Path, String> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or_else(|| "the project's directory is gone".to_owned())
}

/// Builds the witness into `directory`.
///
/// # Errors
/// There is no C compiler, or it fails.
pub fn witness(directory: &Path) -> Result<Versions, String> {
    Versions::of(&library("witness", directory)?, Kind::Witness)
}

/// Builds `plugins/NAME.c` into `directory`; where it is.
///
/// # Errors
/// There is no C compiler, or it fails.
pub fn library(name: &str, directory: &Path) -> Result<PathBuf, String> {
    let project = project()?;
    let library = directory.join(format!("{name}.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-I"]).arg(project.join("worker-sdk/include"));
    compiler.arg(project.join(format!("faults/plugins/{name}.c"))).arg("-o").arg(&library);
    match compiler.args(["-lpthread", "-ldl"]).status() {
        Ok(status) if status.success() => Ok(library),
        Ok(status) => Err(format!("cc failed: {status}")),
        Err(error) => Err(format!("no C compiler: {error}")),
    }
}

impl Versions {
    /// Of the plugin in a file.
    ///
    /// # Errors
    /// It cannot be read, or what is to be overwritten is not in it.
    pub fn of(path: &Path, kind: Kind) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let versions = Self { bytes, kind };
        match versions.places().len() {
            0 => Err(format!("{} has no version to overwrite", path.display())),
            _ => Ok(versions),
        }
    }

    fn pattern(&self) -> &'static str {
        match self.kind {
            Kind::Witness => "witness:version=0000000000,dies=0000000000;",
            Kind::Text(text) => text,
        }
    }

    fn places(&self) -> Vec<usize> {
        let pattern = self.pattern().as_bytes();
        let windows = self.bytes.windows(pattern.len()).enumerate();
        windows.filter(|(_, window)| *window == pattern).map(|(at, _)| at).collect()
    }

    /// The bytes of a version.
    pub fn version(&self, version: u32) -> Vec<u8> {
        self.mortal(version, 0)
    }

    /// A version that dies so many milliseconds after its start; 0: never. Only a witness can.
    pub fn mortal(&self, version: u32, milliseconds: u32) -> Vec<u8> {
        let text = match self.kind {
            Kind::Witness => format!("witness:version={version:010},dies={milliseconds:010};"),
            Kind::Text(text) => words(version, text.len()),
        };
        let mut bytes = self.bytes.clone();
        for at in self.places() {
            bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        bytes
    }
}

/// `v0000012` filled up with dots.
fn words(version: u32, length: usize) -> String {
    format!("{:.<length$}", format!("v{version:07}"))
}

/// The version that a body names.
pub fn told(body: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(body).ok()?;
    match text.strip_prefix("version ") {
        Some(rest) => rest.split(' ').next()?.parse().ok(),
        None => text.strip_prefix('v')?.get(..7)?.parse().ok(),
    }
}

/// Puts bytes in place of a file in one step, as a careful deployment does.
///
/// # Errors
/// The system refuses.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let fail = |error| format!("cannot replace {}: {error}", path.display());
    fs::write(&beside, bytes).map_err(fail)?;
    fs::rename(&beside, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_each_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let witness = witness(directory.path()).expect("it builds");
        assert_eq!(witness.version(0), fs::read(directory.path().join("witness.so")).expect("it is there"));
        assert_ne!(witness.version(1), witness.version(2));
        assert_ne!(witness.version(1), witness.mortal(1, 5));
        let wat = project().expect("it is there").join("plugins/hello.wat");
        let wasm = Versions::of(&wat, WASM).expect("it has the text");
        assert!(String::from_utf8_lossy(&wasm.version(12)).contains("\"v0000012...............\\n\""));
        assert_eq!(told(b"v0000012...............\n"), Some(12));
        assert_eq!(told(b"version 7 pid 12\n"), Some(7));
        assert_eq!(told(b"Hello"), None);
        assert!(Versions::of(&wat, Kind::Witness).is_err());
    }
}
