//! A dispatcher: it reads the first line of what a client sends and passes the connection, with what was read, to the
//! worker of another service that is responsible. That one answers as if the client had come to it at once, and keeps the
//! connection; the dispatcher sees nothing more of it.
//!
//! ```yaml
//! config: { shards: shards, count: 4 }   # the service, and how many workers it has
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use worker_sdk::messages::{self, Reason, To};
use worker_sdk::{Sockets, log};

/// How long a client may take for its first line.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the first line.
const LINE: usize = 8 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    shards: String,
    count: u32,
}

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config: Config = worker_sdk::config()?;
    let config: &'static Config = Box::leak(Box::new(config));
    let listener = TcpListener::from_std(sockets.tcp()?)?;
    let stop = sockets.stop();
    let mut clients = JoinSet::new();
    sockets.ready();
    loop {
        tokio::select! {
            () = stop.told() => break,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(clients.spawn(dispatch(client, config))),
                Err(error) => {
                    log::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
    drop(listener);
    sockets.not_accepting();
    while clients.join_next().await.is_some() {}
    Ok(())
}

async fn dispatch(mut client: TcpStream, config: &Config) {
    let Ok(Ok(Some(read))) = timeout(PATIENCE, first_line(&mut client)).await else { return };
    let slot = shard(&read, config.count);
    let Ok(client) = client.into_std() else { return };
    let mut connection = client.into();
    // A shard that is being replaced is there again soon.
    for _ in 0..20 {
        let Err(refused) = messages::pass(To::slot(config.shards.as_str(), slot), connection, &read).await else {
            return;
        };
        let Some(back) = refused.descriptors.into_iter().next() else { return };
        connection = back;
        if !matches!(refused.reason, Reason::Nobody | Reason::Gone | Reason::NotWanted) {
            log::warn!("shard {slot} does not take a connection: {:?}", refused.reason);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is here again, and the client is owed an answer.
    if let Ok(mut client) = TcpStream::from_std(connection.into()) {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        drop(client.write_all(answer.as_bytes()).await);
    }
}

/// What was read once it holds a whole line; `None`: the client says nothing that is one.
async fn first_line(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut read = Vec::with_capacity(1024);
    while !read.contains(&b'\n') {
        if client.read_buf(&mut read).await? == 0 || read.len() > LINE {
            return Ok(None);
        }
    }
    Ok(Some(read))
}

/// By the first word of the path: `GET /orders/7 HTTP/1.1` by `orders`.
fn shard(read: &[u8], count: u32) -> u32 {
    let target = read.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let word = target.split(|byte| b"/?".contains(byte)).find(|word| !word.is_empty()).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    (hasher.finish() % u64::from(count.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::shard;

    #[test]
    fn the_same_word_is_always_of_the_same_shard() {
        let of = |line: &str| shard(line.as_bytes(), 4);
        assert_eq!(of("GET /orders/7 HTTP/1.1\r\nhost"), of("POST /orders?x HTTP/1.1\r\n"));
        let all: std::collections::BTreeSet<_> = (0..64).map(|n| of(&format!("GET /{n} HTTP/1.1\r\n"))).collect();
        assert_eq!(all.len(), 4);
        assert!(of("nonsense\n") < 4);
    }
}
