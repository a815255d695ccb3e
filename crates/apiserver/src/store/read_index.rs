//! Read indexes: the newest revision, asked of the state store once for all reads that wait for it.

use super::timer::ShortTimer;
use crate::http::status::Status;
use state::StateStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

type Reply = oneshot::Sender<Result<i64, state::Error>>;

/// Reads that wait for the next answer; each holds a request open, which the listener bounds.
const QUEUE: usize = 4096;
/// Longest time that a question waits for readers that are expected. It costs the state store as much processor time as
/// several answers cost this server, so under load it pays to share it.
const GATHER: Duration = Duration::from_micros(500);
/// After fewer readers than this no others are expected: whoever is almost alone does not wait.
const CROWD: usize = 8;

/// Asks for read indexes.
pub struct ReadIndex {
    queue: mpsc::Sender<Reply>,
    answered: Arc<AtomicBool>,
}

impl ReadIndex {
    /// Starts the task that asks; it ends with the handle.
    pub fn start(backend: Arc<dyn StateStore>) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        let answered = Arc::new(AtomicBool::new(false));
        tokio::spawn(serve(backend, requests, answered.clone()));
        Self { queue, answered }
    }

    /// Whether the last question was answered.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// A revision that is at least that of every write done before the call.
    pub async fn get(&self) -> Result<i64, Status> {
        let (reply, answer) = oneshot::channel();
        let gone = || Status::unavailable("the server is shutting down");
        self.queue.send(reply).await.map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??)
    }
}

/// One question at a time: reads that come while it is under way wait for the next one, since the answer under way
/// may be older than they are.
async fn serve(backend: Arc<dyn StateStore>, mut requests: mpsc::Receiver<Reply>, answered: Arc<AtomicBool>) {
    let timer = match ShortTimer::new() {
        Ok(timer) => Some(timer),
        Err(error) => {
            tracing::info!(%error, "no timer for short times; reads do not wait for each other");
            None
        }
    };
    let mut waiting = Vec::new();
    let mut last = 0;
    while requests.recv_many(&mut waiting, QUEUE).await > 0 {
        if let Some(timer) = &timer {
            gather(&mut requests, &mut waiting, last, timer).await;
        }
        last = waiting.len();
        let answer = backend.revision().await;
        answered.store(answer.is_ok(), Ordering::Release);
        for reply in waiting.drain(..) {
            // A reader that went away needs no answer.
            let _ = reply.send(answer.clone());
        }
    }
}

/// Waits for as many readers as came the last time, a crowd provided: clients that were answered together ask again
/// together. Then lets whatever is ready to run come first as long as that brings still more; a lone reader waits for
/// one such step, a microsecond or two.
async fn gather(
    requests: &mut mpsc::Receiver<Reply>,
    waiting: &mut Vec<Reply>,
    last: usize,
    timer: &ShortTimer,
) {
    if last >= CROWD && waiting.len() < last && timer.set(GATHER).is_ok() {
        while waiting.len() < last {
            tokio::select! {
                more = requests.recv_many(waiting, QUEUE) => if more == 0 { return },
                _ = timer.wait() => break,
            }
        }
    }
    let started = Instant::now();
    loop {
        let before = waiting.len();
        tokio::task::yield_now().await;
        while waiting.len() < QUEUE
            && let Ok(reply) = requests.try_recv()
        {
            waiting.push(reply);
        }
        if waiting.len() == before || started.elapsed() >= GATHER {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use state::{Error, Page, Range, Record, WatchStream, Written};
    use std::sync::atomic::{AtomicI64, AtomicUsize};

    /// A store whose revision somebody raises, and whose answers take a while and are as old as their questions.
    #[derive(Default)]
    struct Counter {
        revision: AtomicI64,
        questions: AtomicUsize,
    }

    fn absent<T>() -> Result<T, Error> {
        Err(Error::Unavailable("not in this test".into()))
    }

    #[async_trait]
    impl StateStore for Counter {
        async fn get(&self, _: &str) -> Result<(Option<Record>, i64), Error> {
            absent()
        }
        async fn range(&self, _: Range<'_>) -> Result<Page, Error> {
            absent()
        }
        async fn revision(&self) -> Result<i64, Error> {
            self.questions.fetch_add(1, Ordering::SeqCst);
            let revision = self.revision.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(revision)
        }
        async fn create(&self, _: &str, _: Bytes, _: Option<Duration>) -> Result<Written, Error> {
            absent()
        }
        async fn update(&self, _: &str, _: Bytes, _: i64, _: Option<Duration>) -> Result<Written, Error> {
            absent()
        }
        async fn delete(&self, _: &str, _: i64) -> Result<Written, Error> {
            absent()
        }
        async fn watch(&self, _: i64, _: tokio::sync::watch::Receiver<i64>) -> Result<WatchStream, Error> {
            absent()
        }
        async fn compact(&self, _: i64) -> Result<(), Error> {
            absent()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_read_is_answered_by_a_question_that_is_older_than_it() {
        const READERS: usize = 32;
        const READS: usize = 50;
        let store = Arc::new(Counter::default());
        let index = Arc::new(ReadIndex::start(store.clone()));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..READERS {
            let (store, index) = (store.clone(), index.clone());
            readers.spawn(async move {
                for _ in 0..READS {
                    // A write that was acknowledged before the read.
                    let written = store.revision.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(index.get().await.ok().unwrap() >= written);
                }
            });
        }
        while let Some(done) = readers.join_next().await {
            done.unwrap();
        }
        // They shared questions: without waiting for each other, about two for each round.
        let questions = store.questions.load(Ordering::SeqCst);
        assert!(questions < READS * READERS / 8, "{questions}");
    }
}
