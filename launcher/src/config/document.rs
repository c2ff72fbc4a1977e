//! The file as a whole: from bytes to [`Config`], or to everything that is wrong.
//!
//! bytes → text → tree → variables → services → master. A stage whose failure makes the next one meaningless ends
//! the reading; all others go on, so that one run shows every problem.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::diagnostics::{Complaint, Diagnostic, Diagnostics, quoted};
use super::grammar::{Form, ROOT};
use super::listen::{self, Names, Resolve};
use super::reader::{Reader, Section};
use super::service::{clash, service};
use super::taken::{Site, Taken};
use super::variables::{Lookup, expand};
use super::written::{self, MAX_BYTES, Node, Value};
use super::{Address, Config, ListenOptions, LogFormat, Master, places};

/// What a newcomer sees who starts with nothing.
const SMALLEST: &str =
    "the smallest configuration is\n\nservices:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:8080";

/// Reads the configuration at `path`. Variables come from the environment of this process.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let bytes = read(path)?;
    decode_and(path, &bytes, |text| understand(path, text, &environment))
}

/// Reads only what `master:` says: enough to find a running launcher whose services cannot be read any more.
pub fn load_master(path: &Path) -> Result<Master, Diagnostics> {
    let bytes = read(path)?;
    decode_and(path, &bytes, |text| {
        let mut found = Vec::new();
        let file = absolute(path).map_err(|problem| refuse(path, text, vec![problem]))?;
        let root = match written::parse(text, &mut found) {
            Ok(root) => root,
            Err(problem) => return Err(refuse(path, text, vec![problem])),
        };
        // Duplicates elsewhere in the file are of no concern here.
        let mut reader = Reader::new(text);
        let mut node = root.and_then(|root| match root.value {
            Value::Mapping(entries) => entries.into_iter().find(|entry| entry.key == "master"),
            _ => None,
        });
        if let Some(entry) = &mut node {
            expand(&mut entry.node, &environment, &mut reader.found);
        }
        let entries = Node { span: 0..0, value: Value::Mapping(node.into_iter().collect()) };
        let section = reader.section(Some(&entries), 0..0, "", ROOT);
        let names = Names::new();
        let resolve = |name: &str, port: u16| names.resolve(name, port);
        let master = master(&mut reader, &section, &file, &resolve, &mut Taken::default());
        match reader.found.is_empty() {
            true => Ok(master),
            false => Err(refuse(path, text, reader.found)),
        }
    })
}

