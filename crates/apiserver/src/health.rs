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
    let mut report = String::new();
    let mut failed = false;
    for check in CHECKS.iter().filter(applies) {
        // Writing to a string cannot fail.
        let _ = match (check.probe)(server) {
            None => writeln!(report, "[+]{} ok", check.name),
            Some(reason) => {
                failed = true;
                writeln!(report, "[-]{} failed: {reason}", check.name)
            }
        };
    }
    if failed {
        return respond::text(500, format!("{report}{endpoint} check failed\n"));
    }
    if query.flag("verbose") {
        return respond::text(200, format!("{report}{endpoint} check passed\n"));
    }
    respond::text(200, "ok")
}
