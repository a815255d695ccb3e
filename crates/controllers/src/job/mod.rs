//! Jobs: pods that run to their end. Each ended pod is counted exactly once: it carries a finalizer until it is
//! written into the Job's status. Finished Jobs go after their time to live.

mod plan;
mod pods_of;
mod policy;

use crate::context::{Context, settle};
use crate::{ownership, pod_control};
use client::events::reference;
use client::pods::{self, controller_of};
use client::{Key, Outcome, Queue};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use plan::{Counts, End};
use policy::Verdict;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The name under which Events are recorded.
const COMPONENT: &str = "job-controller";

/// Jobs worked on at once.
const CONCURRENCY: usize = 5;
const OUR_MANAGER: &str = "kubernetes.io/job-controller";

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .jobs
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context.pods.on_change(move |change| {
            for pod in [change.old(), change.current()].into_iter().flatten() {
                if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") {
                    keys.add(Key::new(
                        pod.metadata.namespace.clone().unwrap_or_default(),
                        &owner.name,
                    ));
                }
            }
        });
        Self {
            context: context.clone(),
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, queue) = (&self.context, &self.queue);
        queue
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("job", &key, result)
            })
            .await;
    }
}

/// Whether the Job has a condition that is true.
pub fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the Job has come to its end.
pub fn finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let job = context.jobs.by_key(key);
    release_orphans(context, key, job.as_deref()).await?;
    let Some(job) = job else {
        return Ok(Outcome::Done);
    };
    let Some(spec) = job.spec.clone() else {
        return Ok(Outcome::Done);
    };
    if spec
        .managed_by
        .as_deref()
        .is_some_and(|manager| manager != OUR_MANAGER)
    {
        return Ok(Outcome::Done);
    }
    let api = context.api::<Job>(&key.namespace);
    let selector = spec.selector.clone().unwrap_or_else(|| own_selector(&job));
    let mine = ownership::claimed(context, &*job, &api, &selector, &context.pods, |_| true).await?;
    if finished(&job) || job.metadata.deletion_timestamp.is_some() {
        for pod in &mine {
            pods_of::release(context, pod).await?;
        }
        return expire(context, &api, &job, &spec).await;
    }
    let job = count(context, &api, job, &mine, &spec).await?;
    act(context, &api, &job, &spec, &mine).await
}

/// Lets go of the pods of a Job that does not exist any more: nobody counts them, and they could never be removed.
async fn release_orphans(context: &Context, key: &Key, job: Option<&Job>) -> kube::Result<()> {
    let uid = job.and_then(|job| job.metadata.uid.as_deref());
    let orphans = context
        .pods
        .select_in(&key.namespace, |pod| pods_of::is_orphan(pod, &key.name, uid));
    for pod in orphans {
        pods_of::release(context, &pod).await?;
    }
    Ok(())
}

fn own_selector(job: &Job) -> LabelSelector {
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let labels = [("batch.kubernetes.io/controller-uid".to_owned(), uid)];
    LabelSelector {
        match_labels: Some(labels.into()),
        match_expressions: None,
    }
}

/// Removes a finished Job once its time to live is over.
async fn expire(context: &Context, api: &Api<Job>, job: &Job, spec: &JobSpec) -> kube::Result<Outcome> {
    let Some(ttl) = spec.ttl_seconds_after_finished else {
        return Ok(Outcome::Done);
    };
    if !finished(job) || job.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ended = conditions
        .filter(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))
        .find_map(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    let since = ended.map_or(0, |ended| Timestamp::now().duration_since(ended).as_secs());
    let left = i64::from(ttl) - since;
    if let Ok(left) = u64::try_from(left)
        && left > 0
    {
        return Ok(Outcome::After(Duration::from_secs(left)));
    }
    context
        .delete(api, &context.jobs, job, &DeleteParams::background())
        .await?;
    Ok(Outcome::Done)
}

