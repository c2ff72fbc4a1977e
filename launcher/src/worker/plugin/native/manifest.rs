//! What a native plugin is, read from its ELF file without executing any of it.
//!
//! Flow: bytes → shape of the file → the exported data symbol `launcher_plugin` → its plain fields. `check`, `inspect`
//! and the verification before a reload use this. What only the dynamic linker can know (unresolved symbols, missing
//! libraries) is reported by `NativeHttp::load`.

use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSegment as _, ObjectSymbol as _};
use serde::{Deserialize, Serialize};
use worker_sdk::abi;

/// What a native plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeManifest {
    /// Name, from its Cargo.toml when it was written in Rust.
    pub name: String,
    /// Version of the plugin.
    pub version: String,
    /// How it is served.
    pub kind: NativeKind,
    /// Version of the interface that it was built for.
    pub abi: u32,
    /// Its panics end the worker (`panic = "abort"`): worth a warning.
    pub panic_aborts: bool,
    /// Shared libraries that it needs, by name.
    pub needed: Vec<String>,
}

/// How a native plugin is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NativeKind {
    /// The worker speaks HTTP and calls it for each request.
    Http,
    /// It is given the listening sockets.
    Socket,
}

/// Why bytes are no native plugin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Not ELF at all.
    #[error("not a shared library: {0}; a native plugin is an ELF .so, built with `crate-type = [\"cdylib\"]`")]
    NotElf(&'static str),
    /// ELF, but not one that dlopen takes.
    #[error("an ELF {0}, not a shared library: build it with `crate-type = [\"cdylib\"]` (C: `-shared -fPIC`)")]
    NotShared(&'static str),
    /// For another machine.
    #[error("built for {found}, this launcher runs on {}: build it for this machine", std::env::consts::ARCH)]
    Architecture {
        /// The file's.
        found: String,
    },
    /// It ends before its own tables say.
    #[error("truncated: its tables reach to byte {wanted}, the file has {found}; was it copied while it was written?")]
    Truncated {
        /// Bytes that the tables speak of.
        wanted: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Its tables contradict each other.
    #[error("damaged: {0}")]
    Damaged(String),
    /// It does not export the descriptor.
    #[error(
        "no symbol `launcher_plugin`{near}: put #[worker_sdk::http] or #[worker_sdk::socket] on a function, or export the descriptor of worker.h"
    )]
    NoDescriptor {
        /// What it exports instead; empty or begins with "; ".
        near: String,
    },
    /// The symbol is there but is not a descriptor.
    #[error("the symbol `launcher_plugin` is not a descriptor: {0}; see worker.h")]
    NotDescriptor(&'static str),
    /// Another version of the interface.
    #[error(
        "built for version {found} of the plugin interface, this launcher speaks {}: rebuild it with this launcher's worker-sdk",
        abi::ABI
    )]
    Abi {
        /// The plugin's.
        found: u32,
    },
    /// A kind that this launcher does not serve.
    #[error(
        "a plugin of kind {found}, which this launcher does not serve (known: {} = http, {} = socket)",
        abi::KIND_HTTP,
        abi::KIND_SOCKET
    )]
    Kind {
        /// The plugin's.
        found: u32,
    },
    /// Its libraries are looked for beside itself.
    #[error(
        "its run path `{0}` uses $ORIGIN, the directory of the file, but a plugin is loaded from a sealed copy in memory \
         that has none: link statically, use an absolute run path, or install the library"
    )]
    Origin(String),
}

/// Bytes of a descriptor that are plain data.
const PLAIN: usize = std::mem::offset_of!(abi::Plugin, init);

/// Reads what a plugin says of itself. Nothing of it is executed.
///
/// # Errors
/// Everything that makes it unusable, as far as the file alone can tell.
pub fn verify(bytes: &[u8]) -> Result<NativeManifest, ManifestError> {
    let file = parse(bytes)?;
    let (needed, run_paths) = dynamic(&file)?;
    if let Some(path) = run_paths.into_iter().find(|path| path.contains("$ORIGIN") || path.contains("${ORIGIN}")) {
        return Err(ManifestError::Origin(path));
    }
    let symbol = file
        .dynamic_symbols()
        .find(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(abi::SYMBOL.as_bytes()))
        .ok_or_else(|| ManifestError::NoDescriptor { near: exports(&file) })?;
    if symbol.kind() == object::SymbolKind::Text {
        return Err(ManifestError::NotDescriptor("it is a function, but must be data"));
    }
    let data = file
        .segments()
        .find_map(|segment| segment.data_range(symbol.address(), PLAIN as u64).ok().flatten())
        .ok_or(ManifestError::NotDescriptor("it is too small, or not initialised"))?;
    descriptor(data, needed)
}

