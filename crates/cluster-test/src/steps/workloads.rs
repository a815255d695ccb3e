//! Acceptance 2: ordinary workloads and kubectl.

use crate::cluster::{Cluster, is_ready};
use crate::shell::{ensure, eventually, output, text};
use anyhow::{Context, Result};
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Image with a shell that `hikube up` made.
const TOOLBOX: &str = "hikube.io/toolbox:latest";

/// A Deployment of web servers that answer with their own name.
pub fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {TOOLBOX}
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'mkdir -p /www && hostname > /www/index.html && echo started && exec httpd -f -p 8080 -h /www']
        env:
        - {{name: GREETING, valueFrom: {{configMapKeyRef: {{name: settings, key: greeting, optional: true}}}}}}
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}
"
    )
}

const REST: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: open-sesame-4711}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec:
  clusterIP: None
  selector: {app: store}
  ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  replicas: 2
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: store
        image: hikube.io/toolbox:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'hostname >> /data/names && cat /secret/word && exec httpd -f -p 8080 -h /data']
        readinessProbe: {httpGet: {path: /names, port: 8080}, periodSeconds: 1}
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: secret, mountPath: /secret}
      volumes: [{name: secret, secret: {secretName: password}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 64Mi}}
";

/// Applies everything; pods on all nodes run within seconds.
pub fn deploy(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    cluster.apply(REST)?;
    cluster.apply(&deployment("web", 6))?;
    cluster.rolled_out("deployment/web", Duration::from_secs(60))?;
    cluster.rolled_out("statefulset/store", Duration::from_secs(60))?;
    println!("rolled out in {:.1} s", start.elapsed().as_secs_f64());
    let pods = cluster.json(&["get", "pods", "-l", "app=web"])?;
    let pods = pods["items"].as_array().context("pods")?;
    ensure(pods.iter().all(is_ready), || "not all pods are Ready".into())?;
    let mut nodes: Vec<_> = pods
        .iter()
        .filter_map(|p| p["spec"]["nodeName"].as_str())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    ensure(nodes.len() == 3, || format!("pods run only on {nodes:?}"))?;
    // Secrets are encrypted at rest.
    let state = cluster.state_dir().join("etcd");
    let found = crate::shell::attempt(
        std::process::Command::new("grep")
            .args(["-rl", "open-sesame-4711"])
            .arg(state),
    )?;
    ensure(found.stdout.is_empty(), || {
        format!("a secret's value is in {}", text(&found.stdout))
    })
}

/// kubectl's commands, each with what it must show.
pub fn kubectl(cluster: &Cluster) -> Result<()> {
    cluster.kube(&["scale", "deployment/web", "--replicas=6"])?;
    cluster.rolled_out("deployment/web", Duration::from_secs(60))?;
    let pod = web_pod(cluster)?;
    let shows = |args: &[&str], wanted: &[&str]| -> Result<String> {
        let shown = cluster.kube(args)?;
        for word in wanted {
            ensure(shown.contains(word), || {
                format!("kubectl {} does not show {word:?}:\n{shown}", args.join(" "))
            })?;
        }
        Ok(shown)
    };
    shows(
        &["get", "pods", "-o", "wide"],
        &["READY", "STATUS", "RESTARTS", "AGE", "NODE", "1/1", "Running"],
    )?;
    shows(
        &["get", "nodes", "-o", "wide"],
        &["INTERNAL-IP", "CONTAINER-RUNTIME", "containerd://", "v1.36"],
    )?;
    shows(
        &["get", "deployments,statefulsets,services,pvc"],
        &["6/6", "2/2", "ClusterIP", "Bound", "replicated"],
    )?;
    shows(
        &["describe", &pod],
        &["Events:", "Scheduled", "Pulled", "Started", "Ready"],
    )?;
    shows(
        &["describe", "deployment", "web"],
        &["NewReplicaSet", "RollingUpdateStrategy", "6 available"],
    )?;
    shows(
        &["describe", "node"],
        &["Allocated resources", "Capacity", "Non-terminated Pods"],
    )?;
    shows(&["logs", &pod], &["started"])?;
    shows(&["get", "events"], &["Scheduled", "SuccessfulCreate"])?;
    shows(
        &["exec", &pod, "--", "sh", "-c", "echo $GREETING; exit 0"],
        &["hello"],
    )?;
    let failed = crate::shell::attempt(&mut cluster.kubectl(&["exec", &pod, "--", "sh", "-c", "exit 7"]))?;
    ensure(failed.status.code() == Some(7), || {
        format!("exec ended with {:?}", failed.status)
    })?;
    terminal(cluster, &pod)?;
    follow(cluster, &pod)?;
    port_forward(cluster, &pod)?;
    copy(cluster, pod.trim_start_matches("pod/"))?;
    rollout(cluster)?;
    shows(
        &[
            "get",
            "pods",
            "-A",
            "-o",
            "jsonpath={.items[*].metadata.namespace}",
        ],
        &["default"],
    )?;
    let pod = web_pod(cluster)?;
    cluster.kube(&["delete", &pod, "--wait=true", "--timeout=30s"])?;
    cluster.rolled_out("deployment/web", Duration::from_secs(30))
}

