//! Every C function of OpenSSL that the `openssl` crate does not offer, one safe function each, those
//! of the C library that no crate offers, and the allocator that wipes.
//!
//! The only file of the package that may hold `unsafe`. Each function names its man page, who owns
//! what, how failure is returned, and why the call is sound. No policy lives here.
#![expect(
    unsafe_code,
    reason = "the FFI of the package, and nothing else, lives here"
)]
#![expect(
    clippy::as_conversions,
    reason = "C integer widths; each cast is from a constant or a checked value"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use foreign_types::{ForeignType, ForeignTypeRef};
use openssl::cipher_ctx::CipherCtxRef;
use openssl::conf::ConfRef;
use openssl::error::ErrorStack;
use openssl::lib_ctx::{LibCtx, LibCtxRef};
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::provider::{Provider, ProviderRef};
use openssl::ssl::{SslContextBuilder, SslMethod, SslRef, SslSessionRef};
use openssl::stack::StackRef;
use openssl::x509::store::{X509Store, X509StoreBuilderRef, X509StoreRef};
use openssl::x509::{
    X509, X509CrlRef, X509NameRef, X509Ref, X509StoreContext, X509StoreContextRef, X509VerifyResult,
};
use openssl_sys as ffi;
use tokio_openssl::SslStream;

use super::memory::wipes;

/// Functions of libssl and libcrypto 3.0 that `openssl-sys` does not declare.
mod c {
    use super::{c_char, c_int, c_long, c_uint, c_void, ffi};

    unsafe extern "C" {
        pub(super) fn SSL_CTX_new_ex(
            library: *mut ffi::OSSL_LIB_CTX,
            properties: *const c_char,
            method: *const ffi::SSL_METHOD,
        ) -> *mut ffi::SSL_CTX;
        pub(super) fn SSL_has_pending(ssl: *const ffi::SSL) -> c_int;
        pub(super) fn SSL_get_state(ssl: *const ffi::SSL) -> c_int;
        pub(super) fn SSL_free_buffers(ssl: *mut ffi::SSL) -> c_int;
        pub(super) fn SSL_set_session_id_context(
            ssl: *mut ffi::SSL,
            context: *const u8,
            len: c_uint,
        ) -> c_int;
        pub(super) fn SSL_CTX_set_timeout(ctx: *mut ffi::SSL_CTX, seconds: c_long) -> c_long;
        pub(super) fn SSL_CTX_set_cert_cb(
            ctx: *mut ffi::SSL_CTX,
            callback: Option<unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int>,
            arg: *mut c_void,
        );
        pub(super) fn SSL_CTX_set_tlsext_ticket_key_evp_cb(
            ctx: *mut ffi::SSL_CTX,
            callback: Option<
                unsafe extern "C" fn(
                    *mut ffi::SSL,
                    *mut u8,
                    *mut u8,
                    *mut ffi::EVP_CIPHER_CTX,
                    *mut ffi::EVP_MAC_CTX,
                    c_int,
                ) -> c_int,
            >,
        ) -> c_int;
        pub(super) fn SSL_CTX_set_session_ticket_cb(
            ctx: *mut ffi::SSL_CTX,
            generate: Option<unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int>,
            decrypt: Option<
                unsafe extern "C" fn(
                    *mut ffi::SSL,
                    *mut ffi::SSL_SESSION,
                    *const u8,
                    usize,
                    c_int,
                    *mut c_void,
                ) -> c_int,
            >,
            arg: *mut c_void,
        ) -> c_int;
        pub(super) fn SSL_SESSION_set_timeout(
            session: *mut ffi::SSL_SESSION,
            seconds: c_long,
        ) -> c_long;
        pub(super) fn SSL_SESSION_set1_ticket_appdata(
            session: *mut ffi::SSL_SESSION,
            data: *const c_void,
            len: usize,
        ) -> c_int;
        pub(super) fn SSL_SESSION_get0_ticket_appdata(
            session: *mut ffi::SSL_SESSION,
            data: *mut *mut c_void,
            len: *mut usize,
        ) -> c_int;
        pub(super) fn OSSL_PARAM_construct_utf8_string(
            key: *const c_char,
            value: *mut c_char,
            size: usize,
        ) -> ffi::OSSL_PARAM;
        pub(super) fn SSL_CTX_set_msg_callback(
            ctx: *mut ffi::SSL_CTX,
            callback: Option<
                unsafe extern "C" fn(
                    c_int,
                    c_int,
                    c_int,
                    *const c_void,
                    usize,
                    *mut ffi::SSL,
                    *mut c_void,
                ),
            >,
        );
        pub(super) fn SSL_get_signature_type_nid(ssl: *const ffi::SSL, key: *mut c_int) -> c_int;
        pub(super) fn SSL_get_peer_signature_type_nid(
            ssl: *const ffi::SSL,
            key: *mut c_int,
        ) -> c_int;
        pub(super) fn X509_STORE_up_ref(store: *mut ffi::X509_STORE) -> c_int;
        pub(super) fn X509_STORE_add_crl(
            store: *mut ffi::X509_STORE,
            crl: *mut ffi::X509_CRL,
        ) -> c_int;
        pub(super) fn X509_STORE_CTX_get0_param(
            ctx: *mut ffi::X509_STORE_CTX,
        ) -> *mut ffi::X509_VERIFY_PARAM;
        pub(super) fn X509_VERIFY_PARAM_set_auth_level(
            param: *mut ffi::X509_VERIFY_PARAM,
            level: c_int,
        );
        pub(super) fn X509_STORE_set_verify(
            store: *mut ffi::X509_STORE,
            verify: unsafe extern "C" fn(*mut ffi::X509_STORE_CTX) -> c_int,
        );
        pub(super) fn X509_STORE_CTX_get_verify(
            ctx: *const ffi::X509_STORE_CTX,
        ) -> Option<unsafe extern "C" fn(*mut ffi::X509_STORE_CTX) -> c_int>;
        pub(super) fn X509_STORE_CTX_get_verify_cb(
            ctx: *const ffi::X509_STORE_CTX,
        ) -> Option<unsafe extern "C" fn(c_int, *mut ffi::X509_STORE_CTX) -> c_int>;
        pub(super) fn X509_STORE_CTX_set_error_depth(ctx: *mut ffi::X509_STORE_CTX, depth: c_int);
        pub(super) fn X509_cmp_current_time(time: *const ffi::ASN1_TIME) -> c_int;
        pub(super) fn X509_STORE_CTX_set_default(
            ctx: *mut ffi::X509_STORE_CTX,
            name: *const c_char,
        ) -> c_int;
        pub(super) fn X509_NAME_print_ex(
            out: *mut ffi::BIO,
            name: *const ffi::X509_NAME,
            indent: c_int,
            flags: std::ffi::c_ulong,
        ) -> c_int;
        pub(super) fn OPENSSL_init_crypto(opts: u64, settings: *const c_void) -> c_int;
        pub(super) fn OSSL_LIB_CTX_load_config(
            ctx: *mut ffi::OSSL_LIB_CTX,
            file: *const c_char,
        ) -> c_int;
        pub(super) fn NCONF_load(
            conf: *mut ffi::CONF,
            file: *const c_char,
            error_line: *mut c_long,
        ) -> c_int;
        pub(super) fn NCONF_get_section(
            conf: *const ffi::CONF,
            section: *const c_char,
        ) -> *mut ffi::OPENSSL_STACK;
        pub(super) fn OSSL_PROVIDER_do_all(
            ctx: *mut ffi::OSSL_LIB_CTX,
            callback: unsafe extern "C" fn(*mut ffi::OSSL_PROVIDER, *mut c_void) -> c_int,
            arg: *mut c_void,
        ) -> c_int;
        pub(super) fn OSSL_PROVIDER_get0_name(provider: *const ffi::OSSL_PROVIDER)
        -> *const c_char;
        pub(super) fn OSSL_PROVIDER_get_params(
            provider: *const ffi::OSSL_PROVIDER,
            params: *mut ffi::OSSL_PARAM,
        ) -> c_int;
        pub(super) fn OSSL_PROVIDER_self_test(provider: *const ffi::OSSL_PROVIDER) -> c_int;
        pub(super) fn OSSL_PROVIDER_add_builtin(
            library: *mut ffi::OSSL_LIB_CTX,
            name: *const c_char,
            begin: unsafe extern "C" fn(
                *const c_void,
                *const Dispatch,
                *mut *const Dispatch,
                *mut *mut c_void,
            ) -> c_int,
        ) -> c_int;
        pub(super) fn OSSL_PROVIDER_query_operation(
            provider: *const ffi::OSSL_PROVIDER,
            operation: c_int,
            no_cache: *mut c_int,
        ) -> *const Algorithm;
        pub(super) fn OSSL_PROVIDER_get0_provider_ctx(
            provider: *const ffi::OSSL_PROVIDER,
        ) -> *mut c_void;
        pub(super) fn OSSL_PROVIDER_get_capabilities(
            provider: *const ffi::OSSL_PROVIDER,
            capability: *const c_char,
            seen: Option<Told>,
            arg: *mut c_void,
        ) -> c_int;
        pub(super) fn OSSL_PARAM_construct_utf8_ptr(
            key: *const c_char,
            value: *mut *mut c_char,
            size: usize,
        ) -> ffi::OSSL_PARAM;
        pub(super) fn EVP_PKEY_get_group_name(
            key: *const ffi::EVP_PKEY,
            name: *mut c_char,
            size: usize,
            len: *mut usize,
        ) -> c_int;
        pub(super) fn X509_get_signature_info(
            certificate: *mut ffi::X509,
            digest: *mut c_int,
            key: *mut c_int,
            security_bits: *mut c_int,
            flags: *mut u32,
        ) -> c_int;
        pub(super) fn EVP_PKEY_get0_provider(
            key: *const ffi::EVP_PKEY,
        ) -> *const ffi::OSSL_PROVIDER;
        pub(super) fn EVP_MD_get0_provider(md: *const ffi::EVP_MD) -> *const ffi::OSSL_PROVIDER;
        pub(super) fn EVP_CIPHER_get0_provider(
            cipher: *const ffi::EVP_CIPHER,
        ) -> *const ffi::OSSL_PROVIDER;
        pub(super) fn EVP_KDF_get0_provider(kdf: *const ffi::EVP_KDF) -> *const ffi::OSSL_PROVIDER;
        pub(super) fn EVP_SIGNATURE_get0_provider(
            signature: *const ffi::EVP_SIGNATURE,
        ) -> *mut ffi::OSSL_PROVIDER;
        pub(super) fn EVP_KEYEXCH_fetch(
            ctx: *mut ffi::OSSL_LIB_CTX,
            name: *const c_char,
            properties: *const c_char,
        ) -> *mut EvpKeyexch;
        pub(super) fn EVP_KEYEXCH_get0_provider(
            exchange: *const EvpKeyexch,
        ) -> *mut ffi::OSSL_PROVIDER;
        pub(super) fn EVP_KEYEXCH_free(exchange: *mut EvpKeyexch);
        pub(super) fn RAND_get0_primary(ctx: *mut ffi::OSSL_LIB_CTX) -> *mut EvpRandCtx;
        pub(super) fn EVP_RAND_CTX_get0_rand(ctx: *mut EvpRandCtx) -> *mut EvpRand;
        pub(super) fn EVP_RAND_get0_provider(rand: *const EvpRand) -> *const ffi::OSSL_PROVIDER;
        pub(super) fn EVP_Q_mac(
            ctx: *mut ffi::OSSL_LIB_CTX,
            name: *const c_char,
            properties: *const c_char,
            sub_algorithm: *const c_char,
            params: *const ffi::OSSL_PARAM,
            key: *const c_void,
            key_len: usize,
            data: *const u8,
            data_len: usize,
            out: *mut u8,
            out_size: usize,
            out_len: *mut usize,
        ) -> *mut u8;
        pub(super) fn EVP_CIPHER_CTX_get_updated_iv(
            ctx: *mut ffi::EVP_CIPHER_CTX,
            buffer: *mut c_void,
            len: usize,
        ) -> c_int;
    }

