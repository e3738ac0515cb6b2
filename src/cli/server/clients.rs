//! Who an administrator is by a certificate: `admin.https.client_roles`.
//!
//! Whether the certificate may be believed was decided in the handshake, against
//! `admin.https.client_ca`; here is only read what it says.

use crate::admin::auth::{Certified, Role};
use crate::config::{self, Claim, ClientRole};
use crate::tls::identity::{Identity, attributes};
use crate::tls::peer::ClientCertificate;

/// Who a client is by its certificate, by the first entry that fits; `None` where none does: it needs
/// a key then.
pub(super) fn certified(client: &ClientCertificate, roles: &[ClientRole]) -> Option<Certified> {
    if roles.is_empty() {
        return None;
    }
    let (identity, subject) = (client.identity(), attributes(client.leaf()));
    let entry = roles
        .iter()
        .find(|entry| fits(&entry.claim, identity, &subject))?;
    Some(Certified {
        name: name(identity),
        role: match entry.role {
            config::Role::Admin => Role::Admin,
            config::Role::Viewer => Role::Viewer,
        },
        // One that cannot be read is over.
        until: identity.end_seconds.unwrap_or_default(),
    })
}

fn fits(claim: &Claim, identity: &Identity, subject: &[(String, String)]) -> bool {
    match claim {
        Claim::Subject(wanted) => wanted.iter().all(|own| subject.contains(own)),
        Claim::Dns(name) => {
            let mut names = identity.san_dns.iter();
            names.any(|own| own.eq_ignore_ascii_case(name))
        }
        Claim::Uri(uri) => identity.san_uri.contains(uri),
        Claim::Email(address) => identity.san_email.contains(address),
    }
}

/// The subject, or where that is empty the first alternative name.
fn name(identity: &Identity) -> String {
    if !identity.subject.is_empty() {
        return identity.subject.clone();
    }
    let mut names = [&identity.san_uri, &identity.san_email, &identity.san_dns]
        .into_iter()
        .flatten();
    names.next().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509;

    use super::*;
    use crate::tls::sample;

    #[test]
    fn claim_fits_what_the_certificate_says_and_nothing_near_it() {
        let leaf = sample::leaf(&sample::ca("CA"), "ops", &["a.test"]);
        let leaf = X509::from_pem(leaf.cert.as_bytes()).unwrap();
        let mut identity = Identity::of(&leaf);
        identity.san_uri.push("spiffe://x/ops".to_owned());
        identity.san_email.push("ops@x".to_owned());
        let own = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        let subject = [own("CN", "ops"), own("OU", "admins"), own("OU", "eu")];
        for (claim, expected) in [
            (Claim::Subject(vec![own("CN", "ops")]), true),
            (
                Claim::Subject(vec![own("OU", "eu"), own("OU", "admins")]),
                true,
            ),
            (
                Claim::Subject(vec![own("CN", "ops"), own("OU", "us")]),
                false,
            ),
            (Claim::Subject(vec![own("CN", "OPS")]), false),
            (Claim::Subject(vec![own("O", "ops")]), false),
            (Claim::Dns("A.test".to_owned()), true),
            (Claim::Dns("b.a.test".to_owned()), false),
            (Claim::Dns("spiffe://x/ops".to_owned()), false),
            (Claim::Uri("spiffe://x/ops".to_owned()), true),
            (Claim::Uri("spiffe://x/op".to_owned()), false),
            (Claim::Email("ops@x".to_owned()), true),
            (Claim::Email("a.test".to_owned()), false),
        ] {
            assert_eq!(fits(&claim, &identity, &subject), expected, "{claim:?}");
        }
        assert_eq!(name(&identity), "CN=ops");
        identity.subject.clear();
        assert_eq!(name(&identity), "spiffe://x/ops");
    }
}
