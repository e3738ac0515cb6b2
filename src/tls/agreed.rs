//! What a finished handshake agreed on, read once, in names that have counters.

use openssl::nid::Nid;
use openssl::ssl::{SslRef, SslVersion};

use crate::crypto::sys::{self, Signer};
use crate::telemetry::negotiated::Agreed;

/// `NID_X25519` and `NID_ED25519` of `obj_mac.h`, which the crate does not name.
const X25519: Nid = Nid::from_raw(1034);
const ED25519: Nid = Nid::from_raw(1087);

/// Reads it.
pub(super) fn agreed(ssl: &SslRef) -> Agreed {
    let is_resumed = ssl.session_reused();
    // A resumed session of TLS 1.2 remembers the group of its full handshake.
    let exchanged = !is_resumed || ssl.version2() == Some(SslVersion::TLS1_3);
    let group = exchanged.then(|| sys::negotiated_group(ssl)).flatten();
    Agreed {
        suite: ssl.current_cipher().map_or("", |suite| suite.name()),
        group: group.map(group_name),
        ours: sys::signature(ssl, Signer::Us).map(signature_name),
        theirs: sys::signature(ssl, Signer::Peer).map(signature_name),
        is_resumed,
    }
}

fn group_name(group: Nid) -> &'static str {
    match group {
        Nid::X9_62_PRIME256V1 => "P-256",
        Nid::SECP384R1 => "P-384",
        Nid::SECP521R1 => "P-521",
        X25519 => "X25519",
        _ => "",
    }
}

/// A signature by the type of its key and its digest.
fn signature_name((key, digest): (Nid, Nid)) -> &'static str {
    match (key, digest) {
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA256) => "ECDSA+SHA256",
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA384) => "ECDSA+SHA384",
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA512) => "ECDSA+SHA512",
        (Nid::RSASSAPSS, Nid::SHA256) => "RSA-PSS+SHA256",
        (Nid::RSASSAPSS, Nid::SHA384) => "RSA-PSS+SHA384",
        (Nid::RSASSAPSS, Nid::SHA512) => "RSA-PSS+SHA512",
        (Nid::RSAENCRYPTION, Nid::SHA256) => "RSA+SHA256",
        (Nid::RSAENCRYPTION, Nid::SHA384) => "RSA+SHA384",
        (Nid::RSAENCRYPTION, Nid::SHA512) => "RSA+SHA512",
        (ED25519, _) => "ed25519",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::negotiated::is_known;
    use crate::tls::policy::{DEFAULT_PROFILE, FIPS_PROFILE};

    #[test]
    fn all_that_a_profile_permits_has_a_counter() {
        for profile in [&DEFAULT_PROFILE, &FIPS_PROFILE] {
            let groups = profile.groups.to_str().unwrap();
            for list in [profile.ciphers, profile.suites, groups, profile.sigalgs] {
                for name in list.split(':') {
                    assert!(is_known(name), "{name}");
                }
            }
        }
    }
}
