//! Calls of `wasi:http/handler@0.3`: several requests at once an instance, which runs in a task of its own.
//!
//! Flow: a request enters the queue; [`Http03::dispatch`] wakes the instance that became free last, or starts a new
//! one while there is room. An instance takes requests from the queue from within its event loop, so one that computes
//! takes none. It ends when it has served its number of requests, when it was idle for a while, when it traps, and when
//! a request was given up before its response and nobody else is served.
//!
//! A trap ends all requests of the instance. That is the price of concurrency within one memory.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::AtomicWaker;
use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Sleep, sleep};
use wasmtime::component::{Accessor, InstancePre};
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::epoch::{Meter, metered, metered_poll};
use crate::error::CallFailure;
use crate::gate::{Gate, QUEUE, queue_full};
use crate::guest::{AFTER_RESPONSE, Loaded, failure, report};
use crate::host::Host;

/// Requests that one instance serves at once.
const CONCURRENT: usize = 16;

/// How long an instance without requests is kept.
const IDLE: Duration = Duration::from_secs(10);

/// How long a request waits for a free instance before it gets a new one. An instance seems free until its event loop
/// runs again, which a blocking call of an interface of 0.2 prevents.
const HESITATION: Duration = Duration::from_millis(5);

/// A component of `wasi:http/handler@0.3`.
pub(crate) struct Http03 {
    loaded: Loaded,
    pre: ServicePre<Host>,
    gate: Gate,
    queue: Mutex<Queue>,
    next: AtomicU64,
    /// No request will come: instances without one end.
    resting: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Instances that would take a job, the last to become free at the end.
    free: Vec<Arc<Instance>>,
}

/// A request on its way to an instance.
struct Job {
    id: u64,
    request: Request<WasiBody>,
    head: oneshot::Sender<Result<Response<WasiBody>, wasmtime::Error>>,
    seat: Arc<Seat>,
}

/// Where a request is.
struct Seat(Mutex<SeatState>);

enum SeatState {
    Queued,
    Taken(Arc<Instance>),
    GivenUp,
}

/// What a request and its instance know of each other.
struct Instance {
    /// Requests whose response has not ended.
    live: AtomicUsize,
    /// A request was given up before its response: the guest cannot be told, so the instance takes no more.
    abandoned: AtomicBool,
    /// It is on the list of free ones.
    listed: AtomicBool,
    waker: AtomicWaker,
    /// How it ended.
    ended: watch::Sender<Option<Result<(), CallFailure>>>,
}

/// A request's hold on its instance. Dropping it gives the request up.
pub(crate) struct Place {
    seat: Arc<Seat>,
    answered: bool,
}

impl Place {
    /// The response has ended.
    pub(crate) fn finish(mut self) {
        self.answered = true;
    }

    /// What ended the instance, if it did not end well.
    pub(crate) fn failure(&self) -> Option<CallFailure> {
        let instance = self.seat.instance()?;
        let ended = instance.ended.borrow();
        ended.as_ref().and_then(|ended| ended.as_ref().err().cloned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.seat.lock(), SeatState::GivenUp);
        if let SeatState::Taken(instance) = state {
            if !self.answered {
                instance.abandoned.store(true, Relaxed);
            }
            instance.live.fetch_sub(1, Relaxed);
            instance.waker.wake();
        }
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, SeatState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instance(&self) -> Option<Arc<Instance>> {
        match &*self.lock() {
            SeatState::Taken(instance) => Some(Arc::clone(instance)),
            SeatState::Queued | SeatState::GivenUp => None,
        }
    }

    /// False if the request was given up.
    fn take(&self, instance: &Arc<Instance>) -> bool {
        let mut state = self.lock();
        if matches!(*state, SeatState::GivenUp) {
            return false;
        }
        instance.live.fetch_add(1, Relaxed);
        *state = SeatState::Taken(Arc::clone(instance));
        true
    }
}

impl Http03 {
    pub(crate) fn new(loaded: Loaded, pre: InstancePre<Host>) -> wasmtime::Result<Http03> {
        Ok(Http03 {
            gate: Gate::new(loaded.instances),
            pre: ServicePre::new(pre)?,
            loaded,
            queue: Mutex::default(),
            next: AtomicU64::new(0),
            resting: AtomicBool::new(false),
        })
    }

