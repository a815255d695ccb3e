//! A disk under a store that forgets and fails. A small library goes before the C library: whatever is synced below the
//! store's directory is copied to a second directory, which therefore has what would be on stable media. A loss of power
//! is the death of the store and the return of that second directory, under another boot of the machine. A sync can be
//! made to fail, too.

use super::{Cluster, REGIONS, run};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root(void) { return getenv("SHIM_ROOT"); }

static int real_open(const char *path, int flags, int mode) {
    static int (*next)(const char *, int, ...);
    if (!next) next = dlsym(RTLD_NEXT, "open64");
    return next(path, flags, mode);
}

/* Where the stable copy of a path is; 0 when it is not the store's. */
static int stable(const char *path, char *out) {
    size_t n = root() ? strlen(root()) : 0;
    if (!n || strncmp(path, root(), n)) return 0;
    return snprintf(out, PATH_MAX, "%s%s", getenv("SHIM_STABLE"), path + n) < PATH_MAX;
}

static void parents(char *path) {
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
}

/* All or nothing: the process may be killed at any moment. */
static void copy_file(const char *path) {
    char to[PATH_MAX], part[PATH_MAX], *buffer = malloc(1 << 20);
    if (!stable(path, to)) return free(buffer);
    parents(to);
    snprintf(part, sizeof part, "%s.part.%lx", getenv("SHIM_STABLE"), (unsigned long)pthread_self());
    int from = real_open(path, O_RDONLY | O_CLOEXEC, 0);
    int out = real_open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat s;
    if (from >= 0 && out >= 0 && !fstat(from, &s)) {
        off_t at = 0, data;
        if (ftruncate(out, 0) || ftruncate(out, s.st_size)) abort();
        while ((data = lseek(from, at, SEEK_DATA)) >= 0) {
            off_t end = lseek(from, data, SEEK_HOLE);
            for (at = data; at < end;) {
                size_t want = end - at > 1 << 20 ? 1 << 20 : end - at;
                ssize_t n = pread(from, buffer, want, at);
                if (n <= 0 || pwrite(out, buffer, n, at) != n) break;
                at += n;
            }
            at = end;
        }
        rename(part, to);
    }
    if (from >= 0) close(from);
    if (out >= 0) close(out);
    free(buffer);
}

static void copy_tree(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return copy_file(path);
    for (struct dirent *e; (e = readdir(dir));) {
        char below[PATH_MAX];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        copy_tree(below);
    }
    closedir(dir);
}

static void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) { unlink(path); return; }
    for (struct dirent *e; (e = readdir(dir));) {
        char below[PATH_MAX];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        remove_tree(below);
    }
    closedir(dir);
    rmdir(path);
}

/* The names in a directory are stable: new ones appear with what they have, old ones go. */
static void sync_names(const char *path) {
    char to[PATH_MAX], a[PATH_MAX], b[PATH_MAX];
    if (!stable(path, to)) return;
    for (int gone = 0; gone < 2; gone++) {
        DIR *dir = opendir(gone ? to : path);
        for (struct dirent *e; dir && (e = readdir(dir));) {
            if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
            snprintf(a, sizeof a, "%s/%s", path, e->d_name);
            snprintf(b, sizeof b, "%s/%s", to, e->d_name);
            if (!gone && access(b, F_OK)) copy_tree(a);
            if (gone && access(a, F_OK)) remove_tree(b);
        }
        if (dir) closedir(dir);
    }
}

static int sync_any(int fd, const char *name) {
    char link[64], path[PATH_MAX], to[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    struct stat s;
    if (n > 0 && (path[n] = 0, stable(path, to)) && !fstat(fd, &s)) {
        /* Only the journal's syncs fail: once. */
        if (S_ISREG(s.st_mode) && strstr(path, "/journal") && !unlink(getenv("SHIM_EIO"))) {
            errno = EIO;
            return -1;
        }
        if (S_ISDIR(s.st_mode)) sync_names(path); else copy_file(path);
    }
    int (*next)(int) = dlsym(RTLD_NEXT, name);
    return next(fd);
}

int fsync(int fd) { return sync_any(fd, "fsync"); }
int fdatasync(int fd) { return sync_any(fd, "fdatasync"); }

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    if (!strcmp(path, "/proc/sys/kernel/random/boot_id")) path = getenv("SHIM_BOOT");
    return real_open(path, flags, mode);
}
"#;

