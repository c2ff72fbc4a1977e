//! The clients: each keeps one connection for its whole life, never retries, and notes whatever is not as it should be.
//!
//! A client whose connection is lost notes that and opens another one, so that the run goes on; whether the loss was
//! excusable is for the judge. All run in one thread and one event loop: hundreds cost next to nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::http::{Connection, Length, PATIENCE, Trouble, within};
use crate::ledger::{Incident, Ledger};
use crate::plugins;
use crate::random::Random;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Asks again at once.
    Eager,
    /// Asks after pauses of up to so many milliseconds.
    Pausing(u64),
    /// Opens a connection for each request.
    Fresh,
    /// Reads a large response slowly.
    SlowReader,
    /// Sends a body slowly.
    Uploader,
    /// Sends heads in two parts.
    CutHead,
    /// Asks for something that takes a while.
    Patient,
    /// Goes away in the middle, by a reset or without a word: it complains about nothing.
    Rude,
}

impl Habit {
    /// Whether it keeps its connection.
    pub fn keeps(self) -> bool {
        !matches!(self, Habit::Fresh | Habit::Rude)
    }

    /// Its name in complaints.
    pub fn name(self) -> &'static str {
        match self {
            Habit::Eager => "eager",
            Habit::Pausing(_) => "pausing",
            Habit::Fresh => "fresh",
            Habit::SlowReader => "slow reader",
            Habit::Uploader => "uploader",
            Habit::CutHead => "cut head",
            Habit::Patient => "patient",
            Habit::Rude => "rude",
        }
    }
}

/// So many clients of one habit at one service.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The service's name.
    pub service: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// What they do.
    pub habit: Habit,
    /// How many.
    pub count: u64,
}

/// Clients that run in a thread of their own until they are stopped.
pub struct Crowd {
    /// What they noted.
    pub ledger: Arc<Ledger>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Starts them; they write into `ledger`.
    ///
    /// # Errors
    /// There is no event loop or no thread for them.
    pub fn start(groups: Vec<Group>, random: &Random, ledger: Arc<Ledger>) -> Result<Self, String> {
        let stopping = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no event loop for the clients: {error}"))?;
        let (notes, end, random) = (Arc::clone(&ledger), Arc::clone(&stopping), random.clone());
        let run = move || {
            let tasks = LocalSet::new();
            let mut number = 0;
            for group in groups {
                for _ in 0..group.count {
                    number += 1;
                    let (ledger, stopping) = (Arc::clone(&notes), Arc::clone(&end));
                    let client = Client { group, ledger, stopping, random: random.part(number) };
                    tasks.spawn_local(client.live());
                }
            }
            runtime.block_on(tasks);
        };
        let thread = std::thread::Builder::new().name("clients".into()).spawn(run);
        let thread = Some(thread.map_err(|error| format!("no thread for the clients: {error}"))?);
        Ok(Self { ledger, stopping, thread })
    }

    /// Lets every client finish what it does, and waits for that.
    ///
    /// # Errors
    /// A client panicked.
    pub fn stop(&mut self) -> Result<(), String> {
        self.stopping.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) { Err("a client panicked".to_owned()) } else { Ok(()) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
    }
}

struct Client {
    group: Group,
    ledger: Arc<Ledger>,
    stopping: Arc<AtomicBool>,
    random: Random,
}

