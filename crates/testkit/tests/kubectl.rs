//! The API as kubectl uses it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{kubectl, namespace};
use hikube_testkit::Cluster;

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: toolbox
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn everyday_commands() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let admin = cluster.admin.clone();
    tokio::task::spawn_blocking(move || {
        let run = |arguments: &[&str], input: &str| -> String {
            let all: Vec<&str> = ["-n", "t"].iter().chain(arguments).copied().collect();
            let (ok, out, errors) = kubectl(&admin, &all, input);
            assert!(ok, "{arguments:?}: {errors}");
            out
        };
        run(&["apply", "-f", "-"], MANIFEST);
        let again = run(&["apply", "-f", "-"], MANIFEST);
        assert_eq!(again.matches("unchanged").count(), 3, "{again}");
        let changed = MANIFEST.replace("{name: B, value: \"2\"}", "{name: C, value: \"3\"}");
        run(&["apply", "-f", "-"], &changed);
        let env = run(
            &[
                "get",
                "deploy",
                "web",
                "-o",
                "jsonpath={.spec.template.spec.containers[0].env[*].name}",
            ],
            "",
        );
        assert_eq!(env, "A C");
        run(&["scale", "deploy", "web", "--replicas=5"], "");
        let generation = run(
            &[
                "get",
                "deploy",
                "web",
                "-o",
                "jsonpath={.spec.replicas} {.metadata.generation}",
            ],
            "",
        );
        assert_eq!(generation, "5 3");
        run(&["set", "image", "deploy/web", "web=other"], "");
        run(&["label", "configmap", "settings", "tier=front"], "");
        run(&["annotate", "configmap", "settings", "note=x"], "");
        let table = run(&["get", "configmap", "-l", "tier=front"], "");
        assert!(table.contains("NAME") && table.contains("settings"), "{table}");
        let wide = run(&["get", "deploy", "-o", "wide"], "");
        assert!(wide.contains("CONTAINERS") && wide.contains("other"), "{wide}");
        run(
            &[
                "patch",
                "configmap",
                "settings",
                "--type=json",
                "-p",
                r#"[{"op":"replace","path":"/data/colour","value":"red"}]"#,
            ],
            "",
        );
        assert_eq!(
            run(
                &["get", "configmap", "settings", "-o", "jsonpath={.data.colour}"],
                ""
            ),
            "red"
        );
        run(&["create", "secret", "generic", "s", "--from-literal=a=b"], "");
        run(&["create", "configmap", "typed", "--from-literal=a=b"], "");
        run(&["create", "deployment", "typed", "--image=x"], "");
        run(&["run", "pod", "--image=x"], "");
        assert!(run(&["describe", "pod", "pod"], "").contains("kube-api-access-"));
        assert!(run(&["describe", "deploy", "web"], "").contains("Replicas:"));
        let explained = run(&["explain", "pod.spec.containers"], "");
        assert!(
            explained.contains("image") && explained.contains("List of containers belonging to the pod"),
            "{explained}"
        );
        assert!(run(&["api-resources"], "").contains("deployments"));
        assert_eq!(run(&["auth", "can-i", "delete", "pods"], "").trim(), "yes");
        run(&["delete", "pod", "pod"], "");
        run(&["delete", "deploy,svc,cm", "--all", "--wait=false"], "");
        assert_eq!(run(&["get", "deploy", "-o", "name"], ""), "");
        let (ok, _, errors) = kubectl(&admin, &["get", "pod", "none"], "");
        assert!(!ok && errors.contains("pods \"none\" not found"), "{errors}");
        let bad = MANIFEST.replace("replicas: 2", "replicsa: 2");
        let (ok, _, errors) = kubectl(&admin, &["-n", "t", "apply", "-f", "-"], &bad);
        assert!(
            !ok && errors.contains("unknown field \"spec.replicsa\""),
            "{errors}"
        );
    })
    .await
    .unwrap();
}