fn parse(bytes: &[u8]) -> Result<ElfFile64<'_, Endianness>, ManifestError> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(ManifestError::NotElf(looks_like(bytes)));
    }
    if bytes.get(4) == Some(&elf::ELFCLASS32) {
        return Err(ManifestError::Architecture { found: "a 32-bit machine".to_owned() });
    }
    let found = bytes.len() as u64;
    let header = elf::FileHeader64::<Endianness>::parse(bytes)
        .map_err(|_| ManifestError::Truncated { wanted: size_of::<elf::FileHeader64<Endianness>>() as u64, found })?;
    let endian = header.endian().map_err(|error| ManifestError::Damaged(error.to_string()))?;
    let machine = header.e_machine(endian);
    if machine != MACHINE || header.is_little_endian() != cfg!(target_endian = "little") {
        return Err(ManifestError::Architecture { found: machine_name(machine) });
    }
    match header.e_type(endian) {
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(ManifestError::NotShared("executable")),
        elf::ET_REL => return Err(ManifestError::NotShared("object file")),
        elf::ET_CORE => return Err(ManifestError::NotShared("core dump")),
        _ => return Err(ManifestError::NotShared("file of an unknown type")),
    }

    // The section headers come last in what linkers write, so their end tells best whether all of it is there.
    let table = |offset: u64, entry: u16, count: u16| offset.saturating_add(u64::from(entry) * u64::from(count));
    let mut wanted = table(header.e_shoff(endian), header.e_shentsize(endian), header.e_shnum(endian)).max(table(
        header.e_phoff(endian),
        header.e_phentsize(endian),
        header.e_phnum(endian),
    ));
    if wanted <= found {
        for segment in header.program_headers(endian, bytes).unwrap_or_default() {
            wanted = wanted.max(segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
        }
    }
    if wanted > found {
        return Err(ManifestError::Truncated { wanted, found });
    }
    ElfFile64::parse(bytes).map_err(|error| ManifestError::Damaged(error.to_string()))
}

/// Needed libraries, run paths.
fn dynamic(file: &ElfFile64<'_, Endianness>) -> Result<(Vec<String>, Vec<String>), ManifestError> {
    let damaged = |error: object::Error| ManifestError::Damaged(error.to_string());
    let table = file.elf_dynamic_table().map_err(damaged)?;
    let (mut needed, mut run_paths) = (Vec::new(), Vec::new());
    for entry in table.iter() {
        let list = match entry.tag {
            elf::DT_NEEDED => &mut needed,
            elf::DT_RUNPATH | elf::DT_RPATH => &mut run_paths,
            // A position-independent program has the type of a shared library; dlopen refuses it by this flag.
            elf::DT_FLAGS_1 if entry.val & u64::from(elf::DF_1_PIE) != 0 => {
                return Err(ManifestError::NotShared("executable"));
            }
            _ => continue,
        };
        list.push(String::from_utf8_lossy(table.string(entry).map_err(damaged)?).into_owned());
    }
    Ok((needed, run_paths))
}

fn descriptor(data: &[u8], needed: Vec<String>) -> Result<NativeManifest, ManifestError> {
    let number = |at: usize| {
        let bytes: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let short = ManifestError::NotDescriptor("it is too small");
    let (Some(magic), Some(found), Some(size), Some(kind), Some(flags)) = (
        data.get(..8),
        number(std::mem::offset_of!(abi::Plugin, abi)),
        number(std::mem::offset_of!(abi::Plugin, size)),
        number(std::mem::offset_of!(abi::Plugin, kind)),
        number(std::mem::offset_of!(abi::Plugin, flags)),
    ) else {
        return Err(short);
    };
    if magic != abi::MAGIC {
        return Err(ManifestError::NotDescriptor("it does not begin with LAUNCHER"));
    }
    if found != abi::ABI {
        return Err(ManifestError::Abi { found });
    }
    if (size as usize) < abi::PLUGIN_FIRST {
        return Err(ManifestError::NotDescriptor("its `size` is smaller than the first version's"));
    }
    let kind = match kind {
        abi::KIND_HTTP => NativeKind::Http,
        abi::KIND_SOCKET if (size as usize) < size_of::<abi::Plugin>() => {
            return Err(ManifestError::NotDescriptor(
                "it is of kind 2 = socket, and its `size` has no room for `serve`",
            ));
        }
        abi::KIND_SOCKET => NativeKind::Socket,
        found => return Err(ManifestError::Kind { found }),
    };
    let text = |at: usize, len: usize| {
        let text = data.get(at..at + len).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        String::from_utf8_lossy(&text[..end]).into_owned()
    };
    Ok(NativeManifest {
        name: text(std::mem::offset_of!(abi::Plugin, name), 64),
        version: text(std::mem::offset_of!(abi::Plugin, version), 32),
        kind,
        abi: found,
        panic_aborts: flags & abi::PLUGIN_PANIC_ABORTS != 0,
        needed,
    })
}

/// What a plugin without a descriptor exports, for its author.
fn exports(file: &ElfFile64<'_, Endianness>) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .filter(|name| !name.starts_with('_') && !name.is_empty())
        .collect();
    if names.is_empty() {
        return "; it exports nothing".to_owned();
    }
    names.sort_by_key(|name| strsim::levenshtein(name, abi::SYMBOL));
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("; it exports `{}`{more}", names.join("`, `"))
}

const MACHINE: u16 = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };

fn machine_name(machine: u16) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86 (32-bit)".to_owned(),
        elf::EM_ARM => "arm (32-bit)".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        other => format!("machine number {other}"),
    }
}

/// What a file that is not ELF is instead.
fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "it is empty",
        [0, b'a', b's', b'm', ..] => "it is WebAssembly, named as if it were native: call it .wasm",
        [b'#', b'!', ..] => "it is a script",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "it is a static library (crate-type `staticlib` or `rlib`)",
        [b'M', b'Z', ..] => "it is a Windows program or DLL",
        [0xCF, 0xFA, 0xED, 0xFE, ..] | [0xFE, 0xED, 0xFA, 0xCF, ..] => "it is a macOS library (Mach-O)",
        [0x1F, 0x8B, ..] => "it is gzip-compressed",
        [b'P', b'K', 3, 4, ..] => "it is a zip archive",
        _ if bytes.iter().all(|byte| *byte == 0) => "it is all zeros",
        _ if bytes.iter().take(512).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => "it is text",
        _ if bytes.len() < 64 => "it is too short",
        _ => "its first bytes are not ELF's",
    }
}
