//! A worker's life: take the channel, be assigned, load the plugin, say ready, serve, drain, exit.
//!
//! A worker is generic until its assignment comes; one that is started in advance makes ready meanwhile what any of them
//! needs. It never reads the configuration, so a half-saved file cannot reach it, and it never outlives its master for
//! longer than a drain.
//!
//! - [`http`]: the HTTP side, whatever the plugin is made of
//! - [`plugin`]: what a plugin must be able to do, and the kinds there are
//! - `dev`: what an author sees in a browser, in `launcher dev` only
//! - `forwarding`: the headers that name the client
//! - `post`: messages of the plugin to others, and theirs to it
//! - `program`: a plugin that is a WASM program and owns its sockets, instead of HTTP
//! - `pulse`: that its loop turns
//! - `recycle`: when a worker asks to be replaced
//! - [`socket`]: what stands in the place of HTTP for a plugin that owns its sockets
//! - `verify`: the other thing that a worker process may be asked: is this plugin usable?

mod dev;
mod forwarding;
pub mod http;
pub mod plugin;
mod post;
mod program;
pub mod pulse;
mod recycle;
pub mod socket;
mod verify;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use wasm_host::Ready;

use crate::channel::balance::Board;
use crate::channel::statistics::Counters;
use crate::channel::{self, AccessTo, Assign, Channel, Large, Plugin, ToMaster, ToWorker};
use crate::sys;
use dev::{Developed, Hub};
use forwarding::Forwarding;
use http::access::AccessLog;
use http::{Control, Server};
use plugin::HttpPlugin;
use plugin::native::{self, NativeHttp, NativeSocket};
use post::Post;
use pulse::Pulse;
use recycle::{Recycling, Wish};

/// The exit code of a worker that cannot serve, and has told its master why.
const FAILED: u8 = 1;
/// The exit code of a worker to which nobody spoke as a master does.
const NO_MASTER: u8 = 2;

/// The whole life of a worker process: the body of `launcher worker`. Its exit code.
pub fn main() -> u8 {
    let channel = match sys::stdio::take_stdin() {
        Ok(channel) => channel,
        Err(error) => return give_up(&format!("standard input cannot be taken: {error}")),
    };
    let mut ready = Ready::default();
    let mut first = channel::receive_blocking::<ToWorker>(channel.as_fd(), Large::Accepted);
    if let Ok(Some((ToWorker::StandBy { flavours }, _))) = first {
        ready = Ready::make(&flavours);
        first = channel::receive_blocking(channel.as_fd(), Large::Accepted);
        if let Ok(Some((ToWorker::Assign(assign), _))) = &first
            && let Err(reason) = become_worker(assign)
        {
            return fail(&channel, reason);
        }
    }
    match first {
        // The master went away before it had anything to say.
        Ok(None) => 0,
        Ok(Some((ToWorker::Assign(assign), descriptors))) => match serve(&channel, *assign, descriptors, ready) {
            Ok(()) => 0,
            Err(reason) => fail(&channel, reason),
        },
        Ok(Some((ToWorker::Verify { path, purpose }, descriptors))) => match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok([source, compiled]) => {
                let answer = verify::verify(&path, purpose, source, compiled);
                channel::send_blocking(channel.as_fd(), &answer).map_or(FAILED, |()| 0)
            }
            Err(_) => give_up("a request to verify came without its two descriptors"),
        },
        Ok(Some(_)) => give_up("an order came before the assignment"),
        Err(error) => give_up(&format!("{error}; a worker is started by `launcher run` only")),
    }
}

/// What a worker is given when it is started, for one that was started before it was one.
fn become_worker(assign: &Assign) -> Result<(), String> {
    // It is called something else then, and works as well.
    let _ = sys::disguise::rename(channel::SPARE, &format!("{}/{}", assign.service, assign.slot));
    sys::disguise::add_to_environment(&assign.env).map_err(|error| format!("its environment cannot be set: {error}"))
}

fn give_up(reason: &str) -> u8 {
    eprintln!("launcher: worker: {reason}");
    NO_MASTER
}

fn fail(channel: &OwnedFd, reason: String) -> u8 {
    // If the master is gone there is nobody to tell.
    let _ = channel::send_blocking(channel.as_fd(), &ToMaster::Failed { reason });
    FAILED
}

