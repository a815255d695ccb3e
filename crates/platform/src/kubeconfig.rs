//! Kubeconfigs: those of components name their files, so that renewed certificates are picked up; the
//! administrator's has everything embedded, so that it can be carried elsewhere.

use base64::Engine;
use serde_json::json;
use std::io::Result;
use std::path::Path;
use tls::IdentityFiles;

/// A kubeconfig that names the files of an identity.
pub fn with_files(server: &str, user: &str, files: &IdentityFiles) -> String {
    let cluster = json!({"server": server, "certificate-authority": files.ca});
    let auth = json!({"client-certificate": files.cert, "client-key": files.key});
    render("hikube", user, cluster, auth)
}

/// A kubeconfig that holds the identity itself.
pub fn embedded(cluster: &str, server: &str, user: &str, files: &IdentityFiles) -> Result<String> {
    let data = |path: &Path| -> Result<String> {
        Ok(base64::engine::general_purpose::STANDARD.encode(std::fs::read(path)?))
    };
    let server = json!({"server": server, "certificate-authority-data": data(&files.ca)?});
    let auth = json!({
        "client-certificate-data": data(&files.cert)?,
        "client-key-data": data(&files.key)?,
    });
    Ok(render(cluster, user, server, auth))
}

/// JSON is YAML, and needs no quoting rules.
fn render(cluster: &str, user: &str, server: serde_json::Value, auth: serde_json::Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": server}],
        "users": [{"name": user, "user": auth}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    });
    yaml_serde::to_string(&config).unwrap_or_else(|_| config.to_string())
}
