//! Who may send to the webhook: whoever brings the secret, or a token of Event Grid.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use super::token::Tokens;
use crate::config::spec::{Secret, WebhookSpec};

/// Why somebody doesn't get in.
#[derive(Debug)]
pub(super) enum Denied {
    /// Nothing that would let anybody in.
    Nobody,
    /// A token that won't do, and why.
    Token(String),
    /// A token about which nobody can say anything now.
    Keys(String),
}

/// Holds no secret itself, only what it compares with.
pub(super) struct Guard {
    secrets: Vec<[u8; 32]>,
    tokens: Option<Tokens>,
}

impl Guard {
    pub(super) fn new(spec: &WebhookSpec) -> Result<Self, reqwest::Error> {
        let secrets = spec.secrets.iter().map(Secret::reveal).map(hash).collect();
        Ok(Self { secrets, tokens: spec.entra.as_ref().map(Tokens::new).transpose()? })
    }

    /// # Errors
    /// [`Denied`]
    pub(super) async fn admit(&self, headers: &HeaderMap, query: Option<&str>) -> Result<(), Denied> {
        let bearer = bearer(headers);
        let in_query = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .filter(|(name, _)| matches!(&**name, "code" | "secret"))
            .map(|(_, value)| value);
        if bearer.is_some_and(|bearer| self.knows(bearer)) || in_query.into_iter().any(|value| self.knows(&value)) {
            return Ok(());
        }
        match (&self.tokens, bearer) {
            (Some(tokens), Some(token)) => tokens.check(token).await,
            _ => Err(Denied::Nobody),
        }
    }

    /// Who asks for permission brings the same; where tokens alone let in, nobody says that it brings one, and a
    /// permission hands nothing over: what is sent then is looked at.
    ///
    /// # Errors
    /// [`Denied`]
    pub(super) async fn admit_handshake(&self, headers: &HeaderMap, query: Option<&str>) -> Result<(), Denied> {
        if self.tokens.is_some() {
            return Ok(());
        }
        self.admit(headers, query).await
    }

    /// By their hashes and to the last byte, so that the time that it takes says nothing of a secret.
    fn knows(&self, said: &str) -> bool {
        let said = hash(said);
        let is_same = |secret: &[u8; 32]| secret.iter().zip(said).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        self.secrets.iter().fold(false, |known, secret| is_same(secret) | known)
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