/// Serve until told to drain. An error is why the worker cannot serve, for a person.
fn serve(channel: &OwnedFd, mut assign: Assign, mut descriptors: Vec<OwnedFd>, mut ready: Ready) -> Result<(), String> {
    let to_file = assign.access_log.as_ref().is_some_and(|log| log.to == AccessTo::File);
    let optional = usize::from(to_file) + usize::from(assign.takes_over) + usize::from(assign.balance.is_some());
    if descriptors.len() != 2 + assign.listeners.len() + optional {
        return Err("the assignment and its descriptors do not match".to_owned());
    }
    if !matches!(assign.plugin, Plugin::Wasm(_)) {
        drop(std::mem::take(&mut ready));
    }
    sys::heap::keep_blocks();
    let board = match assign.balance.and_then(|place| Some((place, descriptors.pop()?))) {
        Some((place, page)) => {
            Board::shared(&page, place).map_err(|error| format!("the page of what is open cannot be used: {error}"))?
        }
        None => None,
    };
    let take = if assign.takes_over { descriptors.pop() } else { None };
    let access = match &assign.access_log {
        Some(settings) => Some(access_log(&assign, settings, to_file.then(|| descriptors.pop()).flatten())?),
        None => None,
    };
    let listeners = descriptors.split_off(2);
    let counters = Counters::shared(&descriptors.remove(1), assign.statistics)
        .map_err(|error| format!("the page for its statistics cannot be used: {error}"))?;
    let loadable = File::from(descriptors.remove(0));
    if let Some(identity) = &assign.identity {
        sys::identity::assume(identity.uid, identity.gid, &identity.groups)
            .map_err(|error| format!("cannot become user {} of group {}: {error}", identity.uid, identity.gid))?;
    }
    // Before the plugin is loaded: one that hangs while it starts must not outlive its master either.
    sys::orphan::watch(duplicate(channel)?, assign.drain_timeout)
        .map_err(|error| format!("no thread could be started: {error}"))?;
    // A descriptor of its own that is never closed: the handler of a signal uses it.
    let told: &'static OwnedFd = Box::leak(Box::new(duplicate(channel)?));
    sys::fatal_signal::answer_quit(told.as_fd(), channel::STUCK.0, channel::STUCK.1)
        .map_err(|error| format!("signals cannot be handled: {error}"))?;
    sys::fatal_signal::tell_end(channel::DYING.0, channel::DYING.1);
    let post = Post::new(assign.worker);
    let pulse = Pulse::default();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    pulse.watch(&mut runtime);
    if matches!(assign.plugin, Plugin::Wasm(_)) {
        // Calls after which the runtime looks at sockets and timers. Each may compute for 10 ms before it yields, so
        // that the default of 61 would delay a timer by more than half a second; 1 costs every request a system call.
        // A native plugin that computes cannot be interrupted anyway.
        runtime.event_interval(8);
    }
    let runtime = runtime.enable_all().build().map_err(|error| format!("the event loop cannot be started: {error}"))?;
    let hub = assign.dev.take().map(|state| Hub::new(&assign.service, assign.worker, assign.generation, *state));
    match (&assign.plugin.clone(), &hub) {
        (Plugin::Awaited, Some(hub)) => {
            let plugin = Developed::awaited(Arc::clone(hub));
            // What will own the others is not there yet.
            let stream = |(listener, _): &(channel::Listener, OwnedFd)| listener.kind.is_stream();
            let (names, listeners) = assign.listeners.into_iter().zip(listeners).filter(stream).unzip();
            let assign = Assign { listeners: names, ..assign };
            let told = (counters, access, pulse, post);
            runtime.block_on(run(channel, assign, (listeners, take, board), told, plugin, Some(Arc::clone(hub))))
        }
        (Plugin::Awaited, None) => Err("there is no plugin, and nobody builds one".to_owned()),
        (Plugin::Wasm(manifest), _) if manifest.world.is_program() => {
            let told = (counters, pulse, post);
            runtime.block_on(program::serve(channel, assign, listeners, told, (loadable, manifest)))
        }
        (Plugin::Wasm(manifest), hub) => runtime.block_on(async {
            let guest = plugin::wasm::load(loadable, manifest, &assign, &post, ready).await?;
            let rest = guest.rest();
            let (at, told) = ((listeners, take, board), (counters, access, pulse, post));
            let served = match hub {
                None => run(channel, assign, at, told, guest, None).await,
                Some(hub) => {
                    let guest = Developed::<true>::new(guest, Arc::clone(hub));
                    run(channel, assign, at, told, guest, Some(Arc::clone(hub))).await
                }
            };
            rest.await;
            served
        }),
        (Plugin::Native, hub) => runtime.block_on(async {
            native::post::connect(&post);
            let native = load_native(&loadable, &assign)?;
            let (at, told) = ((listeners, take, board), (counters, access, pulse, post));
            let served = match hub {
                None => run(channel, assign, at, told, native, None).await,
                Some(hub) => {
                    let native = Developed::<false>::new(native, Arc::clone(hub));
                    run(channel, assign, at, told, native, Some(Arc::clone(hub))).await
                }
            };
            // Calls that the plugin still holds: then nothing may be dropped under them.
            let _ = native.shutdown();
            if served.is_ok() {
                sys::process::exit_at_once(0);
            }
            served
        }),
        // Its loop may be what turns the worker's.
        (Plugin::NativeSocket, _) => {
            native::post::connect(&post);
            let plugin = NativeSocket::load(loadable.as_fd(), &assign.config, native_identity(&assign)?)
                .map_err(|error| format!("{} {error}", assign.plugin_path))?;
            socket::serve(channel, assign, listeners, (pulse, post), plugin, runtime)
        }
    }
}

