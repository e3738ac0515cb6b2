//! What a change makes less strict: who is let in that was not, what is no longer checked.
//!
//! A comparison of the snapshots on both sides of it, because what an object weakens may be served
//! by another: a new name under a strict wildcard, a route that gets its upstream from another
//! service. Only what snapshots do not hold, sets of CAs, is read from documents. Closed is the
//! strictest of all. The phrases go into the reply's warnings, the audit record and, with
//! `security.refuse_weakening`, the refusal. They name no key and quote no text but names and ids.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use crate::matching::host::HostPattern;
use crate::matching::sni::SniPattern;
use crate::resource::service::UpstreamRef;
use crate::resource::ssl::Text;
use crate::resource::upstream::{Upstream, UpstreamTls};
use crate::resource::{Id, Kind, Resource};
use crate::snapshot::compile::{NO_DIGEST, RoutePiece};
use crate::snapshot::{Name, Owner, Snapshot};
use crate::tls::material::CaBundle;
use crate::tls::policy::{ClientAuth, TlsVersion};

/// How the phrase ends for an ssl that had `client` and has none now.
pub const CLIENT_GONE: &str = "no client certificate is asked for any more (`client` is gone)";

/// How many phrases there are at most.
const PHRASES: usize = 32;

/// How many names a phrase lists.
const LISTED: usize = 8;

/// A change of one object, seen from both sides.
pub struct Step<'a> {
    /// The snapshot that is served.
    pub before: &'a Snapshot,
    /// The one that is to be.
    pub after: &'a Snapshot,
    /// The object's kind.
    pub kind: Kind,
    /// Its id.
    pub id: &'a Id,
    /// What it was; `None` when it was not there or cannot be read.
    pub old: Option<&'a Resource>,
    /// What it will be; `None` when it will not be there.
    pub new: Option<&'a Resource>,
}

/// Finds an object that the change leaves as it is.
pub type Find<'a> = dyn Fn(Kind, &Id) -> Option<Resource> + 'a;

/// What is less strict after a step than before it.
#[must_use]
pub fn weakened(step: &Step<'_>, find: &Find<'_>) -> Vec<String> {
    let mut found = Vec::new();
    match step.kind {
        Kind::Ssl => compare_names(step, find, &mut found),
        Kind::Upstream => compare_reached(step, find, &mut found),
        Kind::Service => {
            compare_services(step, &mut found);
            compare_reached(step, find, &mut found);
        }
        Kind::Route => {
            compare_routes(step, &mut found);
            compare_reached(step, find, &mut found);
        }
        Kind::Secret => {}
    }
    let more = found.len().saturating_sub(PHRASES);
    if more > 0 {
        found.truncate(PHRASES);
        found.push(format!("{more} more"));
    }
    found
}

impl Step<'_> {
    /// An object as it was, or with `is_new` as it will be.
    fn look<T>(
        &self,
        (kind, id): (Kind, &Id),
        is_new: bool,
        find: &Find<'_>,
        read: impl FnOnce(&Resource) -> Option<T>,
    ) -> Option<T> {
        if (kind, id) == (self.kind, self.id) {
            let own = if is_new { self.new } else { self.old };
            return read(own?);
        }
        read(&find(kind, id)?)
    }
}

/// Who held some names, who holds them now.
struct Handover<'a> {
    from: &'a Arc<Name>,
    to: Option<&'a Arc<Name>>,
    names: Vec<&'a SniPattern>,
}

