//! `launcher new`: a project to begin with, from a template that is part of the binary.
//!
//! Nothing is fetched and nothing is built: the project's own `build:` does that. What a template needs of this project
//! (the SDK, `worker.h`) is part of the binary too and written out with it, so that both are of one version and a
//! beginning works without a registry that has them.

mod templates;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use templates::{FILES_OF_SDK, Source};

/// The kinds of project there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// A handler in Rust: one source, a native library or a WASM component
    Rust,
    /// A native library in Rust that owns its sockets and speaks a protocol of its own
    Socket,
    /// A native library in C
    C,
    /// A WASM component in JavaScript
    #[value(alias = "js")]
    Javascript,
    /// A WASM component in Python
    #[value(alias = "py")]
    Python,
}

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewError {
    /// The last part of the path is the name, and names have rules.
    #[error(
        "`{0}` is no name for a project: it must begin with a letter and have letters, digits, `-` and `_` only, at most 63"
    )]
    Name(String),
    /// The directory holds something.
    #[error("`{}` exists and is not empty; nothing was written", .0.display())]
    Taken(PathBuf),
    /// What was given as the SDK is none.
    #[error("`{}` holds no worker-sdk: there is no Cargo.toml with that name", .0.display())]
    NoSdk(PathBuf),
    /// A file could not be written.
    #[error("`{}` cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Template {
    /// What it is, in a line: the help of the option.
    fn about(self) -> String {
        self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The templates, as a table.
pub(crate) fn list() -> String {
    let lines = Template::value_variants().iter();
    lines.map(|template| format!("{:<12}{}\n", template.name(), template.about())).collect()
}

/// Write a project; what to do next, in words.
pub(crate) fn create(directory: &Path, template: Template, sdk: Option<&Path>) -> Result<String, NewError> {
    let name = directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned();
    if !is_name(&name) {
        return Err(NewError::Name(name));
    }
    let taken = |found: &Path| NewError::Taken(found.to_owned());
    match fs::read_dir(directory) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(taken(directory));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(taken(directory)),
        Err(source) => return Err(NewError::Write { path: directory.to_owned(), source }),
    }
    let sdk = sdk.map(there).transpose()?;
    let place = sdk.as_ref().map_or("vendor/worker-sdk".to_owned(), |path| path.display().to_string());
    let crate_name = name.replace('-', "_");
    let fill =
        |text: &str| text.replace("{{name}}", &name).replace("{{crate}}", &crate_name).replace("{{sdk}}", &place);
    let own = templates::files(template).iter().map(|Source(path, text)| (*path, fill(text)));
    let brought: &[Source] = match template {
        Template::Rust | Template::Socket if sdk.is_none() => FILES_OF_SDK,
        _ => &[],
    };
    for (path, text) in own.chain(brought.iter().map(|Source(path, text)| (*path, (*text).to_owned()))) {
        write(&directory.join(path), &text)?;
    }
    Ok(format!(
        "{name}: a project from the template `{}`\n  cd {}\n  launcher dev\n",
        template.name(),
        directory.display()
    ))
}

/// A name that can be a crate's, a service's and a file's.
fn is_name(name: &str) -> bool {
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    // A crate of this name would hide the standard library's, or be no identifier.
    let taken = matches!(name, "std" | "core" | "alloc" | "test" | "proc_macro" | "worker-sdk" | "worker_sdk")
        || ["fn", "mod", "self", "super", "crate", "type", "impl", "use", "async", "match"].contains(&name);
    begins
        && !taken
        && name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The SDK in a directory, absolute: the project lies elsewhere.
fn there(path: &Path) -> Result<PathBuf, NewError> {
    let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
    if !manifest.lines().any(|line| line.trim() == "name = \"worker-sdk\"") {
        return Err(NewError::NoSdk(path.to_owned()));
    }
    fs::canonicalize(path).map_err(|source| NewError::Write { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), NewError> {
    let put = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Never over a file that somebody has put there meanwhile.
        let mut file = fs::File::create_new(path)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        if text.starts_with("#!") {
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    };
    put().map_err(|source| NewError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_crate_a_service_and_a_file_can_have() {
        for good in ["shop", "my-shop", "a1_b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1st", "-x", "a b", "a/b", "ümlaut", "std", "crate", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
