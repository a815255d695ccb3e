//! Volumes of pods.

use serde_json::Value;

use super::cause::Causes;
use super::environment::{field_ref, resource_ref};
use super::volume_source;
use crate::names;
use crate::value::ValueExt as _;

/// The volumes that containers can mount.
pub(super) struct Volumes<'a> {
    all: Vec<(&'a str, &'a Value)>,
}

impl Volumes<'_> {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.all.iter().any(|(n, _)| *n == name)
    }

    pub(super) fn is_claim(&self, name: &str) -> bool {
        self.all.iter().any(|(n, volume)| {
            *n == name
                && (volume.at(&["persistentVolumeClaim"]).is_some() || volume.at(&["ephemeral"]).is_some())
        })
    }
}

/// Checks the volumes of a pod spec, and returns them for the checks of mounts.
pub(super) fn volumes<'a>(c: &mut Causes, spec: &'a Value) -> Volumes<'a> {
    let mut all: Vec<(&'a str, &'a Value)> = Vec::new();
    c.each_ref(spec, "volumes", |c, volume| {
        let name = volume.text(&["name"]);
        source(c, volume);
        c.at("name", |c| match name {
            "" => c.required(""),
            name => {
                c.invalid_each(name, names::dns_label(name));
                if all.iter().any(|(other, _)| *other == name) {
                    c.duplicate(name);
                }
            }
        });
        all.push((name, volume));
    });
    Volumes { all }
}

fn source(c: &mut Causes, volume: &Value) {
    let mut found = 0;
    for (kind, source) in volume.as_object().into_iter().flatten() {
        if kind == "name" {
            continue;
        }
        found += 1;
        c.at(kind, |c| {
            if found > 1 {
                c.forbidden("may not specify more than 1 volume type");
            } else {
                one_source(c, kind, source);
            }
        });
    }
    if found == 0 {
        c.required("must specify a volume type");
    }
}

/// A source that pods have.
fn one_source(c: &mut Causes, kind: &str, source: &Value) {
    match kind {
        "secret" => {
            c.text_required(source, "secretName");
            files(c, source);
        }
        "configMap" => {
            c.text_required(source, "name");
            files(c, source);
        }
        "persistentVolumeClaim" => c.text_required(source, "claimName"),
        "downwardAPI" => {
            mode(c, source, "defaultMode");
            downward(c, source);
        }
        "projected" => projected(c, source),
        "image" => {
            c.text_required(source, "reference");
            c.one_of(source, "pullPolicy", &["Always", "IfNotPresent", "Never"], false);
        }
        "ephemeral" => match source.at(&["volumeClaimTemplate"]) {
            None => c.at("volumeClaimTemplate", |c| c.required("")),
            Some(template) => c.at("volumeClaimTemplate", |c| {
                c.at("spec", |c| super::storage::claim_spec(c, super::spec(template)));
            }),
        },
        "gitRepo" => {
            c.text_required(source, "repository");
            let directory = source.text(&["directory"]);
            c.at("directory", |c| local(c, directory));
        }
        "csi" => {
            c.text_required(source, "driver");
            super::storage::driver_name(c, source, "driver");
            c.field(source, "nodePublishSecretRef", |c, secret| {
                c.text_required(secret, "name")
            });
        }
        _ => volume_source::shared(c, kind, source, false),
    }
}

fn mode(c: &mut Causes, holder: &Value, name: &str) {
    if let Some(mode) = holder.int(&[name]).filter(|mode| !(0..=0o777).contains(mode)) {
        c.at(name, |c| {
            c.invalid(
                mode,
                "must be a number between 0 and 0777 (octal), both inclusive",
            )
        });
    }
}

