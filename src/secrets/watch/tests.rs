//! Tests of the watcher, with real files: each way in which a file comes to hold something else.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Longer than any change takes to be told, and shorter than anything is looked at by itself.
const SOON: Duration = Duration::from_secs(20);

/// When nothing came, nothing was told.
const NOTHING: Duration = Duration::from_millis(100);

/// A folder with a root in it, and a watcher of its files.
struct Site {
    dir: TempDir,
    watcher: Watcher<String>,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("root/a")).unwrap();
        fs::write(dir.path().join("root/a/f"), "1").unwrap();
        Self {
            dir,
            watcher: Watcher::new(Duration::from_secs(2)),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Watches a path beneath the root.
    fn watch(&self, path: &str) -> Duration {
        self.watcher
            .watch(&path.to_owned(), &self.at("root"), &[PathBuf::from(path)])
    }

    async fn expect_told(&self, path: &str, what: &str) {
        let told = timeout(SOON, self.watcher.changed(2 * SOON)).await;
        let told = told.unwrap_or_else(|_| panic!("{what}: nothing was told"));
        assert!(told.contains(path), "{what}: {told:?}");
    }

    async fn expect_nothing(&self, what: &str) {
        let told = self.watcher.changed(NOTHING).await;
        assert!(told.is_empty(), "{what}: {told:?}");
    }

    fn inotify(&self) -> &Arc<OwnedFd> {
        self.watcher.0.inotify.get().unwrap().as_ref().unwrap()
    }

    /// Watches that the kernel has for it.
    fn watches(&self) -> usize {
        let fd = self.inotify().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        info.lines()
            .filter(|line| line.starts_with("inotify "))
            .count()
    }
}

fn replace_link(target: impl AsRef<Path>, link: &Path) {
    let draft = link.with_file_name("draft-of-a-link");
    symlink(target, &draft).unwrap();
    fs::rename(draft, link).unwrap();
}

#[tokio::test]
async fn burst_beside_a_file_hides_no_change_of_it() {
    let site = Site::new();
    fs::write(site.at("draft"), "2").unwrap();
    site.watch("a/f");
    // More than is heard in one turn; what is behind that was taken from the kernel with it.
    for number in 0..AT_ONCE + 14 {
        fs::write(site.at(&format!("root/a/beside-{number:012}")), "").unwrap();
    }
    fs::rename(site.at("draft"), site.at("root/a/f")).unwrap();
    site.expect_told("a/f", "behind a burst").await;
}

