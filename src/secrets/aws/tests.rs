//! Secrets Manager and the metadata service as their documents describe them, played by a stand-in
//! that computes each signature anew from what came.

use std::time::Duration;

use super::super::contract::{self, Known, find};
use super::super::custody::samples::document;
use super::super::ground::samples::ground;
use super::super::settings::{AwsKey, Reach, Settings};
use super::super::standin::{Reply, Seen, StandIn, impatient, local};
use super::*;
use crate::crypto::digest::{Sha256, sha256};
use crate::crypto::mac::hmac_sha256;
use crate::resource::Kind;
use crate::telemetry::time::rfc3339;

/// What the stand-in's users sign with, by their ids.
const USERS: [(&str, &str, &str); 3] = [
    ("AKIDSTATIC", "hush/static", ""),
    ("ASIDSESSION", "hush/session", "hush-session"),
    ("ASIDROLE", "hush/role", "hush-role"),
];

/// Whether a request is signed by who it says, for this region. (IAM User Guide, "Create a signed
/// AWS API request", step by step.)
fn is_signed(seen: &Seen, region: &str) -> bool {
    let told = seen.header("authorization");
    let field = |name: &str| {
        let (_, rest) = told.split_once(&format!("{name}=")).unwrap();
        rest.split(',').next().unwrap()
    };
    let (id, scope) = field("Credential").split_once('/').unwrap();
    let Some((_, secret, token)) = USERS.into_iter().find(|(own, ..)| *own == id) else {
        return false;
    };
    let (method, path) = seen.line.split_once(' ').unwrap();
    let names = field("SignedHeaders");
    let is_whole = ["content-type", "host", "x-amz-date", "x-amz-target"]
        .iter()
        .all(|name| names.split(';').any(|own| own == *name));
    let mut text = format!("{method}\n{}\n\n", path.replace('%', "%25"));
    for name in names.split(';') {
        text += &format!("{name}:{}\n", seen.header(name));
    }
    let body = sha256(&[seen.body.as_bytes()]).unwrap();
    text += &format!("\n{names}\n{body}");
    let time = seen.header("x-amz-date");
    let date = &time[..8];
    assert_eq!(
        scope,
        format!("{date}/{region}/secretsmanager/aws4_request")
    );
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        sha256(&[text.as_bytes()]).unwrap()
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, "secretsmanager", "aws4_request", &text] {
        key = hmac_sha256(&key, &[part.as_bytes()]).unwrap().to_vec();
    }
    let signature = Sha256::from_bytes(key.try_into().unwrap()).to_string();
    is_whole && field("Signature") == signature && seen.header("x-amz-security-token") == token
}

fn fault(status: u16, kind: &str, message: &str) -> Reply {
    Reply::Json(status, json!({"__type": kind, "message": message}))
}

fn secrets_manager(seen: &Seen) -> Reply {
    if !is_signed(seen, "eu-central-1") {
        let text = format!(
            "The signature does not match.\n\nThe canonical string is '{}'",
            seen.header("x-amz-security-token")
        );
        return fault(400, "InvalidSignatureException", &text);
    }
    assert_eq!(seen.header("x-amz-target"), "secretsmanager.GetSecretValue");
    let asked = seen.json();
    assert_eq!(asked["VersionStage"], "AWSCURRENT");
    let told = |text: Value| Reply::Json(200, json!({"SecretString": text, "VersionId": "v7"}));
    match asked["SecretId"].as_str().unwrap() {
        "plain" => told(json!("hush plain")),
        "prod/web" => told(json!(
            r#"{"cert": "hush c", "key": "hush k", "a/b": "hush ab"}"#
        )),
        "prod/whole/cert" => told(json!("hush whole")),
        "binary" => Reply::Json(200, json!({"SecretBinary": "aHVzaA=="})),
        "number" => told(json!(1)),
        "page" => Reply::Text(200, "<hush>".to_owned()),
        "long" => told(json!("x".repeat(65_537))),
        "flood" => told(json!("x".repeat(5 << 20))),
        "moved" => Reply::Elsewhere("http://127.0.0.1:1/".to_owned()),
        "silent" => Reply::Silence,
        "denied" => fault(400, "AccessDeniedException", "User is not authorized"),
        "forbidden" => Reply::Text(403, "hush".to_owned()),
        "throttled" => fault(400, "com.amazon#ThrottlingException", "Rate exceeded"),
        "broken" => fault(500, "InternalServiceError", ""),
        _ => fault(400, "ResourceNotFoundException", "can't find it"),
    }
}

fn settings(url: &str) -> Settings {
    let mut settings = Settings::default();
    settings.aws.origins = vec![Origin::parse(url).unwrap()];
    settings
}

