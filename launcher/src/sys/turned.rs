//! tokio's event loop, turned by the loop of somebody else on the same thread: nested epoll(7).
//!
//! ```text
//! their epoll ──readable──▶ their task ──turn──▶ our tasks ──▶ our epoll, looked at without waiting ──▶ our tasks …
//!      ▲                                                              │
//!      └──────────────── our epoll's descriptor, watched ◀────────────┘ a socket, a timer, the bell
//! ```
//!
//! Two threads of a process share their table of descriptors, and the kernel counts references to it with every system
//! call that uses one; a loop that serves alone on its thread pays for the other one with a fortieth of its time. One
//! thread and one table cost nothing, and nobody has to think of descriptors that mean something else over there.
//!
//! What runs in a loop that is turned keeps to three rules. Tasks are begun by [`spawn`], not by tokio's: nobody outside
//! of it can see whether the runtime's own queue is empty, and nobody would turn the loop for what is left in it.
//! Nothing waits for tokio's timers, which are only looked at when something else turns the loop: [`sleep`] and
//! [`again`] are descriptors. And nothing blocks.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::alarm::Alarm;

/// How long [`again`] waits, at most.
const AGAIN: Duration = Duration::from_millis(5);

/// Rounds of a turn at most: one finds what has come, the next one does what is to be done about it. Then the other loop goes
/// on, which may be what is waited for.
const ROUNDS: usize = 2;

/// Numbers of descriptors that are looked at for a runtime's epoll. A new one has the lowest that is free (POSIX), so that in
/// a process that has just begun it is among the first.
const MOST: RawFd = 4096;

thread_local! {
    /// Of the loop that is turned on this thread, if there is one.
    static TICKER: RefCell<Option<Arc<Ticker>>> = const { RefCell::new(None) };
}

/// The epoll of a runtime, if it can be found among the descriptors of this process.
///
/// # Errors
/// There are no descriptors left.
pub fn epoll_of(runtime: &Runtime) -> io::Result<Option<OwnedFd>> {
    let mark = {
        let _within = runtime.enter();
        super::readiness::register(eventfd(0, EventfdFlags::CLOEXEC)?, Interest::READABLE)?
    };
    Ok((0..MOST).find_map(|number| epoll_with(mark.get_ref(), number)))
}

/// Another descriptor of what has this number, if it is the epoll in which the mark is registered. It is not, afterwards.
fn epoll_with(mark: &OwnedFd, number: RawFd) -> Option<OwnedFd> {
    // SAFETY: whatever has this number, or nothing, is asked for something that is new and ours, and is duplicated if it has
    // it; it is not closed here.
    #[expect(unsafe_code, reason = "tokio does not lend it")]
    let candidate = unsafe { BorrowedFd::borrow_raw(number) };
    // epoll_ctl(2): ENOENT where it is not registered, other errors of what is no epoll.
    epoll::delete(candidate, mark).ok().and_then(|()| candidate.try_clone_to_owned().ok())
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// A loop that is turned by another one.
#[derive(Debug)]
pub struct Turned {
    runtime: Runtime,
    tasks: RefCell<LocalSet>,
    epoll: OwnedFd,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Says that a task has something to do.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    /// Somebody will look whether it was rung.
    turning: AtomicBool,
    /// Makes the epoll readable for a moment: it is watched there, and never read.
    descriptor: AsyncFd<OwnedFd>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either we see here that the turn is over, or the turn sees at its end that it was rung.
        self.rung.store(true, Ordering::SeqCst);
        if !self.turning.load(Ordering::SeqCst) {
            self.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        // Not full before it was rung for some thousand years.
        let _ = rustix::io::write(self.descriptor.get_ref(), &1_u64.to_ne_bytes());
    }
}

impl Turned {
    /// Of a runtime that nobody runs otherwise, on this thread, with the epoll that [`epoll_of`] has found.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(runtime: Runtime, epoll: OwnedFd) -> io::Result<Turned> {
        let (descriptor, ticker) = {
            let _within = runtime.enter();
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            (super::readiness::register(made, Interest::READABLE)?, Arc::new(Ticker::new(Alarm::new()?)))
        };
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), turning: AtomicBool::new(false), descriptor });
        let waker = Waker::from(Arc::clone(&bell));
        let tasks = LocalSet::new();
        tasks.spawn_local(Arc::clone(&ticker).tick());
        TICKER.set(Some(ticker));
        Ok(Turned { runtime, tasks: RefCell::new(tasks), epoll, bell, waker })
    }

    /// Can be read from when there is something to do. The other loop watches it, and nobody reads from it.
    pub fn descriptor(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Begin a task, which runs when the loop is turned. Its end is in what is returned.
    pub fn begin<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> tokio::task::JoinHandle<T> {
        let begun = self.tasks.borrow().spawn_local(task);
        self.bell.wake_by_ref();
        begun
    }

    /// Do what there is to do, without waiting: whether there is more. Then the descriptor can be read from; otherwise it can
    /// when there is. A turn within a turn does nothing.
    pub fn turn(&self) -> bool {
        let Ok(mut tasks) = self.tasks.try_borrow_mut() else { return false };
        self.bell.turning.store(true, Ordering::SeqCst);
        for _ in 0..ROUNDS {
            self.bell.rung.store(false, Ordering::SeqCst);
            self.runtime.block_on(async {
                let mut context = Context::from_waker(&self.waker);
                poll_fn(|_| {
                    // Ready says that there is no task, which is nothing to us.
                    let _ = Pin::new(&mut *tasks).poll(&mut context);
                    Poll::Ready(())
                })
                .await;
                // The runtime looks at its epoll, and wakes those whom it concerns. Last: it wakes those who have yielded,
                // too, or else forgets them.
                tokio::task::yield_now().await;
            });
            if !self.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        self.bell.turning.store(false, Ordering::SeqCst);
        if self.bell.rung.load(Ordering::SeqCst) {
            // Whoever turned it may have other things to do now than to turn it again.
            self.bell.ring();
            return true;
        }
        is_readable(self.epoll.as_fd())
    }

    /// Run the loop as everybody runs one, until the future is ready.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.tasks.borrow_mut().block_on(&self.runtime, future)
    }
}

