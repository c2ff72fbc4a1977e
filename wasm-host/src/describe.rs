//! What a component is, read from its bytes. Nothing is compiled and nothing is executed.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentType, ComponentTypeDeclaration, Encoding,
    InstanceTypeDeclaration, Parser, Payload,
};

use crate::componentise::componentised;
use crate::error::PluginError;
use crate::{Manifest, Purpose, World};

/// The custom section by which a component says that its instances may serve many requests.
pub const REUSABLE: &str = "launcher:reusable";

/// A component, described for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What it is to the launcher; `None`: it exports nothing that the launcher serves.
    pub manifest: Option<Manifest>,
    /// It is a core module of which a component is made.
    pub was_module: bool,
    /// Bytes of the component (of the binary form, if it was given as text).
    pub size: usize,
    /// Names of its exports, in order.
    pub exports: Vec<String>,
    /// Names of its imports, in order.
    pub imports: Vec<String>,
    /// It can read its environment variables (`env:`).
    pub uses_env: bool,
    /// It can read its configuration (`config:`).
    pub uses_config: bool,
    /// It can open files in its directories (`wasm.dirs`).
    pub uses_dirs: bool,
    /// It can open connections (`wasm.network`).
    pub uses_network: bool,
}

/// Reads a component, binary or text.
pub fn describe(source: &[u8]) -> Result<Description, PluginError> {
    let (binary, was_module) = componentised(binary(source)?)?;
    Ok(Description { was_module, ..describe_binary(&binary)? })
}

/// The binary form of a component that is binary or text.
pub(crate) fn binary(source: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, PluginError> {
    if source.starts_with(MAGIC) {
        return Ok(source.into());
    }
    // A file that ends within the magic number.
    if !source.is_empty() && MAGIC.starts_with(source) {
        return Err(PluginError::Truncated { size: source.len(), detail: "its header is incomplete".into() });
    }
    if let Ok(text) = std::str::from_utf8(source)
        && is_text_format(text)
    {
        let binary = wat::parse_str(text).map_err(|error| PluginError::Text { detail: error.to_string() })?;
        return Ok(binary.into());
    }
    Err(PluginError::NotWasm { found: first_bytes(source) })
}

const MAGIC: &[u8] = b"\0asm";

/// Whether text is the text format: its first token is a parenthesis, whatever comments stand before it.
fn is_text_format(text: &str) -> bool {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix(";;") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if let Some(comment) = rest.strip_prefix("(;") {
            rest = comment.split_once(";)").map_or("", |(_, after)| after).trim_start();
        } else {
            return rest.starts_with('(');
        }
    }
}

fn first_bytes(source: &[u8]) -> String {
    let lower: Vec<u8> = source
        .iter()
        .copied()
        .skip_while(u8::is_ascii_whitespace)
        .take(16)
        .map(|byte| byte.to_ascii_lowercase())
        .collect();
    let known = match source {
        [] => Some("the file is empty"),
        [0x7f, b'E', b'L', b'F', ..] => {
            Some("it is an ELF file, a native program or library (a native plugin's name ends in .so)")
        }
        [0x1f, 0x8b, ..] => Some("it is compressed with gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("it is compressed with zstd"),
        [b'P', b'K', 3, 4, ..] => Some("it is a zip archive"),
        [b'#', b'!', ..] => Some("it is a script"),
        [b'M', b'Z', ..] => Some("it is a Windows program"),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] => Some("it is a macOS program"),
        _ if lower.starts_with(b"<!doctype") || lower.starts_with(b"<html") => {
            Some("it is an HTML page, perhaps an error page that was saved by a download")
        }
        _ if source.iter().all(|byte| *byte == 0) => Some("it consists of zeros"),
        _ => None,
    };
    match known {
        Some(known) => known.to_owned(),
        None => {
            let start = &source[..source.len().min(16)];
            format!("it begins with \"{}\"", start.escape_ascii())
        }
    }
}