/// Brings ended pods into the status, each exactly once: first its uid, then its finalizer goes, then the sum.
async fn count(
    context: &Context,
    api: &Api<Job>,
    job: Arc<Job>,
    mine: &[Arc<Pod>],
    spec: &JobSpec,
) -> kube::Result<Arc<Job>> {
    let mut status = job.status.clone().unwrap_or_default();
    let mut uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let ended: Vec<&Arc<Pod>> = mine
        .iter()
        .filter(|pod| pods_of::is_held(pod) && pods_of::has_ended(pod))
        .collect();
    for pod in &ended {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let known = |list: &Option<Vec<String>>| list.iter().flatten().any(|known| *known == uid);
        let ignored = pods::phase(pod) == "Failed" && policy::judge(spec, pod) == Verdict::Ignore;
        if !ignored && !known(&uncounted.succeeded) && !known(&uncounted.failed) {
            let list = if pods::phase(pod) == "Succeeded" {
                &mut uncounted.succeeded
            } else {
                &mut uncounted.failed
            };
            list.get_or_insert_default().push(uid);
        }
    }
    let empty = |u: &UncountedTerminatedPods| {
        u.succeeded.iter().flatten().next().is_none() && u.failed.iter().flatten().next().is_none()
    };
    if empty(&uncounted) {
        // What the Job's rules ignore is let go without being counted.
        for pod in &ended {
            pods_of::release(context, pod).await?;
        }
        return Ok(job);
    }
    let job = if status.uncounted_terminated_pods.as_ref() == Some(&uncounted) {
        job
    } else {
        status.uncounted_terminated_pods = Some(uncounted.clone());
        write(context, api, &job, status).await?
    };
    for pod in &ended {
        pods_of::release(context, pod).await?;
    }
    let mut status = job.status.clone().unwrap_or_default();
    let size = |list: &Option<Vec<String>>| i32::try_from(list.iter().flatten().count()).unwrap_or(i32::MAX);
    status.failed = Some(status.failed.unwrap_or(0) + size(&uncounted.failed));
    if pods_of::is_indexed(spec) {
        let completions = spec.completions.unwrap_or(0);
        let mut done = plan::parse_indexes(
            status.completed_indexes.as_deref().unwrap_or_default(),
            completions,
        );
        // Not only those that ended now: a write that fails comes again, when their finalizers are gone already.
        let succeeded = mine.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        done.extend(
            succeeded
                .filter_map(|pod| pods_of::index_of(pod))
                .filter(|index| *index < completions),
        );
        status.succeeded = i32::try_from(done.len()).ok();
        status.completed_indexes = Some(plan::format_indexes(&done));
        if spec.backoff_limit_per_index.is_some() {
            let known = status.failed_indexes.clone().unwrap_or_default();
            let mut failed = policy::failed_indexes(spec, &known, mine);
            failed.retain(|index| !done.contains(index));
            status.failed_indexes = Some(plan::format_indexes(&failed));
        }
    } else {
        status.succeeded = Some(status.succeeded.unwrap_or(0) + size(&uncounted.succeeded));
    }
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    write(context, api, &job, status).await
}

async fn write(context: &Context, api: &Api<Job>, job: &Job, status: JobStatus) -> kube::Result<Arc<Job>> {
    let name = job.metadata.name.clone().unwrap_or_default();
    let mut changed = job.clone();
    changed.status = Some(status);
    let written = api
        .replace_status(&name, &kube::api::PostParams::default(), &changed)
        .await?;
    context.jobs.observe(written.clone());
    Ok(Arc::new(written))
}

