//! Which files matter to a build.
//!
//! Where cargo has written down what an artefact was made from, those files, the manifests around them, and whatever
//! else becomes a Rust file beside them. Elsewhere everything in the build's directory that git would not ignore. What
//! the build itself makes never matters, or every build would lead to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use ignore::gitignore::Gitignore;
use sha2::{Digest, Sha256};

use super::dep_info;

/// Directories of a tree that are watched at most; more is somebody's home.
const MOST: usize = 4096;
/// Files of a tree whose content is known from the start, at most.
const KNOWN: usize = 2048;
/// Files up to this many bytes are compared by their content.
const COMPARED: u64 = 8 << 20;
/// A file that so many builds in a row have changed is one of theirs.
const OWN: u32 = 3;

/// What one build is made from and makes.
#[derive(Debug)]
pub(super) struct Sources {
    /// Where the build runs.
    directory: PathBuf,
    /// The plugins that it makes.
    artefacts: BTreeSet<PathBuf>,
    /// What the launcher itself reads and writes.
    excluded: BTreeSet<PathBuf>,
    /// Written down by cargo; `None`: nobody has.
    listed: Option<Listed>,
    /// The last build failed: what it would have read is not known.
    pub(super) failed: bool,
    /// The content of files as last seen.
    seen: HashMap<PathBuf, Content>,
    /// What files that have changed since the last good build held then; `None`: nobody knows.
    built: HashMap<PathBuf, Option<Content>>,
    /// Builds in a row during which a file changed.
    suspects: BTreeMap<PathBuf, u32>,
    ignored: Ignored,
    /// The tree has more directories than are watched.
    pub(super) cut: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    sources: BTreeSet<PathBuf>,
    manifests: BTreeSet<PathBuf>,
    /// Directories that hold a source.
    directories: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Absent,
    Hash([u8; 32]),
    Large(u64, std::time::SystemTime),
}

/// What a change of a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing for this build.
    None,
    /// Build again.
    Source,
    /// Nothing any more: the build writes it itself. Said once for each file.
    Output,
}

impl Sources {
    pub(super) fn new(directory: PathBuf, artefacts: BTreeSet<PathBuf>, excluded: BTreeSet<PathBuf>) -> Sources {
        let ignored = Ignored::new(&directory);
        let mut sources = Sources {
            directory,
            artefacts,
            excluded,
            listed: None,
            failed: false,
            seen: HashMap::new(),
            built: HashMap::new(),
            suspects: BTreeMap::new(),
            ignored,
            cut: false,
        };
        sources.read_again();
        sources
    }

    /// What cargo has written down may have changed. The files that were not listed before.
    pub(super) fn read_again(&mut self) -> Vec<PathBuf> {
        let found: Vec<_> = self.artefacts.iter().map(|file| dep_info::sources(file, &self.directory)).collect();
        // One artefact that nobody has written about: its sources may be anywhere.
        let listed: Option<BTreeSet<PathBuf>> =
            found.into_iter().collect::<Option<Vec<_>>>().map(|all| all.into_iter().flatten().collect());
        let listed = listed.map(|sources| Listed::of(sources, &self.directory));
        if listed == self.listed {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.listed, listed);
        let files: Vec<PathBuf> =
            self.listed.iter().flat_map(|listed| listed.sources.union(&listed.manifests)).cloned().collect();
        for file in &files {
            self.seen.entry(file.clone()).or_insert_with(|| Content::of(file));
        }
        let was = |file: &PathBuf| {
            before.as_ref().is_some_and(|before| before.sources.contains(file) || before.manifests.contains(file))
        };
        files.into_iter().filter(|file| !was(file)).collect()
    }

    /// A build was good: it is of what the sources hold now.
    pub(super) fn note_good_build(&mut self) {
        self.failed = false;
        self.built.clear();
    }

    /// The sources are again what the last good build was made from.
    pub(super) fn are_as_built(&self) -> bool {
        self.built.iter().all(|(path, content)| content.is_some() && self.seen.get(path) == content.as_ref())
    }

    /// Cargo has written down what matters.
    pub(super) fn is_listed(&self) -> bool {
        self.listed.is_some()
    }

    /// Directories to be watched for changes of names and contents.
    pub(super) fn directories(&mut self) -> BTreeSet<PathBuf> {
        if let Some(listed) = self.listed.as_ref().filter(|_| !self.failed) {
            let manifests = listed.manifests.iter().filter_map(|file| file.parent()).filter(|parent| parent.exists());
            return listed.directories.iter().cloned().chain(manifests.map(Path::to_owned)).collect();
        }
        let mut found = BTreeSet::new();
        let listed = self.listed.iter().flat_map(|listed| listed.directories.iter().cloned());
        let mut open: Vec<PathBuf> = std::iter::once(self.directory.clone()).chain(listed).collect();
        while let Some(directory) = open.pop() {
            if found.len() >= MOST {
                self.cut = true;
                break;
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            if !found.insert(directory) {
                continue;
            }
            for entry in entries.flatten() {
                let path = entry.path();
                // What it holds before the first change, as far as that is cheap to know.
                if self.listed.is_none()
                    && self.seen.len() < KNOWN
                    && entry.file_type().is_ok_and(|kind| kind.is_file())
                    && !self.seen.contains_key(&path)
                    && self.matters(&path)
                {
                    self.seen.insert(path, Content::of(&entry.path()));
                    continue;
                }
                // Not through links: they may lead in a circle.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !self.is_ignored(&entry.path(), true) {
                    open.push(entry.path());
                }
            }
        }
        found
    }

