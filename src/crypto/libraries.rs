//! Which libraries this process runs code of, as the kernel has them mapped.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::digest::{Sha256, sha256};
use super::sys;

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

/// What those of OpenSSL begin with.
const OPENSSL: [&str; 2] = ["libcrypto.so", "libssl.so"];

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
    let mappings = executable(&fs::read_to_string("/proc/self/maps")?);
    let program = std::env::current_exe()?;
    let library = |address| {
        let path = found_at(&mappings, address).unwrap_or(&program).to_owned();
        let image = fs::read(&path).ok();
        Library {
            is_static: path == program,
            sha256: image.and_then(|image| sha256(&[&image]).ok()),
            path,
        }
    };
    let [libcrypto, libssl] = sys::code_addresses().map(library);
    let mut mapped: Vec<PathBuf> = mappings.into_iter().map(|mapping| mapping.file).collect();
    mapped.sort();
    mapped.dedup();
    let used = [libcrypto.path.as_path(), libssl.path.as_path()];
    Ok(Libraries {
        others: others(&mapped, used),
        libcrypto,
        libssl,
        mapped,
    })
}

/// The file that the code at an address comes from.
fn found_at(mappings: &[Mapping], address: usize) -> Option<&Path> {
    let mut all = mappings.iter();
    let found = all.find(|mapping| mapping.addresses.contains(&address));
    found.map(|mapping| mapping.file.as_path())
}

/// Cryptographic libraries beside the ones in use; a second OpenSSL is one.
fn others(mapped: &[PathBuf], used: [&Path; 2]) -> Vec<PathBuf> {
    let names = || OTHERS.iter().chain(&OPENSSL);
    let unused = mapped.iter().filter(|path| !used.contains(&path.as_path()));
    let others = unused.filter(|path| names().any(|name| begins(path, name)));
    others.cloned().collect()
}

fn begins(path: &Path, name: &str) -> bool {
    let file = path.file_name();
    file.is_some_and(|file| file.as_encoded_bytes().starts_with(name.as_bytes()))
}

/// Code of a file in memory.
struct Mapping {
    addresses: Range<usize>,
    file: PathBuf,
}

/// The executable mappings of files, from the text of `proc_pid_maps(5)`.
fn executable(maps: &str) -> Vec<Mapping> {
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        words.next().filter(|rights| rights.contains('x'))?;
        Some(Mapping {
            addresses: address(from)?..address(to)?,
            // Nothing before the path has a slash; the path may have blanks.
            file: PathBuf::from(line.get(line.find('/')?..)?),
        })
    };
    maps.lines().filter_map(read).collect()
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
        let files: Vec<_> = found.iter().map(|mapping| mapping.file.as_path()).collect();
        let [crypto, gnutls] = [
            "/usr/lib/libcrypto.so.3",
            "/opt/a folder/libgnutls.so.30 (deleted)",
        ]
        .map(Path::new);
        assert_eq!(files, [crypto, gnutls, crypto]);
        assert_eq!(found_at(&found, 0x7f15), Some(crypto));
        assert_eq!(found_at(&found, 0x7f30), None);
        assert!(begins(files[1], "libgnutls") && !begins(files[0], "libgnutls"));
    }

    #[test]
    fn second_openssl_is_told_and_the_one_in_use_is_not() {
        let [own, ssl, second] = ["/a/libcrypto.so.3", "/a/libssl.so.3", "/b/libcrypto.so.3"];
        let mapped = [own, ssl, second, "/a/libc.so.6"].map(PathBuf::from);
        let told = |used: [&str; 2]| others(&mapped, used.map(Path::new));
        assert_eq!(told([own, ssl]), [PathBuf::from(second)]);
        // Linked statically, none of them is in use.
        let all = [own, ssl, second].map(PathBuf::from);
        assert_eq!(told(["/bin/portcullis"; 2]), all);
    }
}
