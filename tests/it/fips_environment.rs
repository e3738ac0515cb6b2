//! FIPS mode and what surrounds the process: OpenSSL's settings, libraries loaded into it, and what
//! the kernel has mapped in the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fips::{EX_CONFIG, Module};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin};
use crate::support::site::Site;
use crate::support::{SOON, TlsVersion, program, run_to_end};

/// Where Debian keeps the providers that come with OpenSSL.
const MODULES: (&str, &str) = ("OPENSSL_MODULES", "/usr/lib/x86_64-linux-gnu/ossl-modules");

/// A file for `OPENSSL_CONF`.
struct Settings {
    _folder: TempDir,
    file: PathBuf,
}

impl Settings {
    fn of(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("openssl.cnf");
        fs::write(&file, text).unwrap();
        Self {
            _folder: folder,
            file,
        }
    }

    /// Those that list these providers, all with this `activate`.
    fn activating(providers: &[&str], activate: &str) -> Self {
        let list: String = providers
            .iter()
            .map(|name| format!("{name} = of_all\n"))
            .collect();
        Self::of(&format!(
            "openssl_conf = init\n[init]\nproviders = all\n[all]\n{list}\
             [of_all]\nactivate = {activate}\n"
        ))
    }

    fn variable(&self) -> (&str, &str) {
        ("OPENSSL_CONF", self.file.to_str().unwrap())
    }
}

/// A setup with this variable.
fn under(setup: Setup, (name, value): (&str, &str)) -> Setup {
    setup.env(name, value)
}

#[test]
fn settings_that_activate_another_provider_stop_the_start() {
    let Some(module) = Module::copy() else { return };
    for (settings, provider) in [
        (Settings::activating(&["default"], "1"), "default"),
        (
            Settings::activating(&["base", "fips", "legacy"], "1"),
            "legacy",
        ),
        // OpenSSL 3.0 does not look at the value, later ones do.
        (Settings::activating(&["default"], "0"), "default"),
    ] {
        // The file does what it says to a program that listens to it.
        let mut openssl = program("openssl");
        openssl.args(["list", "-providers"]);
        openssl.envs([settings.variable(), MODULES]);
        let listed = run_to_end(openssl, b"", SOON);
        assert!(listed.stdout.contains(provider), "{listed:?}");

        let Err(stopped) = under(module.setup(), settings.variable()).try_start() else {
            panic!("started beside {provider}");
        };
        assert_eq!(stopped.status.code(), Some(EX_CONFIG), "{stopped:?}");
        let said = stopped.words();
        let reason = format!(
            "`fips: required` is not met: OPENSSL_CONF names {:?}, which activates OpenSSL's \
             provider {provider:?}",
            settings.file
        );
        assert!(said.contains(&reason), "{said}");
        assert!(said.contains("unset OPENSSL_CONF"), "{said}");
        // Who does not ask for FIPS mode is not disturbed by a file that is not read.
        under(off(), settings.variable()).start();
    }
    let listing =
        "openssl_conf = init\n[init]\nproviders = all\n[all]\nfips = on\n[on]\nactivate = 1\n";
    for (settings, reason) in [
        (
            Settings::of("no configuration"),
            "which OpenSSL cannot read",
        ),
        (
            Settings::of("openssl_conf = $init\ninit = init\n"),
            "which OpenSSL cannot read",
        ),
        (
            Settings::of(&format!("{listing}module = /other/fips.so\n")),
            "which takes \"/other/fips.so\" for OpenSSL's provider \"fips\"",
        ),
    ] {
        let Err(stopped) = under(module.setup(), settings.variable()).try_start() else {
            panic!("started: {reason}");
        };
        assert_eq!(stopped.status.code(), Some(EX_CONFIG), "{stopped:?}");
        assert!(stopped.words().contains(reason), "{stopped:?}");
        under(off(), settings.variable()).start();
    }
    let own = module.file("fips.so");
    for settings in [
        Settings::activating(&["base", "fips"], "1"),
        Settings::of(&format!("{listing}module = {}\n", own.display())),
    ] {
        under(module.setup(), settings.variable()).start();
    }
    let nowhere = ("OPENSSL_CONF", "/nowhere/openssl.cnf");
    under(module.setup(), nowhere).start();
}