    /// `OSSL_CALLBACK` of `core.h`.
    pub(super) type Told = unsafe extern "C" fn(*const ffi::OSSL_PARAM, *mut c_void) -> c_int;
    /// `OSSL_DISPATCH` of `core.h`.
    #[repr(C)]
    pub(super) struct Dispatch {
        pub(super) function_id: c_int,
        pub(super) function: Option<unsafe extern "C" fn()>,
    }
    /// `OSSL_ALGORITHM` of `core.h`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(super) struct Algorithm {
        pub(super) names: *const c_char,
        pub(super) properties: *const c_char,
        pub(super) implementation: *const Dispatch,
        pub(super) description: *const c_char,
    }
    /// `CONF_VALUE` of `conf.h`.
    #[repr(C)]
    pub(super) struct ConfValue {
        pub(super) section: *mut c_char,
        pub(super) name: *mut c_char,
        pub(super) value: *mut c_char,
    }
    /// `EVP_KEYEXCH` of `evp.h`.
    pub(super) enum EvpKeyexch {}
    /// `EVP_RAND` of `evp.h`.
    pub(super) enum EvpRand {}
    /// `EVP_RAND_CTX` of `evp.h`.
    pub(super) enum EvpRandCtx {}
}

/// `XN_FLAG_RFC2253` of `x509.h`: RFC 2253 escapes, no blanks, reversed order.
const XN_FLAG_RFC2253: std::ffi::c_ulong = 0x0111_0317;
/// `OPENSSL_INIT_NO_LOAD_CONFIG` of `crypto.h`.
const OPENSSL_INIT_NO_LOAD_CONFIG: u64 = 0x80;
/// `SSL_CTRL_GET_NEGOTIATED_GROUP` of `ssl.h`.
const SSL_CTRL_GET_NEGOTIATED_GROUP: c_int = 134;
/// `SSL_CTRL_GET_SIGNATURE_NID` and `SSL_CTRL_GET_PEER_SIGNATURE_NID` of `ssl.h`.
const SSL_CTRL_GET_SIGNATURE_NID: c_int = 132;
const SSL_CTRL_GET_PEER_SIGNATURE_NID: c_int = 108;
/// `SSL_CTRL_SET_MSG_CALLBACK_ARG` and `SSL3_RT_HANDSHAKE` of `ssl.h` and `ssl3.h`.
const SSL_CTRL_SET_MSG_CALLBACK_ARG: c_int = 16;
const HANDSHAKE: c_int = 22;
/// `SSL_TICKET_SUCCESS` and `SSL_TICKET_SUCCESS_RENEW` of `ssl.h`.
const TICKET_SUCCESS: c_int = 5;
const TICKET_SUCCESS_RENEW: c_int = 6;
/// `SSL_TICKET_RETURN_IGNORE_RENEW`, `…_USE` and `…_USE_RENEW` of `ssl.h`.
const TICKET_RETURN_IGNORE_RENEW: c_int = 2;
const TICKET_RETURN_USE: c_int = 3;
const TICKET_RETURN_USE_RENEW: c_int = 4;
/// `TLS_ST_EARLY_DATA` of `ssl.h`: with TLS 1.3 alone, a server awaits what follows its flight, or its
/// HelloRetryRequest.
const BETWEEN_FLIGHTS: c_int = 46;
/// `SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN` of `ssl.h`.
const SSL_SHUTDOWN_BOTH: c_int = 3;
/// `X509_V_FLAG_USE_CHECK_TIME`, `X509_V_FLAG_CHECK_SS_SIGNATURE`, `X509_V_FLAG_NO_CHECK_TIME`
/// (x509_vfy.h): the step that [`remember_chains`] replaces does what it does otherwise.
const OTHER_CHECKS: std::ffi::c_ulong = 0x2 | 0x4000 | 0x0020_0000;

/// The body of one extension of the ClientHello now being processed.
///
/// `SSL_client_hello_get0_ext(3)`. Valid inside the ClientHello callback only; elsewhere libssl
/// has no ClientHello to look at and the answer is `None`. The bytes are libssl's and are copied,
/// so nothing outlives the callback.
#[must_use]
pub fn client_hello_extension(ssl: &SslRef, extension: u32) -> Option<Vec<u8>> {
    let mut data: *const u8 = ptr::null();
    let mut len = 0_usize;
    // SAFETY: `ssl` is a live SSL; both out-pointers are valid for the call.
    let found = unsafe {
        ffi::SSL_client_hello_get0_ext(ssl.as_ptr(), extension, &raw mut data, &raw mut len)
    };
    if found != 1 {
        return None;
    }
    if data.is_null() || len == 0 {
        return Some(Vec::new());
    }
    // SAFETY: libssl returned success, so `data` points at `len` bytes that live while the
    // callback runs; they are copied before it returns.
    Some(unsafe { std::slice::from_raw_parts(data, len) }.to_vec())
}

/// Whether libssl holds bytes that were read from the peer and not yet given out.
///
/// `SSL_has_pending(3)`: unlike `SSL_pending` this counts read-ahead bytes that are not yet
/// decrypted, which is what "nothing can be there" needs.
#[must_use]
pub fn has_pending(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is a live SSL; the call reads it.
    unsafe { c::SSL_has_pending(ssl.as_ptr()) == 1 }
}

/// Frees the read and write buffers of an idle connection; false when data is still in them.
///
/// `SSL_free_buffers(3)`: libssl allocates them again at the next use. Takes the whole stream,
/// because the bridge lends its `SslRef` shared only.
pub fn free_buffers<S>(stream: &mut SslStream<S>) -> bool {
    // SAFETY: the stream is exclusively borrowed, so nothing else uses its live SSL; libssl
    // refuses when data is pending.
    unsafe { c::SSL_free_buffers(stream.ssl().as_ptr()) == 1 }
}

/// The group of the key exchange of a finished handshake; `None` where there was none, or one
/// without a number of its own.
///
/// `SSL_get_negotiated_group(3)`, which is a macro. For a resumed session of TLS 1.2 it is the
/// group of the full handshake.
#[must_use]
pub fn negotiated_group(ssl: &SslRef) -> Option<Nid> {
    let command = SSL_CTRL_GET_NEGOTIATED_GROUP;
    // SAFETY: `ssl` is a live SSL; this command reads only, and takes no argument.
    let group = unsafe { ffi::SSL_ctrl(ssl.as_ptr(), command, 0, ptr::null_mut()) };
    let group = c_int::try_from(group).ok().filter(|group| *group > 0)?;
    Some(Nid::from_raw(group))
}

/// Whose signature of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Our side's.
    Us,
    /// The peer's.
    Peer,
}

/// The type of the key, and the digest, of a signature made in a finished handshake; `None` where
/// that side did not sign.
///
/// `SSL_get_signature_type_nid(3)` and `SSL_get_signature_nid(3)`: both return 1 and write a NID,
/// or 0. The digest of Ed25519 is undefined, NID 0.
#[must_use]
pub fn signature(ssl: &SslRef, signer: Signer) -> Option<(Nid, Nid)> {
    let (mut key, mut digest): (c_int, c_int) = (0, 0);
    // SAFETY: `ssl` is a live SSL; `key` is valid for the call.
    let rc = unsafe {
        match signer {
            Signer::Us => c::SSL_get_signature_type_nid(ssl.as_ptr(), &raw mut key),
            Signer::Peer => c::SSL_get_peer_signature_type_nid(ssl.as_ptr(), &raw mut key),
        }
    };
    let command = match signer {
        Signer::Us => SSL_CTRL_GET_SIGNATURE_NID,
        Signer::Peer => SSL_CTRL_GET_PEER_SIGNATURE_NID,
    };
    let out = (&raw mut digest).cast();
    // SAFETY: `ssl` is a live SSL; these commands write one int, and `digest` is valid for the call.
    let rc_of_digest = unsafe { ffi::SSL_ctrl(ssl.as_ptr(), command, 0, out) };
    (rc == 1 && rc_of_digest == 1).then(|| (Nid::from_raw(key), Nid::from_raw(digest)))
}

