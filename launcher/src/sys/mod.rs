//! One file for each mechanism of the operating system. Nothing here knows services, workers or plugins.

pub mod accept;
pub mod alarm;
pub mod fatal_signal;
pub mod file;
pub mod heap;
pub mod identity;
pub mod inotify;
pub mod ledger;
pub mod listener;
pub mod local_time;
pub mod memfd;
pub mod named_descriptors;
pub mod notify;
pub mod orphan;
pub mod page;
pub mod passing;
pub mod peer;
pub mod poll;
pub mod process;
pub mod readiness;
pub mod reaper;
pub mod signal_queue;
pub mod stdio;
pub mod terminal;
pub mod unix_path;
pub mod usage;
