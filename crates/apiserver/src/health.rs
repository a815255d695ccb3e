//! `/livez`, `/readyz`, `/healthz` with named checks.

use crate::call::Response;
use crate::http::query::Query;
use crate::http::respond;
use crate::server::Server;
use crate::store::Freshness;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Check {
    name: &'static str,
    /// Only readiness depends on it.
    ready_only: bool,
    /// What is wrong, if anything.
    probe: fn(&Server) -> Option<&'static str>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "ping",
        ready_only: false,
        probe: |_| None,
    },
    Check {
        name: "log",
        ready_only: false,
        probe: |_| None,
    },
    Check {
        name: "etcd",
        ready_only: true,
        probe: |server| (!server.store.is_reachable()).then_some("the state store does not answer"),
    },
    Check {
        name: "informer-sync",
        ready_only: true,
        probe: |server| (!server.store.is_synced()).then_some("the cache is not filled yet"),
    },
    Check {
        name: "poststarthook/bootstrap",
        ready_only: true,
        probe: |server| {
            (!server.bootstrapped.load(Ordering::Acquire)).then_some("default objects are not written yet")
        },
    },
    Check {
        name: "shutdown",
        ready_only: true,
        probe: |server| server.shutdown.is_cancelled().then_some("the server is stopping"),
    },
];

/// How long the state store may take to show that it answers.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers `/{endpoint}` or `/{endpoint}/{check}`.
pub async fn answer(server: &Arc<Server>, endpoint: &str, rest: &[&str], query: &Query) -> Response {
    if endpoint == "readyz" {
        // The check reads what this question found out.
        let probe = server.store.fresh(Freshness::Newest);
        if tokio::time::timeout(PROBE_TIMEOUT, probe).await.is_err() {
            return respond::text(
                500,
                "[-]etcd failed: the state store does not answer\nreadyz check failed\n",
            );
        }
    }
    let wanted = rest.join("/");
    let applies = |check: &&Check| endpoint == "readyz" || !check.ready_only;
    if !wanted.is_empty() {
        let Some(check) = CHECKS.iter().filter(applies).find(|c| c.name == wanted) else {
            return respond::text(404, "no such check\n");
        };
        return match (check.probe)(server) {
            None => respond::text(200, "ok"),
            Some(reason) => respond::text(500, format!("{reason}\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").filter(|name| !name.is_empty()).collect();
    let (report, failed) = report(server, CHECKS.iter().filter(applies), &excluded);
    if failed {
        return respond::text(500, format!("{report}{endpoint} check failed\n"));
    }
    if query.flag("verbose") {
        return respond::text(200, format!("{report}{endpoint} check passed\n"));
    }
    respond::text(200, "ok")
}

/// One line for each check, and whether one has failed that is not excluded.
fn report<'a>(server: &Server, checks: impl Iterator<Item = &'a Check>, excluded: &[&str]) -> (String, bool) {
    let (mut report, mut failed, mut unknown) = (String::new(), false, excluded.to_vec());
    for check in checks {
        let name = check.name;
        // Writing to a string cannot fail.
        let _ = if excluded.contains(&name) {
            unknown.retain(|n| *n != name);
            writeln!(report, "[+]{name} excluded: ok")
        } else if let Some(reason) = (check.probe)(server) {
            failed = true;
            writeln!(report, "[-]{name} failed: {reason}")
        } else {
            writeln!(report, "[+]{name} ok")
        };
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|n| format!("{n:?}")).collect();
        let _ = writeln!(
            report,
            "warn: some health checks cannot be excluded: no matches for {}",
            names.join(", ")
        );
    }
    (report, failed)
}
