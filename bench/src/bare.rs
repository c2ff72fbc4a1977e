//! The baseline: the same handlers on bare hyper, each process one thread.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::net::TcpListener as Listener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use bench_shapes::{Wants, answer, wants};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What says that standard input is the listener.
const INHERITED: &str = "inherited";

/// Serves until it is killed; says on standard output where. With a number, so many processes share the listener.
pub(crate) fn serve(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    match arguments.first().map(String::as_str) {
        Some(INHERITED) => return serve_on(Listener::from(std::io::stdin().as_fd().try_clone_to_owned()?)),
        Some(processes) => {
            let listener = Listener::bind("127.0.0.1:0")?;
            let mut children = Vec::new();
            for _ in 0..processes.parse::<usize>()? {
                let given = Stdio::from(OwnedFd::from(listener.try_clone()?));
                children.push(Command::new("/proc/self/exe").args(["bare", INHERITED]).stdin(given).spawn()?);
            }
            writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
            drop(listener);
            for mut child in children {
                child.wait()?;
            }
        }
        None => {
            let listener = Listener::bind("127.0.0.1:0")?;
            writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
            serve_on(listener)?;
        }
    }
    Ok(())
}

fn serve_on(listener: Listener) -> Result<(), Box<dyn Error>> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(handle)));
        }
    })
}

async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path();
    let (mut count, mut whole) = (0, Bytes::new());
    match wants(path) {
        Wants::Nothing => {}
        Wants::Count => {
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
        }
        Wants::Everything => whole = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
    }
    let answer = answer(path, &parts.headers, count, &whole);
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}
