//! From HTTP to orders and back. The table of routes is the one source of what is served and of what the
//! description says.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::super::Event;
use super::super::journal::Journal;
use super::super::orders::Scale;
use super::super::post::Receiver;
use super::server::{Doing, Seat};
use super::{Begun, Order, Reply, Request, openapi, stream};
use crate::api::{self, Outcome, OutcomeResult, Outcomes, Refusal, RefusalCode};

/// Bytes of a request's body.
const BODY: usize = 64 * 1024;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One thing that can be asked.
#[derive(Debug)]
pub(super) struct Route {
    /// With which method.
    pub(super) method: Method,
    /// Where; `{name}` stands for one segment.
    pub(super) path: &'static str,
    /// What it is.
    pub(super) operation: Operation,
    /// What it does, in a line.
    pub(super) about: &'static str,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Describe,
    Status,
    Services,
    Service,
    Workers,
    ReloadAll,
    RestartAll,
    StopLauncher,
    Reload,
    Restart,
    Rollback,
    Scale,
    Stop,
    Start,
    Config,
    Plan,
    Apply,
    Upgrade,
    Send,
    Events,
    Logs,
}

const fn route(method: Method, path: &'static str, operation: Operation, about: &'static str) -> Route {
    Route { method, path, operation, about }
}

/// Everything that is served.
pub(super) static ROUTES: &[Route] = &[
    route(Method::GET, "/openapi.json", Operation::Describe, "This description"),
    route(Method::GET, "/v1/status", Operation::Status, "The launcher, its services and their workers"),
    route(Method::GET, "/v1/services", Operation::Services, "Every service"),
    route(Method::GET, "/v1/services/{name}", Operation::Service, "One service"),
    route(Method::GET, "/v1/workers", Operation::Workers, "Every worker of every service"),
    route(
        Method::POST,
        "/v1/reload",
        Operation::ReloadAll,
        "Read the configuration again and replace what differs, in it or in a plugin",
    ),
    route(
        Method::POST,
        "/v1/restart",
        Operation::RestartAll,
        "Replace every worker, each when its replacement is ready",
    ),
    route(Method::POST, "/v1/stop", Operation::StopLauncher, "End the launcher, after what is in flight"),
    route(
        Method::POST,
        "/v1/services/{name}/reload",
        Operation::Reload,
        "Read the configuration again and replace the service's workers if they or their plugin differ",
    ),
    route(Method::POST, "/v1/services/{name}/restart", Operation::Restart, "Replace every worker of a service"),
    route(
        Method::POST,
        "/v1/services/{name}/rollback",
        Operation::Rollback,
        "Return to the generation before, or abandon the one that is on its way",
    ),
    route(Method::POST, "/v1/services/{name}/scale", Operation::Scale, "Change the number of workers"),
    route(Method::POST, "/v1/services/{name}/stop", Operation::Stop, "Let the workers leave and the listeners go"),
    route(Method::POST, "/v1/services/{name}/start", Operation::Start, "Run a service that was stopped"),
    route(Method::GET, "/v1/config", Operation::Config, "The configuration in force"),
    route(Method::POST, "/v1/config/plan", Operation::Plan, "What a configuration would change; nothing is changed"),
    route(Method::POST, "/v1/config/apply", Operation::Apply, "Change what differs in a configuration"),
    route(Method::POST, "/v1/upgrade", Operation::Upgrade, "Let another version of the launcher take over"),
    route(Method::POST, "/v1/messages", Operation::Send, "Give the plugin of a worker, or of several, a message"),
    route(Method::GET, "/v1/events", Operation::Events, "What happened, as JSON lines"),
    route(Method::GET, "/v1/logs", Operation::Logs, "What happened and what workers wrote, as JSON lines"),
];