/// Sets how long a session may be resumed, in seconds.
///
/// `SSL_CTX_set_timeout(3)`; libssl's default is 7,200 s for TLS.
pub fn set_session_timeout(ctx: &mut SslContextBuilder, seconds: u32) {
    // SAFETY: `ctx` is a live SSL_CTX, exclusively borrowed.
    unsafe { c::SSL_CTX_set_timeout(ctx.as_ptr(), c_long::from(seconds)) };
}

/// Sets the session id context of one connection: its sessions are resumed under the same alone.
///
/// `SSL_set_session_id_context(3)`: copies the bytes, and returns 1 on success.
///
/// # Errors
/// OpenSSL's own: more than 32 bytes.
pub fn set_session_id_context(ssl: &mut SslRef, context: &[u8; 32]) -> Result<(), ErrorStack> {
    const LEN: c_uint = 32;
    // SAFETY: `ssl` is a live SSL, exclusively borrowed; the bytes are valid for the call.
    let rc = unsafe { c::SSL_set_session_id_context(ssl.as_ptr(), context.as_ptr(), LEN) };
    succeeded(rc)
}

/// Another handle to the same trust store.
///
/// `X509_STORE_up_ref(3)`: the returned handle owns one reference. `X509Store` is not `Clone`.
#[must_use]
pub fn share_store(store: &X509StoreRef) -> X509Store {
    // SAFETY: `store` is live; the call takes one more reference, which the returned handle
    // releases. It fails only on a corrupt reference count, which aborts below.
    unsafe {
        let rc = c::X509_STORE_up_ref(store.as_ptr());
        assert_eq!(rc, 1, "X509_STORE_up_ref takes a reference of a live store");
        X509Store::from_ptr(store.as_ptr())
    }
}

/// Adds a revocation list to a trust store that is being made.
///
/// `X509_STORE_add_crl(3)`: takes its own reference, so that one list may be in many stores.
///
/// # Errors
/// OpenSSL's own.
pub fn add_crl(store: &mut X509StoreBuilderRef, crl: &X509CrlRef) -> Result<(), ErrorStack> {
    // SAFETY: both are live; the call takes its own reference of the list.
    let rc = unsafe { c::X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    succeeded(rc)
}

/// Knows chains whose signatures are good; asked through [`remember_chains`].
///
/// No function may panic. A chain has the leaf first and each issuer behind what it signed.
pub trait KnownChains {
    /// What tells a chain from all others.
    type Key;

    /// The key of a chain, unless OpenSSL fails.
    fn key(chain: &StackRef<X509>) -> Option<Self::Key>;

    /// Whether it was learnt before.
    fn knows(key: &Self::Key) -> bool;

    /// Each certificate of the chain was signed by the next one, and may have been.
    fn learn(key: Self::Key);
}

/// Has the signatures of a chain to this store be checked when `K` does not know it, and not again.
/// All else that makes a chain good is looked at each time: dates, purposes, depth, revocation,
/// security level, names.
///
/// `X509_STORE_set_verify(3)`: replaces the last step of a verification, which checks signatures and
/// dates of the chain that was built, and calls the verification callback once for each certificate,
/// from the root on. OpenSSL's own step does it where anything is out of the ordinary.
///
/// # Errors
/// OpenSSL's own: out of memory.
pub fn remember_chains<K: KnownChains>(store: &mut X509StoreBuilderRef) -> Result<(), ErrorStack> {
    unsafe extern "C" fn verify<K: KnownChains>(ctx: *mut ffi::X509_STORE_CTX) -> c_int {
        let Ok(own) = own_verify() else {
            return 0;
        };
        // SAFETY: libcrypto passes a live context, whose chain was built, and does not touch it
        // meanwhile.
        let key = unsafe { X509StoreContextRef::from_ptr(ctx).chain() }.and_then(K::key);
        if key.as_ref().is_some_and(K::knows) {
            // SAFETY: as above.
            if let Some(told) = unsafe { tell_of_known(ctx) } {
                return told;
            }
        }
        // SAFETY: as above; libcrypto's own function takes what it passes to this one.
        let verified = unsafe { own(ctx) };
        // SAFETY: as above.
        let error = unsafe { X509StoreContextRef::from_ptr(ctx).error() };
        if let Some(key) = key
            && verified == 1
            && error == X509VerifyResult::OK
        {
            K::learn(key);
        }
        verified
    }
    own_verify()?;
    // SAFETY: `store` is live and exclusively borrowed; the function lives for ever.
    unsafe { c::X509_STORE_set_verify(store.as_ptr(), verify::<K>) };
    Ok(())
}

type Verify = unsafe extern "C" fn(*mut ffi::X509_STORE_CTX) -> c_int;

/// libcrypto's own last step of a verification: that of a context that has no store.
fn own_verify() -> Result<Verify, ErrorStack> {
    static OWN: OnceLock<Verify> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(*own);
    }
    let ctx = X509StoreContext::new()?;
    let null = ptr::null_mut();
    // SAFETY: `X509_STORE_CTX_init(3)`: all that is null here may be; the context is live.
    let own = unsafe {
        succeeded(ffi::X509_STORE_CTX_init(
            ctx.as_ptr(),
            null,
            ptr::null_mut(),
            ptr::null_mut(),
        ))?;
        c::X509_STORE_CTX_get_verify(ctx.as_ptr())
    };
    own.map(|own| *OWN.get_or_init(|| own))
        .ok_or_else(ErrorStack::get)
}

/// What libcrypto's own step does with a chain whose signatures are good: `None` where one of its
/// certificates is out of its dates, or where the dates are to be judged otherwise.
///
/// # Safety
/// `ctx` is live, and its chain was built.
unsafe fn tell_of_known(ctx: *mut ffi::X509_STORE_CTX) -> Option<c_int> {
    // SAFETY: the caller's; all that is had from the context is its own and live as long. The
    // callback is one that takes what it is passed here.
    unsafe {
        let param = c::X509_STORE_CTX_get0_param(ctx);
        if ffi::X509_VERIFY_PARAM_get_flags(param) & OTHER_CHECKS != 0 {
            return None;
        }
        let chain = X509StoreContextRef::from_ptr(ctx).chain()?;
        let is_in_its_dates = |certificate: &X509Ref| {
            c::X509_cmp_current_time(certificate.not_before().as_ptr()) < 0
                && c::X509_cmp_current_time(certificate.not_after().as_ptr()) > 0
        };
        if !chain.iter().all(is_in_its_dates) {
            return None;
        }
        let call = c::X509_STORE_CTX_get_verify_cb(ctx)?;
        for (depth, certificate) in chain.iter().enumerate().rev() {
            c::X509_STORE_CTX_set_error_depth(ctx, depth as c_int);
            ffi::X509_STORE_CTX_set_current_cert(ctx, certificate.as_ptr());
            if call(1, ctx) == 0 {
                return Some(0);
            }
        }
    }
    Some(1)
}

/// The value of the first extension of this kind that a revocation list has, DER.
///
/// `X509_CRL_get_ext_by_NID(3)`: gives its place, negative where there is none; all that the calls
/// give is the list's own.
#[must_use]
pub fn crl_extension(crl: &X509CrlRef, kind: Nid) -> Option<&[u8]> {
    // SAFETY: `crl` is live; the calls read it, and each is asked only with what the one before
    // gave. The bytes change only with the list, which is borrowed for as long as they are.
    unsafe {
        let place = ffi::X509_CRL_get_ext_by_NID(crl.as_ptr(), kind.as_raw(), -1);
        if place < 0 {
            return None;
        }
        let value = ffi::X509_EXTENSION_get_data(ffi::X509_CRL_get_ext(crl.as_ptr(), place));
        let (data, len) = (
            ffi::ASN1_STRING_get0_data(value.cast()),
            ffi::ASN1_STRING_length(value.cast()),
        );
        match usize::try_from(len) {
            Ok(len) if len > 0 && !data.is_null() => Some(std::slice::from_raw_parts(data, len)),
            _ => Some(&[]),
        }
    }
}

/// What a chain is judged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A TLS client's chain, judged by a server.
    Client,
    /// A TLS server's chain, judged by a client.
    Server,
}

/// Sets purpose, depth and security level of a verification that is about to run.
///
/// `X509_STORE_CTX_set_default(3)`, `X509_VERIFY_PARAM_set_depth(3)`. Depth counts intermediates.
/// Without a level, keys and signatures pass here that a handshake refuses
/// (`X509_VERIFY_PARAM_set_auth_level(3)`).
///
/// # Errors
/// OpenSSL's own, when the named parameters do not exist.
pub fn prepare_verification(
    ctx: &mut X509StoreContextRef,
    purpose: Purpose,
    depth: u32,
    level: u32,
) -> Result<(), ErrorStack> {
    let name = match purpose {
        Purpose::Client => c"ssl_client",
        Purpose::Server => c"ssl_server",
    };
    // SAFETY: `ctx` is a live, initialised X509_STORE_CTX; `name` is a C string; the parameter
    // pointer is owned by `ctx` and used before anything else touches it.
    unsafe {
        if c::X509_STORE_CTX_set_default(ctx.as_ptr(), name.as_ptr()) != 1 {
            return Err(ErrorStack::get());
        }
        let param = c::X509_STORE_CTX_get0_param(ctx.as_ptr());
        if param.is_null() {
            return Err(ErrorStack::get());
        }
        ffi::X509_VERIFY_PARAM_set_depth(param, c_int::try_from(depth).unwrap_or(c_int::MAX));
        c::X509_VERIFY_PARAM_set_auth_level(param, c_int::try_from(level).unwrap_or(c_int::MAX));
    }
    Ok(())
}

