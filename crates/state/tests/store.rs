//! What every state store has to do, tried on etcd and on the embedded one.
#![allow(missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use hikube_state as state;
use state::embedded::EmbeddedStore;
use state::etcd::EtcdStore;
use state::{Change, Error, Range, StateStore, WatchStream, Written};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

struct Member {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn etcd() -> (Member, Arc<dyn StateStore>) {
    let dir = tempfile::Builder::new()
        .prefix("hikube-state-")
        .tempdir()
        .unwrap();
    let (client, peer) = (
        format!("http://127.0.0.1:{}", free_port()),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--unsafe-no-fsync",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("etcd (package etcd-server)");
    let member = Member { child, _dir: dir };
    let store = EtcdStore::new(&[client], None).unwrap();
    let ready = async {
        while store.revision().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("etcd starts");
    (member, Arc::new(store))
}

fn embedded() -> (tempfile::TempDir, Arc<dyn StateStore>) {
    let dir = tempfile::Builder::new()
        .prefix("hikube-state-")
        .tempdir()
        .unwrap();
    let store = EmbeddedStore::open(&dir.path().join("state")).unwrap();
    (dir, Arc::new(store))
}

fn done(written: Written) -> i64 {
    match written {
        Written::Done(revision) => revision,
        Written::Conflict(found) => panic!("conflict with {found:?}"),
    }
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn range<'a>(start: &'a str, end: &'a str, limit: i64, revision: i64) -> Range<'a> {
    Range {
        start,
        end,
        limit,
        revision,
    }
}

async fn next(watch: &mut WatchStream, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        let batch = tokio::time::timeout(PATIENCE, watch.recv())
            .await
            .expect("in time")
            .expect("open")
            .unwrap();
        // A batch is whole revisions in order.
        assert!(batch.changes.iter().all(|c| c.revision <= batch.revision));
        changes.extend(batch.changes);
    }
    changes
}

fn short(changes: &[Change]) -> Vec<(String, Option<String>, i64)> {
    let text = |v: &Bytes| String::from_utf8(v.to_vec()).unwrap();
    changes
        .iter()
        .map(|c| (c.key.clone(), c.value.as_ref().map(text), c.revision))
        .collect()
}

async fn writes_compare(store: &Arc<dyn StateStore>) {
    let start = store.revision().await.unwrap();
    let first = done(store.create("/w/a", value("1"), None).await.unwrap());
    assert_eq!(first, start + 1);
    // The name is taken, and the answer says by what.
    let Written::Conflict(Some(found)) = store.create("/w/a", value("x"), None).await.unwrap() else {
        panic!("created twice");
    };
    assert_eq!((found.value, found.revision), (value("1"), first));
    let second = done(store.update("/w/a", value("2"), first, None).await.unwrap());
    assert_eq!(second, first + 1);
    assert!(matches!(
        store.update("/w/a", value("3"), first, None).await.unwrap(),
        Written::Conflict(Some(_))
    ));
    assert!(matches!(
        store.delete("/w/a", first).await.unwrap(),
        Written::Conflict(Some(_))
    ));
    let (record, revision) = store.get("/w/a").await.unwrap();
    assert_eq!((record.unwrap().value, revision), (value("2"), second));
    let third = done(store.delete("/w/a", second).await.unwrap());
    assert_eq!(store.get("/w/a").await.unwrap(), (None, third));
    assert_eq!(
        store.update("/w/a", value("4"), second, None).await.unwrap(),
        Written::Conflict(None)
    );
    assert_eq!(
        store.delete("/w/a", second).await.unwrap(),
        Written::Conflict(None)
    );
    // Conflicts are no revisions.
    assert_eq!(store.revision().await.unwrap(), third);
    assert_eq!(
        done(store.create("/w/a", value(""), None).await.unwrap()),
        third + 1
    );
    assert_eq!(store.get("/w/a").await.unwrap().0.unwrap().value, value(""));
}

async fn ranges_are_of_one_revision(store: &Arc<dyn StateStore>) {
    for n in 0..5 {
        done(
            store
                .create(&format!("/r/{n}"), value("old"), None)
                .await
                .unwrap(),
        );
    }
    done(store.create("/r0", value("outside"), None).await.unwrap());
    let page = store.range(range("/r/", "/r0", 2, 0)).await.unwrap();
    let keys: Vec<_> = page.records.iter().map(|r| r.key.as_str()).collect();
    assert_eq!((keys, page.more, page.count), (vec!["/r/0", "/r/1"], true, 5));
    let at = page.revision;
    let two = store.get("/r/2").await.unwrap().0.unwrap();
    done(
        store
            .update("/r/2", value("new"), two.revision, None)
            .await
            .unwrap(),
    );
    let three = store.get("/r/3").await.unwrap().0.unwrap();
    done(store.delete("/r/3", three.revision).await.unwrap());
    let rest = store.range(range("/r/1\0", "/r0", 0, at)).await.unwrap();
    assert!(rest.records.iter().all(|r| r.value == value("old")));
    assert_eq!(
        (rest.records.len(), rest.more, rest.count, rest.revision),
        (3, false, 3, at)
    );
    let now = store.range(range("/r/", "/r0", 0, 0)).await.unwrap();
    assert_eq!(
        (now.records.len(), now.records[2].value.clone()),
        (4, value("new"))
    );
    assert!(matches!(
        store.range(range("/r/", "/r0", 0, at + 1000)).await,
        Err(Error::Refused { .. })
    ));
}

async fn watches_lose_nothing(store: &Arc<dyn StateStore>) {
    let (_expect, known) = watch::channel(0);
    let start = store.revision().await.unwrap();
    let a = done(store.create("/v/a", value("1"), None).await.unwrap());
    // What was before the watch, what comes after it, and deletions.
    let mut watch = store.watch(start + 1, known.clone()).await.unwrap();
    let b = done(store.update("/v/a", value("2"), a, None).await.unwrap());
    let c = done(store.delete("/v/a", b).await.unwrap());
    let key = || "/v/a".to_owned();
    let expected = [
        (key(), Some("1".into()), a),
        (key(), Some("2".into()), b),
        (key(), None, c),
    ];
    assert_eq!(short(&next(&mut watch, 3).await), expected);
    // Many at once, from several writers.
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..100 {
                done(
                    store
                        .create(&format!("/v/{writer}/{n}"), value("x"), None)
                        .await
                        .unwrap(),
                );
            }
        });
    }
    let changes = next(&mut watch, 800).await;
    assert!(changes.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    while let Some(result) = writers.join_next().await {
        result.unwrap();
    }
    let mut late = store.watch(start + 1, known).await.unwrap();
    assert_eq!(next(&mut late, 803).await[3..], changes);
}

async fn compaction_forgets_and_says_so(store: &Arc<dyn StateStore>) {
    let (_expect, known) = watch::channel(0);
    let a = done(store.create("/c/a", value("1"), None).await.unwrap());
    let b = done(store.update("/c/a", value("2"), a, None).await.unwrap());
    let gone = done(store.create("/c/b", value("1"), None).await.unwrap());
    let c = done(store.delete("/c/b", gone).await.unwrap());
    store.compact(c).await.unwrap();
    // A second time is no error.
    store.compact(c).await.unwrap();
    assert!(matches!(
        store.range(range("/c/", "/c0", 0, a)).await,
        Err(Error::Compacted { .. })
    ));
    let page = store.range(range("/c/", "/c0", 0, c)).await.unwrap();
    assert_eq!((page.records.len(), page.records[0].revision), (1, b));
    let mut watch = store.watch(a, known.clone()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, watch.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Err(Error::Compacted { .. })), "{ended:?}");
    let mut watch = store.watch(c + 1, known).await.unwrap();
    let d = done(store.update("/c/a", value("3"), b, None).await.unwrap());
    assert_eq!(
        short(&next(&mut watch, 1).await),
        [("/c/a".to_owned(), Some("3".into()), d)]
    );
    assert!(store.compact(d + 1000).await.is_err());
}

