//! The arguments of `a6`.
//!
//! Ids and names are lists where the public tool counts them: its sentence has the number.

use std::path::PathBuf;

use clap::{Args as Arguments, Parser, Subcommand};

/// Command line for the Admin API of Portcullis, and of Apache APISIX.
#[derive(Debug, Parser)]
#[command(name = "a6", disable_help_subcommand = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of every command, before or after the verb.
#[derive(Clone, Debug, Default, Arguments)]
#[command(next_help_heading = "Global options")]
pub(super) struct Globals {
    /// Output format: json, yaml or table
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(super) output: Option<String>,
    /// Admin base URL, without /apisix/admin [env: A6_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) server: Option<String>,
    /// Admin key; other users of this machine may see it, so prefer the environment [env: A6_API_KEY]
    #[arg(long, global = true, value_name = "KEY")]
    pub(super) api_key: Option<String>,
    /// Context of the configuration file to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// CA certificates to trust instead of the system's, PEM [env: A6_CA_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_cert: Option<PathBuf>,
    /// Client certificate for an admin port that asks for one, PEM [env: A6_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) client_cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM [env: A6_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) client_key: Option<PathBuf>,
    /// Do not check the server's certificate: anyone in between can read the key
    #[arg(long, global = true)]
    pub(super) insecure: bool,
    /// Ask nothing
    #[arg(long, global = true)]
    pub(super) force: bool,
    /// Tell each request and its status on standard error
    #[arg(long, global = true)]
    pub(super) verbose: bool,
}

/// The groups.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// SSL certificates: what names are served with, and who may come
    #[command(subcommand)]
    Ssl(SslVerb),
    /// Upstreams: nodes, and how the gateway reaches and trusts them
    #[command(subcommand)]
    Upstream(UpstreamVerb),
    /// Routes: which requests go where
    #[command(subcommand)]
    Route(RouteVerb),
    /// Services: what several routes share
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Secrets: how secret managers are reached
    #[command(subcommand)]
    Secret(SecretVerb),
    /// The configuration as one file: compare, apply, write, check
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Contexts: which server, with which key
    #[command(subcommand)]
    Context(ContextVerb),
    /// Certificates: what there is, when it ends, what would break
    #[command(subcommand)]
    Cert(CertVerb),
    /// Dry handshakes, with the verdict in a sentence
    #[command(subcommand)]
    Probe(ProbeVerb),
    /// Follows a request through the gateway, or its log
    #[command(subcommand)]
    Debug(DebugVerb),
    /// Explains a failure reason; without one, lists them all
    Explain {
        /// The reason of an access record, e.g. client_cert_missing
        code: Option<String>,
        /// The last failure that the gateway met, with its evidence
        #[arg(long)]
        last: bool,
    },
    /// The gateway's report on its FIPS mode
    Fips {
        /// Have the gateway sign it
        #[arg(long)]
        sign: bool,
    },
    /// The record of changes
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Makes a small CA, a server's and a client's certificate for trying things out
    InitMtls(InitMtls),
    /// Prints a completion script for a shell
    Completion {
        /// bash, zsh, fish or powershell
        shell: Vec<String>,
    },
    /// Prints the version
    Version,
    /// Completes a command line; what the scripts of `completion` call
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words after `a6`, the last one to be completed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Groups of the public tool that are not here, and what is no group at all.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Verbs that are the same in every group.
#[derive(Debug, Subcommand)]
pub(super) enum Common {
    /// Creates, or replaces where the file names an id that exists
    Create(File),
    /// Changes: what the file leaves out stays as it is (the public tool replaces: --replace)
    Update(Update),
    /// Shows one
    Get(Ids),
    /// Writes all of them, without their times
    Export(Export),
}

/// Verbs of `ssl`.
#[derive(Debug, Subcommand)]
pub(super) enum SslVerb {
    #[command(flatten)]
    Common(Common),
    /// Lists
    #[command(visible_alias = "ls")]
    List(Paging),
    /// Deletes
    Delete(Delete),
}

