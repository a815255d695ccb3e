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
    /// The Lease as we last wrote it. The holder renews it without reading it first: its resource version says
    /// whether somebody else wrote in between.
    ours: Option<Lease>,
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
        ours: None,
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
        // The lease first: after this process was stopped for a while, nothing more is done in its name.
        tokio::select! {
            biased;
            () = hold(&api, election, &mut observed) => {
                tracing::info!(lease = election.name, "no longer leading");
            }
            result = work() => return result,
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
        if left.is_zero() {
            return;
        }
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
    // Taken: whatever goes wrong, the next attempt reads.
    if let Some(lease) = observed.ours.take() {
        match write(api, election, lease, observed).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            other => return other.map(|()| true),
        }
    }
    let Some(lease) = api.get_opt(&election.name).await? else {
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
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    let holder = holder.unwrap_or_default();
    if holder != election.identity && !holder.is_empty() && observed.at.elapsed() < LEASE_DURATION {
        return Ok(false);
    }
    write(api, election, lease, observed).await.map(|()| true)
}

/// Makes the lease ours from now on. The resource version makes this a compare-and-swap: of two candidates one gets
/// a conflict.
async fn write(
    api: &Api<Lease>,
    election: &Election,
    mut lease: Lease,
    observed: &mut Observed,
) -> kube::Result<()> {
    let old = lease.spec.take().unwrap_or_default();
    lease.spec = Some(held_by(election, Some(&old)));
    let updated = api
        .replace(&election.name, &PostParams::default(), &lease)
        .await?;
    observed.spec.clone_from(&updated.spec);
    observed.at = Instant::now();
    observed.ours = Some(updated);
    Ok(())
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

    /// A server with one Lease, and what was asked of it.
    type Server = Arc<parking_lot::Mutex<(Option<Lease>, Vec<String>)>>;

    async fn serve(server: Server, request: http::Request<Body>) -> http::Response<Body> {
        let method = request.method().to_string();
        let body = request.into_body().collect_bytes().await.unwrap();
        let mut server = server.lock();
        server.1.push(method.clone());
        if method == "GET" {
            return match &server.0 {
                Some(lease) => json(200, lease),
                None => answer(
                    404,
                    r#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404}"#,
                ),
            };
        }
        let mut sent: Lease = serde_json::from_slice(&body).unwrap();
        let stored = server
            .0
            .as_ref()
            .and_then(|l| l.metadata.resource_version.clone());
        if method == "PUT" && stored != sent.metadata.resource_version {
            return answer(
                409,
                r#"{"kind": "Status", "status": "Failure", "reason": "Conflict", "message": "", "code": 409}"#,
            );
        }
        let next = stored.map_or(1, |v| v.parse::<u64>().unwrap() + 1);
        sent.metadata.resource_version = Some(next.to_string());
        server.0 = Some(sent.clone());
        json(200, &sent)
    }

    fn json(code: u16, lease: &Lease) -> http::Response<Body> {
        let body = Body::from(serde_json::to_vec(lease).unwrap());
        http::Response::builder().status(code).body(body).unwrap()
    }

    #[tokio::test]
    async fn a_holder_renews_without_reading_and_reads_after_a_conflict() {
        let server = Server::default();
        let asked = server.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, tower::BoxError>(serve(server, request).await) }
        });
        let election = Election {
            client: kube::Client::new(service, "default"),
            name: "l".into(),
            identity: "me".into(),
        };
        let api: Api<Lease> = Api::namespaced(election.client.clone(), NAMESPACE);
        let mut observed = Observed {
            spec: None,
            at: Instant::now(),
            ours: None,
        };
        for _ in 0..4 {
            assert!(try_attempt(&api, &election, &mut observed).await.unwrap());
        }
        assert_eq!(asked.lock().1, ["GET", "POST", "GET", "PUT", "PUT", "PUT"]);
        // Another candidate took it: the next renewal notices, and does not take it back.
        {
            let mut server = asked.lock();
            let lease = server.0.as_mut().unwrap();
            lease.metadata.resource_version = Some("9".into());
            lease.spec.as_mut().unwrap().holder_identity = Some("other".into());
            server.1.clear();
        }
        assert!(!try_attempt(&api, &election, &mut observed).await.unwrap());
        assert!(!try_attempt(&api, &election, &mut observed).await.unwrap());
        assert_eq!(asked.lock().1, ["PUT", "GET", "GET"]);
    }
}
