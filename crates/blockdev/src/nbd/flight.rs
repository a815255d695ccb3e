//! What is in flight on one connection: bounded, filled by its reader, drained by its writer.
//!
//! A request takes its place before its payload is read and gives it back once its reply has been written, so a
//! client that does not read its replies is not read from either, and a connection's memory is bounded.

use super::negotiate::MAX_REQUEST_BYTES;
use super::reply::Outcome;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// Requests in flight; more wait in the socket. Clients use up to 128.
pub const MAX_IN_FLIGHT: u32 = 256;
/// Bytes of data in flight: two of the largest requests.
pub const MAX_IN_FLIGHT_BYTES: u64 = 2 * MAX_REQUEST_BYTES as u64;

/// A reply that is to be written.
pub struct Reply {
    /// The request's.
    pub cookie: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// Bytes that it gives back.
    pub weight: u64,
}

#[derive(Default)]
struct State {
    requests: u32,
    bytes: u64,
    replies: Vec<Reply>,
    /// The reader has ended.
    finished: bool,
}

/// The connection's requests and replies.
#[derive(Default)]
pub struct Flight {
    state: Mutex<State>,
    replied: Notify,
    room: Notify,
}

impl Flight {
    /// Waits for room for a request with `weight` bytes of data and takes it.
    pub async fn enter(self: &Arc<Self>, cookie: u64, weight: u64) -> Ticket {
        loop {
            if let Some(ticket) = self.try_enter(cookie, weight) {
                return ticket;
            }
            // A permit is kept if the writer made room between the look and the wait.
            self.room.notified().await;
        }
    }

    /// The same if there is room now.
    pub fn try_enter(self: &Arc<Self>, cookie: u64, weight: u64) -> Option<Ticket> {
        let mut state = self.state.lock();
        let fits = state.bytes == 0 || state.bytes + weight <= MAX_IN_FLIGHT_BYTES;
        if state.requests >= MAX_IN_FLIGHT || !fits {
            return None;
        }
        state.requests += 1;
        state.bytes += weight;
        Some(Ticket {
            flight: self.clone(),
            cookie,
            weight,
            answered: false,
        })
    }

    /// No more requests come.
    pub fn finish(&self) {
        self.state.lock().finished = true;
        self.replied.notify_one();
    }

    /// The replies so far, at least one; `None` once every request is answered and no more come.
    pub async fn take(&self) -> Option<Vec<Reply>> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.replies.is_empty() {
                    return Some(std::mem::take(&mut state.replies));
                }
                if state.finished && state.requests == 0 {
                    return None;
                }
            }
            self.replied.notified().await;
        }
    }

    /// So many replies with so many bytes have been written.
    pub fn written(&self, requests: u32, bytes: u64) {
        let mut state = self.state.lock();
        state.requests -= requests;
        state.bytes -= bytes;
        drop(state);
        self.room.notify_one();
    }

    fn reply(&self, reply: Reply) {
        let mut state = self.state.lock();
        let first = state.replies.is_empty();
        state.replies.push(reply);
        drop(state);
        // The writer takes all of them at once: one wake-up for a batch.
        if first {
            self.replied.notify_one();
        }
    }
}

/// The place of one request.
pub struct Ticket {
    flight: Arc<Flight>,
    cookie: u64,
    weight: u64,
    answered: bool,
}

impl Ticket {
    /// Answers.
    pub fn reply(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    fn answer(&mut self, outcome: Outcome) {
        self.answered = true;
        self.flight.reply(Reply {
            cookie: self.cookie,
            outcome,
            weight: self.weight,
        });
    }
}

impl Drop for Ticket {
    /// A device that forgets a request would leave its client waiting for ever.
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Outcome::Failed {
                errno: super::wire::error::EIO,
                why: "the device gave no answer",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_connection_waits_until_replies_are_written() {
        let flight = Arc::new(Flight::default());
        let heavy = flight.enter(1, MAX_IN_FLIGHT_BYTES).await;
        let waiting = tokio::spawn({
            let flight = flight.clone();
            async move { flight.enter(2, 1).await }
        });
        tokio::task::yield_now().await;
        heavy.reply(Outcome::Done);
        let replies = flight.take().await.unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "room is made by writing, not by replying");
        flight.written(1, replies[0].weight);
        drop(waiting.await.unwrap());
        let replies = flight.take().await.unwrap();
        assert!(matches!(replies[0].outcome, Outcome::Failed { .. }));
        flight.written(1, replies[0].weight);
        flight.finish();
        assert!(flight.take().await.is_none());
    }

    #[tokio::test]
    async fn requests_are_counted_too() {
        let flight = Arc::new(Flight::default());
        let mut tickets = Vec::new();
        for cookie in 0..MAX_IN_FLIGHT {
            tickets.push(flight.enter(cookie.into(), 0).await);
        }
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), flight.enter(0, 0)).await;
        assert!(more.is_err());
    }
}
