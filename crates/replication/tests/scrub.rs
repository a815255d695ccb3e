//! Scrubs with real stores: bytes that rot in data and in what a snapshot keeps are found and repaired although nobody reads
//! them. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::*;
use protos::engine as api;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// For what takes a second or two on an idle machine.
const LONG: Duration = Duration::from_secs(90);

type Client = protos::engine::engine_client::EngineClient<tonic::transport::Channel>;

async fn scrub(client: &mut Client, begin: bool) -> BTreeMap<String, api::ScrubReport> {
    let request = api::ScrubVolumeRequest {
        id: "vol".into(),
        begin,
    };
    let regions = client.scrub_volume(request).await.unwrap().into_inner().regions;
    regions.into_iter().map(|r| (r.region.clone(), r)).collect()
}

/// Scrubs, and waits until all regions have ended and nothing is damaged.
async fn scrubbed(client: &mut Client) -> BTreeMap<String, api::ScrubReport> {
    let before = scrub(client, true).await;
    assert_eq!(before.len(), 3);
    let mut after = BTreeMap::new();
    eventually(LONG, "the scrub ends, with everything repaired", async || {
        after = scrub(client, false).await;
        after.len() == 3
            && after
                .values()
                .all(|r| r.passes > before[&r.region].passes && r.damaged_blocks == 0)
    })
    .await;
    after
}

/// The file of the only snapshot's layer.
fn layer(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    let is_layer = |p: &PathBuf| {
        let name = p.file_name().unwrap().to_str().unwrap();
        name.starts_with("snap.") && name.ends_with(".data")
    };
    files.into_iter().find(is_layer).unwrap()
}

/// Inverts a byte of a block, of which the content comes back.
fn corrupt(path: &Path, block: u64) -> Vec<u8> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut content = vec![0; BLOCK as usize];
    file.read_exact_at(&mut content, block * BLOCK).unwrap();
    assert!(
        content.iter().any(|b| *b != 0),
        "block {block} of {path:?} is in use"
    );
    let at = block * BLOCK + 77;
    file.write_all_at(&[content[77] ^ 0xff], at).unwrap();
    content
}

fn content(path: &Path, block: u64) -> Vec<u8> {
    let mut content = vec![0; BLOCK as usize];
    std::fs::File::open(path)
        .unwrap()
        .read_exact_at(&mut content, block * BLOCK)
        .unwrap();
    content
}

#[test]
fn rot_that_nobody_reads_is_found_and_repaired() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        fill(&device, 0, 8);
        client
            .create_snapshot(api::CreateSnapshotRequest {
                id: "vol".into(),
                name: "kept".into(),
            })
            .await
            .unwrap();
        // The first half goes into the layer of the snapshot.
        fill(&device, 0, 4);
        run("sync", &[]);
        let layers: Vec<PathBuf> = (0..3).map(|i| layer(&cluster.replica_dir(i))).collect();
        eventually(LONG, "everything is written back", async || {
            let block = 4 * MIB / BLOCK - 1;
            let there = |path: &PathBuf| content(path, block).iter().any(|b| *b != 0);
            layers.iter().all(there)
        })
        .await;
        pause(3.0).await;
        let clean = scrubbed(&mut client).await;
        assert!(
            clean
                .values()
                .all(|r| r.found_blocks == 0 && r.checked_blocks >= 12 * MIB / BLOCK),
            "{clean:?}"
        );
        // Attached: data, entries of data, and the layer, in two regions.
        let data = |index: usize| cluster.replica_dir(index).join("data");
        let mut rotten = Vec::new();
        for block in [5, 700, 1500, 2047] {
            rotten.push((data(1), block, corrupt(&data(1), block)));
        }
        for block in [0, 600, 1023] {
            rotten.push((layers[2].clone(), block, corrupt(&layers[2], block)));
        }
        let entries = cluster.replica_dir(2).join("meta");
        corrupt(&entries, 3);
        let after = scrubbed(&mut client).await;
        println!("{after:?}");
        assert_eq!(after[REGIONS[1]].found_blocks, 4, "{after:?}");
        assert_eq!(after[REGIONS[1]].repaired_blocks, 4, "{after:?}");
        assert_eq!(after[REGIONS[2]].found_blocks, 4, "{after:?}");
        assert_eq!(after[REGIONS[0]].found_blocks, 0, "{after:?}");
        for (path, block, wanted) in &rotten {
            assert!(content(path, *block) == *wanted, "block {block} of {path:?}");
        }
        verify(&mut client, "vol").await;
        // Detached: an engine opens it for as long as it takes.
        detach(&mut client, "vol", false).await.unwrap();
        let wanted = corrupt(&data(0), 1000);
        scrubbed(&mut client).await;
        assert!(content(&data(0), 1000) == wanted);
        let shown = get(&mut client, "vol").await;
        let reports: Vec<_> = shown.replicas.iter().map(|r| r.scrub.clone().unwrap()).collect();
        assert!(
            reports.iter().all(|r| r.passes == 3 && r.ended_unix_s > 0),
            "{reports:?}"
        );
        eventually(LONG, "the volume is free again", async || {
            get(&mut client, "vol").await.node.is_empty()
        })
        .await;
        let (_, epoch) = attach(&mut client, "vol").await.unwrap();
        assert!(epoch > 0);
        detach(&mut client, "vol", false).await.unwrap();
    });
}
