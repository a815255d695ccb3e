//! Volumes through the loss of regions and engines, with real processes. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::measure::{Stalls, within};
use cluster::*;
use hikube_replication::admin::Contact;
use protos::engine as api;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Tells success from a hang; how long these things take is measured in `figures.rs`.
const SOON: Duration = Duration::from_secs(10);

/// A node without a majority is fenced after 8 s of silence, which counts from the last answer and is noticed within one
/// more ping; measured without what the machine did elsewhere.
const FENCED: Duration = Duration::from_millis(9200);

#[test]
fn fio_verifies_through_the_loss_and_return_of_two_regions_in_turn() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(128).await;
        assert_eq!(
            attach(&mut client, "vol").await.unwrap(),
            (device.clone(), 1),
            "idempotent"
        );
        let fio = fio(&device, 12, "128M");
        for victim in [0, 1] {
            pause(1.0).await;
            cluster.kill_store(victim);
            pause(2.0).await;
            cluster.start_store(victim);
            let waited = cluster
                .wait_complete(&mut client, "vol", Duration::from_secs(90))
                .await;
            println!("{} caught up under load in {waited:?}", REGIONS[victim]);
        }
        println!("{}", finish(fio));
        let report = verify(&mut client, "vol").await;
        assert_eq!(report.compared_bytes, 128 * MIB);
        assert_eq!(report.checksums.len(), 3);
        detach(&mut client, "vol", false).await.unwrap();
        detach(&mut client, "vol", false).await.unwrap();
        // Also with nobody attached.
        verify(&mut client, "vol").await;
    });
}

#[test]
fn another_engine_takes_over_and_the_deposed_one_completes_no_write() {
    with_cluster(async |mut cluster| {
        let (mut first, device) = cluster.with_volume(64).await;
        cluster.start_engine("n2", "gland");
        let mut second = cluster.client("n2").await;
        run("mkfs.ext4", &["-q", &device]);
        let mount = cluster.dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        let mount = mount.to_str().unwrap();
        run("mount", &[&device, mount]);
        let file = format!("{mount}/synced");
        std::fs::write(&file, vec![42; 3_000_000]).unwrap();
        run("sync", &[&file]);
        // A node that hangs: its engine is stopped, and goes on later.
        cluster.signal_engine("n1", Signal::STOP);
        let start = Instant::now();
        let (taken, epoch) = attach(&mut second, "vol").await.unwrap();
        println!("taken over from a stopped engine in {:?}", start.elapsed());
        assert_eq!(epoch, 2);
        let other = cluster.dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let other = other.to_str().unwrap();
        run("mount", &[&taken, other]);
        assert_eq!(
            std::fs::read(format!("{other}/synced")).unwrap(),
            vec![42; 3_000_000]
        );
        std::fs::write(format!("{other}/newer"), b"by the second").unwrap();
        run("sync", &["-f", other]);
        cluster.signal_engine("n1", Signal::CONT);
        // Its file system still believes to own the device.
        let late = std::fs::write(format!("{mount}/late"), vec![1; 100_000])
            .and_then(|()| std::fs::File::open(format!("{mount}/late")))
            .and_then(|f| f.sync_all());
        assert!(late.is_err(), "a deposed engine completed a write");
        run("umount", &[mount]);
        detach(&mut first, "vol", true).await.unwrap();
        assert!(
            attach(&mut first, "vol").await.is_ok(),
            "the last who asks owns the volume"
        );
        detach(&mut first, "vol", false).await.unwrap();
        let _ = std::process::Command::new("umount").arg(other).status();
        detach(&mut second, "vol", true).await.unwrap();
        let (taken, _) = attach(&mut second, "vol").await.unwrap();
        run("mount", &[&taken, other]);
        assert_eq!(std::fs::read(format!("{other}/newer")).unwrap(), b"by the second");
        run("umount", &[other]);
        detach(&mut second, "vol", false).await.unwrap();
        verify(&mut second, "vol").await;
    });
}

