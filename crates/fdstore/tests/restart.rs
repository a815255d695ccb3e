//! A process that is killed and started again gets back what it had stored.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use hikube_fdstore::{self as fdstore, Manager, Store};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "FDSTORE_TEST_FILE";

/// Starts this test program again, as the process that the store is for.
fn spawn(store: &Store, socket: &Path, file: &Path) -> Child {
    let mut command = Command::new("/bin/sh");
    // As `hikube launch` does: who is started says so itself.
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" --exact the_process --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(fdstore::SOCKET_VARIABLE, socket)
        .env(ROLE, file)
        .stdout(Stdio::piped());
    fdstore::pass(&mut command, store.descriptors().unwrap()).unwrap();
    command.spawn().unwrap()
}

/// What a child does: it stores a file without a name if it was given none, and appends a line to it if it was.
#[test]
fn the_process() {
    let Some(path) = std::env::var_os(ROLE) else {
        return;
    };
    let mut inherited = fdstore::inherited().unwrap();
    assert!(
        fdstore::inherited().unwrap().is_empty(),
        "they are given out once"
    );
    let manager = Manager::from_env().unwrap();
    let Some((name, descriptor)) = inherited.pop() else {
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(b"first\n").unwrap();
        manager.store("the file", file.as_fd()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    };
    assert_eq!((name.as_str(), inherited.len()), ("the file", 0));
    let mut file = File::from(descriptor);
    file.write_all(b"second\n").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    println!("found {text:?}");
    manager.remove("the file").unwrap();
}

async fn wait_for(store: &Store, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.descriptors().unwrap().len() != count {
        assert!(Instant::now() < deadline, "{:?}", store.descriptors());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_process_goes_on_with_what_it_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("notify"), dir.path().join("file"));
    let store = Store::listen(&socket).unwrap();
    let mut first = spawn(&store, &socket, &file);
    wait_for(&store, 1).await;
    assert!(!file.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let second = spawn(&store, &socket, &file).wait_with_output().unwrap();
    let output = String::from_utf8(second.stdout).unwrap();
    assert!(output.contains(r#"found "first\nsecond\n""#), "{output}");
    wait_for(&store, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_stands_for_its_newest_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let store = Store::listen(&socket).unwrap();
    let manager = Manager::at(&socket);
    let before = manager.instance().unwrap();
    let write = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    manager.store("a", write("old").as_fd()).unwrap();
    manager.store("b", write("other").as_fd()).unwrap();
    manager.store("a", write("newer").as_fd()).unwrap();
    assert!(manager.store("a:b", write("").as_fd()).is_err());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let kept = store.descriptors().unwrap();
        let text = |name: &str| {
            let (_, fd) = kept.iter().find(|(n, _)| n == name)?;
            let mut file = File::from(fd.try_clone().unwrap());
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            Some(text)
        };
        if kept.len() == 2 && text("a").as_deref() == Some("newer") && text("b").as_deref() == Some("other") {
            break;
        }
        assert!(Instant::now() < deadline, "{kept:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.clear();
    assert!(store.descriptors().unwrap().is_empty());
    drop(store);
    assert!(manager.store("a", write("").as_fd()).is_err(), "nobody listens");
    let _again = Store::listen(&socket).unwrap();
    assert_ne!(manager.instance(), Some(before));
}
