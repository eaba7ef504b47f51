//! A look at a token before the API server is asked: tokens that cannot be good cost it nothing, and the log names exactly what is
//! wrong, which a TokenReview does not. Nothing here is believed: it can only refuse.

use crate::token::{AUDIENCE, MAX_TOKEN, TokenError};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::Deserialize;

/// Clocks may be apart by so much, seconds; the API server decides.
const LEEWAY: u64 = 60;

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}
impl Default for Audiences {
    fn default() -> Self {
        Audiences::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct Peeked {
    #[serde(default)]
    aud: Audiences,
    exp: Option<u64>,
    #[serde(default)]
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}
#[derive(Deserialize)]
struct Bound {
    pod: Option<serde_json::Value>,
}

/// Whether the token may be one of a pod for this CA.
pub fn peek(token: &str, now: u64) -> Result<(), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::Malformed);
    };
    let json = B64.decode(claims).map_err(|_| TokenError::Malformed)?;
    let claims: Peeked = serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)?;
    if !claims.sub.starts_with("system:serviceaccount:") {
        return Err(TokenError::Subject);
    }
    // legacy tokens of Secrets have no such claim; a node's tokens have one without a pod
    if claims.kubernetes.is_none_or(|k| k.pod.is_none()) {
        return Err(TokenError::NotBound);
    }
    // one that is for somebody else, too, could be replayed by that one
    let ours = match &claims.aud {
        Audiences::One(a) => a == AUDIENCE,
        Audiences::Many(a) => *a == [AUDIENCE],
    };
    if !ours {
        return Err(TokenError::Audience);
    }
    match claims.exp {
        None => Err(TokenError::NotBound),
        Some(exp) if now > exp.saturating_add(LEEWAY) => Err(TokenError::Expired(now - exp)),
        Some(_) => Ok(()),
    }
}
