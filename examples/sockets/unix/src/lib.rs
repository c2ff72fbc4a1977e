//! A server on a Unix socket that tells each client who it is, which only such a socket knows: the user and the process.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use worker_sdk::{Sockets, log};

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> io::Result<()> {
    let listener = UnixListener::from_std(sockets.unix()?)?;
    let stop = sockets.stop();
    sockets.ready();
    loop {
        tokio::select! {
            () = stop.told() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    if let Err(error) = greet(client).await {
                        log::debug!("{error}");
                    }
                }
                Err(error) => {
                    log::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

async fn greet(mut client: UnixStream) -> io::Result<()> {
    let who = client.peer_cred()?;
    let process = who.pid().map_or_else(String::new, |pid| format!(", process {pid}"));
    client.write_all(format!("hello, user {}{process}\n", who.uid()).as_bytes()).await
}
