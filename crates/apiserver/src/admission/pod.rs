//! What pods get: the credentials of their service account, a priority, and tolerations of short outages.

use crate::call::Call;
use crate::http::status::Status;
use crate::json::{items as list, items_mut, push};
use crate::store::{builtin, object};
use schema::Resource;
use serde_json::{Value, json};

/// Where containers find their credentials.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a projected token is asked for; upstream's value, which tells its own tokens apart.
const TOKEN_SECONDS: i64 = 3607;
/// Pods whose description comes from a kubelet's own files.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether it stands for a pod that a kubelet runs on its own.
pub fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

/// ServiceAccount: every pod has one that exists, and its token mounted unless somebody said no.
pub async fn service_account(call: &Call, resource: &Resource, pod: &mut Value) -> Result<(), Status> {
    if is_mirror(pod) {
        if pod["spec"]["serviceAccountName"]
            .as_str()
            .is_some_and(|n| !n.is_empty())
        {
            return Err(Status::forbidden(
                resource,
                "",
                "a mirror pod may not reference service accounts",
            ));
        }
        return Ok(());
    }
    let named = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let name = if named.is_empty() {
        "default".to_owned()
    } else {
        named.to_owned()
    };
    pod["spec"]["serviceAccountName"] = name.as_str().into();
    pod["spec"]["serviceAccount"] = name.as_str().into();
    let namespace = call.info.namespace.as_str();
    let accounts = builtin("", "serviceaccounts").ok_or_else(Status::no_such_path)?;
    let account =
        match call.server.store.cached(accounts, namespace, &name) {
            Some(account) => account,
            None => {
                let key = object::key(accounts, namespace, &name);
                call.server.store.read(accounts, &key).await?.ok_or_else(|| {
                let why = format!(
                    "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
                );
                Status::forbidden(resource, pod["metadata"]["name"].as_str().unwrap_or_default(), why)
            })?
            }
        };
    let account = account.value();
    let mounts = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if mounts {
        mount_token(pod);
    }
    if list(&pod["spec"], "imagePullSecrets").is_empty()
        && let Some(secrets) = account["imagePullSecrets"].as_array().filter(|s| !s.is_empty())
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone().into();
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let existing = list(&pod["spec"], "volumes")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume = existing
        .clone()
        .unwrap_or_else(|| crate::rest::meta::generate("kube-api-access-"));
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        for container in items_mut(pod, &["spec", kind]) {
            if list(container, "volumeMounts")
                .iter()
                .any(|m| m["mountPath"] == CREDENTIALS)
            {
                continue;
            }
            needed = true;
            let mount = json!({"name": volume, "readOnly": true, "mountPath": CREDENTIALS});
            push(container, "volumeMounts", mount);
        }
    }
    if !needed || existing.is_some() {
        return;
    }
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]);
    push(
        &mut pod["spec"],
        "volumes",
        json!({"name": volume, "projected": {"defaultMode": 420, "sources": sources}}),
    );
}

/// Priority: the number behind the class name.
pub fn priority(call: &Call, resource: &Resource, pod: &mut Value) -> Result<(), Status> {
    const GROUP: &str = "scheduling.k8s.io";
    let store = &call.server.store;
    let named = pod["spec"]["priorityClassName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    let class = match &named {
        Some(name) => {
            let class = store.cached_by_name(GROUP, "priorityclasses", "", name);
            let missing = || {
                let why = format!("no PriorityClass with name {name} was found");
                Status::forbidden(
                    resource,
                    pod["metadata"]["name"].as_str().unwrap_or_default(),
                    why,
                )
            };
            Some(class.ok_or_else(missing)?.value())
        }
        None => {
            let all = store.cached_list(GROUP, "priorityclasses", "");
            let defaults = all
                .iter()
                .map(|c| c.value())
                .filter(|c| c["globalDefault"] == true);
            // Of several defaults the lowest counts.
            defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
        }
    };
    let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(Status::forbidden(
            resource,
            pod["metadata"]["name"].as_str().unwrap_or_default(),
            why,
        ));
    }
    pod["spec"]["priority"] = value.into();
    let policy = class.as_ref().and_then(|c| c["preemptionPolicy"].as_str());
    pod["spec"]["preemptionPolicy"] = policy.unwrap_or("PreemptLowerPriority").into();
    if named.is_none()
        && let Some(name) = class.as_ref().and_then(|c| c["metadata"]["name"].as_str())
    {
        pod["spec"]["priorityClassName"] = name.into();
    }
    Ok(())
}

/// DefaultTolerationSeconds: an outage of five minutes evicts nobody who did not ask for it.
pub fn default_tolerations(pod: &mut Value) {
    const SECONDS: i64 = 300;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(&pod["spec"], "tolerations").iter().any(|t| {
            let same_key = t["key"] == key || t["key"].as_str().unwrap_or_default().is_empty();
            let effect = t["effect"].as_str().unwrap_or_default();
            same_key && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
            push(&mut pod["spec"], "tolerations", toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_mounted_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": CREDENTIALS},
        ]}]}});
        mount_token(&mut pod);
        let spec = &pod["spec"];
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], CREDENTIALS);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn own_tolerations_stay() {
        let own =
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}]);
        let mut pod = json!({"spec": {"tolerations": own}});
        default_tolerations(&mut pod);
        let tolerations = list(&pod["spec"], "tolerations");
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[0]["tolerationSeconds"], 5);
    }
}
