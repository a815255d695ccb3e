//! Gets the image of a container: what the runtime holds, or from a registry if there is one.

use super::containers::Waiting;
use super::credentials;
use crate::backoff::Backoff;
use crate::context::Context;
use crate::sync::lock;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use protos::cri::{AuthConfig, Image};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// While a pull is not due yet, it is looked so often whether the image was loaded from a file.
const LOOK: Duration = Duration::from_secs(3);

/// A container whose image is not there yet: why it waits, and when to try again.
#[derive(Debug)]
pub struct Missing {
    /// For the status.
    pub waiting: Waiting,
    /// Pause before the next attempt.
    pub retry: Duration,
}

/// Pulls that failed, by image, and when.
#[derive(Default)]
pub struct Pulls {
    backoff: Mutex<Backoff<String>>,
    failed: Mutex<std::collections::HashMap<String, (SystemTime, String)>>,
}

fn missing(reason: &str, message: String, retry: Duration) -> Missing {
    Missing {
        waiting: Waiting {
            reason: reason.into(),
            message,
        },
        retry,
    }
}

/// The policy of a container; the default depends on the tag, as upstream's.
fn policy(container: &Container, image: &str) -> String {
    if let Some(policy) = &container.image_pull_policy {
        return policy.clone();
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }.into()
}

/// The image that a container shall run.
///
/// An image without a digest of a repository was loaded from a file. No registry knows it, so the policy
/// `Always` has nobody to ask and takes what is there.
pub async fn ensure(
    context: &Context,
    pulls: &Pulls,
    (owner, pod): (&Pod, &ObjectReference),
    container: &Container,
) -> Result<Image, Missing> {
    let name = container.image.clone().unwrap_or_default();
    let event = |kind, reason: &str, message: String| context.recorder.event(pod, kind, reason, message);
    let soon = crate::backoff::INITIAL;
    let present = match context.runtime.image(&name).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image {name:?}: {error}");
            event("Warning", "InspectFailed", message.clone());
            return Err(missing("ImageInspectError", message, soon));
        }
    };
    let policy = policy(container, &name);
    match present {
        Some(image) if policy != "Always" || image.repo_digests.is_empty() => {
            let shown =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            event("Normal", "Pulled", shown);
            lock(&pulls.backoff).reset(&name);
            return Ok(image);
        }
        None if policy == "Never" => {
            let hint = &context.config.image_hint;
            let message = format!(
                "Container image {name:?} is not present with pull policy of Never (load it: {hint})"
            );
            event("Warning", "ErrImageNeverPull", message.clone());
            return Err(missing("ErrImageNeverPull", message, soon));
        }
        _ => {}
    }
    let now = SystemTime::now();
    let failed = lock(&pulls.failed).get(&name).cloned();
    if let Some((since, why)) = failed
        && let Some((_, left)) = lock(&pulls.backoff).waiting(&name, since, now)
    {
        if left > LOOK {
            event("Normal", "BackOff", format!("Back-off pulling image {name:?}"));
        }
        let message = format!("Back-off pulling image {name:?}: ErrImagePull: {why}");
        return Err(missing("ImagePullBackOff", message, left.min(LOOK)));
    }
    let credentials = credentials::for_image(context, owner, &name).await;
    pull(context, pulls, pod, &name, credentials).await
}

/// Asks the registry, with one set of credentials after the other, and at last without.
async fn fetch(
    context: &Context,
    name: &str,
    credentials: Vec<AuthConfig>,
) -> Result<String, crate::runtime::Error> {
    for login in credentials {
        match context.runtime.pull_image(name, Some(login)).await {
            Ok(pulled) => return Ok(pulled),
            Err(error) => tracing::debug!(image = name, %error, "not pulled with these credentials"),
        }
    }
    context.runtime.pull_image(name, None).await
}

async fn pull(
    context: &Context,
    pulls: &Pulls,
    pod: &ObjectReference,
    name: &str,
    credentials: Vec<AuthConfig>,
) -> Result<Image, Missing> {
    let event = |kind, reason: &str, message: String| context.recorder.event(pod, kind, reason, message);
    event("Normal", "Pulling", format!("Pulling image {name:?}"));
    let started = std::time::Instant::now();
    let pulled = match fetch(context, name, credentials).await {
        Ok(_) => context.runtime.image(name).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.status.message().to_owned()),
    };
    let why = match pulled {
        Ok(Some(image)) => {
            lock(&pulls.backoff).reset(&name.to_owned());
            let took = started.elapsed().as_millis();
            event(
                "Normal",
                "Pulled",
                format!(
                    "Successfully pulled image {name:?} in {took}ms. Image size: {} bytes.",
                    image.size
                ),
            );
            return Ok(image);
        }
        Ok(None) => "the runtime does not hold it after the pull".to_owned(),
        Err(why) => why,
    };
    let hint = &context.config.image_hint;
    let why =
        format!("image {name:?} is not on this node and could not be pulled; load it with: {hint} ({why})");
    let now = SystemTime::now();
    lock(&pulls.backoff).advance(name.to_owned(), now, now);
    lock(&pulls.failed).insert(name.to_owned(), (now, why.clone()));
    event(
        "Warning",
        "Failed",
        format!("Failed to pull image {name:?}: {why}"),
    );
    event("Warning", "Failed", "Error: ErrImagePull".into());
    // Shown as an error once; the attempt after it finds the back-off and says so.
    Err(missing("ErrImagePull", why, Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policies() {
        for (image, expected) in [
            ("busybox", "Always"),
            ("r:5000/busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1", "IfNotPresent"),
            ("busybox@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(policy(&Container::default(), image), expected, "{image}");
        }
    }
}
