//! The same handlers on a bare server, as a native plugin and as a component: large answers, uploads, JSON, headers.

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Server, bare, launcher};

const NATIVE: &str = "native, Rust";
const WASM: &str = "WASM, instances reused";

/// What is asked, and what it may cost.
pub(super) struct Shape {
    name: &'static str,
    title: &'static str,
    ask: fn(&Server) -> Ask,
    native: (f64, f64),
    wasm: (f64, f64),
}

pub(super) const LARGE: Shape = Shape {
    name: "large",
    title: "GET of 64 KiB, 1 worker",
    ask: |server| Ask::get(server.address, "/large"),
    native: (1.10, 1.05),
    wasm: (3.0, 2.0),
};

pub(super) const UPLOAD: Shape = Shape {
    name: "upload",
    title: "POST of 1 MiB, 1 worker",
    ask: |server| Ask::with(server.address, "/upload", &[], Some(&vec![b'x'; 1 << 20])),
    native: (1.10, 1.05),
    wasm: (3.0, 2.0),
};

pub(super) const JSON: Shape = Shape {
    name: "json",
    title: "POST of an order of 700 bytes, read and written with serde_json, 1 worker",
    ask: |server| Ask::with(server.address, "/json", &[("content-type", "application/json")], Some(order().as_bytes())),
    native: (1.10, 1.05),
    wasm: (3.0, 2.0),
};

pub(super) const HEADERS: Shape = Shape {
    name: "headers",
    title: "GET with 20 headers, 15 in the answer, 1 worker",
    ask: |server| Ask::with(server.address, "/headers", &REQUEST_HEADERS, None),
    native: (1.30, 1.15),
    wasm: (3.5, 2.5),
};

/// As a browser behind a proxy sends them; `host` is the twentieth.
const REQUEST_HEADERS: [(&str, &str); 19] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://shop.example/orders?page=2"),
    ("cookie", "session=9f8b7c6d5e4f3a2b1c0d; theme=dark; consent=1"),
    ("dnt", "1"),
    ("upgrade-insecure-requests", "1"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-user", "?1"),
    ("priority", "u=0, i"),
    ("cache-control", "no-cache"),
    ("pragma", "no-cache"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "01J9ZC7Q4T8Y2M6N5P3R1S0V7W"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

fn order() -> String {
    let lines: Vec<String> =
        (0..14).map(|n| format!("{{\"item\":\"article {n:04}\",\"count\":{},\"price\":{n}.25}}", n + 1)).collect();
    format!("{{\"id\":4711,\"customer\":\"Ada Lovelace\",\"lines\":[{}]}}", lines.join(","))
}

pub(super) fn run(bench: &Bench, shape: &Shape) -> Result<Vec<Table>, String> {
    let mut table = Table::new(shape.name, shape.title, "CPU µs/request");
    let reuse = "workers: 1, wasm: { reuse: 1000000 }";
    let started = [
        ("bare hyper", bare(None)),
        (NATIVE, bench.native_shapes().and_then(|plugin| launcher(bench, NATIVE, &plugin, "workers: 1"))),
        (WASM, bench.wasm_shapes().and_then(|plugin| launcher(bench, WASM, &plugin, reuse))),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, shape.ask);
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(&mut table, "bare hyper", &[(NATIVE, Some(shape.native)), (WASM, Some(shape.wasm))]);
    Ok(vec![table])
}