/// Answer one request. `admitted`: who asks, or why he may not.
pub(super) async fn respond(
    request: HttpRequest<Incoming>,
    admitted: Result<String, String>,
    events: &mpsc::Sender<Event>,
    journal: &Journal,
    seat: &Seat,
) -> Result<Response<Body>, Infallible> {
    seat.set(Doing::Asking);
    let head = request.method() == Method::HEAD;
    let answered = match admitted {
        Ok(who) => answer(request, who, events, journal, seat).await,
        Err(reason) => Err((StatusCode::FORBIDDEN, refusal(RefusalCode::Forbidden, reason))),
    };
    let mut response = answered.unwrap_or_else(|(status, refusal)| json(status, &refusal));
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        // The one method of that path, said where programs look for it.
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, POST"));
    }
    if head {
        *response.body_mut() = Full::new(Bytes::new()).boxed_unsync();
    }
    if response.extensions().get::<Streamed>().is_none() {
        seat.set(Doing::Nothing);
    }
    Ok(response)
}

/// Marks a response whose body is a stream.
#[derive(Debug, Clone, Copy)]
struct Streamed;

type Answered = Result<Response<Body>, (StatusCode, Refusal)>;

async fn answer(
    request: HttpRequest<Incoming>,
    who: String,
    events: &mpsc::Sender<Event>,
    journal: &Journal,
    seat: &Seat,
) -> Answered {
    let (parts, body) = request.into_parts();
    let (operation, name) = find(&parts.method, parts.uri.path()).map_err(refused)?;
    let query = Query::of(&parts.uri).map_err(refused)?;
    let body = Limited::new(body, BODY).collect().await.map_err(|_| {
        refused(refusal(RefusalCode::BadRequest, format!("the body could not be read, or has more than {BODY} bytes")))
    })?;
    let body = body.to_bytes();
    let ask = async |order| {
        let (answer, answered) = oneshot::channel();
        drop(events.send(Event::Request(Box::new(Request { order, who: who.clone(), answer }))).await);
        let ended = || refusal(RefusalCode::Stopping, "the launcher has stopped".to_owned());
        answered.await.unwrap_or_else(|_| Err(ended())).map_err(refused)
    };
    let status = async || match ask(Order::Status).await? {
        Reply::Status(snapshot) => match tokio::task::spawn_blocking(move || snapshot.complete()).await {
            Ok(status) => Ok(status),
            Err(_) => Err(refused(refusal(RefusalCode::Stopping, "the launcher has stopped".to_owned()))),
        },
        _ => Err(unforeseen()),
    };
    let order = match operation {
        Operation::Describe => return Ok(json(StatusCode::OK, &openapi::description())),
        Operation::Status => return Ok(json(StatusCode::OK, &status().await?)),
        Operation::Services => return Ok(json(StatusCode::OK, &status().await?.services)),
        Operation::Service => {
            let found = status().await?.services.into_iter().find(|service| service.name == name);
            return match found {
                Some(service) => Ok(json(StatusCode::OK, &service)),
                // The master words the refusal, with what was probably meant.
                None => match ask(Order::Find(name)).await {
                    Ok(_) => Err(unforeseen()),
                    Err(refused) => Err(refused),
                },
            };
        }
        Operation::Workers => {
            let services = status().await?.services.into_iter();
            let workers = services.flat_map(|service| {
                let name = service.name;
                service.workers.into_iter().map(move |worker| api::ServiceWorker { service: name.clone(), worker })
            });
            return Ok(json(StatusCode::OK, &workers.collect::<Vec<_>>()));
        }
        Operation::Events | Operation::Logs => {
            let wanted = if operation == Operation::Events { stream::What::Events } else { stream::What::Logs };
            let body = stream::body(journal, wanted, &query)
                .map_err(|reason| refused(refusal(RefusalCode::BadRequest, reason)))?;
            seat.set(Doing::Listening);
            let mut response = Response::new(body);
            let lines = header::HeaderValue::from_static("application/jsonl");
            response.headers_mut().insert(header::CONTENT_TYPE, lines);
            response.extensions_mut().insert(Streamed);
            return Ok(response);
        }
        Operation::ReloadAll => Order::Reload(None),
        Operation::RestartAll => Order::Restart(None),
        Operation::StopLauncher => Order::StopLauncher { now: query.flag("now").map_err(refused)? },
        Operation::Reload => Order::Reload(Some(name)),
        Operation::Restart => Order::Restart(Some(name)),
        Operation::Rollback => Order::Rollback(name),
        Operation::Stop => Order::Stop(name),
        Operation::Start => Order::Start(name),
        Operation::Scale => {
            let api::Scale { workers } = read(&body).map_err(refused)?;
            let scale = Scale::parse(&workers).ok_or_else(|| {
                let shown = workers.chars().take(64).collect::<String>();
                refused(refusal(
                    RefusalCode::BadRequest,
                    format!("workers: {shown:?} is not a number, +number or -number"),
                ))
            })?;
            Order::Scale(name, scale)
        }
        Operation::Send => {
            let api::Send { service, slot, worker, message } = read(&body).map_err(refused)?;
            let receiver = match (slot, worker) {
                (None, None) => Receiver::Every,
                (Some(slot), None) => Receiver::Slot(slot),
                (None, Some(worker)) => Receiver::Worker(worker),
                (Some(_), Some(_)) => return Err(refused(bad("either a slot or a worker".to_owned()))),
            };
            Order::Send { service, receiver, message }
        }
        Operation::Config => Order::Config,
        Operation::Plan => Order::Plan(read_or_default::<api::ConfigFile>(&body).map_err(refused)?.path),
        Operation::Apply => Order::Apply(read_or_default::<api::ConfigFile>(&body).map_err(refused)?.path),
        Operation::Upgrade => Order::Upgrade(read_or_default::<api::Upgrade>(&body).map_err(refused)?.path),
    };
    let wait = query.flag("wait").map_err(refused)?;
    match ask(order).await? {
        Reply::Config(config) => Ok(json(StatusCode::OK, &config)),
        Reply::Plan(plan) => Ok(json(StatusCode::OK, &plan)),
        Reply::Begun(begun) => {
            let status = if wait { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok(json(status, &Outcomes { outcomes: outcomes(begun, wait).await }))
        }
        Reply::Applied(plan, begun) => {
            let status = if wait { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok(json(status, &api::Applied { plan, outcomes: outcomes(begun, wait).await }))
        }
        Reply::Delivered(delivered) => Ok(json(StatusCode::OK, &delivered)),
        Reply::Upgrading(upgrading) => Ok(json(StatusCode::ACCEPTED, &upgrading)),
        Reply::Status(_) => Err(unforeseen()),
    }
}

/// What has become of what was begun.
pub(in crate::master) async fn outcomes(begun: Vec<Begun>, wait: bool) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for Begun { service, outcome } in begun {
        let plain =
            |result, reason| Outcome { service: service.to_string(), result, generation: None, reason, took_ms: 0 };
        outcomes.push(if wait {
            let never =
                || plain(OutcomeResult::Failed, Some("the service was stopped or removed meanwhile".to_owned()));
            outcome.await.unwrap_or_else(|_| never())
        } else {
            plain(OutcomeResult::Accepted, None)
        });
    }
    outcomes
}

/// The route of a request, and the name in its path.
pub(super) fn find(method: &Method, path: &str) -> Result<(Operation, String), Refusal> {
    let matching = ROUTES.iter().filter_map(|route| named(route.path, path).map(|name| (route, name)));
    let routes: Vec<_> = matching.collect();
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    if let Some((route, name)) = routes.iter().find(|(route, _)| route.method == wanted) {
        return Ok((route.operation, (*name).to_owned()));
    }
    let shown: String = path.chars().take(128).collect();
    Err(match routes.first() {
        Some((route, _)) => {
            refusal(RefusalCode::MethodNotAllowed, format!("{shown} is asked with {}, not with {method}", route.method))
        }
        None => refusal(
            RefusalCode::NotFound,
            format!("there is nothing at {shown}; GET /openapi.json describes what there is"),
        ),
    })
}

/// What stands for `{name}` in a path that is like `pattern`.
fn named<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut name = "";
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(name),
            (Some("{name}"), Some(segment)) if !segment.is_empty() => name = segment,
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// The query of a request: every parameter at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

/// Every parameter that any route knows.
const PARAMETERS: &[&str] = &["wait", "now", "follow", "lines", "since", "service"];

impl Query {
    fn of(uri: &Uri) -> Result<Query, Refusal> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let value =
                decoded(value).ok_or_else(|| bad(format!("the value of `{name}` is not percent-encoded UTF-8")))?;
            if !PARAMETERS.contains(&name) {
                return Err(bad(format!("there is no parameter `{name}`; there are: {}", PARAMETERS.join(", "))));
            }
            if found.iter().any(|(there, _)| there == name) {
                return Err(bad(format!("the parameter `{name}` is given twice")));
            }
            found.push((name.to_owned(), value));
        }
        Ok(Query(found))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(bad(format!("{name}={other}: it is true or false"))),
        }
    }
}