    pub(crate) async fn warm(self: &Arc<Self>) -> Result<(), CallFailure> {
        let permit = self.gate.enter().await?;
        let (store, proxy) = self.instantiate().await?;
        tokio::spawn(Arc::clone(self).serve(permit, store, proxy, None));
        Ok(())
    }

    /// Lets the instances end, and waits for what they still do.
    pub(crate) async fn rest(&self) {
        self.resting.store(true, Relaxed);
        for instance in std::mem::take(&mut self.lock().free) {
            instance.listed.store(false, Relaxed);
            instance.waker.wake();
        }
        self.gate.empty().await;
    }

    /// The head of the response, and the request's place in its instance.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: Request<WasiBody>,
    ) -> Result<(Response<WasiBody>, Place), CallFailure> {
        let (head_tx, mut head_rx) = oneshot::channel();
        let seat = Arc::new(Seat(Mutex::new(SeatState::Queued)));
        let id = self.next.fetch_add(1, Relaxed);
        {
            let mut queue = self.lock();
            if queue.jobs.len() >= QUEUE {
                return Err(queue_full());
            }
            queue.jobs.push_back(Job { id, request, head: head_tx, seat: Arc::clone(&seat) });
        }
        let place = Place { seat, answered: false };
        self.dispatch();
        let answer = tokio::select! {
            biased;
            answer = &mut head_rx => answer,
            () = sleep(HESITATION) => {
                self.start_for(id);
                head_rx.await
            }
        };
        match answer {
            Ok(Ok(response)) => Ok((response, place)),
            Ok(Err(error)) => {
                // The guest answered, though not with a response: its instance is as good as before.
                place.finish();
                Err(refusal(&error))
            }
            Err(oneshot::Canceled) => Err(self.ending(place).await),
        }
    }