    /// What it means that a file was written, made, moved or deleted; `building`: while this build ran.
    pub(super) fn judge(&mut self, path: &Path, building: bool) -> Meaning {
        if path.file_name().is_some_and(|name| name == ".gitignore") {
            self.ignored.forget();
        }
        if !self.matters(path) {
            return Meaning::None;
        }
        let content = Content::of(path);
        let before = self.seen.insert(path.to_owned(), content);
        // Saved as it was, or written and deleted between two looks.
        if before == Some(content) || before.is_none() && content == Content::Absent {
            return Meaning::None;
        }
        // Package managers write theirs in the first build, and whenever a manifest has changed before.
        const LOCKS: [&str; 5] = ["Cargo.lock", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "uv.lock"];
        if building && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| LOCKS.contains(&name)) {
            return Meaning::None;
        }
        self.built.entry(path.to_owned()).or_insert(before);
        if !building {
            self.suspects.remove(path);
            return Meaning::Source;
        }
        let count = self.suspects.entry(path.to_owned()).or_insert(0);
        *count += 1;
        if *count > OWN {
            self.excluded.insert(path.to_owned());
            return Meaning::Output;
        }
        Meaning::Source
    }

    fn matters(&mut self, path: &Path) -> bool {
        if self.artefacts.contains(path) || self.excluded.iter().any(|excluded| path.starts_with(excluded)) {
            return false;
        }
        if let Some(listed) = &self.listed {
            if listed.sources.contains(path) || listed.manifests.contains(path) {
                return true;
            }
            let rust = path.extension().is_some_and(|extension| extension == "rs");
            let beside = path.parent().is_some_and(|parent| listed.directories.contains(parent));
            if !(self.failed || rust && beside) {
                return false;
            }
        }
        !self.is_ignored(path, false)
    }

    /// Whether a directory that has just appeared is to be watched.
    pub(super) fn enters(&mut self, directory: &Path) -> bool {
        !self.excluded.iter().any(|excluded| directory.starts_with(excluded)) && !self.is_ignored(directory, true)
    }

    fn is_ignored(&mut self, path: &Path, directory: bool) -> bool {
        if self.excluded.contains(path) || is_never_a_source(path, directory) {
            return true;
        }
        self.ignored.matches(path, directory)
    }

    /// A file's name for people.
    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.directory).unwrap_or(path).display().to_string()
    }
}

impl Listed {
    fn of(sources: BTreeSet<PathBuf>, directory: &Path) -> Listed {
        let directories: BTreeSet<PathBuf> =
            sources.iter().filter_map(|source| source.parent()).map(Path::to_owned).collect();
        let starts = directories.iter().map(PathBuf::as_path).chain([directory]);
        let around: BTreeSet<&Path> = starts.flat_map(Path::ancestors).collect();
        const MANIFESTS: [&str; 5] =
            ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml", "rust-toolchain"];
        let manifests = around.iter().flat_map(|directory| MANIFESTS.map(|name| directory.join(name)));
        let manifests: BTreeSet<PathBuf> = manifests.filter(|manifest| manifest.is_file()).collect();
        let scripts = manifests.iter().map(|manifest| manifest.with_file_name("build.rs"));
        let scripts: Vec<PathBuf> = scripts.filter(|script| script.is_file()).collect();
        Listed { sources, directories, manifests: manifests.into_iter().chain(scripts).collect() }
    }
}

impl Content {
    fn of(path: &Path) -> Content {
        let Ok(file) = crate::sys::file::open_regular(path) else { return Content::Absent };
        let Ok(metadata) = file.metadata() else { return Content::Absent };
        if metadata.len() > COMPARED {
            let modified = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
            return Content::Large(metadata.len(), modified);
        }
        let mut bytes = Vec::new();
        match file.take(COMPARED).read_to_end(&mut bytes) {
            Ok(_) => Content::Hash(Sha256::digest(&bytes).into()),
            Err(_) => Content::Absent,
        }
    }
}

/// What no build is made from, whether somebody says so or not: what tools and editors leave behind.
fn is_never_a_source(path: &Path, directory: bool) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return true };
    if directory {
        let known = matches!(name, "target" | "node_modules" | "__pycache__" | "venv");
        return known || name.starts_with('.') && name != ".cargo" || path.join("CACHEDIR.TAG").exists();
    }
    let swap = name.starts_with('.') && [".swp", ".swo", ".swx"].iter().any(|end| name.ends_with(end));
    // vim tries with `4913` whether it may write; emacs locks with `.#` and saves itself with `#`.
    swap || name.ends_with('~') || name == "4913" || name.starts_with(".#") || name.starts_with('#')
}

/// The ignore files of git that concern a directory.
#[derive(Debug)]
struct Ignored {
    /// The topmost directory whose file counts: that of the repository.
    top: PathBuf,
    files: HashMap<PathBuf, Option<Gitignore>>,
}

impl Ignored {
    fn new(directory: &Path) -> Ignored {
        let repository = directory.ancestors().find(|ancestor| ancestor.join(".git").exists());
        Ignored { top: repository.unwrap_or(directory).to_owned(), files: HashMap::new() }
    }

    fn forget(&mut self) {
        self.files.clear();
    }

    /// The deepest file that says anything decides (gitignore(5)).
    fn matches(&mut self, path: &Path, directory: bool) -> bool {
        let top = self.top.clone();
        for ancestor in path.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(&top)) {
            let file = self.files.entry(ancestor.to_owned()).or_insert_with(|| {
                let file = ancestor.join(".gitignore");
                file.is_file().then(|| Gitignore::new(file).0)
            });
            if let Some(file) = file {
                let verdict = file.matched_path_or_any_parents(path, directory);
                if !verdict.is_none() {
                    return verdict.is_ignore();
                }
            }
        }
        false
    }
}
