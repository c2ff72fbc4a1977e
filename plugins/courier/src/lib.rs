//! A plugin that sends messages to the other workers of its service, and sends back what they send.
//!
//! | path | what happens |
//! |---|---|
//! | `/` | who answers: `{"worker":1,"slot":0}` |
//! | `/ping?SLOT,COUNT,WINDOW` | so many messages to that slot and back, so many at a time |
//! | `/handles?SLOT,COUNT,WINDOW` | the same with a socket each, of which the other end stays here |
//! | `/send?SLOT` | the body goes to that slot as it is; answers how that ended |
//! | `/every` | the body goes to every other worker |
//! | `/tell` | the body goes to the operator |
//! | `/report?COUNT` | so many messages to the operator, all at once; answers when all are events. `?COUNT,0`: at once |
//! | `/heard` | what this worker got from others and from operators, oldest first, and forgets it |
//! | `/deaf` | this worker takes no message any more until `/hear` |
//!
//! With `config: { inline: true }` messages are taken on the worker's loop instead of by a thread. Then `/deaf` does nothing.
//!
//! With `config: { dispatch: SERVICE }` it listens on a port of its own, which it logs, reads the first bytes of each
//! connection and passes it to the worker of that service whose slot stands behind the question mark of the request's
//! target: a dispatcher as one would write it, in thirty lines.
//!
//! A count that does not come back complete and in its order is a 500 that says what is missing.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use worker_sdk::messages::{self, From, Message, Sending, To};
use worker_sdk::{IntoResponse, Json, Request, Response, StatusCode};

/// What couriers say to each other.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// Send it back.
    Ping { n: u64 },
    /// It was sent back.
    Pong { n: u64 },
}

/// What came back and was not looked at.
#[derive(Default)]
struct Returned {
    queue: VecDeque<(u64, Vec<OwnedFd>)>,
    waiting: Option<Waker>,
}