#[test]
fn settings_of_the_environment_change_nothing() {
    let Some(module) = Module::copy() else { return };
    let settings = Settings::of(
        "openssl_conf = init\n[init]\nssl_conf = ssl\nalg_section = algorithms\n\
         [ssl]\nsystem_default = all\n[all]\nMaxProtocol = TLSv1.2\n\
         [algorithms]\ndefault_properties = provider=none\n",
    );
    let ssl_alone = Settings::of(
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n\
         [all]\nMaxProtocol = TLSv1.2\n",
    );
    for setup in [module.setup(), off()] {
        let setup = under(under(setup, settings.variable()), MODULES);
        let site = Site::with(setup);
        site.put_ssl("a", "a.example.com", &json!({}));
        let asked = |version| site.ask("a.example.com", "/").tls(version).send();
        for version in TlsVersion::ALL {
            asked(version).expect_status(200);
        }
        // The file does what it says to a program that listens to it.
        let mut client = program("openssl");
        let address = format!("127.0.0.1:{}", site.gateway.https_port());
        client.args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            "a.example.com",
        ]);
        client.envs([ssl_alone.variable()]);
        let told = run_to_end(client, b"", SOON);
        assert!(told.stdout.contains("Protocol  : TLSv1.2"), "{told:?}");
    }

    let folder = TempDir::new().unwrap();
    let mut report = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    report.args(["fips", "--json", "--set", "fips=required"]);
    let dir = module.file("");
    report
        .arg("--set")
        .arg(format!("fips_module_dir={}", dir.display()))
        .envs([settings.variable(), MODULES])
        .current_dir(folder.path());
    let report = run_to_end(report, b"", 2 * SOON);
    assert!(report.status.success(), "{report:?}");
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["openssl"]["providers"], json!(["base", "fips"]));
    assert_eq!(report["openssl"]["property_query"], "fips=yes");
    assert_eq!(report["module"]["tls1_prf_ems_check"], true);
    let algorithms = report["probes"]["algorithms"].as_array().unwrap();
    let md5 = algorithms.iter().find(|probe| probe["algorithm"] == "MD5");
    assert_eq!(md5.unwrap()["result"], "refused");
    let handshakes = report["probes"]["handshakes"].as_array().unwrap();
    for context in [
        "listener",
        "listener that asks for client certificates",
        "upstream connector",
    ] {
        let of_context = handshakes
            .iter()
            .filter(|probe| probe["context"] == context);
        let (refused, served): (Vec<_>, Vec<_>) =
            of_context.partition(|probe| probe["result"] == "refused");
        assert_eq!((refused.len(), served.len()), (5, 2), "{report}");
    }
}

#[test]
fn library_that_used_openssl_before_the_start_stops_it() {
    let Some(module) = Module::copy() else { return };
    if cfg!(feature = "vendored") {
        eprintln!("skipped: no library can reach into the OpenSSL that is linked statically");
        return;
    }
    let folder = TempDir::new().unwrap();
    let build = |name: &str, body: &str| {
        let (source, library) = (folder.path().join("source.c"), folder.path().join(name));
        fs::write(&source, body).unwrap();
        let mut compiler = program("cc");
        compiler
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source);
        compiler.arg("-l:libcrypto.so.3");
        let made = run_to_end(compiler, b"", 2 * SOON);
        assert!(made.status.success(), "{made:?}");
        library.to_str().unwrap().to_owned()
    };
    let early = "void *EVP_MD_fetch(void *, const char *, const char *);\n\
                 __attribute__((constructor)) static void use(void) \
                 { EVP_MD_fetch(0, \"MD5\", 0); }\n";
    let idle = "__attribute__((constructor)) static void use(void) { }\n";
    let Err(stopped) = module
        .setup()
        .env("LD_PRELOAD", &build("early.so", early))
        .try_start()
    else {
        panic!("started");
    };
    assert_eq!(stopped.status.code(), Some(EX_CONFIG), "{stopped:?}");
    let said = stopped.words();
    assert!(
        said.contains("OpenSSL's default provider is active beside the FIPS module"),
        "{said}"
    );
    module
        .setup()
        .env("LD_PRELOAD", &build("idle.so", idle))
        .start();
}

/// What a process needs beside OpenSSL: the C library, its loader and its name services, and the
/// compiler's runtime. The beginnings of file names.
const COMMON: [&str; 7] = [
    "ld-linux",
    "libc.so.",
    "libdl.so.",
    "libgcc_s.so.",
    "libm.so.",
    "libnss_",
    "libpthread.so.",
];

#[test]
fn no_library_is_mapped_but_openssl_s_and_the_c_library_s() {
    let Some(module) = Module::copy() else { return };
    for (setup, is_fips) in [(module.setup(), true), (off(), false)] {
        let site = Site::with(setup);
        // Whatever is loaded late is there once TLS was spoken to both sides, by name, and a
        // certificate was written.
        site.put_ssl("a", "a.example.com", &json!({}));
        let origin = Origin::nginx(&Nginx::tls(site.ca.server("localhost")));
        let upstream = json!({
            "scheme": "https", "pass_host": "node",
            "nodes": [{"host": "localhost", "port": origin.port(), "weight": 1}],
            "tls": {"verify": true, "ca_certs": [site.ca.pem()]},
        });
        let route = json!({"uri": "/tls", "upstream": upstream});
        site.gateway.configure("/routes/tls", &route);
        for version in TlsVersion::ALL {
            let asked = site.ask("a.example.com", "/tls").tls(version);
            asked.send().expect_status(200);
        }

        let mut expected = BTreeSet::new();
        if !cfg!(feature = "vendored") {
            expected.extend(["libcrypto.so.3", "libssl.so.3"].map(PathBuf::from));
        }
        let fips = module.file("fips.so");
        let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let mut found = BTreeSet::new();
        let mut has_module = false;
        for file in mapped(&site.gateway) {
            let name = PathBuf::from(file.file_name().unwrap());
            let is_common = |common: &&str| name.to_str().unwrap().starts_with(*common);
            if file == fips {
                has_module = true;
            } else if file != program && !COMMON.iter().any(is_common) {
                found.insert(name);
            }
        }
        assert_eq!(found, expected, "FIPS {is_fips}");
        assert_eq!(has_module, is_fips);
    }
}

/// The files whose code the process can execute, from `proc_pid_maps(5)`.
fn mapped(gateway: &Gateway) -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", gateway.process_id())).unwrap();
    let is_code = |line: &&str| line.split_whitespace().nth(1).unwrap().contains('x');
    let code = maps.lines().filter(is_code);
    let files = code.filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
    files.collect()
}

/// A gateway without FIPS, in every mode of the suite.
fn off() -> Setup {
    Setup::default().set("fips", "off")
}
