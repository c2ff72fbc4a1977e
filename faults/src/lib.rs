//! Faults on a schedule against a running launcher, under clients that never retry. See `README.md`.
//!
//! Flow: [`fault`] draws a step, [`inject`] carries it out, [`check`] waits until everything is well again, and
//! [`judge`] looks at what the [`clients`] noted meanwhile; [`run`] does that until the time is over and asks [`leaks`]
//! what is left. [`handover`] measures. Nothing here is part of the launcher: it is driven as anybody drives it.

pub mod check;
pub mod clients;
pub mod disk;
pub mod fault;
pub mod group;
pub mod handover;
pub mod http;
pub mod inject;
pub mod judge;
pub mod launcher;
pub mod leaks;
pub mod ledger;
pub mod options;
pub mod plugins;
pub mod process;
pub mod random;
pub mod report;
pub mod run;
pub mod site;
pub mod tamper;
pub mod world;