#[tokio::test]
async fn each_way_of_changing_a_file_is_told_and_what_is_beside_it_is_not() {
    type Act = fn(&Site);
    let nothing: Act = |_| {};
    let ways: [(&str, &str, Act, Act); 12] = [
        ("written in its place", "a/f", nothing, |site| {
            fs::write(site.at("root/a/f"), "2").unwrap();
        }),
        ("written and held open", "a/f", nothing, |site| {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(site.at("root/a/f"))
                .unwrap();
            file.write_all(b"2").unwrap();
            std::mem::forget(file);
        }),
        ("replaced", "a/f", nothing, |site| {
            fs::write(site.at("root/draft"), "2").unwrap();
            fs::rename(site.at("root/draft"), site.at("root/a/f")).unwrap();
        }),
        ("removed", "a/f", nothing, |site| {
            fs::remove_file(site.at("root/a/f")).unwrap();
        }),
        (
            "written by another name",
            "a/f",
            |site| fs::hard_link(site.at("root/a/f"), site.at("other")).unwrap(),
            |site| fs::write(site.at("other"), "2").unwrap(),
        ),
        ("permitted to others", "a/f", nothing, |site| {
            let mode = fs::Permissions::from_mode(0o640);
            fs::set_permissions(site.at("root/a/f"), mode).unwrap();
        }),
        ("its folder replaced", "a/f", nothing, |site| {
            fs::create_dir(site.at("new")).unwrap();
            fs::write(site.at("new/f"), "2").unwrap();
            fs::rename(site.at("root/a"), site.at("old")).unwrap();
            fs::rename(site.at("new"), site.at("root/a")).unwrap();
        }),
        ("the root's folder replaced", "a/f", nothing, |site| {
            fs::rename(site.at("root"), site.at("old")).unwrap();
        }),
        (
            "a volume of Kubernetes swapped",
            "v/f",
            |site| {
                fs::create_dir_all(site.at("root/v/..1")).unwrap();
                fs::write(site.at("root/v/..1/f"), "1").unwrap();
                symlink("..1", site.at("root/v/..data")).unwrap();
                symlink("..data/f", site.at("root/v/f")).unwrap();
            },
            |site| {
                fs::create_dir_all(site.at("root/v/..2")).unwrap();
                fs::write(site.at("root/v/..2/f"), "2").unwrap();
                replace_link("..2", &site.at("root/v/..data"));
            },
        ),
        (
            "a link to another folder's file",
            "live/f",
            |site| {
                fs::create_dir(site.at("root/live")).unwrap();
                symlink("../a/f", site.at("root/live/f")).unwrap();
            },
            |site| fs::write(site.at("root/a/f"), "2").unwrap(),
        ),
        ("not there yet", "b/c/f", nothing, |site| {
            fs::create_dir(site.at("root/b")).unwrap();
        }),
        (
            "out of the root for now",
            "out/f",
            |site| symlink("../..", site.at("root/out")).unwrap(),
            |site| replace_link("a", &site.at("root/out")),
        ),
    ];
    for (what, path, before, change) in ways {
        let site = Site::new();
        fs::write(site.at("root/a/beside"), "1").unwrap();
        before(&site);
        assert_eq!(site.watch(path), WATCHED, "{what}");
        fs::write(site.at("root/a/beside"), "2").unwrap();
        fs::write(site.at("root/new"), "2").unwrap();
        fs::write(site.at("root/a/new"), "2").unwrap();
        site.expect_nothing(what).await;
        change(&site);
        site.expect_told(path, what).await;
    }
}

#[tokio::test]
async fn root_that_is_a_link_and_a_file_that_is_the_root_are_followed() {
    let site = Site::new();
    let (link, key) = (site.at("link"), "k".to_owned());
    symlink(site.at("root/a"), &link).unwrap();
    let watch = || site.watcher.watch(&key, &link, &[PathBuf::from("f")]);
    assert_eq!(watch(), WATCHED);
    fs::create_dir(site.at("other")).unwrap();
    replace_link("other", &link);
    site.expect_told("k", "another root").await;
    watch();
    fs::write(site.at("other/f"), "2").unwrap();
    site.expect_told("k", "a file appears in it").await;

    let file = site.at("root/a/f");
    assert_eq!(site.watcher.watch(&key, &file, &[]), WATCHED);
    fs::write(&file, "3").unwrap();
    site.expect_told("k", "the root is a file").await;
}

#[tokio::test]
async fn file_that_appears_folder_by_folder_is_told_at_each() {
    let site = Site::new();
    for (folder, path) in [(true, "root/b"), (true, "root/b/c"), (false, "root/b/c/f")] {
        site.watch("b/c/f");
        if folder {
            fs::create_dir(site.at(path)).unwrap();
        } else {
            fs::write(site.at(path), "1").unwrap();
        }
        site.expect_told("b/c/f", path).await;
    }
}

#[tokio::test]
async fn changes_that_come_together_are_told_together() {
    let site = Site::new();
    fs::write(site.at("root/a/key"), "1").unwrap();
    site.watch("a/f");
    site.watch("a/key");
    fs::write(site.at("root/a/f"), "2").unwrap();
    fs::write(site.at("root/a/key"), "2").unwrap();
    let told = site.watcher.changed(SOON).await;
    assert_eq!(told, ["a/f", "a/key"].map(str::to_owned).into());
}

