//! A worker's side of `serve` without a worker: for the tests of those who write plugins.

use std::ffi::c_void;
use std::io::{self, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::socket::Side;
use super::{guard, waker};
use crate::abi;
use crate::sockets::{Listener, SocketKind, Sockets};

/// How long a plugin is told that it may take to finish; nobody enforces it here.
const DRAIN: Duration = Duration::from_secs(30);

/// A socket for [`sockets`]: a std type that listens, or a bound UDP socket.
#[derive(Debug)]
pub struct TestSocket {
    name: Option<String>,
    kind: SocketKind,
    address: String,
    descriptor: OwnedFd,
}

impl TestSocket {
    fn new(kind: SocketKind, address: String, descriptor: impl Into<OwnedFd>) -> TestSocket {
        TestSocket { name: None, kind, address, descriptor: descriptor.into() }
    }

    /// With a name, as the configuration may give it one.
    pub fn named(self, name: &str) -> TestSocket {
        TestSocket { name: Some(name.to_owned()), ..self }
    }
}

impl TryFrom<TcpListener> for TestSocket {
    type Error = io::Error;

    fn try_from(socket: TcpListener) -> io::Result<TestSocket> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?.to_string();
        Ok(TestSocket::new(SocketKind::Tcp, address, socket))
    }
}

impl TryFrom<UdpSocket> for TestSocket {
    type Error = io::Error;

    fn try_from(socket: UdpSocket) -> io::Result<TestSocket> {
        socket.set_nonblocking(true)?;
        let address = format!("udp://{}", socket.local_addr()?);
        Ok(TestSocket::new(SocketKind::Udp, address, socket))
    }
}

impl TryFrom<UnixListener> for TestSocket {
    type Error = io::Error;

    fn try_from(socket: UnixListener) -> io::Result<TestSocket> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let address = format!("unix:{}", address.as_pathname().unwrap_or("".as_ref()).display());
        Ok(TestSocket::new(SocketKind::Unix, address, socket))
    }
}

/// Who gave the sockets.
#[derive(Debug, Clone, Copy)]
pub struct TestWorker(&'static Words);

/// What is said in both directions.
#[derive(Debug)]
struct Words {
    ready: AtomicBool,
    left: AtomicBool,
    flag: AtomicU32,
    /// Readable at the plugin's side when something was written at ours.
    told: (UnixStream, UnixStream),
    waiting: Mutex<Vec<Waker>>,
}

/// Sockets as a worker gives them to a function under `#[worker_sdk::socket]`, and the worker.
///
/// ```
/// use std::io::Read;
/// use std::net::{TcpListener, TcpStream};
///
/// use worker_sdk::{Sockets, testing};
///
/// fn serve(mut sockets: Sockets) -> std::io::Result<()> {
///     let _listener = sockets.tcp()?;
///     sockets.ready();
///     sockets.stop().wait();
///     Ok(())
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let (sockets, worker) = testing::sockets([listener.try_into()?])?;
/// let served = std::thread::spawn(move || serve(sockets));
/// let client = TcpStream::connect(address)?; // and talk to it
/// worker.stop();
/// served.join().expect("no panic")?;
/// assert!(worker.is_ready());
/// # drop(client);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// There are no descriptors left.
pub fn sockets(given: impl IntoIterator<Item = TestSocket>) -> io::Result<(Sockets, TestWorker)> {
    let words: &'static Words = Box::leak(Box::new(Words {
        ready: AtomicBool::new(false),
        left: AtomicBool::new(false),
        flag: AtomicU32::new(0),
        told: UnixStream::pair()?,
        waiting: Mutex::default(),
    }));
    let table: &'static abi::Sockets = Box::leak(Box::new(abi::Sockets {
        size: size_of::<abi::Sockets>() as u32,
        stop_descriptor: words.told.0.as_raw_fd(),
        stop_flag: words.flag.as_ptr().cast_const(),
        drain_timeout_ms: u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX),
        listeners: std::ptr::null(),
        listeners_len: 0,
        host: (&raw const *words).cast_mut().cast(),
        ready,
        not_accepting,
        poll_stop,
        // Nobody watches.
        at_work: None,
        poll_alive: None,
        // The worker of a test has no loop.
        worker_descriptor: -1,
        reserved: 0,
        turn: None,
    }));
    let listener = |TestSocket { name, kind, address, descriptor }: TestSocket| Listener {
        name: name.unwrap_or_else(|| address.clone()),
        address,
        kind,
        descriptor,
    };
    let listeners = given.into_iter().map(listener).collect();
    Ok((Sockets::new(listeners, Side::of(table)), TestWorker(words)))
}

