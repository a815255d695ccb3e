//! How many requests may be under way, and whose; and how much room their bodies may take.
//!
//! Reading and writing have a limit each, as upstream's, and so do the bytes of large bodies. Within one, every user has
//! a dynamic threshold: a request is let in while its user holds no more than [`SHARE`] times what is free. So one user
//! alone gets most of the places, several share them equally, and a place is always left for one who comes later.
//! (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.) The same rule shares
//! what a user may have among the namespaces that its requests are about, its flows: a controller that floods one
//! namespace still gets through to the others. Who is refused comes again after a second; nothing queues here, so no burst
//! takes memory. Watches and other long-running requests hold no place.

use crate::authn::{MASTERS, User};
use crate::http::request::RequestInfo;
use crate::http::status::Status;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that read, at once; upstream's default.
const READING: usize = 400;
/// Requests that write, at once; upstream's default.
const WRITING: usize = 200;
/// Bytes of large bodies, at once: sixteen of the largest. Decoded they take several times as much.
const BODIES: usize = 48 << 20;
/// Smaller bodies are bounded well enough by the number of requests.
const LARGE_BODY: usize = 64 << 10;
/// One user alone may hold four fifths of the places.
const SHARE: usize = 4;
/// When a refused client should come again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Places for requests.
pub struct Limits {
    reading: Arc<Class>,
    writing: Arc<Class>,
    bodies: Arc<Class>,
    /// Users and namespaces are told apart by a hash with a secret: a collision would only make two share their part.
    hasher: RandomState,
}

/// Places of one kind.
struct Class {
    limit: usize,
    held: Mutex<Held>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_user: HashMap<u64, usize>,
    by_flow: HashMap<(u64, u64), usize>,
}

/// The place of one request, until it is dropped.
pub struct Slot {
    class: Arc<Class>,
    flow: (u64, u64),
    amount: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.class.held.lock();
        held.all -= self.amount;
        give_back(&mut held.by_user, self.flow.0, self.amount);
        give_back(&mut held.by_flow, self.flow, self.amount);
    }
}

/// Takes an amount off an entry, which goes when nothing is left.
fn give_back<K: std::hash::Hash + Eq>(map: &mut HashMap<K, usize>, key: K, amount: usize) {
    if let std::collections::hash_map::Entry::Occupied(mut own) = map.entry(key) {
        *own.get_mut() -= amount;
        if *own.get() == 0 {
            own.remove();
        }
    }
}

impl Class {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// Places for a request of a flow: of a user, about a namespace.
    fn enter(self: &Arc<Self>, flow: (u64, u64), amount: usize, always: bool) -> Option<Slot> {
        let mut held = self.held.lock();
        let free = self.limit.saturating_sub(held.all);
        let of_user = held.by_user.get(&flow.0).copied().unwrap_or_default();
        let of_flow = held.by_flow.get(&flow).copied().unwrap_or_default();
        let for_user = (SHARE * free).saturating_sub(of_user);
        if !always && (amount > free || amount > for_user || of_flow + amount > SHARE * for_user) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        held.all += amount;
        *held.by_user.entry(flow.0).or_default() += amount;
        *held.by_flow.entry(flow).or_default() += amount;
        drop(held);
        Some(Slot {
            class: self.clone(),
            flow,
            amount,
        })
    }
}

/// What is seen of one kind of places.
pub struct Usage {
    /// Upstream's name of the kind.
    pub kind: &'static str,
    /// Requests under way.
    pub in_flight: usize,
    /// Requests refused since the start.
    pub refused: u64,
}

impl Limits {
    /// With upstream's limits.
    pub fn new() -> Self {
        Self {
            reading: Class::new(READING),
            writing: Class::new(WRITING),
            bodies: Class::new(BODIES),
            hasher: RandomState::new(),
        }
    }

    /// A place for a request; none is needed for those that wait (watches, streams) and for probes.
    pub fn enter(&self, info: &RequestInfo, user: &User) -> Result<Option<Slot>, Status> {
        if is_long_running(info) || is_probe(info) {
            return Ok(None);
        }
        let reads = matches!(info.verb.as_str(), "get" | "list" | "head");
        let class = if reads { &self.reading } else { &self.writing };
        let always = user.groups.iter().any(|group| group == MASTERS);
        let slot = class.enter(self.flow(info, user), 1, always);
        slot.map(Some).ok_or_else(too_many)
    }

    /// Room for a body of at most so many bytes. Administrators have no more of it than others: memory is finite.
    pub fn enter_body(&self, info: &RequestInfo, user: &User, bytes: usize) -> Result<Option<Slot>, Status> {
        if bytes <= LARGE_BODY {
            return Ok(None);
        }
        let slot = self.bodies.enter(self.flow(info, user), bytes, false);
        slot.map(Some).ok_or_else(too_many)
    }

    fn flow(&self, info: &RequestInfo, user: &User) -> (u64, u64) {
        (
            self.hasher.hash_one(&user.name),
            self.hasher.hash_one(&info.namespace),
        )
    }

    /// What is under way.
    pub fn usage(&self) -> [Usage; 2] {
        [("mutating", &self.writing), ("readOnly", &self.reading)].map(|(kind, class)| Usage {
            kind,
            in_flight: class.held.lock().all,
            refused: class.refused.load(Ordering::Relaxed),
        })
    }