fn compare_names(step: &Step<'_>, find: &Find<'_>, found: &mut Vec<String>) {
    let claimed = |snapshot: &'_ Snapshot| {
        let server = snapshot.server(step.id);
        server.map_or_else(Vec::new, |server| server.patterns.clone())
    };
    let mut patterns = claimed(step.before);
    let known: BTreeSet<String> = patterns.iter().map(ToString::to_string).collect();
    let new = claimed(step.after).into_iter();
    patterns.extend(new.filter(|pattern| !known.contains(&pattern.to_string())));
    let mut handovers: Vec<Handover<'_>> = Vec::new();
    for pattern in &patterns {
        // What nobody claims asks for nothing.
        let Some(from) = step.before.holder(pattern) else {
            continue;
        };
        let to = step.after.holder(pattern);
        if to.is_some_and(|to| Arc::ptr_eq(from, to)) {
            continue;
        }
        let is_same = |other: &&mut Handover<'_>| {
            Arc::ptr_eq(other.from, from) && other.to.map(Arc::as_ptr) == to.map(Arc::as_ptr)
        };
        match handovers.iter_mut().find(is_same) {
            Some(other) => other.names.push(pattern),
            None => handovers.push(Handover {
                from,
                to,
                names: vec![pattern],
            }),
        }
    }
    for handover in &handovers {
        let phrases = compare_holders(step, handover, find).into_iter();
        let names = listed(&handover.names);
        found.extend(phrases.map(|phrase| format!("{names}: {phrase}")));
    }
}

fn compare_holders(step: &Step<'_>, handover: &Handover<'_>, find: &Find<'_>) -> Vec<String> {
    let Handover { from, to, .. } = handover;
    let was_closed = from.serving.is_err();
    let Some(to) = to else {
        // In the clear the name is no longer refused, even if nothing serves it over TLS.
        if was_closed || from.policy.asks() {
            return vec!["no ssl claims it any more, so that nothing is asked for".to_owned()];
        }
        return Vec::new();
    };
    if to.serving.is_err() {
        return Vec::new();
    }
    if was_closed && (from.ssl_id != to.ssl_id || from.policy.digest == NO_DIGEST) {
        return vec![format!("was closed and is served by ssl {} now", to.ssl_id)];
    }
    let mut found = Vec::new();
    compare_policies(step, from, to, find, &mut found);
    if let (Ok(from), Ok(to)) = (&from.serving, &to.serving) {
        compare_versions(from.versions.min, to.versions.min, &mut found);
    }
    found
}

fn compare_policies(
    step: &Step<'_>,
    from: &Name,
    to: &Name,
    find: &Find<'_>,
    found: &mut Vec<String>,
) {
    let (old, new) = (&from.policy, &to.policy);
    if !old.asks() || old.digest == new.digest {
        return;
    }
    if !new.asks() {
        found.push(if from.ssl_id == to.ssl_id {
            CLIENT_GONE.to_owned()
        } else {
            format!(
                "ssl {} serves it now and asks for no client certificate",
                to.ssl_id
            )
        });
        return;
    }
    if strictness(new.mode) < strictness(old.mode) {
        found.push(format!(
            "`client.mode` goes from {} to {}",
            mode_word(old.mode),
            mode_word(new.mode)
        ));
    }
    if new.depth > old.depth {
        found.push(format!(
            "`client.depth` goes from {} to {}",
            old.depth, new.depth
        ));
    }
    let ca = |id: &Id, is_new| {
        step.look((Kind::Ssl, id), is_new, find, |resource| match resource {
            Resource::Ssl(ssl) => ssl.client.as_ref().map(|client| client.ca.clone()),
            Resource::Upstream(_)
            | Resource::Service(_)
            | Resource::Route(_)
            | Resource::Secret(_) => None,
        })
    };
    let trusts_more = || match (ca(&from.ssl_id, false), ca(&to.ssl_id, true)) {
        (Some(old), Some(new)) => has_more_cas([&old], [&new]),
        (None, _) | (_, None) => true,
    };
    if old.ca != new.ca && trusts_more() {
        found.push("`client.ca` trusts further CAs".to_owned());
    }
    if old.crl.is_some() && new.crl.is_none() {
        found.push(
            "revoked certificates are not refused any more (`client.crl` is gone)".to_owned(),
        );
    }
    if new.skip.iter().any(|pattern| !old.skip.contains(pattern)) {
        found.push("`client.skip_mtls_uri_regex` lets further paths pass".to_owned());
    }
}

