//! `master.admin`: what a load balancer, Kubernetes or Prometheus asks. Plain HTTP/1.1, read only.
//!
//! `/livez`: the master answers. `/readyz`: every service has a ready worker, or 503 with the names of those that
//! have none. `/metrics`: numbers in Prometheus' text format (version 0.0.4). `/`: the same for a person.
//!
//! A question becomes an event of the master's loop, so an answer is never older than the question. Clients are
//! bounded in number and time: none can hold up the supervision.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::journal::{Fact, Name};
use super::service::Service;
use super::{Event, Master, Phase, StartError};
use crate::channel::Plugin;
use crate::channel::statistics::Numbers;
use crate::sys::usage;

/// Clients at once; more wait in the kernel.
const CLIENTS: usize = 32;
/// How long one connection may last.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait after an accept that failed: for want of descriptors it would fail again at once.
const PAUSE: Duration = Duration::from_millis(200);

/// A question for the master, and where its answer goes.
#[derive(Debug)]
pub(super) struct Question {
    path: String,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    text: String,
}

/// Serve on `listener` for as long as the master lives.
pub(super) fn serve(listener: OwnedFd, events: mpsc::Sender<Event>) -> io::Result<()> {
    let listener = TcpListener::from_std(std::net::TcpListener::from(listener))?;
    let seats = Arc::new(Semaphore::new(CLIENTS));
    tokio::spawn(async move {
        while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let events = events.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| respond(request, events.clone()));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // A client's error is its own.
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(seat);
            });
        }
    });
    Ok(())
}

async fn respond(request: Request<Incoming>, events: mpsc::Sender<Event>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = if matches!(*request.method(), Method::GET | Method::HEAD) {
        let (answer, answered) = oneshot::channel();
        let question = Question { path: request.uri().path().to_owned(), answer };
        // No answer: the master has ended its loop.
        drop(events.send(Event::Admin(question)).await);
        let ended = Answer { status: StatusCode::SERVICE_UNAVAILABLE, text: "stopped\n".to_owned() };
        answered.await.unwrap_or(ended)
    } else {
        Answer { status: StatusCode::METHOD_NOT_ALLOWED, text: "read only: GET or HEAD\n".to_owned() }
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.text)));
    *response.status_mut() = answer.status;
    let text = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// Text in Prometheus' format.
#[derive(Default)]
struct Metrics {
    text: String,
}

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, u64)>) {
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.text, "{name}{labels} {value}");
        }
    }
}

impl Master {
    pub(super) fn on_question(&self, question: Question) {
        let answer = match question.path.as_str() {
            "/metrics" => return self.answer_metrics(question.answer),
            "/livez" => Answer { status: StatusCode::OK, text: "alive\n".to_owned() },
            "/readyz" => self.readiness(),
            "/" => Answer { status: StatusCode::OK, text: self.overview() },
            _ => {
                Answer { status: StatusCode::NOT_FOUND, text: "there are /, /livez, /readyz and /metrics\n".to_owned() }
            }
        };
        // The client may have left.
        let _ = question.answer.send(answer);
    }

    pub(super) fn serve_admin(&mut self) -> Result<(), StartError> {
        let Some(address) = self.config.master.admin else { return Ok(()) };
        let service = "master.admin".to_owned();
        let (listener, address) = crate::sys::listener::tcp(address, &Default::default())
            .map_err(|source| StartError::Listen { service, source })?;
        self.serve_admin_on(listener, address.to_string())?;
        let service = Name::from("master");
        let fact = Fact::Listening { service, name: "admin".to_owned(), address: address.to_string() };
        self.journal.record(&fact);
        Ok(())
    }

    pub(super) fn serve_admin_on(&mut self, listener: OwnedFd, address: String) -> Result<(), StartError> {
        let system = |source| StartError::System { what: "serve master.admin", source };
        let kept = listener.try_clone().map_err(system)?;
        serve(listener, self.events.clone()).map_err(system)?;
        self.admin = Some((Arc::new(kept), address));
        Ok(())
    }

    fn present(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter(|service| service.is_present())
    }

