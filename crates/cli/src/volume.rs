//! `hikube volume`: works on stores and an engine alone, without Kubernetes.

mod scrub;
mod snapshot;

use crate::args::Format;
use crate::show;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use protos::engine as api;
use protos::engine::engine_client::EngineClient;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use tonic::transport::Channel;

/// Commands on volumes, through the engine of a node.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume with a replica in each region.
    Create(CreateArgs),
    /// List all volumes.
    List {
        /// Where and how.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a volume with its replicas.
    Inspect(IdArgs),
    /// Attach a volume to the engine's node and print its block device, or the URI at which NBD clients find it.
    /// Takes it over from any other node.
    Attach {
        /// Which volume.
        #[command(flatten)]
        volume: IdArgs,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// Serve it to NBD clients instead: path of a Unix socket, or host:port (there under TLS, for clients with a
        /// certificate of the cluster's storage network).
        #[arg(long, value_name = "SOCKET|HOST:PORT")]
        nbd: Option<String>,
        /// File with the key of an encrypted volume.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Flush a volume and remove its device.
    Detach {
        /// Which volume.
        #[command(flatten)]
        volume: IdArgs,
        /// Even while it is in use or cannot be flushed: what was not synced is lost.
        #[arg(long)]
        force: bool,
    },
    /// Grow a volume, online if it is attached here.
    Expand {
        /// Which volume.
        #[command(flatten)]
        volume: IdArgs,
        /// New size: bytes, or with K, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti.
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Compare the replicas of a volume block by block.
    Verify(IdArgs),
    /// Read all replicas of a volume, compare every block with its checksum, and repair what does not match from another
    /// region. Stores do it by themselves once a week; this begins it now.
    Scrub(scrub::ScrubArgs),
    /// Keep a volume as it is, at one moment in all regions; list what is kept, or delete it.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Make a new volume with the content of a snapshot.
    Clone(snapshot::CloneArgs),
    /// Delete a volume in all regions. Regions that are away learn of it when they are back.
    Delete(IdArgs),
}

/// Where the engine is, and how to print.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Unix socket of the engine. Without it: of the first running engine of the cluster on this machine.
    #[arg(long, env = "HIKUBE_ENGINE_SOCKET")]
    engine_socket: Option<PathBuf>,
    /// Name of the cluster.
    #[command(flatten)]
    cluster: crate::args::Name,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// A volume by name.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Name of the volume.
    id: String,
    /// Where and how.
    #[command(flatten)]
    common: CommonArgs,
}

/// What to create.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the volume: a DNS label.
    id: String,
    /// Size: bytes, or with K, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti.
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// `replicated` (three regions) or `local` (one).
    #[arg(long, default_value = "replicated")]
    class: String,
    /// Regions; default: all of three, or the engine's own and two others.
    #[arg(long, value_delimiter = ',')]
    regions: Vec<String>,
    /// Labels `key=value`, kept with each replica.
    #[arg(long = "label", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Encrypt it with the key in this file, at least 32 bytes (say, of `openssl rand -base64 48`). The key is not
    /// stored: each attach needs it again.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Where and how.
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs a command.
pub async fn run(command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::Create(args) => create(args).await,
        VolumeCommand::List { common } => list(&common).await,
        VolumeCommand::Inspect(args) => inspect(&args).await,
        VolumeCommand::Attach {
            volume,
            read_only,
            nbd,
            key_file,
        } => {
            let request = api::AttachVolumeRequest {
                id: volume.id.clone(),
                read_only,
                nbd: nbd.map(absolute).transpose()?.unwrap_or_default(),
                encryption_key: read_key(key_file.as_deref())?,
            };
            attach(&volume, request).await
        }
        VolumeCommand::Detach { volume, force } => {
            let request = api::DetachVolumeRequest {
                id: volume.id.clone(),
                force,
            };
            connect(&volume.common)
                .await?
                .detach_volume(request)
                .await
                .map_err(explain)?;
            say!("volume {} is detached", volume.id);
            Ok(())
        }
        VolumeCommand::Expand { volume, size } => expand(&volume, size).await,
        VolumeCommand::Verify(args) => verify(&args).await,
        VolumeCommand::Scrub(args) => scrub::run(&args).await,
        VolumeCommand::Clone(args) => snapshot::clone(&args).await,
        VolumeCommand::Snapshot(command) => snapshot::run(command).await,
        VolumeCommand::Delete(args) => {
            let request = api::DeleteVolumeRequest { id: args.id.clone() };
            connect(&args.common)
                .await?
                .delete_volume(request)
                .await
                .map_err(explain)?;
            say!("volume {} is deleted", args.id);
            Ok(())
        }
    }
}

