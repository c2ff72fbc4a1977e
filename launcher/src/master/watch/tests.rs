//! The watcher on real files. A test that must not wait uses a `settle` that is far longer than its patience.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::sys::inotify::exchange;

use super::{Report, Target, Watcher};

const PATIENCE: Duration = Duration::from_secs(10);
/// For changes that are made in one step.
const NEVER: Duration = Duration::MAX;
const SHORT: Duration = Duration::from_millis(40);

struct Rig {
    dir: TempDir,
    watcher: Watcher<&'static str>,
    targets: BTreeMap<&'static str, Target>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, watcher: Watcher::new().expect("inotify"), targets: BTreeMap::new() }
    }

    /// `a/plugin.wasm` with content `old`, watched.
    fn with_file(settle: Duration) -> Self {
        let mut rig = Rig::new();
        rig.write("a/plugin.wasm", "old");
        rig.watch("plugin", "a/plugin.wasm", settle);
        rig
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, content).expect("write");
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).expect("rename");
    }

    fn watch(&mut self, key: &'static str, path: &str, settle: Duration) {
        self.targets.insert(key, Target { path: self.at(path), settle });
        self.watcher.set(self.targets.clone());
    }

    fn forget(&mut self, key: &'static str) {
        self.targets.remove(key);
        self.watcher.set(self.targets.clone());
    }

    /// The next reports: which target, which file.
    async fn next(&mut self) -> Vec<(&'static str, PathBuf)> {
        let reports = tokio::time::timeout(PATIENCE, self.watcher.next()).await;
        let reports = reports.unwrap_or_else(|_| panic!("nothing was reported: {:#?}", self.watcher));
        let reports = reports.expect("the queue works").into_iter().map(|report| match report {
            Report::Changed { key, path } => (key, path),
            Report::Blind { error, .. } => panic!("{error}"),
        });
        reports.collect()
    }

    /// The target is reported, and what is reported last has this content.
    async fn changed_to(&mut self, key: &'static str, content: &str) -> PathBuf {
        loop {
            for (reported, path) in self.next().await {
                assert_eq!(reported, key);
                if fs::read_to_string(&path).is_ok_and(|found| found == content) {
                    return path;
                }
            }
        }
    }

    /// No event waits to be read and no file is being waited for: the kernel queues events before the system call
    /// that causes them returns, so that this is a fact and not a matter of time.
    fn sleeps(&self) {
        let events = self.watcher.queue.pending().expect("the queue works");
        assert!(events.is_empty(), "woken by {events:?}");
        assert_eq!(self.watcher.next_deadline(), None);
    }

    /// Deals with the events that wait, without waiting for more.
    fn digest(&mut self) {
        loop {
            let events = self.watcher.queue.pending().expect("the queue works");
            if events.is_empty() {
                return;
            }
            self.watcher.take(&events, Instant::now());
        }
    }
}

#[tokio::test]
async fn a_rename_over_the_file_is_reported_at_once() {
    let mut rig = Rig::with_file(NEVER);
    for round in 0..10 {
        let content = format!("new {round}");
        rig.write("a/.tmp", &content);
        rig.rename("a/.tmp", "a/plugin.wasm");
        assert_eq!(rig.changed_to("plugin", &content).await, rig.at("a/plugin.wasm"));
    }
}

#[tokio::test]
async fn a_slow_rewrite_in_place_is_reported_when_it_has_been_still_and_not_before() {
    let mut rig = Rig::with_file(SHORT);
    let mut file = File::create(rig.at("a/plugin.wasm")).expect("open");
    let mut written = String::new();
    let mut last = Instant::now();
    for piece in 0..30 {
        let piece = format!("piece {piece};");
        written.push_str(&piece);
        file.write_all(piece.as_bytes()).expect("write");
        last = Instant::now();
        // A quarter of the time that would count as still.
        if let Ok(reports) = tokio::time::timeout(SHORT / 4, rig.watcher.next()).await {
            assert!(last.elapsed() >= SHORT, "reported while it was written: {reports:?}");
        }
    }
    drop(file);
    rig.changed_to("plugin", &written).await;
    assert!(last.elapsed() >= SHORT);
}

