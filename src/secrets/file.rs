//! Files as a source: `$secret://file/<root>/<path>/<file>`.
//!
//! Roots come from the configuration alone. Everything is opened beneath its root by the kernel
//! (`openat2(2)`, `RESOLVE_BENEATH`): no `..`, no absolute path and no symbolic link leads out, and
//! never into the data folder. All files of one directory are read in one go; where the directory
//! is a volume of Kubernetes (`..data` is a symbolic link that is swapped as a whole), all of them
//! from the same generation.
//!
//! What was read is [watched](super::watch): a change is there at once, in whatever way it is made.
//! Where files cannot be watched, as on network file systems, they are read again every two seconds.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, readlinkat,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::ground::Ground;
use super::news::Told;
use super::reference::SourceKey;
use super::source::{Answer, Ask, Content, Place, ReadFault, Source, VALUE_BYTES};
use super::watch::Watcher;

/// How long a file that cannot be watched is taken to be what it was.
pub const LOOK: Duration = Duration::from_secs(2);

/// How long is waited for news of files in one go.
const LISTENED: Duration = Duration::from_secs(60);

/// What Kubernetes swaps.
const GENERATION: &str = "..data";

/// How often a path is walked again that was moved meanwhile.
const RETRIES: usize = 16;

/// A folder whose files may be referred to.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    /// Never given out.
    data_dir: PathBuf,
    watching: Option<Watching>,
}

/// How what is read of a root is watched.
#[derive(Clone, Debug)]
struct Watching {
    /// The root's name in references.
    name: String,
    files: Watcher<Told>,
}

/// Tells of files that may have changed, as long as it is polled.
pub(super) async fn listen(ground: Rc<Ground>) {
    loop {
        for told in ground.files.changed(LISTENED).await {
            ground.news.tell(told);
        }
    }
}

impl Root {
    /// The folder `path`; files of `data_dir` are never given out, wherever links lead.
    #[must_use]
    pub const fn new(path: PathBuf, data_dir: PathBuf) -> Self {
        Self {
            path,
            data_dir,
            watching: None,
        }
    }

    /// The same, with what is read of it watched; `name` is what references call it.
    #[must_use]
    pub fn watched_as(self, name: &str, files: Watcher<Told>) -> Self {
        let name = name.to_owned();
        Self {
            watching: Some(Watching { name, files }),
            ..self
        }
    }

    /// Watches files from now on; after which time they are to be read again all the same.
    fn watch(&self, folder: &str, members: &[String]) -> Duration {
        let Some(Watching { name, files }) = &self.watching else {
            return LOOK;
        };
        let looks = members.iter().map(|member| {
            let path = match folder {
                "" => member.clone(),
                folder => format!("{folder}/{member}"),
            };
            // As they are read: from the volume's generation, and else by their own name.
            let beneath = [
                Path::new(folder).join(GENERATION).join(member),
                PathBuf::from(&path),
            ];
            let told = Told {
                origin: SourceKey::File(name.clone()),
                path,
            };
            files.watch(&told, &self.path, &beneath)
        });
        looks.min().unwrap_or(LOOK)
    }