    fn readiness(&self) -> Answer {
        // What an operator has stopped is as he wants it.
        let wanted = self.present().filter(|service| service.runs());
        let unready: Vec<_> = wanted.filter(|service| service.ready() == 0).map(|s| &*s.name).collect();
        let (status, text) = match self.phase {
            Phase::Stopping(_) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
            _ if unready.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
            _ => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", unready.join(", "))),
        };
        Answer { status, text }
    }

    fn answer_metrics(&self, answer: oneshot::Sender<Answer>) {
        let mut metrics = self.metrics();
        let label = |service: &Service| format!("{{service=\"{}\"}}", service.name);
        let counted = self.present().map(|service| {
            // What nobody counts is left out: 0 would be a claim.
            let is = |counted: fn(&Plugin) -> bool| service.plugin().is_none_or(counted);
            let counts = (is(Plugin::connections_are_counted), is(Plugin::requests_are_counted));
            (label(service), counts, service.statistics.of_service())
        });
        let counted: Vec<_> = counted.collect();
        let pids = |key| self.workers.values().filter(move |running| running.service == key).map(|r| r.child.pid);
        let workers = self.services.iter().filter(|(_, service)| service.is_present());
        let workers: Vec<_> = workers.map(|(key, s)| (label(s), pids(*key).collect::<Vec<_>>())).collect();
        // Memory takes the system milliseconds to add up, which the loop must not wait for.
        tokio::task::spawn_blocking(move || {
            let counted = counted.into_iter().map(|(label, counts, reader)| (label, counts, reader.read()));
            let counted: Vec<(String, (bool, bool), Numbers)> = counted.collect();
            let connections = |number: fn(&Numbers) -> u64| {
                let counted = counted.iter().filter(|(_, (connections, _), _)| *connections);
                counted.map(move |(label, _, numbers)| (label.clone(), number(numbers)))
            };
            let accepted = "Connections accepted since the service started.";
            metrics.family("launcher_connections_accepted_total", "counter", accepted, connections(|n| n.accepted));
            let open = "Connections that are open.";
            metrics.family("launcher_connections_open", "gauge", open, connections(|n| n.connections));
            let requests = counted.iter().filter(|(_, (_, requests), _)| *requests);
            let requests = requests.map(|(label, _, numbers)| (label.clone(), numbers.requests));
            metrics.family("launcher_requests_total", "counter", "Requests begun since the service started.", requests);
            let memory = |pids: Vec<u32>| pids.into_iter().filter_map(usage::pss_bytes).sum();
            let pss = workers.into_iter().map(|(label, pids)| (label, memory(pids)));
            metrics.family("launcher_workers_pss_bytes", "gauge", "Proportional set size of the workers.", pss);
            // The client may have left.
            let _ = answer.send(Answer { status: StatusCode::OK, text: metrics.text });
        });
    }

    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        let up = self.started.elapsed().as_secs();
        metrics.family("launcher_uptime_seconds", "gauge", "Since the master started.", [(String::new(), up)]);
        let label = |service: &Service| format!("{{service=\"{}\"}}", service.name);
        let ready = self.present().map(|service| (label(service), service.ready() as u64));
        metrics.family("launcher_workers_ready", "gauge", "Workers that serve.", ready);
        let wanted = self.present().map(|s| (label(s), u64::from(s.pool.limits().size)));
        metrics.family("launcher_workers_wanted", "gauge", "Workers that should serve.", wanted);
        let generation = self.present().map(|s| (label(s), s.pool.serving().map_or(0, |g| g.0)));
        metrics.family("launcher_generation", "gauge", "The generation that serves; 0 before the first.", generation);
        let failures = self.present().map(|s| (label(s), s.failures()));
        let help = "Workers that crashed or never became ready.";
        metrics.family("launcher_worker_failures_total", "counter", help, failures);
        metrics
    }

    fn overview(&self) -> String {
        let mut text = format!("launcher {}, pid {}\n", env!("CARGO_PKG_VERSION"), std::process::id());
        for service in self.present() {
            let (ready, wanted) = (service.ready(), service.pool.limits().size);
            let state = format!("{:?}", service.pool.status()).to_lowercase();
            let generation = service.pool.serving().map_or_else(|| "none".to_owned(), |g| g.0.to_string());
            let plugin = &service.config.plugin;
            let _ = writeln!(
                text,
                "{}: {state}, {ready} of {wanted} workers, generation {generation}, {plugin}",
                service.name
            );
        }
        text
    }
}
