//! {{name}}: a server of lines that owns its listening socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use worker_sdk::{Sockets, Stop, log};

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
                Ok((client, _)) => drop(clients.spawn(talk(client, stop))),
                Err(error) => {
                    // Out of descriptors, most likely: the connection stays in the queue, and trying at once would spin.
                    log::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
    // The other workers accept from the same socket.
    drop(listener);
    sockets.not_accepting();
    while clients.join_next().await.is_some() {}
    Ok(())
}

/// One client, until it leaves.
async fn talk(client: TcpStream, stop: Stop) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            biased;
            line = lines.next_line() => match line? {
                Some(line) => writer.write_all(answer(&line).as_bytes()).await?,
                None => return Ok(()),
            },
            () = idle(stop) => return writer.shutdown().await,
        }
    }
}

/// Told to stop, and nothing came since.
async fn idle(stop: Stop) {
    stop.told().await;
    tokio::time::sleep(LINGER).await;
}

fn answer(line: &str) -> String {
    format!("Hello from Rust, {line}!\n")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use worker_sdk::testing;

    #[test]
    fn a_line_is_answered_and_the_worker_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let (sockets, worker) = testing::sockets([listener.try_into().expect("a socket")]).expect("descriptors");
        let served = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(super::serve(sockets))
        });
        let mut client = TcpStream::connect(address).expect("connects");
        client.write_all(b"you\n").expect("writes");
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).expect("reads");
        assert_eq!(line, "Hello from Rust, you!\n");
        worker.stop();
        served.join().expect("no panic").expect("no error");
        assert!(worker.is_ready() && worker.has_left());
    }
}