/// Higher asks for more.
const fn strictness(mode: ClientAuth) -> u8 {
    match mode {
        ClientAuth::Off => 0,
        ClientAuth::Optional => 1,
        ClientAuth::Deferred => 2,
        ClientAuth::Required => 3,
    }
}

const fn mode_word(mode: ClientAuth) -> &'static str {
    match mode {
        ClientAuth::Off => "off",
        ClientAuth::Optional => "optional",
        ClientAuth::Deferred => "deferred",
        ClientAuth::Required => "required",
    }
}

fn compare_versions(old: TlsVersion, new: TlsVersion, found: &mut Vec<String>) {
    if new < old {
        found.push("TLS 1.2 is permitted".to_owned());
    }
}

/// Compares what an object's requests reach: the same upstream changed, or another one.
fn compare_reached(step: &Step<'_>, find: &Find<'_>, found: &mut Vec<String>) {
    let reached = |snapshot: &Snapshot| snapshot.reached(step.kind, step.id);
    let (Some(old), Some(new)) = (reached(step.before), reached(step.after)) else {
        return;
    };
    if (&old.owner, old.revision) == (&new.owner, new.revision) {
        return;
    }
    let read = |owner: &Owner, is_new| {
        step.look((owner.kind, &owner.id), is_new, find, |resource| {
            upstream_of(resource).cloned()
        })
    };
    match (read(&old.owner, false), read(&new.owner, true)) {
        (Some(old), Some(new)) => compare_upstreams(&old, &new, found),
        (None, Some(_)) if old.closed.is_some() => {
            found.push("the upstream was closed and is used now".to_owned());
        }
        _ => {}
    }
}

fn upstream_of(resource: &Resource) -> Option<&Upstream> {
    let source = match resource {
        Resource::Upstream(upstream) => return Some(upstream),
        Resource::Service(service) => service.upstream.as_ref()?,
        Resource::Route(route) => route.upstream.as_ref()?,
        Resource::Ssl(_) | Resource::Secret(_) => return None,
    };
    match source {
        UpstreamRef::Inline(upstream) => Some(upstream),
        UpstreamRef::Id(_) => None,
    }
}

fn compare_upstreams(old: &Upstream, new: &Upstream, found: &mut Vec<String>) {
    if !old.scheme.is_tls() {
        return;
    }
    if !new.scheme.is_tls() {
        found.push("the upstream is spoken to in the clear".to_owned());
        return;
    }
    let none = UpstreamTls::default();
    let (old, new) = (
        old.tls.as_ref().unwrap_or(&none),
        new.tls.as_ref().unwrap_or(&none),
    );
    if old.verify && !new.verify {
        found.push("the upstream's certificate is not checked any more (`tls.verify`)".to_owned());
    }
    if old.verify && new.verify && has_more_cas(&old.ca_certs, &new.ca_certs) {
        found.push("`tls.ca_certs` trusts further CAs".to_owned());
    }
    if old.verify && new.verify && old.crl.is_some() && new.crl.is_none() {
        found.push("revoked certificates are not refused any more (`tls.crl` is gone)".to_owned());
    }
    compare_versions(old.offer.versions.min, new.offer.versions.min, found);
}

fn compare_services(step: &Step<'_>, found: &mut Vec<String>) {
    let Some(new) = step.after.service_piece(step.id) else {
        return;
    };
    if new.closed.is_some() {
        return;
    }
    match step.before.service_piece(step.id) {
        Some(old) if old.closed.is_none() => compare_hosts(&old.hosts, &new.hosts, found),
        Some(_) => found.push("the service was closed".to_owned()),
        None => {
            let users = step.before.users(Kind::Service, step.id);
            let routes = users.iter().filter(|(kind, _)| *kind == Kind::Route);
            let routes: Vec<&Id> = routes.map(|(_, id)| id).collect();
            if !routes.is_empty() {
                found.push(format!(
                    "routes without their service were closed: {}",
                    listed(&routes)
                ));
            }
        }
    }
}