/// What survives a loss of power of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    /// Each sector by itself, by lot.
    SomeSectors(u64),
}

/// Where the library and the stable copies are.
fn place(cluster: &Cluster) -> PathBuf {
    cluster.dir.path().join("shim")
}

/// The environment of a store.
pub fn environment(cluster: &Cluster, index: usize) -> Vec<(&'static str, PathBuf)> {
    let dir = place(cluster);
    vec![
        ("LD_PRELOAD", dir.join("shim.so")),
        ("SHIM_ROOT", cluster.store_dir(index)),
        ("SHIM_STABLE", dir.join(REGIONS[index])),
        ("SHIM_EIO", dir.join(format!("eio-{index}"))),
        ("SHIM_BOOT", dir.join(format!("boot-{index}"))),
    ]
}

/// Puts all stores on such disks; they are started again.
pub fn install(cluster: &mut Cluster) {
    let dir = place(cluster);
    std::fs::create_dir(&dir).unwrap();
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let (source, library) = (source.to_str().unwrap(), library.to_str().unwrap());
    run(
        "cc",
        &["-O1", "-w", "-shared", "-fPIC", "-o", library, source, "-ldl"],
    );
    cluster.shim = true;
    for (index, region) in REGIONS.iter().enumerate() {
        cluster.stop_store(index);
        new_boot(&dir, index);
        copy(&cluster.store_dir(index), &dir.join(region));
        cluster.start_store(index);
    }
}

fn new_boot(dir: &Path, index: usize) {
    let id = format!("{}\n", uuid());
    std::fs::write(dir.join(format!("boot-{index}")), id).unwrap();
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    run(
        "cp",
        &[
            "-a",
            "--sparse=always",
            from.to_str().unwrap(),
            to.to_str().unwrap(),
        ],
    );
}

/// The next sync of that store's journal fails.
pub fn fail_next_sync(cluster: &Cluster, index: usize) {
    std::fs::write(place(cluster).join(format!("eio-{index}")), b"").unwrap();
}

/// Whether that failure has come.
pub fn has_failed(cluster: &Cluster, index: usize) -> bool {
    !place(cluster).join(format!("eio-{index}")).exists()
}

/// The machine of a store loses power: the store dies, and what was not synced is gone. Start it again.
pub fn power_loss(cluster: &mut Cluster, index: usize, survives: Survives) {
    cluster.kill_store(index);
    let (dir, live) = (place(cluster), cluster.store_dir(index));
    let stable = dir.join(REGIONS[index]);
    if let Survives::SomeSectors(seed) = survives {
        mix(&live, &stable, &mut (seed | 1));
    }
    // The superblock is the same file as ever, else the store would rightly refuse the directory.
    for entry in std::fs::read_dir(&stable).unwrap().flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &live.join(entry.file_name()));
        }
    }
    new_boot(&dir, index);
}

/// Some of the sectors in which the files differ become stable.
fn mix(live: &Path, stable: &Path, lottery: &mut u64) {
    for entry in std::fs::read_dir(live).unwrap().flatten() {
        let (from, to) = (entry.path(), stable.join(entry.file_name()));
        if from.is_dir() && to.is_dir() {
            mix(&from, &to, lottery);
        } else if from.is_file() && to.is_file() {
            let (now, old) = (std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
            let file = std::fs::File::options().write(true).open(&to).unwrap();
            for (at, sector) in now.chunks(512).enumerate() {
                let at = at * 512;
                *lottery = lottery.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let differs = old.get(at..at + sector.len()) != Some(sector);
                if differs && *lottery >> 63 == 1 {
                    file.write_all_at(sector, at as u64).unwrap();
                }
            }
        }
    }
}
