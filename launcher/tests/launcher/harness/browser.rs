//! A real browser without a window: Chromium, steered by chromedriver (W3C WebDriver).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PATIENCE;
use super::http::Connection;

/// Its own connections to elsewhere are switched off: the pages under test are all that it shall load.
const SWITCHES: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// One window.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    /// Opens a window. A machine without the browser fails the test: what only a browser shows was then not tested.
    pub(crate) fn open(url: &str) -> Browser {
        let (driver, port) = driver();
        let address = format!("127.0.0.1:{port}");
        let mut browser = Browser { driver, address, session: String::new() };
        let options = json!({ "goog:chromeOptions": { "args": SWITCHES } });
        let made = browser.ask("/session", &json!({ "capabilities": { "alwaysMatch": options } }));
        let session = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("/session/{session}");
        browser.ask(&format!("{}/url", browser.session), &json!({ "url": url }));
        browser
    }

    fn ask(&self, path: &str, what: &Value) -> Value {
        let mut connection = Connection::open(&self.address).expect("connect to chromedriver");
        connection.send(self.request("POST", path, &what.to_string()).as_bytes()).expect("ask chromedriver");
        let answer = connection.response("POST");
        let answer = answer.unwrap_or_else(|error| panic!("chromedriver does not answer {path}: {error}"));
        let answer: Value = serde_json::from_str(&answer.text()).expect("chromedriver speaks JSON");
        answer["value"].clone()
    }

    /// It answers only who calls it by the name of this machine.
    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let (address, length) = (&self.address, body.len());
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    /// The value of an expression of JavaScript on the page.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        self.ask(&format!("{}/execute/sync", self.session), &script)
    }

    /// What a person reads.
    pub(crate) fn text(&self) -> String {
        self.value("document.body ? document.body.innerText : ''").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows something; nobody touches the browser meanwhile.
    pub(crate) fn wait(&self, what: &str, shows: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !shows(&self.text()) {
            assert!(Instant::now() < deadline, "the page never shows {what}: {}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A driver and its port. It takes a free port of IPv4, then the same of IPv6, and ends if somebody has that one.
fn driver() -> (Child, String) {
    for _ in 0..5 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("no chromedriver ({error}): apt-get install chromium chromium-driver"));
        let mut lines = BufReader::new(driver.stdout.take().expect("its output is piped")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        if let Some(port) = port {
            // Read on, or it would stop one day.
            std::thread::spawn(move || lines.for_each(drop));
            return (driver, port);
        }
        let _ = driver.wait();
    }
    panic!("chromedriver finds no port");
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser's processes when the session is closed.
        if let Ok(mut connection) = Connection::open(&self.address) {
            let sent = connection.send(self.request("DELETE", &self.session, "").as_bytes());
            let _ = sent.and_then(|()| connection.response("DELETE"));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
