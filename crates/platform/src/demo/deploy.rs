//! Puts the demo into the cluster and starts its client.

use super::client::Ledger;
use super::{NAMESPACE, component, ledger_path, target_path};
use crate::api::Client;
use crate::cluster::{Cluster, Error, Say};
use crate::components::HOST;
use crate::pki::{Signer, identity};
use crate::supervisor::{self, Request, Unit};
use crate::{api, files, images};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the pod may take: it makes a volume in three regions first.
const PATIENCE: Duration = Duration::from_secs(120);
const REQUEST: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// Where the demo runs.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Node of the pod.
    pub node: String,
    /// Its region.
    pub region: String,
}

/// Deploys the demo, waits for its pod, and starts the client. Running it again changes nothing.
pub async fn deploy(name: &str, say: Say<'_>) -> Result<Deployed, Error> {
    let cluster = Cluster::open(name)?;
    let files = identity(&cluster.layout, Signer::Cluster, "admin");
    let client = Client::new(cluster.plan.endpoint(), &files, REQUEST)?;
    api::apply(&client, &manifest(), |_| {}).await?;
    say("deployed the StatefulSet demo in namespace demo, with a replicated volume");
    let deadline = Instant::now() + PATIENCE;
    let node = loop {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/demo-0");
        let pod = client.get(&path).await.unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.into_iter().filter(|c| c["type"] == "Ready");
        if ready.any(|c| c["status"] == "True") {
            break pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        }
        if Instant::now() > deadline {
            let status = &pod["status"];
            return Err(Error::Other(format!(
                "pod demo-0 is not Ready after {} s; its status is {status}",
                PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    };
    let service = client
        .get(&format!("/api/v1/namespaces/{NAMESPACE}/services/demo"))
        .await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64();
    let port = port.ok_or_else(|| Error::Other("the Service demo has no node port".into()))?;
    start_client(&cluster, port)?;
    say("started a client outside of every region; it goes on when this command ends");
    let region = cluster.plan.nodes.iter().find(|n| n.name == node);
    Ok(Deployed {
        region: region.map(|n| n.region.clone()).unwrap_or_default(),
        node,
    })
}

/// The client is one more component of the host's supervisor.
fn start_client(cluster: &Cluster, port: u64) -> Result<(), Error> {
    let layout = &cluster.layout;
    let written = |path: PathBuf| {
        move |source| Error::File {
            action: "write",
            path,
            source,
        }
    };
    let dir = layout.demo();
    files::private_dir(&dir).map_err(written(dir.clone()))?;
    let ledger = ledger_path(layout);
    if !ledger.exists() {
        Ledger::create(&ledger).map_err(written(ledger.clone()))?;
    }
    let target = target_path(layout);
    files::ensure(&target, port.to_string().as_bytes()).map_err(written(target.clone()))?;
    let spec = layout.spec(HOST);
    let mut unit = Unit::load(&spec)?;
    unit.components.retain(|c| c.name != "demo-client");
    let program = unit.components.first().and_then(|c| c.command.first());
    let binary = PathBuf::from(program.cloned().unwrap_or_default());
    unit.components.extend(component(layout, &cluster.plan, &binary));
    unit.store(&spec)?;
    let control = layout.control(HOST);
    supervisor::call(&control, &Request::Reload, Duration::from_secs(30)).map_err(|source| Error::File {
        action: "ask the supervisor at",
        path: control,
        source,
    })?;
    Ok(())
}

fn manifest() -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: Service
metadata: {{name: demo, namespace: {NAMESPACE}, labels: {{app: demo}}}}
spec:
  type: NodePort
  selector: {{app: demo}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: demo, namespace: {NAMESPACE}, labels: {{app: demo}}}}
spec:
  serviceName: demo
  replicas: 1
  selector: {{matchLabels: {{app: demo}}}}
  template:
    metadata: {{labels: {{app: demo}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: demo
        image: {toolbox}
        imagePullPolicy: IfNotPresent
        command: [hikube, demo-server, --data-dir, /data, --listen, '0.0.0.0:8080']
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{memory: 128Mi}}}}
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: replicated
      resources: {{requests: {{storage: 256Mi}}}}
",
        toolbox = images::TOOLBOX
    )
}
