//! An engine that is killed and started again goes on with the devices of the one before. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::measure::Stalls;
use cluster::writer::{self, Writer};
use cluster::*;
use protos::engine as api;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For what takes a second or two on an idle machine.
const LONG: Duration = Duration::from_secs(90);

/// Numbered files in `dir`, each synced before the next, until it is told to stop; the number of the last.
fn write_files(dir: &Path, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<std::io::Result<u64>> {
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            let file = std::fs::File::create(dir.join(format!("{}", number + 1)))?;
            file.write_all_at(&writer::content(number + 1), 0)?;
            file.sync_all()?;
            number += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(number)
    })
}

#[test]
fn a_killed_engine_costs_its_users_a_pause() {
    with_cluster(async |mut cluster| {
        cluster.keep_devices("n1");
        let (mut client, device) = cluster.with_volume(16).await;
        create(&mut client, "fs", 128 << 20).await;
        let (other, epoch) = attach(&mut client, "fs").await.unwrap();
        run("mkfs.ext4", &["-q", &other]);
        let mount = cluster.dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        run("mount", &[&other, mount.to_str().unwrap()]);
        let stop = Arc::new(AtomicBool::new(false));
        let files = write_files(&mount, stop.clone());
        let raw = Writer::start(&device, 0);
        let stalls = Stalls::watch();
        let mut gaps = Vec::new();
        for _ in 0..3 {
            pause(0.7).await;
            let before = raw.acknowledged();
            let killed = Instant::now();
            cluster.kill_engine("n1");
            cluster.start_engine("n1", REGIONS[0]);
            eventually(LONG, "the writer goes on", async || {
                raw.acknowledged() > before + 10
            })
            .await;
            gaps.push(raw.longest_gap(killed, Instant::now(), &stalls));
        }
        stop.store(true, Ordering::SeqCst);
        let written = files.join().unwrap().expect("no file system saw an error");
        let (last, result) = raw.stop();
        result.expect("no request failed");
        println!("{written} files, {last} blocks; pauses {gaps:?}");
        measure::within("a restart of the engine", gaps, Duration::from_secs(2));
        writer::check(&device, last);

        // It is attached as before, in a later epoch, and is taken away like any other.
        let mut client = cluster.client("n1").await;
        let (same, later) = attach(&mut client, "fs").await.unwrap();
        assert_eq!(same, other);
        assert!(later > epoch, "{later} after {epoch}");
        run("umount", &[mount.to_str().unwrap()]);
        run("e2fsck", &["-fn", &other]);
        run("mount", &[&other, mount.to_str().unwrap()]);
        for number in 1..=written {
            let found = std::fs::read(mount.join(format!("{number}"))).unwrap();
            assert!(found == writer::content(number), "file {number}");
        }
        run("umount", &[mount.to_str().unwrap()]);
        for id in ["vol", "fs"] {
            detach(&mut client, id, false).await.unwrap();
            verify(&mut client, id).await;
        }
        assert!(
            cluster.kept["n1"].descriptors().unwrap().is_empty(),
            "nothing is kept for nobody"
        );
    });
}

#[test]
fn a_device_whose_volume_was_opened_elsewhere_meanwhile_ends() {
    with_cluster(async |mut cluster| {
        cluster.keep_devices("n1");
        let (_, stale) = cluster.with_volume(16).await;
        let block = |number| writer::content(number);
        let write = |device: &str, number| {
            let file = std::fs::File::options().write(true).open(device).unwrap();
            file.write_all_at(&block(number), 0)?;
            file.sync_all()
        };
        write(&stale, 1).unwrap();
        cluster.kill_engine("n1");
        cluster.start_engine("n2", REGIONS[1]);
        let mut second = cluster.client("n2").await;
        let (device, _) = attach(&mut second, "vol").await.unwrap();
        write(&device, 2).unwrap();
        // Even after it is closed there: what the first node has cached is older.
        detach(&mut second, "vol", false).await.unwrap();
        cluster.start_engine("n1", REGIONS[0]);
        let log = cluster.dir.path().join("engine-n1.log");
        eventually(LONG, "the device ends", async || {
            std::fs::read_to_string(&log)
                .unwrap()
                .contains("was opened elsewhere meanwhile")
        })
        .await;
        let mut first = cluster.client("n1").await;
        let (device, _) = attach(&mut first, "vol").await.unwrap();
        let mut found = vec![0; writer::BLOCK];
        let file = std::fs::File::open(&device).unwrap();
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == block(2), "the stale device wrote nothing");
        drop(file);
        detach(&mut first, "vol", false).await.unwrap();
    });
}

#[test]
fn a_device_waits_for_its_stores_and_keeps_its_key() {
    with_cluster(async |mut cluster| {
        cluster.keep_devices("n1");
        cluster.start_engine("n1", REGIONS[0]);
        let mut client = cluster.client("n1").await;
        let key = vec![7; 64];
        let request = api::CreateVolumeRequest {
            id: "vol".into(),
            size_bytes: 16 << 20,
            class: "replicated".into(),
            encryption_key: key.clone(),
            ..api::CreateVolumeRequest::default()
        };
        client.create_volume(request).await.unwrap();
        let request = api::AttachVolumeRequest {
            id: "vol".into(),
            encryption_key: key,
            ..api::AttachVolumeRequest::default()
        };
        let device = client
            .attach_volume(request)
            .await
            .unwrap()
            .into_inner()
            .device_path;
        let writer = Writer::start(&device, 0);
        eventually(LONG, "it writes", async || writer.acknowledged() > 10).await;
        cluster.kill_engine("n1");
        cluster.kill_store(1);
        cluster.kill_store(2);
        cluster.start_engine("n1", REGIONS[0]);
        let socket = cluster.engine_socket("n1");
        let mut client = None;
        eventually(LONG, "the engine serves", async || {
            client = hikube_replication::api::connect(&socket).await.ok();
            client.is_some()
        })
        .await;
        let mut client = client.unwrap();
        let error = detach(&mut client, "vol", false).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
        let known = client
            .status(api::StatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .attached;
        assert!(
            known.len() == 1 && known[0].attached_here && known[0].device_path == device,
            "{known:?}"
        );
        let before = writer.acknowledged();
        pause(1.0).await;
        assert_eq!(writer.acknowledged(), before, "one of three is no majority");
        cluster.start_store(2);
        eventually(LONG, "the writer goes on", async || {
            writer.acknowledged() > before + 10
        })
        .await;
        let (last, result) = writer.stop();
        result.expect("no request failed");
        writer::check(&device, last);
        detach(&mut client, "vol", false).await.unwrap();
    });
}
