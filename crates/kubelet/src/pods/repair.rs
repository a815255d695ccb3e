//! A volume whose device is gone under a running pod, since its engine was killed for example: the containers
//! that use it are ended at once, for nothing that they write arrives any more, and started again as the restart
//! policy says. Starting makes the volume anew.

use super::kill::Killer;
use super::spec;
use super::worker::Worker;
use crate::backoff::Backoff;
use crate::runtime::{ContainerRecord, RuntimePod, State};
use crate::volumes::csi::Broken;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A pod whose volumes broke again within this time waits as one that crashes.
const REPAIR_PAUSE: Duration = Duration::from_secs(60);

impl Worker {
    /// Ends the containers on broken volumes. True when there were any, so that the runtime has to be asked again.
    pub(super) async fn leave_broken_volumes(
        &mut self,
        pod: &Arc<Pod>,
        spec: &PodSpec,
        observed: &RuntimePod,
    ) -> Result<bool, crate::runtime::Error> {
        let context = self.context.clone();
        let Some(broken) = context.volumes.take_broken(&self.id.uid) else {
            return Ok(false);
        };
        let names = volumes_of(spec, &self.id.name, &broken);
        let reference = client::events::reference(&**pod);
        for (volume, why) in &names {
            let message = format!("Volume {volume:?}: {why}; containers that use it are restarted");
            context
                .recorder
                .event(&reference, "Warning", "VolumeConditionAbnormal", message);
        }
        let killer = Killer {
            context: &context,
            pod: Some(pod),
            pod_ip: String::new(),
        };
        for record in users(spec, observed, &names) {
            let why = format!("Container {} uses a volume whose device is gone", record.name);
            // Without grace: there is nothing left to save.
            if let Err(error) = killer.container(record, 0, &why).await {
                context.volumes.give_back_broken(&self.id.uid, broken);
                return Err(error);
            }
        }
        context.volumes.forget(&self.id.uid);
        if self.repaired.is_none_or(|at| at.elapsed() > REPAIR_PAUSE) {
            // That they were killed was no failure of their own.
            self.backoff = Backoff::default();
        }
        self.repaired = Some(Instant::now());
        Ok(true)
    }
}

/// The pod's names of volumes, with what is wrong, from the claims' names.
fn volumes_of(spec: &PodSpec, pod: &str, broken: &Broken) -> BTreeMap<String, String> {
    let claim_of = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (_, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        _ => None,
    };
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| Some((volume.name.clone(), broken.get(&claim_of(volume)?)?.clone())))
        .collect()
}

/// Containers that live and use one of the volumes.
fn users<'a>(
    spec: &PodSpec,
    observed: &'a RuntimePod,
    volumes: &BTreeMap<String, String>,
) -> Vec<&'a Arc<ContainerRecord>> {
    let uses = |container: &Container| {
        let mounts = container.volume_mounts.iter().flatten().map(|m| &m.name);
        let devices = container.volume_devices.iter().flatten().map(|d| &d.name);
        mounts.chain(devices).any(|name| volumes.contains_key(name))
    };
    let containers = spec::containers(spec);
    let running = observed.containers.iter().filter(|r| r.state == State::Running);
    running
        .filter(|record| containers.iter().any(|(_, c)| c.name == record.name && uses(c)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_users_of_a_broken_volume_are_ended() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [
                {"name": "db", "volumeMounts": [{"name": "data", "mountPath": "/d"}]},
                {"name": "raw", "volumeDevices": [{"name": "scratch", "devicePath": "/dev/x"}]},
                {"name": "web", "volumeMounts": [{"name": "conf", "mountPath": "/c"}]}],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "conf", "configMap": {"name": "x"}}],
        }))
        .expect("a spec");
        let record = |name: &str, state| {
            Arc::new(ContainerRecord {
                name: name.into(),
                state,
                ..ContainerRecord::default()
            })
        };
        let observed = RuntimePod {
            containers: vec![
                record("db", State::Running),
                record("db", State::Exited),
                record("raw", State::Running),
                record("web", State::Running),
            ],
            ..RuntimePod::default()
        };
        let ended = |claims: &[&str]| {
            let broken = claims.iter().map(|c| ((*c).to_owned(), "gone".into())).collect();
            let names = volumes_of(&spec, "p", &broken);
            let users = users(&spec, &observed, &names);
            users.iter().map(|r| r.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ended(&["c1"]), ["db"]);
        assert_eq!(ended(&["p-scratch"]), ["raw"]);
        assert!(ended(&["other"]).is_empty());
    }
}
