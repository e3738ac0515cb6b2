//! The one authority of a request: what the comparison, routing and `pass_host` see.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::header::HOST;
use http::{HeaderValue, Request, Version};

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::proxy::forwarded::Forwarded;

/// A connection's last Host line, or `:authority`, with what it parsed to: clients repeat it.
#[derive(Debug, Default)]
pub struct LastHost(RefCell<Option<Known>>);

#[derive(Debug)]
struct Known {
    line: HeaderValue,
    place: Said,
    authority: Rc<Authority>,
    // For upstreams of HTTP/1.1, and of HTTP/2.
    forwarded: [Option<Forwarded>; 2],
}

/// Where a client says the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Host,
    Target,
}

impl LastHost {
    fn parse(&self, line: &[u8], place: Said) -> Result<Rc<Authority>, Reason> {
        if let Some(known) = &*self.0.borrow()
            && known.line == *line
            && known.place == place
        {
            return Ok(known.authority.clone());
        }
        let authority = Rc::new(parse(line)?);
        // A copy: a clone would keep the whole buffer alive that the request was read into.
        if let Ok(line) = HeaderValue::from_bytes(line) {
            self.0.replace(Some(Known {
                line,
                place,
                authority: authority.clone(),
                forwarded: [None, None],
            }));
        }
        Ok(authority)
    }

    /// The Host line of `authority`, if that is to the letter what the client said last.
    #[must_use]
    pub fn line(&self, authority: &Authority) -> Option<HeaderValue> {
        let known = self.0.borrow();
        let line = &known.as_ref()?.line;
        (line.as_bytes() == authority.as_str().as_bytes()).then(|| line.clone())
    }

    /// What `say` says to upstreams of the host that was asked for, once for as long as a client
    /// repeats it. `None`, if `authority` was not read from what it said last.
    pub fn forwarded(
        &self,
        authority: &Rc<Authority>,
        is_http2: bool,
        say: impl FnOnce(&[u8]) -> Option<Forwarded>,
    ) -> Option<Forwarded> {
        let mut known = self.0.borrow_mut();
        let known = known.as_mut()?;
        if !Rc::ptr_eq(&known.authority, authority) {
            return None;
        }
        let host = match known.place {
            Said::Host => known.line.as_bytes(),
            Said::Target => authority.as_str().as_bytes(),
        };
        let [lines, group] = &mut known.forwarded;
        let said = if is_http2 { group } else { lines };
        if said.is_none() {
            *said = say(host);
        }
        said.clone()
    }
}

/// Reads what a client said. Its port may be empty, which leaves it to the scheme (RFC 3986 §3.2.3), as
/// in nginx.
fn parse(raw: &[u8]) -> Result<Authority, Reason> {
    let invalid = Reason::AuthorityInvalid;
    let Some(host) = raw.strip_suffix(b":") else {
        return Authority::parse(raw).map_err(|_error| invalid);
    };
    let authority = Authority::parse(host).map_err(|_error| invalid)?;
    authority
        .port()
        .is_none()
        .then_some(authority)
        .ok_or(invalid)
}

/// What a client of HTTP/1.0 asks for that names no host: any that it can have said of the connection
/// itself, so that it gets nothing that it would not be given if it had.
#[derive(Clone, Copy, Debug)]
pub enum Reached<'a> {
    /// The server name of its handshake.
    Name(&'a str),
    /// Our address that it came to in the clear (RFC 9110 §7.2).
    Address(SocketAddr),
}

impl Reached<'_> {
    fn authority(self, default_port: u16) -> Result<Authority, Reason> {
        match self {
            Self::Name(name) => parse(name.as_bytes()),
            Self::Address(address) => {
                let ip = address.ip().to_canonical();
                let text = match (SocketAddr::new(ip, address.port()), ip) {
                    (address, _) if address.port() != default_port => address.to_string(),
                    (_, IpAddr::V6(ip)) => format!("[{ip}]"),
                    (_, IpAddr::V4(ip)) => ip.to_string(),
                };
                parse(text.as_bytes())
            }
        }
    }
}

