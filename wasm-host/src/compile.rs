//! From a component's bytes to machine code. The guest is not executed.
//!
//! Flow: text to binary, [`describe`](crate::describe()), compile, look every import up in the linker, serialize.
//! Cranelift takes threads and hundreds of megabytes, so this belongs in a process that ends afterwards.

use wasmtime::component::Component;

use crate::componentise::componentised;
use crate::describe::{Description, binary, describe_binary};
use crate::engine::{Allocation, engine};
use crate::error::{PluginError, chain};
use crate::linker::linker;
use crate::{Manifest, Purpose};

/// Checks and compiles a component, `.wasm` or `.wat`. The result loads in any process of the same build on the same
/// kind of processor.
pub fn compile(source: &[u8], purpose: Purpose) -> Result<(Manifest, Vec<u8>), PluginError> {
    let (binary, _) = componentised(binary(source)?)?;
    let description = describe_binary(&binary)?;
    let Some(manifest) = description.manifest.clone() else {
        return Err(PluginError::NoWorld {
            exports: listed(&description.exports),
            near: nearest(&description.exports),
        });
    };
    let missing = unknown_imports(&description);
    if !missing.is_empty() {
        let hints = missing.iter().filter_map(|import| hint(import)).collect::<Vec<_>>().concat();
        return Err(PluginError::MissingImport { imports: missing.join(", "), hints });
    }
    let concurrency = manifest.concurrency;
    // The pool would only take address space: the compiled form is the same.
    let engine = engine(concurrency, Allocation::OnDemand, purpose)?;
    let component =
        Component::from_binary(&engine, &binary).map_err(|error| PluginError::Invalid { detail: chain(&error) })?;
    let linker =
        linker(&engine, concurrency, manifest.world).map_err(|error| PluginError::Engine { detail: chain(&error) })?;
    linker.instantiate_pre(&component).map_err(|error| PluginError::ImportMismatch { detail: chain(&error) })?;
    let compiled = component.serialize().map_err(|error| PluginError::Invalid { detail: chain(&error) })?;
    Ok((Manifest { purpose, ..manifest }, compiled))
}

/// Packages of interfaces that the linker has, and their versions.
const PROVIDED: [(&str, &[&str]); 9] = [
    ("wasi:cli/", &["0.2.", "0.3."]),
    ("wasi:clocks/", &["0.2.", "0.3."]),
    ("wasi:filesystem/", &["0.2.", "0.3."]),
    ("wasi:io/", &["0.2."]),
    ("wasi:random/", &["0.2.", "0.3."]),
    ("wasi:sockets/", &["0.2.", "0.3."]),
    ("wasi:http/", &["0.2.", "0.3."]),
    ("wasi:config/", &["0.2."]),
    ("launcher:messages/", &["0.1."]),
];

/// Imports of packages or versions that nobody provides: all of them, where the linker would name the first.
fn unknown_imports(description: &Description) -> Vec<String> {
    let provided = |import: &str| {
        PROVIDED.iter().any(|(package, versions)| {
            import.starts_with(package)
                && import
                    .split_once('@')
                    .is_some_and(|(_, version)| versions.iter().any(|prefix| version.starts_with(prefix)))
        })
    };
    description
        .imports
        .iter()
        // Plain names can be types and modules, which need no provider; the linker judges those.
        .filter(|import| import.contains(':') && !provided(import))
        .cloned()
        .collect()
}

/// What a person can do about an import that nobody provides.
fn hint(import: &str) -> Option<String> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let package = interface.split('/').next().unwrap_or_default();
    if PROVIDED.iter().any(|(provided, _)| provided.trim_end_matches('/') == package) {
        let versions = "released versions 0.2.x and 0.3.x";
        return Some(format!("; {interface} is provided in {versions}, not in {version}: build with newer bindings"));
    }
    match package.split_once(':') {
        Some(("wasi", _)) => {
            Some(format!("; {package} is provided by no setting: do without it, or link an implementation"))
        }
        Some(_) => Some(format!("; {package} is the author's own: link the component that exports it (`wac plug`)")),
        None => None,
    }
}

fn listed(exports: &[String]) -> String {
    if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") }
}

/// What is missing in the exports, as far as they tell what was meant.
fn nearest(exports: &[String]) -> String {
    let begins = |prefix: &str| exports.iter().find(|export| export.starts_with(prefix));
    if let Some(draft) = begins("wasi:http/") {
        return format!("; {draft} is of another version: build with bindings of WASI 0.2 or 0.3");
    }
    if let Some(draft) = begins("wasi:cli/run") {
        return format!("; {draft} is of another version: build with bindings of WASI 0.2 or 0.3");
    }
    String::new()
}
