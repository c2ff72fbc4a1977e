//! A server of lines on tokio whose clients may stop its loop, or do in it what should not be done there. Tests start it;
//! nobody else should.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use worker_sdk::messages::{self, To};
use worker_sdk::{Sockets, Stop, log, worker};

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> io::Result<()> {
    let listener = TcpListener::from_std(sockets.tcp()?)?;
    let stop = sockets.stop();
    tokio::spawn(adopt());
    sockets.ready();
    loop {
        tokio::select! {
            () = stop.told() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(tokio::spawn(answer(client, stop))),
                Err(error) => log::warn!("cannot accept: {error}"),
            },
        }
    }
}

/// Does what each line says, and then says it back.
async fn answer(client: TcpStream, stop: Stop) -> io::Result<()> {
    let descriptor = client.as_fd().try_clone_to_owned()?;
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "loop" => compute(),
            "block" => wait(),
            // Another client's word ends it.
            "toil" => toil().await,
            // Blocks the loop until the worker is to stop.
            "await" => stop.wait(),
            // Blocks the loop until another worker has taken this client, who hears from it.
            "give" => {
                let given = messages::send_with(To::any(&worker().service), "yours", vec![descriptor]);
                messages::block_on(given).map_err(io::Error::other)?;
                // Not shut down.
                writer.forget();
                return Ok(());
            }
            "rest" => TOILS.store(false, Ordering::Relaxed),
            _ => {}
        }
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Greets the clients that other workers give.
async fn adopt() -> io::Result<()> {
    let mut messages = messages::messages();
    while let Some(message) = messages.next().await {
        for descriptor in message.descriptors {
            let client = std::net::TcpStream::from(descriptor);
            TcpStream::from_std(client)?.write_all(format!("mine, says {}\n", worker().id).as_bytes()).await?;
        }
    }
    Ok(())
}

#[inline(never)]
fn compute() {
    loop {
        std::hint::black_box(());
    }
}

#[inline(never)]
fn wait() {
    static HELD: Mutex<()> = Mutex::new(());
    let held = HELD.lock();
    drop((HELD.lock(), held));
}

static TOILS: AtomicBool = AtomicBool::new(false);

/// Gives the others their turn and is ready at once: the loop never waits.
async fn toil() {
    TOILS.store(true, Ordering::Relaxed);
    while TOILS.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
}
