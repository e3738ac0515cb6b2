//! What one upstream is offered: versions, and what of the process's profile.
//!
//! A choice within the profile, never beyond it: nothing that the process does not permit can be
//! offered, and a name that is not known is an error.

use super::{DEFAULT_PROFILE, FIPS_PROFILE, Profile, TlsVersion, Versions};

/// Names joined by colons, as OpenSSL reads them.
const SEPARATOR: char = ':';
/// What is quoted of a name at most.
const NAME_CHARS: usize = 64;
/// What else the groups of the profiles are called: by OpenSSL, by nginx's users and by RFC 8422.
const GROUP_ALIASES: [(&str, &str); 4] = [
    ("prime256v1", "P-256"),
    ("secp256r1", "P-256"),
    ("secp384r1", "P-384"),
    ("secp521r1", "P-521"),
];

/// Versions, ciphers and groups that one upstream is offered.
///
/// # Defaults
/// [`Versions::default`] and all of the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offer {
    /// Permitted versions.
    pub versions: Versions,
    ciphers: Option<Ciphers>,
    groups: Option<String>,
}

/// The ciphers of an offer by version; empty where the offer leaves the version out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ciphers {
    before_1_3: String,
    from_1_3: String,
}

/// Why a list cannot be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// No such thing is offered to anybody.
    #[error("`{name}` is nothing that this gateway offers; choose from {permitted}")]
    Unknown {
        /// As written, cut to 64 characters.
        name: String,
        /// What may be chosen.
        permitted: String,
    },
    /// FIPS mode leaves it out.
    #[error("`{name}` is not approved, and `fips: required` refuses it; choose from {permitted}")]
    Unapproved {
        /// As written.
        name: String,
        /// What may be chosen.
        permitted: String,
    },
    /// OpenSSL refuses a list of groups with one of them in it twice, by whatever names.
    #[error("`{0}` is named twice; name it once")]
    Twice(String),
    /// A permitted version is left without a cipher.
    #[error("names no cipher of {}; add one, or set {remedy}", .version.name())]
    Bare {
        /// The version.
        version: TlsVersion,
        /// What takes the version out.
        remedy: &'static str,
    },
}

impl Offer {
    /// These versions with all of the profile.
    #[must_use]
    pub fn of(versions: Versions) -> Self {
        Self {
            versions,
            ..Self::default()
        }
    }

    /// The same with these ciphers alone, best first: those of TLS 1.2 and the suites of TLS 1.3 in
    /// one list, by OpenSSL's names.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn with_ciphers(self, list: &str, profile: &Profile) -> Result<Self, OfferError> {
        let permitted = [profile.suites, profile.ciphers].join(":");
        let (mut before_1_3, mut from_1_3) = (Vec::new(), Vec::new());
        for name in list.split(SEPARATOR) {
            if !has(&permitted, name) {
                let known = [DEFAULT_PROFILE.suites, DEFAULT_PROFILE.ciphers].join(":");
                return Err(refusal(name, &known, &permitted));
            }
            if has(profile.suites, name) {
                push_once(&mut from_1_3, name)?;
            } else {
                push_once(&mut before_1_3, name)?;
            }
        }
        let bare = |version, remedy| Err(OfferError::Bare { version, remedy });
        if before_1_3.is_empty() && self.versions.min <= TlsVersion::V1_2 {
            return bare(TlsVersion::V1_2, "min_version to TLSv1.3");
        }
        if from_1_3.is_empty() && self.versions.max >= TlsVersion::V1_3 {
            return bare(TlsVersion::V1_3, "max_version to TLSv1.2");
        }
        let ciphers = Ciphers {
            before_1_3: before_1_3.join(":"),
            from_1_3: from_1_3.join(":"),
        };
        Ok(Self {
            ciphers: Some(ciphers),
            ..self
        })
    }

    /// The same with these groups alone, best first, by any of their usual names.
    ///
    /// # Errors
    /// `Unknown`, `Unapproved` and `Twice`.
    pub fn with_groups(self, list: &str, profile: &Profile) -> Result<Self, OfferError> {
        let groups = |profile: &Profile| profile.groups.to_string_lossy().into_owned();
        let permitted = groups(profile);
        let mut chosen = Vec::new();
        for name in list.split(SEPARATOR) {
            let alias = GROUP_ALIASES.iter().find(|(alias, _)| *alias == name);
            let meant = alias.map_or(name, |(_, meant)| meant);
            if !has(&permitted, meant) {
                return Err(refusal(name, &groups(&DEFAULT_PROFILE), &permitted));
            }
            push_once(&mut chosen, meant)?;
        }
        Ok(Self {
            groups: Some(chosen.join(":")),
            ..self
        })
    }

    /// Ciphers of TLS 1.2.
    pub fn ciphers<'a>(&'a self, profile: &'a Profile) -> &'a str {
        let chosen = self.ciphers.as_ref().map(|ciphers| &*ciphers.before_1_3);
        chosen
            .filter(|text| !text.is_empty())
            .unwrap_or(profile.ciphers)
    }

    /// Suites of TLS 1.3.
    pub fn suites<'a>(&'a self, profile: &'a Profile) -> &'a str {
        let chosen = self.ciphers.as_ref().map(|ciphers| &*ciphers.from_1_3);
        chosen
            .filter(|text| !text.is_empty())
            .unwrap_or(profile.suites)
    }

    /// Groups of the key exchange.
    #[must_use]
    pub fn groups(&self, profile: &Profile) -> String {
        let all = || profile.groups.to_string_lossy().into_owned();
        self.groups.clone().unwrap_or_else(all)
    }
}