#[test]
fn a_killed_engine_is_succeeded_and_cleans_up_when_it_starts_again() {
    with_cluster(async |mut cluster| {
        let (_, device) = cluster.with_volume(64).await;
        cluster.start_engine("n2", "gland");
        let mut second = cluster.client("n2").await;
        let pattern: Vec<u8> = (0..8 * MIB).map(|i| (i / 4096 % 251) as u8).collect();
        let file = std::fs::File::options().write(true).open(&device).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &pattern, 5 * MIB).unwrap();
        file.sync_all().unwrap();
        drop(file);
        // The engine and a region at once.
        cluster.kill_engine("n1");
        cluster.kill_store(2);
        let start = Instant::now();
        let (taken, _) = attach(&mut second, "vol").await.unwrap();
        let elapsed = start.elapsed();
        println!("taken over from a killed engine with one region lost in {elapsed:?}");
        assert!(elapsed < SOON, "{elapsed:?}");
        let file = std::fs::File::open(&taken).unwrap();
        let mut back = vec![0; pattern.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 5 * MIB).unwrap();
        assert!(back == pattern);
        drop(file);
        detach(&mut second, "vol", false).await.unwrap();
        // The first starts again: its dead device is gone, and it can attach.
        cluster.start_engine("n1", "geneva");
        let mut first = cluster.client("n1").await;
        assert!(!run("losetup", &["-a"]).contains(cluster.dir.path().to_str().unwrap()));
        attach(&mut first, "vol").await.unwrap();
        cluster.start_store(2);
        cluster
            .wait_complete(&mut first, "vol", Duration::from_secs(90))
            .await;
        verify(&mut first, "vol").await;
        detach(&mut first, "vol", false).await.unwrap();
    });
}

#[test]
fn creation_and_deletion_reach_a_store_that_was_away_and_space_is_freed() {
    with_cluster(async |mut cluster| {
        cluster.kill_store(2);
        cluster.start_engine("n1", "geneva");
        cluster.start_engine("n2", "gland");
        let mut client = cluster.client("n1").await;
        create(&mut client, "vol", 64 * MIB).await;
        create(&mut client, "vol", 64 * MIB).await;
        let different = api::CreateVolumeRequest {
            id: "vol".into(),
            size_bytes: 65 * MIB,
            class: "replicated".into(),
            ..Default::default()
        };
        let error = client.create_volume(different).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::AlreadyExists, "{error}");
        let start = Instant::now();
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        println!("attached with one region absent in {:?}", start.elapsed());
        assert!(start.elapsed() < SOON);
        fill(&device, 0, 32);
        cluster.start_store(2);
        let waited = cluster
            .wait_complete(&mut client, "vol", Duration::from_secs(90))
            .await;
        println!("32 MiB copied to a store that was away in {waited:?}");
        verify(&mut client, "vol").await;
        let error = delete(&mut client, "vol").await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
        detach(&mut client, "vol", false).await.unwrap();
        cluster.kill_store(0);
        pause(0.5).await;
        delete(&mut client, "vol").await.unwrap();
        delete(&mut client, "vol").await.unwrap();
        let volumes = |index: usize| {
            let dir = cluster.store_dir(index).join("volumes");
            std::fs::read_dir(dir)
                .unwrap()
                .flatten()
                .map(|e| e.file_name())
                .collect::<Vec<_>>()
        };
        assert!(volumes(1).is_empty() && volumes(2).is_empty());
        assert!(!volumes(0).is_empty());
        // The name can be used again at once, and the old replica does not come back.
        create(&mut client, "vol", 32 * MIB).await;
        cluster.start_store(0);
        eventually(Duration::from_secs(60), "three new replicas", async || {
            let overview = cluster.admin("control-plane").overview().await;
            let [volume] = &overview.volumes[..] else {
                return false;
            };
            assert_eq!(volume.spec.labels["claim"], "data");
            volume.seen == 3
                && volume.size_bytes == 32 * MIB
                && volume.replicas.iter().all(|r| r.state == "complete")
        })
        .await;
    });
}

