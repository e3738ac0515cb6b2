//! The one authority of a request: what the comparison, routing and `pass_host` see.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::HOST;
use http::{HeaderValue, Request, Version};

use crate::failure::Reason;
use crate::matching::authority::Authority;

/// A connection's last Host line with what it parsed to: clients repeat it.
#[derive(Debug, Default)]
pub struct LastHost(RefCell<Option<(HeaderValue, Rc<Authority>)>>);

impl LastHost {
    fn parse(&self, line: &HeaderValue) -> Result<Rc<Authority>, Reason> {
        if let Some((known, authority)) = &*self.0.borrow()
            && known == line
        {
            return Ok(authority.clone());
        }
        let authority = Rc::new(parse(line.as_bytes())?);
        // A copy: a clone would keep the whole buffer alive that the request was read into.
        if let Ok(line) = HeaderValue::from_bytes(line.as_bytes()) {
            self.0.replace(Some((line, authority.clone())));
        }
        Ok(authority)
    }
}

fn parse(raw: &[u8]) -> Result<Authority, Reason> {
    Authority::parse(raw).map_err(|_error| Reason::AuthorityInvalid)
}

/// Reads the authority of a request (RFC 9112 §3.2).
///
/// The target of an absolute-form request wins and must equal Host, default ports aside.
/// HTTP/1.0 without Host means the connection's `sni`.
///
/// # Errors
/// `AuthorityInvalid`: no Host, several, an empty or malformed one, or one that differs.
pub fn read<B>(
    req: &Request<B>,
    last: &LastHost,
    sni: Option<&str>,
    default_port: u16,
) -> Result<Rc<Authority>, Reason> {
    let mut lines = req.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Reason::AuthorityInvalid);
    }
    let host = line.map(|line| last.parse(line)).transpose()?;
    if let Some(target) = req.uri().authority() {
        let target = parse(target.as_str().as_bytes())?;
        return match host {
            Some(host) if !target.same_ignoring_default_port(&host, default_port) => {
                Err(Reason::AuthorityInvalid)
            }
            // HTTP/2 has `:authority` instead of Host (RFC 9113 §8.3.1).
            None if req.version() == Version::HTTP_11 => Err(Reason::AuthorityInvalid),
            _ => Ok(Rc::new(target)),
        };
    }
    match (host, sni) {
        (Some(host), _) => Ok(host),
        (None, Some(sni)) if req.version() == Version::HTTP_10 => {
            parse(sni.as_bytes()).map(Rc::new)
        }
        (None, _) => Err(Reason::AuthorityInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut req = Request::builder().version(version).uri(target);
        for host in hosts {
            req = req.header(HOST, *host);
        }
        req.body(()).unwrap()
    }

    fn host(version: Version, target: &str, hosts: &[&str]) -> Result<String, Reason> {
        let req = request(version, target, hosts);
        read(&req, &LastHost::default(), Some("sni.example"), 443).map(|a| a.as_str().to_owned())
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
    fn a_repeated_line_is_parsed_once() {
        let last = LastHost::default();
        let req = request(Version::HTTP_11, "/", &["a.example"]);
        let first = read(&req, &last, None, 80).unwrap();
        let second = read(&req, &last, None, 80).unwrap();
        assert!(Rc::ptr_eq(&first, &second));
    }
}
