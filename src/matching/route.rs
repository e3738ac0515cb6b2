//! The route table: which rule a host and a path lead to, in APISIX's order.
//!
//! What else a rule asks (method, address, `vars`) is the caller's `accept`; what the rule is, the
//! caller's `R`.

use std::fmt;
use std::sync::Arc;

use super::host::HostPattern;
use super::path_pattern::{Part, PathPattern, Syntax, parameter};
use super::paths::{Paths, Span};
use super::ranked::{Place, Ranked};
use super::tree::{Kept, Tree};

/// Where a route stands among routes on the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Higher goes first. It never lifts a shorter prefix above a longer one.
    pub priority: i64,
    /// When the route was made; smaller goes first. Unique per route: it is what removal names.
    pub order: u64,
}

/// In which order routes are looked for, and how their paths are read: APISIX's routers, by its
/// names for them (`apisix.router.http`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Router {
    /// `radixtree_host_uri`: hosts first, then paths.
    #[default]
    HostUri,
    /// `radixtree_uri`: paths alone; a host is one more condition, and may have a port.
    Uri,
    /// `radixtree_uri_with_parameter`: the same, with `:name` and `*name` in paths.
    UriWithParameter,
}

impl Router {
    /// How it reads paths.
    #[must_use]
    pub fn syntax(self) -> Syntax {
        match self {
            Self::HostUri | Self::Uri => Syntax::Plain,
            Self::UriWithParameter => Syntax::Parameters,
        }
    }
}

/// What routes are looked for by.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As [`super::authority::Authority::host`] spells it, empty when there is none.
    pub host: &'a str,
    /// As [`super::authority::Authority::as_str`] spells it: the host with its port.
    pub authority: &'a str,
    /// As [`super::path::normalise`] leaves it.
    pub path: &'a [u8],
}

/// What a path's parameters stand for in a request.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    tail: &'a [Part],
    rest: &'a [u8],
}

impl<'a> Parameters<'a> {
    /// Those of a path that has none.
    pub const NONE: Self = Self {
        tail: &[],
        rest: &[],
    };

    /// What the parameter of this name stands for.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        parameter(self.tail, self.rest, name)
    }
}

/// A route as it is put into the table.
#[derive(Debug, Clone)]
pub struct Entry<R> {
    /// Its precedence and identity.
    pub rank: Rank,
    /// What a match yields; cloned once per host and path, so an `Arc` or a small index.
    pub value: R,
}

/// All routes, found by host and path.
///
/// Order of [`Router::HostUri`]: the exact host, wildcard hosts from the longest suffix on, `*`, then routes without
/// host; in each of these the exact path, then prefixes from the longest on; on one path higher
/// priority, longer original path, smaller order. The other routers have the second half of it.
/// Persistent: a clone is O(1). A change copies at most as many nodes as its hosts and paths have
/// bytes, and O(√n) pointers for n paths that have no `*`.
///
/// ```
/// use portcullis::matching::host::HostPattern;
/// use portcullis::matching::path_pattern::PathPattern;
/// use portcullis::matching::route::{Entry, Rank, RouteTable};
///
/// let mut table = RouteTable::default();
/// let hosts = [HostPattern::parse("*.example.com").unwrap()];
/// let paths = [PathPattern::parse("/api/*").unwrap()];
/// let rank = Rank { priority: 0, order: 1 };
/// table.insert(&hosts, &paths, Entry { rank, value: "api" });
/// assert_eq!(table.find("shop.example.com", b"/api/v1", |_| true), Some(&"api"));
/// assert_eq!(table.find("example.com", b"/api/v1", |_| true), None);
/// ```
#[derive(Clone)]
pub struct RouteTable<R> {
    router: Router,
    /// By host suffix, written backwards; `*` is the empty suffix. [`Router::HostUri`] only.
    hosts: Tree<HostGroup<R>>,
    /// Routes without hosts; all of them with the other routers.
    hostless: Paths<Held<R>>,
    /// How many routes have a wildcard of this suffix, or no host. The other routers only.
    wide: Tree<usize>,
    place_count: usize,
}

/// A route at one of its places.
#[derive(Debug, Clone)]
struct Held<R> {
    /// The hosts it is for, where the table is not ordered by them; `None`: all.
    hosts: Option<Arc<[HostPattern]>>,
    value: R,
}

