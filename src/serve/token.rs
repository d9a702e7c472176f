//! Tokens of Entra, as Event Grid brings them: signed by the tenant, for this webhook, by Event Grid.
//!
//! | what is looked at | must be |
//! |---|---|
//! | `alg` | `RS256`, the only one that Entra signs with |
//! | signature | by a key of the tenant, told at `<authority>/<tenant>/discovery/v2.0/keys` |
//! | `iss` | the tenant, by the name of either version of tokens |
//! | `aud` | the declared audience |
//! | `appid` (version 1), `azp` (version 2) | the declared client: any app of a tenant can get a token for any audience |
//! | `exp`, `nbf` | now lies between them, give or take [`CLOCKS_DIFFER_BY`] |
//!
//! Sources: RFC 7515, 7517 and 7519; "Access tokens in the Microsoft identity platform".

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use reqwest::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::guard::Denied;
use crate::config::spec::WebhookEntraSpec;
use crate::pipeline::partition::report;

/// Entra's have some 2 KiB.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// As the official libraries allow.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(300);

/// Keys are asked for again so often at most, whatever key a token names: anybody may name one.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// And so often when they couldn't be had: meanwhile nobody waits for an answer that doesn't come.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A key that was withdrawn is believed no longer than this.
const BELIEVE_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Event Grid waits 30 s for the whole answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Entra tells some ten keys, of a kilobyte each.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The tokens that are good for this webhook.
pub(super) struct Tokens {
    keys_url: String,
    issuers: [String; 2],
    audience: String,
    client_id: String,
    client: Client,
    keys: Mutex<Keys>,
    /// Held by whoever asks for keys: those who need one that isn't known wait for the same answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, Key>,
    learned_at: Option<Instant>,
    /// Not before this are they asked for.
    ask_at: Option<Instant>,
    /// They couldn't be had the last time.
    is_broken: bool,
}

impl Keys {
    fn find(&self, id: &str) -> Option<Key> {
        let is_believed = self.learned_at.is_some_and(|at| at.elapsed() < BELIEVE_FOR);
        self.by_id.get(id).filter(|_| is_believed).cloned()
    }
}

