//! Speaking to the master behind the worker's back: on the channel, the first `SOCK_SEQPACKET` socket that this process has.
//!
//! | | |
//! |---|---|
//! | `garbage` | packets of random bytes |
//! | `large` | the largest packet that the kernel takes, up to 1 MB |
//! | `descriptors` | 250 descriptors with a good message |
//! | `few-descriptors` | good messages with 60 descriptors each, for ever |
//! | `half` | half a message, then the end |
//! | `close` | the end, while the process goes on |
//! | `flood` | good messages of every kind, for ever, from a thread |
//! | `report` | messages for the operator, without waiting for an answer |
//! | `lies` | what is not true: messages that were never sent, links to whom it likes |

#![expect(unsafe_code, reason = "sendmsg(2) by hand is what a hostile plugin would do")]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

static CHANNEL: OnceLock<Option<RawFd>> = OnceLock::new();

/// Does that. `None`: there is no such thing, or no channel.
pub(crate) fn abuse(how: &str) -> Option<()> {
    let socket = (*CHANNEL.get_or_init(find))?;
    match how {
        "garbage" => (0..2000_u32).for_each(|seed| send(socket, &noise(seed), &[])),
        "large" => {
            let size: libc::c_int = 4 << 20;
            // SAFETY: an option of the size of an int.
            unsafe {
                let value = (&raw const size).cast();
                libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, value, size_of::<libc::c_int>() as u32);
            }
            for size in [1 << 20, 1 << 19, 1 << 18, 200_000, 60_000] {
                send(socket, &vec![b' '; size], &[]);
            }
        }
        "descriptors" => {
            let null = std::fs::File::open("/dev/null").ok()?;
            send(socket, &message("beat"), &[null.as_raw_fd(); 250]);
        }
        "few-descriptors" => {
            let null = std::fs::File::open("/dev/null").ok()?;
            std::thread::spawn(move || {
                loop {
                    send(socket, &message("beat"), &[null.as_raw_fd(); 60]);
                }
            });
        }
        "half" => {
            send(socket, b"{\"v\":2,\"message\":{\"type\":\"rea", &[]);
            shutdown(socket);
        }
        "close" => shutdown(socket),
        "flood" => {
            std::thread::spawn(move || {
                let mut number = 0_u64;
                loop {
                    number += 1;
                    for word in ["busy", "beat", "idle", "not_accepting"] {
                        send(socket, &message(word), &[]);
                    }
                    let text = |text: String| send(socket, text.as_bytes(), &[]);
                    text(format!(r#"{{"v":2,"message":{{"type":"follow","service":"{number}"}}}}"#));
                    text(r#"{"v":2,"message":{"type":"follow","service":"x"}}"#.to_owned());
                    text(format!(r#"{{"v":2,"message":{{"type":"introduce","worker":{}}}}}"#, number % 5));
                    text(format!(r#"{{"v":2,"message":{{"type":"posted","post":{number},"fate":"taken"}}}}"#));
                    text(r#"{"v":2,"message":{"type":"stuck","frames":["nowhere"]}}"#.to_owned());
                }
            });
        }
        "report" => {
            for number in 0..2000_u64 {
                let body = "x".repeat(8000);
                let text =
                    format!(r#"{{"v":2,"message":{{"type":"message","number":{number},"message":"\"{body}\""}}}}"#);
                send(socket, text.as_bytes(), &[]);
            }
        }
        "lies" => {
            for number in 0..5000_u64 {
                let text = |text: String| send(socket, text.as_bytes(), &[]);
                text(format!(r#"{{"v":2,"message":{{"type":"posted","post":{number},"fate":"taken"}}}}"#));
                text(format!(r#"{{"v":2,"message":{{"type":"introduce","worker":{number}}}}}"#));
                text(format!(r#"{{"v":2,"message":{{"type":"failed","reason":"{}"}}}}"#, "x".repeat(30_000)));
            }
        }
        _ => return None,
    }
    Some(())
}

fn message(kind: &str) -> Vec<u8> {
    format!(r#"{{"v":2,"message":{{"type":"{kind}"}}}}"#).into_bytes()
}

/// Bytes like none before: xorshift.
fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let length = seed % 3000 + 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// The lowest number is the oldest: it was there before anything else could be opened.
fn find() -> Option<RawFd> {
    (3..1024).find(|number| {
        let (mut kind, mut length): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: an option of the size of an int; a number that is no socket is an error.
        let asked = unsafe {
            libc::getsockopt(*number, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut length)
        };
        asked == 0 && kind == libc::SOCK_SEQPACKET
    })
}

fn shutdown(socket: RawFd) {
    // SAFETY: shutdown(2) has no requirement.
    unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
}

/// Waits while the queue is full, as long as somebody reads it.
fn send(socket: RawFd, bytes: &[u8], descriptors: &[RawFd]) {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0_u64; 160];
    let size = size_of_val(descriptors) as u32;
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes a size.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: the buffer is aligned, has 1280 bytes, and room for 250 descriptors with their head.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
            std::ptr::copy_nonoverlapping(descriptors.as_ptr().cast(), libc::CMSG_DATA(first), size as usize);
        }
    }
    for _ in 0..1000 {
        // SAFETY: the header, its part and its control data live for the call.
        let sent = unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        if sent >= 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::WouldBlock {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