/// Reads the authority of a request (RFC 9112 §3.2).
///
/// The target of an absolute-form request wins and must equal Host, default ports aside.
/// HTTP/1.0 without Host means what the connection `reached`.
///
/// # Errors
/// `AuthorityInvalid`: no Host, several, an empty or malformed one, or one that differs.
pub fn read<B>(
    req: &Request<B>,
    last: &LastHost,
    reached: Option<Reached<'_>>,
    default_port: u16,
) -> Result<Rc<Authority>, Reason> {
    let mut lines = req.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Reason::AuthorityInvalid);
    }
    let target = req.uri().authority();
    if let (None, Some(target), Version::HTTP_2) = (line, target, req.version()) {
        // HTTP/2 has `:authority` instead of Host (RFC 9113 §8.3.1).
        return last.parse(target.as_str().as_bytes(), Said::Target);
    }
    let host = line.map(|line| last.parse(line.as_bytes(), Said::Host));
    let host = host.transpose()?;
    if let Some(target) = target {
        let target = parse(target.as_str().as_bytes())?;
        return match host {
            Some(host) if !target.same_ignoring_default_port(&host, default_port) => {
                Err(Reason::AuthorityInvalid)
            }
            None if req.version() == Version::HTTP_11 => Err(Reason::AuthorityInvalid),
            _ => Ok(Rc::new(target)),
        };
    }
    match (host, reached) {
        (Some(host), _) => Ok(host),
        (None, Some(reached)) if req.version() == Version::HTTP_10 => {
            reached.authority(default_port).map(Rc::new)
        }
        (None, _) => Err(Reason::AuthorityInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::Group;

    fn lines(text: Vec<u8>) -> Option<Forwarded> {
        Some(Forwarded::Lines(text.into()))
    }

    fn text(said: &Forwarded) -> &[u8] {
        match said {
            Forwarded::Lines(lines) => lines,
            Forwarded::Group(_) => b"",
        }
    }

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut req = Request::builder().version(version).uri(target);
        for host in hosts {
            req = req.header(HOST, *host);
        }
        req.body(()).unwrap()
    }

    fn host(version: Version, target: &str, hosts: &[&str]) -> Result<String, Reason> {
        let req = request(version, target, hosts);
        let reached = Some(Reached::Name("sni.example"));
        read(&req, &LastHost::default(), reached, 443).map(|a| a.as_str().to_owned())
    }

    #[test]
    fn one_host_line_is_read() {
        let ok = |text: &str| Ok(text.to_owned());
        let bad = Err(Reason::AuthorityInvalid);
        let v11 = Version::HTTP_11;
        assert_eq!(host(v11, "/", &["A.Example:8443"]), ok("a.example:8443"));
        assert_eq!(host(v11, "/", &[]), bad);
        assert_eq!(host(v11, "/", &["a.example", "a.example"]), bad);
        assert_eq!(host(v11, "/", &[""]), bad);
        assert_eq!(host(v11, "/", &["user@a.example"]), bad);
    }

    #[test]
    fn an_absolute_target_wins_and_must_agree() {
        let v11 = Version::HTTP_11;
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(
            host(v11, "https://a.example/x", &["a.example:443"]),
            ok("a.example")
        );
        assert_eq!(
            host(v11, "https://a.example/x", &["b.example"]),
            Err(Reason::AuthorityInvalid)
        );
    }

    #[test]
    fn http_1_0_without_host_means_the_sni() {
        assert_eq!(
            host(Version::HTTP_10, "/", &[]),
            Ok("sni.example".to_owned())
        );
    }

    #[test]
    fn http_1_0_without_host_means_the_address_that_it_came_to() {
        let ask = |version, reached: &str, hosts: &[&str]| {
            let reached = Reached::Address(reached.parse().unwrap());
            let req = request(version, "/", hosts);
            let read = read(&req, &LastHost::default(), Some(reached), 80);
            read.map(|authority| authority.as_str().to_owned())
        };
        for (reached, authority) in [
            ("192.0.2.1:9080", "192.0.2.1:9080"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[2001:db8::1]:9080", "[2001:db8::1]:9080"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ] {
            let found = ask(Version::HTTP_10, reached, &[]);
            assert_eq!(found, Ok(authority.to_owned()), "{reached}");
        }
        let said = ask(Version::HTTP_10, "192.0.2.1:80", &["a.example"]);
        assert_eq!(said, Ok("a.example".to_owned()));
        for (version, hosts) in [
            (Version::HTTP_11, &[][..]),
            (Version::HTTP_10, &[""]),
            (Version::HTTP_10, &["a.example", "a.example"]),
        ] {
            let found = ask(version, "192.0.2.1:80", hosts);
            assert_eq!(
                found,
                Err(Reason::AuthorityInvalid),
                "{version:?} {hosts:?}"
            );
        }
    }

    #[test]
    fn empty_port_is_none() {
        let ok = |text: &str| Ok(text.to_owned());
        let v11 = Version::HTTP_11;
        assert_eq!(host(v11, "/", &["A.example:"]), ok("a.example"));
        assert_eq!(host(v11, "/", &["[::1]:"]), ok("[::1]"));
        assert_eq!(
            host(v11, "http://a.example:/", &["a.example"]),
            ok("a.example")
        );
        for bad in [":", "::", "a.example::", "a.example:80:"] {
            assert_eq!(
                host(v11, "/", &[bad]),
                Err(Reason::AuthorityInvalid),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_repeated_line_is_parsed_once() {
        let last = LastHost::default();
        let req = request(Version::HTTP_11, "/", &["a.example"]);
        let first = read(&req, &last, None, 80).unwrap();
        let second = read(&req, &last, None, 80).unwrap();
        assert!(Rc::ptr_eq(&first, &second));
    }

    #[test]
    fn headers_made_of_a_name_are_made_once_for_as_long_as_it_is_repeated() {
        let last = LastHost::default();
        let made = |req: &Request<()>, with: &str| {
            let authority = read(req, &last, None, 80).unwrap();
            let said = last.forwarded(&authority, false, |host| {
                lines([host, with.as_bytes()].concat())
            });
            said.map(|said| String::from_utf8(text(&said).to_vec()).unwrap())
        };
        let said = |text: &str| Some(text.to_owned());
        let upper = request(Version::HTTP_11, "/", &["A.example"]);
        assert_eq!(made(&upper, " 1"), said("A.example 1"));
        assert_eq!(made(&upper, " 2"), said("A.example 1"));
        let other = request(Version::HTTP_11, "/", &["b.example"]);
        assert_eq!(made(&other, " 3"), said("b.example 3"));
        // Of an absolute target nothing is remembered.
        let absolute = request(Version::HTTP_11, "http://b.example/", &["b.example"]);
        assert_eq!(made(&absolute, " 4"), None);
    }

    #[test]
    fn authority_of_http_2_is_parsed_once_and_is_no_host_line() {
        let last = LastHost::default();
        let target = request(Version::HTTP_2, "https://A.example/", &[]);
        let first = read(&target, &last, None, 443).unwrap();
        assert!(Rc::ptr_eq(
            &first,
            &read(&target, &last, None, 443).unwrap()
        ));
        let said = last.forwarded(&first, false, |host| lines(host.to_vec()));
        assert_eq!(text(&said.unwrap()), b"a.example");
        let line = request(Version::HTTP_2, "/", &["A.example"]);
        let line = read(&line, &last, None, 443).unwrap();
        let said = last.forwarded(&line, false, |host| lines(host.to_vec()));
        assert_eq!(text(&said.unwrap()), b"A.example");
        // Upstreams of HTTP/2 are told apart.
        let group = Group::new([(HOST, HeaderValue::from_static("A.example"))]);
        let said = last.forwarded(&line, true, |_| Some(Forwarded::Group(group)));
        assert!(said.unwrap().is_http2());
        let said = last.forwarded(&line, false, |_| None);
        assert_eq!(text(&said.unwrap()), b"A.example");
        // Both are compared where both are said.
        let both = request(Version::HTTP_2, "https://b.example/", &["A.example"]);
        assert!(read(&both, &last, None, 443).is_err());
    }
}
