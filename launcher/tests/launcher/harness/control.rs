//! The control API of a running launcher, spoken directly.

use serde_json::Value;

use super::Site;
use super::http::Connection;

/// The control socket of a site's launcher.
pub(crate) struct Control {
    address: String,
}

/// A status code and what came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
}

impl Answer {
    /// What was answered, which must be a success.
    #[track_caller]
    pub(crate) fn good(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.json
    }
}

impl Control {
    /// Of the launcher that runs in `site`.
    pub(crate) fn of(site: &Site) -> Self {
        Self { address: format!("unix:{}", site.path(".launcher/control.sock").display()) }
    }

    /// At another place.
    pub(crate) fn at(address: String) -> Self {
        Self { address }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.address).unwrap_or_else(|error| panic!("connect to {}: {error}", self.address))
    }

    /// One request.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let asked = self.connect().request(method, target, &[("connection", "close")], body.as_bytes());
        let response = asked.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        let text = response.text();
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {target}: {error} in {text}"));
        Answer { status: response.status(), json }
    }

    /// `GET`, which must succeed.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Value {
        self.ask("GET", target, "").good()
    }

    /// `POST` without a body, which must succeed.
    #[track_caller]
    pub(crate) fn post(&self, target: &str) -> Value {
        self.ask("POST", target, "").good()
    }

    /// What `GET /v1/services/NAME` says.
    #[track_caller]
    pub(crate) fn service(&self, name: &str) -> Value {
        self.get(&format!("/v1/services/{name}"))
    }

    /// The pids of a service's workers that are ready.
    #[track_caller]
    pub(crate) fn ready(&self, name: &str) -> Vec<u64> {
        let service = self.service(name);
        let workers = service["workers"].as_array().unwrap_or_else(|| panic!("no workers in {service}"));
        let ready = workers.iter().filter(|worker| worker["state"] == "ready");
        ready.map(|worker| worker["pid"].as_u64().expect("a pid")).collect()
    }
}
