//! Whatever comes from outside, against the code that reads it: each target takes any bytes and must neither panic nor
//! break what it promises.
//!
//! The files under test are the launcher's own, by symbolic links: a target that used the launcher as a library would
//! build the WASM compiler with the fuzzer's instrumentation, for very long. Modules that are written here stand in for
//! the ones around them.
//!
//! `tests/replay.rs` runs the corpora and mutations of them with a stable compiler; `scripts/fuzz` runs libFuzzer.

// `channel` and its neighbours name the crate of the WASM host; of that only the data are needed.
extern crate self as wasm_host;

pub mod api;
pub mod channel;
pub mod config;
pub mod master;
#[expect(dead_code, unreachable_pub, reason = "what only the WASM host itself uses")]
mod settings;
pub mod sys;
pub mod worker;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
pub use settings::{Dir, Endpoint, Manifest, Purpose, Settings, World};

use channel::{Large, ToMaster, ToWorker};
use worker::plugin::native::manifest;

/// A target: its name, which is that of its corpus, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("api", api),
    ("channel", channel),
    ("config", config),
    ("elf", elf),
    ("escape", master::journal::escape),
    ("handover", worker::http::handover::read),
    ("post", post),
    ("proxy", worker::http::proxy_head),
];

/// A configuration: it is understood, or everything that is wrong is shown.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables = |name: &str| (name == "HOME").then(|| "/home/somebody".to_owned());
    match config::load_text(Path::new("/etc/launcher/config.yaml"), &text, &variables) {
        Ok(config) => {
            for service in config.services.values() {
                assert!(!service.listen.is_empty() && service.workers > 0, "{service:?}");
                assert!(config::differences(service, service).is_empty(), "{service:?}");
            }
            drop(config.warnings.to_string());
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// A packet of the channel, as the master and as a worker read it. The first byte says which, and whether a file comes
/// with it that holds what follows the first line.
pub fn channel(bytes: &[u8]) {
    let Some((how, packet)) = bytes.split_first() else { return };
    let Ok((ours, theirs)) = channel::pair() else { return };
    let mut parts = packet.splitn(2, |byte| *byte == b'\n');
    let (inline, large) = match how & 1 {
        0 => (packet, None),
        _ => (parts.next().unwrap_or_default(), Some(parts.next().unwrap_or_default())),
    };
    let file = large.and_then(|large| {
        let file = sys::memfd::create("fuzz").ok()?;
        std::os::unix::fs::FileExt::write_all_at(&file, large, 0).ok()?;
        Some(file)
    });
    let files: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return;
    }
    if sendmsg(&ours, &[IoSlice::new(inline)], &mut control, SendFlags::DONTWAIT).is_err() {
        return;
    }
    if how & 2 == 0 {
        match channel::receive_blocking::<ToWorker>(theirs.as_fd(), Large::Accepted) {
            Ok(message) => drop(message),
            Err(error) => drop(error.to_string()),
        }
        return;
    }
    match channel::receive_blocking::<ToMaster>(theirs.as_fd(), Large::Refused) {
        Ok(Some((message, _))) => {
            // What the master understands it can say itself.
            if channel::send_blocking(ours.as_fd(), &message).is_ok() {
                let again = channel::receive_blocking::<ToMaster>(theirs.as_fd(), Large::Accepted);
                assert!(matches!(again, Ok(Some((again, _))) if again == message), "{message:?}");
            }
        }
        Ok(None) => {}
        Err(error) => drop(error.to_string()),
    }
}

/// A plugin's file, as a native one. A compiled component is an ELF file, too, and none that is served.
pub fn elf(bytes: &[u8]) {
    match manifest::verify(bytes) {
        Ok(manifest) => drop(format!("{manifest:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The bodies of the control API, as both sides read them.
pub fn api(bytes: &[u8]) {
    fn read<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
        if let Ok(read) = serde_json::from_slice::<T>(bytes) {
            let text = serde_json::to_string(&read).unwrap_or_else(|error| panic!("it is not written: {error}"));
            assert!(serde_json::from_str::<T>(&text).is_ok(), "{text}");
        }
    }
    read::<api::Scale>(bytes);
    read::<api::ConfigFile>(bytes);
    read::<api::Status>(bytes);
    read::<api::Outcomes>(bytes);
    read::<api::Refusal>(bytes);
    read::<api::Record>(bytes);
    read::<api::Plan>(bytes);
}

/// A packet of a link between two workers, as the receiving one reads it. What it understands is written again the same way.
pub fn post(bytes: &[u8]) {
    let mut left = bytes;
    while !left.is_empty() {
        let before = left;
        match channel::post::read(&mut left) {
            Ok(frame) => {
                let mut again = Vec::new();
                frame.write(&mut again);
                assert!(!again.is_empty() && before.starts_with(&again), "{frame:?}");
                assert_eq!(before.len() - left.len(), again.len(), "{frame:?}");
            }
            Err(reason) => return assert!(!reason.is_empty()),
        }
    }
}
