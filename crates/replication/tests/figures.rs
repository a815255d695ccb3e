//! The figures that a user of the storage can see, one round each or the best of a few: cuts of the network, openings with a
//! region absent, take-over, two engines, rebuilding under load. `design` limits are checked net of what the machine did
//! elsewhere (see `cluster::measure`). Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::measure::{Stalls, within};
use cluster::writer::{self, Writer};
use cluster::*;
use protos::engine as api;
use rustix::process::Signal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Tells success from a hang.
const LONG: Duration = Duration::from_secs(90);
const SECOND: Duration = Duration::from_secs(1);
/// How long a path stays cut, seconds: longer than a client waits for a store that is silent.
const CUT: f64 = 4.0;

/// The loss of any one region, however it is lost, stops nothing.
#[test]
fn a_majority_goes_on_writing_within_a_second_of_a_cut() {
    with_cluster(async |mut cluster| {
        let stalls = Stalls::watch();
        let paths = cluster.start_engine_behind_paths("n1", REGIONS[0]);
        let mut client = cluster.client("n1").await;
        create(&mut client, "vol", 16 * MIB).await;
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        let writer = Writer::start(&device, 0);
        let mut pauses = Vec::new();
        // The region of the writer too: its reads go there. Both ways, and each way alone.
        for (victim, to_store, to_engine) in [
            (0, true, true),
            (1, true, false),
            (0, false, true),
            (2, true, true),
        ] {
            eventually(LONG, "some writes", async || writer.last().is_some()).await;
            pause(0.5).await;
            let begun = Instant::now();
            paths[victim].cut(to_store, to_engine);
            pause(CUT).await;
            let before = writer.acknowledged();
            pauses.push(writer.longest_gap(begun, Instant::now(), &stalls));
            paths[victim].cut(false, false);
            let healed = Instant::now();
            cluster
                .wait_complete(&mut client, "vol", Duration::from_secs(60))
                .await;
            println!(
                "{} cut: longest pause {:?}, level {:?} after it was healed",
                REGIONS[victim],
                pauses.last().unwrap(),
                healed.elapsed()
            );
            assert!(before > 0);
        }
        within("pause of a majority after a cut", pauses, SECOND);
        let (last, result) = writer.stop();
        result.unwrap();
        writer::check(&device, last);
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_minority_acknowledges_nothing_and_is_level_again_within_a_minute() {
    with_cluster(async |mut cluster| {
        let paths = cluster.start_engine_behind_paths("n1", REGIONS[0]);
        let mut client = cluster.client("n1").await;
        create(&mut client, "vol", 16 * MIB).await;
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        let writer = Writer::start(&device, 0);
        eventually(LONG, "some writes", async || writer.acknowledged() > 20).await;
        // The writer's region alone; what was under way may still arrive.
        for path in &paths[1..] {
            path.cut(true, true);
        }
        pause(0.5).await;
        let before = writer.acknowledged();
        pause(CUT).await;
        assert_eq!(writer.acknowledged(), before, "a minority acknowledged writes");
        paths[1].cut(false, false);
        paths[2].cut(false, false);
        let healed = Instant::now();
        eventually(Duration::from_secs(60), "writes after the cut", async || {
            writer.acknowledged() > before + 20
        })
        .await;
        cluster
            .wait_complete(&mut client, "vol", Duration::from_secs(60))
            .await;
        println!("level {:?} after it was healed", healed.elapsed());
        // Half of what is sent to two regions is lost and sent again: slow, and nothing worse.
        let before = writer.acknowledged();
        for path in &paths[..2] {
            path.loss.store(50, Ordering::SeqCst);
        }
        pause(CUT).await;
        assert!(writer.acknowledged() > before, "a lossy path stopped the volume");
        for path in &paths {
            path.loss.store(0, Ordering::SeqCst);
        }
        cluster
            .wait_complete(&mut client, "vol", Duration::from_secs(60))
            .await;
        let (last, result) = writer.stop();
        result.unwrap();
        writer::check(&device, last);
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn a_volume_is_opened_within_a_second_with_one_region_absent() {
    with_cluster(async |mut cluster| {
        let stalls = Stalls::watch();
        let (mut client, _) = cluster.with_volume(16).await;
        detach(&mut client, "vol", false).await.unwrap();
        let mut times = Vec::new();
        for absent in [0, 1, 2, 2, 1] {
            // Killed, or only silent.
            let silent = times.len() % 2 == 1;
            if silent {
                cluster.signal_store(absent, Signal::STOP);
            } else {
                cluster.kill_store(absent);
            }
            let begun = Instant::now();
            let (device, _) = attach(&mut client, "vol").await.unwrap();
            times.push(stalls.net(begun, Instant::now()));
            let writer = Writer::start(&device, 0);
            eventually(LONG, "some writes", async || writer.acknowledged() > 5).await;
            writer.stop().1.unwrap();
            detach(&mut client, "vol", false).await.unwrap();
            if silent {
                cluster.signal_store(absent, Signal::CONT);
            } else {
                cluster.start_store(absent);
            }
            eventually(LONG, "all stores in contact", async || {
                all_connected(&mut client).await
            })
            .await;
        }
        within("opening with one region absent", times, SECOND);
    });
}

async fn all_connected(
    client: &mut protos::engine::engine_client::EngineClient<tonic::transport::Channel>,
) -> bool {
    let status = client.status(api::StatusRequest {}).await.unwrap().into_inner();
    status.stores.iter().all(|store| store.connected)
}

#[test]
fn another_engine_writes_within_a_second_of_the_death_of_the_first() {
    with_cluster(async |mut cluster| {
        let stalls = Stalls::watch();
        cluster.start_engine("n1", REGIONS[0]);
        cluster.start_engine("n2", REGIONS[1]);
        let mut owner = "n1";
        let mut client = cluster.client(owner).await;
        create(&mut client, "vol", 16 * MIB).await;
        let (mut device, _) = attach(&mut client, "vol").await.unwrap();
        let mut times = Vec::new();
        let mut last = 0;
        for _ in 0..4 {
            let other = if owner == "n1" { "n2" } else { "n1" };
            let mut next = cluster.client(other).await;
            let writer = Writer::start(&device, last);
            eventually(LONG, "some writes", async || writer.acknowledged() > last + 20).await;
            cluster.kill_engine(owner);
            let begun = Instant::now();
            device = attach(&mut next, "vol").await.unwrap().0;
            let heir = Writer::start(&device, writer.acknowledged());
            while heir.last().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            times.push(stalls.net(begun, heir.last().unwrap()));
            // The file system of the dead engine gives errors.
            let (acknowledged, result) = writer.stop();
            assert!(
                result.is_err(),
                "a device without its engine completed {acknowledged}"
            );
            let (newest, result) = heir.stop();
            result.unwrap();
            last = newest;
            cluster.start_engine(owner, if owner == "n1" { REGIONS[0] } else { REGIONS[1] });
            owner = other;
        }
        within("first write of another engine", times, SECOND);
        writer::check(&device, last);
        let mut client = cluster.client(owner).await;
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn an_engine_that_was_stopped_completes_nothing_after_another_was_opened() {
    with_cluster(async |mut cluster| {
        let (mut first, device) = cluster.with_volume(16).await;
        cluster.start_engine("n2", REGIONS[1]);
        let mut second = cluster.client("n2").await;
        let writer = Writer::start(&device, 0);
        eventually(LONG, "some writes", async || writer.acknowledged() > 20).await;
        cluster.signal_engine("n1", Signal::STOP);
        let (taken, _) = attach(&mut second, "vol").await.unwrap();
        let promoted = Instant::now();
        let at_promotion = writer.acknowledged();
        let heir = Writer::start(&taken, at_promotion);
        pause(10.0).await;
        cluster.signal_engine("n1", Signal::CONT);
        // A read through the deposed engine may not return what was true before.
        let stale = std::process::Command::new("dd")
            .args([
                &format!("if={device}"),
                "of=/dev/null",
                "bs=4096",
                "count=512",
                "iflag=direct",
            ])
            .output()
            .unwrap();
        assert!(!stale.status.success(), "a deposed engine served a read");
        let (last_of_first, result) = writer.stop();
        assert!(result.is_err(), "a deposed engine's device went on writing");
        // One write may have been in flight, and on a majority, when the engine was stopped: its answers lie in the
        // engine's sockets, so it is completed, rightly, before the engine learns that it was deposed. What was
        // written under it is the same as the heir's write of that number, whose loss `check` would see.
        assert!(
            last_of_first <= at_promotion + 1,
            "completed {last_of_first} after a promotion at {at_promotion}, {:?} ago",
            promoted.elapsed()
        );
        let (last, result) = heir.stop();
        result.unwrap();
        writer::check(&taken, last);
        detach(&mut first, "vol", true).await.unwrap();
        detach(&mut second, "vol", false).await.unwrap();
        verify(&mut second, "vol").await;
    });
}

#[test]
fn a_rebuild_under_load_survives_the_death_of_its_source_and_of_its_target() {
    with_cluster(async |mut cluster| {
        let (mut client, device) = cluster.with_volume(256).await;
        fill(&device, 0, 256);
        for killed in [2, 1] {
            cluster.kill_store(1);
            std::fs::remove_dir_all(cluster.replica_dir(1)).unwrap();
            std::fs::create_dir(cluster.replica_dir(1)).unwrap();
            let load = fio(&device, 8, "64M");
            cluster.start_store(1);
            // In the middle: it is known to be rebuilt, and is not yet complete.
            eventually(LONG, "the rebuild has begun", async || {
                let volume = get(&mut client, "vol").await;
                let states: Vec<&str> = volume.replicas.iter().map(|r| r.state.as_str()).collect();
                matches!(states[1], "learner" | "catching-up" | "complete")
            })
            .await;
            pause(0.2).await;
            cluster.kill_store(killed);
            pause(0.5).await;
            cluster.start_store(killed);
            let waited = cluster.wait_complete(&mut client, "vol", LONG).await;
            println!(
                "rebuilt {waited:?} after {} was killed in the middle",
                REGIONS[killed]
            );
            finish(load);
            verify(&mut client, "vol").await;
        }
        detach(&mut client, "vol", false).await.unwrap();
    });
}
