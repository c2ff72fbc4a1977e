//! What can be made before it is known which component is to be loaded: engines, and everything that can be linked.
//!
//! Both take more of a worker's start than its component does. A process that waits for one makes them meanwhile. What
//! does not fit the component in the end is dropped: it is address space more than memory.

use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::engine::{Allocation, engine};
use crate::host::Host;
use crate::linker::linker;
use crate::{Manifest, Purpose, World};

/// See the module.
#[derive(Default)]
pub struct Ready(Vec<Flavour>);

struct Flavour {
    concurrency: bool,
    engine: Engine,
    linker: Linker<Host>,
}

impl Ready {
    /// For components that answer requests and need the component model's asynchronous features, or do not
    /// ([`Manifest::concurrency`]), compiled for [`Purpose::Production`]. What cannot be made is not there: whoever
    /// loads the component tries again and says why.
    pub fn make(flavours: &[bool]) -> Ready {
        let made = flavours.iter().filter_map(|&concurrency| {
            let engine = engine(concurrency, Allocation::Pool, Purpose::Production).ok()?;
            let linker = linker(&engine, concurrency, World::Http02).ok()?;
            Some(Flavour { concurrency, engine, linker })
        });
        Ready(made.collect())
    }

    /// What fits this component.
    pub(crate) fn take(self, manifest: &Manifest) -> Option<(Engine, Linker<Host>)> {
        if manifest.purpose != Purpose::Production || manifest.world.is_program() {
            return None;
        }
        let fits = |flavour: &Flavour| flavour.concurrency == manifest.concurrency;
        self.0.into_iter().find(fits).map(|flavour| (flavour.engine, flavour.linker))
    }
}
