//! What disks, machines and operators do to stores, with real processes. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::*;
use protos::engine as api;
use rustix::process::Signal;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// For what takes a second or two on an idle machine.
const LONG: Duration = Duration::from_secs(90);

/// Flips a bit in `count` places of a file, evenly spread over its allocated first `len` bytes.
fn flip(path: &Path, len: u64, count: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    for i in 0..count {
        let (at, mut byte) = (len / count * i + 77, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
    file.sync_all().unwrap();
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i / 4096 * 7 + i % 13) as u8).collect()
}

/// Writes to the middle of a device, durably, and says how long it took.
fn write_synced(device: &str, data: &[u8], at: u64) -> Duration {
    let start = Instant::now();
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(data, at).unwrap();
    file.sync_all().unwrap();
    start.elapsed()
}

/// Reads past the page cache.
fn read_fresh(device: &str, len: u64, at: u64) -> Vec<u8> {
    run("blockdev", &["--flushbufs", device]);
    let mut data = vec![0; len as usize];
    std::fs::File::open(device)
        .unwrap()
        .read_exact_at(&mut data, at)
        .unwrap();
    data
}

/// Compares until what a comparison found is repaired.
async fn verify_repaired(
    client: &mut protos::engine::engine_client::EngineClient<tonic::transport::Channel>,
) {
    let start = Instant::now();
    loop {
        let request = api::VerifyVolumeRequest { id: "vol".into() };
        let report = client.verify_volume(request).await.unwrap().into_inner();
        if report.equal {
            return;
        }
        assert!(start.elapsed() < LONG, "{report:?}");
        pause(0.2).await;
    }
}

#[test]
fn flipped_bits_in_place_are_never_served_and_are_repaired() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        let data = pattern(16 * MIB);
        write_synced(&device, &data, 0);
        // Written in place after two seconds; until then the journal answers, and this tests little.
        pause(5.0).await;
        // A hundred in one replica, and a few in another.
        flip(&cluster.replica_dir(0).join("data"), 16 * MIB, 70);
        flip(&cluster.replica_dir(0).join("meta"), 16 * MIB / 4096 * 16, 30);
        flip(&cluster.replica_dir(1).join("data"), 16 * MIB, 7);
        assert!(
            read_fresh(&device, 16 * MIB, 0) == data,
            "wrong bytes were served"
        );
        verify_repaired(&mut client).await;
        assert!(
            read_fresh(&device, 16 * MIB, 0) == data,
            "the repair changed something"
        );
        assert!(cluster.store_log(0).contains("do not match their checksums"));
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_damaged_journal_or_state_costs_one_replica_at_most() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        let mut data = pattern(8 * MIB);
        write_synced(&device, &data, 0);
        for (victim, file, len) in [(1, "journal.0", 4 * MIB), (2, "state", 65_000)] {
            cluster.kill_store(victim);
            flip(&cluster.replica_dir(victim).join(file), len, 40);
            data.rotate_left(4096);
            write_synced(&device, &data, 0);
            cluster.start_store(victim);
            cluster.wait_complete(&mut client, "vol", LONG).await;
        }
        verify_repaired(&mut client).await;
        assert!(read_fresh(&device, 8 * MIB, 0) == data);
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_stopped_store_delays_nothing_and_a_lost_replica_is_made_anew() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        write_synced(&device, &pattern(MIB), 0);
        // The one that reads go to.
        cluster.signal_store(0, Signal::STOP);
        let mut longest = Duration::ZERO;
        for i in 0..20 {
            longest = longest.max(write_synced(&device, &pattern(65_536), i * MIB));
            assert!(read_fresh(&device, 65_536, i * MIB) == pattern(65_536));
        }
        println!("longest write and flush with a store stopped: {longest:?}");
        assert!(longest < Duration::from_secs(5), "{longest:?}");
        cluster.signal_store(0, Signal::CONT);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        // Its disk was replaced: the store is the same, the replica is gone.
        cluster.kill_store(1);
        std::fs::remove_dir_all(cluster.replica_dir(1)).unwrap();
        std::fs::create_dir(cluster.replica_dir(1)).unwrap();
        cluster.start_store(1);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_replica_restored_from_an_old_backup_is_noticed() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        write_synced(&device, &pattern(4 * MIB), 0);
        cluster.stop_store(1);
        let (replica, backup) = (cluster.replica_dir(1), cluster.dir.path().join("backup"));
        let (replica, backup) = (replica.to_str().unwrap(), backup.to_str().unwrap());
        run("cp", &["-a", replica, backup]);
        cluster.start_store(1);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        let data = pattern(8 * MIB);
        write_synced(&device, &data, 0);
        cluster.stop_store(1);
        run("rm", &["-r", replica]);
        run("cp", &["-a", backup, replica]);
        cluster.start_store(1);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        let log = std::fs::read_to_string(cluster.dir.path().join("engine-n1.log")).unwrap();
        assert!(log.contains("came back with an old state"), "{}", cluster.logs());
        verify(&mut client, "vol").await;
        assert!(read_fresh(&device, 8 * MIB, 0) == data);
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_detached_volume_becomes_whole_by_itself_and_a_member_is_never_refused_for_ever() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        write_synced(&device, &pattern(MIB), 0);
        cluster.kill_store(2);
        write_synced(&device, &pattern(8 * MIB), 0);
        detach(&mut client, "vol", false).await.unwrap();
        cluster.start_store(2);
        eventually(LONG, "all replicas level without an attachment", async || {
            let overview = cluster.admin("control-plane").overview().await;
            let [volume] = &overview.volumes[..] else {
                return false;
            };
            let whole = |r: &hikube_replication::view::ReplicaView| r.state == "complete" && r.lag_bytes == 0;
            volume.seen == 3 && volume.replicas.iter().all(whole) && !volume.engine_connected
        })
        .await;
        // It stands in nobody's way.
        let start = Instant::now();
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        println!("attached after it was mended in {:?}", start.elapsed());
        assert!(read_fresh(&device, 8 * MIB, 0) == pattern(8 * MIB));
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_directory_that_is_not_this_stores_is_refused_with_a_reason() {
    with_cluster(async |mut cluster| {
        cluster.stop_store(0);
        let path = cluster.store_dir(0).join("hikube-store.json");
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, reason) in [
            ("\"format\": 1", "\"format\": 9", "found: 9"),
            ("\"test\"", "\"other\"", "cluster: \"other\""),
        ] {
            std::fs::write(&path, good.replace(from, to)).unwrap();
            cluster.start_store(0);
            eventually(LONG, reason, async || cluster.store_log(0).contains(reason)).await;
            cluster.kill_store(0);
        }
        std::fs::write(&path, &good).unwrap();
        cluster.start_store(0);
        cluster.with_volume(8).await;
    });
}

