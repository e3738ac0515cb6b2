//! The two that are compared: an nginx and a gateway with the same names, certificates and policies.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::gateway::Setup;
use crate::support::origin::Origin;
use crate::support::pki::{Ca, Pair, PairFiles};
use crate::support::site::Site;

const WEAK_KEYS_ALLOWED: &str = "openssl_conf = init
[init]
ssl_conf = modules
[modules]
system_default = all
[all]
CipherString = DEFAULT@SECLEVEL=0
";

/// What both serve alike: a `server` of nginx, an ssl of the gateway.
pub(super) struct Server {
    /// The first one names it.
    pub(super) names: Vec<&'static str>,
    /// One, or several of different key types.
    pub(super) pairs: Vec<Pair>,
    /// What it asks of clients; `None`: nothing.
    pub(super) client: Option<Client>,
}

/// What a [`Server`] asks of clients.
#[derive(Clone)]
pub(super) struct Client {
    /// PEM.
    pub(super) ca: String,
    /// Revocation lists, PEM; `None`: nothing is held against any.
    pub(super) crl: Option<String>,
    /// `None`: the default of both, 1.
    pub(super) depth: Option<u32>,
    pub(super) mode: Mode,
}

/// `client.mode`. nginx's `ssl_verify_client on` is `deferred`: the handshake ends, the request is
/// refused. `required` has no counterpart there and is compared with `on` too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Required,
    Deferred,
    Optional,
}

/// Where both have sessions kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sessions {
    /// By the server.
    Cached,
    /// By the client, in tickets.
    Tickets,
}

impl Sessions {
    pub(super) const ALL: [Self; 2] = [Self::Cached, Self::Tickets];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Tickets => "tickets",
        }
    }

    /// What `session_tickets` is called in both.
    const fn tickets(self) -> &'static str {
        match self {
            Self::Cached => "off",
            Self::Tickets => "on",
        }
    }
}

/// Both, running.
pub(super) struct Peers {
    pub(super) site: Site,
    nginx: Origin,
    weak_keys_allowed: PathBuf,
}

/// One of both, as a client finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Nginx,
    Ours,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Required, Self::Deferred, Self::Optional];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Deferred => "deferred",
            Self::Optional => "optional",
        }
    }
}

impl Client {
    /// Clients of this CA, with the default depth.
    pub(super) fn of(ca: &Ca, mode: Mode) -> Self {
        Self {
            ca: ca.pem(),
            crl: None,
            depth: None,
            mode,
        }
    }
}

impl Server {
    /// A server of one name with a certificate of this CA.
    pub(super) fn new(ca: &Ca, name: &'static str, client: Option<Client>) -> Self {
        Self {
            names: vec![name],
            pairs: vec![ca.server(name)],
            client,
        }
    }
}

impl Peers {
    /// Starts both. `servers` makes them from the CA that the gateway's certificates come from.
    #[track_caller]
    pub(super) fn start(servers: impl FnOnce(&Ca) -> Vec<Server>) -> Self {
        Self::keeping(Sessions::Cached, servers)
    }

    /// The same, with sessions kept there.
    #[track_caller]
    pub(super) fn keeping(sessions: Sessions, servers: impl FnOnce(&Ca) -> Vec<Server>) -> Self {
        let site = Site::with(Setup::default().set("https.session_tickets", sessions.tickets()));
        let servers = servers(&site.ca);
        for server in &servers {
            let mut document = json!({"snis": server.names});
            if let [_, more @ ..] = &server.pairs[..]
                && !more.is_empty()
            {
                document["certs"] = more.iter().map(|pair| json!(pair.cert)).collect();
                document["keys"] = more.iter().map(|pair| json!(pair.key)).collect();
            }
            if let Some(client) = &server.client {
                document["client"] = json!({"ca": client.ca, "mode": client.mode.name()});
                if let Some(crl) = &client.crl {
                    document["client"]["crl"] = json!(crl);
                }
                if let Some(depth) = client.depth {
                    document["client"]["depth"] = json!(depth);
                }
            }
            let id = server.names[0].replace('*', "any");
            site.put_ssl_with(&id, server.names[0], &server.pairs[0], &document);
        }
        let nginx = Origin::nginx_of(|folder, port| write(&servers, sessions, folder, port));
        let weak_keys_allowed = site.folder.path().join("weak.cnf");
        fs::write(&weak_keys_allowed, WEAK_KEYS_ALLOWED).unwrap();
        Self {
            site,
            nginx,
            weak_keys_allowed,
        }
    }

    pub(super) fn port(&self, peer: Peer) -> u16 {
        match peer {
            Peer::Nginx => self.nginx.port(),
            Peer::Ours => self.site.gateway.https_port(),
        }
    }

    /// A configuration of OpenSSL with which its programs show what they are told to: weak keys are
    /// the server's to refuse.
    pub(super) fn weak_keys_allowed(&self) -> &Path {
        &self.weak_keys_allowed
    }

    /// Writes a client's pair where programs find it.
    pub(super) fn write(&self, pair: &Pair, stem: &str) -> PairFiles {
        self.site.write(pair, stem)
    }
}

impl Peer {
    pub(super) const ALL: [Self; 2] = [Self::Nginx, Self::Ours];
}

/// What nginx needs. Where a default of nginx's decides, it stays nginx's.
fn write(servers: &[Server], sessions: Sessions, folder: &Path, port: u16) {
    let mut blocks = String::new();
    for (index, server) in servers.iter().enumerate() {
        let names = server.names.join(" ");
        writeln!(
            blocks,
            "server {{ listen 127.0.0.1:{port} ssl http2; server_name {names};"
        )
        .unwrap();
        for (nth, pair) in server.pairs.iter().enumerate() {
            let PairFiles { cert, key } = pair.write(folder, &format!("server-{index}-{nth}"));
            writeln!(
                blocks,
                "ssl_certificate {}; ssl_certificate_key {};",
                cert.display(),
                key.display()
            )
            .unwrap();
        }
        if let Some(client) = &server.client {
            let path = folder.join(format!("client-ca-{index}.crt"));
            fs::write(&path, &client.ca).unwrap();
            let verify = match client.mode {
                Mode::Required | Mode::Deferred => "on",
                Mode::Optional => "optional",
            };
            writeln!(
                blocks,
                "ssl_client_certificate {}; ssl_verify_client {verify};",
                path.display()
            )
            .unwrap();
            if let Some(crl) = &client.crl {
                let path = folder.join(format!("client-crl-{index}.pem"));
                fs::write(&path, crl).unwrap();
                writeln!(blocks, "ssl_crl {};", path.display()).unwrap();
            }
            if let Some(depth) = client.depth {
                writeln!(blocks, "ssl_verify_depth {depth};").unwrap();
            }
        }
        blocks.push_str("location / { return 200 \"served\"; } }\n");
    }
    // As the gateway: nobody is served for a name that is not there, and the security level is 2
    // whatever the distribution's default is.
    let tickets = sessions.tickets();
    let config = format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server_names_hash_bucket_size 128;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_ciphers "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2";
  ssl_session_cache shared:all:4m;
  ssl_session_tickets {tickets};
  server {{
    listen 127.0.0.1:{port} ssl http2 default_server;
    ssl_reject_handshake on;
    location / {{ return 200 "served"; }}
  }}
  {blocks}
}}
"#
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
}
