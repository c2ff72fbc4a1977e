//! What must be true after each fault, once the launcher had time to recover.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inject::ask;
use crate::plugins;
use crate::process;
use crate::world::{VERSIONED, WILD, World};

/// How long a recovery may take.
pub const BOUND: Duration = Duration::from_secs(15);

/// Waits until everything is as it should be; how long that took.
///
/// # Errors
/// What is still wrong after [`BOUND`].
pub fn settle(world: &World) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut last = String::new();
    let good = process::until(BOUND, || match wrong(world) {
        Ok(()) => true,
        Err(what) => {
            last = what;
            // Asking costs the master something, too.
            std::thread::park_timeout(Duration::from_millis(10));
            false
        }
    });
    if good { Ok(begun.elapsed()) } else { Err(format!("not well again within {BOUND:?}: {last}")) }
}

/// What is not as it should be now.
fn wrong(world: &World) -> Result<(), String> {
    let status = world.launcher.status()?;
    let services = status["services"].as_array().ok_or_else(|| format!("no services in {status}"))?;
    let names: BTreeSet<&str> = services.iter().filter_map(|service| service["name"].as_str()).collect();
    let mut expected: BTreeSet<&str> = world.services.keys().copied().collect();
    if world.edits.extra {
        expected.insert("extra");
    }
    if names != expected {
        return Err(format!("the services are {names:?}, not {expected:?}"));
    }
    for service in services {
        serves(world, service)?;
    }
    for name in VERSIONED {
        let wanted = world.service(name);
        for _ in 0..wanted.workers {
            match ask(wanted.address, "GET", "/")? {
                (200, body) if plugins::told(body.as_bytes()) == Some(wanted.version) => {}
                (status, body) => {
                    return Err(format!("{name} answers {status} {body:?}, not version {}", wanted.version));
                }
            }
        }
    }
    match ask(world.service(WILD).address, "GET", "/")? {
        (200, body) if body == "it behaves\n" => Ok(()),
        answer => Err(format!("{WILD} answers {answer:?}")),
    }
}

fn serves(world: &World, service: &Value) -> Result<(), String> {
    let name = service["name"].as_str().unwrap_or_default();
    let wanted = world.services.get(name).map_or(1, |wanted| u64::from(wanted.workers));
    let workers = service["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = workers.iter().filter(|worker| worker["state"] == "ready").count() as u64;
    let is = (service["state"].as_str().unwrap_or_default(), service["wanted"].as_u64(), ready, workers.len() as u64);
    // Slow clients keep a worker that leaves until they have what they asked for.
    if is.0 != "serving" || is.1 != Some(wanted) || ready != wanted || is.3 > 2 * wanted + 4 {
        return Err(format!(
            "{name} is {}, wants {:?} and has {ready} of {wanted} ready, {} in all; {}",
            is.0, is.1, is.3, service["reason"],
        ));
    }
    Ok(())
}