/// Verbs of `upstream`.
#[derive(Debug, Subcommand)]
pub(super) enum UpstreamVerb {
    #[command(flatten)]
    Common(Common),
    /// Lists
    #[command(visible_alias = "ls")]
    List(NamedList),
    /// Deletes
    Delete(Delete),
    /// Shows what health checks say of its nodes
    Health(Health),
}

/// Verbs of `route`.
#[derive(Debug, Subcommand)]
pub(super) enum RouteVerb {
    #[command(flatten)]
    Common(Common),
    /// Lists
    #[command(visible_alias = "ls")]
    List(RouteList),
    /// Deletes
    Delete(Delete),
}

/// Verbs of `service`.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceVerb {
    #[command(flatten)]
    Common(Common),
    /// Lists
    #[command(visible_alias = "ls")]
    List(NamedList),
    /// Deletes
    Delete(Delete),
}

/// Verbs of `secret`.
#[derive(Debug, Subcommand)]
pub(super) enum SecretVerb {
    /// Creates, or replaces; the id is manager/id, as an argument or in the file
    Create(SecretFile),
    /// Changes: what the file leaves out stays as it is (--replace replaces)
    Update(Update),
    /// Shows one
    Get(Ids),
    /// Lists
    #[command(visible_alias = "ls")]
    List(Paging),
    /// Deletes
    Delete(Ids),
    /// Shows how each reference to a secret manager fares
    Status,
}

/// Verbs of `cert`.
#[derive(Debug, Subcommand)]
pub(super) enum CertVerb {
    /// Lists every certificate of the server's resources with the days it has left
    #[command(visible_alias = "ls")]
    List,
    /// Shows the certificates of a PEM file, or those that host:port serves
    Inspect(Inspect),
    /// Lists what ends before a date, and what would break then
    Expiring(Expiring),
}

/// `cert inspect`.
#[derive(Debug, Arguments)]
pub(super) struct Inspect {
    /// A PEM file, - for standard input, or host:port
    pub(super) target: Vec<String>,
    /// Server name to send, where it is not the host
    #[arg(long, value_name = "NAME")]
    pub(super) sni: Option<String>,
    #[command(flatten)]
    pub(super) identity: Identity,
}

/// What a handshake with the gateway shows and trusts.
#[derive(Debug, Default, Arguments)]
pub(super) struct Identity {
    /// Client certificate to show, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// CA certificates to trust instead of the system's, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) cacert: Option<PathBuf>,
}

/// `cert expiring`.
#[derive(Debug, Arguments)]
pub(super) struct Expiring {
    /// The date, YYYY-MM-DD
    #[arg(long, value_name = "DATE", conflicts_with = "days")]
    pub(super) before: Option<String>,
    /// So many days from now
    #[arg(long, default_value_t = 30)]
    pub(super) days: u32,
}

/// Verbs of `probe`.
#[derive(Debug, Subcommand)]
pub(super) enum ProbeVerb {
    /// Has the gateway shake hands with every node of an upstream
    Upstream(Probed),
    /// Has the gateway shake hands with every node behind a service
    Service(Probed),
    /// Has the gateway shake hands with every node behind a route
    Route(Probed),
    /// Shakes hands with the gateway for a server name
    Listener(Listener),
}

/// `probe` of a resource.
#[derive(Debug, Arguments)]
pub(super) struct Probed {
    /// Which
    pub(super) id: Vec<String>,
    /// The host that a client would ask for, where `pass_host: pass` hands it on
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<String>,
}

/// `probe listener`.
#[derive(Debug, Arguments)]
pub(super) struct Listener {
    /// The server name to send
    pub(super) sni: Vec<String>,
    #[command(flatten)]
    pub(super) identity: Identity,
    /// The gateway; by default port 9443 of the admin server [env: APISIX_GATEWAY_URL]
    #[arg(long, value_name = "URL")]
    pub(super) gateway_url: Option<String>,
}

