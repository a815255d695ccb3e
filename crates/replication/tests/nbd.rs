//! Replicated volumes over NBD, plain and encrypted, with real processes and real clients (libnbd's tools, fio).
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use cluster::*;
use protos::engine as api;
use protos::engine::engine_client::EngineClient;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

const MIB: usize = 1 << 20;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes, from outside\n";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} (Debian: libnbd-bin, fio): {e}"))
}

fn good(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said} {complained}"
    );
    said
}

async fn serve(
    client: &mut EngineClient<Channel>,
    id: &str,
    nbd: &str,
    key: &[u8],
) -> Result<String, tonic::Status> {
    let request = api::AttachVolumeRequest {
        id: id.into(),
        read_only: false,
        nbd: nbd.into(),
        encryption_key: key.to_vec(),
    };
    let answer = client.attach_volume(request).await?.into_inner();
    Ok(answer.device_path)
}

fn content(len: usize) -> Vec<u8> {
    let line = b"this sentence must not be found on any disk. ";
    let mut bytes: Vec<u8> = line.iter().copied().cycle().take(len).collect();
    for (i, block) in bytes.chunks_mut(4096).enumerate() {
        block[..8].copy_from_slice(&(i as u64).to_le_bytes());
    }
    bytes
}

/// How many files below `dir` contain the bytes.
fn files_with(dir: &Path, needle: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found += files_with(&path, needle);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let mut hits = bytes.windows(needle.len()).filter(|w| *w == needle);
            found += usize::from(hits.next().is_some());
        }
    }
    found
}

#[test]
fn a_volume_is_served_to_nbd_clients_through_the_loss_of_a_region() {
    let _one = one_at_a_time();
    runtime().block_on(async {
        let mut cluster = Cluster::start();
        cluster.start_engine("n1", "geneva");
        let mut client = cluster.client("n1").await;
        create(&mut client, "vol", 64 * MIB as u64).await;
        let socket = cluster.dir.path().join("vol.nbd").display().to_string();
        let uri = serve(&mut client, "vol", &socket, b"").await.unwrap();
        assert_eq!(
            serve(&mut client, "vol", &socket, b"").await.unwrap(),
            uri,
            "idempotent"
        );
        let elsewhere = serve(&mut client, "vol", &format!("{socket}2"), b"")
            .await
            .unwrap_err();
        assert_eq!(elsewhere.code(), Code::FailedPrecondition);
        let source = cluster.dir.path().join("source").display().to_string();
        let mut bytes = content(64 * MIB);
        bytes[16 * MIB..32 * MIB].fill(0);
        std::fs::write(&source, &bytes).unwrap();
        good("nbdcopy", &["--flush", "--connections=4", &source, &uri]);
        cluster.kill_store(2);
        let copy = cluster.dir.path().join("copy").display().to_string();
        good("nbdcopy", &["--connections=4", &uri, &copy]);
        assert!(std::fs::read(&copy).unwrap() == bytes);
        let map = good("nbdinfo", &["--map", &uri]);
        assert!(
            map.contains(&format!("{}", 16 * MIB)) && map.contains("hole"),
            "{map}"
        );
        let fio = [
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={uri}"),
            "--rw=randrw",
            "--bsrange=512-64k",
            "--blockalign=512",
            "--iodepth=16",
            "--size=16M",
            "--fsync=8",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ];
        good("fio", &fio);
        cluster.start_store(2);
        cluster
            .wait_complete(&mut client, "vol", Duration::from_secs(30))
            .await;
        verify(&mut client, "vol").await;
        let expand = api::ExpandVolumeRequest {
            id: "vol".into(),
            size_bytes: 96 * MIB as u64,
        };
        client.expand_volume(expand).await.unwrap();
        let size = good("nbdinfo", &["--size", &uri]);
        assert_eq!(
            size.trim(),
            (96 * MIB).to_string(),
            "clients see the new size when they come again"
        );
        detach(&mut client, "vol", false).await.unwrap();
        assert!(!Path::new(&socket).exists());
        assert!(serve(&mut client, "vol", "nonsense", b"").await.is_err());
    });
}

