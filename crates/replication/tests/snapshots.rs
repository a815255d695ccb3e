//! Snapshots and clones with real stores. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::*;
use protos::engine as api;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// For what takes a second or two on an idle machine.
const LONG: Duration = Duration::from_secs(90);

type Client = protos::engine::engine_client::EngineClient<tonic::transport::Channel>;

fn pattern(len: u64, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 4096 * 7 + i % 13) as u8 ^ salt).collect()
}

fn write_synced(device: &str, data: &[u8], at: u64) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(data, at).unwrap();
    file.sync_all().unwrap();
}

fn read(device: &str, len: u64) -> Vec<u8> {
    run("blockdev", &["--flushbufs", device]);
    let mut data = vec![0; len as usize];
    std::fs::File::open(device)
        .unwrap()
        .read_exact_at(&mut data, 0)
        .unwrap();
    data
}

async fn snapshot(client: &mut Client, name: &str) -> api::Snapshot {
    let (id, name) = ("vol".into(), name.into());
    let answer = client
        .create_snapshot(api::CreateSnapshotRequest { id, name })
        .await;
    answer.unwrap().into_inner().snapshot.unwrap()
}

async fn clone(client: &mut Client, snapshot: &str, new: &str) -> Result<(), tonic::Status> {
    let request = api::CloneVolumeRequest {
        id: "vol".into(),
        snapshot: snapshot.into(),
        new_id: new.into(),
    };
    client.clone_volume(request).await.map(drop)
}

#[test]
fn snapshots_outlive_overwriting_and_the_loss_of_a_replica() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        let (first, second) = (pattern(8 * MIB, 0), pattern(8 * MIB, 0x55));
        write_synced(&device, &first, 0);
        let one = snapshot(&mut client, "one").await;
        assert_eq!(one.size_bytes, 32 * MIB);
        assert_eq!(snapshot(&mut client, "one").await.seq, one.seq, "the same again");
        write_synced(&device, &second, 0);
        snapshot(&mut client, "two").await;
        // Half of what the snapshots have is overwritten, and partly discarded, with one region away.
        cluster.kill_store(2);
        write_synced(&device, &pattern(4 * MIB, 0xaa), 2 * MIB);
        run("blkdiscard", &["-f", "-o", "0", "-l", "1048576", &device]);
        // Its disk is replaced: everything, layers too, comes from the others.
        std::fs::remove_dir_all(cluster.store_dir(2)).unwrap();
        cluster.format(2);
        cluster.start_store(2);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        pause(3.0).await;
        verify(&mut client, "vol").await;
        let listed = get(&mut client, "vol").await.snapshots;
        let names: Vec<&str> = listed.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(
            listed[0].used_bytes >= 8 * MIB && listed[0].used_bytes < 16 * MIB,
            "{listed:?}"
        );
        // What they have is what was there, also if only the new replica and one more are left.
        cluster.kill_store(0);
        clone(&mut client, "one", "copy-one").await.unwrap();
        clone(&mut client, "two", "copy-two").await.unwrap();
        clone(&mut client, "two", "copy-two").await.unwrap();
        for (id, wanted) in [("copy-one", &first), ("copy-two", &second)] {
            let (copy, _) = attach(&mut client, id).await.unwrap();
            assert!(read(&copy, 8 * MIB) == **wanted, "{id}");
            detach(&mut client, id, false).await.unwrap();
        }
        let error = clone(&mut client, "three", "copy-three").await.unwrap_err();
        assert!(error.message().contains("no snapshot"), "{error}");
        // Dropped, they give their space back.
        cluster.start_store(0);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        for name in ["one", "two", "two"] {
            let (id, name) = ("vol".into(), name.into());
            client
                .delete_snapshot(api::DeleteSnapshotRequest { id, name })
                .await
                .unwrap();
        }
        eventually(LONG, "layers are removed in all regions", async || {
            let layers = |index: usize| {
                let files = std::fs::read_dir(cluster.replica_dir(index)).unwrap();
                let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
                names.filter(|n| n.starts_with("snap.")).count()
            };
            (0..3).all(|index| layers(index) == 0)
        })
        .await;
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}