async fn act(
    context: &Context,
    api: &Api<Job>,
    job: &Arc<Job>,
    spec: &JobSpec,
    mine: &[Arc<Pod>],
) -> kube::Result<Outcome> {
    let now = Timestamp::now();
    let active: Vec<&Arc<Pod>> = mine.iter().filter(|pod| pods::is_active(pod)).collect();
    let old = job.status.clone().unwrap_or_default();
    let counts = Counts {
        active: i32::try_from(active.len()).unwrap_or(i32::MAX),
        succeeded: old.succeeded.unwrap_or(0),
        failed: old.failed.unwrap_or(0),
        failed_indexes: i32::try_from(indexes(spec, old.failed_indexes.as_ref()).len()).unwrap_or(i32::MAX),
    };
    let done = indexes(spec, old.completed_indexes.as_ref());
    let suspended = spec.suspend == Some(true);
    let mut status = old.clone();
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(Time(now));
    }
    let running_s = status
        .start_time
        .as_ref()
        .map_or(0, |start| now.duration_since(start.0).as_secs());
    let mut again = None;
    let end = match (policy::failure(spec, mine), policy::success(spec, &done)) {
        (Some(why), _) => Some(ending("FailureTarget", "PodFailurePolicy", why)),
        (_, Some(rule)) => {
            let why = format!("Matched rules at index {rule}");
            Some(ending("SuccessCriteriaMet", "SuccessPolicy", why))
        }
        _ => plan::end(spec, &counts, running_s).map(of_counts),
    };
    if let Some(end) = end {
        let doomed: Vec<&Pod> = active.iter().map(|pod| &***pod).collect();
        pod_control::delete_many(context, &**job, &doomed).await?;
        finish(context, job, &mut status, &end, now);
        status.active = Some(0);
        status.ready = Some(0);
    } else {
        note_suspension(context, job, &mut status, suspended, now);
        again = keep_running(context, job, spec, &counts, mine, now).await?;
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let present = context
            .pods
            .select_in(namespace, |pod| pods::is_controlled_by(&pod.metadata, uid));
        let number = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(present.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        status.active = Some(number(&pods::is_active)).filter(|n| *n > 0);
        status.ready = Some(number(&|pod| pods::is_active(pod) && pods::is_ready(pod)));
        status.terminating = Some(number(&|pod| {
            pods::is_terminating(pod) && !pods::is_terminal(pod)
        }));
    }
    if status != old {
        write(context, api, job, status).await?;
    }
    if let Some(deadline) = spec.active_deadline_seconds.filter(|_| !suspended) {
        let left = Duration::from_secs(u64::try_from(deadline - running_s).unwrap_or(0).max(1));
        again = Some(again.map_or(left, |again: Duration| again.min(left)));
    }
    Ok(again.map_or(Outcome::Done, Outcome::After))
}

/// Starts what is missing and stops what is too much. Returns when to look again if failures delay a start.
async fn keep_running(
    context: &Context,
    job: &Arc<Job>,
    spec: &JobSpec,
    counts: &Counts,
    mine: &[Arc<Pod>],
    now: Timestamp,
) -> kube::Result<Option<Duration>> {
    let mut active: Vec<&Pod> = mine
        .iter()
        .map(|pod| &**pod)
        .filter(|pod| pods::is_active(pod))
        .collect();
    let wanted = plan::wanted(spec, counts);
    if counts.active > wanted {
        active.sort_by_key(|pod| (pods::is_ready(pod), !pods::node_name(pod).is_empty()));
        active.truncate(usize::try_from(counts.active - wanted).unwrap_or(0));
        pod_control::delete_many(context, &**job, &active).await?;
        return Ok(None);
    }
    let missing = usize::try_from(wanted - counts.active).unwrap_or(0);
    if missing == 0 {
        return Ok(None);
    }
    let last = mine
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed")
        .filter_map(|pod| pods_of::ended_at(pod))
        .max();
    // With a limit of its own each index has a pause of its own, too.
    let apart = spec.backoff_limit_per_index.is_some();
    if let Some(last) = last.filter(|_| !apart) {
        let since = Duration::try_from(now.duration_since(last)).unwrap_or_default();
        let pause = plan::pause(counts.failed, since);
        if !pause.is_zero() {
            return Ok(Some(pause));
        }
    }
    let missing = missing.min(pod_control::BURST_PODS);
    let mut again = None;
    let new: Vec<Pod> = if pods_of::is_indexed(spec) {
        let status = job.status.clone().unwrap_or_default();
        let mut over = indexes(spec, status.completed_indexes.as_ref());
        over.extend(indexes(spec, status.failed_indexes.as_ref()));
        if apart {
            for index in (0..spec.completions.unwrap_or(0))
                .filter(|index| !over.contains(index))
                .collect::<Vec<_>>()
            {
                let pause = pause_of(spec, index, mine, now);
                if !pause.is_zero() {
                    over.insert(index);
                    again = Some(again.map_or(pause, |again: Duration| again.min(pause)));
                }
            }
        }
        let busy: BTreeSet<i32> = active.iter().filter_map(|pod| pods_of::index_of(pod)).collect();
        let next = plan::missing_indexes(spec.completions.unwrap_or(0), &over, &busy, missing);
        let made = next.into_iter().map(|index| {
            let mut pod = pods_of::new(job, spec, Some(index));
            if apart {
                pods_of::note_failures(&mut pod, policy::failures_of(spec, index, mine));
            }
            pod
        });
        made.collect()
    } else {
        vec![pods_of::new(job, spec, None); missing]
    };
    pod_control::create_many(context, &**job, &new).await?;
    Ok(again)
}