#[tokio::test]
async fn an_unlink_and_a_hard_link_as_cargo_does_is_reported_at_once() {
    let mut rig = Rig::with_file(NEVER);
    for round in 0..10 {
        let content = format!("linked {round}");
        rig.write("deps/plugin.tmp", &content);
        rig.rename("deps/plugin.tmp", "deps/plugin.wasm");
        fs::remove_file(rig.at("a/plugin.wasm")).expect("unlink");
        if round % 2 == 0 {
            rig.digest();
        }
        fs::hard_link(rig.at("deps/plugin.wasm"), rig.at("a/plugin.wasm")).expect("link");
        rig.changed_to("plugin", &content).await;
    }
}

#[tokio::test]
async fn a_file_that_is_removed_and_written_anew_is_reported_when_it_is_still() {
    let mut rig = Rig::with_file(SHORT);
    for round in 0..5 {
        let content = format!("anew {round}");
        fs::remove_file(rig.at("a/plugin.wasm")).expect("unlink");
        if round % 2 == 0 {
            rig.digest();
            assert_eq!(rig.watcher.next_deadline(), None, "a file that vanished is not a change");
        }
        let begun = Instant::now();
        rig.write("a/plugin.wasm", &content);
        rig.changed_to("plugin", &content).await;
        assert!(begun.elapsed() >= SHORT);
    }
}

#[tokio::test]
async fn a_symlinked_directory_that_is_swapped_is_reported_at_once() {
    let mut rig = Rig::new();
    rig.write("release-1/bin/plugin.wasm", "1");
    symlink("release-1", rig.at("current")).expect("symlink");
    rig.watch("plugin", "current/bin/plugin.wasm", NEVER);
    for round in 2..8 {
        let release = format!("release-{round}");
        rig.write(&format!("{release}/bin/plugin.wasm"), &release);
        if round % 2 == 0 {
            symlink(&release, rig.at("current.tmp")).expect("symlink");
            rig.rename("current.tmp", "current");
        } else {
            fs::remove_file(rig.at("current")).expect("unlink");
            symlink(rig.at(&release), rig.at("current")).expect("symlink");
        }
        let file = rig.changed_to("plugin", &release).await;
        assert_eq!(file, rig.at(&format!("{release}/bin/plugin.wasm")), "symlinks are resolved");
    }
    rig.write("release-1/bin/plugin.wasm", "nobody looks here any more");
    rig.digest();
    rig.sleeps();
}

#[tokio::test]
async fn a_config_map_is_reported_at_once() {
    let mut rig = Rig::new();
    rig.write("etc/..2024_1/config.yaml", "1");
    symlink("..2024_1", rig.at("etc/..data")).expect("symlink");
    symlink("..data/config.yaml", rig.at("etc/config.yaml")).expect("symlink");
    rig.watch("config", "etc/config.yaml", NEVER);
    for round in 2..6 {
        let version = format!("..2024_{round}");
        rig.write(&format!("etc/{version}/config.yaml"), &version);
        symlink(&version, rig.at("etc/..data_tmp")).expect("symlink");
        rig.rename("etc/..data_tmp", "etc/..data");
        fs::remove_dir_all(rig.at(&format!("etc/..2024_{}", round - 1))).expect("rm");
        rig.changed_to("config", &version).await;
    }
}

#[tokio::test]
async fn a_directory_that_is_renamed_away_and_replaced_is_reported() {
    let mut rig = Rig::with_file(SHORT);
    for round in 0..6 {
        let content = format!("dir {round}");
        rig.write("b/plugin.wasm", &content);
        rig.rename("a", &format!("old-{round}"));
        if round % 2 == 0 {
            rig.digest();
        }
        rig.rename("b", "a");
        rig.changed_to("plugin", &content).await;
    }
}

#[tokio::test]
async fn a_directory_that_moves_in_where_one_was_missed_is_reported_at_once() {
    let mut rig = Rig::with_file(NEVER);
    rig.write("b/plugin.wasm", "new");
    rig.rename("a", "old");
    rig.digest();
    rig.rename("b", "a");
    rig.changed_to("plugin", "new").await;
}

#[tokio::test]
async fn directories_that_are_exchanged_are_reported() {
    let mut rig = Rig::with_file(SHORT);
    rig.write("b/plugin.wasm", "new");
    for content in ["new", "old", "new"] {
        exchange(&rig.at("a"), &rig.at("b")).expect("exchange");
        rig.changed_to("plugin", content).await;
    }
}

