//! Messages and descriptors between two workers and back, beside Node's `process.send` between a process and its child.
//!
//! Both sides echo JSON (`{"n":1}` and the like) in user code, and both check that everything comes back in its order. Rounds
//! alternate, so that what slows the machine down slows both.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::Bench;
use crate::figures::{Line, Table, Target};
use crate::server::{Server, launcher};

/// What is counted: its name here, Node's word and how many there, the courier's path and how many here.
struct Kind {
    name: &'static str,
    node: (&'static str, u64),
    courier: (&'static str, u64),
    /// How many are on their way at once.
    windows: &'static [u64],
}

const KINDS: [Kind; 2] = [
    Kind { name: "messages", node: ("messages", 20_000), courier: ("/ping", 100_000), windows: &[1, 100, 1000] },
    Kind { name: "descriptors", node: ("handles", 2_000), courier: ("/handles", 20_000), windows: &[1, 100, 1000] },
];

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let failed = |error: Box<dyn Error>| error.to_string();
    // On the worker's loop, as Node's are.
    let more = "workers: 2, config: { inline: true }, limits: { request_timeout: 10m }";
    let server = launcher(bench, "couriers", &bench.courier()?, more)?;
    let mut courier = Courier::in_slot_0(&server).map_err(failed)?;
    let mut tables = Vec::new();
    for kind in &KINDS {
        let mut table =
            Table::new("messages", format!("{} between two workers and back", kind.name), "µs a round trip");
        let scale = if bench.options.quick { 20 } else { 1 };
        for window in kind.windows {
            // The courier pays once for looking up its peer.
            courier.rate(kind.courier.0, 100, *window).map_err(failed)?;
            let (mut node, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..bench.options.samples(11) {
                match node_rate(&bench.project, (kind.node.0, kind.node.1 / scale), *window) {
                    Ok(rate) => node.push(1e6 / rate),
                    Err(reason) if node.is_empty() => {
                        table.missing(format!("Node, {window} at once"), reason.to_string())
                    }
                    Err(reason) => return Err(reason.to_string()),
                }
                ours.push(1e6 / courier.rate(kind.courier.0, kind.courier.1 / scale, *window).map_err(failed)?);
            }
            let mut line = Line::new(format!("launcher, {window} at once"), ours);
            if !node.is_empty() {
                line.compare("Node", &node, Some(Target { must: 0.2, goal: 0.2 }));
                table.lines.push(Line::new(format!("Node, {window} at once"), node));
            }
            table.lines.push(line);
        }
        tables.push(table);
    }
    Ok(tables)
}

fn node_rate(project: &Path, (kind, count): (&str, u64), window: u64) -> Result<f64, Box<dyn Error>> {
    let mut node = Command::new("node");
    node.arg(project.join("bench/node/messages.js")).args([kind, &count.to_string(), &window.to_string()]);
    let output = node.output().map_err(|error| format!("missing: node does not start: {error}"))?;
    rate(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| format!("node {kind}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// The number behind `"rate":`.
fn rate(answer: &str) -> Option<f64> {
    let (_, rest) = answer.split_once("\"rate\":")?;
    rest.split(['}', ',']).next()?.trim().parse().ok()
}

/// A connection to the courier that asks.
struct Courier(BufReader<TcpStream>);

impl Courier {
    fn in_slot_0(server: &Server) -> Result<Courier, Box<dyn Error>> {
        for _ in 0..100 {
            let mut courier = Courier::connect(server.address)?;
            if courier.ask("/")?.contains("\"slot\":0") {
                return Ok(courier);
            }
        }
        Err("no connection came to the worker in slot 0".into())
    }

    fn connect(address: SocketAddr) -> Result<Courier, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(300)))?;
        Ok(Courier(BufReader::new(stream)))
    }

    fn rate(&mut self, path: &str, count: u64, window: u64) -> Result<f64, Box<dyn Error>> {
        let answer = self.ask(&format!("{path}?1,{count},{window}"))?;
        rate(&answer).ok_or_else(|| format!("the courier says {answer}").into())
    }

    fn ask(&mut self, target: &str) -> Result<String, Box<dyn Error>> {
        self.0.get_mut().write_all(format!("GET {target} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err("the courier has closed the connection".into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8(body)?)
    }
}