fn compare_routes(step: &Step<'_>, found: &mut Vec<String>) {
    let Some(old) = step.before.route_piece(step.id) else {
        return;
    };
    let was_closed = step.before.closed(old).is_some();
    let hosts = step.before.hosts_of(old);
    let new = step.after.route_piece(step.id);
    if was_closed
        && old.enabled
        && new.is_none_or(|new| !new.enabled)
        && let Some(other) = step.after.answers_for(&hosts, old)
    {
        found.push(format!(
            "the route was closed, and route {} answers now",
            other.id
        ));
    }
    let Some(new) = new.filter(|new| step.after.closed(new).is_none()) else {
        return;
    };
    if was_closed {
        found.push("the route was closed".to_owned());
    }
    if old.route.closed.is_none() {
        compare_hosts(&hosts, &step.after.hosts_of(new), found);
        compare_conditions(old, new, found);
    }
}

/// Compares methods, addresses and variables; an empty list is all.
fn compare_conditions(old: &RoutePiece, new: &RoutePiece, found: &mut Vec<String>) {
    let (methods, addrs) = (&old.route.methods, &old.route.remote_addrs);
    if !methods.is_empty() {
        let new = &new.route.methods;
        if new.is_empty() {
            found.push("every method is accepted (`methods` is gone)".to_owned());
        } else if !new.iter().all(|method| methods.contains(method)) {
            found.push("`methods` accepts further methods".to_owned());
        }
    }
    if !addrs.is_empty() {
        let new = &new.route.remote_addrs;
        if new.is_empty() {
            found.push("every address is accepted (`remote_addrs` is gone)".to_owned());
        } else if !new
            .iter()
            .all(|net| addrs.iter().any(|own| own.contains(net)))
        {
            found.push("`remote_addrs` accepts further addresses".to_owned());
        }
    }
    match (&old.route.vars, &new.route.vars) {
        (Some(_), None) => found.push("any variables are accepted (`vars` is gone)".to_owned()),
        (Some(old), Some(new)) if !new.asks_all_of(old) => {
            found.push("`vars` may accept further requests".to_owned());
        }
        (None | Some(_), _) => {}
    }
}

/// Reports hosts of `new` that `old` does not cover; no host means every host.
fn compare_hosts(old: &[HostPattern], new: &[HostPattern], found: &mut Vec<String>) {
    if old.is_empty() {
        return;
    }
    if new.is_empty() {
        found.push("every host is accepted (`hosts` is gone)".to_owned());
    } else if !new
        .iter()
        .all(|host| old.iter().any(|own| covers(own, host)))
    {
        found.push("`hosts` accepts further hosts".to_owned());
    }
}

fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Any, _) => true,
        (_, HostPattern::Exact(host)) => wide.matches(host),
        (HostPattern::Suffix(wide), HostPattern::Suffix(narrow)) => narrow.ends_with(&**wide),
        (HostPattern::Exact(_), HostPattern::Suffix(_)) | (_, HostPattern::Any) => false,
    }
}

/// Some names or ids, the rest counted.
fn listed<T: Display>(all: &[T]) -> String {
    let mut texts: Vec<String> = all.iter().take(LISTED).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(LISTED);
    if more > 0 {
        texts.push(format!("{more} more"));
    }
    texts.join(", ")
}

/// Whether `new` trusts a CA that `old` does not. A set that cannot be read counts as changed.
fn has_more_cas<'a>(
    old: impl IntoIterator<Item = &'a Text>,
    new: impl IntoIterator<Item = &'a Text>,
) -> bool {
    let (old, new): (Vec<_>, Vec<_>) = (old.into_iter().collect(), new.into_iter().collect());
    if written(&old) == written(&new) {
        return false;
    }
    match (certificates(&old), certificates(&new)) {
        (Some(old), Some(new)) => !new.is_subset(&old),
        _ => true,
    }
}

