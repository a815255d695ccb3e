//! Stores on disks that lose what was not synced, tear what they write, and fail (see `cluster::shim`). Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::shim::{self, Survives};
use cluster::writer::{self, Writer};
use cluster::*;
use std::time::Duration;

/// Tells success from a hang.
const LONG: Duration = Duration::from_secs(90);

/// Everything that was synced survives, whatever of the rest reached the disks.
#[test]
fn power_loss_in_all_regions_loses_nothing_that_was_synced() {
    with_cluster(async |mut cluster| {
        shim::install(&mut cluster);
        let (mut client, mut device) = cluster.with_volume(16).await;
        let mut last = 0;
        let rounds = [
            (Survives::Nothing, false),
            (Survives::SomeSectors(7), true),
            (Survives::Nothing, true),
            (Survives::SomeSectors(99), true),
        ];
        for (round, (survives, engine_too)) in rounds.into_iter().enumerate() {
            let writer = Writer::start(&device, last);
            eventually(LONG, "some writes", async || writer.acknowledged() > last + 50).await;
            // Bytes that nobody synced, and that may go.
            pause(0.3).await;
            if engine_too {
                cluster.kill_engine("n1");
            }
            for index in 0..REGIONS.len() {
                shim::power_loss(&mut cluster, index, survives);
            }
            for index in 0..REGIONS.len() {
                cluster.start_store(index);
            }
            if engine_too {
                let (acknowledged, _) = writer.stop();
                last = acknowledged;
                cluster.start_engine("n1", REGIONS[0]);
                client = cluster.client("n1").await;
                device = attach(&mut client, "vol").await.unwrap().0;
            } else {
                let before = writer.acknowledged();
                eventually(LONG, "writes after the power came back", async || {
                    writer.acknowledged() > before + 5
                })
                .await;
                let (acknowledged, result) = writer.stop();
                result.unwrap();
                last = acknowledged;
            }
            println!("round {round}: {last} blocks were synced");
            writer::check(&device, last);
            cluster.wait_complete(&mut client, "vol", LONG).await;
            verify(&mut client, "vol").await;
        }
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn one_failed_sync_costs_the_replica_until_it_is_made_anew() {
    with_cluster(async |mut cluster| {
        shim::install(&mut cluster);
        let (mut client, device) = cluster.with_volume(16).await;
        cluster.wait_complete(&mut client, "vol", LONG).await;
        let writer = Writer::start(&device, 0);
        eventually(LONG, "some writes", async || writer.acknowledged() > 20).await;
        shim::fail_next_sync(&cluster, 1);
        eventually(LONG, "the failure", async || shim::has_failed(&cluster, 1)).await;
        eventually(LONG, "the replica is given up", async || {
            cluster
                .store_log(1)
                .contains("sync failed: the replica must be rebuilt")
        })
        .await;
        let before = writer.acknowledged();
        eventually(LONG, "writes with the two others", async || {
            writer.acknowledged() > before + 20
        })
        .await;
        // A restart does not make it good: it counts again only after it was made anew from the others.
        cluster.kill_store(1);
        cluster.start_store(1);
        cluster.wait_complete(&mut client, "vol", LONG).await;
        let log = cluster.store_log(1);
        assert!(log.contains("made anew and filled from the others"), "{log}");
        let (last, result) = writer.stop();
        result.unwrap();
        writer::check(&device, last);
        verify(&mut client, "vol").await;
        detach(&mut client, "vol", false).await.unwrap();
    });
}
