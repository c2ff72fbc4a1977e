//! Who this worker is.

/// The worker that runs this code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worker {
    /// Name of the service in config.yaml.
    pub service: String,
    /// Id of the worker, never reused by its master.
    pub id: u64,
    /// Place among the service's workers, `0..workers`; a replacement inherits it: good for "only one of us".
    pub slot: u32,
    /// Generation of the service: grows with each reload.
    pub generation: u64,
}

/// Who this worker is. Outside of a launcher (in a test) everything is zero and empty.
///
/// ```
/// let me = worker_sdk::worker();
/// if me.slot == 0 {
///     // the one that cleans up
/// }
/// println!("worker {} of {}, generation {}", me.id, me.service, me.generation);
/// ```
pub fn worker() -> Worker {
    #[cfg(not(target_family = "wasm"))]
    if let Some(host) = crate::native::host() {
        return Worker {
            service: host.service().to_owned(),
            id: host.worker(),
            slot: host.slot(),
            generation: host.generation(),
        };
    }
    Worker {
        service: std::env::var("LAUNCHER_SERVICE").unwrap_or_default(),
        id: number("LAUNCHER_WORKER_ID"),
        slot: number("LAUNCHER_WORKER_SLOT"),
        generation: number("LAUNCHER_WORKER_GENERATION"),
    }
}

fn number<T: std::str::FromStr + Default>(name: &str) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}