    fn read(&self, folder: &str, members: &[String], dry_run: bool) -> Result<Answer, ReadFault> {
        let good_for = if dry_run {
            LOOK
        } else {
            self.watch(folder, members)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.path, flags, Mode::empty())
            .map_err(|error| refused(&format!("the root {}", self.path.display()), error))?;
        let folder = if folder.is_empty() { "." } else { folder };
        let opened = beneath(&root, folder, flags).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => ReadFault::NotFound,
            error => refused("the path", error),
        })?;
        let generation = match beneath(&opened, GENERATION, flags) {
            Ok(generation) => Some(generation),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(error) => return Err(refused("the folder's `..data`", error)),
        };
        let mut found = BTreeMap::new();
        for member in members {
            let file = match &generation {
                Some(generation) => match self.read_file(generation, member)? {
                    None => self.read_file(&root, &format!("{folder}/{member}"))?,
                    found => found,
                },
                None => self.read_file(&root, &format!("{folder}/{member}"))?,
            };
            if let Some(text) = file {
                found.insert(member.clone(), text);
            }
        }
        Ok(Answer {
            content: Content::Members(found),
            good_for: Some(good_for),
            version: None,
        })
    }

    /// A file's text, `Some(None)` where it is none; `None` where there is no file.
    fn read_file(
        &self,
        under: &OwnedFd,
        path: &str,
    ) -> Result<Option<Option<Zeroizing<String>>>, ReadFault> {
        // Non-blocking: a pipe must not hold the reader.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match beneath(under, path, flags) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(refused("the file", error)),
        };
        let stat = fstat(&file).map_err(|error| refused("the file", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ReadFault::Fenced(
                "it is no regular file; refer to a file that holds the value".to_owned(),
            ));
        }
        self.refuse_own(&file, &stat)?;
        let limit = u64::try_from(VALUE_BYTES).unwrap_or(u64::MAX);
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_BYTES.saturating_add(1)));
        File::from(file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| ReadFault::Unavailable(error.to_string()))?;
        if bytes.len() > VALUE_BYTES {
            return Err(ReadFault::TooLong);
        }
        let text = std::str::from_utf8(&bytes).ok();
        Ok(Some(text.map(|text| Zeroizing::new(text.to_owned()))))
    }

    /// Refuses what is the gateway's own, by where the file really lies and by what it is: a hard
    /// link or a mount has another path.
    fn refuse_own(&self, file: &OwnedFd, stat: &Stat) -> Result<(), ReadFault> {
        let refused_as_own = || {
            Err(ReadFault::Fenced(
                "it lies in the gateway's own data folder, which no reference may read".to_owned(),
            ))
        };
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let place = readlinkat(CWD, &*link, Vec::new())
            .map_err(|error| refused("where the file lies", error))?;
        let place = Path::new(OsStr::new(place.to_str().map_err(|_not_utf8| {
            ReadFault::Fenced("the file's path is no UTF-8".to_owned())
        })?));
        // One that does not exist holds nothing.
        let own = std::fs::canonicalize(&self.data_dir);
        if own.is_ok_and(|own| place.starts_with(own)) {
            return refused_as_own();
        }
        let entries = match std::fs::read_dir(&self.data_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(ReadFault::Unavailable(format!(
                    "what the data folder holds cannot be seen: {error}"
                )));
            }
        };
        for entry in entries {
            // One that is gone meanwhile is nobody's.
            let own = entry.and_then(|entry| entry.metadata());
            if own.is_ok_and(|own| (own.dev(), own.ino()) == (stat.st_dev, stat.st_ino)) {
                return refused_as_own();
            }
        }
        Ok(())
    }
}

/// Opens a path beneath a folder, through links that stay beneath it.
fn beneath(folder: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = RETRIES;
    loop {
        let opened = openat2(folder.as_fd(), path, flags, Mode::empty(), resolve);
        match opened {
            // A folder on the way was renamed just now.
            Err(Errno::AGAIN | Errno::INTR) if tries > 0 => tries -= 1,
            opened => return opened,
        }
    }
}

fn refused(what: &str, error: Errno) -> ReadFault {
    match error {
        Errno::XDEV | Errno::LOOP => ReadFault::Fenced(format!(
            "{what} leads out of its root; only what lies beneath it can be referred to"
        )),
        Errno::ACCESS | Errno::PERM => ReadFault::Denied(format!("{what}: {error}")),
        Errno::NOSYS => ReadFault::Fenced(
            "this system has no openat2(2), without which files cannot be confined to their root"
                .to_owned(),
        ),
        error => ReadFault::Unavailable(format!("{what}: {error}")),
    }
}

