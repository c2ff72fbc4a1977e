//! A plugin that owns its sockets and breaks as its `config: { how: … }` says. Tests start it; nobody else should.

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde::Deserialize;
use worker_sdk::{Sockets, Stop, log};

#[derive(Deserialize)]
struct Config {
    how: How,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// It does not.
    Not,
    /// It never says that it is ready.
    NeverReady,
    /// It comes back at once, before it is ready.
    AtOnce,
    /// It comes back after its first client.
    AfterOne,
    /// It says what is wrong.
    Refuse,
    /// It panics before it is ready.
    Panic,
    /// A thread of its own panics; the rest goes on.
    PanicInThread,
    /// It does not hear that it should stop.
    Deaf,
    /// It closes its listener, says so, and does not come back.
    Lingers,
    /// It fails while it stops.
    FailLate,
    /// It looks at the flag now and then, and at nothing else.
    Flag,
    /// It says everything many times, and wrongly.
    Chatty,
    /// It takes none of its sockets.
    TakesNothing,
}

#[worker_sdk::socket]
fn serve(mut sockets: Sockets) -> Result<(), String> {
    let how = worker_sdk::config::<Config>().map_err(|error| error.to_string())?.how;
    let stop = sockets.stop();
    if how == How::TakesNothing {
        sockets.ready();
        stop.wait();
        return Ok(());
    }
    let listener = sockets.tcp().map_err(|error| error.to_string())?;
    match how {
        How::NeverReady => {
            greet(&listener, stop, None);
            return Ok(());
        }
        How::AtOnce => return Ok(()),
        How::Refuse => return Err("it does not want to".to_owned()),
        How::Panic => panic!("on purpose, in serve"),
        How::PanicInThread => {
            let thread = std::thread::spawn(|| panic!("on purpose, in a thread"));
            log::info!("the thread ended: {}", thread.join().is_err());
        }
        How::Chatty => {
            sockets.not_accepting();
            (0..1000).for_each(|_| sockets.ready());
        }
        _ => {}
    }
    sockets.ready();
    match how {
        How::AfterOne => {
            greet(&listener, stop, Some(1));
            return Ok(());
        }
        How::Flag => {
            let listening = std::thread::spawn(move || greet(&listener, stop, None));
            while !stop.was_told() {
                std::thread::sleep(Duration::from_millis(1));
            }
            return listening.join().map_err(|_| "its thread panicked".to_owned());
        }
        How::Deaf => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => greet(&listener, stop, None),
    }
    drop(listener);
    match how {
        How::Lingers => {
            sockets.not_accepting();
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        How::FailLate => Err("it could not finish".to_owned()),
        How::Chatty => {
            (0..1000).for_each(|_| sockets.not_accepting());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Says a line to each client, until told to stop or so many came.
fn greet(listener: &TcpListener, stop: Stop, mut most: Option<u32>) {
    while most != Some(0) && stop.readable(listener).unwrap_or(false) {
        match listener.accept() {
            Ok((mut client, _)) => {
                // It may have left.
                let _ = client.write_all(b"hello\n");
                most = most.map(|most| most - 1);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => log::warn!("cannot accept: {error}"),
        }
    }
}
