//! A server of lines: whatever a client writes comes back, on a tokio of its own.
//!
//! Several workers accept from one socket. When one is told to stop it closes its listener, so that the others take what
//! comes, and gives the clients that it has time to leave.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use worker_sdk::{Sockets, Stop, log, worker};

/// How long a client may say nothing once the worker was told to stop.
const LINGER: Duration = Duration::from_secs(1);

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> io::Result<()> {
    let listener = TcpListener::from_std(sockets.tcp()?)?;
    let stop = sockets.stop();
    let mut clients = JoinSet::new();
    sockets.ready();
    loop {
        tokio::select! {
            () = stop.told() => break,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(clients.spawn(echo(client, stop))),
                Err(error) => {
                    // Out of descriptors, most likely: the connection stays in the queue, and trying at once would spin.
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

/// One client, until it leaves; told to stop, until it has what it asked for.
async fn echo(client: TcpStream, stop: Stop) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        tokio::select! {
            biased;
            read = reader.read_until(b'\n', &mut line) => {
                if read? == 0 {
                    return Ok(());
                }
                if line == b"who\n" {
                    line = format!("worker {} of generation {}\n", worker().id, worker().generation).into_bytes();
                }
                writer.write_all(&line).await?;
                line.clear();
            }
            // A client that says nothing is told that this was the end; it connects again and reaches another worker.
            () = idle(stop) => return writer.shutdown().await,
        }
    }
}

/// Told to stop, and nothing came since. Closing at once would cut off who is about to say something.
async fn idle(stop: Stop) {
    stop.told().await;
    tokio::time::sleep(LINGER).await;
}
