//! From a component's bytes to machine code. The guest is not executed.
//!
//! Flow: text to binary, [`describe`](crate::describe()), compile, look every import up in the linker, serialize.
//! Cranelift takes threads and hundreds of megabytes, so this belongs in a process that ends afterwards.

use wasmtime::component::Component;

use crate::Manifest;
use crate::describe::{Description, binary, describe_binary};
use crate::engine::{Allocation, engine};
use crate::error::{PluginError, chain};
use crate::linker::linker;

/// Checks and compiles a component, `.wasm` or `.wat`. The result loads in any process of the same build on the same
/// kind of processor.
pub fn compile(source: &[u8]) -> Result<(Manifest, Vec<u8>), PluginError> {
    let binary = binary(source)?;
    let description = describe_binary(&binary)?;
    let missing = unknown_imports(&description);
    if !missing.is_empty() {
        return Err(PluginError::MissingImport { imports: missing.join(", ") });
    }
    let concurrency = description.manifest.concurrency;
    // The pool would only take address space: the compiled form is the same.
    let engine = engine(concurrency, Allocation::OnDemand)?;
    let component =
        Component::from_binary(&engine, &binary).map_err(|error| PluginError::Invalid { detail: chain(&error) })?;
    let linker = linker(&engine, concurrency).map_err(|error| PluginError::Engine { detail: chain(&error) })?;
    linker.instantiate_pre(&component).map_err(|error| PluginError::ImportMismatch { detail: chain(&error) })?;
    let compiled = component.serialize().map_err(|error| PluginError::Invalid { detail: chain(&error) })?;
    Ok((description.manifest, compiled))
}

/// Packages of interfaces that the linker has, and their versions.
const PROVIDED: [(&str, &[&str]); 8] = [
    ("wasi:cli/", &["0.2.", "0.3."]),
    ("wasi:clocks/", &["0.2.", "0.3."]),
    ("wasi:filesystem/", &["0.2.", "0.3."]),
    ("wasi:io/", &["0.2."]),
    ("wasi:random/", &["0.2.", "0.3."]),
    ("wasi:sockets/", &["0.2.", "0.3."]),
    ("wasi:http/", &["0.2.", "0.3."]),
    ("wasi:config/", &["0.2."]),
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
