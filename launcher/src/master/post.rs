//! Introducing workers to each other, so that their plugins can send messages; see [`crate::channel::post`].
//!
//! The master says who serves a service, to those who ask and whenever it changes, and makes a pair of sockets for two
//! workers. It never sees what they say, except for messages of an operator, which are few, and told when they are taken.
//!
//! A worker may ask for what it likes. What it asks for must exist, is answered at once, and is remembered by its
//! existence only. An answer takes no place in a worker's queue that an order might need (`Child::send_spare`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Master;
use super::control::{Asked, Reply};
use super::journal::{Fact, Name};
use super::pool::WorkerId;
use super::service::ServiceKey;
use crate::api::{Delivered, Refusal, RefusalCode};
use crate::channel::ToWorker;
use crate::channel::post::{Fate, MESSAGE_MAX, Member, Peer};
use crate::sys::passing;

/// Messages of operators that nobody has taken yet.
const POSTS: usize = 64;

/// What the master knows of messages.
#[derive(Debug, Default)]
pub(super) struct PostOffice {
    /// Who wants to know who serves a service, and what they know.
    followers: BTreeMap<ServiceKey, Roster>,
    /// Messages of operators that are with a worker, by number.
    posts: BTreeMap<u64, Posted>,
    last: u64,
    /// Who serves may have changed, or somebody was not told.
    stale: bool,
}

impl PostOffice {
    /// Something has happened to workers.
    pub(super) fn note_change(&mut self) {
        self.stale = true;
    }
}

#[derive(Debug)]
struct Roster {
    name: Name,
    /// `None`: the service is gone.
    members: Option<Vec<Member>>,
    followers: BTreeMap<WorkerId, Told>,
}

/// Whether a follower has the roster as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    /// Its queue was full.
    No,
}

#[derive(Debug)]
struct Posted {
    worker: WorkerId,
    told: oneshot::Sender<Result<(), String>>,
}

/// Which of a service's workers a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// All of them.
    Every,
    /// The one in this slot.
    Slot(u32),
    /// The one with this id.
    Worker(u64),
}

impl Receiver {
    fn is(self, member: &Member) -> bool {
        match self {
            Receiver::Every => true,
            Receiver::Slot(slot) => member.slot == slot,
            Receiver::Worker(worker) => member.worker == worker,
        }
    }
}

impl Master {
    /// Who serves a service: of several workers in a slot the newest.
    fn members(&self, key: ServiceKey) -> Vec<Member> {
        let Some(service) = self.services.get(&key) else { return Vec::new() };
        let mut slots = BTreeMap::new();
        for (id, worker) in service.pool.workers() {
            if worker.state.serves() && self.workers.contains_key(&id) {
                let newest = slots.entry(worker.slot.0).or_insert(id.0);
                *newest = id.0.max(*newest);
            }
        }
        slots.into_iter().map(|(slot, worker)| Member { worker, slot }).collect()
    }

    /// A worker wants to know who serves a service, now and from now on.
    pub(super) fn follow(&mut self, id: WorkerId, name: &str) {
        let Ok(key) = self.named(name) else {
            let unknown = ToWorker::Roster { service: name.to_owned(), members: None };
            if let Some(running) = self.workers.get(&id) {
                running.child.send_spare(unknown, Vec::new());
            }
            return;
        };
        let new = || Roster { name: Name::from(name), members: None, followers: BTreeMap::new() };
        let roster = self.post.followers.entry(key).or_insert_with(new);
        roster.followers.insert(id, Told::No);
        self.post.stale = true;
    }

    /// Tell those who want to know who serves now.
    pub(super) fn tell_rosters(&mut self) {
        if !std::mem::take(&mut self.post.stale) || self.post.followers.is_empty() {
            return;
        }
        let keys: Vec<_> = self.post.followers.keys().copied().collect();
        for key in keys {
            let present = self.services.get(&key).is_some_and(super::service::Service::is_present);
            let members = present.then(|| self.members(key));
            let Some(roster) = self.post.followers.get_mut(&key) else { continue };
            if roster.members != members {
                roster.members.clone_from(&members);
                roster.followers.values_mut().for_each(|told| *told = Told::No);
            }
            roster.followers.retain(|id, told| {
                let Some(running) = self.workers.get(id) else { return false };
                if *told == Told::No {
                    let word = ToWorker::Roster { service: roster.name.to_string(), members: members.clone() };
                    if running.child.send_spare(word, Vec::new()) {
                        *told = Told::Yes;
                    }
                }
                true
            });
            let untold = roster.followers.values().any(|told| *told == Told::No);
            self.post.stale |= untold;
            if members.is_none() && !untold {
                // Whoever wants to know more asks again: a service of that name would be another one.
                self.post.followers.remove(&key);
            }
        }
    }

