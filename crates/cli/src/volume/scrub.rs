//! `hikube volume scrub`.

use super::{CommonArgs, api, columns, connect, connect_to_holder, explain, human};
use crate::args::Format;
use crate::show;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the engine is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// Once all regions have ended, what was found may take so long to be repaired.
const REPAIR_LOOKS: u32 = 20;

/// What to scrub.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Name of the volume; without it all volumes, one after the other.
    id: Option<String>,
    /// Wait for the end, show how far it is, and fail if something could not be repaired.
    #[arg(long)]
    wait: bool,
    /// Where and how.
    #[command(flatten)]
    common: CommonArgs,
}

/// Begins scrubs.
pub async fn run(args: &ScrubArgs) -> Result<()> {
    let ids = match &args.id {
        Some(id) => vec![id.clone()],
        None => {
            let mut engine = connect(&args.common).await?;
            let all = engine.list_volumes(api::ListVolumesRequest {}).await;
            let all = all.map_err(explain)?.into_inner().volumes;
            all.into_iter().map(|v| v.id).collect()
        }
    };
    let mut left = Vec::new();
    for id in ids {
        if !scrub(args, &id).await? {
            left.push(id);
        }
    }
    if !left.is_empty() {
        bail!("not everything could be repaired: {}", left.join(", "));
    }
    Ok(())
}

/// One volume; whether nothing is known to be damaged at the end.
async fn scrub(args: &ScrubArgs, id: &str) -> Result<bool> {
    let mut engine = connect_to_holder(&args.common, id).await?;
    let mut ask = async |begin| {
        let request = api::ScrubVolumeRequest { id: id.into(), begin };
        let answer = engine.scrub_volume(request).await.map_err(explain)?;
        anyhow::Ok(answer.into_inner().regions)
    };
    let before = ask(true).await?;
    if !args.wait {
        say!("volume {id} is being scrubbed in {} regions", before.len());
        return Ok(true);
    }
    let passes: BTreeMap<String, u64> = before.iter().map(|r| (r.region.clone(), r.passes)).collect();
    let (mut told, mut looks) = (String::new(), 0);
    loop {
        tokio::time::sleep(LOOK).await;
        let regions = ask(false).await?;
        let has_ended = |r: &api::ScrubReport| r.passes > passes.get(&r.region).copied().unwrap_or(0);
        let ended = regions.len() >= before.len() && regions.iter().all(has_ended);
        let damaged: u64 = regions.iter().map(|r| r.damaged_blocks).sum();
        if ended && (damaged == 0 || looks >= REPAIR_LOOKS) {
            print(args, id, &regions)?;
            return Ok(damaged == 0);
        }
        looks += u32::from(ended);
        let line = progress(&regions, &has_ended);
        if args.common.output == Format::Table && line != told {
            say!("{id}: {line}");
            told = line;
        }
    }
}

fn progress(regions: &[api::ScrubReport], has_ended: &impl Fn(&api::ScrubReport) -> bool) -> String {
    let words = regions.iter().map(|r| {
        let percent = if has_ended(r) {
            100
        } else {
            r.position_bytes * 100 / r.total_bytes.max(1)
        };
        format!("{} {percent} %", r.region)
    });
    words.collect::<Vec<_>>().join(", ")
}

fn print(args: &ScrubArgs, id: &str, regions: &[api::ScrubReport]) -> Result<()> {
    if args.common.output == Format::Table {
        say_part!("{}", table(regions));
        return Ok(());
    }
    let regions: Vec<Value> = regions.iter().map(value).collect();
    show::value(args.common.output, &json!({"id": id, "regions": regions}))
}

/// Scrubs for people.
fn table(regions: &[api::ScrubReport]) -> String {
    let mut rows = vec![
        ["REGION", "CHECKED", "FOUND", "REPAIRED", "DAMAGED"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(regions.iter().map(|r| {
        vec![
            r.region.clone(),
            human(r.checked_blocks * 4096),
            r.found_blocks.to_string(),
            r.repaired_blocks.to_string(),
            r.damaged_blocks.to_string(),
        ]
    }));
    columns(&rows)
}

/// A scrub in one word, for the table of replicas.
pub fn word(scrub: Option<&api::ScrubReport>, now_unix_s: u64) -> String {
    match scrub {
        None => "-".into(),
        Some(s) if s.damaged_blocks > 0 => format!("{} blocks damaged", s.damaged_blocks),
        Some(s) if s.running => format!("{} %", s.position_bytes * 100 / s.total_bytes.max(1)),
        Some(s) if s.ended_unix_s == 0 => "never".into(),
        Some(s) => {
            let age = now_unix_s.saturating_sub(s.ended_unix_s);
            match age {
                0..60 => format!("{age}s ago"),
                60..3600 => format!("{}m ago", age / 60),
                3600..172_800 => format!("{}h ago", age / 3600),
                _ => format!("{}d ago", age / 86_400),
            }
        }
    }
}

/// A scrub for programs.
pub fn value(scrub: &api::ScrubReport) -> Value {
    json!({
        "region": scrub.region,
        "running": scrub.running,
        "positionBytes": scrub.position_bytes,
        "totalBytes": scrub.total_bytes,
        "checkedBlocks": scrub.checked_blocks,
        "foundBlocks": scrub.found_blocks,
        "repairedBlocks": scrub.repaired_blocks,
        "damagedBlocks": scrub.damaged_blocks,
        "passes": scrub.passes,
        "endedUnixSeconds": scrub.ended_unix_s,
        "dueUnixSeconds": scrub.due_unix_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_is_shown_in_a_word() {
        let ended = api::ScrubReport {
            region: "geneva".into(),
            total_bytes: 200,
            checked_blocks: 256,
            passes: 3,
            ended_unix_s: 1000,
            ..api::ScrubReport::default()
        };
        assert_eq!(word(None, 5), "-");
        assert_eq!(word(Some(&api::ScrubReport::default()), 5), "never");
        for (now, wanted) in [
            (1030, "30s ago"),
            (1130, "2m ago"),
            (8300, "2h ago"),
            (1_000_000, "11d ago"),
        ] {
            assert_eq!(word(Some(&ended), now), wanted);
        }
        let running = api::ScrubReport {
            running: true,
            position_bytes: 50,
            ..ended.clone()
        };
        assert_eq!(word(Some(&running), 1030), "25 %");
        let damaged = api::ScrubReport {
            damaged_blocks: 2,
            ..ended.clone()
        };
        assert_eq!(word(Some(&damaged), 1030), "2 blocks damaged");
        assert_eq!(
            table(&[ended]),
            "REGION  CHECKED  FOUND  REPAIRED  DAMAGED\ngeneva  1 MiB    0      0         0\n"
        );
    }
}
