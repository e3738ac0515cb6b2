//! What a ClientHello's server name leads to, as of the current snapshot.
//!
//! Called inside an OpenSSL callback: total, without locks of ours, without panics.

use std::fmt;
use std::sync::Arc;

use crate::failure::Reason;
use crate::matching::sni::SniName;
use crate::snapshot::live::Live;
use crate::tls::cache::Contexts;
use crate::tls::select::{Choice, Choose};

/// Answers [`Choose`] from the published snapshot and the cache of contexts.
pub struct Chooser {
    live: Arc<Live>,
    contexts: Arc<Contexts>,
    fallback: Option<SniName>,
}

impl Chooser {
    /// A chooser. `fallback` (`https.fallback_sni`) stands for the name of clients that send none.
    #[must_use]
    pub fn new(live: Arc<Live>, contexts: Arc<Contexts>, fallback: Option<SniName>) -> Self {
        Self {
            live,
            contexts,
            fallback,
        }
    }

    fn choose_name(&self, sni: &str) -> Choice {
        let snapshot = self.live.load();
        // The first match counts, closed or not: never on to a wildcard, `*` or the fallback.
        let Some(name) = snapshot.names.find(sni) else {
            return Choice::Refuse(Reason::SniUnknown);
        };
        let Ok(serving) = name.serving else {
            return Choice::Refuse(Reason::NameClosed);
        };
        match self.contexts.server(&serving.context) {
            Some(context) => Choice::Serve(context),
            None => Choice::Wait {
                key: serving.context,
                ssl_id: name.ssl_id.shared(),
            },
        }
    }
}

impl Choose for Chooser {
    fn choose(&self, sni: Option<&[u8]>) -> Choice {
        match sni {
            Some(raw) => match SniName::parse(raw) {
                Ok(name) => self.choose_name(name.as_str()),
                Err(_) => Choice::Refuse(Reason::SniMalformed),
            },
            None => match &self.fallback {
                Some(name) => self.choose_name(name.as_str()),
                None => Choice::Refuse(Reason::SniMissing),
            },
        }
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser")
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::sni::SniPattern;
    use crate::snapshot::compile::{Piece, ServerPiece};
    use crate::snapshot::{Change, Kind, Revision, Serving, Snapshot};
    use crate::tls::material::Digest;
    use crate::tls::policy::{ClientPolicy, Versions};

    fn put(own: &str, name: &str, serving: Result<Digest, Reason>) -> Change {
        let piece = ServerPiece {
            patterns: vec![SniPattern::parse(name).unwrap()],
            policy: Arc::new(ClientPolicy::off()),
            serving: serving.map(|context| Serving {
                context,
                versions: Versions::default(),
            }),
        };
        Change::Put {
            kind: Kind::Ssl,
            id: own.parse().unwrap(),
            created: Revision(1),
            modified: Revision(1),
            piece: Piece::Server(piece),
        }
    }

    fn chooser(fallback: Option<&str>) -> Chooser {
        let live = Arc::new(Live::default());
        let changes = [
            put("open", "open.example", Ok([1; 32])),
            put("shut", "shut.example", Err(Reason::SecretUnresolved)),
        ];
        let snapshot = Snapshot::default().apply(changes, Revision(1));
        live.publish(snapshot);
        let fallback = fallback.map(|name| SniName::parse(name.as_bytes()).unwrap());
        Chooser::new(live, Arc::new(Contexts::new(10)), fallback)
    }

    fn refusal(choice: &Choice) -> Option<Reason> {
        match choice {
            Choice::Refuse(reason) => Some(*reason),
            Choice::Serve(_) | Choice::Wait { .. } => None,
        }
    }

    #[test]
    fn names_lead_to_their_context_or_a_reason() {
        let chooser = chooser(None);
        for (sni, reason) in [
            (Some(&b"OPEN.example."[..]), None),
            (Some(b"shut.example"), Some(Reason::NameClosed)),
            (Some(b"other.example"), Some(Reason::SniUnknown)),
            (Some(b"127.0.0.1"), Some(Reason::SniMalformed)),
            (Some(b"a b"), Some(Reason::SniMalformed)),
            (Some(b""), Some(Reason::SniMalformed)),
            (None, Some(Reason::SniMissing)),
        ] {
            assert_eq!(refusal(&chooser.choose(sni)), reason, "{sni:?}");
        }
        let choice = chooser.choose(Some(b"open.example"));
        assert!(matches!(choice, Choice::Wait { key, .. } if key == [1; 32]));
    }

    #[test]
    fn the_fallback_stands_for_an_absent_name_only() {
        let open = chooser(Some("open.example"));
        assert!(matches!(open.choose(None), Choice::Wait { .. }));
        let unknown = open.choose(Some(b"other.example"));
        assert_eq!(refusal(&unknown), Some(Reason::SniUnknown));
        let shut = chooser(Some("shut.example"));
        assert_eq!(refusal(&shut.choose(None)), Some(Reason::NameClosed));
        let absent = chooser(Some("absent.example"));
        assert_eq!(refusal(&absent.choose(None)), Some(Reason::SniUnknown));
    }
}
