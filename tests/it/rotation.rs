//! Rotations under load: certificates, key types, client CAs, revocation lists, the gateway's own
//! identity and trust towards upstreams, and all of that in a secret manager. A rotation is in force when its reply arrives and fails no request.
//!
//! Each client asks while a rotation is made and between any two, and each of its asks is judged by
//! the rotations that can have been in force while it lasted. So many requests over kept connections
//! and so many new connections come with each rotation as 200 and 50 a second would bring. How fast
//! that goes is the machine's, and printed; `make rotation` holds the rates themselves.

mod clients;
mod load;
mod references;
mod upstreams;

use serde_json::Value;

use crate::support::gateway::{ADMIN_KEY, Gateway};
use crate::support::raw::{RawClient, RawReply};

const NAME: &str = "api.example.com";

/// A writer of the Admin API, quicker than curl.
struct Admin {
    port: u16,
}

impl Admin {
    fn of(gateway: &Gateway) -> Self {
        Self {
            port: gateway.port("admin"),
        }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> RawReply {
        // A kept connection would end while keys are made on a busy machine.
        let mut client = RawClient::connect(self.port);
        let length = body.len();
        client.send(format!(
            "{method} /apisix/admin{path} HTTP/1.1\r\nHost: admin\r\nX-API-KEY: {ADMIN_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        ));
        client.read_reply()
    }

    #[track_caller]
    fn try_put(&self, path: &str, document: &Value) -> RawReply {
        self.ask("PUT", path, &document.to_string())
    }

    /// PUT of a document that must be taken.
    #[track_caller]
    fn put(&self, path: &str, document: &Value) {
        let reply = self.try_put(path, document);
        assert!(matches!(reply.status, 200 | 201), "{path}: {reply:?}");
    }

    /// DELETE of an object that is there.
    #[track_caller]
    fn delete(&self, path: &str) {
        self.ask("DELETE", path, "").expect_status(200);
    }

    /// PUT of a document that must be refused with this in the message.
    #[track_caller]
    fn expect_refused(&self, path: &str, document: &Value, text: &str) {
        let reply = self.try_put(path, document).expect_status(400);
        assert!(reply.text().contains(text), "no {text:?} in {reply:?}");
    }
}
