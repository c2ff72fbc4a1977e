//! The axum application of `examples/sockets/axum`, as a plugin that owns its socket and by itself.

use std::process::Command;

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Server, launcher};

const BARE: &str = "bare axum";
const OWNS: &str = "axum, owns its socket";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("axum", "GET / on kept connections, 1 worker", "CPU µs/request");
    let built = bench.axum()?;
    let started = [
        (BARE, Server::telling(BARE, &mut Command::new(built.join("examples/bare")))),
        (OWNS, launcher(bench, OWNS, &built.join("libaxum_app.so"), "workers: 1")),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::get(server.address, "/"));
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(&mut table, BARE, &[(OWNS, Some((1.02, 1.02)))]);
    Ok(vec![table])
}