#[tokio::test]
async fn a_tree_that_is_removed_and_made_anew_is_reported_even_if_somebody_still_stands_in_it() {
    let mut rig = Rig::new();
    rig.write("x/y/z/plugin.wasm", "old");
    rig.watch("plugin", "x/y/z/plugin.wasm", SHORT);
    for round in 0..6 {
        let content = format!("tree {round}");
        // An open directory delays the news of its deletion, as a shell's working directory does.
        let stands_in = [File::open(rig.at("x/y")).expect("open"), File::open(rig.at("x/y/z")).expect("open")];
        if round % 2 == 0 {
            fs::remove_file(rig.at("x/y/z/plugin.wasm")).expect("unlink");
            rig.digest();
            fs::remove_dir(rig.at("x/y/z")).expect("rmdir");
            rig.digest();
        }
        fs::remove_dir_all(rig.at("x")).expect("rm");
        if round % 3 == 0 {
            rig.digest();
        }
        rig.write("x/y/z/plugin.wasm", &content);
        rig.changed_to("plugin", &content).await;
        drop(stands_in);
    }
}

#[tokio::test]
async fn a_file_that_does_not_exist_yet_is_reported_when_it_comes() {
    let mut rig = Rig::new();
    rig.watch("plugin", "not/yet/there.wasm", SHORT);
    rig.sleeps();
    for directory in ["not", "not/yet"] {
        fs::create_dir(rig.at(directory)).expect("mkdir");
        rig.digest();
        assert_eq!(rig.watcher.next_deadline(), None);
    }
    rig.write("not/yet/there.wasm", "now");
    rig.changed_to("plugin", "now").await;
}

#[tokio::test]
async fn a_file_that_goes_and_comes_back_is_reported_once_it_is_back() {
    let mut rig = Rig::with_file(NEVER);
    rig.rename("a/plugin.wasm", "a/gone");
    rig.digest();
    assert_eq!(rig.watcher.next_deadline(), None, "a file that vanished is not a change");
    rig.rename("a/gone", "a/plugin.wasm");
    rig.changed_to("plugin", "old").await;
}

#[tokio::test]
async fn a_touch_is_at_most_a_change_without_consequence() {
    let mut rig = Rig::with_file(SHORT);
    let file = File::open(rig.at("a/plugin.wasm")).expect("open");
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(7)).expect("utimes");
    rig.changed_to("plugin", "old").await;
    rig.sleeps();
}

#[tokio::test]
async fn what_does_not_concern_the_file_does_not_wake_anybody() {
    let mut rig = Rig::new();
    rig.write("home/project/target/plugin.wasm", "old");
    rig.write("home/project/target/neighbour", "quiet");
    rig.watch("plugin", "home/project/target/plugin.wasm", SHORT);
    for number in 0..1_000 {
        rig.write(&format!("home/{number}"), "unrelated");
        rig.write(&format!("home/project/{number}"), "unrelated");
    }
    for _ in 0..100 {
        fs::read(rig.at("home/project/target/plugin.wasm")).expect("read");
        fs::read_dir(rig.at("home/project/target")).expect("read").count();
        rig.write("home/project/target/neighbour", "written to");
    }
    fs::remove_file(rig.at("home/7")).expect("unlink");
    rig.rename("home/project/8", "home/project/9");
    rig.sleeps();
    rig.write("home/project/target/.tmp", "new");
    rig.rename("home/project/target/.tmp", "home/project/target/plugin.wasm");
    rig.changed_to("plugin", "new").await;
}

#[tokio::test]
async fn the_wide_watches_of_a_search_end_when_the_file_is_found() {
    let mut rig = Rig::with_file(SHORT);
    fs::remove_dir_all(rig.at("a")).expect("rm");
    rig.digest();
    rig.write("a/plugin.wasm", "new");
    rig.changed_to("plugin", "new").await;
    rig.write("unrelated", "1");
    rig.sleeps();
}

#[tokio::test]
async fn two_targets_on_one_inode_are_both_reported() {
    let mut rig = Rig::with_file(SHORT);
    fs::hard_link(rig.at("a/plugin.wasm"), rig.at("a/twin.wasm")).expect("link");
    rig.watch("twin", "a/twin.wasm", SHORT);
    rig.write("a/plugin.wasm", "both");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(rig.next().await.into_iter().map(|(key, _)| key));
    }
    seen.sort_unstable();
    assert_eq!(seen, ["plugin", "twin"]);
    rig.forget("plugin");
    rig.write("a/plugin.wasm", "the other name is still watched");
    rig.changed_to("twin", "the other name is still watched").await;
}

