//! The smallest plugin.

use worker_sdk::{IntoResponse, Request};

#[worker_sdk::http]
async fn handle(_: Request) -> impl IntoResponse {
    "Hello from Rust!\n"
}