    /// Bytes of large bodies that are under way, and how many such requests were refused.
    pub fn bodies(&self) -> (usize, u64) {
        let held = self.bodies.held.lock().all;
        (held, self.bodies.refused.load(Ordering::Relaxed))
    }
}

fn too_many() -> Status {
    Status::too_many_requests(
        "The server has received too many requests and has asked us to try again later",
        RETRY_AFTER_SECONDS,
    )
}

/// Requests that end when one of the sides wants.
pub fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(
            info.subresource.as_str(),
            "attach" | "exec" | "log" | "portforward" | "proxy"
        )
}

/// Who asks for the server's health must not be told that it is busy.
fn is_probe(info: &RequestInfo) -> bool {
    !info.is_resource()
        && ["/livez", "/readyz", "/healthz"]
            .iter()
            .any(|path| info.path.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..User::anonymous()
        }
    }

    fn info(verb: &str) -> RequestInfo {
        within(verb, "")
    }

    fn within(verb: &str, namespace: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.to_owned(),
            resource: "pods".to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        }
    }

    /// Takes as many places as are given.
    fn fill(limits: &Limits, verb: &str, user: &User) -> Vec<Slot> {
        fill_within(limits, &info(verb), user)
    }

    fn fill_within(limits: &Limits, info: &RequestInfo, user: &User) -> Vec<Slot> {
        std::iter::from_fn(|| limits.enter(info, user).ok().flatten()).collect()
    }

    /// What one flow alone gets of a limit: x <= SHARE * (SHARE * (limit - x) - x).
    fn alone(limit: usize) -> usize {
        let share = SHARE * SHARE;
        share * limit / (1 + share + SHARE)
    }

    #[test]
    fn one_alone_gets_most_and_leaves_room() {
        let limits = Limits::new();
        let greedy = fill(&limits, "get", &user("greedy", &[]));
        assert!(greedy.len().abs_diff(alone(READING)) <= 1, "{}", greedy.len());
        // Who comes later gets in at once, and shares what is left.
        let late = fill(&limits, "list", &user("late", &[]));
        assert!(late.len() >= (READING - greedy.len()) / 2, "{}", late.len());
        let third = limits.enter(&info("get"), &user("third", &[]));
        assert!(matches!(third, Ok(Some(_))));
        // Writing has places of its own.
        let writes = fill(&limits, "create", &user("greedy", &[])).len();
        assert!(writes.abs_diff(alone(WRITING)) <= 1, "{writes}");
    }

    #[test]
    fn a_flooded_namespace_leaves_room_for_the_users_others() {
        let limits = Limits::new();
        let controller = user("controller", &[]);
        let flood = fill_within(&limits, &within("create", "busy"), &controller);
        assert!(flood.len() > WRITING / 2, "{}", flood.len());
        assert!(limits.enter(&within("create", "busy"), &controller).is_err());
        let other = fill_within(&limits, &within("create", "quiet"), &controller);
        assert!(other.len() >= 5, "{}", other.len());
        // And still somebody else gets in.
        let someone = limits.enter(&within("create", "busy"), &user("someone", &[]));
        assert!(matches!(someone, Ok(Some(_))));
        drop((flood, other));
        assert!(matches!(
            limits.enter(&within("create", "busy"), &controller),
            Ok(Some(_))
        ));
    }

    #[test]
    fn large_bodies_share_their_room() {
        let limits = Limits::new();
        let body = |name: &str| limits.enter_body(&info("create"), &user(name, &[MASTERS]), 3 << 20);
        let greedy: Vec<_> = std::iter::from_fn(|| body("greedy").ok().flatten()).collect();
        assert!((8..16).contains(&greedy.len()), "{}", greedy.len());
        assert!(matches!(body("late"), Ok(Some(_))));
        assert!(matches!(
            limits.enter_body(&info("create"), &user("greedy", &[]), LARGE_BODY),
            Ok(None)
        ));
        assert!(limits.bodies().0 <= BODIES);
        drop(greedy);
        assert_eq!(limits.bodies(), (0, 1));
    }

    #[test]
    fn the_refused_are_told_when_to_come_again() {
        let limits = Limits::new();
        let held = fill(&limits, "update", &user("a", &[]));
        let refused = limits.enter(&info("patch"), &user("a", &[])).err().unwrap();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert_eq!(refused.details["retryAfterSeconds"], RETRY_AFTER_SECONDS);
        drop(held);
        assert!(limits.enter(&info("patch"), &user("a", &[])).is_ok());
        let usage = limits.usage();
        assert_eq!(
            (usage[0].kind, usage[0].in_flight, usage[1].in_flight),
            ("mutating", 0, 0)
        );
        assert!(usage[0].refused >= 1);
    }

    #[test]
    fn masters_watches_and_probes_are_never_refused() {
        let limits = Limits::new();
        let master = user("admin", &[MASTERS]);
        let held: Vec<_> = (0..READING * 2)
            .map(|_| limits.enter(&info("get"), &master).unwrap())
            .collect();
        assert!(limits.enter(&info("get"), &user("a", &[])).is_err());
        assert!(matches!(limits.enter(&info("watch"), &user("a", &[])), Ok(None)));
        let probe = RequestInfo {
            verb: "get".to_owned(),
            path: "/readyz/etcd".to_owned(),
            ..RequestInfo::default()
        };
        assert!(matches!(limits.enter(&probe, &user("a", &[])), Ok(None)));
        drop(held);
    }
}
