//! What the driver supports, and how requests are checked against it.

use protos::csi::volume_capability::access_mode::Mode;
use protos::csi::volume_capability::{AccessType, MountVolume};
use protos::csi::{CapacityRange, TopologyRequirement, VolumeCapability};
use std::collections::HashMap;
use tonic::Status;

/// Key of the topology of nodes and of `local` volumes.
pub(crate) const REGION_KEY: &str = "topology.kubernetes.io/region";
/// Size of a volume for which nobody asked for one. Bytes.
const DEFAULT_SIZE: i64 = 1 << 30;
/// Smallest volume that both file systems are happy on is 300 MiB for xfs; ext4 and raw volumes can be smaller.
const MINIMUM_SIZE: i64 = 16 << 20;
/// Largest volume: what ext4 with 4 KiB blocks and the engine's extents were designed for. Bytes.
pub(crate) const MAXIMUM_SIZE: i64 = 64 << 40;
/// The engine's block. Bytes.
const BLOCK: i64 = 4096;
/// As the interface limits strings. Bytes.
const NAME_LIMIT: usize = 128;
/// Ids are DNS labels. Bytes.
const LABEL_LIMIT: usize = 63;

/// How a volume is to be used on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// As a raw device.
    Block,
    /// With a file system of this type (empty: the default) and these mount options.
    Mount { fs_type: String, options: Vec<String> },
}

/// A checked capability.
#[derive(Clone, Debug)]
pub(crate) struct Capability {
    pub(crate) access: Access,
    /// The mode forbids writing.
    pub(crate) read_only: bool,
    /// The mode forbids a second user on the node.
    pub(crate) single_user: bool,
}

/// Checks one capability; the text says what is not supported.
pub(crate) fn check(capability: &VolumeCapability) -> Result<Capability, String> {
    let mode = capability
        .access_mode
        .ok_or("volume_capability: no access_mode")?
        .mode;
    let mode = Mode::try_from(mode).map_err(|_| format!("access_mode {mode} is unknown"))?;
    let (read_only, single_user) = match mode {
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => (false, false),
        Mode::SingleNodeReaderOnly => (true, false),
        Mode::SingleNodeSingleWriter => (false, true),
        other => {
            return Err(format!(
                "access_mode {} is not supported: a volume is attached to one node at a time",
                other.as_str_name()
            ));
        }
    };
    let access = match &capability.access_type {
        None => return Err("volume_capability: neither block nor mount".into()),
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => check_mount(mount)?,
    };
    Ok(Capability {
        access,
        read_only,
        single_user,
    })
}

fn check_mount(mount: &MountVolume) -> Result<Access, String> {
    if !mount.fs_type.is_empty() && !crate::filesystem::SUPPORTED.contains(&mount.fs_type.as_str()) {
        return Err(format!(
            "fs_type {} is not supported, only ext4 and xfs",
            mount.fs_type
        ));
    }
    Ok(Access::Mount {
        fs_type: mount.fs_type.clone(),
        options: mount.mount_flags.clone(),
    })
}

/// As [`check`], for a request's field that has to be there.
pub(crate) fn required(capability: Option<&VolumeCapability>) -> Result<Capability, Status> {
    let capability = capability.ok_or_else(|| Status::invalid_argument("volume_capability is missing"))?;
    check(capability).map_err(Status::invalid_argument)
}

/// A request's string that has to be there.
pub(crate) fn text<'a>(field: &str, value: &'a str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(Status::invalid_argument(format!("{field} is missing")));
    }
    Ok(value)
}

/// Bounds of a volume's size in bytes: (least, most).
pub(crate) fn size(range: Option<&CapacityRange>) -> Result<(i64, i64), Status> {
    let (required, limit) = range.map_or((0, 0), |r| (r.required_bytes, r.limit_bytes));
    if required < 0 || limit < 0 {
        return Err(Status::invalid_argument("capacity_range: negative"));
    }
    let most = if limit == 0 {
        MAXIMUM_SIZE
    } else {
        limit.min(MAXIMUM_SIZE) / BLOCK * BLOCK
    };
    let wanted = if required > 0 {
        required
    } else {
        DEFAULT_SIZE.min(most)
    };
    let wanted = wanted.max(MINIMUM_SIZE);
    // Checked before rounding up, which could overflow.
    if wanted > most {
        return Err(Status::out_of_range(format!(
            "capacity_range: no size of {MINIMUM_SIZE} to {MAXIMUM_SIZE} bytes is in {required} to {limit}"
        )));
    }
    let least = wanted.div_euclid(BLOCK) * BLOCK + if wanted % BLOCK == 0 { 0 } else { BLOCK };
    if least > most {
        return Err(Status::out_of_range(format!(
            "capacity_range: no multiple of {BLOCK} bytes in it"
        )));
    }
    Ok((least, most))
}

