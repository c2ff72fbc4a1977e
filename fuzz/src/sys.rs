//! Of the launcher's mechanisms those that the readers need.

pub mod accept;
pub mod alarm;
pub mod memfd;
pub mod page;
pub mod readiness;
pub mod socket_kind;
pub mod turned;
