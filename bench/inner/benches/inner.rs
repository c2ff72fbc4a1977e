//! The launcher's inner paths, each by itself: a call across the C contract, a call of a WASM instance that is kept and
//! of one that is made for it, a message over the channel, a pool's decision.
//!
//! `cargo bench --workspace --bench inner`: with the whole workspace, so that the launcher is compiled once.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use http::Request;
use http_body_util::{BodyExt, Empty};
use launcher::channel::{Channel, Large, ToMaster, pair};
use launcher::master::pool::{Action, Event, Generation, Ids, Limits, Pool, WorkerId};
use launcher::worker::plugin::native::{Identity, NativeHttp};
use wasm_host::{HttpGuest, Purpose, Ready, Settings, Surroundings};
use worker_sdk::abi;

// As the launcher has it: a worker's calls allocate.
#[global_allocator]
static HEAP: launcher::Heap = launcher::Heap;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the project's directory")
}

fn request() -> Request<Empty<Bytes>> {
    let request = Request::get("http://localhost/").header("host", "localhost").header("accept", "*/*");
    request.body(Empty::new()).expect("a request")
}

/// A request to a native plugin that answers at once, and its answer's body to the end.
fn native(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let library = directory.path().join("hello.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-I"]).arg(project().join("worker-sdk/include"));
    compiler.arg(project().join("plugins/hello-c/hello.c")).arg("-o").arg(&library).arg("-lpthread");
    assert!(compiler.status().expect("a C compiler").success());
    let library = File::open(library).expect("the library");
    let identity = Identity { service: "bench", worker: 1, slot: 0, generation: 1 };
    let plugin = NativeHttp::load(library.as_fd(), &serde_json::json!({}), identity).expect("it loads");
    criterion.bench_function("native call, C", |bencher| {
        bencher.iter_batched(
            request,
            |request| {
                let call = pin!(plugin.call(request, abi::Peer::UNKNOWN));
                let Poll::Ready(answer) = call.poll(&mut Context::from_waker(Waker::noop())) else {
                    panic!("it waits")
                };
                let mut body = answer.expect("an answer").into_body();
                let mut bytes = 0;
                while let Poll::Ready(Some(frame)) = pin!(body.frame()).poll(&mut Context::from_waker(Waker::noop())) {
                    bytes += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
                }
                bytes
            },
            BatchSize::SmallInput,
        );
    });
}

fn guest(reuse: u32) -> HttpGuest {
    let source = std::fs::read(project().join("plugins/hello.wat")).expect("readable");
    let (manifest, compiled) = wasm_host::compile(&source, Purpose::Production).expect("it compiles");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&compiled).and_then(|()| file.rewind()).expect("written");
    let settings = Settings {
        memory: 64 << 20,
        cpu_time: Duration::from_secs(10),
        reuse: Some(reuse),
        dirs: Vec::new(),
        network: Vec::new(),
    };
    let (env, config) = (Default::default(), serde_json::json!({}));
    let around = Surroundings { output: Arc::new(|_, _| {}), post: None, on_thread: || {}, ready: Ready::default() };
    HttpGuest::load(file, &manifest, &settings, &env, &config, around).expect("it loads")
}

/// A request to a component, and its answer's body to the end: with an instance that is there, and with a new one.
fn wasm(criterion: &mut Criterion) {
    launcher::sys::heap::keep_blocks();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, reuse) in [("WASM call, instance checked out", 1_000_000), ("WASM call, instance made", 1)] {
        let guest = guest(reuse);
        runtime.block_on(guest.warm()).expect("it starts");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let answer = guest.handle(request()).await;
                    let Ok(answer) = answer else { panic!("no answer") };
                    let body = answer.into_body().collect().await;
                    body.map(|body| body.to_bytes().len()).unwrap_or_default()
                })
            });
        });
    }
}

/// A message from one end of a channel to the other.
fn channel(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (one, other) = pair().expect("a pair");
    let (one, other) = {
        let _entered = runtime.enter();
        (Channel::new(one).expect("a channel"), Channel::new(other).expect("a channel"))
    };
    let message = ToMaster::Recycle { reason: "limits.max_requests".to_owned() };
    criterion.bench_function("channel, a message", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                one.send(&message, &[]).await.expect("sent");
                other.receive::<ToMaster>(Large::Refused).await.expect("received")
            })
        });
    });
    let file = File::open("/dev/null").expect("a descriptor");
    criterion.bench_function("channel, a message with a descriptor", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                one.send(&message, &[file.as_fd()]).await.expect("sent");
                other.receive::<ToMaster>(Large::Refused).await.expect("received")
            })
        });
    });
}

fn limits(size: u32) -> Limits {
    Limits {
        size,
        surge: 1,
        ready_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(30),
        probation: Duration::from_secs(10),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        budget: 5,
        budget_window: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
        tries: 3,
    }
}

/// Tells a pool of everything that its actions lead to, until it wants nothing more.
fn settle(pool: &mut Pool, ids: &mut Ids, first: Vec<Action>, now: Instant) {
    let mut actions = first;
    while let Some(action) = actions.pop() {
        let event = match action {
            Action::Spawn { worker, .. } => Event::Ready(worker),
            Action::Drain(worker) | Action::Kill(worker) => Event::Exited(worker),
            _ => continue,
        };
        actions.extend(pool.handle(event, now, ids));
    }
}

/// A whole reload of 32 workers, and the crash of one of them: what a pool decides, without a process.
fn pool(criterion: &mut Criterion) {
    let now = Instant::now();
    let ready = || {
        let (mut pool, mut ids) = (Pool::new(limits(32), 1, now), Ids::default());
        let actions = pool.handle(Event::Reload(Generation(1)), now, &mut ids);
        settle(&mut pool, &mut ids, actions, now);
        (pool, ids)
    };
    criterion.bench_function("pool, a reload of 32 workers", |bencher| {
        bencher.iter_batched(
            ready,
            |(mut pool, mut ids)| {
                let actions = pool.handle(Event::Reload(Generation(2)), now, &mut ids);
                settle(&mut pool, &mut ids, actions, now);
                pool
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("pool, a crash among 32 workers", |bencher| {
        bencher.iter_batched(
            || {
                let (pool, ids) = ready();
                let first = pool.workers().map(|(id, _)| id).next();
                (pool, ids, first.unwrap_or(WorkerId(0)))
            },
            |(mut pool, mut ids, victim)| {
                let actions = pool.handle(Event::Exited(victim), now, &mut ids);
                settle(&mut pool, &mut ids, actions, now);
                pool
            },
            BatchSize::SmallInput,
        );
    });
}

fn main() {
    // Not the macros of Criterion: what they make has no documentation.
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [native, wasm, channel, pool] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}
