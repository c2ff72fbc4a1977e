//! What `#[worker_sdk::http]` expands to: a [`Http`] for the author's functions and, by target, its export.
//!
//! Not for authors; it may change with every version of the macro.

use std::fmt::Display;
use std::future::Future;

use crate::{IntoResponse, Request};

/// The author's functions under fixed names.
pub trait Http: 'static {
    /// The handler. Its future as it is: one that wraps it would hold, and move, the request once more.
    fn handle(request: Request) -> impl Future<Output: IntoResponse> + Send + 'static;
    /// The start hook; the reason of a failure is for a person.
    fn start() -> impl Future<Output = Result<(), String>>;
    /// The stop hook.
    fn stop() -> impl Future<Output = ()>;
}

/// The author's function that owns the sockets, under a fixed name.
#[cfg(not(target_family = "wasm"))]
pub trait Socket: 'static {
    /// It is an `async fn`, in a loop of ours.
    const ASYNCHRONOUS: bool;
    /// Serves until it is told to stop; the reason of a failure is for a person.
    fn serve(sockets: crate::Sockets) -> Result<(), String>;
}

/// What a start hook, or a function that owns the sockets, may return.
pub trait StartOutcome {
    /// As one type.
    fn outcome(self) -> Result<(), String>;
}

impl StartOutcome for () {
    fn outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display> StartOutcome for Result<(), E> {
    fn outcome(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Called by the attribute macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __http {
    (handle [$handle:path] start [$($start:path)?] stop [$($stop:path)?] reuse [$reuse:tt]) => {
        const _: () = {
            struct Export;
            impl $crate::export::Http for Export {
                fn handle(
                    request: $crate::Request,
                ) -> impl ::core::future::Future<Output: $crate::IntoResponse> + Send + 'static {
                    $handle(request)
                }
                async fn start() -> ::core::result::Result<(), ::std::string::String> {
                    $( $crate::export::StartOutcome::outcome($start().await)?; )?
                    Ok(())
                }
                async fn stop() {
                    $( $stop().await; )?
                }
            }
            $crate::__export!(Export, $reuse);
        };
    };
}

/// Called by the attribute macro.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __socket {
    (serve [$serve:path] runs [$runs:ident]) => {
        const _: () = {
            struct Export;
            impl $crate::export::Socket for Export {
                const ASYNCHRONOUS: bool = $crate::__asynchronous!($runs);
                fn serve(sockets: $crate::Sockets) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::export::StartOutcome::outcome($crate::__run!($runs, $serve, sockets))
                }
            }
            #[unsafe(export_name = "launcher_plugin")]
            #[used]
            static DESCRIPTOR: $crate::abi::Plugin = $crate::native::socket::descriptor::<Export>(
                env!("CARGO_PKG_NAME"),
                env!("CARGO_PKG_VERSION"),
                cfg!(panic = "abort"),
            );
        };
    };
}

/// A function that owns the sockets, run to its end.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __run {
    (asynchronous, $serve:path, $sockets:ident) => {
        $crate::native::socket::run($sockets, move |sockets| $serve(sockets))?
    };
    (blocking, $serve:path, $sockets:ident) => {
        $serve($sockets)
    };
}

/// Whether a function that owns the sockets is an `async fn`.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __asynchronous {
    (asynchronous) => {
        true
    };
    (blocking) => {
        false
    };
}

/// Called by the attribute macro.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __socket {
    ($($rest:tt)*) => {
        ::core::compile_error!(
            "#[worker_sdk::socket] is for native plugins; a component that owns its sockets is a program: write `fn main` with std::net"
        );
    };
}

/// The descriptor of a native plugin.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($export:ty, $reuse:tt) => {
        #[unsafe(export_name = "launcher_plugin")]
        #[used]
        static DESCRIPTOR: $crate::abi::Plugin = $crate::native::descriptor::<$export>(
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            cfg!(panic = "abort"),
        );
    };
}

/// The export of `wasi:http/incoming-handler`.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($export:ty, $reuse:tt) => {
        struct Component;
        impl $crate::component::wasip2::exports::http::incoming_handler::Guest for Component {
            fn handle(
                request: $crate::component::wasip2::http::types::IncomingRequest,
                out: $crate::component::wasip2::http::types::ResponseOutparam,
            ) {
                $crate::component::handle::<$export>(request, out)
            }
        }
        $crate::component::wasip2::http::proxy::export!(Component with_types_in $crate::component::wasip2);
        $crate::__reusable!($reuse);
    };
}

/// The custom section by which a component says that its instances may serve many requests.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __reusable {
    (true) => {
        #[unsafe(link_section = "launcher:reusable")]
        #[used]
        static REUSABLE: [u8; 1] = *b"1";
    };
    (false) => {};
}