    /// A worker wants a link to another one.
    pub(super) fn introduce(&mut self, id: WorkerId, other: u64) {
        let (Some(asker), there) = (self.workers.get(&id), self.workers.get(&WorkerId(other))) else { return };
        let made = there.filter(|_| id.0 != other).and_then(|there| {
            let (one, two) = passing::pair().ok()?;
            let (one, two) = (Arc::new(one), Arc::new(two));
            let peer = |of: &super::Running| Peer {
                service: of.name.service.to_string(),
                worker: of.name.worker.0,
                slot: of.name.slot.0,
            };
            let send =
                |to: &super::Running, of, end: Arc<OwnedFd>| to.child.send_spare(ToWorker::Link(peer(of)), vec![end]);
            // If one is not sent its end is closed here, which the other one sees.
            (send(there, asker, two) && send(asker, there, one)).then_some(())
        });
        if made.is_none() {
            asker.child.send_spare(ToWorker::NoLink { worker: other }, Vec::new());
        }
    }

    /// An operator's message.
    pub(super) fn send_message(&mut self, asked: Asked, name: &str, receiver: Receiver, message: &serde_json::Value) {
        match self.begin_message(name, receiver, message) {
            Ok((service, waiting)) => {
                let (journal, who) = (self.journal.clone(), asked.who.clone());
                tokio::spawn(async move {
                    let (mut delivered, mut refused) = (Vec::new(), None);
                    for (worker, told) in waiting {
                        let told = told.await.unwrap_or_else(|_| Err("the master has ended".to_owned()));
                        match told {
                            Ok(()) => delivered.push(worker),
                            Err(reason) => {
                                let fact = Fact::MessageRefused {
                                    service: service.clone(),
                                    worker,
                                    who: who.clone(),
                                    reason: reason.clone(),
                                };
                                journal.record(&fact);
                                refused = Some(format!("worker {worker} of {service} has not taken it: {reason}"));
                            }
                        }
                    }
                    asked.answer(match refused {
                        None => Ok(Reply::Delivered(Delivered { workers: delivered })),
                        Some(error) => Err(conflict(error)),
                    });
                });
            }
            Err(refusal) => asked.answer(Err(refusal)),
        }
    }

    #[expect(clippy::type_complexity, reason = "used once, by the function above")]
    fn begin_message(
        &mut self,
        name: &str,
        receiver: Receiver,
        message: &serde_json::Value,
    ) -> Result<(Name, Vec<(u64, oneshot::Receiver<Result<(), String>>)>), Refusal> {
        let key = self.named(name)?;
        let text = message.to_string();
        if text.len() > MESSAGE_MAX {
            let error = format!("the message has {} bytes, and {MESSAGE_MAX} is the most", text.len());
            return Err(Refusal { code: RefusalCode::BadRequest, error, suggestion: None });
        }
        let members: Vec<_> = self.members(key).into_iter().filter(|member| receiver.is(member)).collect();
        if members.is_empty() {
            return Err(conflict(match receiver {
                Receiver::Every => format!("no worker of {name} serves"),
                Receiver::Slot(slot) => format!("no worker of {name} serves in slot {slot}"),
                Receiver::Worker(worker) => format!("{name} has no worker {worker} that serves"),
            }));
        }
        if self.post.posts.len() + members.len() > POSTS {
            let error = format!("{POSTS} messages wait for workers that do not take them");
            return Err(conflict(error));
        }
        let mut waiting = Vec::new();
        for member in members {
            let worker = WorkerId(member.worker);
            let Some(running) = self.workers.get(&worker) else { continue };
            self.post.last += 1;
            let post = self.post.last;
            let (told, outcome) = oneshot::channel();
            if running.child.send_spare(ToWorker::Post { post, message: text.clone() }, Vec::new()) {
                self.post.posts.insert(post, Posted { worker, told });
            } else {
                drop(told.send(Err("it does not read its channel".to_owned())));
            }
            waiting.push((member.worker, outcome));
        }
        let name = self.services.get(&key).map_or_else(|| Name::from(name), |service| service.name.clone());
        Ok((name, waiting))
    }

    /// A worker has said what became of an operator's message. What nobody sent is nothing.
    pub(super) fn on_posted(&mut self, id: WorkerId, post: u64, fate: Fate) {
        if self.post.posts.get(&post).is_none_or(|posted| posted.worker != id) {
            return;
        }
        if let Some(Posted { told, .. }) = self.post.posts.remove(&post) {
            // Whoever sent it may have left.
            let _ = told.send(match fate {
                Fate::Taken => Ok(()),
                _ => Err("its plugin receives no messages".to_owned()),
            });
        }
    }

    /// A worker is gone, and with it the messages that it has not taken.
    pub(super) fn end_posts(&mut self, id: WorkerId) {
        let lost = self.post.posts.extract_if(.., |_, posted| posted.worker == id);
        for (_, Posted { told, .. }) in lost {
            let _ = told.send(Err("it has ended".to_owned()));
        }
    }
}

fn conflict(error: String) -> Refusal {
    Refusal { code: RefusalCode::Conflict, error, suggestion: None }
}