/// The verification result with OpenSSL's number `code`.
///
/// `X509_verify_cert_error_string(3)` lists them.
#[must_use]
pub fn verify_result(code: c_int) -> X509VerifyResult {
    // SAFETY: the type is a plain number; any value is a valid one.
    unsafe { X509VerifyResult::from_raw(code) }
}

/// Whether a server of TLS 1.3 sent its flight of the handshake and has read nothing of its client's:
/// after that it has session tickets to send (RFC 8446 §2), or an alert.
///
/// `SSL_get_state(3)`, which is the same behind a HelloRetryRequest; `SSL_get_finished(3)`, whose
/// length is 0 until our Finished was sent.
#[must_use]
pub fn is_between_flights(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is a live SSL, which is only read.
    let state = unsafe { c::SSL_get_state(ssl.as_ptr()) };
    state == BETWEEN_FLIGHTS && ssl.finished(&mut []) > 0
}

/// Marks a connection as properly closed, so that dropping it keeps its session resumable.
///
/// `SSL_set_shutdown(3)`: without a sent close_notify libssl declares the session not resumable.
pub fn mark_shut_down<S>(stream: &mut SslStream<S>) {
    // SAFETY: the stream is exclusively borrowed, so nothing else uses its live SSL.
    unsafe { ffi::SSL_set_shutdown(stream.ssl().as_ptr(), SSL_SHUTDOWN_BOTH) };
}

/// Whether the peer has said that it sends no more, by close_notify or a fatal alert.
///
/// `SSL_get_shutdown(3)`. The crate has it for its own stream only, which the bridge does not lend.
#[must_use]
pub fn has_received_shutdown(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is a live SSL; the call reads it.
    let state = unsafe { ffi::SSL_get_shutdown(ssl.as_ptr()) };
    state & ffi::SSL_RECEIVED_SHUTDOWN != 0
}

/// Offers `session` for resumption on a connection that has not begun its handshake.
///
/// `SSL_set_session(3)`: takes its own reference. The caller guarantees by construction that the
/// session came from a context with the same method.
///
/// # Errors
/// OpenSSL's own, when the session does not fit the method.
pub fn offer_session(ssl: &mut SslRef, session: &SslSessionRef) -> Result<(), ErrorStack> {
    // SAFETY: both are live; the call takes its own reference of the session. A session of
    // another method is refused by libssl with an error.
    let rc = unsafe { ffi::SSL_set_session(ssl.as_ptr(), session.as_ptr()) };
    if rc == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// Calls `present` on every connection of `ctx` that may need a certificate of its own: on a client's
/// when its server asks for one, on a server's in a handshake that resumes no session.
///
/// `SSL_CTX_set_cert_cb(3)`: on a client libssl calls it when a CertificateRequest arrived, on a
/// server when the ClientHello was processed; 0 ends the handshake with an alert, 1 goes on.
/// `present` must not panic; it is a plain function, so it owns nothing.
pub fn on_certificate_needed(
    ctx: &mut SslContextBuilder,
    present: fn(&mut SslRef) -> Result<(), ErrorStack>,
) {
    unsafe extern "C" fn call(ssl: *mut ffi::SSL, arg: *mut c_void) -> c_int {
        // SAFETY: `arg` is the function pointer given below, never null; libssl passes the live
        // SSL that it is processing and does not touch it meanwhile.
        let presented = unsafe {
            let present: fn(&mut SslRef) -> Result<(), ErrorStack> = std::mem::transmute(arg);
            present(SslRef::from_ptr_mut(ssl))
        };
        c_int::from(presented.is_ok())
    }
    // SAFETY: `ctx` is a live SSL_CTX; a function pointer is as wide as a data pointer on every
    // platform OpenSSL supports, and `call` turns it back.
    unsafe { c::SSL_CTX_set_cert_cb(ctx.as_ptr(), Some(call), present as *mut c_void) };
}

/// Calls `seen` with the type of every handshake message that a connection of `ctx` receives
/// (RFC 8446 §4).
///
/// `SSL_CTX_set_msg_callback(3)`: libssl calls it for all messages, and for the parts of records.
/// `seen` must not panic; it is a plain function, so it owns nothing.
pub fn on_handshake_message(ctx: &mut SslContextBuilder, seen: fn(&SslRef, u8)) {
    unsafe extern "C" fn call(
        is_sent: c_int,
        _version: c_int,
        content: c_int,
        bytes: *const c_void,
        len: usize,
        ssl: *mut ffi::SSL,
        arg: *mut c_void,
    ) {
        if is_sent != 0 || content != HANDSHAKE || len == 0 || bytes.is_null() || ssl.is_null() {
            return;
        }
        // SAFETY: the message has `len` bytes, at least one; `arg` is the function pointer given
        // below, never null; libssl passes the live SSL that it is processing.
        unsafe {
            let kind = *bytes.cast::<u8>();
            let seen: fn(&SslRef, u8) = std::mem::transmute(arg);
            seen(SslRef::from_ptr(ssl), kind);
        }
    }
    // SAFETY: `ctx` is a live SSL_CTX; `SSL_CTX_set_msg_callback_arg(3)` is this command. A function
    // pointer is as wide as a data pointer on every platform OpenSSL supports, and `call` turns it
    // back.
    unsafe {
        c::SSL_CTX_set_msg_callback(ctx.as_ptr(), Some(call));
        ffi::SSL_CTX_ctrl(
            ctx.as_ptr(),
            SSL_CTRL_SET_MSG_CALLBACK_ARG,
            0,
            seen as *mut c_void,
        );
    }
}

/// The MAC of one session ticket, before it is computed.
#[derive(Debug)]
pub struct TicketMac(*mut ffi::EVP_MAC_CTX);

impl TicketMac {
    /// Makes it HMAC-SHA256 with this key.
    ///
    /// `EVP_MAC_init(3)`: returns 1 on success, and keeps neither key nor parameters.
    ///
    /// # Errors
    /// OpenSSL's own, when no provider offers it.
    pub fn set_hmac_sha256(&mut self, key: &[u8]) -> Result<(), ErrorStack> {
        let digest = c"SHA2-256".as_ptr().cast_mut();
        // SAFETY: both names are C strings that live for ever, and libcrypto only reads the value;
        // a size of 0 has it measure the value.
        let digest = unsafe { c::OSSL_PARAM_construct_utf8_string(c"digest".as_ptr(), digest, 0) };
        // SAFETY: the call makes a value from nothing.
        let params = [digest, unsafe { ffi::OSSL_PARAM_construct_end() }];
        // SAFETY: the context is live for as long as this value, which `seal_tickets` lends out
        // within libssl's call; key and parameters are valid for this one.
        let rc = unsafe { ffi::EVP_MAC_init(self.0, key.as_ptr(), key.len(), params.as_ptr()) };
        succeeded(rc)
    }
}

/// What libssl is told of a ticket that a client brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// Its key is known.
    Good,
    /// Its key is known and going out of use: the client gets another ticket.
    Renew,
    /// Its key is unknown: a full handshake, and another ticket.
    Unknown,
}