fn secret(url: &str) -> Value {
    json!({
        "endpoint_url": url, "region": "eu-central-1",
        "access_key_id": "AKIDSTATIC", "secret_access_key": "hush/static",
    })
}

fn opened(secret: Value) -> Opened {
    Opened::new(Kind::Secret, document(secret))
}

/// What is found in the secrets of both servers, by its reference's rest.
pub(super) const VALUES: &[(&str, &str)] = &[
    ("plain", "hush plain"),
    ("prod/web/cert", "hush c"),
    ("prod/web/key", "hush k"),
    ("prod/web/a/b", "hush ab"),
    ("prod/whole/cert", "hush whole"),
];

fn open(secret: Value, settings: Settings) -> Aws {
    Aws::open(&opened(secret), &ground(settings)).unwrap()
}

#[tokio::test]
async fn names_and_members_keep_the_contract() {
    local(async {
        let aws = StandIn::start(secrets_manager).await;
        let known = Known {
            values: VALUES,
            absent: "none/at/all",
            no_member: Some("prod/web/other"),
            malformed: &[
                "",
                "/m",
                "a/",
                "a//b",
                "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17",
            ],
        };
        let source = open(secret(&aws.url), Settings::default());
        contract::suite(&source, &known).await;
        let place = &source.places("plain").unwrap()[0];
        let answer = contract::read(&source, place, false).await.unwrap();
        assert_eq!(answer.version.as_deref(), Some("v7"));
        assert!(!format!("{source:?}").contains("hush"));
        // Below a path, which is signed as well.
        let source = open(secret(&format!("{}/a%20b", aws.url)), Settings::default());
        assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
    })
    .await;
}

#[test]
fn the_whole_is_a_name_before_its_end_is_a_member() {
    let place = |path: &str, member: Option<&str>| Place {
        path: path.to_owned(),
        member: member.map(str::to_owned),
    };
    let work = local(async {
        let source = open(secret("http://127.0.0.1:1"), Settings::default());
        assert_eq!(
            source.places("a/b/c").unwrap(),
            [
                place("a/b/c", None),
                place("a/b", Some("c")),
                place("a", Some("b/c"))
            ]
        );
    });
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.enable_all().build().unwrap().block_on(work);
}

#[test]
fn endpoint_is_the_one_of_the_region() {
    for (region, url) in [
        (
            "eu-west-1",
            "https://secretsmanager.eu-west-1.amazonaws.com",
        ),
        (
            "cn-north-1",
            "https://secretsmanager.cn-north-1.amazonaws.com.cn",
        ),
    ] {
        assert_eq!(endpoint(region), url);
    }
}

