//! An axum application, unmodified but for the listener that it is given.

use std::io;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use worker_sdk::{Sockets, worker};

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> io::Result<()> {
    let listener = TcpListener::from_std(sockets.tcp()?)?;
    sockets.ready();
    axum::serve(listener, app()).with_graceful_shutdown(sockets.stop().told()).await
}

/// The application, as it would be without a launcher.
pub fn app() -> Router {
    Router::new().route("/", get(|| async { "Hello from axum!\n" })).route("/orders/{id}", get(order))
}

#[derive(Serialize)]
struct Order {
    id: u64,
    served_by: u64,
}

async fn order(Path(id): Path<u64>) -> Json<Order> {
    Json(Order { id, served_by: worker().id })
}
