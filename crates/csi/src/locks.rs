//! One operation per volume at a time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tonic::Status;

/// How long a call waits for the one before it. Then the caller gets ABORTED, which means "pending, ask again".
const WAIT: Duration = Duration::from_secs(10);

type Lock = tokio::sync::Mutex<()>;

/// The volumes that have an operation running.
#[derive(Default)]
pub(crate) struct Locks {
    held: Mutex<HashMap<String, Weak<Lock>>>,
}

impl Locks {
    /// Runs `operation` once no other one on `volume` runs. It goes on to its end, and keeps the volume to
    /// itself, even when the caller gives up: half a mount is worse than a late one.
    pub(crate) async fn run<T, F>(&self, volume: &str, operation: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let lock = self.lock(volume);
        let guard = tokio::time::timeout(WAIT, lock.lock_owned()).await;
        let guard = guard
            .map_err(|_| Status::aborted(format!("an operation on volume {volume} is still running")))?;
        let task = tokio::spawn(async move {
            let _guard = guard;
            operation.await
        });
        task.await
            .map_err(|e| Status::internal(format!("operation on volume {volume} ended: {e}")))?
    }

    fn lock(&self, volume: &str) -> Arc<Lock> {
        // A panic while it was held leaves the map whole.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = held.get(volume).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Lock::default());
        held.insert(volume.into(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn an_operation_survives_its_caller_and_excludes_the_next() {
        let locks = Arc::new(Locks::default());
        let steps = Arc::new(AtomicU32::new(0));
        let (locks2, steps2) = (locks.clone(), steps.clone());
        let caller = tokio::spawn(async move {
            locks2
                .run("v", async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    steps2.store(1, Ordering::SeqCst);
                    Ok(())
                })
                .await
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        caller.abort();
        let seen = locks
            .run("v", async move { Ok(steps.load(Ordering::SeqCst)) })
            .await;
        assert_eq!(seen.unwrap(), 1);
        locks.run("w", async { Ok(()) }).await.unwrap();
        assert_eq!(
            locks.held.lock().unwrap().len(),
            1,
            "ended operations leave nothing"
        );
    }
}
