//! Jobs: completion modes, policies of failure and success, schedules.

use serde_json::Value;

use super::cause::Causes;
use super::checks::domain_prefixed_path;
use super::{apps, meta, pod};
use crate::names;
use crate::value::ValueExt as _;

/// Most rules of a policy, and most conditions in one.
const RULES_MAX: usize = 20;
/// Most exit codes of a rule.
const CODES_MAX: usize = 255;
/// Most pods of an indexed Job that run at once; also the size from which the failed ones must be limited.
const INDEXED_MAX: i64 = 100_000;
/// Most failed indexes of a Job above that size, and its parallelism.
const LARGE_MAX: i64 = 10_000;
/// Longest list of indexes, in bytes.
const INDEXES_MAX: usize = 64 * 1024;

/// `Job`.
pub(super) fn job(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        let spec = super::spec(o);
        self::spec(c, spec);
        if spec.at(&["selector"]).is_none() {
            c.at("selector", |c| c.required(""));
        }
        apps::selects_template(c, spec);
    });
}

/// The spec of a Job or of the template of one.
fn spec(c: &mut Causes, spec: &Value) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        c.not_negative(spec, name);
    }
    completion(c, spec);
    managed_by(c, spec);
    failure_policy(c, spec);
    success_policy(c, spec);
    let replacements = ["Failed", "TerminatingOrFailed"];
    let replacement = spec.text(&["podReplacementPolicy"]);
    if spec.at(&["podFailurePolicy"]).is_some() && replacement == "TerminatingOrFailed" {
        c.at("podReplacementPolicy", |c| {
            c.not_supported(replacement, &["Failed"])
        });
    } else {
        c.one_of(spec, "podReplacementPolicy", &replacements, false);
    }
    c.field(spec, "selector", meta::label_selector);
    match spec.at(&["template"]) {
        None => c.at("template.spec.containers", |c| c.required("")),
        Some(template) => c.at("template", |c| self::template(c, spec, template)),
    }
}

fn completion(c: &mut Causes, spec: &Value) {
    let indexed = spec.text(&["completionMode"]) == "Indexed";
    c.one_of(spec, "completionMode", &["Indexed", "NonIndexed"], false);
    let (completions, parallelism) = (spec.int(&["completions"]), spec.int(&["parallelism"]));
    let failed_max = spec.int(&["maxFailedIndexes"]);
    if indexed {
        if completions.is_none() {
            c.at("completions", |c| c.required("when completion mode is Indexed"));
        }
        if let Some(parallelism) = parallelism.filter(|p| *p > INDEXED_MAX) {
            c.at("parallelism", |c| {
                c.invalid(
                    parallelism,
                    &format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed"),
                );
            });
        }
    }
    let Some(limit) = spec.int(&["backoffLimitPerIndex"]) else {
        if failed_max.is_some() {
            c.at("backoffLimitPerIndex", |c| {
                c.required("when maxFailedIndexes is specified")
            });
        }
        return;
    };
    if !indexed {
        c.at("backoffLimitPerIndex", |c| {
            c.invalid(limit, "requires indexed completion mode")
        });
    }
    let Some(completions) = completions else { return };
    if let Some(failed) = failed_max.filter(|failed| *failed > completions) {
        c.at("maxFailedIndexes", |c| {
            c.invalid(failed, "must be less than or equal to completions")
        });
    }
    if completions > INDEXED_MAX {
        match failed_max {
            None => c.at("maxFailedIndexes", |c| {
                c.required(&format!(
                    "must be specified when completions is above {INDEXED_MAX}"
                ));
            }),
            Some(failed) if failed > LARGE_MAX => c.at("maxFailedIndexes", |c| {
                c.invalid(
                    failed,
                    &format!(
                        "must be less than or equal to {LARGE_MAX} when completions are above {INDEXED_MAX}"
                    ),
                );
            }),
            _ => {}
        }
        if let Some(parallelism) = parallelism.filter(|p| *p > LARGE_MAX) {
            c.at("parallelism", |c| {
                c.invalid(
                    parallelism,
                    &format!(
                        "must be less than or equal to {LARGE_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per index"
                    ),
                );
            });
        }
    }
}

fn managed_by(c: &mut Causes, spec: &Value) {
    const NAME_MAX: usize = 63;
    if spec.at(&["managedBy"]).is_none() {
        return;
    }
    let name = spec.text(&["managedBy"]);
    c.at("managedBy", |c| {
        c.invalid_each(name, domain_prefixed_path(name));
        if name.len() > NAME_MAX {
            c.too_long(NAME_MAX);
        }
    });
}