#[test]
fn over_a_network_only_those_who_may_write_get_in() {
    let _one = one_at_a_time();
    runtime().block_on(async {
        let mut cluster = Cluster::start();
        cluster.start_engine("n1", "geneva");
        let mut client = cluster.client("n1").await;
        create(&mut client, "vol", 4 * MIB as u64).await;
        let uri = serve(&mut client, "vol", "127.0.0.1:0", b"").await.unwrap();
        assert!(uri.starts_with("nbds://127.0.0.1:"), "{uri}");
        let with = |name: &str| {
            let files = cluster.authority.files(name);
            let place = cluster.dir.path().join(format!("nbd-{name}"));
            std::fs::create_dir_all(&place).unwrap();
            std::fs::copy(&files.cert, place.join("client-cert.pem")).unwrap();
            std::fs::copy(&files.key, place.join("client-key.pem")).unwrap();
            std::fs::copy(&files.ca, place.join("ca-cert.pem")).unwrap();
            format!("{uri}?tls-certificates={}", place.display())
        };
        assert_eq!(
            good("nbdinfo", &["--size", &with("admin")]).trim(),
            (4 * MIB).to_string()
        );
        for refused in [
            with("control-plane"),
            with("store-gland"),
            uri.replace("nbds", "nbd"),
        ] {
            assert!(
                !run("nbdinfo", &["--size", &refused]).status.success(),
                "{refused}"
            );
        }
        detach(&mut client, "vol", false).await.unwrap();
    });
}

#[test]
fn stores_of_an_encrypted_volume_see_ciphertext_and_a_wrong_key_is_refused() {
    let _one = one_at_a_time();
    runtime().block_on(async {
        let mut cluster = Cluster::start();
        cluster.start_engine("n1", "geneva");
        let mut client = cluster.client("n1").await;
        let request = api::CreateVolumeRequest {
            id: "secret".into(),
            size_bytes: 16 * MIB as u64,
            class: "replicated".into(),
            encryption_key: SECRET.to_vec(),
            ..api::CreateVolumeRequest::default()
        };
        let made = client.create_volume(request.clone()).await.unwrap().into_inner();
        let label = made.volume.unwrap().labels["encryption"].clone();
        assert!(label.starts_with("aes-256-xts-v1:"), "{label}");
        client.create_volume(request.clone()).await.unwrap();
        let plain = api::CreateVolumeRequest {
            encryption_key: Vec::new(),
            ..request.clone()
        };
        assert_eq!(
            client.create_volume(plain).await.unwrap_err().code(),
            Code::AlreadyExists
        );
        let short = api::CreateVolumeRequest {
            id: "short".into(),
            encryption_key: b"too short".to_vec(),
            ..request
        };
        assert_eq!(
            client.create_volume(short).await.unwrap_err().code(),
            Code::InvalidArgument
        );

        let socket = cluster.dir.path().join("s.nbd").display().to_string();
        let mut wrong = SECRET.to_vec();
        wrong[0] ^= 1;
        for key in [&wrong[..], b""] {
            let refusal = serve(&mut client, "secret", &socket, key).await.unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
            assert!(refusal.message().contains("encryption_key"), "{refusal}");
        }
        assert_eq!(
            get(&mut client, "secret").await.epoch,
            0,
            "a wrong key takes the volume from nobody"
        );
        let uri = serve(&mut client, "secret", &socket, SECRET).await.unwrap();
        assert!(serve(&mut client, "secret", &socket, &wrong).await.is_err());
        let source = cluster.dir.path().join("source").display().to_string();
        let bytes = content(8 * MIB);
        std::fs::write(&source, &bytes).unwrap();
        good("nbdcopy", &["--flush", &source, &uri]);
        detach(&mut client, "secret", false).await.unwrap();
        verify(&mut client, "secret").await;

        // Another process, another node: the key is all that is needed.
        cluster.kill_engine("n1");
        cluster.start_engine("n2", "gland");
        let mut client = cluster.client("n2").await;
        let uri = serve(&mut client, "secret", &socket, SECRET).await.unwrap();
        let copy = cluster.dir.path().join("copy").display().to_string();
        good("nbdcopy", &[&uri, &copy]);
        let back = std::fs::read(&copy).unwrap();
        assert!(back[..8 * MIB] == bytes && back[8 * MIB..].iter().all(|b| *b == 0));
        detach(&mut client, "secret", false).await.unwrap();

        // The same words in a volume that is not encrypted are found: the search works.
        for needle in [&b"this sentence must not be found"[..], SECRET.trim_ascii_end()] {
            assert_eq!(files_with(&cluster.dir.path().join("store"), needle), 0);
            assert_eq!(files_with(&cluster.dir.path().join("engine"), needle), 0);
        }
        create(&mut client, "open", 16 * MIB as u64).await;
        let uri = serve(&mut client, "open", &socket, b"").await.unwrap();
        good("nbdcopy", &["--flush", &source, &uri]);
        assert!(serve(&mut client, "open", &socket, SECRET).await.is_err());
        detach(&mut client, "open", false).await.unwrap();
        assert!(
            files_with(
                &cluster.dir.path().join("store"),
                b"this sentence must not be found"
            ) >= 3
        );
    });
}