/// The same with Debian's own kubectl, 1.20: the oldest client that the platform promises to serve. It is fetched
/// and unpacked, not installed, since it may conflict with the kubectl that the machine has.
pub fn debian_kubectl(cluster: &Cluster) -> Result<()> {
    let dir = cluster.dir.join("debian-kubectl");
    std::fs::create_dir_all(&dir)?;
    let mut fetch = std::process::Command::new("sh");
    fetch.current_dir(&dir).args([
        "-c",
        "apt-get -q download kubernetes-client && dpkg -x kubernetes-client_*.deb .",
    ]);
    let fetched = crate::shell::attempt(&mut fetch)?;
    let program = dir.join("usr/bin/kubectl");
    if !program.is_file() {
        let why = crate::shell::text(&fetched.stderr);
        println!(
            "not tested: Debian's kubernetes-client cannot be had here: {}",
            why.trim()
        );
        return Ok(());
    }
    let version = output(std::process::Command::new(&program).args(["version", "--client", "--short"]))?;
    println!("{}", version.trim());
    kubectl(&cluster.with_kubectl(&program))
}

/// `exec -it` with a real terminal, through `script`.
fn terminal(cluster: &Cluster, pod: &str) -> Result<()> {
    let program = cluster.kubectl(&[]).get_program().to_string_lossy().into_owned();
    let command = format!("{program} exec -it {pod} -- sh -c 'test -t 0 && echo terminal-$((40+2))'");
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &command, "/dev/null"])
        .env("KUBECONFIG", cluster.kubeconfig());
    let shown = output(&mut script)?;
    ensure(shown.contains("terminal-42"), || {
        format!("exec -it shows {shown:?}")
    })
}

/// `logs -f` delivers a line that is written after it started.
fn follow(cluster: &Cluster, pod: &str) -> Result<()> {
    let mut child = cluster
        .kubectl(&["logs", "-f", pod])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(800));
    cluster.kube(&["exec", pod, "--", "sh", "-c", "echo later > /proc/1/fd/1"])?;
    std::thread::sleep(Duration::from_millis(1500));
    let _ = child.kill();
    let mut shown = String::new();
    child
        .stdout
        .take()
        .context("output")?
        .read_to_string(&mut shown)?;
    let _ = child.wait();
    ensure(shown.contains("later"), || format!("logs -f shows {shown:?}"))
}