async fn create(args: CreateArgs) -> Result<()> {
    let request = api::CreateVolumeRequest {
        id: args.id,
        size_bytes: args.size,
        class: args.class,
        regions: args.regions,
        labels: args.labels.into_iter().collect(),
        encryption_key: read_key(args.key_file.as_deref())?,
    };
    let answer = connect(&args.common)
        .await?
        .create_volume(request)
        .await
        .map_err(explain)?;
    let volume = answer
        .into_inner()
        .volume
        .context("the engine did not describe the volume")?;
    show(&args.common, &volume)
}

async fn list(common: &CommonArgs) -> Result<()> {
    let answer = connect(common)
        .await?
        .list_volumes(api::ListVolumesRequest {})
        .await
        .map_err(explain)?;
    let volumes = answer.into_inner().volumes;
    match common.output {
        Format::Table => {
            let mut rows = vec![
                ["NAME", "CLASS", "SIZE", "USED", "EPOCH", "NODE", "REPLICAS"]
                    .map(String::from)
                    .to_vec(),
            ];
            for volume in &volumes {
                rows.push(vec![
                    volume.id.clone(),
                    volume.class.clone(),
                    human(volume.size_bytes),
                    human(volume.used_bytes),
                    volume.epoch.to_string(),
                    dash(&volume.node),
                    summary(volume),
                ]);
            }
            say_part!("{}", columns(&rows));
            Ok(())
        }
        _ => show::value(common.output, &Value::Array(volumes.iter().map(value).collect())),
    }
}

async fn inspect(args: &IdArgs) -> Result<()> {
    let request = api::GetVolumeRequest { id: args.id.clone() };
    let answer = connect(&args.common)
        .await?
        .get_volume(request)
        .await
        .map_err(explain)?;
    let volume = answer
        .into_inner()
        .volume
        .context("the engine did not describe the volume")?;
    show(&args.common, &volume)
}

/// The engine has another working directory: paths are made absolute here.
fn absolute(address: String) -> Result<String> {
    if !address.contains('/') {
        return Ok(address);
    }
    let path = std::path::absolute(&address).with_context(|| format!("resolve {address}"))?;
    Ok(path.display().to_string())
}

/// The key, or nothing without a file.
fn read_key(file: Option<&std::path::Path>) -> Result<Vec<u8>> {
    match file {
        None => Ok(Vec::new()),
        Some(path) => {
            let key = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            if key.is_empty() {
                bail!("{} is empty", path.display());
            }
            Ok(key)
        }
    }
}

async fn attach(args: &IdArgs, request: api::AttachVolumeRequest) -> Result<()> {
    let answer = connect(&args.common)
        .await?
        .attach_volume(request)
        .await
        .map_err(explain)?
        .into_inner();
    match args.common.output {
        Format::Table => say!("{}", answer.device_path),
        format => {
            let value = json!({"devicePath": answer.device_path, "epoch": answer.epoch});
            show::value(format, &value)?;
        }
    }
    Ok(())
}

async fn expand(args: &IdArgs, size_bytes: u64) -> Result<()> {
    let request = api::ExpandVolumeRequest {
        id: args.id.clone(),
        size_bytes,
    };
    let answer = connect_to_holder(&args.common, &args.id)
        .await?
        .expand_volume(request)
        .await
        .map_err(explain)?;
    let volume = answer
        .into_inner()
        .volume
        .context("the engine did not describe the volume")?;
    show(&args.common, &volume)
}

async fn verify(args: &IdArgs) -> Result<()> {
    let request = api::VerifyVolumeRequest { id: args.id.clone() };
    let report = connect_to_holder(&args.common, &args.id)
        .await?
        .verify_volume(request)
        .await
        .map_err(explain)?
        .into_inner();
    let mut checksums: Vec<_> = report.checksums.iter().collect();
    checksums.sort();
    if args.common.output == Format::Table {
        for (region, checksum) in &checksums {
            say!("{region}: {checksum}");
        }
        for line in &report.differences {
            say!("{line}");
        }
        say!("{} compared in each region", human(report.compared_bytes));
    } else {
        let checksums: HashMap<_, _> = checksums.into_iter().collect();
        let value = json!({
            "equal": report.equal,
            "comparedBytes": report.compared_bytes,
            "differences": report.differences,
            "checksums": checksums,
        });
        show::value(args.common.output, &value)?;
    }
    if !report.equal {
        bail!("the replicas of volume {} differ", args.id);
    }
    if args.common.output == Format::Table {
        say!("the replicas are equal");
    }
    Ok(())
}

async fn connect(common: &CommonArgs) -> Result<EngineClient<Channel>> {
    let socket = match &common.engine_socket {
        Some(socket) => socket.clone(),
        None => find_socket(&common.cluster.name)?,
    };
    replication::api::connect(&socket)
        .await
        .with_context(|| format!("no engine answers at {}", socket.display()))
}

