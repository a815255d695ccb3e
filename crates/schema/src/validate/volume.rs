//! Volumes of pods.

use serde_json::Value;

use super::cause::Causes;
use super::container::field_ref;
use super::resources;
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

/// A source that pods have, or that pods and persistent volumes share.
pub(super) fn one_source(c: &mut Causes, kind: &str, source: &Value) {
    match kind {
        "emptyDir" => {
            if let Some(size) = source.at(&["sizeLimit"])
                && resources::quantity(size).is_negative()
            {
                c.at("sizeLimit", |c| {
                    c.forbidden("SizeLimit field must be a valid resource quantity")
                });
            }
        }
        "hostPath" => {
            let path = source.text(&["path"]);
            if path.is_empty() {
                c.at("path", |c| c.required(""));
            } else if path.split('/').any(|part| part == "..") {
                c.at("path", |c| c.invalid(path, "must not contain '..'"));
            }
            let kinds = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            c.one_of(source, "type", &kinds, false);
        }
        "secret" => {
            c.text_required(source, "secretName");
            files(c, source);
        }
        "configMap" => {
            c.text_required(source, "name");
            files(c, source);
        }
        "persistentVolumeClaim" => c.text_required(source, "claimName"),
        "nfs" => {
            c.text_required(source, "server");
            c.text_required(source, "path");
        }
        "csi" => c.text_required(source, "driver"),
        "downwardAPI" => downward(c, source),
        "projected" => projected(c, source),
        "image" => c.one_of(source, "pullPolicy", &["Always", "IfNotPresent", "Never"], false),
        "ephemeral" => {
            if source.at(&["volumeClaimTemplate"]).is_none() {
                c.at("volumeClaimTemplate", |c| c.required(""));
            }
            c.field(source, "volumeClaimTemplate", |c, template| {
                c.at("spec", |c| super::storage::claim_spec(c, super::spec(template)));
            });
        }
        _ => {}
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

fn local_path(c: &mut Causes, holder: &Value) {
    let path = holder.text(&["path"]);
    c.at("path", |c| {
        if path.is_empty() {
            c.required("");
        } else if path.starts_with('/') {
            c.invalid(path, "must be a relative path");
        } else if path.split('/').any(|part| part == "..") {
            c.invalid(path, "must not contain '..'");
        } else if path.starts_with("..") {
            c.invalid(path, "must not start with '..'");
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
    mode(c, source, "defaultMode");
    c.each(source, "items", |c, _, item| {
        local_path(c, item);
        mode(c, item, "mode");
        if item.at(&["fieldRef"]).is_none() && item.at(&["resourceFieldRef"]).is_none() {
            c.at("fieldRef", |c| {
                c.required("one of fieldRef and resourceFieldRef is required")
            });
        }
        c.field(item, "fieldRef", |c, field| field_ref(c, field, FIELDS));
        c.field(item, "resourceFieldRef", |c, reference| {
            c.text_required(reference, "containerName");
            c.text_required(reference, "resource");
        });
    });
}

fn projected(c: &mut Causes, source: &Value) {
    /// Tokens live for ten minutes at least, and for 2^32 seconds at most.
    const TOKEN_SECONDS_MIN: i64 = 600;
    const TOKEN_SECONDS_MAX: i64 = 1 << 32;
    mode(c, source, "defaultMode");
    c.each(source, "sources", |c, _, part| {
        for (index, (kind, inner)) in part.as_object().into_iter().flatten().enumerate() {
            c.at(kind, |c| {
                if index > 0 {
                    c.forbidden("may not specify more than 1 volume type");
                    return;
                }
                match kind.as_str() {
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
                    _ => {}
                }
            });
        }
    });
}