impl<R> Held<R> {
    fn is_for(&self, request: &Request<'_>) -> bool {
        self.hosts.as_deref().is_none_or(|hosts| {
            hosts
                .iter()
                .any(|host| host.matches(request.host) || host.matches(request.authority))
        })
    }
}

/// The routes of one host text. Invariant: in the table at least one of the two is not empty.
#[derive(Debug, Clone)]
struct HostGroup<R> {
    /// For hosts that are this text.
    exact: Paths<Held<R>>,
    /// For hosts that end in this text.
    suffix: Paths<Held<R>>,
}

impl<R: Clone> RouteTable<R> {
    /// An empty table in this order.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            router,
            ..Self::default()
        }
    }

    /// Puts a route under each of its paths, at each of its hosts; no host means every host.
    ///
    /// A route that is replaced must be removed first, by the hosts and paths it was put in with.
    pub fn insert(&mut self, hosts: &[HostPattern], paths: &[PathPattern], entry: Entry<R>) {
        let Entry { rank, value } = entry;
        let syntax = self.router.syntax();
        let held = |hosts| Held {
            hosts,
            value: value.clone(),
        };
        let mut added = 0;
        if self.router != Router::HostUri {
            let own = (!hosts.is_empty()).then(|| Arc::from(hosts));
            added += insert_paths(&mut self.hostless, paths, syntax, rank, &held(own));
            if added > 0 {
                for suffix in wide_suffixes(hosts) {
                    self.wide.edit(&suffix, |count| *count += 1);
                }
            }
        } else if hosts.is_empty() {
            added += insert_paths(&mut self.hostless, paths, syntax, rank, &held(None));
        } else {
            for host in hosts {
                added += self.hosts.edit(&host_key(host), |group| {
                    insert_paths(group.side_mut(host), paths, syntax, rank, &held(None))
                });
            }
        }
        self.place_count += added;
    }

    /// Takes out the route of this `order`, put in with these hosts and paths.
    ///
    /// True when it was there. What it was not put in with is left alone.
    pub fn remove(&mut self, hosts: &[HostPattern], paths: &[PathPattern], order: u64) -> bool {
        let syntax = self.router.syntax();
        let mut removed = 0;
        if self.router != Router::HostUri {
            removed += remove_paths(&mut self.hostless, paths, syntax, order);
            if removed > 0 {
                for suffix in wide_suffixes(hosts) {
                    self.wide.edit_or_drop(&suffix, |count| {
                        *count = count.saturating_sub(1);
                        kept(*count == 0)
                    });
                }
            }
        } else if hosts.is_empty() {
            removed += remove_paths(&mut self.hostless, paths, syntax, order);
        } else {
            for host in hosts {
                self.hosts.edit_or_drop(&host_key(host), |group| {
                    removed += remove_paths(group.side_mut(host), paths, syntax, order);
                    kept(group.exact.is_empty() && group.suffix.is_empty())
                });
            }
        }
        self.place_count = self.place_count.saturating_sub(removed);
        removed > 0
    }
}

impl<R> RouteTable<R> {
    /// The first route in order that covers `host` and `path` and that `accept` takes: as
    /// [`RouteTable::find_for`], for a request without port.
    pub fn find(&self, host: &str, path: &[u8], mut accept: impl FnMut(&R) -> bool) -> Option<&R> {
        let request = Request {
            host,
            authority: host,
            path,
        };
        self.find_for(&request, |route, _| accept(route))
    }

