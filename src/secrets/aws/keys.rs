//! Where the key comes from that requests are signed with: the resource, the environment of the
//! process, or the role of the instance (IMDSv2).

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::super::custody::Opened;
use super::super::ground::{Credential, Ground};
use super::super::source::ReadFault;
use super::super::wire;
use super::sigv4::AccessKey;
use crate::net::http::{Client, Origin};
use crate::resource::secret::Manager;
use crate::telemetry::time::parse_seconds;

/// How long before its end the key of an instance is replaced; new ones are there five minutes
/// before. (EC2 User Guide, "Retrieve security credentials from instance metadata")
const EARLY: Duration = Duration::from_secs(240);

/// For how many seconds a token of the metadata service is asked.
const TOKEN_SECONDS: &str = "300";

/// Below this the metadata service names the role, and below that its key.
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// Comes by the key.
pub(super) struct Keys {
    ground: Rc<Ground>,
    /// Where signed requests go.
    origin: Origin,
    way: Way,
}

enum Way {
    /// In the resource, or where it says.
    Given {
        id: Credential,
        secret: Credential,
        session_token: Option<Credential>,
    },
    /// The operator's, from the environment.
    Environment,
    /// That of the instance's role.
    Instance {
        metadata: Box<Client>,
        current: Mutex<Option<(AccessKey, SystemTime)>>,
    },
}

impl Keys {
    /// The way that a resource says, or else the configuration.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`]: neither says one.
    pub(super) fn read(
        document: &Opened,
        ground: &Rc<Ground>,
        origin: Origin,
    ) -> Result<Self, ReadFault> {
        let credential = |member: &str| {
            let text = document.get(member).and_then(Value::as_str);
            text.map(Credential::parse).transpose()
        };
        let settings = &ground.settings;
        let given = (
            credential("access_key_id")?,
            credential("secret_access_key")?,
        );
        let way = match (given, &settings.aws_key, &settings.aws_metadata) {
            ((Some(id), Some(secret)), _, _) => Way::Given {
                id,
                secret,
                session_token: credential("session_token")?,
            },
            ((None, None), Some(_), _) => Way::Environment,
            ((None, None), None, Some(metadata)) => Way::Instance {
                metadata: Box::new(ground.direct_client(metadata.clone(), &settings.aws, None)?),
                current: Mutex::new(None),
            },
            ((_, _), _, _) => {
                return Err(ReadFault::Unusable(
                    "it holds no key: give it `access_key_id` and `secret_access_key`, or the \
                     gateway AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set \
                     `secrets.aws.instance_role`"
                        .to_owned(),
                ));
            }
        };
        Ok(Self {
            ground: Rc::clone(ground),
            origin,
            way,
        })
    }

    /// The key as it is now.
    ///
    /// # Errors
    /// Those of the credentials, their fence, and the metadata service.
    pub(super) async fn key(&self) -> Result<AccessKey, ReadFault> {
        self.ground
            .check_origin(Manager::Aws, &self.origin, self.is_supplied())?;
        match &self.way {
            Way::Given {
                id,
                secret,
                session_token,
            } => Ok(AccessKey {
                id: id.read(&self.ground).await?.to_string(),
                secret: secret.read(&self.ground).await?,
                session_token: match session_token {
                    Some(token) => Some(token.read(&self.ground).await?),
                    None => None,
                },
            }),
            Way::Environment => {
                let key = self.ground.settings.aws_key.as_ref();
                let key = key.ok_or(ReadFault::Internal)?;
                Ok(AccessKey {
                    id: key.id.clone(),
                    secret: key.secret.clone(),
                    session_token: key.session_token.clone(),
                })
            }
            Way::Instance { metadata, current } => instance_key(metadata, current).await,
        }
    }