#[tokio::test]
async fn whoever_reads_after_watching_misses_no_change() {
    const LAST: usize = 300;
    let site = Site::new();
    let volume = site.at("root/v");
    let publish = move |number: usize| {
        let name = format!("..{number}");
        fs::create_dir_all(volume.join(&name)).unwrap();
        fs::write(volume.join(&name).join("f"), number.to_string()).unwrap();
        replace_link(&name, &volume.join("..data"));
        let _gone = fs::remove_dir_all(volume.join(format!("..{}", number - 1)));
    };
    publish(1);
    let writing = std::thread::spawn(move || (2..=LAST).for_each(publish));
    let reading = async {
        loop {
            site.watch("v/..data/f");
            let read = fs::read_to_string(site.at("root/v/..data/f"));
            if read.is_ok_and(|text| text == LAST.to_string()) {
                break;
            }
            assert!(!site.watcher.changed(2 * SOON).await.is_empty());
        }
    };
    timeout(SOON, reading).await.expect("the last one is seen");
    writing.join().unwrap();
}

#[tokio::test]
async fn watches_do_not_grow_with_generations_and_end_when_nobody_reads_any_more() {
    let site = Site::new();
    let volume = site.at("root/v");
    let mut counts = Vec::new();
    for number in 0..50 {
        let name = format!("..{number}");
        fs::create_dir_all(volume.join(&name)).unwrap();
        fs::write(volume.join(&name).join("f"), "x").unwrap();
        replace_link(&name, &volume.join("..data"));
        site.watch("v/..data/f");
        counts.push(site.watches());
    }
    let first = counts[0];
    assert!(
        first > 3 && counts.iter().all(|count| *count == first),
        "{counts:?}"
    );
    // Walks that come to nothing leave nothing.
    let proc = Path::new("/proc/sys/kernel");
    for _ in 0..10 {
        let look = site
            .watcher
            .watch(&"p".to_owned(), proc, &[PathBuf::from("ostype")]);
        assert_eq!(look, Duration::from_secs(2));
    }
    assert_eq!(site.watches(), first);
    let now = Instant::now();
    let forget = |now| site.watcher.0.table().forget(now);
    forget(now);
    forget(now + FORGOTTEN / 2);
    assert_eq!(site.watches(), first);
    forget(now + 2 * FORGOTTEN);
    assert_eq!(site.watches(), 0);
    // And begins again.
    site.watch("a/f");
    fs::write(site.at("root/a/f"), "2").unwrap();
    site.expect_told("a/f", "after it was forgotten").await;
}

#[tokio::test]
async fn overflow_of_the_queue_tells_all() {
    let site = Site::new();
    site.watch("a/f");
    site.watch("b/f");
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    // Two events each.
    let names = [site.at("root/a/noise"), site.at("root/a/more")];
    fs::write(&names[0], "").unwrap();
    for turn in 0..=most / 2 {
        fs::rename(&names[turn % 2], &names[(turn + 1) % 2]).unwrap();
    }
    let told = site.watcher.changed(SOON).await;
    assert_eq!(told, ["a/f", "b/f"].map(str::to_owned).into());
}

#[tokio::test]
async fn what_the_kernel_does_not_tell_of_is_looked_at() {
    let site = Site::new();
    let key = "k".to_owned();
    let look = |root: &str| {
        site.watcher
            .watch(&key, Path::new(root), &[PathBuf::from("ostype")])
    };
    assert_eq!(look("/proc/sys/kernel"), Duration::from_secs(2));
    symlink("/proc/sys/kernel", site.at("link")).unwrap();
    let link = site.at("link");
    assert_eq!(look(link.to_str().unwrap()), Duration::from_secs(2));
    assert_eq!(look(site.at("root").to_str().unwrap()), WATCHED);
    let told = site
        .watcher
        .0
        .watch(&key, Path::new("/proc/sys/kernel"), &[]);
    let told = told.unwrap_err().to_string();
    assert!(
        told.starts_with("of the file system of /proc (type 0x9fa0)"),
        "{told}"
    );
}

#[test]
fn paths_are_bounded_and_reasons_told_once() {
    let site = Site::new();
    site.watch("a/f");
    let inotify = site.inotify();
    let mut table = Table::<usize>::default();
    let refused = (0..).find(|key| table.begin(inotify, key).is_err());
    assert_eq!(refused, Some(table::MOST));
    table.begin(inotify, &0).unwrap();
    assert!(table.is_news("a") && !table.is_news("a"));
    let told = (0..1000)
        .filter(|number| table.is_news(&number.to_string()))
        .count();
    assert_eq!(told, REASONS - 1);
}