#[test]
fn a_full_disk_costs_one_replica_until_there_is_space() {
    with_cluster(async |mut cluster| {
        // All on disks of their own: whether the machine's has space is not what is tested.
        for (store, mib) in [(0, 512), (1, 512), (2, 64)] {
            cluster.kill_store(store);
            cluster.own_disk(store, mib);
            cluster.start_store(store);
        }
        let dir = cluster.store_dir(2);
        let path = dir.to_str().unwrap();
        let (mut client, device) = cluster.with_volume(128).await;
        cluster.wait_complete(&mut client, "vol", LONG).await;
        fill(&device, 0, 100);
        let replicas = async || cluster.admin("control-plane").overview().await;
        eventually(LONG, "the third store is full", async || {
            let log = cluster.store_log(2);
            log.contains("No space left on device") && replicas().await.volumes.len() == 1
        })
        .await;
        for other in [0, 1] {
            let log = cluster.store_log(other);
            assert!(
                !log.contains("No space left"),
                "store {other} is full too: {}",
                cluster.logs()
            );
        }
        // The others go on.
        let data = pattern(4 * MIB);
        write_synced(&device, &data, 3 * MIB);
        assert!(read_fresh(&device, 4 * MIB, 3 * MIB) == data);
        run("mount", &["-o", "remount,size=400m", path]);
        let waited = cluster.wait_complete(&mut client, "vol", LONG).await;
        println!("complete {waited:?} after there was space again");
        assert!(
            waited < Duration::from_secs(30),
            "complete only after {waited:?}: {}",
            cluster.logs()
        );
        assert!(read_fresh(&device, 4 * MIB, 3 * MIB) == data);
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
        assert!(!cluster.store_log(2).contains("panicked"));
    });
}

#[test]
fn a_local_volume_with_a_damaged_journal_says_so() {
    with_cluster(async |mut cluster| {
        cluster.start_engine("n1", REGIONS[0]);
        let mut client = cluster.client("n1").await;
        let request = api::CreateVolumeRequest {
            id: "vol".into(),
            size_bytes: 16 * MIB,
            class: "local".into(),
            ..Default::default()
        };
        client.create_volume(request).await.unwrap();
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        write_synced(&device, &pattern(MIB), 0);
        detach(&mut client, "vol", false).await.unwrap();
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        assert!(read_fresh(&device, MIB, 0) == pattern(MIB));
        write_synced(&device, &pattern(MIB), 4 * MIB);
        detach(&mut client, "vol", false).await.unwrap();
        cluster.kill_store(0);
        for entry in std::fs::read_dir(cluster.replica_dir(0)).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("journal") {
                flip(&entry.path(), entry.metadata().unwrap().len(), 4000);
            }
        }
        cluster.start_store(0);
        eventually(LONG, "contact with the store", async || {
            client
                .status(api::StatusRequest {})
                .await
                .is_ok_and(|s| s.into_inner().stores.iter().all(|s| s.connected))
        })
        .await;
        let error = attach(&mut client, "vol").await.unwrap_err();
        assert!(
            error.message().contains("the only replica is damaged"),
            "{error}\n{}",
            cluster.logs()
        );
    });
}