/// Verbs of `debug`.
#[derive(Debug, Subcommand)]
pub(super) enum DebugVerb {
    /// Sends one request by a route and reports on it
    Trace(Box<Trace>),
    /// Shows the last lines of the gateway's log
    Logs(Logs),
}

/// `debug trace`.
#[derive(Debug, Arguments)]
pub(super) struct Trace {
    /// The route
    pub(super) id: Vec<String>,
    /// Method; by default the route's first, else GET
    #[arg(long)]
    pub(super) method: Option<String>,
    /// Path; by default the route's
    #[arg(long)]
    pub(super) path: Option<String>,
    /// Header field `K: V`; repeatable
    #[arg(long, value_name = "HEADER")]
    pub(super) header: Vec<String>,
    /// Body
    #[arg(long)]
    pub(super) body: Option<String>,
    /// Host; by default the route's first. Also the server name of https
    #[arg(long)]
    pub(super) host: Option<String>,
    /// The control API; by default port 9091 of the admin server. Over TLS with the server's options
    #[arg(long, value_name = "URL")]
    pub(super) control_url: Option<String>,
    /// The gateway; by default port 9080 of the admin server [env: APISIX_GATEWAY_URL]
    #[arg(long, value_name = "URL")]
    pub(super) gateway_url: Option<String>,
    #[command(flatten)]
    pub(super) identity: Identity,
}

/// `debug logs`.
#[derive(Debug, Arguments)]
pub(super) struct Logs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub(super) follow: bool,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) tail: usize,
    /// error, access or all
    #[arg(short = 't', long = "type", default_value = "all")]
    pub(super) kind: String,
    /// The log file; by default the access log that the gateway's configuration names
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The gateway's configuration [default: /etc/portcullis/portcullis.yaml, if it exists]
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(super) config: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(super) since: Option<String>,
    #[arg(short, long, hide = true)]
    pub(super) container: Option<String>,
}

/// Verbs of `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// Lists the last changes, newest first: who, when, what
    #[command(visible_alias = "ls")]
    List(AuditList),
    /// Has the gateway verify the chain of all records; exit code 1 where it is broken
    Verify,
}

/// `audit list`.
#[derive(Debug, Arguments)]
pub(super) struct AuditList {
    /// How many
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// Only those before this sequence number
    #[arg(long, value_name = "SEQ")]
    pub(super) before: Option<u64>,
    /// Only those of this kind: ssl, upstream, service, route or secret
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Only those of the object with this id
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Only those made with this key, by its name
    #[arg(long, value_name = "NAME")]
    pub(super) actor: Option<String>,
    /// Only those that did this: create, update, delete or refresh
    #[arg(long)]
    pub(super) action: Option<String>,
    /// Only those since this time of UTC: 2026-04-14 or 2026-04-14T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only those before this time of UTC
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Only those that made something less strict
    #[arg(long)]
    pub(super) weakens: bool,
}

/// `init-mtls`.
#[derive(Debug, Arguments)]
pub(super) struct InitMtls {
    /// Folder to write to; made where it is missing
    #[arg(default_value = "mtls")]
    pub(super) folder: PathBuf,
    /// DNS name of the server; repeatable
    #[arg(long, default_value = "localhost")]
    pub(super) name: Vec<String>,
    /// Common name of the client
    #[arg(long, default_value = "client")]
    pub(super) client: String,
}

