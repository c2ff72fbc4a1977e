//! What is measured, a scenario a module.

mod axum;
mod connections;
mod hello;
mod idle;
mod latency;
mod many;
mod memory;
mod messages;
mod peers;
mod recovery;
mod reload;
mod rounds;
mod run;
mod shapes;
mod start;
mod wasi03;

use crate::bench::Bench;
use crate::figures::Table;

/// Something that is measured.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Bench) -> Result<Vec<Table>, String>,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "hello", about: "a small handler behind every kind of server", run: hello::run },
    Scenario { name: "wasi03", about: "the same of WASI 0.3, concurrently", run: wasi03::run },
    Scenario { name: "large", about: "responses of 64 KiB", run: |bench| shapes::run(bench, &shapes::LARGE) },
    Scenario { name: "upload", about: "uploads of 1 MiB", run: |bench| shapes::run(bench, &shapes::UPLOAD) },
    Scenario {
        name: "json",
        about: "a JSON document read and written",
        run: |bench| shapes::run(bench, &shapes::JSON),
    },
    Scenario {
        name: "headers",
        about: "20 request and 15 response headers",
        run: |bench| shapes::run(bench, &shapes::HEADERS),
    },
    Scenario { name: "connections", about: "a connection for each request, 2 workers", run: connections::run },
    Scenario { name: "axum", about: "an axum application that owns its socket", run: axum::run },
    Scenario { name: "latency", about: "how long a request takes at a fixed rate", run: latency::run },
    Scenario { name: "peers", about: "requests a second beside other languages' servers", run: peers::run },
    Scenario {
        name: "messages",
        about: "messages and descriptors between workers, beside Node's process.send",
        run: messages::run,
    },
    Scenario { name: "start", about: "a worker from its start to ready", run: start::run },
    Scenario { name: "recovery", about: "kill -9 of a worker to its replacement", run: recovery::run },
    Scenario { name: "reload", about: "a new version, 2 workers", run: reload::run },
    Scenario { name: "run", about: "from the command to the first response, cache warm", run: run::run },
    Scenario { name: "memory", about: "what one more idle worker takes", run: memory::run },
    Scenario { name: "many", about: "200 services of one worker each", run: many::run },
    Scenario { name: "idle", about: "wake-ups of every process in 10 idle seconds", run: idle::run },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_words_and_stands_once() {
        for (place, scenario) in SCENARIOS.iter().enumerate() {
            assert!(scenario.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
            assert!(SCENARIOS[..place].iter().all(|earlier| earlier.name != scenario.name), "{}", scenario.name);
        }
    }
}
