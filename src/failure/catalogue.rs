//! The table itself: one entry per reason. Entries are added, never renamed.
//!
//! Texts are for an operator at three in the morning: what happened, then which field to change.

use super::Blame;

macro_rules! catalogue {
    ($($name:ident $code:literal $blame:ident $meaning:literal $remedy:literal)*) => {
        /// Why something was refused or failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the catalogue.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The stable name, e.g. `client_cert_missing`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Whose doing it is.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }

            /// What happened, in sentences.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to change, naming the field.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

catalogue! {
    // The client's certificate.
    ClientCertMissing "client_cert_missing" Client
        "The name asks for a client certificate and the client sent none."
        "Give the client a certificate issued by a CA of the ssl's `client.ca`. To let clients without a certificate pass, set `client.mode` to `optional`; to ask nothing, remove `client`."
    ClientCertUnknownCa "client_cert_unknown_ca" Client
        "The client's certificate does not lead to any CA of the ssl's `client.ca`. An intermediate that the client did not send has the same effect."
        "Compare the issuer in the record with `client.ca`. Add the CA to `client.ca` if it is to be trusted, up to its self-signed root: an intermediate alone lets nobody in. Or have the client send its intermediates after its own certificate."
    ClientCertExpired "client_cert_expired" Client
        "The client's certificate, or one above it, is past its end date."
        "Issue the client a new certificate. If the record shows a date still to come, correct this machine's clock; if a CA has expired, put its successor into the ssl's `client.ca`."
    ClientCertNotYetValid "client_cert_not_yet_valid" Client
        "The client's certificate, or one above it, is not valid yet."
        "Compare the clocks of this machine and of the one that issued the certificate; then wait, or issue the certificate with an earlier start date."
    ClientCertInvalid "client_cert_invalid" Client
        "The client's certificate was refused for another reason: its purpose, its signature, a key too short, or a CA in the chain that is none. The record's detail names it."
        "Issue a certificate with the extended key usage `clientAuth`, an RSA key of at least 2048 bits or an EC key of at least 256, signed with SHA-256 or better, by a CA with `CA:TRUE`."
    ClientChainTooDeep "client_chain_too_deep" Client
        "There are more intermediate CAs between the client's certificate and the root in `client.ca` than the ssl's `client.depth` allows."
        "Raise `client.depth` of the ssl to the number of intermediates between the client's certificate and the root (default 1); those that are in `client.ca` count too. The root has to be in `client.ca`: as in nginx an intermediate alone there lets nobody in."
    ClientCertRevoked "client_cert_revoked" Client
        "The client's certificate is on its CA's revocation list, or the CA's OCSP responder calls it revoked."
        "Issue the client a new certificate. If the revocation was a mistake, have the CA take it back and put its next list into the ssl's `client.crl`."
    ClientCrlStale "client_crl_stale" Us
        "The revocation list of a CA in the client's chain should have been replaced by now. Whether the certificate was revoked since is not known, so it was refused; so is every other one of that CA."
        "Put the CA's present list into the ssl's `client.crl`, and write each new one before the former ends: `openssl crl -in ca.crl -noout -nextupdate` says when. If the date is still to come, correct this machine's clock."
    ClientCrlMissing "client_crl_missing" Us
        "The ssl has `client.crl`, and in it no list that can be used of a CA in the client's chain, so that whether a certificate was revoked is not known. The record's detail says what there is."
        "Put the lists of all CAs of the chain into `client.crl`, the root's included, one PEM block after the other: as in nginx every certificate of the chain is checked. A CA that signs lists needs the key usage `cRLSign`, and the list must be a full one."

    // The name.
    SniMissing "sni_missing" Client
        "The client opened TLS without saying which name it wants, and no fallback name is configured."
        "Have the client connect by name rather than by address, or set `https.fallback_sni` in the configuration file to the name such clients are to be served as."
    SniMalformed "sni_malformed" Client
        "The server name in the client's hello is an IP address, given twice, or no host name."
        "Have the client connect by host name; TLS does not permit an address as a server name."
    SniUnknown "sni_unknown" Client
        "No ssl names the server name that the client asked for, neither exactly nor by a wildcard of one label."
        "Add the name to the `snis` of an ssl, or correct the client's URL or the DNS record that leads it here. A wildcard stands for exactly one label."
    NameClosed "name_closed" Us
        "An ssl claims the name but cannot be served: its material is invalid, its secret is unresolved, the FIPS rules refuse it, or another ssl claims the name too with another `client`. Its name stays closed and is not served by a wildcard instead."
        "Run `portcullis check`: it names the ssl and the field at fault. Correct that field, or remove the ssl to give the name up."
    AuthorityPolicyMismatch "authority_policy_mismatch" Client
        "The request is for a name that asks something else of its clients than the name this connection was opened for. It was answered with 421 and not forwarded."
        "Clients that obey 421 repeat the request on a new connection. If this one does not, switch its connection reuse off, or give both names the same `client` policy. On the plain HTTP port, use https for this name, or set `http.client_auth_names`."
    ClientPolicyChanged "client_policy_changed" Client
        "The name's client policy changed while the connection was open, and the certificate presented then does not pass now. The request was answered with 421 and the connection closed."
        "Nothing, if the change was meant: the client reconnects and is judged anew. Otherwise compare the ssl's `client` with its former value in the audit."
    AuthorityInvalid "authority_invalid" Client
        "The request's Host is absent, empty, given twice, malformed, or differs from the request's target."
        "Correct the client: one Host header with a host name and an optional port, equal to the target's. A proxy in front that adds a second Host is the usual cause."
    PathInvalid "path_invalid" Client
        "The request's path has an invalid percent escape or an encoded NUL, or climbs above the root, or `uri` of proxy-rewrite makes a target of more than 65,534 bytes of it: every name refuses that. A name that has `skip_mtls_uri_regex` refuses also what servers read in different ways: `//`, a backslash, a dot segment, an encoded slash, backslash, dot or percent sign. The answer was 400."
        "Have the client send the plain path. If the record's path is one that only names with `client.skip_mtls_uri_regex` refuse, and it is needed, serve it under a name without."

    // The client's handshake and connection.
    ClientTlsVersion "client_tls_version" Client
        "The client and the name have no TLS version in common; the gateway never speaks less than TLS 1.2."
        "Update the client's TLS library. If the ssl narrows the versions on purpose, see its `ssl_protocols`."
    ClientNoSharedCipher "client_no_shared_cipher" Client
        "The client offers no cipher suite, group or signature algorithm that this name accepts. With `fips: required` a client that has only ChaCha20 or X25519 ends here."
        "Have the client offer ECDHE with AES-GCM and the group P-256, or give the ssl a certificate of the key type (RSA or EC) that the client can verify."
    ClientPlaintextOnTls "client_plaintext_on_tls" Client
        "The client spoke plain HTTP to the TLS port."
        "Correct the client's URL to `https://`, or send it to a port of `http.listen`."
    ClientHandshakeFailed "client_handshake_failed" Client
        "The TLS handshake with the client failed for a reason that has no name of its own; the record's detail has OpenSSL's words. An alert from the client, e.g. that it does not trust our certificate, counts here."
        "Read the record's detail. For `unknown ca` or `bad certificate` give the client the CA of the ssl's `cert`, and put the intermediates into `cert` after the leaf."
    ClientKeyUpdateFlood "client_key_update_flood" Client
        "The client had the connection's keys changed more than 32 times within a minute (KeyUpdate, TLS 1.3). The connection was closed."
        "Nothing here, if the client is a stranger: it cost no more than its own connection. If it is one of yours, look for what has it send KeyUpdates; no TLS library needs more than one in millions of records."
    Http2Violation "http2_violation" Client
        "The client did on an HTTP/2 connection what the protocol does not let it do (RFC 9113), or so much of something that it is taken for an attack: streams that had to be reset, frames without content, header fields without end. The connection was ended with a GOAWAY, and its requests with it; the record's detail says for what."
        "Where the detail speaks of a header block or a list, have the client send fewer or shorter headers; else update its HTTP/2 library, or have it speak HTTP/1.1. If the client is a stranger: nothing, it cost no more than its own connection."
    ClientGone "client_gone" Client
        "The client closed or reset the connection before the answer was complete."
        "Nothing here, if it is rare. If it is common, compare the client's time-out with the upstream's duration in the record."
    ClientTimeout "client_timeout" Client
        "The client took too long to send its request, or to take the answer."
        "Look at the network between the client and the gateway. For slow clients raise `limits.header_timeout` or `limits.body_timeout`."
    HandshakeTimeout "handshake_timeout" Client
        "The client did not finish the TLS handshake in time."
        "Look at the network, and for port scanners and health checks that open a connection and say nothing. For slow clients raise `https.handshake_timeout`."
    RequestInvalid "request_invalid" Client
        "The request is not valid HTTP: a malformed line or header, or a contradictory length."
        "Correct the client; the record's detail says what is wrong."
    RequestHeadTooLarge "request_head_too_large" Client
        "The request's target and headers are more than the gateway takes of a head: the record's detail says whether in bytes or in lines (HTTP/1.1). The request was answered with 431."
        "Where the detail speaks of bytes, have the client send smaller cookies, tokens or metadata, or raise `limits.header_bytes`; where it speaks of lines, have it send fewer, or raise `limits.header_lines`."
    RequestLineTooLong "request_line_too_long" Client
        "The request's first line alone, which is method, target and version, is more than the gateway takes (HTTP/1.1). The request was answered with 414."
        "Have the client send what it asks for in a body, or raise `limits.header_bytes`. A target of more than 65,534 bytes is refused whatever the limit is."
    HttpVersionRefused "http_version_refused" Client
        "The request's first line names a version of HTTP that is not spoken in this form, such as HTTP/2.0 or HTTP/3.0. The request was answered with 505."
        "Correct the client: in lines of text it may speak HTTP/1.1, and HTTP/2 begins with a preface of its own."

    // Capacity and readiness.
    HandshakeOverload "handshake_overload" Us
        "More handshakes were waiting than the gateway admits, and this one was dropped. Established connections and names in use are not affected."
        "Look for a storm of new connections by peer address. If it is honest traffic, add cores or gateways, or raise `limits.handshakes`, and have the clients keep their connections."
    ReadAheadOverload "read_ahead_overload" Us
        "Routes ask for bodies (`post_arg.…` or `graphql_…` in `vars`), and those that were read for them and are not passed on yet take all the memory that is meant for it: in each worker, 64 times `limits.routed_body_bytes`."
        "Look for clients that send large bodies slowly, and for upstreams that take them slowly: a body is held until it was passed on. Put conditions that need no body before those that do, or lower `limits.routed_body_bytes`; add cores or gateways for honest traffic."
    ContextUnavailable "context_unavailable" Us
        "The TLS context of the name could not be made ready in time, because too many cold names were asked for at once or its material could no longer be loaded."
        "Raise `limits.contexts` above the number of names in use. If one name alone is affected, run `portcullis check`."

    ShutDown "shut_down" Us
        "The gateway was stopped, and the request had not come to its end within `shutdown_timeout`: it was cut off."
        "Nothing, if it is rare. Where long answers or tunnels are to end by themselves, raise `shutdown_timeout`."

    // Routing.
    MethodRefused "method_refused" Client
        "The request's method is CONNECT or TRACE. Neither is served here, whatever the routes say, as in nginx: one asks for a tunnel to anywhere, the other for a copy of what an upstream is told, the headers that the gateway adds included. It was answered with 405."
        "Correct the client. If an upstream is to be traced, ask it directly, or look at the record of an ordinary request."
    RouteNotFound "route_not_found" Client
        "No route matches the request's host, path and method. It was answered with 404."
        "Compare the request with the routes' `hosts`, `uri` and `methods`; a route with `status: 0` does not match. A prefix needs `/*` at the end of its `uri`."
    RouteClosed "route_closed" Us
        "The route that matches could not be compiled and is closed, so that no weaker route answers in its place. The request was answered with 503."
        "Run `portcullis check`: it names the route and the field at fault."
    ServiceMissing "service_missing" Us
        "The route's `service_id` names a service that does not exist. The route is closed whatever it has of its own, and was answered with 404."
        "Create the service, or correct `service_id` of the route in the record."
    UpstreamMissing "upstream_missing" Us
        "The route leads to no upstream: neither it nor its service has one, or `upstream_id` names one that does not exist."
        "Give the route or its service an `upstream`, or an `upstream_id` that exists."
    NoUpstream "no_upstream" Us
        "The matching route neither forwards the request nor answers it by a plugin."
        "Give the route an `upstream`, an `upstream_id` or a `service_id`."
    NoNode "no_node" Upstream
        "The upstream has no node to send the request to: its list is empty, or what it is found by leads to none. The request was answered with 503."
        "See the upstream's `nodes`, or its `service_name` and what DNS says of it."
    NoWeight "no_weight" Upstream
        "All of the upstream's nodes, and there are several, have the weight 0: none of them is to be sent anything. The request was answered with 502, as by APISIX."
        "Give a weight to the nodes that are to be used again."

    // The upstream's certificate and ours.
    UpstreamCaUnknown "upstream_ca_unknown" Upstream
        "The upstream's certificate does not lead to a CA that this upstream trusts."
        "Put the CA of the upstream's certificate into `tls.ca_certs` of the upstream, or into the file that `upstream.trust_file` names. Have the upstream send its intermediates."
    UpstreamNameMismatch "upstream_name_mismatch" Upstream
        "The upstream's certificate is valid but for another name than the one asked for; the record's detail has both."
        "Set `tls.server_name` of the upstream to a name in its certificate, or set `pass_host` to `node` or `rewrite`, or issue the upstream a certificate with this name as a subject alternative name."
    UpstreamCertExpired "upstream_cert_expired" Upstream
        "The upstream's certificate, or one above it, is past its end date."
        "Renew the upstream's certificate and reload the upstream. If its date is still to come, correct this machine's clock; if a CA has expired, replace it in `tls.ca_certs`."
    UpstreamCertNotYetValid "upstream_cert_not_yet_valid" Upstream
        "The upstream's certificate, or one above it, is not valid yet."
        "Compare the clocks of this machine and of the one that issued the certificate; then wait, or issue it with an earlier start date."
    UpstreamCertInvalid "upstream_cert_invalid" Upstream
        "The upstream's certificate was refused for another reason: its purpose, its signature, a key too short, or a CA in the chain that is none. The record's detail names it. In FIPS mode a weak or unapproved key or signature is refused even where `tls.verify` is off."
        "Issue the upstream a certificate with the extended key usage `serverAuth`, an RSA key of at least 2048 bits or an EC key of at least 256, signed with SHA-256 or better."
    UpstreamCertRevoked "upstream_cert_revoked" Upstream
        "The upstream's certificate, or one above it, is on its CA's revocation list. The request was answered with 502."
        "Issue the upstream a new certificate. If the revocation was a mistake, have the CA take it back and put its next list into `tls.crl` of the upstream."
    UpstreamCrlStale "upstream_crl_stale" Us
        "The revocation list of a CA in the upstream's chain should have been replaced by now. Whether the certificate was revoked since is not known, so the request was answered with 502."
        "Put the CA's present list into `tls.crl` of the upstream, and write each new one before the former ends: `openssl crl -in ca.crl -noout -nextupdate` says when. If the date is still to come, correct this machine's clock."
    UpstreamCrlMissing "upstream_crl_missing" Us
        "The upstream has `tls.crl`, and in it no list that can be used of a CA in its certificate's chain, so that whether a certificate was revoked is not known. The record's detail says what there is. The request was answered with 502."
        "Put the lists of all CAs of the chain into `tls.crl`, the root's included, one PEM block after the other. A CA that signs lists needs the key usage `cRLSign`, and the list must be a full one."
    UpstreamRejectedOurCert "upstream_rejected_our_cert" Upstream
        "The upstream refused the client certificate we presented. The request was answered with 502."
        "Check that the CA of `tls.client_cert` is one that the upstream trusts (nginx: `ssl_client_certificate`), that it is not expired, and that it permits `clientAuth`; put intermediates into `tls.client_cert` after the leaf."
    UpstreamWantsClientCert "upstream_wants_client_cert" Upstream
        "The upstream asks for a client certificate and this upstream object has none to present. The request was answered with 502."
        "Set `tls.client_cert` and `tls.client_key` of the upstream, issued by the CA that the service trusts."

    // The upstream's connection.
    UpstreamSpeaksPlaintext "upstream_speaks_plaintext" Upstream
        "The upstream answered our TLS hello in plain text."
        "Set `scheme` of the upstream to `http`, or correct the port of the node to the one that speaks TLS."
    UpstreamExpectsTls "upstream_expects_tls" Upstream
        "The upstream wants TLS and we spoke plain HTTP to it."
        "Set `scheme` of the upstream to `https`, or correct the port of the node to the one that speaks plain HTTP."
    UpstreamRefused "upstream_refused" Upstream
        "Nothing listens on the node's address and port: the connection was refused."
        "Start the service, or correct host and port of the node in `nodes`."
    UpstreamUnreachable "upstream_unreachable" Upstream
        "The node's address cannot be reached: no route to host or network."
        "Check the node's address in `nodes`, the routes of this machine and the firewall between them."
    UpstreamReset "upstream_reset" Upstream
        "The upstream closed or reset the connection before its answer was complete."
        "Look into the service's log for a crash or restart at this time. If it happens on reused connections, set `keepalive_pool.idle_timeout` of the upstream below the service's own keep-alive time. If every request ends so and `scheme` of the upstream is `http`, its port may speak TLS: set `scheme` to `https`. If the record's detail says `closed without close_notify`, the answer had no length and may have been cut short: have the service send a `Content-Length` or chunks, or end its TLS connections properly."
    UpstreamUnresolvable "upstream_unresolvable" Upstream
        "The name of a node or a service could not be resolved to an address; the record's detail has the words of who was asked."
        "Correct the host in `nodes` or the `service_name`, or look at the DNS servers: those of `resolver.servers` of the configuration, else of /etc/resolv.conf."
    UpstreamTimeout "upstream_timeout" Upstream
        "The upstream did not connect, take the request or answer in time. The request was answered with 504."
        "Look at the service's own duration. If it is right, raise `timeout.connect`, `timeout.send` or `timeout.read` of the upstream; the record's detail says which one ran out."
    UpstreamRetriesOver "upstream_retries_over" Upstream
        "The last node that was tried was late, and though the upstream's `retries` were not used up there was no further try: `retry_timeout` was over, or every node had been tried. The request was answered with 502, as APISIX does."
        "Look at the nodes' own durations. For more tries make `timeout.connect` and `timeout.read` of the upstream shorter, or its `retry_timeout` longer."
    TunnelIdle "tunnel_idle" Upstream
        "Nothing passed in either direction of a connection that went over to another protocol (WebSocket) for as long as the upstream's `timeout.read`, and it was closed."
        "Have one of the two send something now and then, as WebSocket does with pings, or raise `timeout.read` of the upstream or the route."
    UpstreamTlsVersion "upstream_tls_version" Upstream
        "The upstream and this gateway have no TLS version in common; the gateway never speaks less than TLS 1.2."
        "Update the service's TLS library or configuration, or see `tls.min_version` and `tls.max_version` of the upstream."
    UpstreamNoSharedCipher "upstream_no_shared_cipher" Upstream
        "The upstream accepts no cipher suite, group or signature algorithm that we offer."
        "Have the service accept ECDHE with AES-GCM and the group P-256; if the upstream has `tls.ciphers` or `tls.groups`, let them name what the service accepts, with TLS 1.2 the curve of its EC certificate too."
    UpstreamSniRefused "upstream_sni_refused" Upstream
        "The upstream does not serve the server name we sent, or wants one and got none, which is so where the name is an address (alert `unrecognized_name`). The record's detail says which."
        "Set `tls.server_name` of the upstream to a name that the service serves, or set `pass_host` to `node` or `rewrite`."
    UpstreamHandshakeFailed "upstream_handshake_failed" Upstream
        "The TLS handshake with the upstream failed for a reason that has no name of its own; the record's detail has OpenSSL's words."
        "Read the record's detail, and the service's log at this time. Try the node by hand with `openssl s_client -connect HOST:PORT -servername NAME`."
    UpstreamProtocolError "upstream_protocol_error" Upstream
        "The upstream's answer is not valid HTTP."
        "Check that the node's port is the service's HTTP port. Otherwise the service is at fault: look at its answer with `curl -v`."
    UpstreamIsSelf "upstream_is_self" Us
        "The node's address is an admin or status address of this gateway, which no route may reach."
        "Correct the host and port in `nodes` of the upstream."
    LoopDetected "loop_detected" Us
        "The request had come through this gateway several times already: a route leads back to the gateway itself, directly or by way of others, and the request would have gone round for ever. The answer was 508."
        "Look at the route and the node in the record: that node is this gateway, or leads back to it. Give the upstream the address of the service, or a Host (`pass_host`, `upstream_host`) that another route answers to."
    UpstreamNotReady "upstream_not_ready" Us
        "The upstream's TLS configuration could not be made ready: its material is invalid or its secret is unresolved. Requests for it are answered with 503."
        "Run `portcullis check`: it names the upstream and the field at fault, usually `tls.client_cert`, `tls.client_key` or `tls.ca_certs`."

    // Secrets and the rest.
    SecretUnresolved "secret_unresolved" Us
        "A reference to a secret could not be resolved, and no earlier good value is kept. What needs it is closed."
        "Look at `a6 secret status` (`GET /portcullis/v1/secrets`): it says for each reference what its manager answered. It is tried again every few seconds."
    SecretInvalid "secret_invalid" Us
        "A secret manager has a new value that does not work where it is referred to: it cannot be read, or certificate and key do not belong together. The last good value stays in force."
        "Look at `a6 secret status` for the object and the fault; then correct the value at the manager. Write certificate and key to one path, so that they always change together."
    SecretOriginNotTrusted "secret_origin_not_trusted" Us
        "A credential that is not part of the secrets object would have gone to an address that the configuration does not list."
        "List the manager's address in `secrets.<manager>.origins` of the configuration file, or put the credential into the secrets object itself, together with the address."
    Internal "internal" Us
        "The gateway met a condition that should be impossible. The request was answered with 500."
        "Report it with the log lines that have the same request id. Nothing in the configuration needs to change."
}