/// `-f`, with arguments that are ignored.
#[derive(Debug, Arguments)]
pub(super) struct File {
    /// JSON or YAML, one document or several: a file, a folder, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: String,
    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// `-f`, and an id.
#[derive(Debug, Arguments)]
pub(super) struct SecretFile {
    /// manager/id; without it, the file's id
    pub(super) id: Vec<String>,
    /// JSON or YAML, one document or several: a file, a folder, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: String,
}

/// `update`.
#[derive(Debug, Arguments)]
pub(super) struct Update {
    /// Which; without it, the file's id
    pub(super) id: Vec<String>,
    /// JSON or YAML: a file, a folder, or - for standard input; values @FILE hold that file's PEM
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: String,
    /// Replace the whole object by the file (PUT instead of PATCH)
    #[arg(long)]
    pub(super) replace: bool,
}

/// One id.
#[derive(Debug, Arguments)]
pub(super) struct Ids {
    /// Which
    pub(super) id: Vec<String>,
}

/// Which page of a list.
#[derive(Clone, Debug, Arguments)]
pub(super) struct Paging {
    /// Page, from 1
    #[arg(long, default_value_t = 1)]
    pub(super) page: u64,
    /// Objects on a page; the server allows 10 to 500
    #[arg(long, default_value_t = 20)]
    pub(super) page_size: u64,
}

/// A list of what has names and labels.
#[derive(Clone, Debug, Arguments)]
pub(super) struct NamedList {
    #[command(flatten)]
    pub(super) paging: Paging,
    /// Only those whose name fits
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Only those with this label: key, or key=value
    #[arg(long)]
    pub(super) label: Option<String>,
}

/// A list of routes.
#[derive(Clone, Debug, Arguments)]
pub(super) struct RouteList {
    #[command(flatten)]
    pub(super) named: NamedList,
    /// Only those whose uri fits
    #[arg(long)]
    pub(super) uri: Option<String>,
}

/// `delete`.
#[derive(Debug, Arguments)]
pub(super) struct Delete {
    /// Which
    pub(super) id: Vec<String>,
    /// Delete all
    #[arg(long)]
    pub(super) all: bool,
    /// Delete those with this label: key=value
    #[arg(long)]
    pub(super) label: Option<String>,
}

/// `export`.
#[derive(Debug, Arguments)]
pub(super) struct Export {
    /// Only those with this label: key, or key=value
    #[arg(long)]
    pub(super) label: Option<String>,
    /// Where to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<String>,
}

/// `upstream health`.
#[derive(Debug, Arguments)]
pub(super) struct Health {
    /// Which
    pub(super) id: Vec<String>,
    /// The control API; by default port 9091 of the admin server. Over TLS with the server's options
    #[arg(long, value_name = "URL")]
    pub(super) control_url: Option<String>,
}

/// Verbs of `config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Makes the server have what the file has, and nothing else
    Sync(Sync),
    /// Tells what sync would do; exit code 1 where there is something
    Diff(Declaration),
    /// Writes what the server has; private keys stay where they are
    Dump(Dump),
    /// Checks a file without asking the server
    Validate(Declaration),
}

/// A declared configuration.
#[derive(Debug, Arguments)]
pub(super) struct Declaration {
    /// YAML or JSON with sections: a file, a folder, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: String,
}

/// `config sync`.
#[derive(Debug, Arguments)]
pub(super) struct Sync {
    #[command(flatten)]
    pub(super) declaration: Declaration,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Delete what the file does not have
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub(super) delete: bool,
    /// Do not ask before deleting more than a third of what the server has
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// `config dump`.
#[derive(Debug, Arguments)]
pub(super) struct Dump {
    /// Where to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<String>,
    /// Name the section of certificates `ssl`, as the public tool does
    #[arg(long)]
    pub(super) compat: bool,
}

/// Verbs of `context`.
#[derive(Debug, Subcommand)]
pub(super) enum ContextVerb {
    /// Adds a context from --server, --api-key and the TLS options
    Create(Names),
    /// Makes a context the current one
    Use(Names),
    /// Lists contexts, never their keys
    #[command(visible_alias = "ls")]
    List,
    /// Prints the current context's name
    Current,
    /// Deletes a context
    #[command(visible_alias = "rm")]
    Delete(Names),
}

/// One name.
#[derive(Debug, Arguments)]
pub(super) struct Names {
    /// Its name
    pub(super) name: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn globals_may_stand_before_and_after_the_verb() {
        for args in [
            ["a6", "-o", "json", "ssl", "list"],
            ["a6", "ssl", "-o", "json", "list"],
            ["a6", "ssl", "list", "-o", "json"],
        ] {
            let args = Args::try_parse_from(args).unwrap();
            assert_eq!(args.globals.output.as_deref(), Some("json"));
        }
    }
}
