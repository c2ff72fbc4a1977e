//! Components of other people and of other toolchains, each served with `plugin:` and `listen:` alone.
//!
//! `scripts/slow-tests` makes or fetches the components and runs this. It takes minutes and the package registries of
//! three languages: therefore it is no part of `cargo test`.

#[path = "../launcher/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "these tests use a part of the harness")]
mod harness;

use std::path::PathBuf;
use std::process::Command;

use harness::Site;
use harness::http::fetch;
use harness::projects::{develop, edited, passes, project};

/// Serves one component and asks it twice: the second answer shows that the first request left it whole.
fn served(component: &str, target: &str, good: impl Fn(&str) -> bool) {
    let directory = std::env::var_os("LAUNCHER_FOREIGN_COMPONENTS")
        .map(PathBuf::from)
        .expect("run scripts/slow-tests: it makes the components and sets LAUNCHER_FOREIGN_COMPONENTS");
    let site = Site::new();
    std::fs::copy(directory.join(component), site.path(component)).expect("copy the component");
    let mut launcher = site.run(&format!("services: {{ foreign: {{ plugin: {component}, listen: 127.0.0.1:0 }} }}"));
    let address = launcher.address("foreign");
    for _ in 0..2 {
        let response = fetch(&address, target);
        assert_eq!(response.status(), 200, "{}\n{}", response.text(), launcher.story());
        assert!(good(&response.text()), "{:?}", response.text());
    }
    launcher.stop();
}

/// A template's project goes through its author's loop. Its build fetches packages at first.
fn looped(template: &str, source: &str, mistake: &str, complaint: &str, test: &str) {
    let site = Site::new();
    let project = project(&site, template, "my-app");
    let mut launcher = develop(&project, "config.yaml", &[]);
    edited(&mut launcher, &project.join(source), "my-app", mistake, complaint);
    passes(Command::new("sh").args(["-c", test]).current_dir(&project));
}

#[test]
fn a_project_in_javascript_is_served_edited_and_tested() {
    looped("javascript", "app.js", "const x = ;\n", "SyntaxError", "npm test");
}

#[test]
fn a_project_in_python_is_served_edited_and_tested() {
    looped("python", "pages.py", "def f(:\n", "SyntaxError", "python3 -m unittest");
}

#[test]
fn an_app_of_hono_answers_json() {
    served("wash-runtime.wasm", "/v1/example", |text| serde_json::from_str::<serde_json::Value>(text).is_ok());
}

#[test]
fn a_fetch_listener_by_componentize_js_is_served() {
    served("componentize-js.wasm", "/some/path", |text| text == "Hello from JavaScript: /some/path\n");
}

#[test]
fn a_handler_of_wasi_0_3_by_componentize_qjs_is_served() {
    served("componentize-qjs.wasm", "/some/path", |text| text == "Hello from QuickJS: /some/path\n");
}

#[test]
fn a_handler_by_componentize_py_is_served() {
    served("componentize-py.wasm", "/some/path", |text| text == "Hello from Python: /some/path\n");
}
