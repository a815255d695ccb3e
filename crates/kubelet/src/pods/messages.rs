//! The last words of a container: what it wrote to its termination message file, or the end of its log.

use super::spec::PodId;
use crate::context::Paths;
use crate::runtime::ContainerRecord;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Most that is shown of a termination message, as upstream.
const MAX_MESSAGE_BYTES: u64 = 4096;
/// Most that is shown of a log instead, as upstream.
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// The last words of an exited container; empty if it left none.
pub fn last_words(paths: &Paths, id: &PodId, record: &ContainerRecord) -> String {
    let file = paths.termination_log(&id.uid, &record.name, record.restart_count);
    let message = read_end(&file, MAX_MESSAGE_BYTES);
    if !message.is_empty() || record.exit_code == 0 || record.termination_policy != "FallbackToLogsOnError" {
        return message;
    }
    // Lines in the log carry a time, a stream and a tag before their text.
    let log = read_end(Path::new(&record.log_path), MAX_LOG_BYTES * 2);
    let lines: Vec<&str> = log
        .lines()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    let text = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
    let cut = text
        .len()
        .saturating_sub(usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX));
    let cut = (cut..=text.len())
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    text[cut..].to_owned()
}

fn read_end(path: &Path, limit: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_back_to_the_log_when_asked_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths {
            root: dir.path().into(),
            logs: dir.path().into(),
        };
        let id = PodId {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        let log = dir.path().join("0.log");
        std::fs::write(
            &log,
            "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n",
        )
        .expect("written");
        let mut record = ContainerRecord {
            name: "c".into(),
            exit_code: 1,
            log_path: log.to_string_lossy().into(),
            ..ContainerRecord::default()
        };
        assert_eq!(last_words(&paths, &id, &record), "");
        record.termination_policy = "FallbackToLogsOnError".into();
        assert_eq!(last_words(&paths, &id, &record), "one\ntwo");
        let file = paths.termination_log("u", "c", 0);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        std::fs::write(&file, "bye").expect("written");
        assert_eq!(last_words(&paths, &id, &record), "bye");
    }
}
