//! How full a published volume is, and whether it is well.

use crate::mount::{self, blocking};
use crate::mountinfo;
use crate::node::Host;
use protos::csi::volume_usage::Unit;
use protos::csi::{NodeGetVolumeStatsResponse, VolumeCondition, VolumeUsage};
use std::path::Path;
use std::time::Duration;
use tonic::Status;

/// A file system that does not say how full it is within this time is stalled.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Use and condition of the volume at `path`.
pub(crate) async fn of(host: &Host, id: &str, path: &Path) -> Result<NodeGetVolumeStatsResponse, Status> {
    let attached = host.engine.attached(id).await?;
    let absent = || Status::not_found(format!("volume {id} is not at {}", path.display()));
    let device = attached.ok_or_else(absent)?;
    let number = mount::device_number(&device).await?;
    let mounts = mount::mounts()?;
    let mounted = mountinfo::at(&mounts, path).ok_or_else(absent)?;
    if mounted.device != number {
        let raw = mount::device_number(path).await.map_err(|_| absent())?;
        if raw != number {
            return Err(absent());
        }
        return Ok(NodeGetVolumeStatsResponse {
            usage: vec![device_usage(&device).await?],
            volume_condition: Some(condition(false, "the device answers")),
        });
    }
    let turned_read_only = mounted.super_read_only && !mounted.read_only;
    let target = path.to_owned();
    let stat = blocking("statvfs", TIMEOUT, move || Ok(rustix::fs::statvfs(&target)?)).await;
    let stat = match stat {
        Ok(stat) => stat,
        Err(status) => {
            return Ok(NodeGetVolumeStatsResponse {
                usage: Vec::new(),
                volume_condition: Some(condition(true, status.message())),
            });
        }
    };
    let usage = |unit: Unit, scale: u64, total: u64, free: u64, available: u64| VolumeUsage {
        available: signed(available.saturating_mul(scale)),
        total: signed(total.saturating_mul(scale)),
        used: signed(total.saturating_sub(free).saturating_mul(scale)),
        unit: unit.into(),
    };
    let said = if turned_read_only {
        "read-only after an error"
    } else {
        "mounted"
    };
    Ok(NodeGetVolumeStatsResponse {
        usage: vec![
            usage(
                Unit::Bytes,
                stat.f_frsize,
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
            ),
            usage(Unit::Inodes, 1, stat.f_files, stat.f_ffree, stat.f_favail),
        ],
        volume_condition: Some(condition(turned_read_only, said)),
    })
}

fn condition(abnormal: bool, message: &str) -> VolumeCondition {
    VolumeCondition {
        abnormal,
        message: message.into(),
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

async fn device_usage(device: &Path) -> Result<VolumeUsage, Status> {
    let path = device.to_owned();
    let size = blocking("size of the device", TIMEOUT, move || {
        use std::io::Seek;
        std::fs::File::open(path)?.seek(std::io::SeekFrom::End(0))
    })
    .await?;
    Ok(VolumeUsage {
        available: 0,
        total: signed(size),
        used: 0,
        unit: Unit::Bytes.into(),
    })
}
