//! Lines in the launcher's log, with fields.
//!
//! ```
//! use worker_sdk::log;
//!
//! let (user, tries) = ("ada", 3);
//! log::info!("the cache is warm");
//! log::warn!("slow answer from {}", "upstream");
//! log::error!(user = user, tries = tries; "login failed");
//! ```
//!
//! Fields come first, as `name = value` with anything that can be displayed, then `;`, then a format string.
//! Natively a line goes to the worker through the C ABI, in a component to standard error; the launcher
//! adds the service and the worker to both.

use std::fmt::Display;

pub use crate::{__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};

/// How grave a line is.
///
/// ```
/// worker_sdk::log::write(worker_sdk::log::Level::Info, &[("port", &8080)], "listening");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed that somebody should look at.
    Error = crate::abi::LOG_ERROR,
    /// Something is odd.
    Warn = crate::abi::LOG_WARN,
    /// Something happened.
    Info = crate::abi::LOG_INFO,
    /// Details.
    Debug = crate::abi::LOG_DEBUG,
}

/// Writes a line; the macros of this module are more pleasant.
///
/// ```
/// worker_sdk::log::write(worker_sdk::log::Level::Warn, &[], "disk is nearly full");
/// ```
pub fn write(level: Level, fields: &[(&str, &dyn Display)], message: impl Display) {
    let message = message.to_string();
    #[cfg(not(target_family = "wasm"))]
    if let Some(host) = crate::native::host() {
        return host.log(level, fields, &message);
    }
    let mut line = format!("{} {message}", name(level));
    for (name, value) in fields {
        line.push_str(&format!(" {name}={value}"));
    }
    eprintln!("{line}");
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($name:ident = $value:expr),+ ; $($message:tt)+) => {
        $crate::log::write(
            $crate::log::Level::$level,
            &[$((stringify!($name), &$value as &dyn ::core::fmt::Display)),+],
            ::core::format_args!($($message)+),
        )
    };
    ($level:ident, $($message:tt)+) => {
        $crate::log::write($crate::log::Level::$level, &[], ::core::format_args!($($message)+))
    };
}

/// Writes a line of level error.
///
/// ```
/// worker_sdk::log::error!(code = 7; "it failed");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($line:tt)+) => { $crate::__log!(Error, $($line)+) } }

/// Writes a line of level warn.
///
/// ```
/// worker_sdk::log::warn!("it is odd");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($line:tt)+) => { $crate::__log!(Warn, $($line)+) } }

/// Writes a line of level info.
///
/// ```
/// worker_sdk::log::info!(port = 80; "it runs");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($line:tt)+) => { $crate::__log!(Info, $($line)+) } }

/// Writes a line of level debug.
///
/// ```
/// worker_sdk::log::debug!("details: {:?}", [1, 2]);
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($line:tt)+) => { $crate::__log!(Debug, $($line)+) } }