#[tokio::test]
async fn targets_that_need_different_things_of_one_directory_get_them() {
    let mut rig = Rig::new();
    rig.write("top/config.yaml", "1");
    rig.write("top/lib/plugin.wasm", "1");
    rig.watch("config", "top/config.yaml", NEVER);
    rig.watch("plugin", "top/lib/plugin.wasm", NEVER);
    rig.write("top/.tmp", "2");
    rig.rename("top/.tmp", "top/config.yaml");
    rig.changed_to("config", "2").await;
    rig.write("top/lib/.tmp", "2");
    rig.rename("top/lib/.tmp", "top/lib/plugin.wasm");
    rig.changed_to("plugin", "2").await;
    rig.write("top/.tmp", "3");
    rig.rename("top/.tmp", "top/config.yaml");
    rig.changed_to("config", "3").await;
    rig.forget("config");
    rig.digest();
    rig.write("top/config.yaml", "nobody asks");
    rig.write("top/another", "nobody asks");
    rig.sleeps();
}

#[tokio::test]
async fn a_target_that_is_set_again_keeps_its_change_in_progress() {
    let mut rig = Rig::with_file(SHORT);
    rig.write("a/plugin.wasm", "new");
    rig.digest();
    assert!(rig.watcher.next_deadline().is_some());
    rig.watch("another", "b/another.wasm", NEVER);
    rig.changed_to("plugin", "new").await;
}

#[tokio::test]
async fn a_change_before_the_first_wait_is_not_lost() {
    let mut rig = Rig::with_file(NEVER);
    rig.write("a/.tmp", "new");
    rig.rename("a/.tmp", "a/plugin.wasm");
    rig.watch("plugin", "a/plugin.wasm", NEVER);
    rig.changed_to("plugin", "new").await;
}

#[tokio::test]
async fn a_wait_that_is_abandoned_again_and_again_loses_nothing() {
    let mut rig = Rig::with_file(SHORT);
    rig.write("a/plugin.wasm", "new");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE);
        tokio::select! {
            biased;
            reports = rig.watcher.next() => {
                assert!(matches!(reports.expect("the queue works")[..], [Report::Changed { key: "plugin", .. }]));
                break;
            }
            () = tokio::task::yield_now() => {}
        }
    }
}

#[tokio::test]
async fn when_the_kernel_loses_events_everything_is_looked_at() {
    let mut rig = Rig::with_file(SHORT);
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("the limit of events");
    let most: usize = most.trim().parse().expect("a number");
    rig.write("a/left", "");
    for _ in 0..most / 4 + 1 {
        rig.rename("a/left", "a/right");
        rig.rename("a/right", "a/left");
    }
    rig.write("a/.tmp", "new");
    rig.rename("a/.tmp", "a/plugin.wasm");
    rig.changed_to("plugin", "new").await;
    rig.write("a/.tmp", "newer");
    rig.rename("a/.tmp", "a/plugin.wasm");
    rig.changed_to("plugin", "newer").await;
}

#[tokio::test]
async fn a_circle_of_symlinks_is_a_missing_file() {
    let mut rig = Rig::new();
    symlink("two", rig.at("one")).expect("symlink");
    symlink("one", rig.at("two")).expect("symlink");
    rig.watch("plugin", "one", NEVER);
    rig.write("file", "found");
    symlink("file", rig.at("tmp")).expect("symlink");
    rig.rename("tmp", "two");
    rig.changed_to("plugin", "found").await;
}

#[tokio::test]
async fn a_path_with_dots_and_a_directory_in_its_place_is_followed_as_the_kernel_does() {
    let mut rig = Rig::new();
    rig.write("deep/down/plugin.wasm", "old");
    fs::create_dir(rig.at("side")).expect("mkdir");
    symlink("../deep/down", rig.at("side/link")).expect("symlink");
    // `link/..` is where the link leads to, not where it lies.
    rig.watch("plugin", "side/link/../plugin.wasm", NEVER);
    fs::create_dir(rig.at("deep/plugin.wasm")).expect("mkdir");
    rig.digest();
    assert_eq!(rig.watcher.next_deadline(), None, "a directory is not a file");
    fs::remove_dir(rig.at("deep/plugin.wasm")).expect("rmdir");
    rig.write("deep/.tmp", "new");
    rig.rename("deep/.tmp", "deep/plugin.wasm");
    assert_eq!(rig.changed_to("plugin", "new").await, rig.at("deep/plugin.wasm"));
}

