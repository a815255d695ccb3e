//! What projected volumes hold: configMap, secret, downwardAPI, projected with all of them and tokens.

use super::atomic::{File, Payload, is_safe};
use super::{Error, PodView};
use crate::context::Context;
use crate::objects::{self, Kind, ObjectKey};
use crate::pods::fields;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, ServiceAccountTokenProjection, Volume};
use std::collections::HashSet;

const DEFAULT_MODE: i32 = 0o644;

/// ConfigMaps and Secrets that the volumes of a pod need.
pub fn references(volumes: &[Volume], namespace: &str) -> HashSet<ObjectKey> {
    let mut keys = HashSet::new();
    let mut add = |kind, name: Option<&str>| {
        keys.extend(name.map(|name| ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }));
    };
    for volume in volumes {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, Some(&source.name));
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, source.secret_name.as_deref());
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            add(
                Kind::ConfigMap,
                source.config_map.as_ref().map(|s| s.name.as_str()),
            );
            add(Kind::Secret, source.secret.as_ref().map(|s| s.name.as_str()));
        }
    }
    keys
}

/// Whether a volume's content comes from the API, and whether it must never reach a disk.
pub fn is_projection(volume: &Volume) -> Option<bool> {
    if volume.config_map.is_some() || volume.downward_api.is_some() {
        return Some(false);
    }
    (volume.secret.is_some() || volume.projected.is_some()).then_some(true)
}

/// One source of files.
enum Source<'a> {
    Object(ObjectKey, Option<&'a [KeyToPath]>, bool),
    Downward(&'a [DownwardAPIVolumeFile]),
    Token(&'a ServiceAccountTokenProjection),
}

/// The sources of a volume, and the permissions of its files.
fn sources<'a>(pod: &PodView<'_>, volume: &'a Volume) -> (i32, Vec<Source<'a>>) {
    let object = |kind, name: &str, items: &'a Option<Vec<KeyToPath>>, optional: Option<bool>| {
        Source::Object(pod.key(kind, name), items.as_deref(), optional == Some(true))
    };
    if let Some(s) = &volume.config_map {
        let source = object(Kind::ConfigMap, &s.name, &s.items, s.optional);
        return (s.default_mode.unwrap_or(DEFAULT_MODE), vec![source]);
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        let source = object(Kind::Secret, name, &s.items, s.optional);
        return (s.default_mode.unwrap_or(DEFAULT_MODE), vec![source]);
    }
    if let Some(s) = &volume.downward_api {
        let source = Source::Downward(s.items.as_deref().unwrap_or_default());
        return (s.default_mode.unwrap_or(DEFAULT_MODE), vec![source]);
    }
    let Some(projected) = &volume.projected else {
        return (DEFAULT_MODE, Vec::new());
    };
    let mut sources = Vec::new();
    for source in projected.sources.iter().flatten() {
        let (map, secret) = (source.config_map.as_ref(), source.secret.as_ref());
        sources.extend(map.map(|s| object(Kind::ConfigMap, &s.name, &s.items, s.optional)));
        sources.extend(secret.map(|s| object(Kind::Secret, &s.name, &s.items, s.optional)));
        let downward = source.downward_api.as_ref();
        sources.extend(downward.map(|s| Source::Downward(s.items.as_deref().unwrap_or_default())));
        sources.extend(source.service_account_token.as_ref().map(Source::Token));
    }
    (projected.default_mode.unwrap_or(DEFAULT_MODE), sources)
}

/// The files of a volume.
pub async fn payload(context: &Context, pod: &PodView<'_>, volume: &Volume) -> Result<Payload, Error> {
    let mut payload = Payload::new();
    let (mode, sources) = sources(pod, volume);
    for source in sources {
        match source {
            Source::Object(key, items, optional) => {
                object(context, key, items, optional, mode, &mut payload).await?;
            }
            Source::Downward(items) => downward(context, pod, items, mode, &mut payload)?,
            Source::Token(source) => {
                let token = super::tokens::token(context, pod, source).await?;
                let owner = token_owner(pod);
                let restricted = owner.is_some() || pod.fs_group().is_some();
                let file = File {
                    data: token.into_bytes(),
                    mode: if restricted { 0o600 } else { bits(mode) },
                    uid: owner,
                };
                insert(&mut payload, &source.path, file)?;
            }
        }
    }
    Ok(payload)
}

/// The user that all containers run as, if there is one: the token is theirs.
fn token_owner(pod: &PodView<'_>) -> Option<u32> {
    let spec = pod.pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = crate::pods::spec::containers(spec)
        .into_iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    if users.all(|user| user == Some(first)) {
        u32::try_from(first).ok()
    } else {
        None
    }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn insert(payload: &mut Payload, path: &str, file: File) -> Result<(), Error> {
    if !is_safe(path) {
        return Err(Error::Source(format!("invalid path {path:?}")));
    }
    payload.insert(path.to_owned(), file);
    Ok(())
}

async fn object(
    context: &Context,
    key: ObjectKey,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), Error> {
    let data = match context.objects.get(&key).await {
        Ok(data) => data,
        Err(objects::Error::NotFound(_)) if optional => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let file = |data: &[u8], mode: i32| File {
        data: data.to_vec(),
        mode: bits(mode),
        uid: None,
    };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (name, bytes) in &data {
            insert(payload, name, file(bytes, mode))?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => insert(payload, &item.path, file(bytes, item.mode.unwrap_or(mode)))?,
            None if optional => {}
            None => {
                let kind = key.kind.name();
                return Err(Error::Source(format!(
                    "{kind} references non-existent {kind} key: {}",
                    item.key
                )));
            }
        }
    }
    Ok(())
}

fn downward(
    context: &Context,
    pod: &PodView<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    payload: &mut Payload,
) -> Result<(), Error> {
    for item in items {
        let unsupported = |name: &str| Error::Source(format!("unsupported field {name}"));
        let value = if let Some(selector) = &item.field_ref {
            fields::field(pod.pod, &selector.field_path, pod.ips, &context.host_ips())
                .ok_or_else(|| unsupported(&selector.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            fields::resource(pod.pod, selector, None, &context.allocatable)
                .ok_or_else(|| unsupported(&selector.resource))?
        } else {
            continue;
        };
        let file = File {
            data: value.into_bytes(),
            mode: bits(item.mode.unwrap_or(mode)),
            uid: None,
        };
        insert(payload, &item.path, file)?;
    }
    Ok(())
}