    /// Why an instance ended before it answered.
    async fn ending(&self, place: Place) -> CallFailure {
        let Some(instance) = place.seat.instance() else {
            return CallFailure::new(503, "the worker is ending");
        };
        let mut ended = instance.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Err(failure))) => failure.clone(),
            _ => CallFailure::new(500, "the guest's instance ended without answering"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds an instance for the first job of the queue.
    fn dispatch(self: &Arc<Self>) {
        let mut queue = self.lock();
        if queue.jobs.is_empty() {
            return;
        }
        if let Some(instance) = queue.free.pop() {
            instance.listed.store(false, Relaxed);
            instance.waker.wake();
            return;
        }
        if let Some(permit) = self.gate.try_enter()
            && let Some(job) = queue.jobs.pop_front()
        {
            drop(queue);
            self.start(permit, job);
        }
    }

    /// Starts an instance for a job that no free one took.
    fn start_for(self: &Arc<Self>, id: u64) {
        let mut queue = self.lock();
        let Some(position) = queue.jobs.iter().position(|job| job.id == id) else {
            return;
        };
        if let Some(permit) = self.gate.try_enter()
            && let Some(job) = queue.jobs.remove(position)
        {
            drop(queue);
            self.start(permit, job);
        }
    }

    fn start(self: &Arc<Self>, permit: OwnedSemaphorePermit, job: Job) {
        let guest = Arc::clone(self);
        tokio::spawn(async move {
            match guest.instantiate().await {
                Ok((store, proxy)) => guest.serve(permit, store, proxy, Some(job)).await,
                Err(failure) => {
                    drop(permit);
                    // Nobody waits any more if this fails.
                    let _ = job.head.send(Err(wasmtime::Error::new(failure)));
                    guest.dispatch();
                }
            }
        });
    }

    async fn instantiate(&self) -> Result<(Store<Host>, Proxy), CallFailure> {
        let mut store = self
            .loaded
            .sandbox
            .store(&self.loaded.engine, &self.loaded.ticker)
            .map_err(|error| CallFailure::new(500, format!("cannot set up the sandbox: {error}")))?;
        let meter = Arc::clone(store.data().meter());
        let service = metered(&meter, &self.loaded.ticker, self.pre.instantiate_async(&mut store))
            .await
            .map_err(|error| failure(&meter, &error))?;
        Ok((store, Proxy::P3(service)))
    }

    /// The life of an instance.
    async fn serve(
        self: Arc<Self>,
        permit: OwnedSemaphorePermit,
        mut store: Store<Host>,
        proxy: Proxy,
        first: Option<Job>,
    ) {
        let instance = Arc::new(Instance {
            live: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ended: watch::Sender::new(None),
        });
        // Also when the task is dropped: others wait for what this instance leaves in the queue.
        let leaving = Leaving { guest: Arc::clone(&self), instance: Arc::clone(&instance), permit: Some(permit) };
        let meter = Arc::clone(store.data().meter());
        let ended = self.drive(&instance, &meter, &mut store, &proxy, first).await;
        let ended = ended.map_err(|error| failure(&meter, &error));
        if let Err(failure) = &ended
            && instance.live.load(Relaxed) == 0
            && !instance.abandoned.load(Relaxed)
        {
            report(&self.loaded.output, &failure.reason);
        }
        // First the reason, then the store, whose end closes the bodies that ask for the reason.
        instance.ended.send_replace(Some(ended));
        drop(store);
        drop(leaving);
    }

    async fn drive(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        meter: &Meter,
        store: &mut Store<Host>,
        proxy: &Proxy,
        first: Option<Job>,
    ) -> wasmtime::Result<()> {
        let state = AtomicU8::new(BUSY);
        let rested = AtomicBool::new(true);
        let mut run = pin!(store.run_concurrent(async |accessor: &Accessor<Host>| {
            self.take_requests(instance, accessor, proxy, first, &state, &rested).await
        }));
        let mut patience: Option<(u8, Pin<Box<Sleep>>)> = None;
        poll_fn(|cx| {
            instance.waker.register(cx.waker());
            loop {
                if instance.abandoned.load(Relaxed) && instance.live.load(Relaxed) == 0 {
                    return Poll::Ready(Ok(()));
                }
                let (poll, waits) = metered_poll(meter, &self.loaded.ticker, || run.as_mut().poll(cx));
                if let Poll::Ready(ended) = poll {
                    return Poll::Ready(ended.and_then(|ended| ended));
                }
                // All its requests wait for something: it may take another, which it has to be asked for.
                if waits && !rested.swap(true, Relaxed) {
                    continue;
                }
                break;
            }
            let now = state.load(Relaxed);
            match limit_of(now) {
                None => {
                    patience = None;
                    Poll::Pending
                }
                Some(limit) => {
                    if patience.as_ref().is_none_or(|(since, _)| *since != now) {
                        patience = Some((now, Box::pin(sleep(limit))));
                    }
                    match &mut patience {
                        Some((_, over)) => over.as_mut().poll(cx).map(Ok),
                        None => Poll::Pending,
                    }
                }
            }
        })
        .await
    }

    /// Runs inside the instance's event loop until it is to end.
    async fn take_requests(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        accessor: &Accessor<Host>,
        proxy: &Proxy,
        mut first: Option<Job>,
        state: &AtomicU8,
        rested: &AtomicBool,
    ) -> wasmtime::Result<()> {
        let Proxy::P3(service) = proxy else {
            wasmtime::bail!("the instance is not of wasi:http/handler@0.3");
        };
        let handle = *service.wasi_http_handler().func_handle().func();
        let mut taken = 0_u32;
        let mut calls = FuturesUnordered::new();
        poll_fn(|cx: &mut Context<'_>| {
            loop {
                match calls.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err::<(), wasmtime::Error>(error));
                    }
                    Poll::Ready(None) | Poll::Pending => {}
                }
                let willing = !instance.abandoned.load(Relaxed) && !self.resting.load(Relaxed);
                let open = taken < self.loaded.reuse && willing;
                let ready = accessor.poll_ready_for_concurrent_call(handle, cx).is_ready();
                let room = instance.live.load(Relaxed) < CONCURRENT && (calls.is_empty() || rested.load(Relaxed));
                let job = match first.take() {
                    Some(job) => Some(job),
                    None => self.next_job(instance, open && ready && room),
                };
                if let Some(job) = job {
                    if !job.seat.take(instance) {
                        continue;
                    }
                    taken += 1;
                    rested.store(false, Relaxed);
                    state.store(BUSY, Relaxed);
                    let prepared = accessor.with(|mut store| {
                        Prepared::new(store.as_context_mut(), proxy, job.request, Host::http, job.head)
                    })?;
                    calls.push(prepared.run(accessor, pending()));
                    continue;
                }
                if !calls.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending() {
                    let finishing = !open && calls.is_empty() && instance.live.load(Relaxed) == 0;
                    state.store(if finishing { FINISHING } else { BUSY }, Relaxed);
                    return Poll::Pending;
                }
                // While a body is read its trailers may still be on their way through the event loop.
                if !open && instance.live.load(Relaxed) == 0 {
                    return Poll::Ready(Ok(()));
                }
                state.store(if instance.live.load(Relaxed) == 0 { UNUSED } else { BUSY }, Relaxed);
                return Poll::Pending;
            }
        })
        .await
    }

    /// A job for an instance that is willing; otherwise its entry on the list of free ones, or none.
    fn next_job(self: &Arc<Self>, instance: &Arc<Instance>, willing: bool) -> Option<Job> {
        if !willing && !instance.listed.load(Relaxed) {
            return None;
        }
        let mut queue = self.lock();
        if willing && let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        if willing != instance.listed.load(Relaxed) {
            if willing {
                queue.free.push(Arc::clone(instance));
            } else {
                queue.free.retain(|free| !Arc::ptr_eq(free, instance));
            }
            instance.listed.store(willing, Relaxed);
        }
        None
    }
}

