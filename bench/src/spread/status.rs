//! What the launcher says of its workers, over its control socket.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A launcher's control socket.
pub(super) struct Status(PathBuf);

/// A worker that is ready.
pub(super) struct Worker {
    pub(super) pid: u32,
    /// Connections that its slot has accepted.
    pub(super) accepted: u64,
    /// Connections that it has open.
    pub(super) connections: u64,
}

impl Status {
    /// Of the launcher with this state directory.
    pub(super) fn of(state: &Path) -> Status {
        Status(state.join("control.sock"))
    }

    /// The workers of a service in the order of their slots.
    pub(super) fn workers(&self, service: &str) -> Result<Vec<Worker>, Box<dyn Error>> {
        let mut socket = UnixStream::connect(&self.0)?;
        write!(socket, "GET /v1/services/{service} HTTP/1.1\r\nHost: launcher\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        socket.read_to_string(&mut response)?;
        let (_, body) = response.split_once("\r\n\r\n").ok_or("the control socket gave no response")?;
        let body = &body[body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)];
        let said: Value = serde_json::from_str(body)?;
        let mut workers: Vec<(u64, Worker)> = Vec::new();
        for worker in said["workers"].as_array().ok_or("no workers in the status")? {
            let number = |field: &str| worker[field].as_u64().ok_or(format!("no {field} in the status"));
            if worker["state"] == "ready" {
                let (accepted, connections) = (number("accepted")?, number("connections")?);
                let worker = Worker { pid: u32::try_from(number("pid")?)?, accepted, connections };
                workers.push((number("slot")?, worker));
            }
        }
        workers.sort_by_key(|(slot, _)| *slot);
        Ok(workers.into_iter().map(|(_, worker)| worker).collect())
    }
}
