//! A client of the control API: HTTP/1.1 (RFC 9112) over a Unix socket, one exchange a connection.
//!
//! Flow: [`Master::send`] connects and writes a request with `Connection: close`; [`Exchange::answer`] waits for the
//! head, and says in between that it waits; [`Answer`] gives the body whole or line by line. What comes is bounded,
//! and nothing that comes is trusted to be HTTP. It knows no verb and prints nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use launcher::api::{self, RefusalCode};
use launcher::config::Diagnostics;
use launcher::sys::unix_path::connect_within;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::body::{self, Body};

/// For what the master does at once: taking a connection, reading a request, the rest of an answer that has begun,
/// the answer to a question.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How often somebody who waits may say so.
const TICK: Duration = Duration::from_millis(500);
/// An answer that is read whole. The status of a thousand services with a hundred workers each is half of it.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Characters of an answer that is not understood, for the message.
const QUOTED: usize = 200;

/// Why the master did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration says not where the master is.
    #[error("the configuration is not usable")]
    Configuration(Diagnostics),
    /// Nobody listens.
    #[error(
        "no launcher is running for {}: nothing answers in its state directory {}; start one: launcher run {}{hint}",
        config.display(), state_dir.display(), config.display()
    )]
    NotRunning {
        /// The configuration that said where to look.
        config: PathBuf,
        /// Where was looked.
        state_dir: PathBuf,
        /// Where else it may be.
        hint: &'static str,
    },
    /// The system does not let us connect.
    #[error("the launcher in {} belongs to {owner}: only that user and root may steer it", state_dir.display())]
    Denied {
        /// Where it is.
        state_dir: PathBuf,
        /// The user, by name and number.
        owner: String,
    },
    /// It could not be asked.
    #[error("the launcher cannot be asked through {}: {source}", socket.display())]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It says nothing.
    #[error(
        "the launcher takes the connection on {} and does not answer within {} s: is its process stopped, or the machine \
         overloaded?",
        socket.display(), AT_ONCE.as_secs()
    )]
    Silent {
        /// The control socket.
        socket: PathBuf,
    },
    /// It ended the connection.
    #[error("the launcher ended the connection {when}: {source}")]
    Cut {
        /// Before or within the answer.
        when: &'static str,
        /// What was missing.
        source: io::Error,
    },
    /// It is no master, or one of another version.
    #[error("what answers on {} is not understood: {what}{hint}", socket.display())]
    Nonsense {
        /// The control socket.
        socket: PathBuf,
        /// What was wrong.
        what: String,
        /// What may be the reason.
        hint: String,
    },
    /// It refused.
    #[error("{}", refused.error)]
    Refused {
        /// Its words.
        refused: Refused,
    },
    /// Standard output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
    /// Nobody reads standard output any more. No failure of ours: `| head` has seen enough.
    #[error("nobody reads the output any more")]
    ReaderLeft,
    /// A file cannot be named to the master.
    #[error("the configuration cannot be named: {0}")]
    File(io::Error),
    /// It cannot be told whether the master still lives.
    #[error("the launcher's process cannot be watched: {0}")]
    Watch(io::Error),
}

/// An [`api::Refusal`] of this master or of a newer one.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Refused {
    /// Its kind; `None`: one that is not known here.
    #[serde(deserialize_with = "kind")]
    pub(crate) code: Option<RefusalCode>,
    /// What is wrong and what to do.
    pub(crate) error: String,
    /// A name that was probably meant.
    pub(crate) suggestion: Option<String>,
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RefusalCode>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(serde_json::from_value(serde_json::Value::String(name)).ok())
}

/// Where a running launcher is steered.
#[derive(Debug, Clone)]
pub(crate) struct Master {
    config: PathBuf,
    state_dir: PathBuf,
    socket: PathBuf,
}

impl Master {
    /// The master of this configuration. Nobody is asked yet.
    pub(crate) fn of(config: &Path) -> Result<Master, Failure> {
        let master = launcher::config::load_master(config).map_err(Failure::Configuration)?;
        let socket = api::socket(&master.state_dir);
        Ok(Master { config: config.to_owned(), state_dir: master.state_dir, socket })
    }

    /// Whether somebody listens now.
    pub(crate) fn listens(&self) -> bool {
        self.connect().is_ok()
    }

