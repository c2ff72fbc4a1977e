//! Something that listens where a master would and says what a test wants: what a real master never says.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A listener on a control socket, in this process.
pub(crate) struct FakeMaster {
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeMaster {
    /// Listens in this state directory. `answer` is given `METHOD /target` and the body of each request; what it
    /// returns is written as it is, and the connection ends.
    pub(crate) fn listen(
        state_dir: &Path,
        answer: impl Fn(&str, &str, &mut UnixStream) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        std::fs::create_dir_all(state_dir).expect("make the state directory");
        let listener = UnixListener::bind(state_dir.join("control.sock")).expect("bind the control socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                let mut stream = stream.expect("accept");
                thread::spawn(move || {
                    let Some((request, body)) = read_request(&stream) else { return };
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                    let bytes = answer(&request, &body, &mut stream);
                    // The client may have left.
                    let _ = stream.write_all(&bytes);
                });
            }
        });
        Self { asked }
    }

    /// `METHOD /target` of every request so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A response with a length.
pub(crate) fn response(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn read_request(stream: &UnixStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let request = line.trim_end().strip_suffix(" HTTP/1.1")?.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field).ok()? == 0 {
            return None;
        }
        if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if field.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((request, String::from_utf8(body).ok()?))
}