fn load_native(library: &File, assign: &Assign) -> Result<NativeHttp, String> {
    NativeHttp::load(library.as_fd(), &assign.config, native_identity(assign)?)
        .map_err(|error| format!("{} {error}", assign.plugin_path))
}

/// Who a native plugin is; from here on this process may die of one.
fn native_identity(assign: &Assign) -> Result<native::Identity<'_>, String> {
    sys::fatal_signal::name_plugin(&assign.plugin_path);
    sys::fatal_signal::install().map_err(|error| format!("fatal signals cannot be handled: {error}"))?;
    Ok(native::Identity {
        service: &assign.service,
        worker: assign.worker,
        slot: assign.slot,
        generation: assign.generation,
    })
}

fn duplicate(channel: &OwnedFd) -> Result<OwnedFd, String> {
    channel.try_clone().map_err(|error| format!("the channel cannot be duplicated: {error}"))
}

async fn run<P: HttpPlugin>(
    channel: &OwnedFd,
    assign: Assign,
    (listeners, take, board): (Vec<OwnedFd>, Option<OwnedFd>, Option<Board>),
    (counters, access, pulse, post): (Counters, Option<Arc<AccessLog>>, Pulse, Arc<Post>),
    plugin: P,
    hub: Option<Arc<Hub>>,
) -> Result<(), String> {
    let ours = duplicate(channel)?;
    let channel = Arc::new(Channel::new(ours).map_err(|error| format!("the channel cannot be used: {error}"))?);
    channel.hold_room();

    let wish = Wish::default();
    let plugin = Forwarding::new(Recycling::new(plugin, &assign.limits, &wish), assign.forwarded);
    let lifetime = recycle::max_lifetime(&assign.limits, assign.worker);
    let limits =
        channel::Limits { max_requests: recycle::max_requests(&assign.limits, assign.worker), ..assign.limits };
    let listeners = assign.listeners.into_iter().zip(listeners).collect();
    let left = Arc::new(Notify::new());
    let report = report(wish.clone(), Arc::clone(&left));
    let (mut server, control) = Server::new(Arc::new(plugin), limits, listeners, counters, report, access.clone())
        .map_err(|error| format!("the listeners cannot be served: {error}"))?;
    if let Some(take) = take {
        server.take_over(take).map_err(|error| format!("connections cannot be taken over: {error}"))?;
    }
    if assign.sockets_later {
        server.sockets_come_later();
    }
    if let Some(board) = board {
        server.balance(board);
    }

    post.pass_to(server.door());
    let life = Life { channel, said: Arc::default(), wish, left, post: Arc::clone(&post) };
    life.live(control, pulse, lifetime, access.clone(), hub)?;
    life.ready().await?;
    server.serve().await;
    post.last_words();
    if let Some(access) = access {
        access.flush();
    }
    Ok(())
}