fn port_forward(cluster: &Cluster, pod: &str) -> Result<()> {
    let mut child = cluster
        .kubectl(&["port-forward", pod, "18080:8080"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = eventually("port-forward", Duration::from_secs(10), || {
        output(std::process::Command::new("curl").args(["-sf", "-m", "3", "http://127.0.0.1:18080/"]))
    });
    let _ = child.kill();
    let _ = child.wait();
    let name = pod.trim_start_matches("pod/");
    let answer = answer?;
    ensure(answer.trim() == name, || {
        format!("port-forward reached {answer:?} instead of {name}")
    })
}

fn copy(cluster: &Cluster, pod: &str) -> Result<()> {
    let local = cluster.write("copied", "some content\n")?;
    let (local, remote) = (local.to_string_lossy().into_owned(), format!("{pod}:/tmp/copied"));
    cluster.kube(&["cp", &local, &remote])?;
    let back = cluster.dir.join("copied-back");
    cluster.kube(&["cp", &remote, &back.to_string_lossy()])?;
    ensure(std::fs::read_to_string(&back)? == "some content\n", || {
        "kubectl cp changed the file".into()
    })
}

fn rollout(cluster: &Cluster) -> Result<()> {
    cluster.kube(&["scale", "deployment/web", "--replicas=3"])?;
    cluster.rolled_out("deployment/web", Duration::from_secs(30))?;
    cluster.kube(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    cluster.rolled_out("deployment/web", Duration::from_secs(60))?;
    let history = cluster.kube(&["rollout", "history", "deployment/web"])?;
    let revisions = history
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()));
    ensure(revisions.count() >= 2, || format!("history:\n{history}"))?;
    cluster.kube(&["rollout", "undo", "deployment/web"])?;
    cluster.rolled_out("deployment/web", Duration::from_secs(60))?;
    let object = cluster.json(&["get", "deployment", "web"])?;
    let env = object["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    ensure(!env.contains("COLOUR"), || format!("undo left {env}"))?;
    let patch = r#"{"metadata":{"annotations":{"edited":"yes"}}}"#;
    cluster.kube(&["patch", "deployment", "web", "-p", patch])?;
    let editor = cluster.write(
        "editor.sh",
        "#!/bin/sh\nsed -i 's/edited: \"yes\"/edited: \"again\"/' \"$1\"\n",
    )?;
    output(std::process::Command::new("chmod").arg("0755").arg(&editor))?;
    output(
        cluster
            .kubectl(&["edit", "deployment", "web"])
            .env("KUBE_EDITOR", &editor),
    )?;
    let object = cluster.json(&["get", "deployment", "web"])?;
    ensure(object["metadata"]["annotations"]["edited"] == "again", || {
        "kubectl edit changed nothing".into()
    })
}

/// A pod reaches the Service by its DNS name on other nodes, the pods of a headless Service by theirs, itself
/// through the Service, and the API with its token; the host reaches the NodePort.
pub fn network(cluster: &Cluster) -> Result<()> {
    let pod = web_pod(cluster)?;
    let inside = |script: &str| cluster.kube(&["exec", &pod, "--", "sh", "-c", script]);
    // Every single connection counts: a proxy that drops one in a hundred is broken.
    let ask = "for i in $(seq 60); do timeout 3 wget -qO- http://web.default.svc.cluster.local/ 2>&1 || echo failed; done | sort | uniq -c";
    let answers = inside(ask)?;
    ensure(!answers.contains("failed"), || {
        format!("answers of the Service:\n{answers}")
    })?;
    let servers = answers.lines().count();
    ensure(servers >= 2, || format!("the Service leads to {servers} pod"))?;
    let names = inside("timeout 3 wget -qO- http://store-1.store:8080/names")?;
    ensure(names.contains("store-1"), || format!("store-1 answers {names:?}"))?;
    let forget = ["delete", "rolebinding", "viewer", "--ignore-not-found"];
    cluster.kube(&forget)?;
    // With the pod's own token; busybox's wget cannot talk to a server that has only elliptic-curve certificates.
    let api = "timeout 5 hikube api /api/v1/namespaces/default/pods 2>&1";
    let denied = inside(&format!("{api} || true"))?;
    ensure(denied.contains("403"), || {
        format!("a service account without a role got {denied:?}")
    })?;
    cluster.kube(&[
        "create",
        "rolebinding",
        "viewer",
        "--clusterrole=view",
        "--serviceaccount=default:default",
    ])?;
    let allowed = eventually("the API from a pod", Duration::from_secs(5), || {
        let listed = inside(api)?;
        ensure(listed.contains("PodList"), || listed.clone())?;
        Ok(listed)
    })?;
    ensure(allowed.contains("store-0"), || "the list lacks store-0".into())?;
    let service = cluster.json(&["get", "service", "web"])?;
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("nodePort")?;
    for host in crate::ledger::hosts(cluster, "")? {
        let url = format!("http://{host}:{port}/");
        output(std::process::Command::new("curl").args(["-sf", "-m", "5", &url]))?;
    }
    Ok(())
}

/// A pod of the Deployment `web` that runs and is not on its way out, as `pod/NAME`.
fn web_pod(cluster: &Cluster) -> Result<String> {
    let pods = cluster.json(&["get", "pods", "-l", "app=web"])?;
    let mut pods = pods["items"].as_array().into_iter().flatten();
    let pod = pods.find(|p| is_ready(p) && p["metadata"]["deletionTimestamp"].is_null());
    let name = pod
        .and_then(|p| p["metadata"]["name"].as_str())
        .context("no pod of web is Ready")?;
    Ok(format!("pod/{name}"))
}
