//! Leader election on a `coordination.k8s.io/v1` Lease, as upstream's client-go does it: the clocks of the
//! candidates are never compared; each candidate times the lease from its own observation of a change.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// One candidate for one role.
#[derive(Clone)]
pub struct Election {
    /// Client of the candidate.
    pub client: kube::Client,
    /// Name of the Lease in `kube-system`, for example `kube-scheduler`.
    pub name: String,
    /// Name of this candidate; shown by `hikube status`.
    pub identity: String,
}

/// A lease that was not renewed for so long is free.
const LEASE_DURATION: Duration = Duration::from_secs(4);
/// A leader that could not renew for so long stops leading; shorter than [`LEASE_DURATION`].
const RENEW_DEADLINE: Duration = Duration::from_secs(3);
/// Pause between attempts.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
const NAMESPACE: &str = "kube-system";

struct Observed {
    spec: Option<LeaseSpec>,
    at: Instant,
}

/// Takes part in the election for ever. While this candidate leads, the future made by `work` runs; it is
/// dropped when leadership is lost, and made anew when it is won again. Returns only if `work` returns, with
/// its result.
pub async fn lead<F, Fut, T>(election: &Election, mut work: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let api: Api<Lease> = Api::namespaced(election.client.clone(), NAMESPACE);
    let mut observed = Observed {
        spec: None,
        at: Instant::now(),
    };
    loop {
        // Bounded, so that a connection that hangs does not keep this candidate out.
        while !matches!(
            timeout(RENEW_DEADLINE, attempt(&api, election, &mut observed)).await,
            Ok(true)
        ) {
            sleep(RETRY_PERIOD).await;
        }
        tracing::info!(lease = election.name, identity = election.identity, "leading");
        tokio::select! {
            result = work() => return result,
            () = hold(&api, election, &mut observed) => {
                tracing::info!(lease = election.name, "no longer leading");
            }
        }
    }
}

/// Renews until the deadline passes without success.
async fn hold(api: &Api<Lease>, election: &Election, observed: &mut Observed) {
    let mut renewed = Instant::now();
    while renewed.elapsed() < RENEW_DEADLINE {
        sleep(RETRY_PERIOD).await;
        // Counted from before the request: the others count from when they see its effect, which is later.
        let before = Instant::now();
        let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
        if let Ok(true) = timeout(left, attempt(api, election, observed)).await {
            renewed = before;
        }
    }
}

/// Acquires or renews; true when this candidate holds the lease now.
async fn attempt(api: &Api<Lease>, election: &Election, observed: &mut Observed) -> bool {
    match try_attempt(api, election, observed).await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(lease = election.name, %error, "lease not updated");
            false
        }
    }
}

async fn try_attempt(api: &Api<Lease>, election: &Election, observed: &mut Observed) -> kube::Result<bool> {
    let Some(mut lease) = api.get_opt(&election.name).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(election.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(held_by(election, None)),
        };
        return Ok(api.create(&PostParams::default(), &lease).await.is_ok());
    };
    if lease.spec != observed.spec {
        observed.spec.clone_from(&lease.spec);
        observed.at = Instant::now();
    }
    let old = lease.spec.clone().unwrap_or_default();
    let holder = old.holder_identity.clone().unwrap_or_default();
    if holder != election.identity && !holder.is_empty() && observed.at.elapsed() < LEASE_DURATION {
        return Ok(false);
    }
    lease.spec = Some(held_by(election, Some(&old)));
    // The resource version makes this a compare-and-swap: of two candidates one gets a conflict.
    let updated = api
        .replace(&election.name, &PostParams::default(), &lease)
        .await?;
    observed.spec = updated.spec;
    observed.at = Instant::now();
    Ok(true)
}

fn held_by(election: &Election, old: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
    let same = old.is_some_and(|o| o.holder_identity.as_ref() == Some(&election.identity));
    let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: if same {
            old.and_then(|o| o.acquire_time.clone())
        } else {
            Some(now.clone())
        },
        renew_time: Some(now),
        lease_transitions: Some(if same {
            transitions
        } else {
            transitions + i32::from(old.is_some())
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn answer(code: u16, body: &'static str) -> http::Response<Body> {
        let response = http::Response::builder().status(code);
        response.body(Body::from(body.as_bytes().to_vec())).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_hangs_keeps_nobody_out() {
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = requests.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, tower::BoxError>(match request.method().as_str() {
                    "GET" => answer(
                        404,
                        r#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404}"#,
                    ),
                    _ => answer(201, r#"{"metadata": {"name": "l"}}"#),
                })
            }
        });
        let election = Election {
            client: kube::Client::new(service, "default"),
            name: "l".into(),
            identity: "me".into(),
        };
        let led = timeout(RENEW_DEADLINE + RETRY_PERIOD * 3, lead(&election, || async { 7 }));
        assert_eq!(led.await.unwrap(), 7);
        assert_eq!(requests.load(Ordering::SeqCst), 3);
    }
}