fn template(c: &mut Causes, spec: &Value, template: &Value) {
    pod::template(c, template);
    match template.text(&["spec", "restartPolicy"]) {
        "Always" => c.at("spec.restartPolicy", |c| {
            c.required("valid values: \"OnFailure\", \"Never\"")
        }),
        "OnFailure" if spec.at(&["podFailurePolicy"]).is_some() => c.at("spec.restartPolicy", |c| {
            c.invalid(
                "OnFailure",
                "only \"Never\" is supported when podFailurePolicy is specified",
            );
        }),
        _ => {}
    }
}

fn failure_policy(c: &mut Causes, spec: &Value) {
    let Some(policy) = spec.at(&["podFailurePolicy"]) else {
        return;
    };
    let mut containers: Vec<&str> = Vec::new();
    for list in ["containers", "initContainers"] {
        containers.extend(
            spec.items(&["template", "spec", list])
                .iter()
                .map(|m| m.text(&["name"])),
        );
    }
    c.at("podFailurePolicy", |c| {
        c.at_most(policy, "rules", RULES_MAX);
        c.each(policy, "rules", |c, _, rule| {
            let action = rule.text(&["action"]);
            c.one_of(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], true);
            if action == "FailIndex" && spec.at(&["backoffLimitPerIndex"]).is_none() {
                c.at("action", |c| {
                    c.invalid(action, "requires the backoffLimitPerIndex to be set")
                });
            }
            let conditions = !rule.items(&["onPodConditions"]).is_empty();
            c.field(rule, "onExitCodes", |c, codes| exit_codes(c, codes, &containers));
            if conditions {
                pod_conditions(c, rule);
            }
            match (rule.at(&["onExitCodes"]).is_some(), conditions) {
                (true, true) => {
                    c.invalid_bare("specifying both OnExitCodes and OnPodConditions is not supported");
                }
                (false, false) => {
                    c.invalid_bare("specifying one of OnExitCodes and OnPodConditions is required")
                }
                _ => {}
            }
        });
    });
}

fn pod_conditions(c: &mut Causes, rule: &Value) {
    c.at_most(rule, "onPodConditions", RULES_MAX);
    c.each(rule, "onPodConditions", |c, _, condition| {
        let kind = condition.text(&["type"]);
        c.at("type", |c| c.invalid_each(kind, names::qualified_name(kind)));
        c.one_of(condition, "status", &["False", "True", "Unknown"], true);
    });
}

fn exit_codes(c: &mut Causes, codes: &Value, containers: &[&str]) {
    let operator = codes.text(&["operator"]);
    c.one_of(codes, "operator", &["In", "NotIn"], true);
    let container = codes.text(&["containerName"]);
    if codes.at(&["containerName"]).is_some() && !containers.contains(&container) {
        c.at("containerName", |c| {
            c.invalid(
                container,
                "must be one of the container or initContainer names in the pod template",
            );
        });
    }
    let values: Vec<i64> = codes
        .items(&["values"])
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    if values.is_empty() {
        c.at("values", |c| {
            c.invalid(Vec::<Value>::new(), "at least one value is required")
        });
    }
    c.at_most(codes, "values", CODES_MAX);
    c.at("values", |c| {
        for (index, value) in values.iter().enumerate() {
            if operator == "In" && *value == 0 {
                c.index(index, |c| c.invalid(0, "must not be 0 for the In operator"));
            }
            if values[..index].contains(value) {
                c.index(index, |c| c.duplicate(*value));
            }
        }
        if !values.is_sorted() {
            c.invalid(values.clone(), "must be ordered");
        }
    });
}

fn success_policy(c: &mut Causes, spec: &Value) {
    let Some(policy) = spec.at(&["successPolicy"]) else {
        return;
    };
    let completions = spec.int(&["completions"]).unwrap_or_default();
    c.at("successPolicy", |c| {
        if spec.text(&["completionMode"]) != "Indexed" {
            c.invalid(policy.clone(), "requires indexed completion mode");
        }
        if policy.items(&["rules"]).is_empty() {
            c.at("rules", |c| {
                c.required("at least one rules must be specified when the successPolicy is specified");
            });
        }
        c.at_most(policy, "rules", RULES_MAX);
        c.each(policy, "rules", |c, _, rule| success_rule(c, rule, completions));
    });
}