/// What every worker does beside serving: it hears the master and signals, and says what becomes of it.
struct Life {
    channel: Arc<Channel>,
    said: Arc<Said>,
    wish: Wish,
    /// Nothing is accepted any more.
    left: Arc<Notify>,
    post: Arc<Post>,
}

impl Life {
    /// Does so in tasks, until the process ends.
    fn live(
        &self,
        steered: impl Steered,
        pulse: Pulse,
        lifetime: Option<Duration>,
        access: Option<Arc<AccessLog>>,
        hub: Option<Arc<Hub>>,
    ) -> Result<(), String> {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| format!("signals cannot be handled: {error}"))?;
        // Sent to a whole terminal or group they are meant for the master; it tells its workers what to do.
        let _ignored = [SignalKind::interrupt(), SignalKind::hangup()].map(signal);

        let (draining, leaving) = (steered.clone(), self.wish.clone());
        let hub_on_terminate = hub.clone();
        sys::turned::spawn(async move {
            // Whoever sends it wants this process gone, and its clients need not notice: the master replaces it, and then
            // it hands over as for any other reason. systemd sends it to every process of a unit; then the master stops,
            // too.
            let mut asked = false;
            while terminate.recv().await.is_some() {
                if asked {
                    draining.drain();
                    if let Some(hub) = &hub_on_terminate {
                        hub.leave();
                    }
                }
                leaving.tell("it was sent TERM".to_owned());
                asked = true;
            }
        });
        let (wish, wisher, wished) = (self.wish.clone(), Arc::clone(&self.channel), Arc::clone(&self.said));
        sys::turned::spawn(async move {
            let reason = wish.reached(lifetime).await;
            let reason = wished.wish.get_or_init(|| reason).clone();
            drop(wisher.send(&ToMaster::Recycle { reason }, &[]).await);
        });
        let (left, leaver, leaving) = (Arc::clone(&self.left), Arc::clone(&self.channel), Arc::clone(&self.said));
        sys::turned::spawn(async move {
            loop {
                left.notified().await;
                leaving.left.store(true, Ordering::Relaxed);
                drop(leaver.send(&ToMaster::NotAccepting, &[]).await);
            }
        });
        if let Some(hub) = &hub {
            let (hub, asker) = (Arc::clone(hub), Arc::clone(&self.channel));
            sys::turned::spawn(async move { while asker.send(&hub.next_question().await, &[]).await.is_ok() {} });
        }
        self.post.open(Arc::clone(&self.channel));
        let (said, post) = (Arc::clone(&self.said), Arc::clone(&self.post));
        sys::turned::spawn(obey(Arc::clone(&self.channel), steered, access, said, hub, post));
        sys::turned::spawn(pulse.beat(Arc::clone(&self.channel)));
        Ok(())
    }

    /// Says that this worker accepts.
    async fn ready(&self) -> Result<(), String> {
        self.said.ready.store(true, Ordering::Relaxed);
        self.channel.send(&ToMaster::Ready, &[]).await.map_err(|error| error.to_string())
    }
}

/// What serves, as far as the master steers it.
trait Steered: Clone + Send + Sync + 'static {
    /// Accept nothing more, finish, end.
    fn drain(&self);

    /// The same, and give what is open to the workers that stay, so many, through this descriptor.
    fn hand_over(&self, give: OwnedFd, successors: u32);

    /// Look at the listeners once more.
    fn nudge(&self);

    /// Accept on this one, too. Only HTTP is scheduled in other ways than by its assignment.
    fn listen(&self, _listener: channel::Listener, _socket: OwnedFd) {}

    /// Take connections that the master offers, likewise.
    fn take_offers(&self, _take: OwnedFd) {}
}

impl Steered for Control {
    fn drain(&self) {
        Control::drain(self);
    }

    fn hand_over(&self, give: OwnedFd, successors: u32) {
        Control::hand_over(self, give, successors);
    }

    fn nudge(&self) {
        Control::nudge(self);
    }

    fn listen(&self, listener: channel::Listener, socket: OwnedFd) {
        Control::listen(self, listener, socket);
    }

    fn take_offers(&self, take: OwnedFd) {
        Control::take_offers(self, take);
    }
}

