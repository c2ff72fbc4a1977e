//! `launcher upgrade`: another version of the launcher takes over.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use launcher::api::{LastUpgrade, Status, Upgrade, UpgradeResult, Upgrading};

use super::client::{Failure, Master};
use super::{Ended, Format, Wait, print, print_json, words};

/// How often a launcher that is being replaced is asked how far it is.
const TICK: Duration = Duration::from_millis(100);

/// Let the program at `path` take over, or the one by which the launcher was started.
pub(crate) fn upgrade(config: &Path, path: Option<&Path>, wait: Wait, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    let before = master.get::<Status>("/v1/status")?;
    let since = Instant::now();
    let body = body(path)?;
    let upgrading = master.send("POST", "/v1/upgrade", Some(&body))?.answer(None)?.json::<Upgrading>()?;
    if wait == Wait::Acceptance {
        match format {
            Format::Json => print_json(&upgrading)?,
            Format::Table => {
                let text = format!("upgrade to launcher {} begun: {}", upgrading.version, upgrading.program);
                print(format!("{}\n", words::Escaped(&text)).as_bytes())?;
            }
        }
        return Ok(Ended::Done);
    }
    let last = loop {
        std::thread::sleep(TICK);
        // While nobody answers the next one is on its way.
        let status = match master.get::<Status>("/v1/status") {
            Err(Failure::Cut { .. } | Failure::Unreachable { .. }) => continue,
            status => status?,
        };
        let again = status.pid == before.pid && status.uptime_s > before.uptime_s;
        match status.upgrade {
            Some(last) if !again && last.result != UpgradeResult::Replacing => break last,
            _ => {}
        }
    };
    let took = words::took(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    let LastUpgrade { program, result, reason } = &last;
    match (format, result) {
        (Format::Json, _) => print_json(&last)?,
        (Format::Table, UpgradeResult::Failed) => {
            let reason = reason.as_deref().unwrap_or("no reason is known");
            eprintln!("error: {}", words::Escaped(&format!("not upgraded to {program}: {reason}")));
        }
        (Format::Table, _) => {
            let text = format!("launcher {} has taken over, after {took}: {program}", upgrading.version);
            print(format!("{}\n", words::Escaped(&text)).as_bytes())?;
        }
    }
    Ok(if *result == UpgradeResult::Failed { Ended::RolledBack } else { Ended::Done })
}

fn body(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    // The master has another working directory.
    let absolute = path.map(std::path::absolute).transpose().map_err(Failure::File)?;
    let path = absolute.map(|path| path.to_str().map(str::to_owned).ok_or(()));
    let path = path
        .transpose()
        .map_err(|()| Failure::File(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")))?;
    serde_json::to_vec(&Upgrade { path }).map_err(|error| Failure::File(error.into()))
}
