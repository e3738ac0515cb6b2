//! The points, each a function of the facts. The bounds they hold things to are here.

use std::path::PathBuf;
use std::time::Duration;

use super::machine::{Account, SecretFile};
use crate::config::{AccessLog, Config, LogLevel, Store, TrustFile};
use crate::control::survey::{Role, Surveyed};
use crate::crypto::fips;
use crate::crypto::sys::Purpose;
use crate::resource::secret::Manager;
use crate::tls::material::{self, CaBundle, KeyPair, Unapproved};
use crate::tls::policy::ClientAuth;
use crate::tls::trust::CaStore;

/// The longest that a client may hold a connection on which nothing happens.
const LONGEST_IDLE: Duration = Duration::from_secs(15 * 60);
/// The longest that a TLS session may be resumed.
const LONGEST_SESSION: Duration = Duration::from_secs(24 * 60 * 60);
/// Intermediates beyond which a bound is none.
const DEEPEST: u32 = 10;

/// What is judged.
pub(super) struct Facts<'a> {
    /// The effective configuration.
    pub(super) config: &'a Config,
    /// Whether a file takes the store's place (`--standalone`).
    pub(super) is_declared: bool,
    /// What is stored, or declared.
    pub(super) objects: Vec<Surveyed>,
    /// The admin listener's certificate, where there is one.
    pub(super) admin: Option<KeyPair>,
    /// Whom administrators must come from (`admin.https.client_ca`).
    pub(super) admin_ca: Option<CaBundle>,
    /// Whom secret managers must come from, of those whose `trust_file` is a file.
    pub(super) manager_cas: Vec<(Manager, CaBundle)>,
    /// The CAs that the site approves (`--approved-cas`).
    pub(super) approved: Option<(CaBundle, CaStore)>,
    /// Files that hold secrets.
    pub(super) secret_files: Vec<SecretFile>,
    /// Who the gateway runs as.
    pub(super) account: Account,
    /// What carries logs away.
    pub(super) shippers: Vec<PathBuf>,
}

/// A point, answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// Stable.
    pub(super) id: &'static str,
    /// What is asked.
    pub(super) title: &'static str,
    /// How it came out.
    pub(super) outcome: Outcome,
    /// Where was looked.
    pub(super) looked_at: Vec<String>,
    /// What was found there: of a failure, what is wrong.
    pub(super) found: Vec<String>,
    remedy: &'static str,
}

impl Point {
    /// What to do about a failure.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        (self.outcome == Outcome::Fail).then_some(self.remedy)
    }
}

/// How a point came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All that was found is as it should be.
    Pass,
    /// Something is not, or cannot be shown to be.
    Fail,
    /// There is nothing to judge.
    NotApplicable,
}

impl Outcome {
    /// Its word in reports.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotApplicable => "not_applicable",
        }
    }
}

/// What one point found: where it looked, what is wrong, what is as it should be.
#[derive(Default)]
struct Inquiry {
    looked_at: Vec<String>,
    wrong: Vec<String>,
    good: Vec<String>,
}