/// Begin a task of this thread's loop, however that is turned. Must be called within one.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if TICKER.with_borrow(Option::is_some) {
        tokio::task::spawn_local(task);
    } else {
        tokio::spawn(task);
    }
}

/// Wait for a little, at most 5 ms, to look again then. It needs no descriptor.
pub async fn again() {
    match TICKER.with_borrow(Option::clone) {
        Some(ticker) => ticker.next().await,
        None => tokio::time::sleep(AGAIN).await,
    }
}

/// Wait for so long.
pub async fn sleep(duration: Duration) {
    let from = Instant::now();
    if let Ok(alarm) = Alarm::new()
        && alarm.wait(duration).await.is_ok()
    {
        return;
    }
    // There are no descriptors left.
    while from.elapsed() < duration {
        again().await;
    }
}

/// One alarm for all who wait for a little.
#[derive(Debug)]
struct Ticker {
    alarm: Alarm,
    wanted: Notify,
    tick: Notify,
}

impl Ticker {
    fn new(alarm: Alarm) -> Ticker {
        Ticker { alarm, wanted: Notify::new(), tick: Notify::new() }
    }

    async fn tick(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            if self.alarm.wait(AGAIN).await.is_err() {
                // Sooner than that, then: with every turn.
                tokio::task::yield_now().await;
            }
            self.tick.notify_waiters();
        }
    }

    async fn next(&self) {
        let mut tick = std::pin::pin!(self.tick.notified());
        // From now on, not from the first look at it.
        tick.as_mut().enable();
        self.wanted.notify_one();
        tick.await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use tokio::runtime::Builder;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A loop, and another one that turns it.
    struct Both {
        turned: Rc<Turned>,
        /// It watches only for changes, as tokio does.
        outer: OwnedFd,
    }

    impl Both {
        fn new() -> Both {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let epoll = epoll_of(&runtime).expect("descriptors").expect("it is there");
            let turned = Rc::new(Turned::new(runtime, epoll).expect("descriptors"));
            let outer = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
            let watched = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&outer, &turned.epoll, epoll::EventData::new_u64(0), watched).expect("can be watched");
            Both { turned, outer }
        }

        /// Turns it until then, as long as there is more and when something has come.
        fn until(&self, done: impl Fn() -> bool) {
            let mut more = true;
            while !done() {
                assert!(more || self.wait(PATIENCE), "nothing came, and it is not done");
                more = self.turned.turn();
            }
        }

        /// The same, once each time the descriptor can be read from, as poll(2) tells.
        fn until_by_level(&self, done: impl Fn() -> bool) {
            let patience = Timespec::try_from(PATIENCE).expect("a time");
            while !done() {
                let mut polled = [PollFd::new(&self.turned.epoll, PollFlags::IN)];
                assert_eq!(poll(&mut polled, Some(&patience)), Ok(1), "nothing came, and it is not done");
                self.turned.turn();
            }
        }

        /// Whether there was something to do before so long.
        fn wait(&self, patience: Duration) -> bool {
            let patience = Timespec::try_from(patience).expect("a time");
            let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            epoll::wait(&self.outer, &mut events[..], Some(&patience)).expect("waits") > 0
        }
    }

    #[test]
    fn sockets_timers_and_other_threads_wake_it_and_then_it_rests() {
        let both = Both::new();
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("it works");
        let called = Arc::new(Notify::new());
        let caller = Arc::clone(&called);
        let said = Arc::new(AtomicBool::new(false));
        let say = Arc::clone(&said);
        let task = both.turned.begin(async move {
            let ours = super::super::readiness::register(ours.into(), Interest::READABLE).expect("registers");
            sleep(Duration::from_millis(20)).await;
            again().await;
            spawn(async move {
                tokio::task::yield_now().await;
                say.store(true, Ordering::Relaxed);
            });
            let mut read = [0; 4];
            ours.async_io(Interest::READABLE, |ours| Ok(rustix::io::read(ours, &mut read)?)).await.expect("reads");
            called.notified().await;
            read
        });
        let writer = std::thread::spawn(move || {
            theirs.write_all(b"word").expect("writes");
            caller.notify_one();
            theirs
        });
        // A task that a task began runs, too.
        both.until(|| task.is_finished() && said.load(Ordering::Relaxed));
        assert_eq!(&both.turned.run(task).expect("no panic"), b"word");
        let mut theirs = writer.join().expect("no panic");
        assert_eq!(theirs.read(&mut [0; 1]).expect("the end"), 0);
        // What is left has nothing to do: nothing of a turn's own makes another one necessary.
        assert!(!both.turned.turn());
        both.wait(Duration::ZERO);
        assert!(!both.turned.turn() && !both.wait(Duration::from_millis(50)));
    }

    #[test]
    fn a_task_that_is_always_ready_leaves_the_other_loop_its_turn() {
        let both = Both::new();
        let over = Rc::new(std::cell::Cell::new(false));
        let end = Rc::clone(&over);
        let task = both.turned.begin(async move {
            while !end.get() {
                tokio::task::yield_now().await;
            }
        });
        assert!((0..3).all(|_| both.turned.turn()), "there is more");
        over.set(true);
        both.until_by_level(|| task.is_finished());
    }

    #[test]
    fn a_turn_within_a_turn_does_nothing() {
        let both = Both::new();
        let turned = Rc::clone(&both.turned);
        let task = both.turned.begin(async move { turned.turn() });
        both.until(|| task.is_finished());
        assert!(!both.turned.run(task).expect("no panic"));
    }

    #[test]
    fn no_word_of_another_thread_is_lost() {
        let both = Both::new();
        let (words, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let task = both.turned.begin(async move {
            let mut sum = 0_u64;
            while let Some(word) = heard.recv().await {
                sum += word;
            }
            sum
        });
        let speaker = std::thread::spawn(move || {
            for word in 1..=20_000 {
                words.send(word).expect("somebody hears");
                if word % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        both.until_by_level(|| task.is_finished());
        speaker.join().expect("no panic");
        assert_eq!(both.turned.run(task).expect("no panic"), 200_010_000);
    }

    #[test]
    fn of_several_runtimes_each_is_given_its_own() {
        let runtimes: Vec<Runtime> =
            (0..5).map(|_| Builder::new_current_thread().enable_all().build().expect("a runtime")).collect();
        for runtime in runtimes.iter().rev() {
            let epoll = epoll_of(runtime).expect("descriptors").expect("it is there");
            let _within = runtime.enter();
            let made = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
            assert!(!is_readable(epoll.as_fd()));
            let registered = crate::sys::readiness::register(made, Interest::READABLE).expect("registers");
            assert!(is_readable(epoll.as_fd()));
            drop(registered);
        }
    }

    #[test]
    fn what_is_no_epoll_and_what_has_not_the_mark_is_not_taken_for_it() {
        let mark = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        assert!(epoll_with(&mark, mark.as_raw_fd()).is_none());
        assert!(epoll_with(&mark, RawFd::MAX).is_none());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        assert!(epoll_with(&mark, epoll.as_raw_fd()).is_none());
        epoll::add(&epoll, &mark, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("is registered");
        assert!(epoll_with(&mark, epoll.as_raw_fd()).is_some());
    }
}
