//! Components send messages to other workers and receive theirs, whatever either is made of.

use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};
use crate::wasm_sockets::ask;

const TALKING: &str = "
services:
  lines: { plugin: lines.wasm, listen: 127.0.0.1:0, workers: 1, env: { LISTENS: yes } }
  others: { plugin: lines.wasm, listen: 127.0.0.1:0, workers: 2, env: { LISTENS: yes } }
  deaf: { plugin: lines.wasm, listen: 127.0.0.1:0, workers: 1 }
  kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 }
";

fn talking(site: &Site) -> Launcher {
    site.write("lines.wasm", guests::lines());
    site.kitchen();
    site.run(TALKING)
}

#[test]
fn programs_tell_each_other_and_learn_what_became_of_it() {
    let site = Site::new();
    let launcher = talking(&site);
    let (lines, others) = (launcher.address("lines"), launcher.address("others"));
    assert_eq!(ask(&others, "tell any lines first"), "taken");
    assert_eq!(ask(&others, "tell slot lines/0 second"), "taken");
    let heard = ask(&lines, "heard");
    assert!(
        heard.starts_with("others/") && heard.contains(": first, others/") && heard.ends_with(": second"),
        "{heard}"
    );
    assert_eq!(ask(&lines, "tell every others all"), "taken");
    // Both have it when that is said.
    for _ in 0..10 {
        assert_eq!(ask(&others, "heard"), "lines/0: all");
    }
    for (command, said) in [
        ("tell any nowhere hello", "Nobody"),
        ("tell slot others/7 hello", "Nobody"),
        ("tell worker 4711 hello", "Gone"),
        ("tell any deaf hello", "NotWanted"),
        ("tell any others large", "TooLarge"),
        ("tell any lines hello", "Nobody"),
    ] {
        let answer = ask(&lines, command);
        let code = said.chars().fold(String::new(), |mut code, letter| {
            if letter.is_uppercase() && !code.is_empty() {
                code.push('-');
            }
            code.extend(letter.to_lowercase());
            code
        });
        assert!(answer.contains(said) || answer.contains(&code), "{command}: {answer}");
    }
}

#[test]
fn an_operator_reaches_a_program() {
    let site = Site::new();
    let launcher = talking(&site);
    let sent = site.output(["send", "lines", "{\"hello\": 1}"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(ask(&launcher.address("lines"), "heard"), "operator: {\"hello\":1}");
    let refused = site.output(["send", "deaf", "1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn a_handler_sends_and_receives_while_it_answers() {
    let site = Site::new();
    let launcher = talking(&site);
    let (kitchen, lines) = (launcher.address("kitchen"), launcher.address("lines"));
    assert_eq!(fetch(&kitchen, "/tell?service=lines&text=dinner").text(), "taken\n");
    assert_eq!(ask(&lines, "heard"), "kitchen/0: dinner");
    assert_eq!(fetch(&kitchen, "/tell?service=nowhere&text=dinner").status(), 403);
    let hearing = {
        let kitchen = kitchen.clone();
        std::thread::spawn(move || fetch(&kitchen, "/hear").text())
    };
    // It is not wanted until the handler waits for it.
    assert!(eventually(|| ask(&lines, "tell any kitchen thanks") == "taken"), "{}", launcher.story());
    assert_eq!(hearing.join().expect("the client"), "thanks\n");
}
