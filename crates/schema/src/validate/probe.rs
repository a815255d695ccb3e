//! Probes and lifecycle handlers.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// A probe; `field` says which.
pub(super) fn probe(c: &mut Causes, probe: &Value, field: &str) {
    handler(c, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
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
pub(super) fn lifecycle_handler(c: &mut Causes, value: &Value) {
    handler(c, value, &["exec", "httpGet", "tcpSocket", "sleep"]);
}

/// Exactly one of several actions.
fn handler(c: &mut Causes, value: &Value, kinds: &[&str]) {
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
                "httpGet" => {
                    c.text_required(action, "path");
                    port(c, action);
                    c.one_of(action, "scheme", &["HTTP", "HTTPS"], true);
                    c.each(action, "httpHeaders", |c, _, header| {
                        let name = header.text(&["name"]);
                        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                        if name.is_empty() || !name.bytes().all(token) {
                            c.at("name", |c| {
                                c.invalid(
                                    name,
                                    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                                );
                            });
                        }
                    });
                }
                "tcpSocket" => port(c, action),
                "grpc" => {
                    let number = action.int(&["port"]).unwrap_or_default();
                    c.at("port", |c| {
                        for problem in names::port_number(number) {
                            c.invalid(number, &problem);
                        }
                    });
                }
                _ => {
                    let seconds = action.int(&["seconds"]).unwrap_or_default();
                    if seconds < 0 {
                        c.invalid(seconds, "must be non-negative and less than terminationGracePeriodSeconds");
                    }
                }
            }
        });
    }
    if found == 0 {
        c.required("must specify a handler type");
    }
}

/// A port by number or name.
pub(super) fn port(c: &mut Causes, action: &Value) {
    c.at("port", |c| match action.at(&["port"]) {
        Some(Value::String(name)) => c.invalid_each(name, names::port_name(name)),
        Some(number) => {
            let number = number.as_i64().unwrap_or_default();
            for problem in names::port_number(number) {
                c.invalid(number, &problem);
            }
        }
        None => {
            for problem in names::port_number(0) {
                c.invalid(0, &problem);
            }
        }
    });
}