    /// A key that was refused is not used again where there may be another one.
    pub(super) async fn forget(&self, key: &AccessKey) {
        if let Way::Instance { current, .. } = &self.way {
            let mut current = current.lock().await;
            if current.as_ref().is_some_and(|(own, _)| own == key) {
                *current = None;
            }
        }
    }

    /// Whether whoever wrote the resource had all of the key.
    fn is_supplied(&self) -> bool {
        match &self.way {
            Way::Given {
                id,
                secret,
                session_token,
            } => {
                let token = session_token.as_ref();
                id.is_supplied()
                    && secret.is_supplied()
                    && token.is_none_or(Credential::is_supplied)
            }
            Way::Environment | Way::Instance { .. } => false,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// The key of the instance's role: the one at hand, or a new one before that ends.
async fn instance_key(
    metadata: &Client,
    current: &Mutex<Option<(AccessKey, SystemTime)>>,
) -> Result<AccessKey, ReadFault> {
    // Held while asking: many reads need one key.
    let mut current = current.lock().await;
    let now = SystemTime::now();
    if let Some((key, until)) = current.as_ref()
        && now + EARLY < *until
    {
        return Ok(key.clone());
    }
    match ask_instance(metadata).await {
        Ok((key, until)) => {
            *current = Some((key.clone(), until));
            Ok(key)
        }
        // The one at hand may be good for a while.
        Err(fault) => match current.as_ref() {
            Some((key, until)) if fault.is_outage() && now < *until => Ok(key.clone()),
            Some(_) | None => Err(fault),
        },
    }
}

/// Asks for a token, for the role, and for its key. (EC2 User Guide, "Use IMDSv2")
async fn ask_instance(metadata: &Client) -> Result<(AccessKey, SystemTime), ReadFault> {
    let request = Request::put("/latest/api/token")
        .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
    let token = ask(metadata, request, "a token").await?;
    let token = wire::sensitive("the token of the instance's metadata", token.trim())?;
    let get = |path: String| Request::get(path).header("x-aws-ec2-metadata-token", token.clone());
    let roles = ask(metadata, get(ROLES.to_owned()), "its role").await?;
    let role = roles.lines().next().unwrap_or_default().trim();
    if role.is_empty() {
        return Err(ReadFault::Unusable("the instance has no role".to_owned()));
    }
    let path = format!("{ROLES}{}", wire::escape(role));
    let text = ask(metadata, get(path), "the key of its role").await?;
    let answer = wire::json(text.as_bytes())?;
    let member = |name: &str| {
        let found = answer.get(name).and_then(Value::as_str);
        found.ok_or_else(|| ReadFault::Answer(format!("the instance's key has no `{name}`")))
    };
    let expiration = parse_seconds(member("Expiration")?)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .ok_or_else(|| {
            ReadFault::Answer("the `Expiration` of the instance's key is no time".to_owned())
        })?;
    let key = AccessKey {
        id: member("AccessKeyId")?.to_owned(),
        secret: Zeroizing::new(member("SecretAccessKey")?.to_owned()),
        session_token: Some(Zeroizing::new(member("Token")?.to_owned())),
    };
    Ok((
        key,
        SystemTime::UNIX_EPOCH + Duration::from_secs(expiration),
    ))
}

async fn ask(
    metadata: &Client,
    request: http::request::Builder,
    what: &str,
) -> Result<Zeroizing<String>, ReadFault> {
    let answer = wire::send(metadata, request, Bytes::new()).await?;
    let status = answer.status.as_u16();
    let said = format!("the instance's metadata has not given {what}: {status}");
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(ReadFault::Unusable(format!(
                "{said}; attach a role to the instance"
            )));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(ReadFault::Denied(said)),
        status if status.is_server_error() => return Err(ReadFault::Unavailable(said)),
        _ => return Err(ReadFault::Answer(said)),
    }
    let text = String::from_utf8(answer.body.to_vec());
    let text = text.map_err(|_bytes| ReadFault::Answer(format!("{what} is no text")))?;
    Ok(Zeroizing::new(text))
}
