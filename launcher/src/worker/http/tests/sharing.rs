//! Several servers on one listening socket, as the workers of a service are.

use std::net::TcpListener;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;

use super::{Client, Served, limits, serve_on, soon};
use crate::channel::Limits;

/// A server on a thread and an epoll of its own; ends when the sender is dropped.
fn worker(listener: &TcpListener, limits: Limits) -> (Handle, thread::JoinHandle<()>) {
    let listener = listener.try_clone().expect("a descriptor");
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().event_interval(1).build().expect("a runtime");
        runtime.block_on(async {
            let Served { counters, control, done, .. } = serve_on(listener, limits);
            tell.send(Handle { counters, control }).expect("the test waits");
            done.await.expect("no panic");
        });
    });
    (told.recv().expect("the server starts"), thread)
}

struct Handle {
    counters: super::Counters,
    control: super::Control,
}

#[tokio::test]
async fn servers_take_turns() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (workers, threads): (Vec<_>, Vec<_>) = (0..4).map(|_| worker(&listener, limits())).unzip();
    for _ in 0..400 {
        let mut client = Client::new(tokio::net::TcpStream::connect(address).await.expect("the listener is open"));
        assert_eq!(client.get("/hello").await.text(), "hello");
    }
    let shares: Vec<_> = workers.iter().map(|worker| worker.counters.accepted.load(Relaxed)).collect();
    assert_eq!(shares.iter().sum::<u64>(), 400);
    // Equal shares on a quiet machine; on a busy one a thread that gets no processor misses turns, as it should. A
    // queue that is not rotated gives the first nearly all.
    assert!(shares.iter().all(|share| *share <= 200), "{shares:?}");
    for worker in workers {
        worker.control.drain();
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[tokio::test]
async fn a_full_server_leaves_connections_to_others() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let full = serve_on(listener.try_clone().expect("a descriptor"), Limits { connections: 1, ..limits() });
    let mut open = vec![full.connect().await];
    open[0].get("/hello").await;
    let (other, thread) = worker(&listener, limits());
    for _ in 0..20 {
        let mut client = Client::new(tokio::net::TcpStream::connect(address).await.expect("the listener is open"));
        assert_eq!(soon("a reply", client.get("/hello")).await.text(), "hello");
        open.push(client);
    }
    assert_eq!(full.counters.accepted.load(Relaxed), 1);
    assert_eq!(other.counters.accepted.load(Relaxed), 20);
    drop(open);
    other.control.drain();
    thread.join().expect("no panic");
}
