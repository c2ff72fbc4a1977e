//! Nothing: the benches are in `benches/`, and `cargo bench --workspace --bench inner` runs them.
