//! Verdicts on files: which component is what, and what is wrong with the others.

use proptest::prelude::*;
use wasm_host::{Description, PluginError, Purpose, World, compatibility_hash, compile, describe};

use crate::{component, module, probe};

const EMPTY_HANDLER: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "wasi:http/incoming-handler@0.2.3#handle") (param i32 i32))
)"#;

fn message(source: &[u8]) -> String {
    let error = compile(source, Purpose::Production).expect_err("cannot be served");
    match describe(source) {
        // What a component exports is shown, even if nobody can serve it.
        Ok(description) => assert!(description.manifest.is_none() && matches!(error, PluginError::NoWorld { .. })),
        Err(other) => assert_eq!(other.to_string(), error.to_string()),
    }
    error.to_string()
}

#[test]
fn a_component_is_known_by_its_exports() {
    let handler = component(EMPTY_HANDLER, "probe");
    let (manifest, _) = compile(&handler, Purpose::Production).expect("compiles");
    assert_eq!((manifest.world, manifest.concurrency, manifest.reusable), (World::Http02, false, false));

    let command = component(
        r#"(module (memory (export "memory") 1) (func (export "wasi:cli/run@0.2.3#run") (result i32) i32.const 0))"#,
        "command",
    );
    assert_eq!(compile(&command, Purpose::Production).expect("compiles").0.world, World::Command02);
}

#[test]
fn the_custom_section_declares_reuse() {
    let mut handler = component(EMPTY_HANDLER, "probe");
    let name = wasm_host::REUSABLE.as_bytes();
    let name_length = u8::try_from(name.len()).expect("short");
    handler.extend([0, name_length + 1, name_length]);
    handler.extend(name);
    assert!(compile(&handler, Purpose::Production).expect("compiles").0.reusable);
}

#[test]
fn the_custom_section_of_the_core_module_counts() {
    // Where a static with `link_section` ends up.
    let module = EMPTY_HANDLER.trim_end().strip_suffix(')').expect("a module in text form");
    let handler = component(&format!("{module} (@custom \"{}\" \"1\"))", wasm_host::REUSABLE), "probe");
    assert!(compile(&handler, Purpose::Production).expect("compiles").0.reusable);
}

#[test]
fn a_description_says_what_a_component_can_use() {
    let source = component(include_str!("../probe.wat"), "probe");
    let Description { manifest, was_module, size, exports, imports, uses_env, uses_config, uses_dirs, uses_network } =
        describe(&source).expect("a component");
    assert!(!was_module);
    assert_eq!(manifest.as_ref(), Some(&probe().0));
    assert_eq!(size, source.len());
    assert_eq!(exports, ["wasi:http/incoming-handler@0.2.3"]);
    assert!(imports.contains(&"wasi:config/store@0.2.0-rc.1".to_owned()), "{imports:?}");
    assert!(uses_env && uses_config && uses_dirs && uses_network);
}

#[test]
fn other_files_are_recognised() {
    for (source, expected) in [
        (&b""[..], "the file is empty"),
        (b"\x7fELF\x02\x01\x01", "an ELF file"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"#!/bin/sh\n", "a script"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\0\0\0\0\0\0\0\0", "zeros"),
        (b"random", "begins with \"random\""),
        (b"\0as", "truncated"),
        (b"\0asm\x0d", "truncated"),
        (b"(module", "does not parse"),
        (b";; a comment\n(component", "does not parse"),
    ] {
        let message = message(source);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_core_module_is_told_how_to_become_a_component() {
    for source in [&b"\0asm\x01\0\0\0"[..], b"(module)", b"(; text ;) (module (func))"] {
        assert!(message(source).contains("wasm-tools component new"));
    }
    let program =
        br#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#;
    assert!(message(program).contains("a program for WASI preview 1"), "{}", message(program));
    let go = br#"(module (import "gojs" "runtime.wasmExit" (func (param i32))))"#;
    assert!(message(go).contains("TinyGo"), "{}", message(go));
}

#[test]
fn a_component_without_a_world_is_told_which_there_are() {
    let source = component(
        r#"(module (memory (export "memory") 1)
            (func (export "launcher:fixtures/elsewhere#fetch") (result i32) i32.const 0))"#,
        "useless",
    );
    let message = message(&source);
    assert!(message.contains("launcher:fixtures/elsewhere"), "{message}");
    assert!(message.contains("wasi:http/incoming-handler@0.2"), "{message}");
    assert!(self::message(b"(component)").contains("exports nothing"));
}

#[test]
fn a_core_module_that_needs_the_adapter_alone_becomes_a_component() {
    let module = module(
        r#"(module
            (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "wasi:http/incoming-handler@0.2.3#handle") (param i32 i32)))"#,
        "handler",
    );
    let described = describe(&module).expect("it is described");
    assert!(described.was_module);
    let (manifest, _) = compile(&module, Purpose::Production).expect("it compiles");
    assert_eq!(manifest.world, World::Http02);
}

#[test]
fn a_missing_import_is_named() {
    let source = component(
        r#"(module
            (import "launcher:fixtures/elsewhere" "fetch" (func (result i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "wasi:http/incoming-handler@0.2.3#handle") (param i32 i32)))"#,
        "needy",
    );
    let error = compile(&source, Purpose::Production).expect_err("nobody provides it");
    assert!(matches!(error, PluginError::MissingImport { .. }));
    assert!(error.to_string().contains("launcher:fixtures/elsewhere"), "{error}");
}

#[test]
fn every_prefix_of_a_component_is_refused_calmly() {
    let whole = component(EMPTY_HANDLER, "probe");
    for length in 0..whole.len() {
        let usable = describe(&whole[..length]).is_ok_and(|description| description.manifest.is_some());
        assert!(!usable || length > whole.len() / 2, "{length} of {}", whole.len());
    }
    let message = message(&whole[..whole.len() / 2]);
    assert!(message.contains("truncated"), "{message}");
}

#[test]
fn the_key_of_the_cache_is_stable() {
    assert_eq!(
        compatibility_hash(Purpose::Production).expect("engine"),
        compatibility_hash(Purpose::Production).expect("engine")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut source = component(EMPTY_HANDLER, "probe");
        for (index, byte) in changes {
            let length = source.len();
            source[index.index(length)] = byte;
        }
        // Whether it is still a component is not the question.
        let _ = describe(&source);
        let _ = compile(&source, Purpose::Production);
    }

    #[test]
    fn arbitrary_bytes_never_panic(source in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = compile(&source, Purpose::Production);
    }
}