/// Reads a configuration that is given as text; `path` is its name, and relative paths are relative to it.
pub fn load_text(path: &Path, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Config, Diagnostics> {
    understand(path, text, &|name| Ok(variables(name)))
}

fn understand(path: &Path, text: &str, lookup: &Lookup<'_>) -> Result<Config, Diagnostics> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut found = Vec::new();
    let root = match written::parse(text, &mut found) {
        Ok(Some(root)) => Some(root),
        Ok(None) => {
            found.push(Diagnostic::error(0..0, "the file is empty").help(SMALLEST));
            None
        }
        Err(problem) => {
            found.push(problem);
            None
        }
    };
    let Some(mut root) = root else {
        return Err(refuse(path, text, found));
    };
    expand(&mut root, lookup, &mut found);
    mean(path, text, &root, found)
}

/// What a tree means that was made from `text`; `found` is what was wrong with it so far.
pub(super) fn mean(path: &Path, text: &str, root: &Node, found: Vec<Diagnostic>) -> Result<Config, Diagnostics> {
    let file = absolute(path).map_err(|problem| refuse(path, text, vec![problem]))?;
    let mut reader = Reader::new(text);
    reader.found = found;
    let names = Names::new();
    let resolve = |name: &str, port: u16| names.resolve(name, port);
    let mut taken = Taken::default();
    let mut services = BTreeMap::new();
    let mut master_read = None;
    if matches!(root.value, Value::Mapping(_)) {
        let section = reader.section(Some(root), 0..0, "", ROOT);
        let base = file.parent().unwrap_or(Path::new("/")).to_owned();
        services = read_services(&mut reader, &section, &base, &resolve, &mut taken);
        master_read = Some(master(&mut reader, &section, &file, &resolve, &mut taken));
    } else {
        reader.wrong(root, "the file", "a mapping with the key `services`");
    }
    let problems = refuse(path, text, reader.found);
    match master_read {
        Some(master) if !problems.has_errors() => Ok(Config { path: file, services, master, warnings: problems }),
        _ => Err(problems),
    }
}

fn refuse(path: &Path, text: &str, found: Vec<Diagnostic>) -> Diagnostics {
    Diagnostics::new(path.display().to_string(), text, found)
}

fn read(path: &Path) -> Result<Vec<u8>, Diagnostics> {
    let fail = |message: String| refuse(path, "", vec![Diagnostic::whole(message)]);
    let failed = |error: std::io::Error| fail(format!("the configuration cannot be read: {}", places::reason(&error)));
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits; /dev/zero would never end.
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("the configuration is larger than {}MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

fn decode_and<T>(
    path: &Path,
    bytes: &[u8],
    read: impl FnOnce(&str) -> Result<T, Diagnostics>,
) -> Result<T, Diagnostics> {
    match written::decode(bytes) {
        Ok(text) => read(&text),
        Err((text, problem)) => Err(refuse(path, &text, vec![problem])),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Diagnostic> {
    std::path::absolute(path)
        .map_err(|error| Diagnostic::whole(format!("the current directory is not known: {}", places::reason(&error))))
}

fn environment(name: &str) -> Result<Option<String>, Complaint> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Complaint::new(format!("the value of the variable {} is not UTF-8", quoted(name))))
        }
    }
}

fn read_services(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    base: &Path,
    resolve: &Resolve<'_>,
    taken: &mut Taken,
) -> BTreeMap<String, super::Service> {
    let field = root.field("services");
    debug_assert!(matches!(field.key.form, Form::Services(_)));
    let entries = match field.node.map(|node| &node.value) {
        Some(Value::Mapping(entries)) => entries.as_slice(),
        _ => &[],
    };
    match field.node {
        None => reader.error(0..0, "`services` is missing: there is nothing to run", Some(SMALLEST.to_owned())),
        Some(Node { span, value: Value::Null }) => {
            reader.error(span.clone(), "`services` is empty: there is nothing to run", Some(SMALLEST.to_owned()));
        }
        Some(Node { span, value: Value::Mapping(entries) }) if entries.is_empty() => {
            reader.error(span.clone(), "`services` is empty: there is nothing to run", Some(SMALLEST.to_owned()));
        }
        Some(Node { value: Value::Mapping(_), .. }) => {}
        Some(node) => reader.wrong(node, "services", "a mapping from names to services"),
    }
    let mut services = BTreeMap::new();
    for entry in entries {
        let read = service(reader, &entry.key, &entry.node, entry.key_span.clone(), base, resolve, taken);
        if let Some(read) = read {
            services.insert(entry.key.clone(), read);
        }
    }
    services
}

fn master(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    file: &Path,
    resolve: &Resolve<'_>,
    taken: &mut Taken,
) -> Master {
    let section = reader.subsection(root, "master");
    let base = file.parent().unwrap_or(Path::new("/"));
    let field = section.field("state_dir");
    let state_dir = match (field.node, reader.text(&field)) {
        (Some(node), Some(text)) => reader.accept(node, &field.path, places::state_dir(text, base)),
        _ => None,
    };
    let field = section.field("admin");
    let admin = match (field.node, reader.text(&field)) {
        (Some(node), Some(text)) => {
            let address = reader.accept(node, &field.path, listen::host_port(text, resolve));
            let site = Site { owner: field.path.clone(), span: node.span.clone() };
            if let Some(other) =
                address.and_then(|address| taken.take(&Address::Tcp(address), &ListenOptions::default(), site))
            {
                clash(reader, node.span.clone(), &field.path, &other);
            }
            address
        }
        _ => None,
    };
    let log = reader.subsection(&section, "log");
    let log_format = match reader.choice(&log.field("format")) {
        "json" => LogFormat::Json,
        _ => LogFormat::Pretty,
    };
    let field = log.field("file");
    let log_file = reader.text(&field).map(|text| places::file(text, base));
    Master {
        state_dir: state_dir.unwrap_or_else(|| {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            places::default_state_dir(file, runtime.as_deref())
        }),
        admin,
        spare_workers: reader.small(&section.field("spare_workers")),
        log_format,
        log_level: reader.choice(&log.field("level")).to_owned(),
        log_file,
        log_max_size: reader.size(&log.field("max_size")).unwrap_or(u64::MAX),
        log_keep: reader.small(&log.field("keep")),
    }
}
