//! A plugin that breaks, so that one can see what the launcher makes of it.
//!
//! `config:` breaks its life, the path of a request breaks that request:
//!
//! ```yaml
//! config:
//!   start: ok            # refuse, panic, hang, exit, abort, segfault
//!   crash_after: 500     # milliseconds after the start; native only (a component runs only while it serves)
//!   crash: segfault      # abort, exit, panic: how
//! ```
//!
//! | path | what happens natively | in a component |
//! |---|---|---|
//! | `/` | answers | answers |
//! | `/panic`, `/panic-late`, `/panic-payload` | 500, the worker lives | trap: 500, the worker lives |
//! | `/panic-body` | the response is cut off | the same |
//! | `/exit`, `/abort`, `/segfault`, `/overflow` | the worker dies and is replaced | trap: 500 |
//! | `/loop`, `/block` | the worker is stuck | 504 |
//! | `/hang` | 504 | 504 |
//! | `/leak?MIB` | the memory is the worker's until it ends | the instance's |
//! | `/flood?MIB`, `/long-line?MIB` | prints that much in lines of 100 bytes, or in one line | the same |
//! | `/print?NUMBER`, `/count?LINES` | prints that number, or so many numbered lines | the same |
//! | `/escapes` | prints what a terminal would obey, and bytes that are no text | the same |
//! | `/fail-body`, `/short`, `/long` | the response is cut off, or 500 | the same |
//! | `/channel-HOW` | speaks to the master itself, as the module `channel` says | 404 |
//! | `/slow?MS` | answers late | answers late |

#![cfg_attr(not(target_family = "wasm"), expect(unsafe_code, reason = "a segmentation fault on purpose"))]

#[cfg(not(target_family = "wasm"))]
mod channel;

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use worker_sdk::{Body, Bytes, Frame, IntoResponse, Request, Response, StatusCode, http, log};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Config {
    start: Life,
    crash: Life,
    crash_after: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Life {
    #[default]
    Ok,
    Refuse,
    Panic,
    Hang,
    Exit,
    Abort,
    Segfault,
}

async fn live(life: Life) -> Result<(), String> {
    match life {
        Life::Ok => Ok(()),
        Life::Refuse => Err("it does not want to".to_owned()),
        Life::Panic => panic!("it panics as it was told to"),
        Life::Hang => {
            worker_sdk::sleep(Duration::from_secs(100_000)).await;
            Ok(())
        }
        Life::Exit => std::process::exit(3),
        Life::Abort => std::process::abort(),
        Life::Segfault => {
            segfault();
            Ok(())
        }
    }
}

async fn start() -> Result<(), String> {
    let config: Config = worker_sdk::config().map_err(|error| error.to_string())?;
    live(config.start).await?;
    #[cfg(not(target_family = "wasm"))]
    if let Some(delay) = config.crash_after {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            let _ = worker_sdk::native::block_on(live(config.crash));
        });
    }
    Ok(())
}

/// Calls a function of its own, so that a backtrace has a name to show.
#[inline(never)]
fn segfault() {
    #[cfg(not(target_family = "wasm"))]
    {
        let nowhere = std::hint::black_box(std::ptr::without_provenance::<u8>(0x10));
        // SAFETY: none: this is the segmentation fault.
        let read = unsafe { nowhere.read_volatile() };
        std::hint::black_box(read);
    }
    #[cfg(target_family = "wasm")]
    std::process::abort(); // address 16 is memory like any other there
}

/// Waits for somebody who never comes.
#[inline(never)]
fn block() {
    let waited = std::sync::Condvar::new();
    let mut guard = LEAK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        guard = waited.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let deeper = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { overflow(depth + 1) + deeper[1] }
}

/// A panic's payload whose own drop panics.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        panic!("and its payload panics, too");
    }
}

/// Prints a text again and again.
fn print_out(text: &[u8], times: u64) {
    let mut output = std::io::stdout().lock();
    for _ in 0..times {
        if output.write_all(text).is_err() {
            return;
        }
    }
    let _ = output.flush();
}

static LEAK: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A body of one chunk, after which `next` decides.
fn body_then(next: fn() -> Result<(), &'static str>) -> Body {
    Body::unfold(0, move |n| async move {
        match n {
            0 => Ok(Some((Frame::data(Bytes::from_static(b"so far, so good\n")), 1))),
            _ => next().map(|()| None),
        }
    })
}

#[worker_sdk::http(start = start)]
async fn handle(request: Request) -> Result<Response, http::Error> {
    let number: u64 = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(100);
    match request.uri().path() {
        "/" => {}
        "/panic" => panic!("it panics as it was told to"),
        "/panic-late" => {
            worker_sdk::sleep(Duration::from_millis(20)).await;
            panic!("it panics as it was told to, late");
        }
        "/panic-payload" => std::panic::panic_any(Payload),
        "/panic-body" => {
            return Ok(Response::new(body_then(|| panic!("it panics in a body as it was told to"))));
        }
        "/fail-body" => return Ok(Response::new(body_then(|| Err("it fails as it was told to")))),
        "/short" => return http::Response::builder().header("content-length", 100).body(body_then(|| Ok(()))),
        "/long" => return http::Response::builder().header("content-length", 3).body(body_then(|| Ok(()))),
        "/exit" => std::process::exit(3),
        "/abort" => std::process::abort(),
        "/segfault" => segfault(),
        "/overflow" => return Ok(overflow(0).to_string().into_response()),
        "/loop" => loop {
            std::hint::spin_loop();
        },
        "/block" => block(),
        "/hang" => worker_sdk::sleep(Duration::from_secs(100_000)).await,
        "/slow" => worker_sdk::sleep(Duration::from_millis(number)).await,
        "/flood" => print_out(&[&[b'x'; 99][..], b"\n"].concat().repeat(160), number * 66),
        "/long-line" => {
            print_out(&[b'y'; 1 << 14], number << 6);
            print_out(b"\n", 1);
        }
        "/escapes" => {
            print_out(b"\x1b[2J\x1b]0;mine\x07 \x9b31m \xc2\x9b \xff\xfe \xe2\x80\xae\xe2\x80\xa8 \x7f\x08\n", 1)
        }
        "/print" => println!("{number}"),
        "/count" => (1..=number).for_each(|line| println!("line {line}")),
        "/leak" => {
            let block = vec![1; usize::try_from(number).unwrap_or(0) << 20];
            LEAK.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(block);
            log::warn!(mebibytes = number; "leaked as it was told to");
        }
        #[cfg(not(target_family = "wasm"))]
        path if path.starts_with("/channel-") => {
            return Ok(match channel::abuse(path.trim_start_matches("/channel-")) {
                Some(()) => "done as it was told to\n".into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            });
        }
        _ => return Ok(StatusCode::NOT_FOUND.into_response()),
    }
    Ok("it behaves\n".into_response())
}