/// The engine that has the volume attached, if it runs on this machine, or else any.
async fn connect_to_holder(common: &CommonArgs, id: &str) -> Result<EngineClient<Channel>> {
    let mut any = connect(common).await?;
    if common.engine_socket.is_some() {
        return Ok(any);
    }
    let request = api::GetVolumeRequest { id: id.into() };
    let volume = any
        .get_volume(request)
        .await
        .map_err(explain)?
        .into_inner()
        .volume
        .unwrap_or_default();
    if volume.attached_here || volume.node.is_empty() {
        return Ok(any);
    }
    let of_node = |path: &PathBuf| {
        path.components()
            .any(|part| part.as_os_str() == volume.node.as_str())
    };
    match find_sockets(&common.cluster.name)?.into_iter().find(of_node) {
        Some(socket) => replication::api::connect(&socket)
            .await
            .with_context(|| format!("no engine answers at {}", socket.display())),
        None => Ok(any),
    }
}

fn find_socket(cluster: &str) -> Result<PathBuf> {
    find_sockets(cluster)?
        .into_iter()
        .next()
        .with_context(|| format!("no engine of cluster {cluster} runs here; name one with --engine-socket"))
}

/// Sockets of a cluster on this machine are `/run/hikube/<cluster>/**/engine.sock`.
fn find_sockets(cluster: &str) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![(platform::Layout::new(cluster)?.run(), 0)];
    let mut found = Vec::new();
    while let Some((dir, depth)) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name() == "engine.sock" {
                // One that nobody listens on was left by a killed engine.
                if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                    found.push(path);
                }
            } else if depth < 3 && path.is_dir() {
                dirs.push((path, depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The engine's words without the wrapping of gRPC.
fn explain(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("the engine refused: {:?}", status.code()),
        message => anyhow::anyhow!("{message}"),
    }
}

fn show(common: &CommonArgs, volume: &api::Volume) -> Result<()> {
    if common.output != Format::Table {
        return show::value(common.output, &value(volume));
    }
    let mut labels: Vec<_> = volume.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.sort();
    let facts = [
        ("Name", volume.id.clone()),
        ("Class", volume.class.clone()),
        ("Size", human(volume.size_bytes)),
        ("Used", human(volume.used_bytes)),
        ("Epoch", volume.epoch.to_string()),
        ("Node", dash(&volume.node)),
        ("Device", dash(&volume.device_path)),
        ("Labels", dash(&labels.join(", "))),
    ];
    let rows: Vec<_> = facts.map(|(name, text)| vec![format!("{name}:"), text]).into();
    say_part!("{}", columns(&rows));
    say!();
    let mut rows = vec![
        ["REGION", "STATE", "LAG", "DURABLE", "SCRUBBED", "REPLICA"]
            .map(String::from)
            .to_vec(),
    ];
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    for replica in &volume.replicas {
        rows.push(vec![
            replica.region.clone(),
            replica.state.clone(),
            human(replica.lag_bytes),
            replica.durable_seq.to_string(),
            scrub::word(replica.scrub.as_ref(), now),
            replica.id.clone(),
        ]);
    }
    say_part!("{}", columns(&rows));
    if !volume.snapshots.is_empty() {
        say!();
        say_part!("{}", snapshot::table(&volume.snapshots));
    }
    Ok(())
}

fn summary(volume: &api::Volume) -> String {
    let words = volume
        .replicas
        .iter()
        .map(|r| match (r.state.as_str(), r.lag_bytes) {
            ("complete", 0) => r.region.clone(),
            ("complete", lag) => format!("{} (-{})", r.region, human(lag)),
            (state, _) => format!("{} ({state})", r.region),
        });
    words.collect::<Vec<_>>().join(", ")
}

fn value(volume: &api::Volume) -> Value {
    let replicas = volume.replicas.iter().map(|r| {
        json!({
            "region": r.region,
            "id": r.id,
            "state": r.state,
            "durableSeq": r.durable_seq,
            "lagBytes": r.lag_bytes,
            "scrub": r.scrub.as_ref().map(scrub::value),
        })
    });
    json!({
        "id": volume.id,
        "class": volume.class,
        "sizeBytes": volume.size_bytes,
        "usedBytes": volume.used_bytes,
        "labels": volume.labels,
        "epoch": volume.epoch,
        "node": volume.node,
        "attachedHere": volume.attached_here,
        "devicePath": volume.device_path,
        "replicas": replicas.collect::<Vec<_>>(),
        "snapshots": volume.snapshots.iter().map(snapshot::value).collect::<Vec<_>>(),
    })
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: the largest binary unit, with one decimal.
fn human(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = unit;
    }
    if value.fract() == 0.0 {
        format!("{value} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(format!("{unit:?} is not a unit of size")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text} is too much"))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form key=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_size("10Gi"), Ok(10 << 30));
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("1G"), Ok(1_000_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        for wrong in ["", "Gi", "1.5G", "-1", "1X", "99999999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(human(10 << 30), "10 GiB");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(0), "0 B");
    }
}
