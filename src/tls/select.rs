//! The ClientHello callback: which name is meant, and everything OpenSSL does not carry over.
//!
//! The only place that switches contexts. `SSL_set_SSL_CTX` takes over what names that trust the
//! same CAs have in common: their store and their list of them. It leaves behind verify mode and
//! depth, versions, suites and groups (measured on 3.0; nginx re-applies the same by hand); suites
//! and groups are the same in all contexts here. The ClientHello callback is used rather than the
//! servername callback because versions are settled after it, and because resumption is decided
//! after it, so that the id context of the name counts. Certificates follow when they are needed.
//!
//! Nothing here may panic: a panic inside the callback ends the process.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{ClientHelloResponse, Ssl, SslAlert, SslRef, SslVerifyMode};
use openssl::x509::{X509, X509StoreContext, X509StoreContextRef, X509VerifyResult};

use crate::crypto::sys;
use crate::failure::Reason;
use crate::tls::material::Digest;
use crate::tls::policy::{self, ClientAuth};
use crate::tls::server::ServerContext;

/// `server_name`, RFC 6066 §3.
const EXT_SERVER_NAME: u32 = 0;
/// `host_name`, RFC 6066 §3.
const NAME_TYPE_HOST: u8 = 0;

/// Decides which name a ClientHello means. Total: it is called inside an OpenSSL callback.
pub trait Choose: Send + Sync {
    /// The context for this server name; `None` when the client sent none.
    fn choose(&self, sni: Option<&[u8]>) -> Choice;
}

/// What [`Choose`] decided.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Serve the name with this context.
    Serve(Arc<ServerContext>),
    /// The context must be built first; the handshake is suspended and asked again.
    Wait {
        /// Key of the context.
        key: Digest,
        /// The ssl to build it from.
        ssl_id: Arc<str>,
    },
    /// End the handshake with `unrecognized_name`.
    Refuse(Reason),
}

/// One context whatever the name: the admin listener's.
#[derive(Debug)]
pub struct Always(pub Arc<ServerContext>);

impl Choose for Always {
    fn choose(&self, _sni: Option<&[u8]>) -> Choice {
        Choice::Serve(self.0.clone())
    }
}

/// What the callback found out, kept on the connection.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The name as sent, when it was readable.
    pub sni: Option<Box<[u8]>>,
    /// What was decided.
    pub choice: Choice,
    /// The first verification error of a deferred policy, as OpenSSL numbers it; 0 = none.
    verify_error: Option<Arc<AtomicI32>>,
    /// The client's certificate, when the handshake was refused for it.
    refused: OnceLock<X509>,
}

impl Selected {
    /// The client's certificate that was refused in the handshake: libssl keeps only good ones.
    #[must_use]
    pub fn refused(&self) -> Option<&X509> {
        self.refused.get()
    }

    /// The first error that a deferred verification met.
    #[must_use]
    pub fn verify_error(&self) -> Option<X509VerifyResult> {
        let code = self.verify_error.as_ref()?.load(Ordering::Relaxed);
        (code != 0).then(|| sys::verify_result(code))
    }
}

/// Where a context that was built for one connection reaches its callback, so that the handshake
/// does not depend on the cache having kept it.
pub(super) type Handed = Arc<Mutex<Option<Arc<ServerContext>>>>;

/// Prepares a connection for being handed a context.
pub(super) fn prepare(ssl: &mut SslRef) -> Handed {
    let handed = Handed::default();
    if let Some(index) = handed_index() {
        ssl.set_ex_data(index, handed.clone());
    }
    handed
}

fn handed_index() -> Option<Index<Ssl, Handed>> {
    static INDEX: OnceLock<Option<Index<Ssl, Handed>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}

/// The choice, with a context that was handed over instead of a wait for the same one.
fn settle(ssl: &SslRef, choice: Choice) -> Choice {
    let Choice::Wait { key, .. } = &choice else {
        return choice;
    };
    let handed = handed_index().and_then(|index| ssl.ex_data(index));
    let handed = handed.and_then(|handed| {
        handed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    });
    match handed {
        Some(context) if context.key == *key => Choice::Serve(context),
        _ => choice,
    }
}

/// What the callback left on this connection; `None` before the ClientHello was read.
#[must_use]
pub fn selected(ssl: &SslRef) -> Option<&Selected> {
    ssl.ex_data(index()?)
}

fn index() -> Option<Index<Ssl, Selected>> {
    static INDEX: OnceLock<Option<Index<Ssl, Selected>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}