impl Client {
    async fn live(mut self) {
        let keeps = self.group.habit.keeps();
        if keeps {
            self.ledger.keepers.fetch_add(1, Relaxed);
        }
        let mut kept = None;
        // Not all at the same moment.
        let start = self.random.below(300);
        self.pause(Duration::from_millis(start)).await;
        while !self.stopping.load(Relaxed) {
            let asked = Instant::now();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match Connection::open(self.group.address).await {
                    Ok(connection) => {
                        self.ledger.opened.fetch_add(u64::from(keeps), Relaxed);
                        connection
                    }
                    Err(trouble) => {
                        self.complain((0, asked), asked, trouble);
                        self.pause(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let whose = (connection.port, connection.opened);
            let asked = Instant::now();
            match self.exchange(&mut connection).await {
                Ok(()) => {
                    if self.group.habit == Habit::Rude {
                        connection.reset();
                    } else if keeps {
                        kept = Some(connection);
                    }
                }
                Err(_) if self.group.habit == Habit::Rude => {}
                Err(trouble) => self.complain(whose, asked, trouble),
            }
            let pause = match self.group.habit {
                Habit::Eager => 0,
                Habit::Pausing(most) => self.random.below(most),
                _ => self.random.below(500),
            };
            self.pause(Duration::from_millis(pause)).await;
        }
    }

    fn complain(&self, (port, opened): (u16, Instant), asked: Instant, trouble: Trouble) {
        let (service, client) = (self.group.service, self.group.habit.name());
        self.ledger.complain(Incident { service, client, port, opened, asked, at: Instant::now(), trouble });
    }

    /// In pieces, so that a stop does not wait for the longest.
    async fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopping.load(Relaxed) && Instant::now() < end {
            let piece = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            tokio::time::sleep(piece).await;
        }
    }

    async fn exchange(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        match self.group.habit {
            Habit::Eager | Habit::Pausing(_) | Habit::Fresh => self.ask(connection, "/").await,
            Habit::Patient => {
                let target = format!("/slow/{}", self.random.between(10, 1500));
                self.ask(connection, &target).await
            }
            Habit::CutHead => self.cut_head(connection).await,
            Habit::SlowReader => self.read_slowly(connection).await,
            Habit::Uploader => self.upload(connection).await,
            Habit::Rude => self.offend(connection).await,
        }
    }

    async fn ask(&self, connection: &mut Connection, target: &str) -> Result<(), Trouble> {
        let (floor, asked) = (self.ledger.floor(self.group.service), Instant::now());
        let response = connection.get(target, 200).await?;
        self.judge(floor, asked, &response.body)
    }

    /// Whether that is an answer, and of code that is new enough.
    fn judge(&self, floor: u32, asked: Instant, body: &[u8]) -> Result<(), Trouble> {
        let service = self.group.service;
        match plugins::told(body) {
            Some(version) if version < floor => {
                return Err(Trouble::Wrong(format!("version {version} after the promotion of {floor}")));
            }
            Some(version) => self.ledger.saw(service, version),
            None => return Err(Trouble::Wrong(format!("the body is {:?}", String::from_utf8_lossy(body)))),
        }
        self.ledger.answer(asked.elapsed());
        Ok(())
    }

    async fn cut_head(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let request = b"GET / HTTP/1.1\r\nHost: faults.example\r\nX-Filler: to be cut anywhere\r\n\r\n";
        // The floor counts from the end of the head: only then is it a request.
        let cut = usize::try_from(self.random.between(1, request.len() as u64 - 1)).unwrap_or(1);
        connection.send(&request[..cut]).await?;
        let pause = self.random.below(1500);
        self.pause(Duration::from_millis(pause)).await;
        let (floor, asked) = (self.ledger.floor(self.group.service), Instant::now());
        connection.send(&request[cut..]).await?;
        let response = within(PATIENCE, connection.response(200)).await?;
        self.judge(floor, asked, &response.body)
    }

    async fn read_slowly(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let size = self.random.between(500_000, 3_000_000);
        connection.send(format!("GET /large/{size} HTTP/1.1\r\nHost: faults.example\r\n\r\n").as_bytes()).await?;
        let head = within(PATIENCE, connection.head()).await?;
        if head.status != 200 || head.body != Length::Known(size) {
            return Err(Trouble::Wrong(format!("{head:?} for {size} bytes")));
        }
        if head.closes {
            return Err(Trouble::ToldToReconnect);
        }
        let mut at = 0;
        while at < size {
            let most = usize::try_from((size - at).min(128 << 10)).unwrap_or(1);
            let part = within(PATIENCE, connection.part(most)).await?;
            for byte in &part {
                if u64::from(*byte) != at % 251 {
                    return Err(Trouble::Wrong(format!("byte {at} of a large response is {byte}")));
                }
                at += 1;
            }
            let pause = self.random.below(60);
            self.pause(Duration::from_millis(pause)).await;
        }
        self.ledger.answer(Duration::ZERO);
        Ok(())
    }

    async fn upload(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let chunked = self.random.below(2) == 0;
        let parts = self.random.between(3, 12);
        let part = self.random.between(100, 60_000);
        let size = parts * part;
        let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {size}") };
        let head = format!("POST /upload HTTP/1.1\r\nHost: faults.example\r\n{length}\r\n\r\n");
        within(PATIENCE, connection.send(head.as_bytes())).await?;
        let (mut sum, mut number) = (0, 0_u64);
        for _ in 0..parts {
            let bytes: Vec<u8> = (number..number + part).map(|number| (number % 253) as u8).collect();
            number += part;
            sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let mut framed = Vec::new();
            if chunked {
                framed.extend_from_slice(format!("{part:x}\r\n").as_bytes());
            }
            framed.extend_from_slice(&bytes);
            if chunked {
                framed.extend_from_slice(b"\r\n");
            }
            within(PATIENCE, connection.send(&framed)).await?;
            let pause = self.random.below(150);
            self.pause(Duration::from_millis(pause)).await;
        }
        if chunked {
            within(PATIENCE, connection.send(b"0\r\n\r\n")).await?;
        }
        let text = within(PATIENCE, connection.response(200)).await?.text();
        if text != format!("{size} bytes, sum {sum}\n") {
            return Err(Trouble::Wrong(format!("{text:?} for {size} bytes, sum {sum}")));
        }
        self.ledger.answer(Duration::ZERO);
        Ok(())
    }

    async fn offend(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let offence: &[u8] = match self.random.below(5) {
            0 => b"GET / HTT",
            1 => b"GET /large/4000000 HTTP/1.1\r\nHost: faults.example\r\n\r\n",
            2 => b"POST /upload HTTP/1.1\r\nHost: faults.example\r\nContent-Length: 100000\r\n\r\nonly this",
            3 => b"\x16\x03\x01 this is no HTTP \r\n\r\n",
            _ => b"GET /slow/1000 HTTP/1.1\r\nHost: faults.example\r\n\r\n",
        };
        connection.send(offence).await?;
        let pause = self.random.below(400);
        self.pause(Duration::from_millis(pause)).await;
        Ok(())
    }
}

/// Connections that have asked once and stand idle until somebody asks on them again.
pub struct Idle {
    connections: Vec<Connection>,
}

impl Idle {
    /// Opens them.
    ///
    /// # Errors
    /// One is not opened, or not answered.
    pub async fn open(address: SocketAddr, count: usize) -> Result<Self, String> {
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let fail = |trouble| format!("idle connection {number}: {trouble}");
            let mut connection = Connection::open(address).await.map_err(fail)?;
            connection.get("/", 200).await.map_err(fail)?;
            connections.push(connection);
        }
        Ok(Self { connections })
    }

    /// Asks on each: every one must be answered by `version`.
    ///
    /// # Errors
    /// One is not.
    pub async fn ask(&mut self, version: u32) -> Result<(), String> {
        for (number, connection) in self.connections.iter_mut().enumerate() {
            let response = connection.get("/", 200).await;
            let response = response.map_err(|trouble| format!("idle connection {number}: {trouble}"))?;
            if plugins::told(&response.body) != Some(version) {
                return Err(format!("idle connection {number} got {:?}, not {version}", response.text()));
            }
        }
        Ok(())
    }
}

/// An event loop of the calling thread.
///
/// # Errors
/// The system refuses.
pub fn event_loop() -> Result<Rc<tokio::runtime::Runtime>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(Rc::new).map_err(|error| format!("no event loop: {error}"))
}