#[test]
fn the_stores_tell_which_node_they_hear_and_a_node_without_them_is_fenced() {
    with_cluster(async |mut cluster| {
        let stalls = Stalls::watch();
        cluster.start_engine("n1", "geneva");
        let mut client = cluster.client("n1").await;
        let admin = cluster.admin("control-plane");
        pause(3.0).await;
        assert_eq!(admin.contact("n1").await, Contact::Heard);
        let never = admin.contact("nobody").await;
        assert!(
            matches!(never, Contact::SilentFor(d) if d >= Duration::from_millis(2900)),
            "{never:?}"
        );
        let mut watch = client
            .watch_quorum(api::WatchQuorumRequest {})
            .await
            .unwrap()
            .into_inner();
        let state = watch.message().await.unwrap().unwrap();
        assert!(state.majority && !state.fenced);
        // One store is not missed; it hangs rather than ends.
        cluster.signal_store(0, Signal::STOP);
        pause(4.0).await;
        assert_eq!(admin.contact("n1").await, Contact::Heard);
        cluster.kill_store(1);
        let start = Instant::now();
        let state = watch.message().await.unwrap().unwrap();
        assert!(!state.majority && !state.fenced, "{state:?}");
        println!("loss of the majority noticed after {:?}", start.elapsed());
        let mut asked = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(admin.contact("n1").await, Contact::Unknown);
            asked.push(stalls.net(begun, Instant::now()));
        }
        // No longer than the limit for one store.
        within("contact without a majority", asked, Duration::from_millis(1900));
        let state = watch.message().await.unwrap().unwrap();
        println!("fenced after {:?}, says {} ms", start.elapsed(), state.silent_ms);
        assert!(state.fenced && start.elapsed() < Duration::from_millis(8000) + SOON);
        let fenced = stalls.net(start, Instant::now());
        assert!(fenced < FENCED, "fenced after {fenced:?}");
        assert!(start.elapsed() > Duration::from_millis(6500));
        cluster.start_store(1);
        let state = watch.message().await.unwrap().unwrap();
        assert!(state.majority && !state.fenced, "{state:?}");
        cluster.signal_store(0, Signal::CONT);
        // A node that is stopped is silent for all, and fenced when it goes on.
        pause(1.0).await;
        cluster.signal_engine("n1", Signal::STOP);
        pause(9.0).await;
        let contact = admin.contact("n1").await;
        assert!(
            matches!(contact, Contact::SilentFor(d) if d >= Duration::from_secs(7)),
            "{contact:?}"
        );
        cluster.signal_engine("n1", Signal::CONT);
        let state = watch.message().await.unwrap().unwrap();
        assert!(state.fenced, "{state:?}");
        loop {
            let state = watch.message().await.unwrap().unwrap();
            if state.majority && !state.fenced {
                break;
            }
        }
        // A control plane may not change anything.
        let refused =
            hikube_replication::net::client::Dialer::new(&cluster.storage("control-plane")).unwrap();
        let address = hikube_replication::net::client::StoreAddress::parse(&cluster.addresses()[1]).unwrap();
        let request = hikube_replication::net::control::Request::Report {
            volumes: Default::default(),
        };
        let answer = refused.ask(&address, &request).await.unwrap();
        assert!(matches!(
            answer,
            hikube_replication::net::control::Response::Refused { .. }
        ));
    });
}

#[test]
fn a_replaced_store_is_filled_from_the_others_and_volumes_grow() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(32).await;
        fill(&device, 0, 32);
        cluster.kill_store(1);
        std::fs::remove_dir_all(cluster.store_dir(1)).unwrap();
        cluster.format(1);
        cluster.start_store(1);
        pause(0.5).await;
        cluster
            .wait_complete(&mut client, "vol", Duration::from_secs(90))
            .await;
        let request = api::ExpandVolumeRequest {
            id: "vol".into(),
            size_bytes: 64 * MIB,
        };
        client.expand_volume(request).await.unwrap();
        let size = run("blockdev", &["--getsize64", &device]);
        assert_eq!(size.trim(), (64 * MIB).to_string());
        fill(&device, 40, 20);
        let report = verify(&mut client, "vol").await;
        assert_eq!(report.compared_bytes, 64 * MIB);
        let before = get(&mut client, "vol").await.used_bytes;
        run("blkdiscard", &[&device]);
        pause(3.0).await;
        let after = get(&mut client, "vol").await.used_bytes;
        println!("used {before} bytes before the discard, {after} after");
        let zeroes = run("cmp", &["-n", &(64 * MIB).to_string(), &device, "/dev/zero"]);
        assert!(zeroes.is_empty());
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}
