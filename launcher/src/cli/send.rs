//! `launcher send`: a message of the operator's for plugins.

use std::path::Path;

use launcher::api::{Delivered, Send};

use super::client::{Failure, Master};
use super::{Ended, Format, print, print_json};

/// `SERVICE`, `SERVICE/SLOT` or `SERVICE/@WORKER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receiver {
    service: String,
    slot: Option<u32>,
    worker: Option<u64>,
}

impl std::str::FromStr for Receiver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Receiver, Self::Err> {
        const WRONG: &str = "neither SERVICE nor SERVICE/SLOT nor SERVICE/@WORKER: web, web/0, web/@17";
        let (service, rest) = text.split_once('/').map_or((text, None), |(service, rest)| (service, Some(rest)));
        let (mut slot, mut worker) = (None, None);
        match rest.map(|rest| (rest, rest.strip_prefix('@'))) {
            None => {}
            Some((_, Some(id))) => worker = Some(id.parse().map_err(|_| WRONG)?),
            Some((number, None)) => slot = Some(number.parse().map_err(|_| WRONG)?),
        }
        if service.is_empty() { Err(WRONG) } else { Ok(Receiver { service: service.to_owned(), slot, worker }) }
    }
}

/// A message, as it is typed.
pub(crate) fn message(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}; a text wants quotes of its own: '\"text\"'"))
}

/// Send a message; done when every plugin for which it is has it.
pub(crate) fn send(config: &Path, to: Receiver, message: serde_json::Value, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    let Receiver { service, slot, worker } = to;
    let body = serde_json::to_vec(&Send { service: service.clone(), slot, worker, message }).unwrap_or_default();
    let delivered: Delivered = master.send("POST", "/v1/messages", Some(&body))?.answer(None)?.json()?;
    match format {
        Format::Json => print_json(&delivered)?,
        Format::Table => {
            let workers: Vec<_> = delivered.workers.iter().map(u64::to_string).collect();
            let noun = if workers.len() == 1 { "worker" } else { "workers" };
            print(format!("{service}: taken by {noun} {}\n", workers.join(", ")).as_bytes())?;
        }
    }
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_a_service_a_slot_or_a_worker() {
        let receiver = |slot, worker| Ok(Receiver { service: "web".to_owned(), slot, worker });
        assert_eq!("web".parse(), receiver(None, None));
        assert_eq!("web/3".parse(), receiver(Some(3), None));
        assert_eq!("web/@17".parse(), receiver(None, Some(17)));
        for text in ["", "/", "/0", "web/", "web/x", "web/@", "web/-1", "web/0/1"] {
            assert!(text.parse::<Receiver>().is_err(), "{text}");
        }
    }
}
