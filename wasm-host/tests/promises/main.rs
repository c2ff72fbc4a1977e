//! What this crate promises to a worker, asked of components that are made here from text.

mod calls;
mod checks;
mod concurrent;
mod sandbox;

use std::convert::Infallible;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use wasm_host::{
    CallFailure, GuestBody, HttpGuest, Manifest, Output, Purpose, Ready, Settings, Stream, Surroundings, Variables,
    compile,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Makes a component of a core module and a world of `tests/wit`.
fn component(text: &str, world: &str) -> Vec<u8> {
    let module = module(text, world);
    ComponentEncoder::default().validate(true).module(&module).expect("module").encode().expect("component")
}

/// A core module that names the interfaces of a world.
fn module(module: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wit");
    let (package, _) = resolve.push_dir(wit).expect("WIT of the tests");
    let world = resolve.select_world(&[package], Some(world)).expect("world");
    let mut module = wat::parse_str(module).expect("text of a core module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    module
}

/// The guest of `probe.wat`, compiled once.
fn probe() -> &'static (Manifest, Vec<u8>) {
    static PROBE: OnceLock<(Manifest, Vec<u8>)> = OnceLock::new();
    PROBE.get_or_init(|| {
        compile(&component(include_str!("../probe.wat"), "probe"), Purpose::Production).expect("the probe compiles")
    })
}

fn settings() -> Settings {
    Settings { memory: 16 << 20, cpu_time: Duration::from_secs(10), reuse: None, dirs: Vec::new(), network: Vec::new() }
}

fn surroundings(output: Output) -> Surroundings {
    Surroundings { output, post: None, on_thread: || (), ready: Ready::default() }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(bytes).expect("write");
    file.rewind().expect("rewind");
    file
}

/// A loaded probe, and the lines that it prints.
struct Probe {
    guest: HttpGuest,
    lines: Arc<Mutex<Vec<(Stream, String)>>>,
}

impl Probe {
    fn new(settings: &Settings) -> Probe {
        Probe::configured(settings, &Variables::new(), &serde_json::Value::Null)
    }

    fn configured(settings: &Settings, env: &Variables, config: &serde_json::Value) -> Probe {
        Probe::of(probe(), settings, env, config)
    }

    fn of(
        (manifest, compiled): &(Manifest, Vec<u8>),
        settings: &Settings,
        env: &Variables,
        config: &serde_json::Value,
    ) -> Probe {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let output: Output = Arc::new(move |stream, line| {
            let line = String::from_utf8_lossy(line).into_owned();
            sink.lock().expect("lock").push((stream, line));
        });
        let guest =
            HttpGuest::load(file_of(compiled), manifest, settings, env, config, surroundings(output)).expect("loads");
        Probe { guest, lines }
    }

    async fn head(&self, path: &str) -> Result<Response<GuestBody>, CallFailure> {
        self.guest.handle(get(path)).await
    }

    /// The text that the probe answers.
    async fn ask(&self, path: &str) -> Result<String, CallFailure> {
        let response = self.head(path).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lock").iter().map(|(_, line)| line.clone()).collect()
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    request(path, Empty::new())
}

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::builder().uri(path).header("host", "example.com").body(body).expect("request")
}

/// A body that takes frames from a channel.
fn channel_body()
-> (tokio::sync::mpsc::Sender<http_body::Frame<Bytes>>, impl http_body::Body<Data = Bytes, Error = Infallible> + Send) {
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let frames = futures::stream::poll_fn(move |cx| rx.poll_recv(cx).map(|frame| frame.map(Ok)));
    (tx, http_body_util::StreamBody::new(frames))
}
