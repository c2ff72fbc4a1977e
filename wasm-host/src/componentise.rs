//! A core module that was made for a component and not wrapped into one yet: what `wasm-tools component new` does.
//!
//! `cargo build --target wasm32-wasip1` makes such modules: the interfaces that the code speaks are written down in custom
//! sections, and the standard library's WASI preview 1 is all that stands between. The adapter from preview 1 to 0.2 is
//! part of this binary. A module that names no interfaces cannot be helped: nobody knows what its functions mean.

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER,
};
use wasmparser::{Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use crate::error::PluginError;

/// The component of a core module; anything else as it is. `true`: it was a module.
pub(crate) fn componentised(binary: Cow<'_, [u8]>) -> Result<(Cow<'_, [u8]>, bool), PluginError> {
    let Some(module) = Module::read(&binary) else { return Ok((binary, false)) };
    if !module.names_interfaces {
        return Err(PluginError::CoreModule { how: module.how() });
    }
    let encoded = ComponentEncoder::default()
        .module(&binary)
        .and_then(|encoder| encoder.adapter(PREVIEW1, ADAPTER))
        .and_then(|encoder| encoder.validate(true).encode());
    match encoded {
        Ok(component) => Ok((Cow::Owned(component), true)),
        Err(error) => Err(PluginError::NotComponentised { detail: format!("{error:#}") }),
    }
}

/// What a core module says of itself.
#[derive(Default)]
struct Module {
    /// It has the custom sections of a component to be.
    names_interfaces: bool,
    preview1: bool,
    start: bool,
    go: bool,
    emscripten: bool,
}

impl Module {
    /// `None`: it is no core module, or a broken one, which others can say better.
    fn read(binary: &[u8]) -> Option<Module> {
        let mut module = Module::default();
        let mut is_module = false;
        for payload in Parser::new(0).parse_all(binary) {
            match payload.ok()? {
                Payload::Version { encoding, .. } if !is_module => {
                    is_module = encoding == Encoding::Module;
                    if !is_module {
                        return None;
                    }
                }
                Payload::CustomSection(section) => {
                    module.names_interfaces |= section.name().starts_with("component-type");
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let from = import.ok()?.module;
                        module.preview1 |= from == PREVIEW1;
                        module.go |= from == "gojs" || from == "go";
                        module.emscripten |= from == "env";
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        module.start |= export.ok()?.name == "_start";
                    }
                }
                _ => {}
            }
        }
        is_module.then_some(module)
    }

    /// What its author can do.
    fn how(&self) -> String {
        let what = match self {
            Module { go: true, .. } => "it was made by Go for a browser; use TinyGo with -target=wasip2",
            Module { emscripten: true, preview1: false, .. } => {
                "it wants functions from a JavaScript host, as Emscripten makes them"
            }
            Module { start: true, preview1: true, .. } => "it is a program for WASI preview 1, and answers no requests",
            Module { preview1: true, .. } => "it is a library for WASI preview 1 that names no interfaces",
            _ => "it names no interfaces, so nobody knows what its functions mean",
        };
        format!(
            "{what}. In Rust put #[worker_sdk::http] on a handler and build it for the target wasm32-wasip2; in other \
             languages export wasi:http/incoming-handler with their bindings generator, then `wasm-tools component new`"
        )
    }
}