/// Seals and opens session tickets; libssl asks through [`seal_tickets`].
///
/// No function may panic. Each is called for connections of the context that the tickets are of.
pub trait TicketKeys {
    /// A ticket is to be made: fills in the key's name and the IV, and sets cipher and MAC up.
    /// `false`: the client gets none, which libssl can do with TLS 1.3 from 3.0.6 on.
    ///
    /// # Errors
    /// OpenSSL's own; the handshake ends.
    fn seal(
        ssl: &SslRef,
        name: &mut [u8; 16],
        iv: &mut [u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut TicketMac,
    ) -> Result<bool, ErrorStack>;

    /// A ticket under the key of this name is to be opened: sets cipher and MAC up, unless the key
    /// is unknown.
    ///
    /// # Errors
    /// OpenSSL's own; the handshake ends.
    fn open(
        ssl: &SslRef,
        name: &[u8; 16],
        iv: &[u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut TicketMac,
    ) -> Result<Ticket, ErrorStack>;
}

/// Decides what goes into session tickets besides, and which are good; libssl asks through
/// [`fill_tickets`].
///
/// No function may panic. Each is called for connections of the context that the tickets are of.
pub trait TicketContents {
    /// A ticket is about to be made of the connection's session, a stateless one or, with TLS 1.3,
    /// a handle to the session cache: what goes with it is attached now ([`attach_to_ticket`]).
    /// `life` is what [`fill_tickets`] was given.
    ///
    /// # Errors
    /// OpenSSL's own; the handshake ends.
    fn attach(ssl: &mut SslRef, life: u32) -> Result<(), ErrorStack>;

    /// Whether a session that came in a stateless ticket is to be resumed; else there is a full
    /// handshake.
    fn admit(session: &SslSessionRef) -> bool;
}

/// Has the session tickets of a context's connections sealed and opened by `K`.
///
/// `SSL_CTX_set_tlsext_ticket_key_evp_cb(3)`: asked with 1 to seal and 0 to open, the answer is
/// negative on failure, 0 for no ticket or an unknown key, 1, or 2 to renew. Returns 1.
///
/// # Errors
/// OpenSSL's own.
pub fn seal_tickets<K: TicketKeys>(ctx: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    unsafe extern "C" fn key<K: TicketKeys>(
        ssl: *mut ffi::SSL,
        name: *mut u8,
        iv: *mut u8,
        cipher: *mut ffi::EVP_CIPHER_CTX,
        mac: *mut ffi::EVP_MAC_CTX,
        seals: c_int,
    ) -> c_int {
        // SAFETY: libssl passes live objects that it does not touch meanwhile, room for a name of
        // 16 bytes and, as EVP_MAX_IV_LENGTH is, for an IV of 16; when a ticket is opened both are
        // the client's, which are at least as long, and are only read.
        let (ssl, cipher) = unsafe { (SslRef::from_ptr(ssl), CipherCtxRef::from_ptr_mut(cipher)) };
        let mut mac = TicketMac(mac);
        let answer = if seals == 1 {
            // SAFETY: as above; to be written, and borrowed by nobody else.
            let (name, iv) = unsafe { (&mut *name.cast(), &mut *iv.cast()) };
            K::seal(ssl, name, iv, cipher, &mut mac).map(|is_made| match is_made {
                true => Ticket::Good,
                false => Ticket::Unknown,
            })
        } else {
            // SAFETY: as above; to be read.
            let (name, iv) = unsafe { (&*name.cast(), &*iv.cast()) };
            K::open(ssl, name, iv, cipher, &mut mac)
        };
        match answer {
            Ok(Ticket::Unknown) => 0,
            Ok(Ticket::Good) => 1,
            Ok(Ticket::Renew) => 2,
            Err(_) => -1,
        }
    }
    // SAFETY: `ctx` is a live SSL_CTX, exclusively borrowed; the function lives for ever.
    let rc = unsafe { c::SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx.as_ptr(), Some(key::<K>)) };
    succeeded(rc)
}

/// Has `C` fill the session tickets of a context's connections, and judge those that come back;
/// `life` is handed to it.
///
/// `SSL_CTX_set_session_ticket_cb(3)`: asked before a ticket is made, and with what an opened one
/// held; the argument is the number itself, which points to nothing. Returns 1.
///
/// # Errors
/// OpenSSL's own.
pub fn fill_tickets<C: TicketContents>(
    ctx: &mut SslContextBuilder,
    life: u32,
) -> Result<(), ErrorStack> {
    unsafe extern "C" fn generate<C: TicketContents>(
        ssl: *mut ffi::SSL,
        life: *mut c_void,
    ) -> c_int {
        // SAFETY: libssl passes the live SSL that it is processing and does not touch it meanwhile.
        let ssl = unsafe { SslRef::from_ptr_mut(ssl) };
        c_int::from(C::attach(ssl, life.addr() as u32).is_ok())
    }
    unsafe extern "C" fn decrypted<C: TicketContents>(
        _ssl: *mut ffi::SSL,
        session: *mut ffi::SSL_SESSION,
        _name: *const u8,
        _name_len: usize,
        status: c_int,
        _arg: *mut c_void,
    ) -> c_int {
        if session.is_null() || !matches!(status, TICKET_SUCCESS | TICKET_SUCCESS_RENEW) {
            return TICKET_RETURN_IGNORE_RENEW;
        }
        // SAFETY: with these two states libssl passes the session that it just made of the ticket.
        let session = unsafe { SslSessionRef::from_ptr(session) };
        match (C::admit(session), status) {
            (false, _) => TICKET_RETURN_IGNORE_RENEW,
            (true, TICKET_SUCCESS) => TICKET_RETURN_USE,
            (true, _) => TICKET_RETURN_USE_RENEW,
        }
    }
    // SAFETY: `ctx` is a live SSL_CTX, exclusively borrowed; the functions live for ever.
    let rc = unsafe {
        c::SSL_CTX_set_session_ticket_cb(
            ctx.as_ptr(),
            Some(generate::<C>),
            Some(decrypted::<C>),
            ptr::without_provenance_mut(life as usize),
        )
    };
    succeeded(rc)
}

/// Attaches bytes to the session of a connection, for the ticket that is about to be made of it.
///
/// `SSL_SESSION_set1_ticket_appdata(3)`: copies them, and returns 1 on success.
///
/// # Errors
/// OpenSSL's own: there is no session, or no memory.
pub fn attach_to_ticket(ssl: &mut SslRef, bytes: &[u8]) -> Result<(), ErrorStack> {
    // SAFETY: `ssl` is a live SSL, exclusively borrowed; its session is live, or null, which the
    // next call refuses; the bytes are valid for it.
    let rc = unsafe {
        let session = ffi::SSL_get_session(ssl.as_ptr());
        if session.is_null() {
            return Err(ErrorStack::get());
        }
        c::SSL_SESSION_set1_ticket_appdata(session, bytes.as_ptr().cast(), bytes.len())
    };
    succeeded(rc)
}

/// What was attached to the ticket that a session came from; empty when nothing was.
///
/// `SSL_SESSION_get0_ticket_appdata(3)`: the bytes are the session's.
#[must_use]
pub fn attached_to_ticket(session: &SslSessionRef) -> &[u8] {
    let (mut data, mut len) = (ptr::null_mut::<c_void>(), 0_usize);
    // SAFETY: `session` is live; the call reads it and writes the two, which are valid for it.
    let rc = unsafe {
        c::SSL_SESSION_get0_ticket_appdata(session.as_ptr(), &raw mut data, &raw mut len)
    };
    if rc != 1 || data.is_null() {
        return &[];
    }
    // SAFETY: libssl wrote where its bytes are and how many; they change only with the session,
    // which is borrowed for as long as they are.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

/// When a session was made, epoch seconds. With TLS 1.3 libssl makes a session anew for each ticket.
///
/// `SSL_SESSION_get_time(3)`.
#[must_use]
pub fn session_time(session: &SslSessionRef) -> i64 {
    // SAFETY: `session` is live; the call reads it.
    unsafe { ffi::SSL_SESSION_get_time(session.as_ptr()) }
}

/// Sets how long the session of a connection may be resumed from when it was made, in seconds.
///
/// `SSL_SESSION_set_timeout(3)`: returns 1 on success; takes the lock of the cache that the session
/// is in, if any.
///
/// # Errors
/// OpenSSL's own: there is no session.
pub fn limit_session(ssl: &mut SslRef, seconds: u32) -> Result<(), ErrorStack> {
    // SAFETY: `ssl` is a live SSL, exclusively borrowed; its session is live, or null, for which
    // the second call returns 0.
    let rc = unsafe {
        let session = ffi::SSL_get_session(ssl.as_ptr());
        c::SSL_SESSION_set_timeout(session, c_long::from(seconds))
    };
    if rc == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// A distinguished name in RFC 2253 form, as nginx's `$ssl_client_s_dn` shows it.
///
/// `X509_NAME_print_ex(3)` with `XN_FLAG_RFC2253` into a memory BIO that is freed here. Empty when
/// libcrypto cannot print it.
#[must_use]
pub fn name_rfc2253(name: &X509NameRef) -> String {
    // SAFETY: the BIO is owned here and freed once; the name is live; the data pointer belongs to
    // the BIO and is copied before the BIO is freed.
    unsafe {
        let bio = ffi::BIO_new(ffi::BIO_s_mem());
        if bio.is_null() {
            return String::new();
        }
        c::X509_NAME_print_ex(bio, name.as_ptr(), 0, XN_FLAG_RFC2253);
        let mut data: *mut c_char = ptr::null_mut();
        let len = ffi::BIO_get_mem_data(bio, &raw mut data);
        let text = match usize::try_from(len) {
            Ok(len) if len > 0 && !data.is_null() => {
                String::from_utf8_lossy(std::slice::from_raw_parts(data.cast::<u8>(), len))
                    .into_owned()
            }
            _ => String::new(),
        };
        ffi::BIO_free_all(bio);
        text
    }
}

/// Adds an intermediate to the certificate that was set last, so that each of several
/// certificates keeps its own chain.
///
/// `SSL_CTX_add1_chain_cert(3)`: takes its own reference.
///
/// # Errors
/// OpenSSL's own: an intermediate that is too weak for the security level, for instance.
pub fn add_chain_certificate(
    ctx: &mut SslContextBuilder,
    certificate: &X509Ref,
) -> Result<(), ErrorStack> {
    // SAFETY: both are live; with the third argument 1 libssl takes its own reference.
    let rc = unsafe {
        ffi::SSL_CTX_ctrl(
            ctx.as_ptr(),
            ffi::SSL_CTRL_CHAIN_CERT,
            1,
            certificate.as_ptr().cast::<c_void>(),
        )
    };
    if rc == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// Makes libcrypto ignore every configuration file it would read by itself, for good.
///
/// `OPENSSL_init_crypto(3)` with `OPENSSL_INIT_NO_LOAD_CONFIG`: has this effect only as the first
/// OpenSSL call of the process, because the automatic load happens once. Returns 1 on success.
///
/// # Errors
/// OpenSSL's own, when libcrypto cannot initialise.
pub fn ignore_config_files() -> Result<(), ErrorStack> {
    // SAFETY: the call takes flags and an optional settings object, which is null.
    let rc = unsafe { c::OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, ptr::null()) };
    succeeded(rc)
}

/// Loads one configuration file into the default library context.
///
/// `OSSL_LIB_CTX_load_config(3)`. Success says only that the file was read: a provider that the
/// file activates and that does not come up is no failure to libcrypto. The path is only read.
///
/// # Errors
/// OpenSSL's own, when the file is unreadable or, under `config_diagnostics`, malformed.
pub fn load_config(file: &CStr) -> Result<(), ErrorStack> {
    // SAFETY: a null context means the default one; `file` is a C string, read during the call.
    let rc = unsafe { c::OSSL_LIB_CTX_load_config(ptr::null_mut(), file.as_ptr()) };
    succeeded(rc)
}

/// Reads a configuration file into `conf`, with what it includes; nothing of it takes effect.
/// `NCONF_load(3)`.
///
/// # Errors
/// OpenSSL's own, of a file that is not there or is no configuration.
pub fn read_conf(conf: &mut ConfRef, file: &CStr) -> Result<(), ErrorStack> {
    // SAFETY: `conf` is borrowed alone and `file` is a C string, both for the call; the line of an
    // error is not asked for.
    let rc = unsafe { c::NCONF_load(conf.as_ptr(), file.as_ptr(), ptr::null_mut()) };
    succeeded(rc)
}

/// The names and values of a configuration's section, in their order; none where there is no such
/// section. What is not UTF-8 has its place taken. `NCONF_get_section(3)`, `CONF_VALUE` of `conf.h`.
#[must_use]
pub fn conf_section(conf: &ConfRef, section: &CStr) -> Vec<(String, String)> {
    // SAFETY: both are borrowed for the call; the stack stays the configuration's.
    let stack = unsafe { c::NCONF_get_section(conf.as_ptr(), section.as_ptr()) };
    if stack.is_null() {
        return Vec::new();
    }
    // SAFETY: the stack is not null and lives as long as `conf`, which nobody changes meanwhile.
    let count = unsafe { ffi::OPENSSL_sk_num(stack) };
    let text = |text: *const c_char| {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: names and values of a configuration are C strings that it owns; copied at once.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    };
    let entry = |index| {
        // SAFETY: the index is below the count of a stack whose elements are all `CONF_VALUE`.
        let entry = unsafe { ffi::OPENSSL_sk_value(stack, index) }.cast::<c::ConfValue>();
        // SAFETY: null, or an element that the configuration owns.
        let entry = unsafe { entry.as_ref() }?;
        Some((text(entry.name), text(entry.value)))
    };
    (0..count).filter_map(entry).collect()
}

/// What a provider offers of which a part may be chosen: `OSSL_OP_…` of `core_dispatch.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Ciphers.
    Cipher = 2,
    /// Kinds of keys.
    Keys = 10,
    /// The forms that keys are read from.
    Decoder = 21,
}

/// A part of what the default provider offers, as a provider of its own.
struct Part {
    whole: *mut ffi::OSSL_PROVIDER,
    chosen: Vec<(Offered, Vec<c::Algorithm>)>,
}

// SAFETY: providers may be used by all threads at once, and this one is never unloaded; its tables
// of algorithms are constants of libcrypto.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

static PART: OnceLock<Part> = OnceLock::new();

impl Part {
    /// The default provider, in a library context of its own that lasts as long as the process, and
    /// what `keeps` takes of it.
    fn choose(keeps: fn(Offered, &CStr, &CStr) -> bool) -> Result<Self, ErrorStack> {
        let library = LibCtx::new()?;
        let whole = Provider::load(Some(&library), "default")?;
        let all = [Offered::Cipher, Offered::Keys, Offered::Decoder];
        let chosen = all.map(|offered| {
            let mut chosen = Vec::new();
            let mut no_cache = 0;
            // SAFETY: the provider is live. What it answers is null or a table that ends with an
            // entry without names, which it keeps for as long as it is loaded.
            let mut next = unsafe {
                let operation = offered as c_int;
                c::OSSL_PROVIDER_query_operation(whole.as_ptr(), operation, &raw mut no_cache)
            };
            // SAFETY: null, or an entry of that table; names and properties are C strings.
            while let Some(algorithm) = unsafe { next.as_ref() }
                && !algorithm.names.is_null()
            {
                // SAFETY: as above; what has names has properties.
                let (names, properties) = unsafe {
                    let properties = CStr::from_ptr(algorithm.properties);
                    (CStr::from_ptr(algorithm.names), properties)
                };
                if keeps(offered, names, properties) {
                    chosen.push(*algorithm);
                }
                // SAFETY: this was not the last entry.
                next = unsafe { next.add(1) };
            }
            chosen.push(c::Algorithm {
                names: ptr::null(),
                properties: ptr::null(),
                implementation: ptr::null(),
                description: ptr::null(),
            });
            (offered, chosen)
        });
        let part = Self {
            whole: whole.as_ptr(),
            chosen: chosen.into(),
        };
        std::mem::forget((whole, library));
        Ok(part)
    }
}

/// The name of a part of the default provider, as OpenSSL knows it: `default` is taken.
const PART_NAME: &CStr = c"portcullis";

/// Loads a part of the default provider: of [`Offered`] what `keeps`
/// takes, by an algorithm's names and properties, and all else. The first caller chooses for the
/// process. A null library is the default context, which then loads no provider by itself.
///
/// `OSSL_PROVIDER_add_builtin(3)`, `provider-base(7)`, `OSSL_PROVIDER_query_operation(3)`. The
/// algorithms are the default provider's, and get its context: it lives in a library context of its
/// own, and neither is ever freed. Returns 1 on success.
///
/// # Errors
/// OpenSSL's own.
pub fn load_part(
    library: Option<&LibCtxRef>,
    keeps: fn(Offered, &CStr, &CStr) -> bool,
) -> Result<Provider, ErrorStack> {
    unsafe extern "C" fn begin(
        _core: *const c_void,
        _offered_by_core: *const c::Dispatch,
        functions: *mut *const c::Dispatch,
        context: *mut *mut c_void,
    ) -> c_int {
        let Some(part) = PART.get() else {
            return 0;
        };
        // SAFETY: libcrypto passes two places to be filled; the functions are a constant, and the
        // context is the whole provider's, which is never unloaded.
        unsafe {
            *functions = FUNCTIONS.as_ptr();
            *context = c::OSSL_PROVIDER_get0_provider_ctx(part.whole);
        }
        1
    }
    if PART.get().is_none() {
        let part = Part::choose(keeps)?;
        // Another thread's choice is as good.
        let _ = PART.set(part);
    }
    let library_ptr = library.map_or(ptr::null_mut(), LibCtxRef::as_ptr);
    // SAFETY: null or a live context; the name is a C string, which is copied.
    succeeded(unsafe { c::OSSL_PROVIDER_add_builtin(library_ptr, PART_NAME.as_ptr(), begin) })?;
    Provider::load(library, &PART_NAME.to_string_lossy())
}

/// What libcrypto calls of a [`Part`]: `OSSL_FUNC_PROVIDER_…` of `core_dispatch.h`.
static FUNCTIONS: [c::Dispatch; 4] = {
    unsafe extern "C" fn tell(_context: *mut c_void, params: *mut ffi::OSSL_PARAM) -> c_int {
        let Some(part) = PART.get() else {
            return 0;
        };
        // SAFETY: the whole provider is live; the parameters are passed on as they came.
        unsafe { c::OSSL_PROVIDER_get_params(part.whole, params) }
    }
    unsafe extern "C" fn query(
        _context: *mut c_void,
        operation: c_int,
        no_cache: *mut c_int,
    ) -> *const c::Algorithm {
        let Some(part) = PART.get() else {
            return ptr::null();
        };
        // SAFETY: the whole provider is live; it fills what libcrypto passed to be filled.
        let whole = unsafe { c::OSSL_PROVIDER_query_operation(part.whole, operation, no_cache) };
        let mut chosen = part.chosen.iter();
        let chosen = chosen.find(|(offered, _)| *offered as c_int == operation);
        chosen.map_or(whole, |(_, algorithms)| algorithms.as_ptr())
    }
    unsafe extern "C" fn list(
        _context: *mut c_void,
        capability: *const c_char,
        told: Option<c::Told>,
        arg: *mut c_void,
    ) -> c_int {
        let Some(part) = PART.get() else {
            return 0;
        };
        // SAFETY: the whole provider is live; what libcrypto passes is passed on.
        unsafe { c::OSSL_PROVIDER_get_capabilities(part.whole, capability, told, arg) }
    }
    type Plain = unsafe extern "C" fn();
    type Tell = unsafe extern "C" fn(*mut c_void, *mut ffi::OSSL_PARAM) -> c_int;
    type Query = unsafe extern "C" fn(*mut c_void, c_int, *mut c_int) -> *const c::Algorithm;
    type List =
        unsafe extern "C" fn(*mut c_void, *const c_char, Option<c::Told>, *mut c_void) -> c_int;
    // SAFETY: libcrypto calls each by its number as what it is (`provider-base(7)`).
    let [tell, query, list] = unsafe {
        [
            std::mem::transmute::<Tell, Plain>(tell),
            std::mem::transmute::<Query, Plain>(query),
            std::mem::transmute::<List, Plain>(list),
        ]
    };
    [
        c::Dispatch {
            function_id: 1026,
            function: Some(tell),
        },
        c::Dispatch {
            function_id: 1027,
            function: Some(query),
        },
        c::Dispatch {
            function_id: 1030,
            function: Some(list),
        },
        c::Dispatch {
            function_id: 0,
            function: None,
        },
    ]
};

/// The names of all active providers of the default library context, in libcrypto's order.
///
/// `OSSL_PROVIDER_do_all(3)`. Activates the default provider when no provider was asked for yet,
/// so it must not be called before the FIPS start has loaded its own. Returns 1 on success.
///
/// # Errors
/// OpenSSL's own, when the enumeration is interrupted.
pub fn provider_names() -> Result<Vec<String>, ErrorStack> {
    unsafe extern "C" fn collect(provider: *mut ffi::OSSL_PROVIDER, arg: *mut c_void) -> c_int {
        // SAFETY: `arg` is the vector below, which nothing else touches during the call;
        // `provider` is live while the callback runs.
        unsafe {
            let names: &mut Vec<String> = &mut *arg.cast();
            names.extend(provider_name(provider));
        }
        1
    }
    let mut names: Vec<String> = Vec::new();
    // SAFETY: a null context means the default one; the vector outlives the call.
    let rc = unsafe {
        c::OSSL_PROVIDER_do_all(ptr::null_mut(), collect, (&raw mut names).cast::<c_void>())
    };
    succeeded(rc).map(|()| names)
}

/// A text that a provider tells about itself, such as `version`; `None` when it has no such one.
///
/// `OSSL_PROVIDER_get_params(3)`, `OSSL_PARAM_construct_utf8_ptr(3)`. The text is the provider's
/// and is copied. Returns 1 on success, also when the provider does not know the parameter.
#[must_use]
pub fn provider_text(provider: &ProviderRef, key: &CStr) -> Option<String> {
    let mut value: *mut c_char = ptr::null_mut();
    // SAFETY: `key` and `value` outlive `params`; the array ends with the end marker; `provider`
    // is live. libcrypto stores a pointer to memory that the provider owns while it is loaded.
    let rc = unsafe {
        let mut params = [
            c::OSSL_PARAM_construct_utf8_ptr(key.as_ptr(), &raw mut value, 0),
            ffi::OSSL_PARAM_construct_end(),
        ];
        c::OSSL_PROVIDER_get_params(provider.as_ptr(), params.as_mut_ptr())
    };
    if succeeded(rc).is_err() || value.is_null() {
        return None;
    }
    // SAFETY: libcrypto set `value` to a C string of the provider; it is copied here.
    Some(
        unsafe { CStr::from_ptr(value) }
            .to_string_lossy()
            .into_owned(),
    )
}

/// A number that a provider tells about itself, such as `status`; `None` when it has no such one.
///
/// `OSSL_PROVIDER_get_params(3)`, `OSSL_PARAM_modified(3)`.
#[must_use]
pub fn provider_number(provider: &ProviderRef, key: &CStr) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: `key` and `value` outlive `params`; the array ends with the end marker; `provider`
    // is live; `u32` is C's unsigned int on every platform of OpenSSL.
    let (rc, is_set) = unsafe {
        let mut params = [
            ffi::OSSL_PARAM_construct_uint(key.as_ptr(), &raw mut value),
            ffi::OSSL_PARAM_construct_end(),
        ];
        let rc = c::OSSL_PROVIDER_get_params(provider.as_ptr(), params.as_mut_ptr());
        (rc, ffi::OSSL_PARAM_modified(params.as_ptr()) == 1)
    };
    (succeeded(rc).is_ok() && is_set).then_some(value)
}

/// Runs a provider's self-tests again.
///
/// `OSSL_PROVIDER_self_test(3)`: 1 when they pass. A FIPS module that fails them enters its error
/// state and refuses all further work.
///
/// # Errors
/// The module's own reason, when a test fails.
pub fn provider_self_test(provider: &ProviderRef) -> Result<(), ErrorStack> {
    // SAFETY: `provider` is a live, loaded provider; the call may run on any thread.
    let rc = unsafe { c::OSSL_PROVIDER_self_test(provider.as_ptr()) };
    succeeded(rc)
}

/// Whether `fips=yes` is part of the default properties of every fetch.
///
/// `EVP_default_properties_is_fips_enabled(3)`, default library context.
#[must_use]
pub fn is_fips_default() -> bool {
    // SAFETY: a null context means the default one.
    unsafe { ffi::EVP_default_properties_is_fips_enabled(ptr::null_mut()) == 1 }
}

/// Makes `fips=yes` part of the default properties of every later fetch.
///
/// `EVP_default_properties_enable_fips(3)`, default library context. Returns 1 on success.
///
/// # Errors
/// OpenSSL's own, when the properties cannot be set.
pub fn make_fips_default() -> Result<(), ErrorStack> {
    // SAFETY: a null context means the default one.
    let rc = unsafe { ffi::EVP_default_properties_enable_fips(ptr::null_mut(), 1) };
    succeeded(rc)
}

/// The name of an EC key's curve, such as `prime256v1`; `None` for one without a name.
///
/// `EVP_PKEY_get_group_name(3)`: writes a C string of at most the given size, returns 1 on success.
#[must_use]
pub fn group_name<T>(key: &PKeyRef<T>) -> Option<String> {
    let mut name = [0_u8; 64];
    let mut len = 0_usize;
    // SAFETY: `key` is live; at most `name.len()` bytes are written; `len` is valid for the call.
    let rc = unsafe {
        c::EVP_PKEY_get_group_name(
            key.as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
            &raw mut len,
        )
    };
    if succeeded(rc).is_err() {
        return None;
    }
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// Where code of libcrypto and of libssl is in this process: the addresses of a function of each.
#[must_use]
#[expect(
    clippy::as_conversions,
    reason = "nothing else tells where a function is; nothing is called"
)]
pub fn code_addresses() -> [usize; 2] {
    let (libcrypto, libssl) = (
        ffi::ERR_get_error as *const (),
        ffi::SSL_CTX_free as *const (),
    );
    [libcrypto.addr(), libssl.addr()]
}

