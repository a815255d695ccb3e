//! One question to all connected stores at once.

use super::link::Link;
use crate::net::control::{Request, Response};
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the slowest answer is waited for: a store that hangs must not hold up what the others can decide, and
/// the link to it is given up soon after.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(1500);
/// The same where nobody waits for the result and an answer from everybody matters more: a store that has just
/// started replays its journals first.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Once a majority has answered, the others get only so much longer.
const GRACE: Duration = Duration::from_millis(300);

type Answer = Pin<Box<dyn Future<Output = (usize, Option<Response>)> + Send>>;

/// Answers as they come.
pub struct Gathered {
    pending: FuturesUnordered<Answer>,
    deadline: Instant,
    answers: usize,
    majority: usize,
}

impl Gathered {
    /// Asks all `links` that are up.
    pub fn ask(links: &[Arc<Link>], request: &Request) -> Self {
        let pending = FuturesUnordered::new();
        for (index, link) in links.iter().enumerate() {
            if link.store().is_none() {
                continue;
            }
            let (link, request) = (link.clone(), request.clone());
            let answer: Answer = Box::pin(async move { (index, link.ask(&request).await) });
            pending.push(answer);
        }
        Self {
            pending,
            deadline: Instant::now() + ASK_TIMEOUT,
            answers: 0,
            majority: links.len() / 2 + 1,
        }
    }

    /// Waits for everybody, for as long as it takes within reason.
    pub fn patiently(mut self) -> Self {
        self.deadline = Instant::now() + PATIENT_TIMEOUT;
        self.majority = usize::MAX;
        self
    }

    /// The next answer and the index of its link; `None` when no more is waited for.
    pub async fn next(&mut self) -> Option<(usize, Response)> {
        loop {
            let next = tokio::time::timeout_at(self.deadline, self.pending.next()).await;
            if let (index, Some(response)) = next.ok()?? {
                self.answers += 1;
                if self.answers == self.majority {
                    self.deadline = self.deadline.min(Instant::now() + GRACE);
                }
                return Some((index, response));
            }
        }
    }
}
