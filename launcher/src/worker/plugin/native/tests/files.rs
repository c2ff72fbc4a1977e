//! Files that are no plugin: each has its own message, and none is executed.

use std::fs;
use std::path::Path;

use super::super::{LoadError, ManifestError, NativeHttp, NativeKind, verify};
use super::{Identity, compile, source};

/// Compiles C source text with these flags.
fn library(text: &str, flags: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("plugin.c");
    fs::write(&file, text).expect("write the source");
    fs::read(compile(directory.path(), &file, flags)).expect("read the library")
}

/// A descriptor with some of its fields changed.
fn descriptor(changes: &str) -> Vec<u8> {
    let text = format!(
        "#include \"worker.h\"\n\
         static int32_t init(const launcher_host *h, void **s, launcher_chunk *e) {{ (void)h; (void)s; (void)e; return 0; }}\n\
         static int32_t handle(void *s, launcher_request *q, launcher_waker w, launcher_response *r, launcher_call *c)\n\
         {{ (void)s; (void)q; (void)w; (void)r; (void)c; return LAUNCHER_ERROR; }}\n\
         const launcher_plugin_t launcher_plugin = {{ .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI, .kind = 1,\n\
         .size = sizeof(launcher_plugin_t), .name = \"x\", .init = init, .handle = handle, {changes} }};\n"
    );
    library(&text, &["-Wno-override-init"])
}

fn hello() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::read(compile(directory.path(), &source("hello"), &[])).expect("read the library")
}

#[test]
fn a_plugin_is_read_without_executing_it() {
    let manifest = verify(&hello()).expect("a plugin");
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("hello-c", "1.0"));
    assert_eq!((manifest.kind, manifest.abi, manifest.panic_aborts), (NativeKind::Http, 1, false));
    assert!(manifest.needed.iter().any(|library| library.starts_with("libc.so")), "{:?}", manifest.needed);
    // A constructor would run if the file were loaded.
    let text = format!(
        "#include <stdlib.h>\n__attribute__((constructor)) static void boom(void) {{ abort(); }}\n#include \"{}\"\n",
        source("hello").display()
    );
    assert!(verify(&library(&text, &[])).is_ok());
}

#[test]
fn the_panic_strategy_is_read() {
    assert!(verify(&descriptor(".flags = LAUNCHER_PLUGIN_PANIC_ABORTS")).expect("a plugin").panic_aborts);
}