fn written<'a>(texts: &[&'a Text]) -> Vec<(bool, &'a str)> {
    let each = texts.iter().map(|text| match text {
        Text::Literal(pem) => (true, pem.as_str()),
        Text::Reference(reference) => (false, reference.as_str()),
    });
    each.collect()
}

/// The certificates of some texts, as DER; `None` when one of them cannot be read here.
fn certificates(texts: &[&Text]) -> Option<BTreeSet<Vec<u8>>> {
    let pems: Option<Vec<&str>> = texts
        .iter()
        .map(|text| match text {
            Text::Literal(pem) => Some(pem.as_str()),
            Text::Reference(_) => None,
        })
        .collect();
    let bundle = CaBundle::parse_all(pems?).ok()?;
    bundle
        .certificates
        .iter()
        .map(|certificate| certificate.to_der().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::{Flavour, Revision, Terms, parse};
    use crate::snapshot::Change;
    use crate::snapshot::compile::{Ground, compile};
    use crate::tls::sample::{self, NOW};
    use crate::tls::trust::CaStores;

    fn read(kind: Kind, body: &Value) -> Resource {
        let terms = Terms::write(Flavour::Apisix, NOW, true);
        let id = "1".parse().unwrap();
        let parsed = parse(kind, &id, body.as_object().unwrap(), &terms);
        parsed.unwrap().resource
    }

    /// The phrases of the step from `old` to `new`, each alone in the world; null: not there.
    fn phrases(kind: Kind, old: &Value, new: &Value) -> Vec<String> {
        let id: Id = "1".parse().unwrap();
        let stores = CaStores::default();
        let bundle = CaBundle::parse(&sample::ca("file").cert).unwrap();
        let ground = Ground {
            stores: &stores,
            trust_file: Some(&bundle),
        };
        let side = |body: &Value, modified| {
            let resource = (!body.is_null()).then(|| read(kind, body));
            let change = resource.as_ref().map(|resource| Change::Put {
                kind,
                id: id.clone(),
                created: Revision(1),
                modified: Revision(modified),
                piece: compile(kind, &id, resource, &ground).piece,
            });
            (
                Snapshot::default().apply(change, Revision(modified)),
                resource,
            )
        };
        let ((before, old), (after, new)) = (side(old, 1), side(new, 2));
        let step = Step {
            before: &before,
            after: &after,
            kind,
            id: &id,
            old: old.as_ref(),
            new: new.as_ref(),
        };
        weakened(&step, &|_, _| None)
    }

    fn count(kind: Kind, old: &Value, new: &Value) -> usize {
        phrases(kind, old, new).len()
    }

    #[test]
    fn each_step_down_of_a_client_policy_is_told_and_no_step_up() {
        let (ca, other) = (sample::ca("one"), sample::ca("two"));
        let leaf = sample::leaf(&ca, "a", &["a.example"]);
        let both = format!("{}{}", ca.cert, other.cert);
        let ssl = |client: Value, name: &str| {
            let mut body = json!({"cert": leaf.cert, "key": leaf.key_pem, "sni": name});
            if !client.is_null() {
                body["client"] = client;
            }
            body
        };
        let own = "a.example";
        let strict = ssl(json!({"ca": ca.cert}), own);
        let open = ssl(Value::Null, own);
        let mut off = strict.clone();
        off["status"] = json!(0);
        for weaker in [
            &open,
            &off,
            &ssl(json!({"ca": ca.cert, "mode": "optional"}), own),
            &ssl(json!({"ca": ca.cert, "depth": 3}), own),
            &ssl(json!({"ca": both}), own),
            &ssl(json!({"ca": ca.cert}), "b.example"),
        ] {
            assert_eq!(count(Kind::Ssl, &strict, weaker), 1, "{weaker}");
        }
        assert_eq!(count(Kind::Ssl, &strict, &Value::Null), 1);
        let told = phrases(Kind::Ssl, &strict, &open);
        assert_eq!(told, [format!("a.example: {CLIENT_GONE}")]);
        let wide = ssl(json!({"ca": both, "depth": 3}), own);
        for looser in [&open, &strict, &wide] {
            assert_eq!(count(Kind::Ssl, looser, &strict), 0, "{looser}");
        }
        assert_eq!(count(Kind::Ssl, &Value::Null, &open), 0);
        let many = |client: bool| {
            let mut body = if client { strict.clone() } else { open.clone() };
            body["snis"] = (0..20).map(|n| format!("{n}.example")).collect();
            body.as_object_mut().unwrap().shift_remove("sni");
            body
        };
        let told = phrases(Kind::Ssl, &many(true), &many(false));
        assert!(told[0].contains("7.example, 12 more: "), "{told:?}");
    }

    #[test]
    fn trust_in_an_upstream_that_shrinks_is_told() {
        let (ca, other) = (sample::ca("one"), sample::ca("two"));
        let upstream = |tls: Value| json!({"scheme": "https", "nodes": {"a:1": 1}, "tls": tls});
        let strict = upstream(json!({"verify": true, "ca_certs": [ca.cert]}));
        let open = upstream(json!({"verify": false}));
        let inline = |upstream: &Value| json!({"upstream": upstream});
        for weaker in [
            &open,
            &upstream(json!({"verify": true, "ca_certs": [ca.cert, other.cert]})),
            &json!({"nodes": {"a:1": 1}}),
        ] {
            assert_eq!(count(Kind::Upstream, &strict, weaker), 1, "{weaker}");
            let (old, new) = (inline(&strict), inline(weaker));
            assert_eq!(count(Kind::Service, &old, &new), 1, "{weaker}");
        }
        assert_eq!(count(Kind::Upstream, &open, &strict), 0);
    }

    #[test]
    fn hosts_and_addresses_that_grow_are_told() {
        let route = |member: &str, value: &Value| {
            let mut body = json!({"uri": "/a", "upstream_id": "u"});
            if !value.is_null() {
                body[member] = value.clone();
            }
            body
        };
        for (member, old, new, phrases) in [
            ("hosts", json!(["a.com"]), json!(["a.com", "b.com"]), 1),
            ("hosts", json!(["a.com"]), Value::Null, 1),
            ("hosts", json!(["*.a.com"]), json!(["x.a.com"]), 0),
            ("hosts", json!(["x.a.com"]), json!(["*.a.com"]), 1),
            ("hosts", Value::Null, json!(["a.com"]), 0),
            ("methods", json!(["GET", "PUT"]), json!(["PUT"]), 0),
            ("methods", json!(["GET"]), json!(["GET", "PUT"]), 1),
            ("methods", json!(["GET"]), Value::Null, 1),
            ("vars", json!([["arg_a", "1"]]), Value::Null, 1),
            ("vars", json!([["arg_a", "1"]]), json!([["arg_a", "2"]]), 1),
            (
                "vars",
                json!([["arg_a", "1"]]),
                json!([["arg_b", "1"], ["arg_a", "1"]]),
                0,
            ),
            ("vars", Value::Null, json!([["arg_a", "1"]]), 0),
            ("remote_addr", json!("10.0.0.0/8"), json!("10.1.0.0/16"), 0),
            ("remote_addr", json!("10.1.0.0/16"), json!("10.0.0.0/8"), 1),
            ("remote_addr", json!("10.1.0.1"), Value::Null, 1),
        ] {
            let (from, to) = (route(member, &old), route(member, &new));
            assert_eq!(count(Kind::Route, &from, &to), phrases, "{old} to {new}");
        }
    }
}