#[tokio::test]
async fn answers_that_are_no_value_are_told_apart() {
    local(async {
        let aws = StandIn::start(secrets_manager).await;
        let patient = open(secret(&aws.url), Settings::default());
        let opened = opened(secret(&aws.url));
        let hurried = Aws::open(&opened, &impatient(Settings::default())).unwrap();
        for (name, expected) in [
            ("binary", "what is there is not a text"),
            ("number", "has no `SecretString`"),
            ("page", "it is no JSON"),
            ("long", "longer than 65536 bytes"),
            ("flood", "longer than 65536 bytes"),
            ("moved", "not understood: 307"),
            ("silent", "did not answer within 100 ms"),
            ("denied", "refuses: 400 AccessDeniedException User is not"),
            ("forbidden", "refuses: 403"),
            ("throttled", "cannot answer: 400 ThrottlingException Rate"),
            ("broken", "cannot answer: 500 InternalServiceError"),
        ] {
            let source = if name == "silent" { &hurried } else { &patient };
            let told = find(source, name).await.unwrap_err();
            let is_outage = matches!(name, "silent" | "throttled" | "broken");
            assert_eq!(told.is_outage(), is_outage, "{name}");
            let told = told.to_string();
            assert!(told.contains(expected), "{name}: {told}");
            assert!(!told.contains("hush") && !told.contains("xxx"), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn wrong_signature_is_refused_and_its_token_not_told() {
    local(async {
        let aws = StandIn::start(secrets_manager).await;
        let mut wrong = secret(&aws.url);
        wrong["session_token"] = json!("hush-wrong");
        let told = find(&open(wrong, Settings::default()), "plain").await;
        let expected = "400 InvalidSignatureException The signature does not match.";
        assert_eq!(told, Err(ReadFault::Denied(expected.to_owned())));
        let right = open(secret(&aws.url), Settings::default());
        assert_eq!(find(&right, "plain").await.unwrap(), "hush plain");
        let mut session = secret(&aws.url);
        session["access_key_id"] = json!("ASIDSESSION");
        session["secret_access_key"] = json!("hush/session");
        session["session_token"] = json!("hush-session");
        let session = open(session, Settings::default());
        assert_eq!(find(&session, "plain").await.unwrap(), "hush plain");
    })
    .await;
}

/// The operator's key, in the environment.
fn environment() -> Option<AwsKey> {
    Some(AwsKey {
        id: "ASIDSESSION".to_owned(),
        secret: Zeroizing::new("hush/session".to_owned()),
        session_token: Some(Zeroizing::new("hush-session".to_owned())),
    })
}

#[tokio::test]
async fn operators_key_is_used_for_listed_origins_only() {
    local(async {
        let aws = StandIn::start(secrets_manager).await;
        let keyless = json!({"endpoint_url": aws.url, "region": "eu-central-1"});
        let told = Aws::open(&opened(keyless.clone()), &ground(settings(&aws.url))).unwrap_err();
        assert!(
            told.to_string().contains("`secrets.aws.instance_role`"),
            "{told}"
        );
        let listed = Settings {
            aws_key: environment(),
            ..settings(&aws.url)
        };
        let fenced = Settings {
            aws: Reach::default(),
            ..listed.clone()
        };
        let mut kept = secret(&aws.url);
        kept["secret_access_key"] = json!("$env://TOKEN");
        for document in [keyless.clone(), kept] {
            let told = find(&open(document, fenced.clone()), "plain")
                .await
                .unwrap_err();
            assert_eq!(told.reason().code(), "secret_origin_not_trusted");
        }
        assert!(aws.seen().is_empty(), "nothing was sent at all");
        let source = open(keyless, listed);
        assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
    })
    .await;
}

/// The metadata service, whose role has this much time left.
fn metadata(left: Duration) -> impl Fn(&Seen) -> Reply {
    move |seen| {
        let is_known = seen.header("x-aws-ec2-metadata-token") == "hush-imds";
        match seen.line.as_str() {
            "PUT /latest/api/token" => {
                assert_eq!(seen.header("x-aws-ec2-metadata-token-ttl-seconds"), "300");
                Reply::Text(200, "hush-imds".to_owned())
            }
            _ if !is_known => Reply::Text(401, String::new()),
            "GET /latest/meta-data/iam/security-credentials/" => {
                Reply::Text(200, "gateway role\n".to_owned())
            }
            "GET /latest/meta-data/iam/security-credentials/gateway%20role" => Reply::Json(
                200,
                json!({
                    "Code": "Success", "AccessKeyId": "ASIDROLE", "SecretAccessKey": "hush/role",
                    "Token": "hush-role", "Expiration": rfc3339(SystemTime::now() + left),
                }),
            ),
            _ => Reply::Text(404, String::new()),
        }
    }
}

#[tokio::test]
async fn key_of_the_instance_is_kept_until_shortly_before_its_end() {
    local(async {
        let aws = StandIn::start(secrets_manager).await;
        for (left, logins) in [(3600, 1), (60, 2)] {
            let instance = StandIn::start(metadata(Duration::from_secs(left))).await;
            let settings = Settings {
                aws_metadata: Some(Origin::parse(&instance.url).unwrap()),
                ..settings(&aws.url)
            };
            let keyless = json!({"endpoint_url": aws.url, "region": "eu-central-1"});
            let source = open(keyless, settings);
            for _ in 0..2 {
                assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
            }
            let seen = instance.seen();
            let puts = seen.iter().filter(|seen| seen.line.starts_with("PUT"));
            assert_eq!(puts.count(), logins, "{left} seconds left");
            // One that is refused is asked for again.
            find(&source, "denied").await.unwrap_err();
            find(&source, "plain").await.unwrap();
            let seen = instance.seen();
            let puts = seen.iter().filter(|seen| seen.line.starts_with("PUT"));
            assert!(puts.count() > logins);
        }
    })
    .await;
}

#[tokio::test]
async fn instance_without_a_role_is_told_with_the_remedy() {
    local(async {
        let instance = StandIn::start(|seen: &Seen| match seen.line.as_str() {
            "PUT /latest/api/token" => Reply::Text(200, "hush-imds".to_owned()),
            _ => Reply::Text(404, "hush".to_owned()),
        })
        .await;
        let settings = Settings {
            aws_metadata: Some(Origin::parse(&instance.url).unwrap()),
            ..settings("http://127.0.0.1:1")
        };
        let source = open(json!({"endpoint_url": "http://127.0.0.1:1"}), settings);
        let told = find(&source, "plain").await.unwrap_err().to_string();
        assert!(told.contains("its role: 404; attach a role"), "{told}");
        assert!(!told.contains("hush"));
    })
    .await;
}