impl Inquiry {
    fn at(places: &[&str]) -> Self {
        Self {
            looked_at: places.iter().map(|place| (*place).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Judges one thing.
    fn judge(&mut self, is_good: bool, text: impl Into<String>) {
        if is_good {
            self.good.push(text.into());
        } else {
            self.wrong.push(text.into());
        }
    }

    fn wrong(&mut self, text: impl Into<String>) {
        self.judge(false, text);
    }

    /// Fails where something is wrong; does not apply where there was nothing to judge.
    fn close(self, id: &'static str, title: &'static str, remedy: &'static str) -> Point {
        let (outcome, found) = match (self.wrong.is_empty(), self.good.is_empty()) {
            (false, _) => (Outcome::Fail, self.wrong),
            (true, false) => (Outcome::Pass, self.good),
            (true, true) => (Outcome::NotApplicable, Vec::new()),
        };
        Point {
            id,
            title,
            outcome,
            looked_at: self.looked_at,
            found,
            remedy,
        }
    }
}

/// Every point, in the order of the report.
pub(super) fn all(facts: &Facts<'_>) -> Vec<Point> {
    vec![
        facts.tls_versions(),
        approved_algorithms(),
        facts.verify_depth(),
        facts.approved_cas(),
        facts.revocation(),
        facts.key_files(),
        facts.key_sizes(),
        facts.signatures(),
        facts.chains(),
        facts.audit(),
        facts.session_limits(),
        facts.service_account(),
    ]
}

fn approved_algorithms() -> Point {
    let mut inquiry = Inquiry::at(&["fips", "the module itself"]);
    match fips::facts() {
        Some(facts) => inquiry.good.push(format!(
            "uses the OpenSSL FIPS provider {} alone, proved at this start",
            facts.version
        )),
        None => {
            inquiry.wrong("`fips` is off: ChaCha20-Poly1305, X25519 and Ed25519 may be negotiated");
        }
    }
    inquiry.close(
        "fips-algorithms",
        "FIPS-approved algorithms only",
        "set `fips: required`, `fips_module_dir` and `fips_version`; see fips/README.md",
    )
}

impl Facts<'_> {
    fn tls_versions(&self) -> Point {
        let places = [
            "https.listen",
            "admin.https.listen",
            "every ssl and upstream",
        ];
        let mut inquiry = Inquiry::at(&places);
        inquiry.good.push(
            "TLS 1.2 and 1.3 are all that this program speaks; no setting allows less".to_owned(),
        );
        for object in &self.objects {
            if let Some(versions) = object.offer.as_ref().map(|offer| offer.versions) {
                let from = versions.min.name();
                let text = format!("{}: {from} to {}", object.object, versions.max.name());
                inquiry.good.push(text);
            }
        }
        inquiry.close(
            "tls-version",
            "TLS 1.2 or newer everywhere",
            "none is needed",
        )
    }

    fn verify_depth(&self) -> Point {
        let mut inquiry = Inquiry::at(&["client.depth of every ssl", "admin.https.client_ca"]);
        for (object, depth, _) in self.asking() {
            let text = format!("{object}: {depth} intermediates at most");
            inquiry.judge(depth <= DEEPEST, text);
        }
        if self.admin_ca.is_some() {
            inquiry.judge(true, "admin.https.client_ca: 1 intermediate at most");
        }
        inquiry.close(
            "verify-depth",
            "the depth of client chains is bounded",
            "set `client.depth` to the number of intermediates that clients need",
        )
    }

    fn approved_cas(&self) -> Point {
        let mut inquiry = Inquiry::at(&[
            "client.ca of every ssl",
            "tls.verify and tls.ca_certs of every upstream",
            "upstream.trust_file",
            "secrets.vault.trust_file and secrets.aws.trust_file",
            "admin.https.client_ca",
            "--approved-cas",
        ]);
        if self.config.upstream.trust_file == Some(TrustFile::System) {
            inquiry.wrong("upstream.trust_file: `system`, whose CAs nobody here chose");
        }
        for (object, manager) in self.managers() {
            if !self.manager_cas.iter().any(|(of, _)| *of == manager) {
                let word = manager.word();
                inquiry.wrong(format!(
                    "{object}: secrets.{word}.trust_file: `system`, whose CAs nobody here chose"
                ));
            }
        }
        for object in &self.objects {
            if let Role::Upstream {
                is_verified: false, ..
            } = &object.role
            {
                let object = &object.object;
                inquiry.wrong(format!("{object}: tls.verify is not true: any CA will do"));
            }
        }
        for (place, bundle) in self.trusted() {
            for certificate in &bundle.certificates {
                let subject = material::subject(certificate);
                match &self.approved {
                    None => inquiry.wrong(format!(
                        "{place}: {subject}: whether the site approves it is not told"
                    )),
                    Some((approved, _)) => {
                        let is_approved = approved.certificates.contains(certificate);
                        inquiry.judge(is_approved, format!("{place}: {subject}"));
                    }
                }
            }
        }
        inquiry.close(
            "approved-cas",
            "only CAs that the site approves are trusted",
            "name the site's CAs, PEM, with --approved-cas FILE; take the others out of \
             `client.ca`, `tls.ca_certs`, `upstream.trust_file` and the `trust_file` of managers; set \
             `tls.verify: true`",
        )
    }

    fn revocation(&self) -> Point {
        let mut inquiry = Inquiry::at(&["client.crl of every ssl", "admin.https.client_ca"]);
        for object in &self.objects {
            if let Role::Names { mode, has_crl, .. } = &object.role
                && *mode != ClientAuth::Off
            {
                let name = &object.object;
                if *has_crl {
                    inquiry.judge(true, format!("{name}: client.crl"));
                } else {
                    inquiry.wrong(format!("{name}: there is no client.crl"));
                }
            }
        }
        if self.admin_ca.is_some() {
            inquiry.wrong(
                "admin.https.client_ca: administrators' certificates are held against no list",
            );
        }
        inquiry.close(
            "revocation",
            "revoked client certificates are refused, by OCSP or CRL",
            "put the lists of the CAs of `client.ca` into `client.crl`, and each new one before the \
             former ends; for administrators, issue certificates that live shorter than a \
             revocation would take",
        )
    }

    fn key_files(&self) -> Point {
        let mut inquiry = Inquiry::default();
        for file in &self.secret_files {
            let path = file.path.display();
            inquiry.looked_at.push(path.to_string());
            match &file.mode {
                Ok(mode) => inquiry.judge(mode & 0o177 == 0, format!("{path}: mode {mode:04o}")),
                Err(error) => inquiry.wrong(format!("{path}: {error}")),
            }
        }
        inquiry.close(
            "key-file-mode",
            "files that hold keys are for their owner alone, mode 600 or less",
            "run `chmod 600` on them; replace a key that others may have read",
        )
    }

    fn key_sizes(&self) -> Point {
        let title = "keys are RSA of 2048 bits or more, or EC on P-256 or larger";
        let remedy = "replace the certificate, or have its CA replaced";
        self.material(|flaw| !flaw.flaw.is_about_a_signature())
            .close("key-size", title, remedy)
    }

    fn signatures(&self) -> Point {
        let title = "certificates are signed with SHA-256 or better";
        let remedy = "have the certificate issued anew with SHA-256, SHA-384 or SHA-512";
        self.material(|flaw| flaw.flaw.is_about_a_signature())
            .close("signature-digest", title, remedy)
    }

    /// Judges all certificates, shown and trusted, by the flaws that are meant.
    fn material(&self, is_meant: impl Fn(&Unapproved) -> bool) -> Inquiry {
        let mut inquiry = Inquiry::at(&["every certificate that is shown or trusted"]);
        let shown = self.shown();
        let shown = shown.map(|(place, pair, _)| (place, pair.chain.flaws()));
        let trusted = self.trusted().into_iter();
        let trusted = trusted.map(|(place, bundle)| (place, bundle.flaws()));
        for (place, flaws) in shown.chain(trusted) {
            let mut is_good = true;
            for flaw in flaws.iter().filter(|flaw| is_meant(flaw)) {
                is_good = false;
                inquiry.wrong(format!("{place}: {flaw}"));
            }
            if is_good {
                inquiry.judge(true, place);
            }
        }
        self.add_closed(&mut inquiry);
        inquiry
    }

    fn chains(&self) -> Point {
        let mut inquiry = Inquiry::at(&["every certificate that is shown", "--approved-cas"]);
        for (place, pair, purpose) in self.shown() {
            let Some((_, store)) = &self.approved else {
                inquiry.wrong(format!("{place}: which CA it must lead to is not told"));
                continue;
            };
            match store.completes(&pair.chain, purpose) {
                Ok(Ok(())) => inquiry.judge(true, place),
                Ok(Err(why)) => inquiry.wrong(format!("{place}: {why}")),
                Err(error) => inquiry.wrong(format!("{place}: {error}")),
            }
        }
        self.add_closed(&mut inquiry);
        inquiry.close(
            "chain",
            "every chain is complete, within its dates, and leads to a CA of the site",
            "name the CAs, PEM, with --approved-cas FILE; append the missing intermediates to \
             `cert`; renew what has expired",
        )
    }

    fn audit(&self) -> Point {
        let mut inquiry = Inquiry::at(&[
            "store",
            "access_log",
            "log.level",
            "/etc: rsyslog, journal-upload, agents that carry logs away",
        ]);
        if self.is_declared {
            inquiry.wrong(
                "--standalone: who changed the file is recorded by what keeps it, if anything",
            );
        } else if self.config.store == Store::Sqlite {
            let text = "the audit chain of changes is in the store, and its head in the log";
            inquiry.judge(true, text);
        } else {
            inquiry.wrong("store: `memory` forgets the audit chain with the process");
        }
        if self.config.access_log == AccessLog::Off {
            inquiry.wrong("access_log: off");
        }
        if matches!(self.config.log.level, LogLevel::Error | LogLevel::Warn) {
            inquiry.wrong("log.level: changes are logged at `info`, which is left out");
        }
        if self.shippers.is_empty() {
            inquiry.wrong("nothing was found that carries the log to another machine");
        }
        for path in &self.shippers {
            inquiry.judge(true, format!("the log is carried away: {}", path.display()));
        }
        inquiry.close(
            "audit",
            "changes and requests are recorded, and the records leave the machine",
            "use `store: sqlite`, an `access_log`, `log.level: info`, and rsyslog, \
             systemd-journal-upload or another agent",
        )
    }

    fn session_limits(&self) -> Point {
        let (limits, cache) = (&self.config.limits, &self.config.https.session_cache);
        let mut inquiry = Inquiry::at(&["limits", "https.session_cache"]);
        let connections = format!("limits.connections: {} per worker", limits.connections);
        inquiry.judge(limits.connections > 0, connections);
        for (name, value, longest) in [
            ("limits.header_timeout", limits.header_timeout, LONGEST_IDLE),
            ("limits.idle_timeout", limits.idle_timeout, LONGEST_IDLE),
            ("limits.body_timeout", limits.body_timeout, LONGEST_IDLE),
            (
                "https.session_cache.timeout",
                cache.timeout,
                LONGEST_SESSION,
            ),
        ] {
            let text = format!("{name}: {value:?}, at most {longest:?}");
            inquiry.judge(value <= longest, text);
        }
        inquiry.close(
            "session-limits",
            "connections and sessions are bounded in number and time",
            "set the keys named above to no more than what is given there",
        )
    }

    fn service_account(&self) -> Point {
        let account = &self.account;
        let mut inquiry = Inquiry::at(&[&account.place]);
        let text = match &account.entry {
            Some((name, shell)) => format!("{name} (uid {}), shell {shell}", account.uid),
            None => format!("uid {}, which /etc/passwd does not have", account.uid),
        };
        inquiry.judge(account.uid != 0 && !account.has_shell(), text);
        inquiry.close(
            "service-account",
            "the gateway runs under an account of its own that nobody can log in with",
            "run it under a system account, not root: `useradd --system --shell \
             /usr/sbin/nologin portcullis`, or systemd's `DynamicUser=yes`",
        )
    }

    /// What is refused cannot be judged any further; that it is refused is a finding.
    fn add_closed(&self, inquiry: &mut Inquiry) {
        for object in &self.objects {
            if let Some(why) = &object.closed {
                inquiry.wrong(format!("{}: closed: {why}", object.object));
            }
        }
    }

    /// The secret managers that are reached over TLS.
    fn managers(&self) -> impl Iterator<Item = (&str, Manager)> {
        self.objects.iter().filter_map(|object| match &object.role {
            Role::Manager {
                manager,
                is_tls: true,
            } => Some((object.object.as_str(), *manager)),
            Role::Manager { is_tls: false, .. }
            | Role::Names { .. }
            | Role::Identity
            | Role::Upstream { .. }
            | Role::Unreadable => None,
        })
    }

    /// Who asks clients for certificates: object, depth, CAs.
    fn asking(&self) -> impl Iterator<Item = (&str, u32, Option<&CaBundle>)> {
        self.objects.iter().filter_map(|object| match &object.role {
            Role::Names {
                mode, depth, ca, ..
            } if *mode != ClientAuth::Off => Some((object.object.as_str(), *depth, ca.as_ref())),
            Role::Names { .. }
            | Role::Identity
            | Role::Upstream { .. }
            | Role::Manager { .. }
            | Role::Unreadable => None,
        })
    }

    /// Every bundle that is trusted, with where.
    fn trusted(&self) -> Vec<(String, &CaBundle)> {
        let clients = self
            .asking()
            .filter_map(|(object, _, ca)| Some((format!("{object} client.ca"), ca?)));
        let upstreams = self.objects.iter().filter_map(|object| match &object.role {
            Role::Upstream {
                trust: Some(bundle),
                is_trust_file,
                ..
            } => {
                let member = if *is_trust_file {
                    "upstream.trust_file"
                } else {
                    "tls.ca_certs"
                };
                Some((format!("{} {member}", object.object), bundle))
            }
            Role::Upstream { trust: None, .. }
            | Role::Names { .. }
            | Role::Identity
            | Role::Manager { .. }
            | Role::Unreadable => None,
        });
        let managers = self.manager_cas.iter().map(|(manager, bundle)| {
            let place = format!("secrets.{}.trust_file", manager.word());
            (place, bundle)
        });
        let admin = self.admin_ca.iter();
        let admin = admin.map(|bundle| ("admin.https.client_ca".to_owned(), bundle));
        clients
            .chain(upstreams)
            .chain(managers)
            .chain(admin)
            .collect()
    }

    /// Every pair that is shown, with where, and what for.
    fn shown(&self) -> impl Iterator<Item = (String, &KeyPair, Purpose)> {
        let stored = self.objects.iter().flat_map(|object| {
            let purpose = match &object.role {
                Role::Names { .. } | Role::Unreadable => Purpose::Server,
                Role::Identity | Role::Upstream { .. } | Role::Manager { .. } => Purpose::Client,
            };
            let pairs = object.pairs.iter();
            pairs.map(move |(at, pair)| (format!("{} {at}", object.object), pair, purpose))
        });
        let admin = self.admin.iter();
        stored.chain(admin.map(|pair| ("admin.https".to_owned(), pair, Purpose::Server)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(wrong: &[&str], good: &[&str]) -> Point {
        let mut inquiry = Inquiry::default();
        for (is_good, texts) in [(false, wrong), (true, good)] {
            texts.iter().for_each(|text| inquiry.judge(is_good, *text));
        }
        inquiry.close("id", "title", "remedy")
    }

    #[test]
    fn point_fails_for_one_wrong_thing_and_does_not_apply_to_none() {
        let failed = point(&["bad"], &["good"]);
        assert_eq!(
            (failed.outcome, failed.remedy()),
            (Outcome::Fail, Some("remedy"))
        );
        assert_eq!(failed.found, ["bad"]);
        let passed = point(&[], &["good"]);
        assert_eq!((passed.outcome, passed.remedy()), (Outcome::Pass, None));
        assert_eq!(point(&[], &[]).outcome, Outcome::NotApplicable);
    }
}
