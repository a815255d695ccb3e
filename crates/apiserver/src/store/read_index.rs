//! Read indexes: the newest revision, asked of the state store once for all reads that wait for it.

use crate::http::status::Status;
use state::StateStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

type Reply = oneshot::Sender<Result<i64, state::Error>>;

/// Reads that wait for the next answer; each holds a request open, which the listener bounds.
const QUEUE: usize = 4096;
/// Longest time that a question waits for more readers. A question costs the state store as much processor time as
/// several answers cost this server, so under load it pays to share it; an answer takes longer than this anyway.
const GATHER: Duration = Duration::from_micros(200);

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
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, QUEUE).await > 0 {
        gather(&mut requests, &mut waiting).await;
        let answer = backend.revision().await;
        answered.store(answer.is_ok(), Ordering::Release);
        for reply in waiting.drain(..) {
            // A reader that went away needs no answer.
            let _ = reply.send(answer.clone());
        }
    }
}

/// Lets whatever is ready to run come first, as long as that brings more readers. A lone reader waits for one step of
/// the runtime, which takes a microsecond or two.
async fn gather(requests: &mut mpsc::Receiver<Reply>, waiting: &mut Vec<Reply>) {
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
