//! Components send messages to other workers and receive theirs, whatever either is made of.

use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};
use crate::messages::wait_heard;
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

#[test]
fn a_program_waits_for_messages_by_the_sdk_and_passes_them_on() {
    let site = Site::new();
    site.write("postman.wasm", guests::postman());
    let launcher = site.run(&format!(
        "
services:
  postman: {{ plugin: postman.wasm, listen: 127.0.0.1:0, workers: 1 }}
  showcase: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1 }}
  post: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1 }}
",
        guests::native("showcase").display(),
        guests::native("courier").display()
    ));
    launcher.workers(3);
    // It is ready when it listens; it wants messages a moment later.
    let wanted = eventually(|| site.output(["send", "postman", "{\"number\": 1}"]).status.success());
    assert!(wanted, "{}", launcher.story());
    let told = launcher.wait("message", |event| event.is("message") && event.of("postman"));
    assert_eq!(told.value("body"), &serde_json::json!({ "number": 1 }));
    let mut showcase = Connection::open(&launcher.address("showcase")).expect("connects");
    for number in 0..100 {
        let answer = showcase.request("POST", "/send/postman/0", &[], number.to_string().as_bytes());
        assert_eq!(answer.expect("an answer").text(), "taken\n");
    }
    let heard = wait_heard(&mut Connection::open(&launcher.address("post")).expect("connects"), 100);
    assert_eq!(heard, (0..100).map(|number| format!("postman/0: {number}")).collect::<Vec<_>>());
    // It waits and has no connection: it is let go at once.
    let mark = launcher.mark();
    assert!(site.output(["stop", "postman"]).status.success(), "{}", launcher.story());
    let exited = launcher.wait_after(mark, "exited", |event| event.is("exited") && event.of("postman"));
    assert_eq!(exited.number("code"), 0, "{}", launcher.story());
}
