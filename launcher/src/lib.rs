//! Runs WASM components and native plugins as supervised, hot-restarting worker processes.

pub mod channel;
pub mod config;
pub mod master;
pub mod sys;
pub mod worker;