impl Source for Root {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(ReadFault::Malformed(
                "write $secret://file/<root>/<path>/<file>".to_owned(),
            ));
        }
        let (path, member) = rest.rsplit_once('/').unwrap_or(("", rest));
        Ok(vec![Place {
            path: path.to_owned(),
            member: Some(member.to_owned()),
        }])
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        let (root, path, members) = (self.clone(), ask.path.to_owned(), ask.members.to_vec());
        async move {
            let dry_run = ask.dry_run;
            let reading = tokio::task::spawn_blocking(move || root.read(&path, &members, dry_run));
            reading.await.map_err(|_ended| ReadFault::Internal)?
        }
        .boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    use super::super::contract::{self, Known, find, read};
    use super::*;

    /// A folder `root` with a file in it and one beside it, and a data folder.
    struct Place {
        dir: tempfile::TempDir,
        root: Root,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["root/a/b", "data"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for (path, text) in [
            ("root/top", "hush top"),
            ("root/a/b/cert", "hush cert"),
            ("root/a/b/key", "hush key"),
            ("outside", "hush outside"),
            ("data/kek", "hush kek"),
        ] {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let root = Root::new(dir.path().join("root"), dir.path().join("data"));
        Place { dir, root }
    }

    fn is_fenced(told: &Result<String, ReadFault>) -> bool {
        matches!(told, Err(ReadFault::Fenced(_)))
    }

    /// Tells a thread that the test is over, also when it fails.
    struct SetAtEnd(Arc<AtomicBool>);

    impl Drop for SetAtEnd {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[tokio::test]
    async fn files_keep_the_contract() {
        let place = place();
        let known = Known {
            values: &[
                ("top", "hush top"),
                ("a/b/cert", "hush cert"),
                ("a/b/key", "hush key"),
            ],
            absent: "no/such/file",
            no_member: Some("a/b/other"),
            malformed: &["../outside", "a/../../outside", "a//b", ""],
        };
        contract::suite(&place.root, &known).await;
    }

    #[tokio::test]
    async fn no_link_leads_out_of_the_root() {
        let place = place();
        let root = place.dir.path().join("root");
        symlink("../outside", root.join("relative")).unwrap();
        symlink(place.dir.path().join("outside"), root.join("absolute")).unwrap();
        symlink("../..", root.join("a/up")).unwrap();
        symlink("../../top", root.join("a/b/inside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        for rest in [
            "relative",
            "absolute",
            "a/up/outside",
            "loop",
            "magic/etc/hostname",
        ] {
            assert!(is_fenced(&find(&place.root, rest).await), "{rest}");
        }
        assert_eq!(find(&place.root, "a/b/inside").await.unwrap(), "hush top");
    }

    #[tokio::test]
    async fn data_folder_is_never_read() {
        let place = place();
        let all = Root::new(place.dir.path().to_owned(), place.dir.path().join("data"));
        symlink("data/kek", place.dir.path().join("alias")).unwrap();
        symlink("data", place.dir.path().join("folder")).unwrap();
        fs::hard_link(
            place.dir.path().join("data/kek"),
            place.dir.path().join("twin"),
        )
        .unwrap();
        for rest in ["data/kek", "alias", "folder/kek", "twin"] {
            assert!(is_fenced(&find(&all, rest).await), "{rest}");
        }
        assert_eq!(find(&all, "outside").await.unwrap(), "hush outside");
    }

    #[tokio::test]
    async fn only_regular_files_of_a_certain_size_are_read() {
        let place = place();
        let root = place.dir.path().join("root");
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(is_fenced(&find(&place.root, "pipe").await));
        assert!(is_fenced(&find(&place.root, "a").await), "a folder");
        fs::write(root.join("most"), "a".repeat(VALUE_BYTES)).unwrap();
        fs::write(root.join("long"), "a".repeat(VALUE_BYTES + 1)).unwrap();
        fs::write(root.join("bytes"), b"\xff\xfe").unwrap();
        assert!(find(&place.root, "most").await.is_ok());
        assert_eq!(find(&place.root, "long").await, Err(ReadFault::TooLong));
        assert_eq!(find(&place.root, "bytes").await, Err(ReadFault::NotText));
    }

    #[tokio::test]
    async fn pair_of_a_kubernetes_volume_is_of_one_generation() {
        let place = place();
        let volume = place.dir.path().join("root/volume");
        let write = |name: &str| {
            let folder = volume.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("tls.crt"), format!("cert {name}")).unwrap();
            fs::write(folder.join("tls.key"), format!("key {name}")).unwrap();
        };
        write("..1");
        symlink("..1", volume.join("..data")).unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), volume.join(file)).unwrap();
        }
        fs::write(volume.join("plain"), "beside").unwrap();
        assert_eq!(
            find(&place.root, "volume/tls.crt").await.unwrap(),
            "cert ..1"
        );
        assert_eq!(find(&place.root, "volume/plain").await.unwrap(), "beside");
        // Generations follow upon each other until so many of them were seen, and never far ahead of that.
        let (looks, is_seen) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (looked, is_over) = (looks.clone(), is_seen.clone());
        let swap = std::thread::spawn(move || {
            let mut number = 1;
            while !is_over.load(Ordering::Acquire) {
                if number > looked.load(Ordering::Acquire) + 50 {
                    std::thread::yield_now();
                    continue;
                }
                number += 1;
                let name = format!("..{number}");
                let folder = volume.join(&name);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("tls.crt"), format!("cert {name}")).unwrap();
                fs::write(folder.join("tls.key"), format!("key {name}")).unwrap();
                symlink(&name, volume.join("..new")).unwrap();
                fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
            }
            format!("cert ..{number}")
        });
        let over = SetAtEnd(is_seen);
        let (mut generations, began) = (BTreeSet::new(), Instant::now());
        while generations.len() < 100 {
            let is_late = began.elapsed() > Duration::from_secs(60);
            assert!(!swap.is_finished() && !is_late, "{}", generations.len());
            let ask = super::super::source::Place {
                path: "volume".to_owned(),
                member: None,
            };
            let members = ["tls.crt".to_owned(), "tls.key".to_owned()];
            let answer = place
                .root
                .read(&ask.path, &members, false)
                .expect("nothing is ever missing");
            let value = |member| answer.value(Some(member)).unwrap().to_string();
            let generation = value("tls.crt").replacen("cert ", "", 1);
            assert_eq!(value("tls.key"), format!("key {generation}"));
            generations.insert(generation);
            looks.fetch_add(1, Ordering::AcqRel);
        }
        drop(over);
        let latest = swap.join().unwrap();
        let last = super::super::source::Place {
            path: "volume".to_owned(),
            member: Some("tls.crt".to_owned()),
        };
        let answer = read(&place.root, &last, false).await.unwrap();
        assert_eq!(**answer.value(Some("tls.crt")).unwrap(), *latest);
        assert_eq!(answer.good_for, Some(LOOK), "nothing watches it");
    }
}