/// Indexes of a status.
fn indexes(spec: &JobSpec, text: Option<&String>) -> BTreeSet<i32> {
    plan::parse_indexes(text.map_or("", String::as_str), spec.completions.unwrap_or(0))
}

/// How long an index has to wait for its next try.
fn pause_of(spec: &JobSpec, index: i32, mine: &[Arc<Pod>], now: Timestamp) -> Duration {
    let failed = mine
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed" && pods_of::index_of(pod) == Some(index));
    let Some(last) = failed.filter_map(|pod| pods_of::ended_at(pod)).max() else {
        return Duration::ZERO;
    };
    let since = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    plan::pause(policy::failures_of(spec, index, mine), since)
}

fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == value);
    if known {
        return;
    }
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// How a Job ends, as its conditions say it.
struct Ending {
    kinds: [&'static str; 2],
    reason: &'static str,
    message: String,
}

fn ending(first: &'static str, reason: &'static str, message: String) -> Ending {
    let last = if first == "FailureTarget" {
        "Failed"
    } else {
        "Complete"
    };
    Ending {
        kinds: [first, last],
        reason,
        message,
    }
}

fn of_counts(end: End) -> Ending {
    let (first, reason, message) = match end {
        End::Complete => (
            "SuccessCriteriaMet",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        ),
        End::BackoffLimit => (
            "FailureTarget",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ),
        End::Deadline => (
            "FailureTarget",
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
        ),
        End::MaxFailedIndexes => (
            "FailureTarget",
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ),
        End::FailedIndexes => ("FailureTarget", "FailedIndexes", "Job has failed indexes"),
    };
    ending(first, reason, message.to_owned())
}

fn finish(context: &Context, job: &Job, status: &mut JobStatus, end: &Ending, now: Timestamp) {
    for kind in end.kinds {
        set_condition(status, kind, "True", end.reason, &end.message, now);
    }
    let recorder = context.recorder.of(COMPONENT);
    if end.kinds.contains(&"Complete") {
        status.completion_time = Some(Time(now));
        recorder.event(&reference(job), "Normal", "Completed", "Job completed");
    } else {
        recorder.event(&reference(job), "Warning", end.reason, &*end.message);
    }
}

fn note_suspension(context: &Context, job: &Job, status: &mut JobStatus, suspended: bool, now: Timestamp) {
    let was = has_condition(job, "Suspended");
    if suspended && !was {
        set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        status.start_time = None;
        context
            .recorder
            .of(COMPONENT)
            .event(&reference(job), "Normal", "Suspended", "Job suspended");
    } else if !suspended && was {
        set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        status.start_time = Some(Time(now));
        context
            .recorder
            .of(COMPONENT)
            .event(&reference(job), "Normal", "Resumed", "Job resumed");
    }
}