/// A path below the volume.
fn local(c: &mut Causes, path: &str) {
    if path.starts_with('/') {
        c.invalid(path, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        c.invalid(path, "must not contain '..'");
    } else if path.starts_with("..") {
        c.invalid(path, "must not start with '..'");
    }
}

/// The field `path`: a path below the volume.
pub(super) fn local_path(c: &mut Causes, holder: &Value) {
    let path = holder.text(&["path"]);
    c.at("path", |c| {
        if path.is_empty() {
            c.required("");
        } else {
            local(c, path);
        }
    });
}

/// Keys of an object as files.
fn files(c: &mut Causes, source: &Value) {
    mode(c, source, "defaultMode");
    c.each(source, "items", |c, _, item| {
        c.text_required(item, "key");
        local_path(c, item);
        mode(c, item, "mode");
    });
}

fn downward(c: &mut Causes, source: &Value) {
    const FIELDS: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    c.each(source, "items", |c, _, item| {
        local_path(c, item);
        match (item.at(&["fieldRef"]), item.at(&["resourceFieldRef"])) {
            (Some(field), resource) => {
                c.at("fieldRef", |c| field_ref(c, field, FIELDS));
                if resource.is_some() {
                    c.invalid(
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
            }
            (None, Some(resource)) => c.at("resourceFieldRef", |c| resource_ref(c, resource, true)),
            (None, None) => c.at("fieldRef", |c| {
                c.required("one of fieldRef and resourceFieldRef is required")
            }),
        }
        mode(c, item, "mode");
    });
}

/// Files that sources put at the same place.
fn taken<'a>(c: &mut Causes, paths: &mut Vec<&'a str>, path: &'a str) {
    if path.is_empty() {
        return;
    }
    if paths.contains(&path) {
        c.invalid(path, "conflicting duplicate paths");
    } else {
        paths.push(path);
    }
}

fn projected(c: &mut Causes, source: &Value) {
    mode(c, source, "defaultMode");
    let mut paths: Vec<&str> = Vec::new();
    c.each_ref(source, "sources", |c, part| {
        let parts = part.as_object();
        if parts.is_none_or(serde_json::Map::is_empty) {
            c.required("must specify a volume type");
        }
        for (index, (kind, inner)) in parts.into_iter().flatten().enumerate() {
            c.at(kind, |c| {
                if index > 0 {
                    c.forbidden("may not specify more than 1 volume type");
                    return;
                }
                projected_source(c, kind, inner);
                for item in inner.items(&["items"]) {
                    taken(c, &mut paths, item.text(&["path"]));
                }
                taken(c, &mut paths, inner.text(&["path"]));
            });
        }
    });
}

fn projected_source(c: &mut Causes, kind: &str, inner: &Value) {
    /// Tokens live for ten minutes at least, and for 2^32 seconds at most.
    const TOKEN_SECONDS_MIN: i64 = 600;
    const TOKEN_SECONDS_MAX: i64 = 1 << 32;
    match kind {
        "secret" | "configMap" => {
            c.text_required(inner, "name");
            files(c, inner);
        }
        "downwardAPI" => downward(c, inner),
        "serviceAccountToken" => {
            let seconds = inner.int(&["expirationSeconds"]).unwrap_or_default();
            c.at("expirationSeconds", |c| {
                if seconds < TOKEN_SECONDS_MIN {
                    c.invalid(seconds, "may not specify a duration less than 10 minutes");
                } else if seconds > TOKEN_SECONDS_MAX {
                    c.invalid(seconds, "may not specify a duration larger than 2^32 seconds");
                }
            });
            local_path(c, inner);
        }
        "clusterTrustBundle" => {
            match (inner.at(&["name"]), inner.at(&["signerName"])) {
                (Some(_), Some(_)) => {
                    c.invalid_bare("only one of name and signerName may be used");
                }
                (None, None) => c.required("either name or signerName must be specified"),
                (Some(_), None) if inner.at(&["labelSelector"]).is_some() => c.at("labelSelector", |c| {
                    c.invalid(
                        inner.at(&["labelSelector"]).cloned().unwrap_or_default(),
                        "labelSelector must be unset if name is specified",
                    );
                }),
                _ => {}
            }
            local_path(c, inner);
        }
        _ => {}
    }
}
