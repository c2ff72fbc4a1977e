//! A server of lines on tokio whose clients may stop its loop. Tests start it; nobody else should.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use worker_sdk::{Sockets, log};

#[worker_sdk::socket]
async fn serve(mut sockets: Sockets) -> io::Result<()> {
    let listener = TcpListener::from_std(sockets.tcp()?)?;
    let stop = sockets.stop();
    sockets.ready();
    loop {
        tokio::select! {
            () = stop.told() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(tokio::spawn(answer(client))),
                Err(error) => log::warn!("cannot accept: {error}"),
            },
        }
    }
}

/// Does what each line says, and then says it back.
async fn answer(client: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "loop" => compute(),
            "block" => wait(),
            // Another client's word ends it.
            "toil" => toil().await,
            "rest" => TOILS.store(false, Ordering::Relaxed),
            _ => {}
        }
        writer.write_all(format!("{line}\n").as_bytes()).await?;
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
