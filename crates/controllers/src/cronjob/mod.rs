//! CronJobs: a Job at each time of a schedule. Times that were missed are made up for once, by the latest of them,
//! as upstream does.

mod schedule;

use crate::context::{Context, answered, settle};
use crate::job::finished;
use crate::ownership::controller_reference;
use client::events::reference;
use client::pods::{controller_of, is_controlled_by};
use client::{Key, Outcome, Queue};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ObjectMeta};
use schedule::Schedule;
use std::sync::Arc;
use std::time::Duration;

/// The name under which Events are recorded.
const COMPONENT: &str = "cronjob-controller";
/// CronJobs worked on at once.
const CONCURRENCY: usize = 5;
/// Added to the pause until the next time, so that it has come for sure.
const MARGIN: Duration = Duration::from_millis(100);
/// Longest pause: clocks may be set.
const RECHECK_MAX: Duration = Duration::from_secs(3600);
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

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
            .cron_jobs
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context.jobs.on_change(move |change| {
            let job = change.object();
            if let Some(owner) = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
                let namespace = job.metadata.namespace.clone().unwrap_or_default();
                keys.add(Key::new(namespace, &owner.name));
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
                settle("cronjob", &key, result)
            })
            .await;
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(cron) = context.cron_jobs.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let spec = cron.spec.clone();
    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
    let jobs = context
        .jobs
        .select_in(&key.namespace, |job| is_controlled_by(&job.metadata, uid));
    let mut status = cron.status.clone().unwrap_or_default();
    note_ended(context, &cron, &jobs, &mut status);
    let deleting = cron.metadata.deletion_timestamp.is_some();
    let result = if deleting || spec.suspend == Some(true) {
        Ok(Outcome::Done)
    } else {
        run_due(context, &cron, &spec, &jobs, &mut status).await
    };
    // What was started is in the status even if something failed afterwards.
    if cron.status.clone().unwrap_or_default() != status {
        let api: Api<CronJob> = context.api(&key.namespace);
        let mut changed = (*cron).clone();
        changed.status = Some(status);
        context.write_status(&api, &context.cron_jobs, &changed).await?;
    }
    if !deleting {
        remove_old(context, &cron, &spec, jobs).await?;
    }
    result
}

/// Takes Jobs that have ended, or are gone, out of the list of active ones.
fn note_ended(context: &Context, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
    let events = context.recorder.of(COMPONENT);
    let mut active = status.active.take().unwrap_or_default();
    active.retain(|entry| {
        let name = entry.name.clone().unwrap_or_default();
        let job = jobs.iter().find(|job| job.metadata.uid == entry.uid);
        match job {
            None => {
                let text = format!("Active job went missing: {name}");
                events.event(&reference(cron), "Normal", "MissingJob", text);
                false
            }
            Some(job) if finished(job) => {
                let how = if crate::job::has_condition(job, "Complete") {
                    "Complete"
                } else {
                    "Failed"
                };
                let text = format!("Saw completed job: {name}, condition: {how}");
                events.event(&reference(cron), "Normal", "SawCompletedJob", text);
                false
            }
            Some(_) => true,
        }
    });
    // Started by us, but not written down.
    for job in jobs.iter().filter(|job| !finished(job)) {
        if !active.iter().any(|entry| entry.uid == job.metadata.uid) {
            active.push(reference(&**job));
        }
    }
    let succeeded = jobs
        .iter()
        .filter_map(|job| job.status.as_ref()?.completion_time.clone());
    let last = succeeded
        .chain(status.last_successful_time.take())
        .max_by_key(|t| t.0);
    status.last_successful_time = last;
    status.active = (!active.is_empty()).then_some(active);
}