    /// The first route in order that covers a request and that `accept` takes.
    ///
    /// A refusal by `accept`, which sees what the route's path captured, continues the search, down
    /// to routes without host. No allocation but for more than eight nested prefixes.
    pub fn find_for(
        &self,
        request: &Request<'_>,
        mut accept: impl FnMut(&R, &Parameters<'_>) -> bool,
    ) -> Option<&R> {
        let host = request.host;
        let groups = self.hosts.prefixes(host.bytes().rev());
        for (used, group) in groups.longest_first() {
            let exact = (used == host.len()).then_some(&group.exact);
            for paths in exact.into_iter().chain([&group.suffix]) {
                let found = find_path(paths, request, &mut accept);
                if found.is_some() {
                    return found;
                }
            }
        }
        find_path(&self.hostless, request, &mut accept)
    }

    /// The router whose order it has.
    pub fn router(&self) -> Router {
        self.router
    }

    /// The suffixes of wildcard hosts that cover hosts that end in `end` and have routes, and the
    /// empty one where a route has no host or `*`.
    pub fn suffixes_over<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a str> {
        let is_ordered = self.router == Router::HostUri;
        let hostless = (is_ordered && !self.hostless.is_empty()).then_some("");
        let groups = self.hosts.prefixes(end.bytes().rev());
        let groups = groups
            .longest_first()
            .filter(|(_, group)| !group.suffix.is_empty())
            .map(|(used, _)| used);
        let wide = self.wide.prefixes(end.bytes().rev());
        let wide = wide.longest_first().map(|(used, _)| used);
        let used: Vec<usize> = groups.chain(wide).collect();
        let suffixes = used.into_iter();
        suffixes
            .filter_map(move |used| end.get(end.len().checked_sub(used)?..))
            .chain(hostless)
    }

    /// How many places are taken: a route counts once per host and path.
    pub fn len(&self) -> usize {
        self.place_count
    }

    /// True when there is no route.
    pub fn is_empty(&self) -> bool {
        self.place_count == 0
    }
}

/// The key of a host in the tree of suffixes.
fn host_key(host: &HostPattern) -> Vec<u8> {
    let text = match host {
        HostPattern::Exact(text) | HostPattern::Suffix(text) => text,
        HostPattern::Any => "",
    };
    text.bytes().rev().collect()
}

/// The keys of the suffixes that hosts of a route cover as a whole; the empty one for every host.
fn wide_suffixes(hosts: &[HostPattern]) -> impl Iterator<Item = Vec<u8>> {
    let every = hosts.is_empty().then(Vec::new);
    let wide = hosts
        .iter()
        .filter(|host| !matches!(host, HostPattern::Exact(_)));
    every.into_iter().chain(wide.map(host_key))
}

fn insert_paths<R: Clone>(
    table: &mut Paths<Held<R>>,
    paths: &[PathPattern],
    syntax: Syntax,
    rank: Rank,
    held: &Held<R>,
) -> usize {
    let mut added = 0;
    for path in paths {
        let place = Place::new(rank, path, syntax);
        let cut = path.cut(syntax);
        let span = span(cut.is_exact());
        added += table.edit(cut.literal.as_bytes(), span, |ranked| {
            ranked.insert(place, held.clone())
        });
    }
    added
}

fn remove_paths<R: Clone>(
    table: &mut Paths<Held<R>>,
    paths: &[PathPattern],
    syntax: Syntax,
    order: u64,
) -> usize {
    let mut removed = 0;
    for path in paths {
        let cut = path.cut(syntax);
        let tail = cut.tail();
        let span = span(cut.is_exact());
        table.edit_or_drop(cut.literal.as_bytes(), span, |ranked| {
            removed += ranked.remove(order, tail.as_ref());
        });
    }
    removed
}

fn find_path<'t, R>(
    table: &'t Paths<Held<R>>,
    request: &Request<'_>,
    accept: &mut impl FnMut(&R, &Parameters<'_>) -> bool,
) -> Option<&'t R> {
    let path = request.path;
    let mut first_of = |ranked: &'t Ranked<Held<R>>, rest: &[u8]| {
        let found = ranked.find(|place, held| {
            place.covers(rest) && held.is_for(request) && {
                let tail = place.tail();
                accept(&held.value, &Parameters { tail, rest })
            }
        });
        found.map(|held| &held.value)
    };
    let exact = table.exact(path);
    if let Some(found) = exact.and_then(|ranked| first_of(ranked, b"")) {
        return Some(found);
    }
    let prefixes = table.prefixes(path);
    let mut longest_first = prefixes.longest_first();
    longest_first.find_map(|(used, ranked)| first_of(ranked, path.get(used..)?))
}

fn span(is_exact: bool) -> Span {
    match is_exact {
        true => Span::Whole,
        false => Span::Prefix,
    }
}

fn kept(is_empty: bool) -> Kept {
    match is_empty {
        true => Kept::No,
        false => Kept::Yes,
    }
}

impl<R> HostGroup<R> {
    fn side_mut(&mut self, host: &HostPattern) -> &mut Paths<Held<R>> {
        match host {
            HostPattern::Exact(_) => &mut self.exact,
            HostPattern::Suffix(_) | HostPattern::Any => &mut self.suffix,
        }
    }
}

impl<R> Default for HostGroup<R> {
    fn default() -> Self {
        Self {
            exact: Paths::default(),
            suffix: Paths::default(),
        }
    }
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self {
            router: Router::default(),
            hosts: Tree::default(),
            hostless: Paths::default(),
            wide: Tree::default(),
            place_count: 0,
        }
    }
}

