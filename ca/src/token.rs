//! Local tokens: what stands in for Kubernetes' bound service-account tokens where there is no cluster.
//!
//! Compact JWS (RFC 7515) with ES256 and nothing else, claims in the shape that Kubernetes gives its own tokens, so that a local
//! token and a real one are told apart by their signature only. The audience is strict: a token for another service is worth nothing here.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The audience of every token that the CA takes.
pub const AUDIENCE: &str = "weft.dev";
/// The largest token that is looked at.
pub const MAX_TOKEN: usize = 16 << 10;
/// Clocks of pods and of the CA may be apart by so much, seconds.
const LEEWAY: u64 = 10;

/// Why a token is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a token")]
    Malformed,
    #[error("not signed by a key that is trusted here")]
    Signature,
    #[error("expired {0} s ago")]
    Expired(u64),
    #[error("not valid for another {0} s")]
    NotYetValid(u64),
    #[error("for another audience than {AUDIENCE}")]
    Audience,
    #[error("subject is not a service account")]
    Subject,
    #[error("not bound to a pod")]
    NotBound,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    /// Seconds since the epoch.
    pub exp: u64,
    pub iat: u64,
    #[serde(default)]
    pub nbf: u64,
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    /// Addresses that the pod speaks from; empty: any. A token that comes from elsewhere was taken from the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
}

impl Claims {
    /// Of a pod's token.
    pub fn new(namespace: &str, account: &str, pod: Pod, issued: u64, life: u64) -> Self {
        Self {
            aud: vec![AUDIENCE.into()],
            exp: issued + life,
            iat: issued,
            nbf: issued,
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            kubernetes: Some(Kubernetes { namespace: namespace.into(), pod: Some(pod) }),
        }
    }
    /// Namespace and service account.
    pub fn account(&self) -> Result<(&str, &str), TokenError> {
        account(&self.sub)
    }
}
/// Namespace and name of the service account that a user name stands for.
pub(crate) fn account(user: &str) -> Result<(&str, &str), TokenError> {
    let rest = user.strip_prefix("system:serviceaccount:").ok_or(TokenError::Subject)?;
    match rest.split_once(':') {
        Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains(':') => Ok((ns, name)),
        _ => Err(TokenError::Subject),
    }
}

/// Makes tokens.
pub struct TokenSigner(EcdsaKeyPair);
impl TokenSigner {
    /// `pkcs8`: a P-256 key, PEM.
    pub fn from_pem(pem: &str) -> Result<Self, TokenError> {
        use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TokenError::Malformed)?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map(Self)
            .map_err(|_| TokenError::Malformed)
    }
    /// A new key: the signer, and the key as PKCS#8 PEM.
    pub fn generate() -> Result<(Self, zeroize::Zeroizing<String>), rcgen::Error> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let pem = zeroize::Zeroizing::new(key.serialize_pem());
        let signer = Self::from_pem(&pem).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok((signer, pem))
    }
    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier { keys: vec![self.0.public_key().as_ref().to_vec()] }
    }
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header { alg: "ES256".into(), typ: Some("JWT".into()), crit: None };
        let part = |json: serde_json::Result<Vec<u8>>| json.map(|j| B64.encode(j)).map_err(|_| TokenError::Malformed);
        let mut token = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
        let signature = self.0.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| TokenError::Signature)?;
        token.push('.');
        token.push_str(&B64.encode(signature.as_ref()));
        Ok(token)
    }
}

/// Checks tokens against one or more keys (two while the key is replaced).
#[derive(Debug, Clone)]
pub struct TokenVerifier {
    /// Uncompressed P-256 points.
    keys: Vec<Vec<u8>>,
}
impl TokenVerifier {
    pub fn and(mut self, other: TokenVerifier) -> Self {
        self.keys.extend(other.keys);
        self
    }

    /// The claims of a token that is good now. `now`: seconds since the epoch. The signature is checked before anything of the claims is
    /// believed or even parsed.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let bytes = |part: &str| B64.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| TokenError::Malformed)?;
        // "none" and algorithms of other key types end here; critical extensions are not understood (RFC 7515 section 4.1.11)
        if header.alg != "ES256" || header.crit.is_some() {
            return Err(TokenError::Signature);
        }
        let signature = bytes(signature)?;
        let fits = |key: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(signed.as_bytes(), &signature).is_ok()
        };
        if !self.keys.iter().any(fits) {
            return Err(TokenError::Signature);
        }
        let claims: Claims = serde_json::from_slice(&bytes(claims)?).map_err(|_| TokenError::Malformed)?;
        if claims.aud != [AUDIENCE] {
            return Err(TokenError::Audience);
        }
        if now >= claims.exp.saturating_add(LEEWAY) {
            return Err(TokenError::Expired(now - claims.exp));
        }
        let from = claims.nbf.max(claims.iat);
        if from > now.saturating_add(LEEWAY) {
            return Err(TokenError::NotYetValid(from - now));
        }
        let (namespace, _) = claims.account()?;
        if claims.kubernetes.as_ref().is_some_and(|k| k.namespace != namespace) {
            return Err(TokenError::Subject);
        }
        Ok(claims)
    }
}