/// Starts the Job that is due, if one is; returns when the next one will be.
async fn run_due(
    context: &Context,
    cron: &Arc<CronJob>,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    status: &mut CronJobStatus,
) -> kube::Result<Outcome> {
    let events = context.recorder.of(COMPONENT);
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = format!("invalid schedule: {}: {why}", spec.schedule);
            events.event(&reference(&**cron), "Warning", "InvalidSchedule", text);
            return Ok(Outcome::Done);
        }
    };
    let now = Timestamp::now();
    let next = Outcome::After(pause(&schedule, now));
    let Some(due) = due(cron, spec, status, &schedule, now) else {
        return Ok(next);
    };
    if let Some(limit) = spec.starting_deadline_seconds
        && now.duration_since(due).as_secs() > limit
    {
        let text = format!("Missed scheduled time to start a job: {due}");
        events.event(&reference(&**cron), "Warning", "MissSchedule", text);
        return Ok(next);
    }
    let name = name_of(cron, due);
    if jobs.iter().any(|job| job.metadata.name.as_ref() == Some(&name)) {
        status.last_schedule_time = Some(Time(due));
        return Ok(next);
    }
    let running = status.active.iter().flatten().count();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if running > 0 => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            events.event(&reference(&**cron), "Normal", "JobAlreadyActive", text);
            return Ok(next);
        }
        Some("Replace") => {
            for job in jobs.iter().filter(|job| !finished(job)) {
                delete(context, cron, job).await?;
            }
            status.active = None;
        }
        _ => {}
    }
    let api: Api<Job> = context.api(cron.metadata.namespace.as_deref().unwrap_or_default());
    let job = new_job(cron, spec, &name, due);
    match context.create(&api, &context.jobs, &job).await {
        Ok(made) => {
            let text = format!("Created job {name}");
            events.event(&reference(&**cron), "Normal", "SuccessfulCreate", text);
            status.active.get_or_insert_default().push(reference(&made));
        }
        // Made in a former life, and not in the cache yet.
        Err(error) if answered(&error, 409) => {}
        Err(error) => {
            let text = format!("Error creating job: {}", crate::pod_control::message(&error));
            events.event(&reference(&**cron), "Warning", "FailedCreate", text);
            return Err(error);
        }
    }
    status.last_schedule_time = Some(Time(due));
    Ok(next)
}

/// The latest time of the schedule for which no Job was started.
fn due(
    cron: &CronJob,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    schedule: &Schedule,
    now: Timestamp,
) -> Option<Timestamp> {
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let mut after = status.last_schedule_time.as_ref().map_or(made, |t| t.0);
    if let Some(limit) = spec.starting_deadline_seconds
        && let Ok(earliest) = now.checked_sub(SignedDuration::from_secs(limit))
    {
        after = after.max(earliest);
    }
    schedule.latest(after, now)
}

fn pause(schedule: &Schedule, now: Timestamp) -> Duration {
    let next = schedule.next(now);
    let left = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    left.map_or(RECHECK_MAX, |left| (left + MARGIN).min(RECHECK_MAX))
}

/// One name for one time, so that a Job is never started twice for it.
fn name_of(cron: &CronJob, due: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", due.as_second() / 60)
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, name: &str, due: Timestamp) -> Job {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), due.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            creation_timestamp: None,
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

async fn delete(context: &Context, cron: &CronJob, job: &Job) -> kube::Result<()> {
    let api: Api<Job> = context.api(cron.metadata.namespace.as_deref().unwrap_or_default());
    context
        .delete(&api, &context.jobs, job, &DeleteParams::background())
        .await?;
    let name = job.metadata.name.as_deref().unwrap_or_default();
    context.recorder.of(COMPONENT).event(
        &reference(cron),
        "Normal",
        "SuccessfulDelete",
        format!("Deleted job {name}"),
    );
    Ok(())
}

/// Deletes the oldest of the ended Jobs that are more than the history shall hold.
async fn remove_old(
    context: &Context,
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: Vec<Arc<Job>>,
) -> kube::Result<()> {
    let ended = jobs
        .into_iter()
        .filter(|job| finished(job) && job.metadata.deletion_timestamp.is_none());
    let (mut good, mut bad): (Vec<_>, Vec<_>) =
        ended.partition(|job| crate::job::has_condition(job, "Complete"));
    for (list, limit) in [
        (&mut good, spec.successful_jobs_history_limit.unwrap_or(3)),
        (&mut bad, spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        list.sort_by_key(|job| {
            job.status
                .as_ref()
                .and_then(|s| s.start_time.as_ref().map(|t| t.0))
        });
        let surplus = list.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in list.iter().take(surplus) {
            delete(context, cron, job).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decide(status: serde_json::Value, deadline: Option<i64>) -> Option<String> {
        let cron: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/10 * * * *", "startingDeadlineSeconds": deadline, "jobTemplate": {}},
            "status": status,
        }))
        .unwrap();
        let spec = cron.spec.clone();
        let schedule = Schedule::parse(&spec.schedule, None).unwrap();
        let now = "2026-01-01T01:05:00Z".parse().unwrap();
        let status = cron.status.clone().unwrap();
        due(&cron, &spec, &status, &schedule, now).map(|t| t.to_string())
    }

    #[test]
    fn only_the_latest_missed_time_is_made_up_for() {
        let latest = Some("2026-01-01T01:00:00Z".to_owned());
        assert_eq!(decide(json!({}), None), latest);
        assert_eq!(
            decide(json!({"lastScheduleTime": "2026-01-01T00:10:00Z"}), None),
            latest
        );
        assert_eq!(
            decide(json!({"lastScheduleTime": "2026-01-01T01:00:00Z"}), None),
            None
        );
        assert_eq!(decide(json!({}), Some(100)), None);
        assert_eq!(decide(json!({}), Some(1000)), latest);
    }
}