#[tokio::test]
async fn watches_do_not_pile_up() {
    let mut rig = Rig::with_file(NEVER);
    let before = rig.watcher.armed.len();
    for round in 0..50 {
        rig.write("a/.tmp", &round.to_string());
        rig.rename("a/.tmp", "a/plugin.wasm");
        rig.changed_to("plugin", &round.to_string()).await;
    }
    assert_eq!(rig.watcher.armed.len(), before);
    let path = Path::new("/proc/self/fdinfo").join(rig.watcher.queue.number().to_string());
    let kernel = fs::read_to_string(path).expect("fdinfo").lines().filter(|l| l.starts_with("inotify")).count();
    assert_eq!(kernel, before, "the kernel holds as many");
}

#[tokio::test]
async fn a_file_that_comes_between_the_look_and_the_watch_is_found() {
    let mut rig = Rig::new();
    rig.watch("plugin", "x/y/plugin.wasm", SHORT);
    let file = rig.at("x/y/plugin.wasm");
    rig.watcher.arm_while(&"plugin", Instant::now(), || {
        // No watch of the first look tells of this: where it looked, `x` was missing, and now nothing more happens.
        fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
        fs::write(&file, "there").expect("write");
    });
    assert_eq!(rig.watcher.targets["plugin"].trail.resolved.as_ref(), Some(&file));
}

#[tokio::test]
async fn a_way_that_changes_all_the_time_is_looked_at_again_later() {
    let mut rig = Rig::with_file(SHORT);
    let (file, mut number) = (rig.at("a/plugin.wasm"), 0);
    rig.watcher.arm_while(&"plugin", Instant::now(), || {
        number += 1;
        fs::write(file.with_extension("tmp"), number.to_string()).expect("write");
        fs::rename(file.with_extension("tmp"), &file).expect("rename");
    });
    assert!(rig.watcher.next_deadline().is_some());
    rig.changed_to("plugin", &number.to_string()).await;
    rig.digest();
    assert_eq!(rig.watcher.next_deadline(), None);
}

#[tokio::test]
async fn a_directory_that_is_made_anew_in_place_of_another_has_to_settle() {
    let mut rig = Rig::with_file(SHORT);
    for round in 0..5 {
        let content = format!("fresh {round}");
        rig.rename("a", &format!("old-{round}"));
        let begun = Instant::now();
        rig.write("a/plugin.wasm", &content);
        rig.changed_to("plugin", &content).await;
        assert!(begun.elapsed() >= SHORT, "nobody can know that it is complete");
    }
}

#[tokio::test]
async fn whatever_races_with_the_watcher_the_last_change_is_reported() {
    for round in 0..20 {
        let mut rig = Rig::new();
        rig.write("real-0/lib/plugin.wasm", "old");
        symlink("real-0", rig.at("current")).expect("symlink");
        rig.watch("plugin", "current/lib/plugin.wasm", SHORT);
        let last = format!("last of {round}");
        let (top, content) = (rig.dir.path().to_owned(), last.clone());
        let storm = std::thread::spawn(move || -> std::io::Result<()> {
            let file = top.join("current/lib/plugin.wasm");
            // Each round ends with another kind of change.
            for step in 0..40 + round {
                let content = if step == 39 + round { content.clone() } else { format!("step {step}") };
                match step % 4 {
                    0 => {
                        fs::write(top.join("tmp"), content)?;
                        fs::rename(top.join("tmp"), &file)?;
                    }
                    1 => {
                        let real = format!("real-{step}");
                        fs::create_dir_all(top.join(&real).join("lib"))?;
                        fs::write(top.join(&real).join("lib/plugin.wasm"), content)?;
                        symlink(&real, top.join("link"))?;
                        fs::rename(top.join("link"), top.join("current"))?;
                    }
                    2 => {
                        fs::remove_dir_all(top.join("current/lib"))?;
                        fs::create_dir(top.join("current/lib"))?;
                        fs::write(&file, content)?;
                    }
                    _ => {
                        fs::create_dir(top.join("lib"))?;
                        fs::write(top.join("lib/plugin.wasm"), content)?;
                        fs::rename(top.join("current/lib"), top.join(format!("lib-{step}")))?;
                        fs::rename(top.join("lib"), top.join("current/lib"))?;
                    }
                }
            }
            Ok(())
        });
        rig.changed_to("plugin", &last).await;
        storm.join().expect("no panic").expect("the storm");
    }
}
