//! A WASI 0.2 program that waits for messages by the SDK: an operator's go back to the operator, a worker's to `post/0`.

use std::env;
use std::io;

use worker_sdk::messages::{self, From, To};
use wstd::net::TcpListener;

fn main() -> io::Result<()> {
    let address = env::var("LAUNCHER_LISTEN").unwrap_or_default();
    // It accepts nobody; that it listens makes it ready.
    let _listener = wstd::runtime::block_on(async { TcpListener::bind(&address).await })?;
    messages::block_on(async {
        let mut inbox = messages::messages();
        while let Some(message) = inbox.next().await {
            let to = match message.from {
                From::Worker { .. } => To::slot("post", 0),
                _ => To::operator(),
            };
            if let Err(error) = messages::send_json(to, &message.payload, Vec::new()).await {
                eprintln!("not passed on: {:?}", error.reason);
            }
        }
    });
    Ok(())
}
