//! ConfigMaps, secrets; cron schedules.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// Total size of a ConfigMap or Secret, in bytes.
const DATA_MAX: usize = 1024 * 1024;

/// Bytes that a base64 text stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count().min(2);
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// `ConfigMap`.
pub(super) fn config_map(c: &mut Causes, o: &Value) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        c.field(o, field, |c, data| {
            for (key, value) in data.as_object().into_iter().flatten() {
                c.key(key, |c| {
                    c.invalid_each(key, names::config_map_key(key));
                    if field == "data" && o.at(&["binaryData", key]).is_some() {
                        c.invalid(key.as_str(), "duplicate of key present in binaryData");
                    }
                });
                let text = value.as_str().unwrap_or_default();
                size += if field == "data" {
                    text.len()
                } else {
                    decoded_length(text)
                };
            }
        });
    }
    if size > DATA_MAX {
        c.too_long(DATA_MAX);
    }
}

/// `Secret`.
pub(super) fn secret(c: &mut Causes, o: &Value) {
    let mut size = 0;
    c.field(o, "data", |c, data| {
        for (key, value) in data.as_object().into_iter().flatten() {
            c.key(key, |c| c.invalid_each(key, names::config_map_key(key)));
            size += decoded_length(value.as_str().unwrap_or_default());
        }
        if size > DATA_MAX {
            c.too_long(DATA_MAX);
        }
    });
    let needs = |c: &mut Causes, key: &str| {
        if o.at(&["data", key]).is_none() {
            c.at("data", |c| c.key(key, |c| c.required("")));
        }
    };
    match o.text(&["type"]) {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if o.text(&["metadata", "annotations", annotation]).is_empty() {
                c.at("metadata.annotations", |c| c.key(annotation, |c| c.required("")));
            }
        }
        "kubernetes.io/dockercfg" => json_entry(c, o, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_entry(c, o, ".dockerconfigjson"),
        "kubernetes.io/basic-auth"
            if o.at(&["data", "username"]).is_none() && o.at(&["data", "password"]).is_none() =>
        {
            needs(c, "username");
            needs(c, "password");
        }
        "kubernetes.io/ssh-auth" => needs(c, "ssh-privatekey"),
        "kubernetes.io/tls" => {
            needs(c, "tls.crt");
            needs(c, "tls.key");
        }
        _ => {}
    }
}

fn json_entry(c: &mut Causes, o: &Value, key: &str) {
    use base64::Engine as _;
    let entry = o.at(&["data", key]).and_then(Value::as_str);
    c.at("data", |c| {
        c.key(key, |c| match entry {
            None => c.required(""),
            Some(text) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .unwrap_or_default();
                if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
                    c.invalid("<secret contents redacted>", &error.to_string());
                }
            }
        });
    });
}

/// Checks a cron schedule: five fields, or a name.
pub(super) fn cron_schedule(schedule: &str) -> Result<(), String> {
    if let Some(name) = schedule.strip_prefix('@') {
        let known = [
            "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly",
        ];
        if known.contains(&name) || name.starts_with("every ") {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    if schedule.contains("TZ") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    const MONTHS: &[&str] = &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: {fields:?}",
            fields.len()
        ));
    }
    let none: &[&str] = &[];
    let bounds = [
        (0, 59, none),
        (0, 23, none),
        (1, 31, none),
        (1, 12, MONTHS),
        (0, 6, DAYS),
    ];
    for (field, (least, most, words)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            cron_part(part, least, most, words)?;
        }
    }
    Ok(())
}

/// `*`, `a`, `a-b`, each with an optional `/step`.
fn cron_part(part: &str, least: u32, most: u32, words: &[&str]) -> Result<(), String> {
    let (range, step) = part
        .split_once('/')
        .map_or((part, None), |(range, step)| (range, Some(step)));
    let number = |text: &str| -> Result<u32, String> {
        if let Some(index) = words.iter().position(|w| w.eq_ignore_ascii_case(text)) {
            return Ok(u32::try_from(index).unwrap_or_default() + least);
        }
        text.parse().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(range)?, number(range)?),
    };
    if from < least {
        return Err(format!(
            "beginning of range ({from}) below minimum ({least}): {part}"
        ));
    }
    if to > most {
        return Err(format!("end of range ({to}) above maximum ({most}): {part}"));
    }
    if from > to {
        return Err(format!(
            "beginning of range ({from}) beyond end of range ({to}): {part}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-12 1,15 jan-mar MON", "@daily", "0 0 * * 0"] {
            assert_eq!(cron_schedule(good), Ok(()), "{good}");
        }
        for bad in [
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@never",
            "TZ=UTC * * * * *",
        ] {
            assert!(cron_schedule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_lengths() {
        assert_eq!(
            (decoded_length(""), decoded_length("eA=="), decoded_length("eHh4")),
            (0, 1, 3)
        );
    }
}