async fn keys_go_away_after_their_time(store: &Arc<dyn StateStore>) {
    let second = Some(Duration::from_secs(1));
    done(store.create("/t/a", value("1"), second).await.unwrap());
    // Written again without an end, it stays.
    let b = done(store.create("/t/b", value("1"), second).await.unwrap());
    done(store.update("/t/b", value("2"), b, None).await.unwrap());
    let gone = async {
        while store.get("/t/a").await.unwrap().0.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes away");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.get("/t/b").await.unwrap().0.unwrap().value, value("2"));
}

async fn only_one_of_many_wins(store: &Arc<dyn StateStore>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = store.clone();
        tasks.spawn(async move { store.create("/o/a", value(&n.to_string()), None).await.unwrap() });
    }
    let mut winners = 0;
    while let Some(result) = tasks.join_next().await {
        winners += usize::from(matches!(result.unwrap(), Written::Done(_)));
    }
    assert_eq!(winners, 1);
}

async fn suite(store: &Arc<dyn StateStore>) {
    writes_compare(store).await;
    ranges_are_of_one_revision(store).await;
    watches_lose_nothing(store).await;
    only_one_of_many_wins(store).await;
    keys_go_away_after_their_time(store).await;
    compaction_forgets_and_says_so(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_does_what_a_state_store_does() {
    let (_member, store) = etcd().await;
    suite(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_does_what_etcd_does() {
    let (_dir, store) = embedded();
    suite(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_holds_everything() {
    let dir = tempfile::Builder::new()
        .prefix("hikube-state-")
        .tempdir()
        .unwrap();
    let path = dir.path().join("state");
    let open = || EmbeddedStore::open(&path).unwrap();
    let store = open();
    let a = done(store.create("/a", value("1"), None).await.unwrap());
    let b = done(store.update("/a", value("2"), a, None).await.unwrap());
    done(
        store
            .create("/short", value("1"), Some(Duration::from_secs(1)))
            .await
            .unwrap(),
    );
    let c = done(store.create("/b", value("1"), None).await.unwrap());
    let d = done(store.delete("/b", c).await.unwrap());
    drop(store);
    let store = open();
    assert_eq!(store.revision().await.unwrap(), d);
    assert_eq!(
        store.range(range("/a", "/b", 0, a)).await.unwrap().records[0].value,
        value("1")
    );
    // Even when nothing is left of the newest revision.
    store.compact(d).await.unwrap();
    drop(store);
    let store = open();
    assert!(store.revision().await.unwrap() >= d);
    assert_eq!(store.get("/a").await.unwrap().0.unwrap().revision, b);
    assert!(matches!(
        store.range(range("/a", "/b", 0, a)).await,
        Err(Error::Compacted { .. })
    ));
    // What was to go away while nobody had the file open goes away now.
    let gone = async {
        while store.get("/short").await.unwrap().0.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes away");
    // Two processes cannot have it at once.
    assert!(EmbeddedStore::open(&path).is_err());
    assert!(store.create("/big", vec![0; 2 << 20].into(), None).await.is_err());
}
