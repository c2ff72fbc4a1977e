//! What components can import: all of WASI 0.2 and 0.3, `wasi:http` and `wasi:config/store`.
//!
//! Everything is linked always; what a guest may do with it is the store's business. Only name look-ups are replaced,
//! because the engine's own know no list of names.

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime::{Engine, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{Host as _, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode as ErrorCode02, Network as NetworkResource};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as ErrorCode03;
use wasmtime_wasi::p3::bindings::sockets::types::IpAddress;
use wasmtime_wasi::sockets::WasiSocketsView;
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use crate::World;
use crate::host::Host;
use crate::{messages, sockets};

/// A linker for one flavour of engine; a program gets sockets of ours instead of the engine's.
pub(crate) fn linker(engine: &Engine, concurrency: bool, world: World) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasi_02(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |host: &mut Host| WasiConfig::from(host.variables()))?;
    messages::link(&mut linker)?;
    if concurrency {
        wasi_03(&mut linker)?;
    }
    if world.is_program() {
        sockets::link(&mut linker, concurrency)?;
    }
    Ok(linker)
}

fn wasi_02(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p2::bindings::{LinkOptions as HttpOptions, http};

    // Interfaces' unstable functions: toolchains of the newest WIT import them whether the guest calls them or not.
    let mut options = wasmtime_wasi::p2::bindings::LinkOptions::default();
    options.network_error_code(true);
    wasmtime_wasi::p2::add_to_linker_with_options_async(linker, &options)?;
    let mut options = HttpOptions::default();
    options.informational_outbound_responses(true);
    http::outgoing_handler::add_to_linker::<Host, WasiHttp>(linker, Host::http)?;
    http::types::add_to_linker::<Host, WasiHttp>(linker, &options.into(), Host::http)?;

    linker.allow_shadowing(true);
    linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Host>, (network, name): (Resource<NetworkResource>, String)| {
            if !store.data().network().permits_lookup(&name) {
                return Ok((Err::<Resource<ResolveAddressStream>, _>(ErrorCode02::AccessDenied),));
            }
            Ok((match store.data_mut().sockets().resolve_addresses(network, name) {
                Ok(stream) => Ok(stream),
                Err(error) => Err(error.downcast()?),
            },))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn wasi_03(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;

    linker.allow_shadowing(true);
    linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?.func_wrap_concurrent(
        "resolve-addresses",
        |store: &Accessor<Host>, (name,): (String,)| {
            Box::pin(async move {
                let network = store.with(|mut store| store.get().network().clone());
                if !network.permits_lookup(&name) {
                    return Ok((Err(ErrorCode03::AccessDenied),));
                }
                let addresses: Vec<IpAddress> =
                    network.addresses(&name).await.into_iter().map(IpAddress::from).collect();
                Ok((if addresses.is_empty() { Err(ErrorCode03::NameUnresolvable) } else { Ok(addresses) },))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
