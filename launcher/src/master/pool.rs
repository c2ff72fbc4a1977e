//! The pool: what a service's workers should be, decided without a clock, a pid or a system call.