static RETURNED: Mutex<Returned> = Mutex::new(Returned { queue: VecDeque::new(), waiting: None });
static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// One at a time: they share what comes back.
static COUNTING: AtomicBool = AtomicBool::new(false);
static DEAF: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[worker_sdk::http(start = start)]
async fn handle(request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let numbers: Vec<u64> = query.split(',').filter_map(|number| number.parse().ok()).collect();
    let me = worker_sdk::worker();
    match (request.uri().path(), &numbers[..]) {
        ("/", _) => format!("{{\"worker\":{},\"slot\":{}}}\n", me.id, me.slot).into_response(),
        ("/ping", [slot, count, window]) => count_out(*slot as u32, *count, *window, With::Nothing).await,
        ("/handles", [slot, count, window]) => count_out(*slot as u32, *count, *window, With::Socket).await,
        (path @ ("/send" | "/every" | "/tell"), to) => {
            let to = match (path, to) {
                ("/every", _) => To::every(me.service),
                ("/tell", _) => To::operator(),
                (_, [slot]) => To::slot(me.service, *slot as u32),
                _ => return StatusCode::BAD_REQUEST.into_response(),
            };
            match request.into_body().bytes(1 << 20).await {
                Ok(body) => match messages::send_json(to, &body, Vec::new()).await {
                    Ok(()) => "taken\n".into_response(),
                    Err(error) => (StatusCode::CONFLICT, format!("{:?}\n", error.reason)).into_response(),
                },
                Err(_) => StatusCode::BAD_REQUEST.into_response(),
            }
        }
        ("/report", [count, rest @ ..]) => report(*count, rest.is_empty()).await,
        ("/heard", _) => Json(std::mem::take(&mut *lock(&HEARD))).into_response(),
        (path @ ("/deaf" | "/hear"), _) => {
            *lock(&DEAF.0) = path == "/deaf";
            DEAF.1.notify_all();
            "so be it\n".into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// So many messages to the operator, each with its number.
async fn report(count: u64, awaited: bool) -> Response {
    let mut sending = Pending::default();
    (0..count).for_each(|n| sending.push(messages::send(To::operator(), &Word::Ping { n })));
    if !awaited {
        return "parted\n".into_response();
    }
    match sending.all().await {
        Ok(()) => "taken\n".into_response(),
        Err(reason) => (StatusCode::CONFLICT, reason + "\n").into_response(),
    }
}

#[derive(Clone, Copy)]
enum With {
    Nothing,
    Socket,
}

/// Sends so many, at most `window` of them on their way, and looks at what comes back.
async fn count_out(slot: u32, count: u64, window: u64, with: With) -> Response {
    if COUNTING.swap(true, Ordering::AcqRel) {
        return (StatusCode::CONFLICT, "one at a time\n").into_response();
    }
    let started = Instant::now();
    let counted = round_trips(slot, count, window.max(1), with).await;
    COUNTING.store(false, Ordering::Release);
    match counted {
        Ok(()) => {
            let took = started.elapsed();
            let rate = count as f64 / took.as_secs_f64();
            format!("{{\"count\":{count},\"ms\":{},\"rate\":{}}}\n", took.as_millis(), rate as u64).into_response()
        }
        Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason + "\n").into_response(),
    }
}

async fn round_trips(slot: u32, count: u64, window: u64, with: With) -> Result<(), String> {
    let service = worker_sdk::worker().service;
    lock(&RETURNED).queue.clear();
    let (mut sent, mut back) = (0, 0);
    let mut sending = Pending::default();
    // Of the sockets that are away, which file they are.
    let mut away: VecDeque<u64> = VecDeque::new();
    while back < count {
        while sent < count && sent - back < window {
            let descriptors = match with {
                With::Nothing => Vec::new(),
                With::Socket => {
                    let (one, _) = UnixStream::pair().map_err(|error| format!("no pair: {error}"))?;
                    away.push_back(inode(&one)?);
                    vec![one.into()]
                }
            };
            sending.push(messages::send_with(To::slot(service.as_str(), slot), &Word::Ping { n: sent }, descriptors));
            sent += 1;
        }
        let (n, descriptors) = poll_fn(|context| {
            if let Poll::Ready(error) = sending.poll(context) {
                return Poll::Ready(Err(error));
            }
            let mut returned = lock(&RETURNED);
            match returned.queue.pop_front() {
                Some(one) => Poll::Ready(Ok(one)),
                None => {
                    returned.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        if n != back {
            return Err(format!("{n} came back where {back} was expected"));
        }
        back += 1;
        let wanted = away.pop_front();
        match (wanted, descriptors.into_iter().next()) {
            (None, None) => {}
            (Some(wanted), Some(descriptor)) => {
                let found = inode(&UnixStream::from(descriptor))?;
                if found != wanted {
                    return Err(format!("socket {found} came back with {n}, and {wanted} was sent"));
                }
            }
            (wanted, _) => return Err(format!("socket {wanted:?} was sent with {n} and did not come back")),
        }
    }
    sending.all().await
}

fn inode(socket: &UnixStream) -> Result<u64, String> {
    let file = std::fs::File::from(OwnedFd::from(socket.try_clone().map_err(|error| error.to_string())?));
    file.metadata().map(|metadata| metadata.ino()).map_err(|error| error.to_string())
}

/// Messages that were sent and not taken.
#[derive(Default)]
struct Pending(VecDeque<Sending>);

impl Pending {
    fn push(&mut self, sending: Sending) {
        self.0.push_back(sending);
    }

    /// Until all were taken, or one was not.
    async fn all(mut self) -> Result<(), String> {
        poll_fn(|context| match self.poll(context) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending if self.0.is_empty() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Forgets those that were taken.
    fn look(&mut self) {
        while let Poll::Ready(error) = self.poll(&mut Context::from_waker(Waker::noop())) {
            worker_sdk::log::warn!("an echo was not taken: {error}");
        }
    }

    /// Ready when one was not taken, and why.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        while let Some(first) = self.0.front_mut() {
            match Pin::new(first).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => drop(self.0.pop_front()),
                Poll::Ready(Err(error)) => {
                    self.0.pop_front();
                    return Poll::Ready(error.to_string());
                }
            }
        }
        Poll::Pending
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Config {
    dispatch: Option<String>,
    inline: bool,
}

/// Passes connections to the workers of a service, by what the client asks for.
fn dispatch(service: String) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no port to dispatch on: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    worker_sdk::log::info!(address = address; "dispatching");
    std::thread::spawn(move || {
        for client in listener.incoming().filter_map(Result::ok) {
            let service = service.clone();
            std::thread::spawn(move || {
                if let Err(error) = pass_on(client, service) {
                    worker_sdk::log::warn!("a connection was not passed on: {error}");
                }
            });
        }
    });
    Ok(())
}

/// Reads until the target is known, and passes the connection with what was read.
fn pass_on(mut client: TcpStream, service: String) -> std::io::Result<()> {
    let mut read = Vec::new();
    let slot = loop {
        let mut chunk = [0; 4096];
        let count = client.read(&mut chunk)?;
        read.extend_from_slice(&chunk[..count]);
        if let Some(line) = read.split_inclusive(|byte| *byte == b'\n').next().filter(|line| line.ends_with(b"\n")) {
            let line = String::from_utf8_lossy(line).into_owned();
            let number = line.split_once('?').and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            break number.unwrap_or(0);
        }
        if count == 0 || read.len() > 8192 {
            return Ok(());
        }
    };
    match messages::block_on(messages::pass(To::slot(service, slot), client.into(), &read)) {
        Ok(()) => Ok(()),
        Err(mut refused) => match refused.descriptors.pop() {
            // It is here again: the client is owed an answer.
            Some(client) => {
                let body = format!("no shard: {:?}\n", refused.reason);
                let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length:";
                TcpStream::from(client).write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())
            }
            None => Ok(()),
        },
    }
}

async fn start() -> Result<(), String> {
    let config: Config = worker_sdk::config().map_err(|error| error.to_string())?;
    config.dispatch.map_or(Ok(()), dispatch)?;
    if config.inline {
        let mut sending = Pending::default();
        messages::on_message(move |message| {
            sending.look();
            sending.0.extend(take(message));
        });
        return Ok(());
    }
    let mut messages = messages::messages();
    let listen = move || {
        messages::block_on(async {
            let mut sending = Pending::default();
            while let Some(message) = poll_fn(|context| {
                while let Poll::Ready(error) = sending.poll(context) {
                    worker_sdk::log::warn!("an echo was not taken: {error}");
                }
                messages.poll_next(context)
            })
            .await
            {
                sending.0.extend(take(message));
                let mut deaf = lock(&DEAF.0);
                while *deaf {
                    deaf = DEAF.1.wait(deaf).unwrap_or_else(PoisonError::into_inner);
                }
            }
        });
    };
    std::thread::Builder::new().name("courier".to_owned()).spawn(listen).map_err(|error| error.to_string())?;
    Ok(())
}

/// Takes a message; what is to be sent back.
fn take(message: Message) -> Option<Sending> {
    match (message.json(), message.from) {
        (Ok(Word::Ping { n }), From::Worker { id, .. }) => {
            Some(messages::send_with(To::worker(id), &Word::Pong { n }, message.descriptors))
        }
        (Ok(Word::Pong { n }), From::Worker { .. }) => {
            let mut returned = lock(&RETURNED);
            returned.queue.push_back((n, message.descriptors));
            let waiting = returned.waiting.take();
            drop(returned);
            if let Some(waiting) = waiting {
                waiting.wake();
            }
            None
        }
        (_, from) => {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            lock(&HEARD).push(match from {
                From::Worker { service, slot, .. } => format!("{service}/{slot}: {text}"),
                _ => format!("operator: {text}"),
            });
            None
        }
    }
}
