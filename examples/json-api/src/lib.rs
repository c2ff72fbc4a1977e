//! A JSON API: orders in memory, shared by all requests of a worker, and a task of its own that lets old ones go.
//!
//! State is a static: a native library is loaded once a worker and stays. Other workers have their own; what must be
//! shared among them belongs into a database, whose client would stand where `Shop` stands.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use worker_sdk::{IntoResponse, Json, Method, Request, Response, StatusCode, log};

/// Bytes of an order that are read.
const LARGEST: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Seconds for which an order is kept.
    keep: u64,
    /// Orders that are kept.
    most: usize,
}

#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Order {
    item: String,
    #[serde(default = "one")]
    count: u32,
}

fn one() -> u32 {
    1
}

/// What was ordered.
#[derive(Default)]
struct Book {
    /// Number of the last order.
    last: u64,
    orders: BTreeMap<u64, (Instant, Order)>,
}

struct Shop {
    config: Config,
    book: Mutex<Book>,
}

static SHOP: OnceLock<Shop> = OnceLock::new();

impl Shop {
    fn book(&self) -> MutexGuard<'_, Book> {
        // A handler that panicked has not left half an order behind: go on.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn start() -> Result<(), worker_sdk::ConfigError> {
    let config: Config = worker_sdk::config()?;
    let keep = Duration::from_secs(config.keep);
    let shop = SHOP.get_or_init(|| Shop { config, book: Mutex::default() });
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            shop.book().orders.retain(|_, (since, _)| since.elapsed() < keep);
        }
    });
    Ok(())
}

async fn stop() {
    let left = SHOP.get().map_or(0, |shop| shop.book().orders.len());
    log::info!(orders = left; "the shop closes");
}

#[derive(Serialize)]
struct Placed {
    id: u64,
    worker: u64,
}

type Failure = (StatusCode, String);

#[worker_sdk::http(start = start, stop = stop)]
async fn handle(request: Request) -> Response {
    let Some(shop) = SHOP.get() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let path = request.uri().path().to_owned();
    match (request.method(), path.strip_prefix("/orders")) {
        (&Method::POST, Some("")) => place(shop, request).await.into_response(),
        (&Method::GET, Some("")) => {
            let orders: BTreeMap<u64, Order> =
                shop.book().orders.iter().map(|(id, (_, order))| (*id, order.clone())).collect();
            Json(orders).into_response()
        }
        (&Method::GET, Some(id)) => match find(shop, id) {
            Some(order) => Json(order).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        (_, Some(_)) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        (_, None) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn find(shop: &Shop, id: &str) -> Option<Order> {
    let id = id.strip_prefix('/')?.parse().ok()?;
    Some(shop.book().orders.get(&id)?.1.clone())
}

async fn place(shop: &Shop, request: Request) -> Result<(StatusCode, Json<Placed>), Failure> {
    let Json(order) = Json::<Order>::read(request, LARGEST).await?;
    let mut book = shop.book();
    if book.orders.len() >= shop.config.most {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "the book is full\n".to_owned()));
    }
    book.last += 1;
    let id = book.last;
    book.orders.insert(id, (Instant::now(), order));
    Ok((StatusCode::CREATED, Json(Placed { id, worker: worker_sdk::worker().id })))
}
