//! The contract against moto's server, which plays AWS in a process of its own and has botocore
//! verify every signature, so that nothing of ours judges what is ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::contract::{self, Known, find};
use super::super::custody::Opened;
use super::super::custody::samples::document;
use super::super::ground::samples::ground;
use super::super::settings::Settings;
use super::super::source::ReadFault;
use super::super::standin::local;
use super::Aws;
use super::tests::VALUES;
use crate::resource::Kind;

const REGION: &str = "eu-central-1";

/// How long it may take to come up on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running server; it is killed when this is dropped.
struct Moto {
    child: Child,
    address: String,
}

impl Moto {
    fn start() -> Self {
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .unwrap_or_default();
        let installed = home.join(".cache/portcullis/managers/bin/moto_server");
        let program = if installed.exists() {
            installed
        } else {
            PathBuf::from("moto_server")
        };
        let mut child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto's server can be started: `make managers` installs it");
        let said = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = mpsc::channel();
        // Read to the end, so that what it says never fills the pipe.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    let _gone = tell.send(address.trim().to_owned());
                }
            }
        });
        match told.recv_timeout(START) {
            Ok(address) => Self { child, address },
            Err(error) => {
                let _gone = child.kill();
                panic!("moto's server does not start: {error}");
            }
        }
    }

    /// What a request that nobody has signed is answered with.
    fn ask(&self, service: &str, fields: &str, body: &str) -> String {
        let mut tcp = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let scope = format!("a/20260101/{REGION}/{service}/aws4_request");
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x\r\n\
             {fields}\r\n\r\n{body}",
            if service == "moto" {
                "/moto-api/reset-auth"
            } else {
                "/"
            },
            self.address,
        );
        tcp.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer
    }

    fn keep(&self, name: &str, text: &str) {
        let fields = "Content-Type: application/x-amz-json-1.1\r\n\
                      X-Amz-Target: secretsmanager.CreateSecret";
        let body = json!({"Name": name, "SecretString": text}).to_string();
        self.ask("secretsmanager", fields, &body);
    }

    /// A user and a role that may read secrets, with whose keys alone they can be read from now.
    fn sign_in(&self) -> [Key; 2] {
        let ask = |service: &str, body: &str| {
            let fields = "Content-Type: application/x-www-form-urlencoded";
            self.ask(service, fields, body)
        };
        let iam = |body: &str| ask("iam", &format!("Version=2010-05-08&{body}"));
        let policy = json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]});
        let policy = format!("PolicyName=p&PolicyDocument={policy}");
        iam("Action=CreateUser&UserName=gateway");
        iam(&format!("Action=PutUserPolicy&UserName=gateway&{policy}"));
        iam("Action=CreateRole&RoleName=gateway&AssumeRolePolicyDocument={}");
        iam(&format!("Action=PutRolePolicy&RoleName=gateway&{policy}"));
        let role = "arn:aws:iam::123456789012:role/gateway";
        let assume = format!("Action=AssumeRole&RoleSessionName=s&RoleArn={role}");
        let keys = [
            iam("Action=CreateAccessKey&UserName=gateway"),
            ask("sts", &format!("Version=2011-06-15&{assume}")),
        ];
        self.ask("moto", "Content-Type: text/plain", "0");
        keys.map(|told| {
            let between = |name: &str| {
                let (_, rest) = told.split_once(&format!("<{name}>"))?;
                Some(rest.split_once('<')?.0.to_owned())
            };
            Key {
                id: between("AccessKeyId").unwrap(),
                secret: between("SecretAccessKey").unwrap(),
                session_token: between("SessionToken"),
            }
        })
    }
}

struct Key {
    id: String,
    secret: String,
    session_token: Option<String>,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[tokio::test]
async fn contract_holds_where_botocore_verifies_the_signatures() {
    let moto = Moto::start();
    moto.keep("plain", "hush plain");
    moto.keep(
        "prod/web",
        r#"{"cert": "hush c", "key": "hush k", "a/b": "hush ab"}"#,
    );
    moto.keep("prod/whole/cert", "hush whole");
    let [user, role] = moto.sign_in();
    assert!(user.session_token.is_none() && role.session_token.is_some());
    let open = |id: &str, secret: &str, session_token: Option<&str>| {
        let mut resource = json!({
            "endpoint_url": format!("http://{}", moto.address), "region": REGION,
            "access_key_id": id, "secret_access_key": secret,
        });
        if let Some(token) = session_token {
            resource["session_token"] = Value::from(token);
        }
        let opened = Opened::new(Kind::Secret, document(resource));
        Aws::open(&opened, &ground(Settings::default())).unwrap()
    };
    local(async {
        let known = Known {
            values: VALUES,
            absent: "none/at/all",
            no_member: Some("prod/web/other"),
            malformed: &["", "/m", "a/", "a//b"],
        };
        for Key {
            id,
            secret,
            session_token,
        } in [&user, &role]
        {
            let token = session_token.as_deref();
            contract::suite(&open(id, secret, token), &known).await;
            // What is signed with another secret, or is another session's, is refused.
            let refused = [
                open(id, "hush wrong", token),
                open(id, &secret.to_lowercase(), token),
            ];
            let another = token.map(|_| open(id, secret, Some("hush-another")));
            for source in refused.iter().chain(&another) {
                let told = find(source, "plain").await.unwrap_err();
                assert!(
                    matches!(&told, ReadFault::Denied(said) if said.starts_with("403")),
                    "{told:?}"
                );
            }
        }
    })
    .await;
}
