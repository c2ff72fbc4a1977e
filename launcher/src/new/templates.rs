//! The files of the templates, and of the SDK: their places in a project, and their text.
//!
//! In a template's text `{{name}}` is the project's name, `{{crate}}` the same as an identifier, `{{sdk}}` where the SDK
//! is. The lists are held against the directories by a test.

use super::Template;

/// Where a file lies in a project, and what it holds.
pub(super) struct Source(pub(super) &'static str, pub(super) &'static str);

/// The files of a template.
pub(super) fn files(template: Template) -> &'static [Source] {
    match template {
        Template::Rust => RUST,
        Template::Socket => SOCKET,
        Template::C => C,
        Template::Javascript => JAVASCRIPT,
        Template::Python => PYTHON,
    }
}

const RUST: &[Source] = &[
    Source(".gitignore", include_str!("../../templates/rust/gitignore")),
    Source("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.in")),
    Source("README.md", include_str!("../../templates/rust/README.md")),
    Source("component.yaml", include_str!("../../templates/rust/component.yaml")),
    Source("config.yaml", include_str!("../../templates/rust/config.yaml")),
    Source("src/lib.rs", include_str!("../../templates/rust/src/lib.rs")),
];

const SOCKET: &[Source] = &[
    Source(".gitignore", include_str!("../../templates/socket/gitignore")),
    Source("Cargo.toml", include_str!("../../templates/socket/Cargo.toml.in")),
    Source("README.md", include_str!("../../templates/socket/README.md")),
    Source("config.yaml", include_str!("../../templates/socket/config.yaml")),
    Source("src/lib.rs", include_str!("../../templates/socket/src/lib.rs")),
];

const C: &[Source] = &[
    Source(".gitignore", include_str!("../../templates/c/gitignore")),
    Source("README.md", include_str!("../../templates/c/README.md")),
    Source("config.yaml", include_str!("../../templates/c/config.yaml")),
    Source("plugin.c", include_str!("../../templates/c/plugin.c")),
    Source("test.c", include_str!("../../templates/c/test.c")),
    Source("worker.h", include_str!("../../../worker-sdk/include/worker.h")),
];

const JAVASCRIPT: &[Source] = &[
    Source(".gitignore", include_str!("../../templates/javascript/gitignore")),
    Source("README.md", include_str!("../../templates/javascript/README.md")),
    Source("app.js", include_str!("../../templates/javascript/app.js")),
    Source("app.test.mjs", include_str!("../../templates/javascript/app.test.mjs")),
    Source("build.mjs", include_str!("../../templates/javascript/build.mjs")),
    Source("config.yaml", include_str!("../../templates/javascript/config.yaml")),
    Source("package.json", include_str!("../../templates/javascript/package.json")),
];

const PYTHON: &[Source] = &[
    Source(".gitignore", include_str!("../../templates/python/gitignore")),
    Source("README.md", include_str!("../../templates/python/README.md")),
    Source("app.py", include_str!("../../templates/python/app.py")),
    Source("build.sh", include_str!("../../templates/python/build.sh")),
    Source("config.yaml", include_str!("../../templates/python/config.yaml")),
    Source("pages.py", include_str!("../../templates/python/pages.py")),
    Source("test_pages.py", include_str!("../../templates/python/test_pages.py")),
];