/// The first name of a list of ciphers or groups that FIPS mode does not approve.
#[must_use]
pub fn unapproved(list: &str) -> Option<&str> {
    let groups = FIPS_PROFILE.groups.to_string_lossy();
    let is_approved = |name: &str| {
        let alias = GROUP_ALIASES.iter().any(|(alias, _)| *alias == name);
        alias
            || [FIPS_PROFILE.suites, FIPS_PROFILE.ciphers, &groups]
                .into_iter()
                .any(|list| has(list, name))
    };
    list.split(SEPARATOR).find(|name| !is_approved(name))
}

fn push_once<'a>(chosen: &mut Vec<&'a str>, name: &'a str) -> Result<(), OfferError> {
    if chosen.contains(&name) {
        return Err(OfferError::Twice(name.to_owned()));
    }
    chosen.push(name);
    Ok(())
}

fn refusal(name: &str, known: &str, permitted: &str) -> OfferError {
    let is_known = has(known, name);
    let name = name.chars().take(NAME_CHARS).collect();
    let permitted = permitted.replace(SEPARATOR, ", ");
    if is_known {
        OfferError::Unapproved { name, permitted }
    } else {
        OfferError::Unknown { name, permitted }
    }
}

fn has(list: &str, name: &str) -> bool {
    list.split(SEPARATOR).any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Versions = Versions {
        min: TlsVersion::V1_2,
        max: TlsVersion::V1_3,
    };
    const AES128: &str = "ECDHE-RSA-AES128-GCM-SHA256";
    const SUITE: &str = "TLS_AES_256_GCM_SHA384";
    const CHACHA: &str = "TLS_CHACHA20_POLY1305_SHA256";

    fn only(version: TlsVersion) -> Versions {
        Versions {
            min: version,
            max: version,
        }
    }

    #[test]
    fn ciphers_of_both_versions_stand_in_one_list() {
        let profile = &DEFAULT_PROFILE;
        let all = Offer::of(ALL);
        assert_eq!(
            (all.ciphers(profile), all.suites(profile)),
            (profile.ciphers, profile.suites)
        );
        let list = format!("{AES128}:{SUITE}:{CHACHA}");
        let offer = all.with_ciphers(&list, profile).unwrap();
        assert_eq!(offer.ciphers(profile), AES128);
        assert_eq!(offer.suites(profile), format!("{SUITE}:{CHACHA}"));
    }

    #[test]
    fn version_without_a_cipher_is_refused_unless_it_is_left_out() {
        for (list, version, remedy) in [
            (AES128, TlsVersion::V1_3, "max_version to TLSv1.2"),
            (SUITE, TlsVersion::V1_2, "min_version to TLSv1.3"),
        ] {
            let refused = Offer::of(ALL).with_ciphers(list, &DEFAULT_PROFILE);
            assert_eq!(refused, Err(OfferError::Bare { version, remedy }));
        }
        for (list, version) in [(AES128, TlsVersion::V1_2), (SUITE, TlsVersion::V1_3)] {
            Offer::of(only(version))
                .with_ciphers(list, &DEFAULT_PROFILE)
                .unwrap();
        }
    }

    #[test]
    fn name_that_is_not_offered_is_refused_and_told_apart_from_one_that_fips_refuses() {
        for list in [
            "AES128-SHA",
            "ALL",
            "",
            "HIGH:!aNULL",
            "TLS_AES_256_GCM_SHA384:",
            "@SECLEVEL=0",
        ] {
            let refused = Offer::of(only(TlsVersion::V1_3)).with_ciphers(list, &DEFAULT_PROFILE);
            assert!(
                matches!(refused, Err(OfferError::Unknown { .. })),
                "{list}: {refused:?}"
            );
        }
        for list in ["P-224", "brainpoolP256r1", "", "p-256"] {
            let refused = Offer::of(ALL).with_groups(list, &DEFAULT_PROFILE);
            assert!(
                matches!(refused, Err(OfferError::Unknown { .. })),
                "{list}: {refused:?}"
            );
        }
        let chacha = Offer::of(only(TlsVersion::V1_3)).with_ciphers(CHACHA, &FIPS_PROFILE);
        let told = chacha.unwrap_err().to_string();
        assert!(
            told.starts_with("`TLS_CHACHA20_POLY1305_SHA256` is not approved"),
            "{told}"
        );
        assert!(
            told.contains("choose from TLS_AES_256_GCM_SHA384, TLS_AES_128"),
            "{told}"
        );
        let x25519 = Offer::of(ALL).with_groups("X25519:P-256", &FIPS_PROFILE);
        assert!(matches!(x25519, Err(OfferError::Unapproved { name, .. }) if name == "X25519"));
    }

    #[test]
    fn name_that_stands_twice_is_refused_by_whatever_names() {
        let twice = |name: &str| Err(OfferError::Twice(name.to_owned()));
        for (list, name) in [
            ("P-384:P-256:P-384", "P-384"),
            ("P-256:prime256v1", "P-256"),
        ] {
            let refused = Offer::of(ALL).with_groups(list, &DEFAULT_PROFILE);
            assert_eq!(refused, twice(name));
        }
        for name in [AES128, SUITE] {
            let list = format!("{AES128}:{SUITE}:{name}");
            let refused = Offer::of(ALL).with_ciphers(&list, &DEFAULT_PROFILE);
            assert_eq!(refused, twice(name));
        }
    }

    #[test]
    fn groups_have_several_names_and_keep_their_order() {
        for (list, groups) in [
            ("X25519", "X25519"),
            ("secp384r1:prime256v1", "P-384:P-256"),
            ("P-521:secp256r1", "P-521:P-256"),
        ] {
            let offer = Offer::of(ALL).with_groups(list, &DEFAULT_PROFILE).unwrap();
            assert_eq!(offer.groups(&DEFAULT_PROFILE), groups);
        }
        assert_eq!(Offer::default().groups(&FIPS_PROFILE), "P-256:P-384:P-521");
    }

    #[test]
    fn what_is_not_approved_is_found_in_any_list() {
        assert_eq!(unapproved("P-256:secp384r1"), None);
        assert_eq!(unapproved("P-256:X25519"), Some("X25519"));
        assert_eq!(unapproved(&format!("{AES128}:{SUITE}")), None);
        assert_eq!(unapproved(&format!("{AES128}:{CHACHA}")), Some(CHACHA));
    }
}