/// The callback itself.
pub(super) fn on_client_hello(
    choose: &dyn Choose,
    ssl: &mut SslRef,
    alert: &mut SslAlert,
) -> Result<ClientHelloResponse, ErrorStack> {
    let Some(index) = index() else {
        *alert = SslAlert::INTERNAL_ERROR;
        return Err(ErrorStack::get());
    };
    let extension = sys::client_hello_extension(ssl, EXT_SERVER_NAME);
    let (sni, choice) = match extension.as_deref().map(host_name) {
        None => (None, choose.choose(None)),
        Some(Some(name)) => (Some(Box::from(name)), choose.choose(Some(name))),
        Some(None) => (None, Choice::Refuse(Reason::SniMalformed)),
    };
    let choice = settle(ssl, choice);
    let mut selected = Selected {
        sni,
        choice: choice.clone(),
        verify_error: None,
        refused: OnceLock::new(),
    };
    let response = match choice {
        Choice::Serve(context) => {
            selected.verify_error = apply(&context, selected.sni.as_deref(), ssl)?;
            ClientHelloResponse::SUCCESS
        }
        Choice::Wait { .. } => ClientHelloResponse::RETRY,
        Choice::Refuse(_) => {
            *alert = SslAlert::UNRECOGNIZED_NAME;
            ssl.set_ex_data(index, selected);
            return Err(ErrorStack::get());
        }
    };
    ssl.set_ex_data(index, selected);
    Ok(response)
}

/// Switches to a name's context and re-applies what the switch leaves behind.
fn apply(
    context: &ServerContext,
    sni: Option<&[u8]>,
    ssl: &mut SslRef,
) -> Result<Option<Arc<AtomicI32>>, ErrorStack> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that switches contexts"
    )]
    ssl.set_ssl_context(&context.common)?;
    context.bound(ssl)?;
    let name = sni.map(one_spelling);
    let id_context = policy::session_id_context(&context.ssl_id, &context.policy, name.as_deref())?;
    sys::set_session_id_context(ssl, &id_context)?;
    let policy = &context.policy;
    ssl.param_mut()
        .set_depth(i32::try_from(policy.depth).unwrap_or(i32::MAX));
    match policy.mode {
        ClientAuth::Off => {
            ssl.set_verify(SslVerifyMode::NONE);
            Ok(None)
        }
        ClientAuth::Optional => {
            ssl.set_verify_callback(SslVerifyMode::PEER, keep_refused);
            Ok(None)
        }
        ClientAuth::Required => {
            let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
            ssl.set_verify_callback(mode, keep_refused);
            Ok(None)
        }
        ClientAuth::Deferred => {
            let first = Arc::new(AtomicI32::new(0));
            let seen = first.clone();
            ssl.set_verify_callback(SslVerifyMode::PEER, move |passed, ctx| {
                if !passed {
                    let code = ctx.error().as_raw();
                    let _ = seen.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
                }
                // What the session keeps is the first error, not the last.
                match seen.load(Ordering::Relaxed) {
                    0 => {}
                    code => ctx.set_error(sys::verify_result(code)),
                }
                true
            });
            Ok(Some(first))
        }
    }
}

/// Shows the certificates of the name that was chosen: called when the handshake resumes no session.
/// A connection that has some stays as it is: one that is asked for another ClientHello (RFC 8446
/// §4.1.4), and that of a proof, for which nothing was chosen.
pub(super) fn present(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    match selected(ssl).map(|selected| &selected.choice) {
        Some(Choice::Serve(context)) if ssl.certificate().is_none() => context.clone().present(ssl),
        _ => Ok(()),
    }
}

/// A name in the one spelling of all that mean it: lower case, without the dot at the end.
fn one_spelling(name: &[u8]) -> Vec<u8> {
    name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase()
}

/// Leaves the verdict as it is and keeps the leaf of a chain that does not pass, for the record.
fn keep_refused(passed: bool, ctx: &mut X509StoreContextRef) -> bool {
    if !passed
        && let Ok(ssl) = X509StoreContext::ssl_idx()
        && let Some(selected) = ctx.ex_data(ssl).and_then(selected)
        && let Some(leaf) = ctx.chain().and_then(|chain| chain.get(0))
    {
        let _ = selected.refused.set(leaf.to_owned());
    }
    passed
}

/// The one host name of a server_name extension; `None` when it is malformed or doubled.
///
/// RFC 6066 §3: a list with a two-byte length, entries of type, two-byte length, name.
fn host_name(extension: &[u8]) -> Option<&[u8]> {
    let (list, rest) = split_vector(extension)?;
    if !rest.is_empty() {
        return None;
    }
    let (kind, entry) = list.split_first()?;
    let (name, rest) = split_vector(entry)?;
    (*kind == NAME_TYPE_HOST && rest.is_empty() && !name.is_empty()).then_some(name)
}

/// Splits a vector with a two-byte length from what follows it.
fn split_vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(entries: &[(u8, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, name) in entries {
            list.push(*kind);
            list.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
            list.extend_from_slice(name);
        }
        let mut out = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(&list);
        out
    }

    #[test]
    fn one_host_name_is_read() {
        assert_eq!(
            host_name(&extension(&[(0, b"a.example")])),
            Some(&b"a.example"[..])
        );
    }

    #[test]
    fn malformed_and_doubled_names_are_refused() {
        let doubled = extension(&[(0, b"a.example"), (0, b"b.example")]);
        let mut trailing = extension(&[(0, b"a.example")]);
        trailing.push(0);
        let mut short = extension(&[(0, b"a.example")]);
        short.pop();
        for bad in [
            &doubled,
            &trailing,
            &short,
            &extension(&[(1, b"a")]),
            &extension(&[(0, b"")]),
        ] {
            assert_eq!(host_name(bad), None, "{bad:?}");
        }
        assert_eq!(host_name(&[]), None);
    }
}
