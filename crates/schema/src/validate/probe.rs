//! Probes and lifecycle handlers.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// A probe; `field` says which.
pub(super) fn probe(c: &mut Causes, probe: &Value, field: &str, spec: &Value) {
    handler(c, probe, &["exec", "httpGet", "tcpSocket", "grpc"], spec);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        c.not_negative(probe, name);
    }
    if let Some(seconds) = probe.int(&["terminationGracePeriodSeconds"]) {
        if field == "readinessProbe" {
            c.at("terminationGracePeriodSeconds", |c| {
                c.invalid(seconds, "must not be set for readinessProbes");
            });
        } else if seconds <= 0 {
            c.at("terminationGracePeriodSeconds", |c| {
                c.invalid(seconds, "must be greater than 0")
            });
        }
    }
    let successes = probe.int(&["successThreshold"]).unwrap_or(1);
    if field != "readinessProbe" && successes != 1 {
        c.at("successThreshold", |c| c.invalid(successes, "must be 1"));
    }
}

/// What a container runs after its start or before its end.
pub(super) fn lifecycle_handler(c: &mut Causes, value: &Value, spec: &Value) {
    handler(c, value, &["exec", "httpGet", "tcpSocket", "sleep"], spec);
}

/// Exactly one of several actions.
fn handler(c: &mut Causes, value: &Value, kinds: &[&str], spec: &Value) {
    let mut found = 0;
    for kind in kinds {
        c.field(value, kind, |c, action| {
            found += 1;
            if found > 1 {
                c.forbidden("may not specify more than 1 handler type");
                return;
            }
            match *kind {
                "exec" => {
                    if action.items(&["command"]).is_empty() {
                        c.at("command", |c| c.required(""));
                    }
                }
                "httpGet" => http(c, action),
                "tcpSocket" => port(c, action),
                "grpc" => c.port_number(action, "port"),
                _ => sleep(c, action, spec),
            }
        });
    }
    if found == 0 {
        c.required("must specify a handler type");
    }
}

fn http(c: &mut Causes, action: &Value) {
    c.text_required(action, "path");
    port(c, action);
    c.one_of(action, "scheme", &["HTTP", "HTTPS"], true);
    for header in action.items(&["httpHeaders"]) {
        let name = header.text(&["name"]);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            c.at("httpHeaders", |c| c.invalid(name, HEADER));
        }
    }
}

fn sleep(c: &mut Causes, action: &Value, spec: &Value) {
    let seconds = action.int(&["seconds"]).unwrap_or_default();
    let Some(grace) = spec.int(&["terminationGracePeriodSeconds"]) else {
        return;
    };
    if seconds < 0 || seconds > grace {
        c.invalid(
            seconds,
            &format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
        );
    }
}

/// A port by number or name.
pub(super) fn port(c: &mut Causes, action: &Value) {
    match action.at(&["port"]) {
        Some(Value::String(name)) => c.at("port", |c| c.invalid_each(name, names::port_name(name))),
        _ => c.port_number(action, "port"),
    }
}