/// Reads a binary component.
pub(crate) fn describe_binary(binary: &[u8]) -> Result<Description, PluginError> {
    let walk = Walk::over(binary).map_err(|error| {
        if error.message().contains("unexpected end") {
            PluginError::Truncated { size: binary.len(), detail: error.to_string() }
        } else {
            PluginError::Invalid { detail: error.to_string() }
        }
    })?;
    let world = world(&walk.exports);
    let concurrency = walk.concurrency
        || matches!(world, Some(World::Http03 | World::Command03))
        || walk.imports.iter().any(|name| is_version(name, "0.3."));
    let uses =
        |prefixes: &[&str]| walk.imports.iter().any(|import| prefixes.iter().any(|prefix| import.starts_with(prefix)));
    Ok(Description {
        manifest: world.map(|world| Manifest {
            world,
            concurrency,
            reusable: walk.reusable,
            purpose: Purpose::Production,
        }),
        was_module: false,
        size: binary.len(),
        uses_env: uses(&["wasi:cli/environment"]),
        uses_config: uses(&["wasi:config/store"]),
        uses_dirs: uses(&["wasi:filesystem/"]),
        uses_network: uses(&[
            "wasi:sockets/tcp",
            "wasi:sockets/udp",
            "wasi:sockets/types",
            "wasi:sockets/ip-name-lookup",
            "wasi:http/outgoing-handler",
            "wasi:http/client",
        ]),
        exports: walk.exports,
        imports: walk.imports,
    })
}

/// The export to serve; the newer one if there are several.
fn world(exports: &[String]) -> Option<World> {
    const WORLDS: [(&str, &str, World); 4] = [
        ("wasi:http/handler@", "0.3.", World::Http03),
        ("wasi:http/incoming-handler@", "0.2.", World::Http02),
        ("wasi:cli/run@", "0.3.", World::Command03),
        ("wasi:cli/run@", "0.2.", World::Command02),
    ];
    WORLDS.into_iter().find_map(|(interface, version, world)| {
        exports.iter().any(|export| export.starts_with(interface) && is_version(export, version)).then_some(world)
    })
}

/// Whether an interface's name ends in a released version with this prefix.
fn is_version(name: &str, prefix: &str) -> bool {
    name.split_once('@').is_some_and(|(_, version)| version.starts_with(prefix) && !version.contains('-'))
}

/// One pass over all sections, nested components and modules included.
#[derive(Default)]
struct Walk {
    concurrency: bool,
    reusable: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Walk {
    fn over(binary: &[u8]) -> wasmparser::Result<Walk> {
        let mut walk = Walk::default();
        let mut depth = 0_usize;
        // A toolchain's linker keeps an author's custom section in the core module; that of a component that was
        // composed into this one speaks for itself only.
        let mut own = Vec::new();
        for payload in Parser::new(0).parse_all(binary) {
            match payload? {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    own.push(depth == 1 || depth == 2 && encoding == Encoding::Module);
                }
                Payload::End(_) => {
                    depth = depth.saturating_sub(1);
                    own.pop();
                }
                Payload::CustomSection(section) if own.last() == Some(&true) => {
                    walk.reusable |= section.name() == REUSABLE;
                }
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        walk.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        walk.exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::ComponentTypeSection(section) => {
                    for ty in section {
                        walk.concurrency |= is_async_type(&ty?);
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section {
                        walk.concurrency |= is_async_function(&function?);
                    }
                }
                _ => {}
            }
        }
        Ok(walk)
    }
}

fn is_async_type(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(defined) => {
            matches!(defined, ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_))
        }
        ComponentType::Component(declarations) => {
            declarations.iter().any(|item| matches!(item, ComponentTypeDeclaration::Type(ty) if is_async_type(ty)))
        }
        ComponentType::Instance(declarations) => {
            declarations.iter().any(|item| matches!(item, InstanceTypeDeclaration::Type(ty) if is_async_type(ty)))
        }
        ComponentType::Resource { .. } => false,
    }
}

/// Everything but the canonical functions of 0.2: what the engine without concurrency support lacks is found by
/// exclusion, so that a new one is not forgotten.
fn is_async_function(function: &CanonicalFunction) -> bool {
    let is_async = |options: &[CanonicalOption]| {
        options.iter().any(|option| matches!(option, CanonicalOption::Async | CanonicalOption::Callback(_)))
    };
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => is_async(options),
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}