/// The digest that a certificate was signed with, also where it is a parameter (RSA-PSS); `None`
/// for one that libcrypto does not know, and for signatures without a digest of their own.
///
/// `X509_get_signature_info(3)`: returns 1 when it is known. Fills caches inside the certificate,
/// under libcrypto's own lock.
#[must_use]
pub fn signature_digest(certificate: &X509Ref) -> Option<Nid> {
    let mut digest: c_int = 0;
    // SAFETY: `certificate` is live; `digest` is valid for the call; the others may be null.
    let rc = unsafe {
        c::X509_get_signature_info(
            certificate.as_ptr(),
            &raw mut digest,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    succeeded(rc).ok()?;
    (digest != 0).then(|| Nid::from_raw(digest))
}

/// The name of the provider that holds a key; `None` for a key of the legacy, provider-less kind.
///
/// `EVP_PKEY_get0_provider(3)`.
#[must_use]
pub fn key_provider<T>(key: &PKeyRef<T>) -> Option<String> {
    // SAFETY: `key` is a live EVP_PKEY; the provider is borrowed from it while its name is copied.
    unsafe { provider_name(c::EVP_PKEY_get0_provider(key.as_ptr())) }
}

/// Derives a key from `secret`: the counter mode of NIST SP 800-108 §4.1 with HMAC-SHA256, for
/// `label` and `context`.
///
/// `EVP_KDF-KB(7)`: returns 1 on success, keeps nothing of what it is given. All that is made here
/// is freed here, wiped.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn derive_by_counter(
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    key: &mut [u8],
) -> Result<(), ErrorStack> {
    let octets = |name: &'static CStr, bytes: &[u8]| {
        let (data, len) = (bytes.as_ptr().cast_mut().cast(), bytes.len());
        // SAFETY: the name lives for ever; the parameter is but read, and used while `bytes` lives.
        unsafe { ffi::OSSL_PARAM_construct_octet_string(name.as_ptr(), data, len) }
    };
    let words = |name: &'static CStr, value: &'static CStr| {
        let value = value.as_ptr().cast_mut();
        // SAFETY: both are C strings that live for ever; a size of 0 has the value measured.
        unsafe { c::OSSL_PARAM_construct_utf8_string(name.as_ptr(), value, 0) }
    };
    let params = [
        words(c"mode", c"COUNTER"),
        words(c"mac", c"HMAC"),
        words(c"digest", c"SHA2-256"),
        octets(c"key", secret),
        octets(c"salt", label),
        octets(c"info", context),
        // SAFETY: the call makes a value from nothing.
        unsafe { ffi::OSSL_PARAM_construct_end() },
    ];
    // SAFETY: null context and properties mean the defaults; the derivation is ours, and released
    // when its context has a reference of its own; so is the context, which is freed last; at most
    // `key.len()` bytes are written.
    unsafe {
        let kdf = fetched(ffi::EVP_KDF_fetch(
            ptr::null_mut(),
            c"KBKDF".as_ptr(),
            ptr::null(),
        ))?;
        let ctx = fetched(ffi::EVP_KDF_CTX_new(kdf));
        ffi::EVP_KDF_free(kdf);
        let ctx = ctx?;
        let rc = ffi::EVP_KDF_derive(ctx, key.as_mut_ptr(), key.len(), params.as_ptr());
        let derived = succeeded(rc);
        ffi::EVP_KDF_CTX_free(ctx);
        derived
    }
}