    /// Ask, and take the answer that comes at once.
    pub(crate) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.send("GET", target, None)?.answer(None)?.json()
    }

    /// Send a request. The answer may come later.
    pub(crate) fn send(&self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Exchange, Failure> {
        let stream = self.connect()?;
        let unreachable = |source| Failure::Unreachable { socket: self.socket.clone(), source };
        stream.set_write_timeout(Some(AT_ONCE)).map_err(unreachable)?;
        let length = body.map_or(0, <[u8]>::len);
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: launcher\r\nUser-Agent: launcher/{}\r\nAccept: application/json, \
             application/jsonl\r\nContent-Length: {length}\r\nConnection: close\r\n",
            env!("CARGO_PKG_VERSION")
        )
        .into_bytes();
        if let Some(body) = body {
            request.extend_from_slice(b"Content-Type: application/json\r\n\r\n");
            request.extend_from_slice(body);
        } else {
            request.extend_from_slice(b"\r\n");
        }
        match (&stream).write_all(&request) {
            // It may have answered before it read everything: the answer says more than this.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) if timed_out(&error) => return Err(Failure::Silent { socket: self.socket.clone() }),
            done => done.map_err(unreachable)?,
        }
        Ok(Exchange { socket: self.socket.clone(), reader: BufReader::new(stream) })
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        connect_within(&self.socket, AT_ONCE).map_err(|error| self.unconnected(error))
    }

    /// Why there is no connection.
    fn unconnected(&self, error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                // The default beside the configuration could not be written by us: so it depends on who looks.
                let fallen_back = self
                    .state_dir
                    .file_name()
                    .is_some_and(|name| name.to_str().is_some_and(|name| name.starts_with("launcher-")));
                let hint = match fallen_back {
                    true => " (if another user runs it, its state directory is elsewhere: set `master.state_dir`)",
                    false => "",
                };
                Failure::NotRunning { config: self.config.clone(), state_dir: self.state_dir.clone(), hint }
            }
            io::ErrorKind::PermissionDenied => {
                Failure::Denied { state_dir: self.state_dir.clone(), owner: self.owner() }
            }
            _ if timed_out(&error) => Failure::Silent { socket: self.socket.clone() },
            _ => Failure::Unreachable { socket: self.socket.clone(), source: error },
        }
    }

    /// Whose the launcher is, as far as its files can be seen.
    fn owner(&self) -> String {
        let seen = [&self.socket, &self.state_dir].into_iter().find_map(|path| path.symlink_metadata().ok());
        match seen.map(|metadata| metadata.uid()) {
            Some(uid) => match launcher::sys::identity::name(uid) {
                Some(name) => format!("{name} (uid {uid})"),
                None => format!("uid {uid}"),
            },
            None => "another user".to_owned(),
        }
    }
}

/// Called while an answer is waited for, with the time since the request.
pub(crate) type Waiting<'a> = &'a mut dyn FnMut(Duration);

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Exchange {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Exchange {
    /// Wait for the answer: for ever if somebody is told meanwhile, otherwise for [`AT_ONCE`]. A refusal is a failure.
    pub(crate) fn answer(mut self, mut waiting: Option<Waiting<'_>>) -> Result<Answer, Failure> {
        let system = |source| Failure::Unreachable { socket: self.socket.clone(), source };
        self.reader.get_ref().set_read_timeout(Some(TICK)).map_err(system)?;
        let since = Instant::now();
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => match &mut waiting {
                    Some(waiting) => waiting(since.elapsed()),
                    None if since.elapsed() < AT_ONCE => {}
                    None => return Err(Failure::Silent { socket: self.socket }),
                },
                Err(source) => return Err(Failure::Cut { when: "before it answered", source }),
            }
        }
        self.reader.get_ref().set_read_timeout(Some(AT_ONCE)).map_err(system)?;
        let head = match body::read_head(&mut self.reader) {
            Ok(head) => head,
            Err(body::Broken::Ended) => {
                let source = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it was stopped, or does not let this process steer it (only its user and root may, and no process \
                     that it has started)",
                );
                return Err(Failure::Cut { when: "before it answered", source });
            }
            Err(body::Broken::Io(error)) if timed_out(&error) => return Err(Failure::Silent { socket: self.socket }),
            Err(body::Broken::Io(source)) => return Err(Failure::Cut { when: "within its answer", source }),
            Err(body::Broken::NotHttp(what)) => return Err(nonsense(&self.socket, what)),
        };
        let body = Body::new(self.reader, head.length);
        let mut answer = Answer { socket: self.socket, body: BufReader::new(body) };
        if (200..300).contains(&head.status) {
            return Ok(answer);
        }
        let body = answer.whole()?;
        Err(match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => Failure::Refused { refused },
            Err(_) => nonsense(&answer.socket, format!("status {}: {}", head.status, quote(&body))),
        })
    }
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    socket: PathBuf,
    body: BufReader<Body<BufReader<UnixStream>>>,
}

impl Answer {
    /// The body as this type.
    pub(crate) fn json<T: DeserializeOwned>(mut self) -> Result<T, Failure> {
        let body = self.whole()?;
        self.decode(&body)
    }

    /// The body as this type, and as it came.
    pub(crate) fn json_and_text<T: DeserializeOwned>(mut self) -> Result<(T, Vec<u8>), Failure> {
        let body = self.whole()?;
        Ok((self.decode(&body)?, body))
    }