// What an instance does; decides how long it may go on.
/// It serves requests.
const BUSY: u8 = 0;
/// It waits for requests.
const UNUSED: u8 = 1;
/// It takes no more requests, and all its responses have ended.
const FINISHING: u8 = 2;

fn limit_of(state: u8) -> Option<Duration> {
    match state {
        UNUSED => Some(IDLE),
        FINISHING => Some(AFTER_RESPONSE),
        _ => None,
    }
}

/// Takes an instance off the lists, whatever ended its task.
struct Leaving {
    guest: Arc<Http03>,
    instance: Arc<Instance>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.guest.lock().free.retain(|free| !Arc::ptr_eq(free, &self.instance));
        self.instance.ended.send_if_modified(|ended| {
            let lost = ended.is_none();
            if lost {
                *ended = Some(Err(CallFailure::new(503, "the worker is ending")));
            }
            lost
        });
        // Room first: what waits may need a new instance.
        drop(self.permit.take());
        if tokio::runtime::Handle::try_current().is_ok() {
            self.guest.dispatch();
        }
    }
}

fn refusal(error: &wasmtime::Error) -> CallFailure {
    if let Some(failure) = error.downcast_ref::<CallFailure>() {
        return failure.clone();
    }
    match error.downcast_ref::<ErrorCode>() {
        Some(code) => CallFailure::new(500, format!("the guest answered with the error {code:?}")),
        None => CallFailure::new(500, format!("the guest failed: {}", error.root_cause())),
    }
}