/// The volume's id: its name where that is a DNS label, as the names of provisioners are; otherwise one derived
/// from it, so that the same name always means the same volume.
pub(crate) fn volume_id(name: &str) -> Result<String, Status> {
    text("name", name)?;
    if name.len() > NAME_LIMIT {
        return Err(Status::invalid_argument(format!(
            "name: longer than {NAME_LIMIT} bytes"
        )));
    }
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if letters && name.len() <= LABEL_LIMIT && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(name.into());
    }
    Ok(format!(
        "vol-{}",
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes())
    ))
}

/// What the parameters of a StorageClass say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) class: &'static str,
    /// Labels that are kept with each replica.
    pub(crate) labels: HashMap<String, String>,
}

/// Checks the parameters; an unknown one is refused rather than silently without effect.
pub(crate) fn parameters(given: &HashMap<String, String>) -> Result<Parameters, Status> {
    let mut class = "replicated";
    let mut labels = HashMap::new();
    for (key, value) in given {
        let mut keep = |label: &str| labels.insert(label.to_owned(), value.clone());
        match (key.as_str(), value.as_str()) {
            ("class", "replicated") => class = "replicated",
            ("class", "local") => class = "local",
            ("class", other) => {
                return Err(Status::invalid_argument(format!(
                    "parameters: class {other} is neither replicated nor local"
                )));
            }
            ("csi.storage.k8s.io/pvc/name", _) => drop(keep("claim")),
            ("csi.storage.k8s.io/pvc/namespace", _) => drop(keep("namespace")),
            ("csi.storage.k8s.io/pv/name" | "csi.storage.k8s.io/fstype", _) => {}
            (other, _) => {
                return Err(Status::invalid_argument(format!(
                    "parameters: {other} is unknown"
                )));
            }
        }
    }
    Ok(Parameters { class, labels })
}

/// The region for a volume of one member: the first that is preferred, otherwise the first that is allowed,
/// otherwise `own`.
pub(crate) fn region(requirement: Option<&TopologyRequirement>, own: &str) -> Result<String, Status> {
    let Some(requirement) = requirement else {
        return Ok(own.into());
    };
    let mut terms = requirement
        .preferred
        .iter()
        .chain(&requirement.requisite)
        .peekable();
    if terms.peek().is_none() {
        return Ok(own.into());
    }
    terms
        .find_map(|t| t.segments.get(REGION_KEY))
        .cloned()
        .ok_or_else(|| {
            Status::resource_exhausted(format!("accessibility_requirements: no term with {REGION_KEY}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::Code;

    fn range(required_bytes: i64, limit_bytes: i64) -> CapacityRange {
        CapacityRange {
            required_bytes,
            limit_bytes,
        }
    }

    #[test]
    fn sizes_keep_their_bounds() {
        assert_eq!(size(None).unwrap().0, DEFAULT_SIZE);
        assert_eq!(size(Some(&range(1 << 30, 0))).unwrap(), (1 << 30, MAXIMUM_SIZE));
        assert_eq!(size(Some(&range((1 << 30) + 1, 0))).unwrap().0, (1 << 30) + 4096);
        assert_eq!(size(Some(&range(0, 20 << 20))).unwrap(), (20 << 20, 20 << 20));
        let code = |r: CapacityRange| size(Some(&r)).unwrap_err().code();
        assert_eq!(code(range(2 << 30, 1 << 30)), Code::OutOfRange);
        assert_eq!(code(range(i64::MAX, 0)), Code::OutOfRange);
        assert_eq!(code(range((1 << 30) + 1, (1 << 30) + 2)), Code::OutOfRange);
        assert_eq!(code(range(-1, 0)), Code::InvalidArgument);
    }

    #[test]
    fn unknown_parameters_are_refused() {
        let one = |k: &str, v: &str| HashMap::from([(k.to_owned(), v.to_owned())]);
        assert_eq!(parameters(&one("class", "local")).unwrap().class, "local");
        assert_eq!(parameters(&HashMap::new()).unwrap().class, "replicated");
        let claim = parameters(&one("csi.storage.k8s.io/pvc/name", "data")).unwrap();
        assert_eq!(claim.labels["claim"], "data");
        assert!(parameters(&one("class", "fast")).is_err());
        assert!(parameters(&one("clas", "local")).is_err());
    }

    proptest! {
        #[test]
        fn ids_are_labels_and_stable(name in ".{1,60}") {
            prop_assume!(name.len() <= NAME_LIMIT);
            let id = volume_id(&name).unwrap();
            prop_assert!(id.len() <= LABEL_LIMIT);
            prop_assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert_eq!(id, volume_id(&name).unwrap());
        }

        #[test]
        fn any_range_gives_a_block_multiple_within_it(required in 0_i64.., limit in 0_i64..) {
            if let Ok((least, most)) = size(Some(&range(required, limit))) {
                prop_assert!(least % BLOCK == 0 && least >= required && least <= most);
                prop_assert!(limit == 0 || most <= limit);
            }
        }
    }
}