/// The name of the provider that a digest is fetched from.
///
/// `EVP_MD_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn digest_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: null context and properties mean the defaults; the fetched object is ours until
    // it is freed, after its provider's name was copied.
    unsafe {
        let md = fetched(ffi::EVP_MD_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(c::EVP_MD_get0_provider(md));
        ffi::EVP_MD_free(md);
        Ok(provider)
    }
}

/// The name of the provider that a cipher is fetched from.
///
/// `EVP_CIPHER_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn cipher_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: as in `digest_provider`.
    unsafe {
        let cipher = fetched(ffi::EVP_CIPHER_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(c::EVP_CIPHER_get0_provider(cipher));
        ffi::EVP_CIPHER_free(cipher);
        Ok(provider)
    }
}

/// The name of the provider that a MAC is fetched from.
///
/// `EVP_MAC_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn mac_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: as in `digest_provider`.
    unsafe {
        let mac = fetched(ffi::EVP_MAC_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(ffi::EVP_MAC_get0_provider(mac));
        ffi::EVP_MAC_free(mac);
        Ok(provider)
    }
}

/// The name of the provider that a key derivation is fetched from.
///
/// `EVP_KDF_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn kdf_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: as in `digest_provider`.
    unsafe {
        let kdf = fetched(ffi::EVP_KDF_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(c::EVP_KDF_get0_provider(kdf));
        ffi::EVP_KDF_free(kdf);
        Ok(provider)
    }
}

/// The name of the provider that a signature algorithm is fetched from.
///
/// `EVP_SIGNATURE_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn signature_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: as in `digest_provider`.
    unsafe {
        let signature = fetched(ffi::EVP_SIGNATURE_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(c::EVP_SIGNATURE_get0_provider(signature));
        ffi::EVP_SIGNATURE_free(signature);
        Ok(provider)
    }
}

/// The name of the provider that a key exchange is fetched from.
///
/// `EVP_KEYEXCH_fetch(3)`, freed again before the return.
///
/// # Errors
/// OpenSSL's own, when no provider offers it under the default properties.
pub fn key_exchange_provider(name: &CStr) -> Result<Option<String>, ErrorStack> {
    // SAFETY: as in `digest_provider`.
    unsafe {
        let exchange = fetched(c::EVP_KEYEXCH_fetch(
            ptr::null_mut(),
            name.as_ptr(),
            ptr::null(),
        ))?;
        let provider = provider_name(c::EVP_KEYEXCH_get0_provider(exchange));
        c::EVP_KEYEXCH_free(exchange);
        Ok(provider)
    }
}