    fn whole(&mut self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        (&mut self.body).take(LONGEST_ANSWER + 1).read_to_end(&mut bytes).map_err(|error| self.cut(error))?;
        if bytes.len() as u64 > LONGEST_ANSWER {
            return Err(nonsense(&self.socket, format!("its answer is longer than {} MiB", LONGEST_ANSWER >> 20)));
        }
        Ok(bytes)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(bytes).map_err(|error| {
            let version = serde_json::from_slice::<serde_json::Value>(bytes)
                .ok()
                .and_then(|value| Some(value.get("version")?.as_str()?.to_owned()))
                .filter(|version| version != env!("CARGO_PKG_VERSION"));
            match version {
                Some(version) => Failure::Nonsense {
                    socket: self.socket.clone(),
                    what: error.to_string(),
                    hint: format!(
                        "; it is launcher {version} and this is {}: use the binary that it was started with",
                        env!("CARGO_PKG_VERSION")
                    ),
                },
                None => nonsense(&self.socket, format!("{error}: {}", quote(bytes))),
            }
        })
    }

    /// Read on for as long as the master lives: nobody knows when the next line comes.
    pub(crate) fn endless(&self) -> Result<(), Failure> {
        let stream = self.body.get_ref().reader().get_ref();
        stream.set_read_timeout(None).map_err(|source| Failure::Unreachable { socket: self.socket.clone(), source })
    }

    /// A handle that ends the reading from another thread.
    pub(crate) fn stopper(&self) -> Result<impl FnOnce() + Send + use<>, Failure> {
        let stream = self.body.get_ref().reader().get_ref();
        let stream =
            stream.try_clone().map_err(|source| Failure::Unreachable { socket: self.socket.clone(), source })?;
        Ok(move || {
            // It fails if the connection has ended, and then there is nothing to end.
            let _ = stream.shutdown(Shutdown::Both);
        })
    }

    /// The next line, without its end; `None` after the last one.
    pub(crate) fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match body::read_line(&mut self.body) {
            Ok(line) => Ok(line),
            Err(body::Broken::NotHttp(what)) => Err(nonsense(&self.socket, what)),
            Err(body::Broken::Ended) => Ok(None),
            Err(body::Broken::Io(error)) => Err(self.cut(error)),
        }
    }

    /// Whether more has come already.
    pub(crate) fn has_more(&self) -> bool {
        !self.body.buffer().is_empty()
    }

    /// A line that is not what it should be.
    pub(crate) fn foreign(&self, line: &[u8], what: &serde_json::Error) -> Failure {
        nonsense(&self.socket, format!("{what}: {}", quote(line)))
    }

    fn cut(&self, source: io::Error) -> Failure {
        match source.kind() {
            io::ErrorKind::InvalidData => nonsense(&self.socket, source.to_string()),
            _ if timed_out(&source) => Failure::Silent { socket: self.socket.clone() },
            _ => Failure::Cut { when: "within its answer", source },
        }
    }
}

fn nonsense(socket: &Path, what: String) -> Failure {
    let hint = "; is it a launcher, and of this version?".to_owned();
    Failure::Nonsense { socket: socket.to_owned(), what, hint }
}

/// The beginning of what came, on one line.
fn quote(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty answer".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    let shown: String = text.chars().take(QUOTED).collect();
    let more = if shown.len() < text.len() { " …" } else { "" };
    format!("`{}`{more}", shown.trim_end())
}

/// SO_RCVTIMEO and SO_SNDTIMEO say it so (socket(7)).
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A name as one segment of a path (RFC 3986, section 3.3): everything but unreserved characters is encoded.
pub(crate) fn segment(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing to a String does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_whatever_is_in_it() {
        assert_eq!(segment("my-app_1.~"), "my-app_1.~");
        assert_eq!(segment("../a b?\r\nß"), "..%2Fa%20b%3F%0D%0A%C3%9F");
    }

    #[test]
    fn one_who_may_not_connect_is_told_whose_the_launcher_is() {
        let place = tempfile::tempdir().expect("directory");
        let state_dir = place.path().to_owned();
        let master = Master { config: "config.yaml".into(), socket: api::socket(&state_dir), state_dir };
        let denied = master.unconnected(io::ErrorKind::PermissionDenied.into());
        let text = denied.to_string();
        let uid = place.path().metadata().expect("exists").uid();
        assert!(text.contains(&format!("uid {uid}")) && text.contains("root may steer it"), "{text}");
        assert_eq!(denied.ended(), super::super::Ended::Failed);
    }

    #[test]
    fn what_is_not_understood_is_quoted_briefly() {
        assert_eq!(quote(b""), "an empty answer");
        assert_eq!(quote(b"hm\n"), "`hm`");
        assert_eq!(quote("ä".repeat(201).as_bytes()), format!("`{}` …", "ä".repeat(200)));
    }
}