/// The SDK as a project gets it: the sources as they are, the manifests without the workspace around them.
pub(super) const FILES_OF_SDK: &[Source] = &[
    Source("vendor/worker-sdk/Cargo.toml", include_str!("../../templates/sdk/worker-sdk.toml")),
    Source("vendor/worker-sdk-macros/Cargo.toml", include_str!("../../templates/sdk/worker-sdk-macros.toml")),
    Source("vendor/worker-sdk/LICENSE", include_str!("../../../LICENSE")),
    Source("vendor/worker-sdk/README.md", include_str!("../../../worker-sdk/README.md")),
    Source("vendor/worker-sdk-macros/src/lib.rs", include_str!("../../../worker-sdk-macros/src/lib.rs")),
    Source("vendor/worker-sdk/src/abi.rs", include_str!("../../../worker-sdk/src/abi.rs")),
    Source("vendor/worker-sdk/src/body.rs", include_str!("../../../worker-sdk/src/body.rs")),
    Source(
        "vendor/worker-sdk/src/component/executor.rs",
        include_str!("../../../worker-sdk/src/component/executor.rs"),
    ),
    Source(
        "vendor/worker-sdk/src/component/incoming.rs",
        include_str!("../../../worker-sdk/src/component/incoming.rs"),
    ),
    Source("vendor/worker-sdk/src/component/mod.rs", include_str!("../../../worker-sdk/src/component/mod.rs")),
    Source(
        "vendor/worker-sdk/src/component/outgoing.rs",
        include_str!("../../../worker-sdk/src/component/outgoing.rs"),
    ),
    Source("vendor/worker-sdk/src/component/post.rs", include_str!("../../../worker-sdk/src/component/post.rs")),
    Source("vendor/worker-sdk/src/component/store.rs", include_str!("../../../worker-sdk/src/component/store.rs")),
    Source("vendor/worker-sdk/src/config.rs", include_str!("../../../worker-sdk/src/config.rs")),
    Source("vendor/worker-sdk/src/export.rs", include_str!("../../../worker-sdk/src/export.rs")),
    Source("vendor/worker-sdk/src/lib.rs", include_str!("../../../worker-sdk/src/lib.rs")),
    Source("vendor/worker-sdk/src/log.rs", include_str!("../../../worker-sdk/src/log.rs")),
    Source("vendor/worker-sdk/src/native/buffer.rs", include_str!("../../../worker-sdk/src/native/buffer.rs")),
    Source("vendor/worker-sdk/src/native/incoming.rs", include_str!("../../../worker-sdk/src/native/incoming.rs")),
    Source("vendor/worker-sdk/src/native/mod.rs", include_str!("../../../worker-sdk/src/native/mod.rs")),
    Source("vendor/worker-sdk/src/native/outgoing.rs", include_str!("../../../worker-sdk/src/native/outgoing.rs")),
    Source("vendor/worker-sdk/src/native/post.rs", include_str!("../../../worker-sdk/src/native/post.rs")),
    Source("vendor/worker-sdk/src/native/rehearsal.rs", include_str!("../../../worker-sdk/src/native/rehearsal.rs")),
    Source("vendor/worker-sdk/src/native/runtime.rs", include_str!("../../../worker-sdk/src/native/runtime.rs")),
    Source("vendor/worker-sdk/src/native/socket.rs", include_str!("../../../worker-sdk/src/native/socket.rs")),
    Source("vendor/worker-sdk/src/native/spare.rs", include_str!("../../../worker-sdk/src/native/spare.rs")),
    Source("vendor/worker-sdk/src/native/waker.rs", include_str!("../../../worker-sdk/src/native/waker.rs")),
    Source("vendor/worker-sdk/src/messages.rs", include_str!("../../../worker-sdk/src/messages.rs")),
    Source("vendor/worker-sdk/src/request.rs", include_str!("../../../worker-sdk/src/request.rs")),
    Source("vendor/worker-sdk/src/response.rs", include_str!("../../../worker-sdk/src/response.rs")),
    Source("vendor/worker-sdk/src/sleep.rs", include_str!("../../../worker-sdk/src/sleep.rs")),
    Source("vendor/worker-sdk/src/sockets.rs", include_str!("../../../worker-sdk/src/sockets.rs")),
    Source("vendor/worker-sdk/src/testing.rs", include_str!("../../../worker-sdk/src/testing.rs")),
    Source("vendor/worker-sdk/src/worker.rs", include_str!("../../../worker-sdk/src/worker.rs")),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use clap::ValueEnum;

    use super::*;

    fn below(directory: &Path) -> usize {
        let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("readable").path());
        entries.map(|path| if path.is_dir() { below(&path) } else { 1 }).sum()
    }

    #[test]
    fn no_file_of_a_template_or_of_the_sdk_is_left_out() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for template in Template::value_variants() {
            let brought = usize::from(*template == Template::C);
            let directory = root.join("templates").join(template.name());
            assert_eq!(files(*template).len(), below(&directory) + brought, "{template:?}");
        }
        let sources = FILES_OF_SDK.iter().filter(|Source(path, _)| path.ends_with(".rs")).count();
        let there = ["worker-sdk/src", "worker-sdk-macros/src"].map(|part| below(&root.join("..").join(part)));
        assert_eq!(sources, there.iter().sum::<usize>());
        let places: BTreeSet<_> = FILES_OF_SDK.iter().map(|Source(path, _)| path).collect();
        assert_eq!(places.len(), FILES_OF_SDK.len(), "a place is given twice");
    }

    #[test]
    fn the_manifests_that_a_project_gets_say_what_those_of_the_workspace_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in ["worker-sdk", "worker-sdk-macros"] {
            let own = std::fs::read_to_string(root.join(name).join("Cargo.toml")).expect("a manifest");
            let place = format!("vendor/{name}/Cargo.toml");
            let brought = FILES_OF_SDK.iter().find(|Source(path, _)| *path == place).expect("it is brought").1;
            let dependencies = |text: &str| -> BTreeSet<String> {
                let from = text.find("[features]").or(text.find("[lib]")).expect("a section after the package's");
                let until = text.find("[dev-dependencies]").unwrap_or(text.len());
                text[from..until].lines().filter(|line| line.contains('=')).map(str::to_owned).collect()
            };
            assert_eq!(dependencies(brought), dependencies(&own), "{name}");
        }
    }
}
