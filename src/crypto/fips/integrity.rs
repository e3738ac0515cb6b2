//! A first look at the module's file, before any of its code runs.
//!
//! Loading a damaged library may end the process without a word, so the MAC that the module is
//! going to check is checked here first. It decides nothing in the module's favour: the module's
//! own check, which is the validated one, follows at every load.

use openssl::error::ErrorStack;
use openssl::lib_ctx::LibCtx;
use openssl::provider::Provider;

use crate::crypto::sys;

/// The key of OpenSSL's module integrity check, which is public (`FIPS_KEY_STRING`, `Configure`).
const KEY: [u8; 32] = [
    0xf4, 0x55, 0x66, 0x50, 0xac, 0x31, 0xd3, 0x54, 0x61, 0x61, 0x0b, 0xac, 0x4e, 0xd8, 0x1b, 0x1a,
    0x18, 0x1b, 0x2d, 0x8a, 0x43, 0xea, 0x28, 0x54, 0xcb, 0xae, 0x22, 0xca, 0x74, 0x56, 0x08, 0x13,
];

/// Whether the module's file is surely not the one that `mac` was made for.
///
/// A module may have been built with another key, or may carry its MAC within: without [`KEY`] in
/// the file nothing is sure. Works in a library context of its own, so that the process's default
/// one stays as if OpenSSL had not been used.
pub(super) fn is_altered(image: &[u8], mac: &[u8; 32]) -> Result<bool, ErrorStack> {
    if !image.windows(KEY.len()).any(|window| window == KEY) {
        return Ok(false);
    }
    let context = LibCtx::new()?;
    let _provider = Provider::load(Some(&context), "default")?;
    Ok(sys::hmac_sha256_within(&context, &KEY, image)? != *mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mac::hmac_sha256;

    #[test]
    fn file_that_fits_its_mac_is_not_altered() {
        let image = [b"code".as_slice(), &KEY, b"data"].concat();
        let mac = hmac_sha256(&KEY, &[&image]).unwrap();
        assert!(!is_altered(&image, &mac).unwrap());
    }

    #[test]
    fn changed_file_or_mac_is_noticed() {
        let image = [b"code".as_slice(), &KEY, b"data"].concat();
        let mac = hmac_sha256(&KEY, &[&image]).unwrap();
        let mut other_image = image.clone();
        other_image[0] ^= 1;
        assert!(is_altered(&other_image, &mac).unwrap());
        let mut other_mac = mac;
        other_mac[31] ^= 1;
        assert!(is_altered(&image, &other_mac).unwrap());
    }

    #[test]
    fn module_of_another_key_is_left_to_its_own_check() {
        assert!(!is_altered(b"code and data", &[0; 32]).unwrap());
    }
}
