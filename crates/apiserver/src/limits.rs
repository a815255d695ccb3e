//! How many requests may be under way, and whose.
//!
//! Reading and writing have a limit each, as upstream's. Within one, every user has a dynamic threshold: a request is
//! let in while its user holds fewer places than [`SHARE`] times those that are free. So one user alone gets most of the
//! places, several share them equally, and a place is always left for one who comes later. (Choudhury and Hahne,
//! "Dynamic queue length thresholds for shared-memory packet switches", 1998.) Who is refused comes again after a second;
//! nothing queues here, so no burst takes memory. Watches and other long-running requests hold no place.

use crate::authn::{MASTERS, User};
use crate::http::request::RequestInfo;
use crate::http::status::Status;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that read, at once; upstream's default.
const READING: usize = 400;
/// Requests that write, at once; upstream's default.
const WRITING: usize = 200;
/// One user alone may hold four fifths of the places.
const SHARE: usize = 4;
/// When a refused client should come again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Places for requests.
pub struct Limits {
    reading: Arc<Class>,
    writing: Arc<Class>,
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
    by_user: HashMap<String, usize>,
}

/// The place of one request, until it is dropped.
pub struct Slot {
    class: Arc<Class>,
    user: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.class.held.lock();
        held.all -= 1;
        if let Some(own) = held.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                held.by_user.remove(&self.user);
            }
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

    fn enter(self: &Arc<Self>, user: &str, always: bool) -> Option<Slot> {
        let mut held = self.held.lock();
        let free = self.limit.saturating_sub(held.all);
        let own = held.by_user.get(user).copied().unwrap_or_default();
        if !always && own >= SHARE * free {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        held.all += 1;
        *held.by_user.entry(user.to_owned()).or_default() += 1;
        drop(held);
        Some(Slot {
            class: self.clone(),
            user: user.to_owned(),
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
        class.enter(&user.name, always).map(Some).ok_or_else(|| {
            Status::too_many_requests(
                "The server has received too many requests and has asked us to try again later",
                RETRY_AFTER_SECONDS,
            )
        })
    }

    /// What is under way.
    pub fn usage(&self) -> [Usage; 2] {
        [("mutating", &self.writing), ("readOnly", &self.reading)].map(|(kind, class)| Usage {
            kind,
            in_flight: class.held.lock().all,
            refused: class.refused.load(Ordering::Relaxed),
        })
    }
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
        RequestInfo {
            verb: verb.to_owned(),
            resource: "pods".to_owned(),
            ..RequestInfo::default()
        }
    }

    /// Takes as many places as are given.
    fn fill(limits: &Limits, verb: &str, user: &User) -> Vec<Slot> {
        std::iter::from_fn(|| limits.enter(&info(verb), user).ok().flatten()).collect()
    }

    #[test]
    fn one_alone_gets_most_and_leaves_room() {
        let limits = Limits::new();
        let greedy = fill(&limits, "get", &user("greedy", &[]));
        assert_eq!(greedy.len(), READING * SHARE / (SHARE + 1));
        // Who comes later gets in at once, and shares what is left.
        let late = fill(&limits, "list", &user("late", &[]));
        assert!(late.len() >= (READING - greedy.len()) / 2, "{}", late.len());
        let third = limits.enter(&info("get"), &user("third", &[]));
        assert!(matches!(third, Ok(Some(_))));
        // Writing has places of its own.
        assert_eq!(
            fill(&limits, "create", &user("greedy", &[])).len(),
            WRITING * SHARE / (SHARE + 1)
        );
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
