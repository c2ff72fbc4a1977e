//! The master: it owns the listeners and the generations, and supervises the workers.

pub mod pool;
pub mod watch;
