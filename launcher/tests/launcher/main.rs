//! What the launcher promises, asked of the real binary from outside.
//!
//! Each file is named for a kind of promise, each test for one promise. [`harness`] starts the program on port 0,
//! reads its event log, and talks HTTP with a client of its own that never retries.

mod access_log;
mod admin;
mod both_builds;
mod browser;
mod cli;
mod configuration;
mod control_api;
mod crash;
mod daemons;
mod development;
mod documentation;
mod examples;
mod footprint;
mod handover;
mod harness;
mod hostile_channel;
mod hot_restart;
mod limits;
mod listen;
mod liveness;
mod logs;
mod messages;
mod messages_to_the_operator;
mod native;
mod network;
mod orphans;
mod output;
mod proxied;
mod sandbox;
mod serving;
mod sockets;
mod sockets_in_c;
mod spares;
mod spread;
mod static_files;
mod statistics;
mod steering;
mod stop;
mod streaming;
mod survival;
mod systemd;
mod templates;
mod upgrade;
mod wasm_messages;
mod wasm_sockets;