/// Percent-decoding (RFC 3986, section 2.1); a plus sign stands for itself.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad(format!("the body is not what is expected here: {error}")))
}

fn read_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}

fn refusal(code: RefusalCode, error: String) -> Refusal {
    Refusal { code, error, suggestion: None }
}

fn bad(error: String) -> Refusal {
    refusal(RefusalCode::BadRequest, error)
}

fn unforeseen() -> (StatusCode, Refusal) {
    refused(refusal(RefusalCode::Conflict, "the launcher answered something else".to_owned()))
}

/// A refusal with its status.
fn refused(refusal: Refusal) -> (StatusCode, Refusal) {
    let status = match refusal.code {
        RefusalCode::UnknownService | RefusalCode::NotFound => StatusCode::NOT_FOUND,
        RefusalCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        RefusalCode::BadRequest => StatusCode::BAD_REQUEST,
        RefusalCode::BadConfiguration | RefusalCode::BadProgram => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalCode::Conflict => StatusCode::CONFLICT,
        RefusalCode::Forbidden => StatusCode::FORBIDDEN,
        RefusalCode::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, refusal)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // The types are our own and have only string keys: they can always be written.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_own_path_and_method() {
        for route in ROUTES {
            let path = route.path.replace("{name}", "web-1");
            let name = if path == route.path { "" } else { "web-1" };
            let found = find(&route.method, &path).expect("found");
            assert_eq!(found, (route.operation, name.to_owned()), "{} {path}", route.method);
        }
        assert_eq!(find(&Method::HEAD, "/v1/status").expect("found").0, Operation::Status);
    }

    #[test]
    fn what_is_not_there_and_what_is_asked_wrongly_are_told_apart() {
        for path in ["", "/", "/v1/status/", "/v1/services//reload", "/v1/services/", "*", "/v1/services/a/b"] {
            assert_eq!(find(&Method::GET, path).expect_err("nothing").code, RefusalCode::NotFound, "{path}");
        }
        let refused = find(&Method::GET, "/v1/services/a/scale").expect_err("a POST");
        assert_eq!(refused.code, RefusalCode::MethodNotAllowed);
        assert!(refused.error.contains("asked with POST, not with GET"), "{}", refused.error);
    }

    #[test]
    fn a_query_is_understood_or_refused_and_never_guessed() {
        let query = |text: &str| Query::of(&text.parse().expect("a URI"));
        let good = query("/x?wait&service=a%2Cb&since=2026-01-01T00%3a00:00Z").expect("good");
        assert!(good.flag("wait").expect("a flag") && !good.flag("follow").expect("absent"));
        assert_eq!((good.get("service"), good.get("since")), (Some("a,b"), Some("2026-01-01T00:00:00Z")));
        for bad in ["/x?wiat=true", "/x?wait=true&wait=true", "/x?since=%", "/x?since=%zz", "/x?since=%ff"] {
            assert_eq!(query(bad).expect_err("bad").code, RefusalCode::BadRequest, "{bad}");
        }
        assert!(query("/x?wait=yes").expect("known").flag("wait").is_err());
    }
}