impl<R> fmt::Debug for RouteTable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteTable({} places)", self.place_count)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::matching::tree;

    /// A route as written, for the table and for the scan that the table must agree with.
    #[derive(Debug, Clone)]
    struct Rule {
        hosts: Vec<String>,
        paths: Vec<String>,
        rank: Rank,
    }

    impl Rule {
        fn new(hosts: &[&str], paths: &[&str], priority: i64, order: u64) -> Self {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Self {
                hosts: owned(hosts),
                paths: owned(paths),
                rank: Rank { priority, order },
            }
        }

        fn hosts(&self) -> Vec<HostPattern> {
            let parse = |host: &String| HostPattern::parse(host).unwrap();
            self.hosts.iter().map(parse).collect()
        }

        fn paths(&self) -> Vec<PathPattern> {
            let parse = |path: &String| PathPattern::parse(path).unwrap();
            self.paths.iter().map(parse).collect()
        }

        fn put(&self, table: &mut RouteTable<u64>) {
            let entry = Entry {
                rank: self.rank,
                value: self.rank.order,
            };
            table.insert(&self.hosts(), &self.paths(), entry);
        }

        fn take(&self, table: &mut RouteTable<u64>) -> bool {
            table.remove(&self.hosts(), &self.paths(), self.rank.order)
        }

        /// All precedences this rule has for a request, as the specification words them.
        fn claims(&self, router: Router, host: &str, path: &str) -> Vec<impl Ord + use<>> {
            let mut hosts = Vec::new();
            for text in &self.hosts {
                if HostPattern::parse(text).unwrap().matches(host) {
                    // Exact 0; then suffixes, the longest first; `*` has length 0.
                    let class = u8::from(text.starts_with('*'));
                    hosts.push((class, Reverse(text.trim_start_matches('*').len())));
                }
            }
            if self.hosts.is_empty() {
                hosts.push((2, Reverse(0)));
            }
            if router != Router::HostUri {
                // One more condition, without a rank.
                hosts = hosts.first().map(|_| (0, Reverse(0))).into_iter().collect();
            }
            let mut claims = Vec::new();
            for text in &self.paths {
                let pattern = PathPattern::parse(text).unwrap();
                if pattern.matches(path.as_bytes(), router.syntax()) {
                    let start = pattern.start(router.syntax()).len();
                    let is_exact = start == text.len();
                    let class = (!is_exact, Reverse(start));
                    let Rank { priority, order } = self.rank;
                    let rank = (Reverse(priority), Reverse(text.len()), order);
                    claims.extend(hosts.iter().map(|host| (*host, class, rank)));
                }
            }
            claims
        }
    }

    fn table(rules: &[Rule]) -> RouteTable<u64> {
        table_of(Router::default(), rules)
    }

    fn table_of(router: Router, rules: &[Rule]) -> RouteTable<u64> {
        let mut table = RouteTable::new(router);
        rules.iter().for_each(|rule| rule.put(&mut table));
        table
    }

    /// The orders of all accepting routes, in the order in which the table offers them, once each.
    fn offered(table: &RouteTable<u64>, host: &str, path: &str) -> Vec<u64> {
        let mut seen = Vec::new();
        let found = table.find(host, path.as_bytes(), |order| {
            if !seen.contains(order) {
                seen.push(*order);
            }
            false
        });
        assert_eq!(found, None);
        seen
    }

    fn scanned(rules: &[Rule], host: &str, path: &str) -> Vec<u64> {
        scanned_by(Router::default(), rules, host, path)
    }

    fn scanned_by(router: Router, rules: &[Rule], host: &str, path: &str) -> Vec<u64> {
        let best = |rule: &Rule| {
            let claim = rule.claims(router, host, path).into_iter().min()?;
            Some((claim, rule.rank.order))
        };
        let ranked: BTreeMap<_, _> = rules.iter().filter_map(best).collect();
        ranked.into_values().collect()
    }

    #[test]
    fn wildcards_over_a_name_are_those_with_routes_longest_first() {
        let mut table = RouteTable::default();
        let over = |table: &RouteTable<u64>, end: &str| -> Vec<String> {
            table.suffixes_over(end).map(str::to_owned).collect()
        };
        Rule::new(&["a.x.com", "*.x.com", "*.com", "*.b.x.com"], &["/"], 0, 1).put(&mut table);
        assert_eq!(over(&table, "a.x.com"), [".x.com", ".com"]);
        assert_eq!(over(&table, ".x.com"), [".x.com", ".com"]);
        assert_eq!(over(&table, "x.com"), [".com"]);
        assert!(over(&table, "x.org").is_empty());
        Rule::new(&[], &["/"], 0, 2).put(&mut table);
        assert_eq!(over(&table, "x.org"), [""]);
    }

    #[test]
    fn wildcards_are_known_whatever_the_order() {
        let rules = [
            Rule::new(&["a.x.com", "*.x.com", "*.X.com"], &["/"], 0, 1),
            Rule::new(&["*.com"], &["/"], 0, 2),
            Rule::new(&[], &["/"], 0, 3),
        ];
        for router in [Router::HostUri, Router::Uri, Router::UriWithParameter] {
            let mut table = table_of(router, &rules);
            let over = |table: &RouteTable<u64>| -> Vec<String> {
                table.suffixes_over("a.x.com").map(str::to_owned).collect()
            };
            assert_eq!(over(&table), [".x.com", ".com", ""], "{router:?}");
            assert!(rules[2].take(&mut table) && rules[0].take(&mut table));
            assert_eq!(over(&table), [".com"], "{router:?}");
        }
    }

    #[test]
    fn where_paths_go_first_a_host_is_a_condition_and_may_have_a_port() {
        let table = table_of(
            Router::Uri,
            &[
                Rule::new(&["a.com"], &["/*"], 9, 1),
                Rule::new(&[], &["/x"], 0, 2),
                Rule::new(&["*.com"], &["/x"], 1, 3),
                Rule::new(&["a.com:9080"], &["/x"], 2, 4),
                Rule::new(&["b.com"], &["/x"], 9, 5),
            ],
        );
        assert_eq!(offered(&table, "a.com", "/x"), [3, 2, 1]);
        let request = Request {
            host: "a.com",
            authority: "a.com:9080",
            path: b"/x",
        };
        assert_eq!(table.find_for(&request, |_, _| true), Some(&4));
        assert_eq!(offered(&table, "c.org", "/x"), [2]);
    }

    #[test]
    fn parameters_are_told_to_whoever_accepts() {
        let table = table_of(
            Router::UriWithParameter,
            &[
                Rule::new(&[], &["/u/me"], 0, 1),
                Rule::new(&[], &["/u/:id"], 0, 2),
                Rule::new(&[], &["/u/:id/*rest"], 0, 3),
            ],
        );
        let captured = |path: &str, name: &str| {
            let request = Request {
                host: "h",
                authority: "h",
                path: path.as_bytes(),
            };
            let mut value = None;
            let found = table.find_for(&request, |_, parameters| {
                value = parameters.find(name).map(<[u8]>::to_vec);
                true
            });
            (found.copied(), value)
        };
        assert_eq!(captured("/u/me", "id"), (Some(1), None));
        assert_eq!(captured("/u/7", "id"), (Some(2), Some(b"7".to_vec())));
        assert_eq!(
            captured("/u/7/a/b", "rest"),
            (Some(3), Some(b"a/b".to_vec()))
        );
        assert_eq!(captured("/u/", "id"), (None, None));
    }

    #[test]
    fn a_request_costs_no_more_among_a_hundred_thousand_routes_than_among_ten() {
        let rule = |order: u64| {
            let hosts = [format!("h{}.example.com", order % 1000)];
            let end = if order.is_multiple_of(2) { "/*" } else { "" };
            let paths = [format!("/api/{order}{end}")];
            Rule {
                hosts: hosts.into(),
                paths: paths.into(),
                rank: Rank { priority: 0, order },
            }
        };
        for router in [Router::HostUri, Router::Uri] {
            let cost = |count: u64| {
                let rules: Vec<Rule> = (0..count).map(rule).collect();
                let table = table_of(router, &rules);
                assert_eq!(table.len(), rules.len());
                let (mut most_nodes, mut most_offers) = (0, 0);
                for order in 0..10 {
                    let host = format!("h{order}.example.com");
                    for path in [format!("/api/{order}/x"), format!("/api/{order}")] {
                        let mut offers = 0;
                        let before = tree::visited();
                        table.find(&host, path.as_bytes(), |_| {
                            offers += 1;
                            false
                        });
                        most_nodes = most_nodes.max(tree::visited() - before);
                        most_offers = most_offers.max(offers);
                    }
                }
                (most_nodes, most_offers)
            };
            let (few, many) = (cost(10), cost(100_000));
            // A node for each byte of the request at most, whatever the number of routes.
            let bytes = "h0.example.com/api/0/x".len();
            assert!(many.0 <= bytes, "{router:?}: {few:?} {many:?}");
            assert!(many.0 <= few.0 + 4, "{router:?}: {few:?} {many:?}");
            assert_eq!((few.1, many.1), (1, 1), "{router:?}: routes looked at");
        }
    }

    #[test]
    fn hosts_go_from_exact_over_longest_suffix_to_none() {
        let table = table(&[
            Rule::new(&[], &["/x"], 99, 1),
            Rule::new(&["*"], &["/x"], 9, 2),
            Rule::new(&["*.com"], &["/x"], 9, 3),
            Rule::new(&["*.a.com"], &["/x"], 9, 4),
            Rule::new(&["x.a.com"], &["/*"], 0, 5),
        ]);
        assert_eq!(offered(&table, "x.a.com", "/x"), [5, 4, 3, 2, 1]);
        assert_eq!(offered(&table, "z.y.a.com", "/x"), [4, 3, 2, 1]);
        assert_eq!(offered(&table, "a.com", "/x"), [3, 2, 1]);
        assert_eq!(offered(&table, "", "/x"), [2, 1]);
        assert_eq!(offered(&table, "x.a.com", "/y"), [5]);
    }

    #[test]
    fn paths_go_from_exact_over_longest_prefix_whatever_the_priority() {
        let table = table(&[
            Rule::new(&[], &["/*"], 99, 1),
            Rule::new(&[], &["/a/*"], 9, 2),
            Rule::new(&[], &["/a/b/*"], 5, 3),
            Rule::new(&[], &["/a/b/c"], 0, 4),
        ]);
        assert_eq!(offered(&table, "h", "/a/b/c"), [4, 3, 2, 1]);
        assert_eq!(offered(&table, "h", "/a/b/"), [3, 2, 1]);
        assert_eq!(offered(&table, "h", "/a/b"), [2, 1]);
        assert_eq!(offered(&table, "h", "/a"), [1]);
    }

    #[test]
    fn one_path_is_ordered_by_priority_then_length_then_age() {
        let table = table(&[
            Rule::new(&[], &["/a/*"], 1, 4),
            Rule::new(&[], &["/a/*"], 1, 3),
            Rule::new(&[], &["/a/*/b"], 1, 5),
            Rule::new(&[], &["/a/*"], 2, 6),
        ]);
        assert_eq!(offered(&table, "h", "/a/x/b"), [6, 5, 3, 4]);
        assert_eq!(offered(&table, "h", "/a/x/c"), [6, 3, 4]);
    }

    #[test]
    fn the_first_accepted_route_is_found() {
        let table = table(&[
            Rule::new(&["a.com"], &["/a"], 0, 1),
            Rule::new(&["a.com"], &["/*"], 0, 2),
            Rule::new(&[], &["/a"], 0, 3),
        ]);
        for (refused, found) in [(0, Some(1)), (1, Some(2)), (2, Some(3)), (3, None)] {
            let accept = |order: &u64| *order > refused;
            assert_eq!(table.find("a.com", b"/a", accept).copied(), found);
        }
    }

    #[test]
    fn a_host_with_a_port_is_stored_and_never_matches() {
        let mut table = table(&[Rule::new(&["a.com:9080"], &["/*"], 0, 1)]);
        assert_eq!(offered(&table, "a.com", "/"), [0; 0]);
        assert!(Rule::new(&["a.com:9080"], &["/*"], 0, 1).take(&mut table));
    }

    #[test]
    fn removal_takes_only_what_was_put_in_with_it() {
        let rules = [
            Rule::new(&["a.com", "*.a.com"], &["/a", "/a/*", "/a/*/b"], 0, 1),
            Rule::new(&["a.com"], &["/a/*"], 0, 2),
        ];
        let mut table = table(&rules);
        assert_eq!(table.len(), 7);
        assert!(!Rule::new(&["a.com"], &["/a/*"], 0, 3).take(&mut table));
        assert!(!Rule::new(&[], &["/a/*"], 0, 1).take(&mut table));
        assert!(Rule::new(&["a.com"], &["/a/*/b"], 0, 1).take(&mut table));
        assert_eq!(offered(&table, "a.com", "/a/x/b"), [1, 2]);
        assert!(rules[0].take(&mut table));
        assert_eq!(offered(&table, "a.com", "/a/x"), [2]);
        assert_eq!(table.len(), 1);
        assert!(rules[1].take(&mut table));
        assert!(table.is_empty() && table.hosts.is_empty());
        assert!(!rules[1].take(&mut table));
    }

    #[test]
    fn a_repeated_host_or_path_takes_one_place() {
        let rule = Rule::new(&["a.com", "A.com"], &["/a", "/a"], 0, 1);
        let mut table = table(std::slice::from_ref(&rule));
        assert_eq!(table.len(), 1);
        rule.put(&mut table);
        assert_eq!(table.len(), 1);
        assert!(rule.take(&mut table));
        assert!(table.is_empty());
    }

    #[test]
    fn many_routes_on_one_path_keep_their_order() {
        // More than a sorted list is used for.
        let rules: Vec<_> = (0..128)
            .map(|order| Rule::new(&[], &["/*"], i64::try_from(order % 3).unwrap(), order))
            .collect();
        let mut table = table(&rules);
        assert_eq!(table.len(), rules.len());
        assert_eq!(offered(&table, "h", "/"), scanned(&rules, "h", "/"));
        let (gone, left) = rules.split_at(rules.len() - 3);
        assert!(gone.iter().all(|rule| rule.take(&mut table)));
        assert_eq!(offered(&table, "h", "/"), scanned(left, "h", "/"));
        assert!(left.iter().all(|rule| rule.take(&mut table)));
        assert!(table.is_empty() && table.hostless.is_empty());
    }

    #[test]
    fn a_change_in_a_clone_leaves_the_original_as_it_was() {
        let rules = [
            Rule::new(&["a.com"], &["/a/*"], 0, 1),
            Rule::new(&["*.com"], &["/a/b"], 0, 2),
            Rule::new(&[], &["/*"], 0, 3),
        ];
        let before = table(&rules);
        let mut after = before.clone();
        Rule::new(&["a.com"], &["/a/*", "/a/b"], 1, 4).put(&mut after);
        rules.iter().for_each(|rule| assert!(rule.take(&mut after)));
        assert_eq!(offered(&before, "a.com", "/a/b"), [1, 2, 3]);
        assert_eq!(offered(&after, "a.com", "/a/b"), [4]);
        assert_eq!((before.len(), after.len()), (3, 2));
    }

    #[test]
    fn a_large_table_agrees_with_a_scan_before_and_after_removals() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let host = |seed: u64| format!("h{}.g{}.com", seed % 50, seed % 7);
        let mut rules = Vec::new();
        for order in 0..20_000 {
            let hosts = match next(4) {
                0 => Vec::new(),
                1 => vec![format!("*.g{}.com", next(9))],
                _ => vec![host(next(400)), host(next(400))],
            };
            let path = format!("/p{}/q{}", next(900), next(20));
            let star = ["", "/*", "*", "/*/end"][usize::try_from(next(4)).unwrap()];
            let rank = Rank {
                priority: i64::try_from(next(3)).unwrap(),
                order,
            };
            let paths = vec![path + star];
            rules.push(Rule { hosts, paths, rank });
        }
        let mut table = table(&rules);
        let mut requests = Vec::new();
        for end in ["", "", "", "/x/end"].repeat(20) {
            let path = format!("/p{}/q{}{end}", next(900), next(20));
            requests.push((host(next(400)), path));
        }
        for removed in [0, 10_000, 9_990] {
            for rule in rules.drain(..removed) {
                assert!(rule.take(&mut table));
            }
            for (host, path) in &requests {
                // Only what could match by its first segment: a scan of all is slow.
                let start = &path[..path[1..].find('/').unwrap() + 2];
                let near = rules.iter().filter(|rule| rule.paths[0].starts_with(start));
                let near: Vec<_> = near.cloned().collect();
                assert_eq!(
                    offered(&table, host, path),
                    scanned(&near, host, path),
                    "{path}"
                );
            }
        }
        assert!(rules.iter().all(|rule| rule.take(&mut table)));
        assert!(table.is_empty() && table.hosts.is_empty() && table.hostless.is_empty());
    }

    /// What is drawn for random tables: few names and paths, so that much falls together.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % sides).unwrap()
        }

        fn one_of(&mut self, all: &[&str]) -> String {
            all[self.roll(u64::try_from(all.len()).unwrap())].to_owned()
        }

        fn rule(&mut self, order: u64) -> Rule {
            let hosts = ["a", "b.a", "c.b.a", "*", "*.a", "*.b.a", "*a", "A", "d"];
            let paths = [
                "/", "/*", "*", "/a", "/a/", "/a/*", "/a*", "/a/b", "/a/b/*", "/*/b", "/a/*/b",
                "/a/*/b/*", "/:x", "/a/:x", "/a/:x/b", "/:x/b", "/a/:x/*y", "/a/*y", "/a/*b*",
            ];
            let host_count = self.roll(3);
            let path_count = 1 + self.roll(2);
            Rule {
                hosts: (0..host_count).map(|_| self.one_of(&hosts)).collect(),
                paths: (0..path_count).map(|_| self.one_of(&paths)).collect(),
                rank: Rank {
                    priority: i64::try_from(self.roll(3)).unwrap(),
                    order,
                },
            }
        }
    }

    #[test]
    fn a_hundred_thousand_requests_to_random_tables_go_where_a_scan_sends_them() {
        let hosts = ["a", "b.a", "c.b.a", "d.c.b.a", "xa", "d", ""];
        let paths = [
            "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/b", "/a/x/b/", "/ab", "/b", "/x/b",
            "/a//b", "/:x", "/a/*y",
        ];
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut request_count = 0;
        while request_count < 100_000 {
            let router = [Router::HostUri, Router::Uri, Router::UriWithParameter][dice.roll(3)];
            let count = u64::try_from(dice.roll(16)).unwrap();
            let rules: Vec<Rule> = (0..count).map(|order| dice.rule(order)).collect();
            let mut table = table_of(router, &rules);
            let (gone, left) = rules.split_at(dice.roll(count + 1));
            let is_removed = dice.roll(2) == 0;
            if is_removed {
                assert!(gone.iter().all(|rule| rule.take(&mut table)));
            }
            let rules = if is_removed { left } else { &rules };
            for _ in 0..25 {
                let (host, path) = (dice.one_of(&hosts), dice.one_of(&paths));
                assert_eq!(
                    offered(&table, &host, &path),
                    scanned_by(router, rules, &host, &path),
                    "{router:?} {host}{path} {rules:?}"
                );
                request_count += 1;
            }
            assert!(rules.iter().all(|rule| rule.take(&mut table)));
            assert!(table.is_empty() && table.hosts.is_empty());
            assert!(table.hostless.is_empty() && table.wide.is_empty());
        }
    }

    fn rule() -> impl Strategy<Value = (Vec<String>, Vec<String>, i64)> {
        let host = r"\*|(\*\.|\*)?([ab]\.){0,2}[ab]";
        let path = r"/(([ab]|ab)?/){0,2}([ab]?\*?|\*/b)|\*";
        (
            proptest::collection::vec(host, 0..3),
            proptest::collection::vec(path, 1..3),
            0_i64..3,
        )
    }

    proptest! {
        #[test]
        fn the_table_offers_what_a_scan_offers_in_the_same_order(
            rules in proptest::collection::vec(rule(), 0..24),
            removed in proptest::collection::vec(any::<bool>(), 24),
            requests in proptest::collection::vec(
                (r"([ab]\.){0,3}[ab]", r"/([ab]{1,2}/){0,3}[ab]?"), 1..12),
        ) {
            let rules: Vec<_> = (0_u64..)
                .zip(rules)
                .map(|(order, (hosts, paths, priority))| Rule {
                    hosts,
                    paths,
                    rank: Rank { priority, order },
                })
                .collect();
            let full = table(&rules);
            let mut rest = full.clone();
            let mut left = Vec::new();
            for (rule, is_removed) in rules.iter().zip(removed) {
                match is_removed {
                    true => prop_assert!(rule.take(&mut rest)),
                    false => left.push(rule.clone()),
                }
            }
            for (host, path) in &requests {
                prop_assert_eq!(offered(&full, host, path), scanned(&rules, host, path));
                prop_assert_eq!(offered(&rest, host, path), scanned(&left, host, path));
            }
            left.iter().for_each(|rule| assert!(rule.take(&mut rest)));
            prop_assert!(rest.is_empty() && rest.hosts.is_empty() && rest.hostless.is_empty());
        }
    }
}
