//! Security contexts.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// Largest user and group id.
const ID_MAX: i64 = i32::MAX as i64;

fn id(c: &mut Causes, context: &Value, name: &str) {
    if let Some(id) = context.int(&[name]).filter(|id| !(0..=ID_MAX).contains(id)) {
        c.at(name, |c| {
            c.invalid(id, &format!("must be between 0 and {ID_MAX}, inclusive"))
        });
    }
}

fn profile(c: &mut Causes, context: &Value, name: &str) {
    c.field(context, name, |c, profile| {
        let local = profile.text(&["localhostProfile"]);
        match profile.text(&["type"]) {
            "Localhost" if local.is_empty() => {
                c.at("localhostProfile", |c| {
                    c.required("must be set when seccomp type is Localhost")
                });
            }
            "RuntimeDefault" | "Unconfined" if !local.is_empty() => {
                c.at("localhostProfile", |c| {
                    c.invalid(local, "can only be set when seccomp type is Localhost");
                });
            }
            "Localhost" => c.at("localhostProfile", |c| {
                if local.starts_with('/') {
                    c.invalid(local, "must be a relative path");
                }
                if local.split('/').any(|part| part == "..") {
                    c.invalid(local, "must not contain '..'");
                }
            }),
            "RuntimeDefault" | "Unconfined" => {}
            "" => c.at("type", |c| {
                c.required("type is required when seccompProfile is set")
            }),
            other => {
                c.at("type", |c| {
                    c.not_supported(other, &["Localhost", "RuntimeDefault", "Unconfined"])
                });
            }
        }
    });
}

/// Profiles of AppArmor are like those of seccomp, with one rule less on names.
fn app_armor(c: &mut Causes, context: &Value) {
    c.field(context, "appArmorProfile", |c, profile| {
        let local = profile.text(&["localhostProfile"]);
        match profile.text(&["type"]) {
            "Localhost" if profile.at(&["localhostProfile"]).is_none() => {
                c.at("localhostProfile", |c| {
                    c.required("must be set when AppArmor type is Localhost")
                });
            }
            "Localhost" if local.trim() != local => {
                c.at("localhostProfile", |c| {
                    c.invalid(local, "must not be padded with whitespace")
                });
            }
            "Localhost" if local.is_empty() => {
                c.at("localhostProfile", |c| {
                    c.required("must be set when AppArmor type is Localhost")
                });
            }
            "RuntimeDefault" | "Unconfined" if profile.at(&["localhostProfile"]).is_some() => {
                c.at("localhostProfile", |c| {
                    c.invalid(local, "can only be set when AppArmor type is Localhost");
                });
            }
            "Localhost" | "RuntimeDefault" | "Unconfined" => {}
            "" => c.at("type", |c| {
                c.required("type is required when appArmorProfile is set")
            }),
            other => c.at("type", |c| {
                c.not_supported(other, &["Localhost", "RuntimeDefault", "Unconfined"])
            }),
        }
    });
}

/// What only Windows has.
fn windows(c: &mut Causes, context: &Value) {
    /// Longest name that Windows gives to a user, with its domain.
    const USER_MAX: usize = 104;
    c.field(context, "windowsOptions", |c, options| {
        c.name_rule(options, "gmsaCredentialSpecName", names::dns_subdomain);
        if options.at(&["gmsaCredentialSpec"]).is_some() && options.text(&["gmsaCredentialSpec"]).is_empty() {
            c.at("gmsaCredentialSpec", |c| {
                c.invalid("", "gmsaCredentialSpec cannot be an empty string")
            });
        }
        if options.at(&["runAsUserName"]).is_some() {
            let user = options.text(&["runAsUserName"]);
            c.at("runAsUserName", |c| {
                if user.is_empty() {
                    c.invalid("", "runAsUserName cannot be an empty string");
                } else if user.chars().any(char::is_control) {
                    c.invalid(user, "runAsUserName cannot contain control characters");
                } else if user.len() > USER_MAX {
                    c.invalid(
                        user,
                        &format!("runAsUserName must be no more than {USER_MAX} characters"),
                    );
                }
            });
        }
    });
}

/// The security context of a pod.
pub(super) fn pod(c: &mut Causes, context: &Value) {
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(c, context, name);
    }
    c.at("supplementalGroups", |c| {
        for (index, group) in context.items(&["supplementalGroups"]).iter().enumerate() {
            let group = group.as_i64().unwrap_or_default();
            if !(0..=ID_MAX).contains(&group) {
                c.index(index, |c| {
                    c.invalid(group, &format!("must be between 0 and {ID_MAX}, inclusive"))
                });
            }
        }
    });
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(context, "sysctls", |c, sysctl| {
        let name = sysctl.text(&["name"]);
        let part = |part: &str| {
            let (first, last) = (part.bytes().next(), part.bytes().last());
            let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            alphanumeric(first)
                && alphanumeric(last)
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        };
        c.at("name", |c| {
            if name.is_empty() {
                c.required("");
            } else if !name.split(['.', '/']).all(part) {
                c.invalid(
                    name,
                    "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                );
            } else if seen.contains(&name) {
                c.duplicate(name);
            }
        });
        seen.push(name);
    });
    c.one_of(
        context,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
        false,
    );
    c.one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], false);
    profile(c, context, "seccompProfile");
    app_armor(c, context);
    windows(c, context);
}

/// The security context of a container.
pub(super) fn container(c: &mut Causes, context: &Value, spec: &Value) {
    id(c, context, "runAsUser");
    id(c, context, "runAsGroup");
    c.one_of(context, "procMount", &["Default", "Unmasked"], false);
    let kept_apart = spec.at(&["hostUsers"]).and_then(Value::as_bool) == Some(false);
    if context.text(&["procMount"]) == "Unmasked" && !kept_apart {
        c.at("procMount", |c| {
            c.invalid("Unmasked", "`hostUsers` must be false to use `Unmasked`")
        });
    }
    profile(c, context, "seccompProfile");
    app_armor(c, context);
    windows(c, context);
    let escalation = context.at(&["allowPrivilegeEscalation"]).and_then(Value::as_bool);
    if escalation == Some(false) {
        if context.flag(&["privileged"]) {
            c.invalid(
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context.items(&["capabilities", "add"]);
        if added
            .iter()
            .any(|cap| matches!(cap.as_str(), Some("CAP_SYS_ADMIN" | "SYS_ADMIN")))
        {
            c.invalid(
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}
