//! Extension, admission, scheduling, leases, and the rest.

use serde_json::Value;

use super::{
    AGE, BY_AGE, BY_DATE, Column, NAME, Printer, age, condition, count, flag, name, number, or, scalar, text,
};
use crate::value::ValueExt as _;

/// The printer of a resource of another group.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "leases" => Printer {
            columns: LEASE,
            row: |o, now| vec![name(o), o.text(&["spec", "holderIdentity"]).into(), age(o, now)],
        },
        "priorityclasses" => Printer {
            columns: PRIORITY,
            row: priority,
        },
        "runtimeclasses" => Printer {
            columns: RUNTIME,
            row: |o, now| vec![name(o), o.text(&["handler"]).into(), age(o, now)],
        },
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => Printer {
            columns: WEBHOOKS,
            row: |o, now| vec![name(o), o.items(&["webhooks"]).len().into(), age(o, now)],
        },
        "validatingadmissionpolicies" => Printer {
            columns: VALIDATING,
            row: |o, n| policy(o, n, "validations"),
        },
        "mutatingadmissionpolicies" => Printer {
            columns: MUTATING,
            row: |o, n| policy(o, n, "mutations"),
        },
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => Printer {
            columns: BINDING,
            row: binding,
        },
        "apiservices" => Printer {
            columns: API_SERVICE,
            row: api_service,
        },
        "flowschemas" => Printer {
            columns: FLOW_SCHEMA,
            row: flow_schema,
        },
        "prioritylevelconfigurations" => Printer {
            columns: LEVEL,
            row: level,
        },
        "customresourcedefinitions" => BY_DATE,
        _ => BY_AGE,
    }
}

const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease"), AGE];

const PRIORITY: &[Column] = &[
    NAME,
    number("Value", "Priority of pods of the class"),
    flag("Global-Default", "Whether pods without a class get it"),
    AGE,
    text("PreemptionPolicy", "Whether its pods push out others"),
];

fn priority(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        count(o, &["value"]),
        o.flag(&["globalDefault"]).into(),
        age(o, now),
        or(o.text(&["preemptionPolicy"]), "PreemptLowerPriority"),
    ]
}

const RUNTIME: &[Column] = &[
    NAME,
    text("Handler", "Configuration of the container runtime"),
    AGE,
];
const WEBHOOKS: &[Column] = &[NAME, number("Webhooks", "Number of webhooks"), AGE];
const VALIDATING: &[Column] = &[
    NAME,
    number("Validations", "Number of validations"),
    text("ParamKind", "Kind of its parameters"),
    AGE,
];
const MUTATING: &[Column] = &[
    NAME,
    number("Mutations", "Number of mutations"),
    text("ParamKind", "Kind of its parameters"),
    AGE,
];

fn policy(o: &Value, now: i64, list: &str) -> Vec<Value> {
    let kind = o.at(&["spec", "paramKind"]);
    let kind = kind.map_or_else(String::new, |k| {
        format!("{}/{}", k.text(&["apiVersion"]), k.text(&["kind"]))
    });
    vec![
        name(o),
        o.items(&["spec", list]).len().into(),
        or(&kind, "<unset>"),
        age(o, now),
    ]
}

const BINDING: &[Column] = &[
    NAME,
    text("PolicyName", "Policy that is bound"),
    text("ParamRef", "Parameters that it is bound with"),
    AGE,
];

fn binding(o: &Value, now: i64) -> Vec<Value> {
    let parameters = o.at(&["spec", "paramRef"]).map_or_else(String::new, |p| {
        let namespace = match p.text(&["namespace"]) {
            "" => "*",
            namespace => namespace,
        };
        match p.text(&["name"]) {
            "" => format!("{namespace}/{}", super::selector(p.at(&["selector"]))),
            name => format!("{namespace}/{name}"),
        }
    });
    vec![
        name(o),
        o.text(&["spec", "policyName"]).into(),
        or(&parameters, "<unset>"),
        age(o, now),
    ]
}

const API_SERVICE: &[Column] = &[
    NAME,
    text("Service", "Service that serves the group"),
    text("Available", "Whether it answers"),
    AGE,
];

fn api_service(o: &Value, now: i64) -> Vec<Value> {
    let service = match o.at(&["spec", "service"]) {
        Some(s) => format!("{}/{}", s.text(&["namespace"]), s.text(&["name"])),
        None => "Local".to_owned(),
    };
    let available = condition(o, "Available").map_or_else(
        || "Unknown".to_owned(),
        |c| match (c.text(&["status"]), c.text(&["reason"])) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    );
    vec![name(o), service.into(), available.into(), age(o, now)]
}

const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", "Level that its requests are served at"),
    number("MatchingPrecedence", "Which schema is asked first"),
    text("DistinguisherMethod", "What makes two requests of one flow"),
    AGE,
    text("MissingPL", "Whether the level is missing"),
];

fn flow_schema(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        o.text(&["spec", "priorityLevelConfiguration", "name"]).into(),
        count(o, &["spec", "matchingPrecedence"]),
        or(o.text(&["spec", "distinguisherMethod", "type"]), "<none>"),
        age(o, now),
        or(condition(o, "Dangling").map_or("", |c| c.text(&["status"])), "?"),
    ]
}

const LEVEL: &[Column] = &[
    NAME,
    text("Type", "Whether it is limited"),
    text("NominalConcurrencyShares", "Its share of the server"),
    text("Queues", "Number of queues"),
    text("HandSize", "Queues that a flow may use"),
    text("QueueLengthLimit", "Requests that a queue holds"),
    AGE,
];

fn level(o: &Value, now: i64) -> Vec<Value> {
    let queuing = |field| {
        scalar(
            o.at(&["spec", "limited", "limitResponse", "queuing", field]),
            "<none>",
        )
    };
    vec![
        name(o),
        o.text(&["spec", "type"]).into(),
        scalar(o.at(&["spec", "limited", "nominalConcurrencyShares"]), "<none>").into(),
        queuing("queues").into(),
        queuing("handSize").into(),
        queuing("queueLengthLimit").into(),
        age(o, now),
    ]
}