fn success_rule(c: &mut Causes, rule: &Value, completions: i64) {
    let (count, indexes) = (rule.int(&["succeededCount"]), rule.at(&["succeededIndexes"]));
    if count.is_none() && indexes.is_none() {
        c.required("at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = None;
    if let Some(indexes) = indexes.and_then(Value::as_str) {
        c.at("succeededIndexes", |c| {
            if indexes.len() > INDEXES_MAX {
                c.too_long(INDEXES_MAX);
            }
            match count_indexes(indexes, completions) {
                Ok(found) => total = Some(found),
                Err(problem) => c.invalid(indexes, &format!("error parsing succeededIndexes: {problem}")),
            }
        });
    }
    let Some(count) = count else { return };
    c.at("succeededCount", |c| {
        if count < 0 {
            c.invalid(count, "must be greater than or equal to 0");
        }
        if count > completions {
            c.invalid(
                count,
                &format!("must be less than or equal to {completions} (the number of specified completions)"),
            );
        }
        if let Some(total) = total.filter(|total| count > *total) {
            c.invalid(
                count,
                &format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"),
            );
        }
    });
}

/// How many indexes a list such as `1,3-5` names: in order, each once, below the number of completions.
fn count_indexes(list: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last = -1;
    for interval in list.split(',').filter(|interval| !interval.is_empty()) {
        let number = |text: &str| -> Result<i64, String> {
            text.parse::<u32>()
                .map(i64::from)
                .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
        };
        let (from, to) = match interval.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(interval)?, number(interval)?),
        };
        for index in [from, to] {
            if index >= completions {
                return Err(format!("too large index: {index:?}"));
            }
        }
        if from <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        if interval.contains('-') && to <= from {
            return Err(format!("non-increasing order, previous: {from}, current: {to}"));
        }
        total += to - from + 1;
        last = to;
    }
    Ok(total)
}

/// `CronJob`.
pub(super) fn cron_job(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        let spec = super::spec(o);
        let schedule = spec.text(&["schedule"]);
        c.at("schedule", |c| {
            if schedule.is_empty() {
                c.required("");
            } else if let Err(problem) = super::config::cron_schedule(schedule) {
                c.invalid(schedule, &problem);
            }
        });
        for name in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            c.not_negative(spec, name);
        }
        c.one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], true);
        if spec.at(&["timeZone"]).is_some() {
            c.at("timeZone", |c| time_zone(c, spec.text(&["timeZone"])));
        }
        c.at("jobTemplate.spec", |c| {
            let template = spec.at(&["jobTemplate", "spec"]).unwrap_or(&Value::Null);
            self::spec(c, template);
            if template.flag(&["manualSelector"]) {
                c.at("manualSelector", |c| c.not_supported("true", &["nil", "false"]));
            }
        });
    });
}

fn time_zone(c: &mut Causes, zone: &str) {
    /// First parts of the names in the time zone database, and the names that have only one part.
    const AREAS: &[&str] = &[
        "Africa",
        "America",
        "Antarctica",
        "Arctic",
        "Asia",
        "Atlantic",
        "Australia",
        "Brazil",
        "Canada",
        "Chile",
        "Etc",
        "Europe",
        "Indian",
        "Mexico",
        "Pacific",
        "US",
    ];
    const ALONE: &[&str] = &[
        "CET",
        "CST6CDT",
        "Cuba",
        "EET",
        "EST",
        "EST5EDT",
        "Egypt",
        "Eire",
        "Factory",
        "GB",
        "GB-Eire",
        "GMT",
        "GMT+0",
        "GMT-0",
        "GMT0",
        "Greenwich",
        "HST",
        "Hongkong",
        "Iceland",
        "Iran",
        "Israel",
        "Jamaica",
        "Japan",
        "Kwajalein",
        "Libya",
        "MET",
        "MST",
        "MST7MDT",
        "NZ",
        "NZ-CHAT",
        "Navajo",
        "PRC",
        "PST8PDT",
        "Poland",
        "Portugal",
        "ROC",
        "ROK",
        "Singapore",
        "Turkey",
        "UCT",
        "UTC",
        "Universal",
        "W-SU",
        "WET",
        "Zulu",
    ];
    if zone.is_empty() {
        c.invalid(zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        c.invalid(
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else {
        let known = match zone.split_once('/') {
            Some((area, rest)) => AREAS.contains(&area) && !rest.is_empty(),
            None => ALONE.contains(&zone),
        };
        if !known || zone.contains("..") {
            c.invalid(zone, &format!("unknown time zone {zone}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::count_indexes;

    #[test]
    fn lists_of_indexes() {
        assert_eq!(count_indexes("0,2-4,9", 10), Ok(5));
        assert_eq!(count_indexes("", 10), Ok(0));
        for bad in ["10", "2,1", "3-3", "a", "1-", "4-2", "1-2-3"] {
            assert!(count_indexes(bad, 10).is_err(), "{bad}");
        }
    }
}
