//! The engine: one configuration in two flavours and two allocations.
//!
//! *Flavour*: components without asynchronous features get an engine without concurrency support, whose calls are
//! cheaper. A compiled form fits one flavour only.
//! *Allocation*: instances come from a small pool; a component that is too big for a slot of the pool gets an
//! on-demand engine. A compiled form loads under both, because the pool changes no tunable.

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmtime::component::Component;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, RegallocAlgorithm,
    WasmBacktraceDetails,
};

use crate::Purpose;
use crate::error::{PluginError, chain};

/// Instances of a component that one worker may have at once. Measured: a pool of 100 slots costs 3 ms from exec to
/// ready, one of 1,000 slots 5 ms.
pub(crate) const INSTANCES: u32 = 100;

/// Slots for linear memories and tables: most components need one or two of each an instance.
const MEMORIES: u32 = 2 * INSTANCES;
const TABLES: u32 = 4 * INSTANCES;

/// Elements of a table's slot (8 bytes of address space each). Interpreters compiled to WASM have tens of thousands.
const TABLE_ELEMENTS: usize = 100_000;

/// Bytes of a freed memory that are cleared by hand and stay resident. More system calls without it (a fresh
/// instance for each request costs a fifth more), more idle memory with a larger one.
const KEEP_RESIDENT: usize = 64 << 10;

/// How instances get their memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Allocation {
    Pool,
    OnDemand,
}

/// Makes an engine.
pub(crate) fn engine(concurrency: bool, allocation: Allocation, purpose: Purpose) -> Result<Engine, PluginError> {
    Engine::new(&config(concurrency, allocation, purpose))
        .map_err(|error| PluginError::Engine { detail: chain(&error) })
}

fn config(concurrency: bool, allocation: Allocation, purpose: Purpose) -> Config {
    let mut config = Config::new();
    config.concurrency_support(concurrency);
    config.epoch_interruption(true);
    // Interpreters recurse deeply; the default of 512 KiB ends them early.
    config.max_wasm_stack(1 << 20);
    config.async_stack_size(2 << 20);
    // Said outright: the default asks the environment, and a compiled form fits only the engine that agrees with it.
    config.wasm_backtrace_details(match purpose {
        Purpose::Production => WasmBacktraceDetails::Disable,
        Purpose::Development => WasmBacktraceDetails::Enable,
    });
    if purpose == Purpose::Development {
        // An author waits for this compiler after every save, and for nothing that it would optimise.
        config.cranelift_opt_level(OptLevel::None);
        config.cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    if allocation == Allocation::Pool {
        let stacks = if concurrency { 5 * INSTANCES } else { INSTANCES + 28 };
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(INSTANCES)
            // A counter only, unlike memories, tables and stacks, which take address space.
            .total_core_instances(64 * INSTANCES)
            .total_memories(MEMORIES)
            .total_tables(TABLES)
            .total_stacks(stacks)
            .total_gc_heaps(INSTANCES)
            .max_memories_per_module(4)
            .max_tables_per_module(16)
            .table_elements(TABLE_ELEMENTS)
            // Limits of heap allocations, not reservations.
            .max_core_instance_size(16 << 20)
            .max_component_instance_size(64 << 20)
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(KEEP_RESIDENT);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// How many instances of this component the pool of its engine can hold.
pub(crate) fn capacity(component: &Component, allocation: Allocation) -> u32 {
    if allocation == Allocation::OnDemand {
        return INSTANCES;
    }
    let Some(needed) = component.resources_required() else {
        return INSTANCES;
    };
    let memories = MEMORIES / needed.num_memories.max(1);
    let tables = TABLES / needed.num_tables.max(1);
    INSTANCES.min(memories).min(tables).max(1)
}

/// Identifies what a compiled form depends on besides the component's bytes: the engine's version and settings, the
/// processor's features, and this crate's version. Part of the key of an on-disk cache; covers both flavours.
pub fn compatibility_hash(purpose: Purpose) -> Result<String, PluginError> {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    purpose.hash(&mut hasher);
    for concurrency in [false, true] {
        engine(concurrency, Allocation::OnDemand, purpose)?.precompile_compatibility_hash().hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
