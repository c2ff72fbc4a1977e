//! The files of access logs, opened for the workers: one that became another user could not open them.
//!
//! A descriptor goes to a worker with its assignment, and a new one on `SIGUSR1`. Lines are written by the workers.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::Master;
use super::journal::{Fact, Journal};
use crate::channel::{self, ToWorker};
use crate::{config, sys};

/// The worker's part of an access log. One that cannot be opened is no reason to serve nobody.
pub(super) fn open(
    settings: &config::AccessLog,
    parcel: &mut Vec<Arc<OwnedFd>>,
    journal: &Journal,
) -> Option<channel::AccessLog> {
    let format = match settings.format {
        config::AccessFormat::Json => channel::AccessFormat::Json,
        config::AccessFormat::Combined => channel::AccessFormat::Combined,
    };
    let Some(path) = &settings.file else {
        return Some(channel::AccessLog { format, to: channel::AccessTo::Output });
    };
    match sys::file::open_log(path) {
        Ok(file) => {
            parcel.push(Arc::new(file.into()));
            Some(channel::AccessLog { format, to: channel::AccessTo::File })
        }
        Err(error) => {
            let (path, reason) = (path.display().to_string(), error.to_string());
            journal.record(&Fact::LogFailed { path, reason });
            None
        }
    }
}

impl Master {
    /// Hand every worker its access log anew: what had its name was moved away.
    pub(super) fn reopen_access_logs(&self) {
        let mut files: BTreeMap<&Path, Arc<OwnedFd>> = BTreeMap::new();
        for running in self.workers.values() {
            let service = self.services.get(&running.service);
            let deployable = service.and_then(|service| service.generations.get(&running.name.generation));
            let settings = deployable.and_then(|deployable| deployable.settings.access_log.as_ref());
            let Some(path) = settings.and_then(|settings| settings.file.as_deref()) else { continue };
            if !files.contains_key(path) {
                let path_text = path.display().to_string();
                match sys::file::open_log(path) {
                    Ok(file) => {
                        files.insert(path, Arc::new(file.into()));
                        self.journal.record(&Fact::LogReopened { path: path_text });
                    }
                    Err(error) => {
                        self.journal.record(&Fact::LogFailed { path: path_text, reason: error.to_string() });
                        continue;
                    }
                }
            }
            if let Some(file) = files.get(path) {
                running.child.send(ToWorker::ReopenAccessLog, vec![Arc::clone(file)]);
            }
        }
    }
}
