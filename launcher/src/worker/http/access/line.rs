//! A request as a line of JSON or of the combined format (Apache's and nginx's).

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Uri, Version};
use serde::Serialize;

use super::{CLIENT_LEFT, End, Entry, Identity};

/// The fields are documented in the README; they are only ever added.
#[derive(Serialize)]
struct Json<'a> {
    time: String,
    service: &'a str,
    slot: u32,
    client: &'a str,
    method: &'a str,
    target: &'a str,
    protocol: &'a str,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

pub(super) fn json(identity: &Identity, client: &str, entry: &Entry, end: End, took: Duration, to: &mut Vec<u8>) {
    let json = Json {
        time: humantime::format_rfc3339_millis(entry.time).to_string(),
        service: &identity.service,
        slot: identity.slot,
        client,
        method: entry.method.as_str(),
        target: &entry.target,
        protocol: protocol(entry.version),
        status: status(entry),
        bytes: entry.sent,
        // Microseconds are enough for anybody, and shorter.
        duration_ms: took.as_micros() as f64 / 1000.0,
        referer: entry.referer.as_deref(),
        user_agent: entry.user_agent.as_deref(),
        cut: end == End::Cut,
    };
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *to, &json);
    to.push(b'\n');
}

pub(super) fn combined(client: &str, entry: &Entry, to: &mut Vec<u8>) {
    let quoted = |text: Option<&str>| text.unwrap_or("-").replace('"', "\\x22");
    let mut line = String::new();
    // Writing to memory does not fail.
    let _ = writeln!(
        line,
        "{client} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        Date(entry.time),
        entry.method,
        quoted(Some(&entry.target)),
        protocol(entry.version),
        status(entry),
        entry.sent,
        quoted(entry.referer.as_deref()),
        quoted(entry.user_agent.as_deref()),
    );
    to.extend_from_slice(line.as_bytes());
}

fn status(entry: &Entry) -> u16 {
    entry.status.map_or(CLIENT_LEFT, |status| status.as_u16())
}

fn protocol(version: Version) -> &'static str {
    if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }
}

/// A target as the client wrote it, as far as is kept.
pub(super) fn target(uri: &Uri, kept: usize) -> String {
    let mut text = String::new();
    if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
        text = format!("{scheme}://{}", shown(authority.as_str().as_bytes(), kept));
    } else if let Some(authority) = uri.authority() {
        text = shown(authority.as_str().as_bytes(), kept);
    }
    text + &shown(uri.path_and_query().map_or("", |path| path.as_str()).as_bytes(), kept)
}

/// Text of a client: printable ASCII as it is, everything else as `\xff`; what is not kept as `…` would be.
pub(super) fn shown(bytes: &[u8], kept: usize) -> String {
    let mut text = String::with_capacity(bytes.len().min(kept));
    for byte in bytes.iter().take(kept) {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    if bytes.len() > kept {
        text.push_str("...");
    }
    text
}

/// `24/Nov/2026:08:52:55 +0000`
struct Date(SystemTime);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let seconds = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // `2026-11-24T08:52:55Z`
        let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        let (year, month, day, time) = (text.get(..4), text.get(5..7), text.get(8..10), text.get(11..19));
        let month = month.and_then(|month| month.parse::<usize>().ok()).and_then(|month| MONTHS.get(month - 1));
        write!(
            f,
            "{}/{}/{}:{} +0000",
            day.unwrap_or("01"),
            month.unwrap_or(&MONTHS[0]),
            year.unwrap_or("1970"),
            time.unwrap_or("00:00:00")
        )
    }
}
