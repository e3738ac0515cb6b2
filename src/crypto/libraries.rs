//! Which libraries this process runs code of, as the kernel has them mapped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::{Sha256, sha256};

/// What the file names of other cryptographic libraries begin with.
const OTHERS: [&str; 16] = [
    "libaws-lc",
    "libboringssl",
    "libbotan",
    "libcryptopp",
    "libfreebl",
    "libgcrypt",
    "libgnutls",
    "libhogweed",
    "libmbed",
    "libnettle",
    "libnss3",
    "libsodium",
    "libsoftokn",
    "libtls",
    "libtomcrypt",
    "libwolfssl",
];

/// The code of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    /// Where libcrypto is.
    pub libcrypto: Library,
    /// Where libssl is.
    pub libssl: Library,
    /// Every file that is mapped to be executed, sorted.
    pub mapped: Vec<PathBuf>,
    /// Those of them that look like another cryptographic library; empty, or something is wrong.
    pub others: Vec<PathBuf>,
}

/// A library of OpenSSL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its file: a shared library, or the program itself where it is linked statically.
    pub path: PathBuf,
    /// Whether it is a part of the program.
    pub is_static: bool,
    /// The file's digest now; `None` when it is not there any more (it was replaced under the
    /// running process).
    pub sha256: Option<Sha256>,
}

/// Reads the process's map of memory.
///
/// # Errors
/// The system's, when `/proc/self/maps` or the program's own name cannot be read.
pub fn mapped() -> io::Result<Libraries> {
    let mapped = executable(&fs::read_to_string("/proc/self/maps")?);
    let program = std::env::current_exe()?;
    let library = |name: &str| {
        let shared = mapped.iter().find(|path| begins(path, name));
        let path = shared.unwrap_or(&program).clone();
        let image = fs::read(&path).ok();
        Library {
            is_static: shared.is_none(),
            sha256: image.and_then(|image| sha256(&[&image]).ok()),
            path,
        }
    };
    let is_other = |path: &&PathBuf| OTHERS.iter().any(|name| begins(path, name));
    Ok(Libraries {
        libcrypto: library("libcrypto.so"),
        libssl: library("libssl.so"),
        others: mapped.iter().filter(is_other).cloned().collect(),
        mapped,
    })
}

fn begins(path: &Path, name: &str) -> bool {
    let file = path.file_name();
    file.is_some_and(|file| file.as_encoded_bytes().starts_with(name.as_bytes()))
}

/// The files with executable mappings, from the text of `proc_pid_maps(5)`.
fn executable(maps: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter(|line| {
            let rights = line.split_ascii_whitespace().nth(1);
            rights.is_some_and(|rights| rights.contains('x'))
        })
        // Nothing before the path has a slash; the path may have blanks.
        .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
        .map(PathBuf::from)
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_is_found_in_this_process_and_nothing_like_it() {
        let found = mapped().unwrap();
        for library in [&found.libcrypto, &found.libssl] {
            assert_eq!(library.is_static, cfg!(feature = "vendored"), "{library:?}");
            assert!(library.path.is_absolute() && library.sha256.is_some());
            assert!(found.mapped.contains(&library.path));
        }
        assert_eq!(found.others, Vec::<PathBuf>::new());
    }

    #[test]
    fn files_that_are_executed_are_read_from_the_map() {
        let maps = "\
7f00-7f10 r--p 00000000 08:01 11   /usr/lib/libcrypto.so.3\n\
7f10-7f20 r-xp 00001000 08:01 11   /usr/lib/libcrypto.so.3\n\
7f20-7f30 r-xp 00001000 08:01 12   /opt/a folder/libgnutls.so.30 (deleted)\n\
7f30-7f40 r--p 00000000 08:01 13   /usr/share/data\n\
7f40-7f50 rwxp 00000000 00:00 0 \n\
7f50-7f60 r-xp 00000000 00:00 0    [vdso]\n\
7f60-7f70 r-xp 00002000 08:01 11   /usr/lib/libcrypto.so.3\n";
        let found = executable(maps);
        let expected = [
            "/opt/a folder/libgnutls.so.30 (deleted)",
            "/usr/lib/libcrypto.so.3",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(begins(&found[0], "libgnutls") && !begins(&found[1], "libgnutls"));
    }
}
