//! From the path of a URL to a file below the root, and nowhere else.
//!
//! The path is decoded once; a segment may be no `..` and hold no separator. Links are followed here, step by step,
//! instead of by the system, so that each step can be seen to stay below the root: `realpath` does not exist in a
//! component, and would be checked too late natively. (Who can *write* below the root can win a race against it.)

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::Config;

/// Links in one path, as in Linux (path_resolution(7)).
const LINKS: u32 = 40;

/// What a URL leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// A regular file.
    File(PathBuf),
    /// A directory whose URL lacks the slash at its end.
    Directory,
    /// Nothing that is served.
    Nothing,
}

/// Finds a file.
pub(crate) fn resolve(root: &Path, url: &str, config: &Config) -> io::Result<Found> {
    let Some(mut segments) = segments(url, config.hidden) else {
        return Ok(Found::Nothing);
    };
    let slash = url.ends_with('/');
    let Some(path) = follow(root, segments.iter().map(String::as_str))? else {
        return Ok(Found::Nothing);
    };
    let metadata = fs::symlink_metadata(&path)?;
    if metadata.is_file() {
        return Ok(if slash { Found::Nothing } else { Found::File(path) });
    }
    if !metadata.is_dir() {
        // A pipe would wait for a writer, a device may do anything.
        return Ok(Found::Nothing);
    }
    if !slash {
        return Ok(Found::Directory);
    }
    segments.push(config.index.clone());
    match follow(root, segments.iter().map(String::as_str))? {
        Some(path) if fs::symlink_metadata(&path)?.is_file() => Ok(Found::File(path)),
        _ => Ok(Found::Nothing),
    }
}

/// Decoded segments; `None`: a path that cannot name a file of ours.
fn segments(url: &str, hidden: bool) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    for segment in url.split('/') {
        let segment = decode(segment)?;
        match segment.as_str() {
            "" | "." => continue,
            ".." => return None,
            // A separator of any system, an end of text, a drive or stream.
            other if other.contains(['/', '\\', '\0']) => return None,
            other if other.starts_with('.') && !hidden && other != ".well-known" => return None,
            _ => segments.push(segment),
        }
    }
    Some(segments)
}

/// Percent-decoding (RFC 3986 section 2.1); what is not UTF-8 or broken names nothing.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Follows names from the root through links; `None`: it does not exist or leads out.
fn follow<'a>(root: &Path, names: impl Iterator<Item = &'a str>) -> io::Result<Option<PathBuf>> {
    let mut todo: VecDeque<std::ffi::OsString> = names.map(Into::into).collect();
    let mut path = root.to_path_buf();
    let mut depth = 0_usize;
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            // Only a link's target brings these.
            if depth == 0 {
                return Ok(None);
            }
            depth -= 1;
            path.pop();
            continue;
        }
        path.push(&name);
        depth += 1;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // A name that is too long does not exist.
            Err(error) if error.raw_os_error().is_some_and(|code| code == NAME_TOO_LONG) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !metadata.is_symlink() {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Ok(None);
        }
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            // How a component's host answers where a link leads out of the directory that it gave.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error),
        };
        path.pop();
        depth -= 1;
        let relative = if target.is_absolute() {
            let Ok(below) = target.strip_prefix(root) else {
                return Ok(None);
            };
            for _ in 0..depth {
                path.pop();
            }
            depth = 0;
            below.to_path_buf()
        } else {
            target
        };
        for component in relative.components().rev() {
            match component {
                Component::Normal(name) => todo.push_front(name.to_owned()),
                Component::ParentDir => todo.push_front("..".into()),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Ok(None),
            }
        }
    }
    Ok(Some(path))
}

/// ENAMETOOLONG: of Linux, of WASI.
const NAME_TOO_LONG: i32 = if cfg!(target_family = "wasm") { 37 } else { 36 };

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn config(hidden: bool) -> Config {
        Config {
            root: PathBuf::new(),
            index: "index.html".to_owned(),
            cache_control: None,
            hidden,
            types: Default::default(),
        }
    }

    fn tree() -> tempfile::TempDir {
        let outside = tempfile::tempdir().expect("the test tree");
        let root = outside.path().join("site");
        fs::create_dir_all(root.join("a/b")).expect("the test tree");
        fs::create_dir_all(root.join("empty")).expect("the test tree");
        fs::write(outside.path().join("secret"), "secret").expect("the test tree");
        fs::write(root.join("index.html"), "index").expect("the test tree");
        fs::write(root.join("a/b/file.txt"), "file").expect("the test tree");
        fs::write(root.join("with space"), "space").expect("the test tree");
        fs::write(root.join(".env"), "hidden").expect("the test tree");
        symlink("../secret", root.join("out")).expect("the test tree");
        symlink("../../../../../../../../etc/passwd", root.join("far")).expect("the test tree");
        symlink("/etc/passwd", root.join("absolute")).expect("the test tree");
        symlink(outside.path(), root.join("up")).expect("the test tree");
        symlink("a/../a/b", root.join("inside")).expect("the test tree");
        symlink(root.join("a"), root.join("inside-absolute")).expect("the test tree");
        symlink("circle-2", root.join("circle-1")).expect("the test tree");
        symlink("circle-1", root.join("circle-2")).expect("the test tree");
        symlink("../../..", root.join("a/b/parent")).expect("the test tree");
        outside
    }

    #[test]
    fn files_and_directories_are_found() {
        let tree = tree();
        let root = tree.path().join("site");
        let file = Found::File(root.join("a/b/file.txt"));
        for (url, found) in [
            ("/", Found::File(root.join("index.html"))),
            ("/a/b/file.txt", Found::File(root.join("a/b/file.txt"))),
            ("//a//b/./file.txt", Found::File(root.join("a/b/file.txt"))),
            ("/with%20space", Found::File(root.join("with space"))),
            ("/inside/file.txt", Found::File(root.join("a/b/file.txt"))),
            ("/inside-absolute/b/file.txt", file),
            ("/a", Found::Directory),
            ("/empty/", Found::Nothing),
            ("/a/b/file.txt/", Found::Nothing),
            ("/nothing", Found::Nothing),
            ("/index.html/x", Found::Nothing),
        ] {
            assert_eq!(resolve(&root, url, &config(false)).expect("the test tree"), found, "{url}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let tree = tree();
        let root = tree.path().join("site");
        for url in [
            "/../secret",
            "/..%2fsecret",
            "/%2e%2e/secret",
            "/a/../../secret",
            "/a/%2E%2E/%2e%2e/secret",
            "/..\\secret",
            "/%5c..%5csecret",
            "/out",
            "/far",
            "/absolute",
            "/up/secret",
            "/up/site/index.html",
            "/a/b/parent/secret",
            "/circle-1",
            "/index.html%00.txt",
            "/%",
            "/%zz",
            "/%ff",
            "/.env",
            "/a/.git/config",
        ] {
            assert_eq!(resolve(&root, url, &config(false)).expect("the test tree"), Found::Nothing, "{url}");
        }
        assert_eq!(resolve(&root, "/.env", &config(true)).expect("the test tree"), Found::File(root.join(".env")));
        let long = format!("/{}", "x".repeat(5000));
        assert_eq!(resolve(&root, &long, &config(false)).expect("the test tree"), Found::Nothing);
    }
}