#[derive(Clone)]
struct Key {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Value,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    appid: Option<String>,
    azp: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct ToldKey {
    kty: String,
    kid: String,
    n: String,
    e: String,
}

impl Tokens {
    pub(super) fn new(spec: &WebhookEntraSpec) -> Result<Self, reqwest::Error> {
        let (authority, tenant) = (&spec.authority, &spec.tenant_id);
        let client = Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self {
            keys_url: format!("{authority}/{tenant}/discovery/v2.0/keys"),
            issuers: [format!("https://sts.windows.net/{tenant}/"), format!("{authority}/{tenant}/v2.0")],
            audience: spec.audience.clone(),
            client_id: spec.client_id.clone(),
            client,
            keys: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// # Errors
    /// [`Denied::Token`] for one that is no good; [`Denied::Keys`] when the tenant's keys can't be had.
    pub(super) async fn check(&self, token: &str) -> Result<(), Denied> {
        let wrong = |why: &str| Denied::Token(why.to_owned());
        if token.len() > TOKEN_BYTES_MAX {
            return Err(wrong("the token is too long"));
        }
        let no_token = || wrong("what was brought is neither the secret nor a token");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = signed.split_once('.').ok_or_else(no_token)?;
        let header: Header = part(header).ok_or_else(no_token)?;
        if header.alg != "RS256" {
            return Err(wrong("the token isn't signed with RS256"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| no_token())?;
        // What the token says is looked at only once it is known who says it.
        let key = self.key(&header.kid).await?;
        let public = RsaPublicKeyComponents { n: &key.modulus, e: &key.exponent };
        public
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
            .map_err(|_| wrong("the token's signature is wrong"))?;
        let claims: Claims = part(claims).ok_or_else(|| wrong("the token lacks a claim"))?;
        self.judge(&claims, Utc::now().timestamp()).map_err(wrong)
    }

    fn judge(&self, claims: &Claims, now: i64) -> Result<(), &'static str> {
        let slack = CLOCKS_DIFFER_BY.as_secs() as i64;
        if claims.exp.saturating_add(slack) <= now {
            return Err("the token has expired");
        }
        if claims.nbf.saturating_sub(slack) > now {
            return Err("the token isn't valid yet");
        }
        if !self.issuers.contains(&claims.iss) {
            return Err("the token is of another tenant");
        }
        if claims.aud.as_str() != Some(&self.audience) {
            return Err("the token is for another audience");
        }
        let client = claims.appid.as_deref().or(claims.azp.as_deref());
        if !client.is_some_and(|client| client.eq_ignore_ascii_case(&self.client_id)) {
            return Err("the token is of another client");
        }
        Ok(())
    }

    /// A key by its id. One that isn't known may be new: the tenant is asked.
    async fn key(&self, id: &str) -> Result<Key, Denied> {
        if let Some(key) = self.keys().find(id) {
            return Ok(key);
        }
        let _asking = self.asking.lock().await;
        let is_due = self.keys().ask_at.is_none_or(|at| at <= Instant::now());
        // Whoever held the place may have learned it.
        if is_due && self.keys().find(id).is_none() {
            let told = self.told().await;
            let mut keys = self.keys();
            keys.is_broken = told.is_err();
            let pause = if keys.is_broken { TRY_AGAIN_AFTER } else { ASK_AGAIN_AFTER };
            keys.ask_at = Some(Instant::now() + pause);
            match told {
                Ok(told) => (keys.by_id, keys.learned_at) = (told, Some(Instant::now())),
                Err(error) => {
                    let error = report(&error);
                    tracing::warn!(url = self.keys_url, error, "the keys of the tenant can't be had");
                }
            }
        }
        let keys = self.keys();
        match keys.find(id) {
            Some(key) => Ok(key),
            None if keys.is_broken => Err(Denied::Keys("the keys of the tenant can't be had".to_owned())),
            None => Err(Denied::Token("the token is signed with a key that the tenant doesn't tell".to_owned())),
        }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn told(&self) -> Result<HashMap<String, Key>, KeysError> {
        let mut answer = self.client.get(&self.keys_url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > ANSWER_BYTES_MAX {
                return Err(KeysError::Form);
            }
        }
        let set: KeySet = serde_json::from_slice(&body).map_err(|_| KeysError::Form)?;
        // Keys of another kind are none of ours, and no reason to believe none.
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<ToldKey>(key).ok());
        let keys = keys.filter(|key| key.kty == "RSA").filter_map(|key| {
            let number = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
            Some((key.kid, Key { modulus: number(&key.n)?, exponent: number(&key.e)? }))
        });
        let keys: HashMap<_, _> = keys.collect();
        // A page that answers in place of the tenant takes no key away.
        if keys.is_empty() { Err(KeysError::Form) } else { Ok(keys) }
    }
}

/// Why the keys of a tenant can't be had; those that are known stay.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("the tenant can't be asked")]
    Ask(#[from] reqwest::Error),
    #[error("the answer is no set of RSA keys")]
    Form,
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    fn tokens() -> Tokens {
        let spec = WebhookEntraSpec {
            tenant_id: TENANT.to_owned(),
            audience: "api://webhook".to_owned(),
            client_id: "4962773b-9cdb-44cf-a8bf-237846a00ab7".to_owned(),
            // Nobody listens there.
            authority: "http://127.0.0.1:1".to_owned(),
        };
        // As `main` does, before anything speaks TLS.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Tokens::new(&spec).expect("a client")
    }

    #[test]
    fn every_claim_counts() {
        let claims = |change: &dyn Fn(&mut Claims)| {
            let mut claims = Claims {
                iss: format!("https://sts.windows.net/{TENANT}/"),
                aud: "api://webhook".into(),
                exp: 10_000,
                nbf: 9_000,
                appid: Some("4962773B-9CDB-44CF-A8BF-237846A00AB7".to_owned()),
                azp: None,
            };
            change(&mut claims);
            tokens().judge(&claims, 9_500)
        };
        assert_eq!(claims(&|_| {}), Ok(()));
        assert_eq!(claims(&|claims| claims.iss = format!("http://127.0.0.1:1/{TENANT}/v2.0")), Ok(()));
        assert_eq!(claims(&|claims| claims.azp = claims.appid.take()), Ok(()));
        assert_eq!(claims(&|claims| claims.exp = 9_201), Ok(()), "clocks differ");
        assert!(claims(&|claims| claims.exp = 9_200).is_err());
        assert!(claims(&|claims| claims.nbf = 9_801).is_err());
        assert!(claims(&|claims| claims.iss = "https://sts.windows.net/another/".to_owned()).is_err());
        assert!(claims(&|claims| claims.aud = "api://another".into()).is_err());
        assert!(claims(&|claims| claims.aud = serde_json::json!(["api://webhook"])).is_err(), "Entra has one");
        assert!(claims(&|claims| claims.appid = None).is_err());
        assert!(claims(&|claims| claims.appid = Some(TENANT.to_owned())).is_err());
        assert!(claims(&|claims| claims.exp = i64::MIN).is_err());
    }

    #[tokio::test]
    async fn what_is_no_token_is_denied_before_anybody_is_asked() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let unsigned = format!("{}.{}.", encode(r#"{"alg":"none","kid":"k"}"#), encode("{}"));
        let hmac = format!("{}.{}.AAAA", encode(r#"{"alg":"HS256","kid":"k"}"#), encode("{}"));
        for token in ["", ".", "..", "a.b.c", "€.€.€", &unsigned, &hmac, &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(matches!(tokens().check(token).await, Err(Denied::Token(_))), "{token:.40}");
        }
        let unknown = format!("{}.{}.AAAA", encode(r#"{"alg":"RS256","kid":"k"}"#), encode("{}"));
        assert!(matches!(tokens().check(&unknown).await, Err(Denied::Keys(_))), "its keys can't be had");
    }

    #[tokio::test]
    async fn a_page_that_answers_in_place_of_the_tenant_takes_no_key_away() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let page = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut tokens = tokens();
        tokens.keys_url = format!("http://{}/keys", page.local_addr().expect("an address"));
        let known = Key { modulus: vec![1], exponent: vec![3] };
        let by_id = HashMap::from([("known".to_owned(), known)]);
        *tokens.keys() = Keys { by_id, learned_at: Some(Instant::now()), ask_at: None, is_broken: false };
        for body in ["<html>sign in</html>", r#"{"keys": []}"#] {
            tokens.keys().ask_at = None;
            let answer = async {
                let (mut socket, _) = page.accept().await.expect("asked");
                let _ = socket.read(&mut [0; 4096]).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                socket.write_all(format!("{head}{body}").as_bytes()).await.expect("answered");
            };
            let (asked, ()) = tokio::join!(tokens.key("unknown"), answer);
            assert!(matches!(asked, Err(Denied::Keys(_))), "{body}");
            assert!(tokens.key("known").await.is_ok(), "{body}");
        }
    }
}