fn access_log(assign: &Assign, settings: &channel::AccessLog, file: Option<OwnedFd>) -> Result<Arc<AccessLog>, String> {
    let identity = http::access::Identity { service: assign.service.clone(), slot: assign.slot };
    let file = match file {
        Some(file) => Ok(file),
        None => std::io::stdout().as_fd().try_clone_to_owned(),
    };
    file.and_then(|file| AccessLog::start(identity, settings.format, file))
        .map_err(|error| format!("the access log cannot be written: {error}"))
}

/// Where the HTTP side's events go: to the master, or into the worker's output.
fn report(wish: Wish, left: Arc<Notify>) -> http::Report {
    Arc::new(move |event| match event {
        // The listeners are the master's news, not each worker's.
        http::Event::Listening { registration: sys::accept::Registration::Exclusive, .. } => {}
        http::Event::MaxRequests => wish.tell("limits.max_requests".to_owned()),
        http::Event::NotAccepting => left.notify_one(),
        event => {
            // One write a line: lines of several threads stay whole. Nobody is left to tell if it fails.
            let _ = std::io::stderr().write_all(format!("launcher: {event}\n").as_bytes());
        }
    })
}

/// What the worker has said of itself. A master that dies may have read it and done nothing yet.
#[derive(Default)]
struct Said {
    ready: AtomicBool,
    wish: OnceLock<String>,
    left: AtomicBool,
}

impl Said {
    async fn again(&self, channel: &Channel) {
        let ready = self.ready.load(Ordering::Relaxed).then_some(ToMaster::Ready);
        let wish = self.wish.get().map(|reason| ToMaster::Recycle { reason: reason.clone() });
        let left = self.left.load(Ordering::Relaxed).then_some(ToMaster::NotAccepting);
        for word in ready.into_iter().chain(wish).chain(left) {
            drop(channel.send(&word, &[]).await);
        }
    }
}

/// Follow the master's orders, until it is gone.
async fn obey(
    channel: Arc<Channel>,
    control: impl Steered,
    access: Option<Arc<AccessLog>>,
    said: Arc<Said>,
    hub: Option<Arc<Hub>>,
    post: Arc<Post>,
) {
    loop {
        let order = channel.receive::<ToWorker>(Large::Accepted).await;
        if let (Some(hub), Ok(Some((ToWorker::Drain { .. }, _)) | None) | Err(_)) = (&hub, &order) {
            hub.leave();
        }
        match order {
            Ok(Some((ToWorker::Dev(state), _))) => {
                if let Some(hub) = &hub {
                    hub.tell(*state);
                }
            }
            Ok(Some((ToWorker::Drain { successors: successors @ 1.. }, descriptors))) => {
                // The hand-over needs descriptors of its own.
                channel.give_up_room();
                match descriptors.into_iter().next() {
                    Some(give) => control.hand_over(give, successors),
                    None => control.drain(),
                }
            }
            Ok(Some((ToWorker::Drain { .. }, _))) => control.drain(),
            Ok(Some((ToWorker::Nudge, _))) => control.nudge(),
            Ok(Some((ToWorker::Repeat, _))) => {
                said.again(&channel).await;
                post.again();
            }
            Ok(Some((ToWorker::Roster { service, members }, _))) => post.learn(&service, members),
            Ok(Some((ToWorker::Link(peer), descriptors))) => {
                if let Some(socket) = descriptors.into_iter().next() {
                    post.connect(peer, socket);
                }
            }
            Ok(Some((ToWorker::NoLink { worker }, _))) => post.no_link(worker),
            Ok(Some((ToWorker::Heard { until }, _))) => post.heard(until),
            Ok(Some((ToWorker::Post { post: number, message }, _))) => post.deliver_from_operator(number, message),
            Ok(Some((ToWorker::Listen { listener }, descriptors))) => {
                if let Some(socket) = descriptors.into_iter().next() {
                    control.listen(listener, socket);
                }
            }
            Ok(Some((ToWorker::Offers, descriptors))) => {
                if let Some(take) = descriptors.into_iter().next() {
                    control.take_offers(take);
                }
            }
            Ok(Some((ToWorker::ReopenAccessLog, descriptors))) => {
                if let (Some(access), Some(file)) = (&access, descriptors.into_iter().next()) {
                    access.replace(file);
                }
            }
            // Of a later version: what it asks for is not known here.
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return control.drain(),
        }
    }
}