#[test]
fn a_file_that_is_something_else_is_told_by_its_name() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"\0asm\x0d\0\x01\0", "WebAssembly"),
        (b"#!/bin/sh\n", "script"),
        (b"!<arch>\n", "static library"),
        (b"MZ\x90\0", "Windows"),
        (&[0; 4096], "zeros"),
        (&[b'x'; 100], "text"),
    ] {
        let error = verify(bytes).expect_err("no plugin");
        assert!(matches!(error, ManifestError::NotElf(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let whole = hello();
    assert!(matches!(verify(&whole[..whole.len() - 1]), Err(ManifestError::Truncated { .. })));
    assert!(matches!(verify(&whole[..whole.len() / 2]), Err(ManifestError::Truncated { .. })));
    for len in (0..whole.len()).step_by(97) {
        assert!(verify(&whole[..len]).is_err(), "{len}");
    }
}

#[test]
fn no_damage_panics() {
    let whole = hello();
    for at in (0..whole.len().min(4096)).chain((4096..whole.len()).step_by(61)) {
        for value in [0, 0xFF, whole[at] ^ 0x55] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            // Some damage is harmless; none may panic or loop.
            let _ = verify(&damaged);
        }
    }
}

#[test]
fn another_machine_is_named() {
    let mut foreign = hello();
    foreign[18] = if foreign[18] == 62 { 183 } else { 62 };
    let error = verify(&foreign).expect_err("another machine");
    assert!(
        matches!(&error, ManifestError::Architecture { found } if found == "aarch64" || found == "x86_64"),
        "{error}"
    );
    let mut small = hello();
    small[4] = 1;
    assert!(matches!(verify(&small), Err(ManifestError::Architecture { .. })));
}

#[test]
fn programs_and_objects_are_not_libraries() {
    let ours = fs::read("/proc/self/exe").expect("read our own file");
    assert_eq!(verify(&ours), Err(ManifestError::NotShared("executable")));
    let mut object = hello();
    object[16] = 1;
    assert_eq!(verify(&object), Err(ManifestError::NotShared("object file")));
}

#[test]
fn a_library_without_a_descriptor_says_what_it_exports() {
    let bytes = library("int launcher_plugins = 1; int other(void); int other(void) { return 1; }", &[]);
    let error = verify(&bytes).expect_err("no descriptor").to_string();
    assert!(error.contains("it exports `launcher_plugins`"), "{error}");
    let error = verify(&library(
        "static int nothing = 1; int *f(void) __attribute__((visibility(\"hidden\"))); int *f(void) { return &nothing; }",
        &[],
    ));
    assert!(error.expect_err("no descriptor").to_string().contains("exports nothing"));
}

#[test]
fn wrong_descriptors_are_told_apart() {
    let function = library("void launcher_plugin(void); void launcher_plugin(void) {}", &[]);
    assert!(matches!(verify(&function), Err(ManifestError::NotDescriptor("it is a function, but must be data"))));
    assert_eq!(verify(&descriptor(".abi = 9")), Err(ManifestError::Abi { found: 9 }));
    assert_eq!(verify(&descriptor(".kind = 7")), Err(ManifestError::Kind { found: 7 }));
    assert!(matches!(verify(&descriptor(".magic = { 1 }")), Err(ManifestError::NotDescriptor(_))));
    assert!(matches!(verify(&descriptor(".size = 8")), Err(ManifestError::NotDescriptor(_))));
    // Of the first version, which ends before `serve`: good for what there was then.
    let first = ".size = offsetof(launcher_plugin_t, serve)";
    assert_eq!(verify(&descriptor(first)).expect("a plugin").kind, NativeKind::Http);
    assert_eq!(verify(&descriptor(".kind = 2")).expect("a plugin").kind, NativeKind::Socket);
    let older = verify(&descriptor(&format!(".kind = 2, {first}"))).expect_err("it has no `serve`").to_string();
    assert!(older.contains("no room for `serve`"), "{older}");
}

#[test]
fn a_run_path_beside_the_file_is_refused() {
    for flags in
        [["-Wl,-rpath,$ORIGIN/lib", "-Wl,--enable-new-dtags"], ["-Wl,-rpath,${ORIGIN}", "-Wl,--disable-new-dtags"]]
    {
        let directory = tempfile::tempdir().expect("make a directory");
        let bytes = fs::read(compile(directory.path(), &source("hello"), &flags)).expect("read the library");
        assert!(matches!(verify(&bytes), Err(ManifestError::Origin(_))), "{flags:?}");
    }
}

fn load(path: &Path) -> LoadError {
    use std::os::fd::AsFd as _;
    let file = fs::File::open(path).expect("open the library");
    let identity = Identity { service: "test", worker: 0, slot: 0, generation: 0 };
    NativeHttp::load(file.as_fd(), &serde_json::json!({}), identity).expect_err("it does not load")
}

#[test]
fn what_the_linker_misses_is_named() {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("plugin.c");
    fs::write(&file, format!("int missing_function(void);\nint call_it(void);\nint call_it(void) {{ return missing_function(); }}\n#include \"{}\"\n", source("hello").display())).expect("write");
    let library = compile(directory.path(), &file, &[]);
    let error = load(&library).to_string();
    assert!(error.contains("undefined symbol `missing_function`"), "{error}");
    assert!(!error.contains("/proc/"), "{error}");

    // A library that is there when the plugin is linked, and gone when it is loaded.
    let gone = directory.path().join("gone.c");
    fs::write(&gone, "int missing_function(void); int missing_function(void) { return 1; }").expect("write");
    let other = tempfile::tempdir().expect("make a directory");
    let built = compile(other.path(), &gone, &["-Wl,-soname,libgone.so.3"]);
    let library = compile(directory.path(), &file, &[&built.display().to_string()]);
    let error = load(&library).to_string();
    assert!(error.contains("libgone.so.3") && error.contains("install that library"), "{error}");
    assert!(verify(&fs::read(&library).expect("read")).expect("a plugin").needed.contains(&"libgone.so.3".to_owned()));
}
