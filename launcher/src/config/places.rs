//! Files and directories that the configuration names.
//!
//! Looks, and never creates: `check` leaves no trace. What is found may be gone a moment later; whoever opens it
//! handles that.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess, geteuid};
use sha2::{Digest as _, Sha256};

use super::diagnostics::{Complaint, meant, quoted};
use super::listen::tidy;

/// File names of plugins end in one of these.
const EXTENSIONS: &[&str] = &["wasm", "wat", "so"];

/// The plugin that is written as `text`. It must be a readable file unless it can be built.
pub(super) fn plugin(text: &str, base: &Path, can_be_built: bool) -> Result<PathBuf, Complaint> {
    let path = tidy(&base.join(text));
    let extension = path.extension().and_then(|extension| extension.to_str());
    if !extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) {
        return Err(Complaint::new(format!("{} is no kind of plugin that is known", quoted(text)))
            .help("plugins are .wasm, .wat and .so files"));
    }
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => match File::open(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(Complaint::new(format!("{} cannot be read: {}", quoted(text), reason(&error)))),
        },
        Ok(_) => Err(Complaint::new(format!("{} is not a file", quoted(text)))),
        Err(error) if error.kind() == ErrorKind::NotFound && can_be_built => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing(text, &path)),
        Err(error) => Err(Complaint::new(format!("{} cannot be read: {}", quoted(text), reason(&error)))),
    }
}

fn missing(text: &str, path: &Path) -> Complaint {
    let complaint = Complaint::new(format!("there is no file {}", quoted(text)));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return complaint;
    };
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return complaint.help("it is a symbolic link to something that does not exist");
    }
    let neighbours: Vec<String> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        })
        .take(1000)
        .collect();
    match meant(name, neighbours.iter().map(String::as_str)) {
        Some(neighbour) => {
            let meant = Path::new(text).with_file_name(neighbour);
            complaint.help(format!("did you mean `{}`?", meant.display()))
        }
        None => complaint.help("build it first, or say in `build` how it is made"),
    }
}

/// A file that will be made when it is needed.
pub(super) fn file(text: &str, base: &Path) -> PathBuf {
    tidy(&base.join(text))
}

/// A directory that a guest shall see.
pub(super) fn directory(text: &str, base: &Path) -> Result<PathBuf, Complaint> {
    let path = tidy(&base.join(text));
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(Complaint::new(format!("{} is not a directory", quoted(text)))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Complaint::new(format!("there is no directory {}", quoted(text))).help("make it first"))
        }
        Err(error) => Err(Complaint::new(format!("{} cannot be used: {}", quoted(text), reason(&error)))),
    }
}

/// The state directory that is written as `text`. Whether it can be written is not asked: `check` and `status` may be
/// run by another user than the launcher.
pub(super) fn state_dir(text: &str, base: &Path) -> Result<PathBuf, Complaint> {
    let path = tidy(&base.join(text));
    match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_dir() => Err(Complaint::new(format!("{} is not a directory", quoted(text)))),
        _ => Ok(path),
    }
}

/// Where the state lives when the file does not say: `.launcher` beside the file, else the runtime directory under
/// a hash of the file's path. The path is taken as it is named, without following links: a configuration that is
/// replaced by swapping a link stays the same one.
pub(super) fn default_state_dir(file: &Path, runtime: Option<&Path>) -> PathBuf {
    let base = file.parent().unwrap_or(Path::new("/"));
    let beside = base.join(".launcher");
    if writable(&beside) {
        return beside;
    }
    let digest = Sha256::digest(file.as_os_str().as_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("launcher-{}-{hash}", geteuid());
    [runtime.filter(|runtime| runtime.is_absolute()), Some(Path::new("/run"))]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(&name))
        .find(|path| writable(path))
        .unwrap_or_else(|| Path::new("/tmp").join(&name))
}

/// Whether a directory can be written, or made.
fn writable(path: &Path) -> bool {
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir() && eaccess(path, access).is_ok(),
        Err(error) if error.kind() == ErrorKind::NotFound => path.parent().is_some_and(writable),
        Err(_) => false,
    }
}

/// The system's words without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}
