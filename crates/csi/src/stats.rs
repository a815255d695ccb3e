//! How full a published volume is, and whether it is well.

use crate::mount::{self, blocking};
use crate::mountinfo;
use crate::node::Host;
use protos::csi::volume_usage::Unit;
use protos::csi::{NodeGetVolumeStatsResponse, VolumeCondition, VolumeUsage};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tonic::Status;

/// A file system that does not say how full it is within this time is stalled.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Use and condition of the volume at `path`. A volume whose device is gone under its mount is abnormal; one that
/// only does not answer may go on, and is reported as DEADLINE_EXCEEDED or INTERNAL of the question itself.
pub(crate) async fn of(host: &Host, id: &str, path: &Path) -> Result<NodeGetVolumeStatsResponse, Status> {
    let attached = host.engine.attached(id).await?;
    let absent = || Status::not_found(format!("volume {id} is not at {}", path.display()));
    let mounts = mount::mounts()?;
    let mounted = mountinfo::at(&mounts, path).ok_or_else(absent)?;
    let Some(device) = attached else {
        return Ok(gone("the volume's engine has ended under its mount"));
    };
    let number = mount::device_number(&device).await?;
    let raw = mounted.device != number;
    // A raw volume is the device node itself.
    if raw && !matches!(mount::device_number(path).await, Ok(raw) if raw == number) {
        return Ok(gone("the volume has another device than its mount"));
    }
    let question = host.questions.begin(id)?;
    let target = path.to_owned();
    let answer = blocking("ask the volume", TIMEOUT, move || {
        let _until_answered = question;
        Ok(ask(&device, (!raw).then_some(target.as_path())))
    });
    let (size, stat) = match answer.await? {
        Ok(answer) => answer,
        Err(error) => return Ok(gone(&format!("the device fails: {error}"))),
    };
    let Some(stat) = stat else {
        let total = VolumeUsage {
            available: 0,
            total: signed(size),
            used: 0,
            unit: Unit::Bytes.into(),
        };
        return Ok(NodeGetVolumeStatsResponse {
            usage: vec![total],
            volume_condition: Some(condition(false, "the device answers")),
        });
    };
    let turned_read_only = mounted.super_read_only && !mounted.read_only;
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

fn gone(why: &str) -> NodeGetVolumeStatsResponse {
    NodeGetVolumeStatsResponse {
        usage: Vec::new(),
        volume_condition: Some(condition(true, why)),
    }
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

/// Size of the device, and use of the file system on it if there is one; an error means that reads fail.
fn ask(device: &Path, file_system: Option<&Path>) -> std::io::Result<(u64, Option<rustix::fs::StatVfs>)> {
    use std::io::Seek;
    mount::read_first_block(device)?;
    let size = std::fs::File::open(device)?.seek(std::io::SeekFrom::End(0))?;
    let stat = file_system.map(rustix::fs::statvfs).transpose()?;
    Ok((size, stat))
}

/// Questions to volumes that have not been answered. A thread waits in the kernel for each, so that a volume that
/// stalls is asked once and not again and again.
#[derive(Default)]
pub(crate) struct Questions(Mutex<HashMap<String, Weak<()>>>);

impl Questions {
    /// Notes a question; it is open until the returned token is dropped. UNAVAILABLE while another one is.
    fn begin(&self, id: &str) -> Result<Arc<()>, Status> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, token| token.strong_count() > 0);
        if open.contains_key(id) {
            return Err(Status::unavailable(format!(
                "volume {id} has not answered the last question yet"
            )));
        }
        let token = Arc::new(());
        open.insert(id.into(), Arc::downgrade(&token));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_does_not_answer_is_not_asked_again() {
        let questions = Questions::default();
        let first = questions.begin("a").unwrap();
        assert_eq!(questions.begin("a").unwrap_err().code(), tonic::Code::Unavailable);
        questions.begin("b").unwrap();
        drop(first);
        questions.begin("a").unwrap();
    }
}