/// The name of the provider that the process's primary random generator comes from.
///
/// `RAND_get0_primary(3)`, `EVP_RAND_CTX_get0_rand(3)`: both are the library context's own.
///
/// # Errors
/// OpenSSL's own, when the generator cannot be made.
pub fn random_provider() -> Result<Option<String>, ErrorStack> {
    // SAFETY: a null context means the default one; the generator lives as long as it; nothing
    // is owned here.
    unsafe {
        let primary = fetched(c::RAND_get0_primary(ptr::null_mut()))?;
        let rand = fetched(c::EVP_RAND_CTX_get0_rand(primary))?;
        Ok(provider_name(c::EVP_RAND_get0_provider(rand)))
    }
}

/// HMAC-SHA256 of `data`, computed within a library context of its own.
///
/// `EVP_Q_mac(3)`: null on failure. For the one MAC that is needed before the default context may
/// be used; every other goes through [`mac`](super::mac).
///
/// # Errors
/// OpenSSL's own, when no provider of `context` offers HMAC-SHA256.
pub fn hmac_sha256_within(
    context: &LibCtxRef,
    key: &[u8],
    data: &[u8],
) -> Result<[u8; 32], ErrorStack> {
    let mut mac = [0_u8; 32];
    let mut len = 0_usize;
    // SAFETY: `context` is live; the names are C strings; null properties and parameters mean
    // none; the slices give their lengths; at most `mac.len()` bytes are written.
    let out = unsafe {
        c::EVP_Q_mac(
            context.as_ptr(),
            c"HMAC".as_ptr(),
            ptr::null(),
            c"SHA2-256".as_ptr(),
            ptr::null(),
            key.as_ptr().cast(),
            key.len(),
            data.as_ptr(),
            data.len(),
            mac.as_mut_ptr(),
            mac.len(),
            &raw mut len,
        )
    };
    fetched(out).map(|_| mac)
}

/// A TLS context whose algorithms come from `library` instead of the default library context.
///
/// `SSL_CTX_new_ex(3)`: null on failure; the builder owns the context. libssl keeps a bare pointer
/// to the library context, which must therefore live for ever.
///
/// # Errors
/// OpenSSL's own, when no provider of `library` offers what TLS needs.
pub fn context_within(
    library: &'static LibCtx,
    method: SslMethod,
) -> Result<SslContextBuilder, ErrorStack> {
    // SAFETY: `library` lives for ever; null properties mean none; the method is a static of libssl.
    let ctx = unsafe { c::SSL_CTX_new_ex(library.as_ptr(), ptr::null(), method.as_ptr()) };
    // SAFETY: a context that was made is live, and nothing else owns it.
    fetched(ctx).map(|ctx| unsafe { SslContextBuilder::from_ptr(ctx) })
}

/// Reads private keys of one kind, one after the other: `OSSL_DECODER_CTX`.
///
/// What OpenSSL sets up to read a key (which decoders and key managers there are, and which of them
/// fit together) takes ten times as long as the reading, and is the same for every key of a kind.
pub struct KeyReader {
    /// Its own; never null.
    ctx: *mut ffi::OSSL_DECODER_CTX,
    /// Its own: where libcrypto puts a key that it read. Null between two of them.
    slot: *mut *mut ffi::EVP_PKEY,
}

// SAFETY: nothing in a decoder context belongs to a thread; it must not be used by two at a time,
// which `&mut self` sees to.
unsafe impl Send for KeyReader {}

impl KeyReader {
    /// A reader of PKCS#8 (RFC 5958) in DER, without a passphrase, with a key of this kind: a name
    /// of a key manager, such as `EC` or `RSA`.
    ///
    /// `OSSL_DECODER_CTX_new_for_pkey(3)`: null on failure; keeps the pointer to where keys go.
    /// Under the default properties, so in FIPS mode for keys that the module holds.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn new(kind: &CStr) -> Result<Self, ErrorStack> {
        let slot = Box::into_raw(Box::new(ptr::null_mut()));
        // SAFETY: `slot` lives until `drop`; the texts are C strings, which libcrypto copies; null
        // means the default library context and no further properties.
        let ctx = unsafe {
            ffi::OSSL_DECODER_CTX_new_for_pkey(
                slot,
                c"DER".as_ptr(),
                c"PrivateKeyInfo".as_ptr(),
                kind.as_ptr(),
                ffi::EVP_PKEY_KEYPAIR,
                ptr::null_mut(),
                ptr::null(),
            )
        };
        match fetched(ctx) {
            Ok(ctx) => Ok(Self { ctx, slot }),
            Err(error) => {
                // SAFETY: made above, and nothing else has it.
                drop(unsafe { Box::from_raw(slot) });
                Err(error)
            }
        }
    }

    /// Reads the one key that all of `der` is, and gives itself back for the next. After a failure
    /// there is no next: some versions of libcrypto keep a mark of it.
    ///
    /// `OSSL_DECODER_from_data(3)`: returns 1 on success, and moves the pointer past what it read.
    ///
    /// # Errors
    /// OpenSSL's own; empty where more follows the key.
    pub fn read(self, der: &[u8]) -> Result<(PKey<Private>, Self), ErrorStack> {
        let (mut data, mut len) = (der.as_ptr(), der.len());
        // SAFETY: `ctx` is live; `data` and `len` are those of a slice, which is only read.
        let rc = unsafe { ffi::OSSL_DECODER_from_data(self.ctx, &raw mut data, &raw mut len) };
        // SAFETY: `slot` is live, and libcrypto is done with it.
        let key = unsafe { self.slot.replace(ptr::null_mut()) };
        let key = (!key.is_null()).then(|| {
            // SAFETY: a live key, which libcrypto made for the owner of `slot`.
            unsafe { PKey::from_ptr(key) }
        });
        succeeded(rc)?;
        match key {
            Some(key) if len == 0 => Ok((key, self)),
            Some(_) | None => Err(ErrorStack::get()),
        }
    }
}

impl Drop for KeyReader {
    fn drop(&mut self) {
        // SAFETY: both are its own and live; `slot` is empty, and goes after who points to it.
        unsafe {
            ffi::OSSL_DECODER_CTX_free(self.ctx);
            drop(Box::from_raw(self.slot));
        }
    }
}

/// Copies the IV that a cipher is using into `iv`, which must be as long as the cipher's IV.
///
/// `EVP_CIPHER_CTX_get_updated_iv(3)`. After an AEAD encryption that was given no IV this is the
/// one that the module made itself. Returns 1 on success.
///
/// # Errors
/// OpenSSL's own, when the cipher has no IV yet or `iv` is too short.
pub fn cipher_iv(ctx: &CipherCtxRef, iv: &mut [u8]) -> Result<(), ErrorStack> {
    // SAFETY: `ctx` is a live EVP_CIPHER_CTX; libcrypto writes at most `iv.len()` bytes.
    let rc =
        unsafe { c::EVP_CIPHER_CTX_get_updated_iv(ctx.as_ptr(), iv.as_mut_ptr().cast(), iv.len()) };
    succeeded(rc)
}

/// Has blocks of a mebibyte or more given back to the system when they are freed, for good.
///
/// `mallopt(3)`, `M_MMAP_THRESHOLD`. By default glibc raises that bound to the size of what was
/// freed last, up to 32 MiB, and keeps such blocks: what reading a large revocation list took would
/// stay with the process. Another C library does as it does.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const MEBIBYTE: c_int = 1 << 20;
        // SAFETY: the call takes two numbers; it may run at any time, on any thread.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MEBIBYTE) };
    }
}

/// Gives back to the system what was freed in small pieces, as a revocation list is.
///
/// `malloc_trim(3)`: walks through all arenas, each under its lock; what it returns is only whether
/// there was anything. Another C library does as it does.
pub fn give_back_freed_pieces() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes a number; it may run at any time, on any thread.
        unsafe { libc::malloc_trim(0) };
    }
}

/// The system's allocator, which wipes what is given back: see [`memory`](super::memory).
#[derive(Debug)]
pub struct WipingAllocator;

impl WipingAllocator {
    /// Wipes a block.
    ///
    /// `explicit_bzero(3)`: writes zeros that no compiler leaves out.
    ///
    /// # Safety
    /// `block` has `size` bytes that may be written and that nobody reads any more.
    unsafe fn wipe(block: *mut u8, size: usize) {
        // SAFETY: as the caller says.
        unsafe { libc::explicit_bzero(block.cast(), size) };
    }
}

// SAFETY: what is given is `System`'s; what is given back goes to `System` as it came, and a block
// that moves is copied for as far as both reach. Nothing here allocates or panics.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if wipes() {
            // SAFETY: the block has the layout's size, and is the caller's to give back.
            unsafe { Self::wipe(block, layout.size()) };
        }
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !wipes() {
            // SAFETY: the caller's contract is `System`'s.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller has seen to it that `size`, rounded up to the alignment, is no overflow,
        // and the alignment is that of a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `size` is not zero, by the caller's contract.
        let moved = unsafe { System.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks have that many bytes, and the new one is nobody else's.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the block is the caller's, who has another one from here on.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

/// Drains OpenSSL's error queue into the error, unless `rc` is the 1 of success.
fn succeeded(rc: c_int) -> Result<(), ErrorStack> {
    if rc == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// Drains OpenSSL's error queue into the error when `object` is null.
fn fetched<T>(object: *mut T) -> Result<*mut T, ErrorStack> {
    if object.is_null() {
        Err(ErrorStack::get())
    } else {
        Ok(object)
    }
}

/// A copy of a provider's name; `None` for the null provider. A part of the default provider has its
/// name: its algorithms are the default provider's own.
///
/// `OSSL_PROVIDER_get0_name(3)`: the name is the provider's own.
///
/// # Safety
/// `provider` is null or live.
unsafe fn provider_name(provider: *const ffi::OSSL_PROVIDER) -> Option<String> {
    if provider.is_null() {
        return None;
    }
    // SAFETY: `provider` is live, by contract; its name is a C string that lives as long.
    let name = unsafe { CStr::from_ptr(c::OSSL_PROVIDER_get0_name(provider)) };
    let name = if name == PART_NAME { c"default" } else { name };
    Some(name.to_string_lossy().into_owned())
}
