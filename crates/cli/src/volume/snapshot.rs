//! `hikube volume snapshot`.

use super::{CommonArgs, IdArgs, api, columns, connect, connect_to_holder, explain, human};
use crate::args::Format;
use crate::show;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Commands on the snapshots of a volume.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep the volume as it is now. What is overwritten later takes space, nothing else does.
    Create(NameArgs),
    /// List the snapshots of a volume, oldest first.
    List(IdArgs),
    /// Delete a snapshot.
    Delete(NameArgs),
}

/// A snapshot of a volume.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Which volume.
    #[command(flatten)]
    volume: IdArgs,
    /// Name of the snapshot, unique in the volume: lower-case letters, digits and dashes.
    name: String,
}

/// What to clone.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The volume.
    #[command(flatten)]
    volume: IdArgs,
    /// Its snapshot.
    #[arg(long)]
    snapshot: String,
    /// Name of the new volume.
    new: String,
}

/// Makes a volume of a snapshot.
pub async fn clone(args: &CloneArgs) -> Result<()> {
    let request = api::CloneVolumeRequest {
        id: args.volume.id.clone(),
        snapshot: args.snapshot.clone(),
        new_id: args.new.clone(),
    };
    let answer = connect_to_holder(&args.volume.common, &args.volume.id)
        .await?
        .clone_volume(request)
        .await
        .map_err(explain)?;
    let volume = answer
        .into_inner()
        .volume
        .context("the engine did not describe the volume")?;
    super::show(&args.volume.common, &volume)
}

/// Runs a command.
pub async fn run(command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Create(args) => create(&args).await,
        SnapshotCommand::List(args) => list(&args).await,
        SnapshotCommand::Delete(args) => delete(&args).await,
    }
}

async fn create(args: &NameArgs) -> Result<()> {
    let (id, name) = (args.volume.id.clone(), args.name.clone());
    let answer = connect_to_holder(&args.volume.common, &args.volume.id)
        .await?
        .create_snapshot(api::CreateSnapshotRequest { id, name })
        .await
        .map_err(explain)?;
    let snapshot = answer
        .into_inner()
        .snapshot
        .context("the engine did not describe the snapshot")?;
    show_all(&args.volume.common, &[snapshot], |mut all| all.remove(0))
}

async fn list(args: &IdArgs) -> Result<()> {
    let request = api::GetVolumeRequest { id: args.id.clone() };
    // Who has it attached knows of each snapshot at once.
    let answer = match connect_to_holder(&args.common, &args.id).await {
        Ok(mut engine) => engine.get_volume(request).await,
        Err(_) => connect(&args.common).await?.get_volume(request).await,
    };
    let volume = answer
        .map_err(explain)?
        .into_inner()
        .volume
        .context("the engine did not describe the volume")?;
    show_all(&args.common, &volume.snapshots, Value::Array)
}

async fn delete(args: &NameArgs) -> Result<()> {
    let (id, name) = (args.volume.id.clone(), args.name.clone());
    connect_to_holder(&args.volume.common, &args.volume.id)
        .await?
        .delete_snapshot(api::DeleteSnapshotRequest { id, name })
        .await
        .map_err(explain)?;
    say!("snapshot {} of volume {} is deleted", args.name, args.volume.id);
    Ok(())
}

fn show_all(common: &CommonArgs, all: &[api::Snapshot], form: impl Fn(Vec<Value>) -> Value) -> Result<()> {
    if common.output == Format::Table {
        say_part!("{}", table(all));
        return Ok(());
    }
    show::value(common.output, &form(all.iter().map(value).collect()))
}

/// Snapshots for people.
pub fn table(all: &[api::Snapshot]) -> String {
    let mut rows = vec![["SNAPSHOT", "SIZE", "USED", "SEQ"].map(String::from).to_vec()];
    rows.extend(all.iter().map(|s| {
        vec![
            s.name.clone(),
            human(s.size_bytes),
            human(s.used_bytes),
            s.seq.to_string(),
        ]
    }));
    columns(&rows)
}

/// A snapshot for programs.
pub fn value(snapshot: &api::Snapshot) -> Value {
    json!({
        "name": snapshot.name,
        "seq": snapshot.seq,
        "sizeBytes": snapshot.size_bytes,
        "usedBytes": snapshot.used_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_shown() {
        let one = api::Snapshot {
            name: "nightly".into(),
            seq: 77,
            size_bytes: 1 << 30,
            used_bytes: 3 << 20,
        };
        let text = table(std::slice::from_ref(&one));
        assert_eq!(text, "SNAPSHOT  SIZE   USED   SEQ\nnightly   1 GiB  3 MiB  77\n");
        assert_eq!(value(&one)["sizeBytes"], 1 << 30);
    }
}