impl TestWorker {
    /// Tells the plugin to stop.
    pub fn stop(&self) {
        if self.0.flag.swap(1, Ordering::AcqRel) == 0 {
            // One byte fits; nobody reads it.
            let _ = (&self.0.told.1).write_all(b"!");
            let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the plugin has said that it accepts.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Whether the plugin, told to stop, has said that it accepts no more.
    pub fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Acquire)
    }
}

/// # Safety
/// `host` is what [`sockets`] wrote there.
unsafe fn words(host: *mut c_void) -> &'static Words {
    // SAFETY: leaked, and shared between threads by its type.
    unsafe { &*host.cast_const().cast::<Words>() }
}

unsafe extern "C" fn ready(host: *mut c_void) {
    // SAFETY: this side of the border passes what it was given.
    unsafe { words(host) }.ready.store(true, Ordering::Release);
}

unsafe extern "C" fn not_accepting(host: *mut c_void) {
    // SAFETY: as above.
    let words = unsafe { words(host) };
    if words.flag.load(Ordering::Acquire) != 0 {
        words.left.store(true, Ordering::Release);
    }
}

unsafe extern "C" fn poll_stop(host: *mut c_void, lent: abi::Waker) -> i32 {
    guard(|| {
        // SAFETY: as above.
        let words = unsafe { words(host) };
        let waker = waker::with_context(lent, |context| context.waker().clone());
        words.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
        if words.flag.load(Ordering::Acquire) != 0 { abi::READY } else { abi::PENDING }
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_word_reaches_every_future_of_its_own_worker() {
        let (one, first) = sockets([]).expect("descriptors");
        let (other, second) = sockets([]).expect("descriptors");
        let counts = [(); 3].map(|()| Arc::new(Count::default()));
        let wakers = counts.clone().map(Waker::from);
        let mut ours = pin!(one.stop().told());
        let mut theirs = pin!(other.stop().told());
        {
            let dropped = pin!(one.stop().told());
            assert!(dropped.poll(&mut Context::from_waker(&wakers[2])).is_pending());
        }
        assert!(ours.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
        assert!(theirs.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        second.stop();
        assert_eq!(theirs.poll(&mut Context::from_waker(&wakers[1])), Poll::Ready(()));
        assert!(ours.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
        first.stop();
        first.stop();
        assert_eq!(ours.poll(&mut Context::from_waker(&wakers[0])), Poll::Ready(()));
        let [ours, theirs, dropped] = woken();
        assert!(ours >= 1 && theirs >= 1 && dropped == 0, "{:?}", woken());
    }

    #[test]
    fn sockets_are_taken_by_kind_and_by_name() {
        let tcp = || TcpListener::bind("127.0.0.1:0").expect("binds").try_into();
        let udp = UdpSocket::bind("127.0.0.1:0").expect("binds").try_into();
        let (first, second): (TestSocket, TestSocket) = (tcp().expect("good"), tcp().expect("good"));
        let udp: TestSocket = udp.expect("good");
        let (mut sockets, worker) = sockets([first.named("web"), second.named("admin"), udp]).expect("descriptors");
        let admin = sockets.take("admin").expect("it is there");
        assert_eq!((admin.name(), admin.kind()), ("admin", SocketKind::Tcp));
        let told = admin.into_udp().expect_err("another kind").to_string();
        assert!(told.contains("`admin`") && told.contains("is a TCP socket, not a UDP socket"), "{told}");
        sockets.tcp().expect("the first one is left");
        let told = sockets.tcp().expect_err("none is left").to_string();
        assert!(told.contains("no TCP socket is left") && told.contains("udp://127.0.0.1:"), "{told}");
        assert!(sockets.take("web").is_err() && sockets.unix().is_err());
        sockets.udp().expect("it is there");
        assert!(!worker.is_ready());
        sockets.not_accepting();
        sockets.ready();
        assert!(worker.is_ready() && !worker.has_left(), "nobody told it to stop");
        worker.stop();
        sockets.stop().wait();
        sockets.not_accepting();
        assert!(worker.has_left());
    }
}
