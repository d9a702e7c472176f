//! Who may do what: shared access policies, and the tokens that a connection has shown.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const HASH_BYTES: usize = 32;
const BLOCK_BYTES: usize = 64;

/// The token types of `put-token`.
const SAS: &str = "servicebus.windows.net:sastoken";

/// What a namespace accepts.
pub(super) struct Policies {
    keys: Vec<(String, String)>,
    bearer_tokens: Vec<String>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// Why a token isn't accepted. The words are sent to the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the token isn't a shared access signature")]
    Malformed,
    #[error("there is no shared access policy `{0}`")]
    UnknownPolicy(String),
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is for `{0}`, not for what is asked")]
    OtherResource(String),
    #[error("the bearer token isn't known")]
    Bearer,
}

impl Policies {
    pub(super) fn new(keys: Vec<(String, String)>, bearer_tokens: Vec<String>) -> Self {
        Self { keys, bearer_tokens }
    }

    /// Whether every token is accepted.
    pub(super) fn are_open(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn knows_key(&self, name: &str, key: &str) -> bool {
        self.keys.iter().any(|(known, secret)| known == name && secret == key)
    }

    /// Checks a token that was put for an audience; says until when it holds, in epoch
    /// seconds.
    pub(super) fn check(&self, kind: &str, token: &str, audience: &str, now: i64) -> Result<i64, Refused> {
        if self.are_open() {
            return Ok(i64::MAX);
        }
        if kind != SAS {
            let known = self.bearer_tokens.iter().any(|known| known == token);
            return if known { Ok(i64::MAX) } else { Err(Refused::Bearer) };
        }
        let token = SasToken::parse(token).ok_or(Refused::Malformed)?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(name, _)| *name == token.policy)
            .ok_or_else(|| Refused::UnknownPolicy(token.policy.clone()))?;
        let signed = hmac_sha256(key.as_bytes(), format!("{}\n{}", token.resource, token.expiry).as_bytes());
        if !same(&token.signature, &signed) {
            return Err(Refused::Signature);
        }
        if token.expiry <= now {
            return Err(Refused::Expired);
        }
        let resource = percent_decoded(token.resource);
        if !covers(entity(&resource), entity(audience)) {
            return Err(Refused::OtherResource(resource));
        }
        Ok(token.expiry)
    }
}

/// `SharedAccessSignature sr=…&sig=…&se=…&skn=…`
struct SasToken<'a> {
    /// As it was signed: percent-encoded.
    resource: &'a str,
    signature: Vec<u8>,
    /// Epoch seconds.
    expiry: i64,
    policy: String,
}

impl<'a> SasToken<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let fields = token.strip_prefix("SharedAccessSignature ")?;
        let field =
            |name: &str| fields.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::trim);
        Some(Self {
            resource: field("sr")?,
            signature: STANDARD.decode(percent_decoded(field("sig")?)).ok()?,
            expiry: field("se")?.parse().ok()?,
            policy: percent_decoded(field("skn")?),
        })
    }
}

/// Both are compared to the end, so that time tells nothing.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |differ, (l, r)| differ | (l ^ r)) == 0
}

/// RFC 2104 over SHA-256.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; HASH_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..HASH_BYTES].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// The path of an address without scheme and host: `hub/ConsumerGroups/…`.
pub(super) fn entity(address: &str) -> &str {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    path.trim_matches('/')
}

/// Whether a right to `held` is one to `asked`: the same entity, or one below it.
fn covers(held: &str, asked: &str) -> bool {
    let (held, asked) = (held.to_ascii_lowercase(), asked.to_ascii_lowercase());
    held.is_empty() || asked.strip_prefix(&held).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn percent_decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What a connection has been granted.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// Entity and expiry in epoch seconds.
    grants: Mutex<Vec<(String, i64)>>,
}

impl Grants {
    pub(super) fn add(&self, audience: &str, expiry: i64) {
        let entity = percent_decoded(entity(audience));
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|(held, _)| *held != entity);
        grants.push((entity, expiry));
    }

    /// Whether a grant that holds at `now`, in epoch seconds, covers an entity.
    pub(super) fn allow(&self, asked: &str, now: i64) -> bool {
        self.any(now, |held| covers(held, asked))
    }

    /// Whether a grant covers an entity or anything below it: what reading properties takes.
    pub(super) fn touch(&self, asked: &str, now: i64) -> bool {
        self.any(now, |held| covers(held, asked) || covers(asked, held))
    }

    fn any(&self, now: i64, test: impl Fn(&str) -> bool) -> bool {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.iter().any(|(held, expiry)| *expiry > now && test(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(key: &str, resource: &str, expiry: i64) -> String {
        let resource = resource.replace(':', "%3a").replace('/', "%2f");
        let signature = STANDARD.encode(hmac_sha256(key.as_bytes(), format!("{resource}\n{expiry}").as_bytes()));
        let signature = signature.replace('+', "%2b").replace('/', "%2f").replace('=', "%3d");
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=policy")
    }

    fn policies() -> Policies {
        Policies::new(vec![("policy".to_owned(), "secret".to_owned())], vec!["a.b.c".to_owned()])
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let digest = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_token_holds_for_its_resource_and_below() {
        let check = |token: &str, audience| policies().check(SAS, token, audience, 1000);
        let hub = token("secret", "amqps://ns/hub", 2000);
        assert_eq!(check(&hub, "amqps://ns/hub"), Ok(2000));
        assert_eq!(check(&hub, "amqps://ns/HUB/ConsumerGroups/$Default/Partitions/0"), Ok(2000));
        assert_eq!(check(&hub, "amqps://ns/hubris"), Err(Refused::OtherResource("amqps://ns/hub".to_owned())));
        assert_eq!(check(&token("secret", "sb://ns/", 2000), "amqps://ns/hub"), Ok(2000));
    }

    #[test]
    fn a_wrong_key_an_old_token_and_rubbish_are_refused() {
        let check = |token: &str| policies().check(SAS, token, "amqps://ns/hub", 1000);
        assert_eq!(check(&token("other", "amqps://ns/hub", 2000)), Err(Refused::Signature));
        assert_eq!(check(&token("secret", "amqps://ns/hub", 1000)), Err(Refused::Expired));
        assert_eq!(check("SharedAccessSignature sr=a"), Err(Refused::Malformed));
        assert_eq!(
            check(&token("secret", "sb://ns", 2000).replace("policy", "none")),
            Err(Refused::UnknownPolicy("none".to_owned()))
        );
        assert_eq!(policies().check("jwt", "x.y.z", "amqps://ns/hub", 0), Err(Refused::Bearer));
        assert!(policies().check("jwt", "a.b.c", "amqps://ns/hub", 0).is_ok());
        assert!(Policies::new(Vec::new(), Vec::new()).check("jwt", "any", "amqps://ns/hub", 0).is_ok());
    }

    #[test]
    fn grants_expire() {
        let grants = Grants::default();
        grants.add("amqps://ns/hub/ConsumerGroups/%24Default/Partitions/0", 2000);
        assert!(grants.allow("hub/ConsumerGroups/$Default/Partitions/0", 1999));
        assert!(!grants.allow("hub/ConsumerGroups/$Default/Partitions/0", 2000));
        assert!(!grants.allow("other", 1999));
    }
}
