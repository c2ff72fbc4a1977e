//! A worker: loads one plugin and serves on the sockets that it inherited.

pub mod http;
pub mod plugin;
