//! The signing and checking of tokens: JWS with ES256 and nothing else, so that no header can choose another way.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens whose signature was found good: checking one takes longer than answering several requests. When there are
/// more, all are forgotten.
const MAX_VERIFIED: usize = 1024;
/// A token is a few hundred bytes; longer ones are not looked at.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// DER of a P-256 SubjectPublicKeyInfo up to the point (RFC 5480).
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("service-account key {path}: {reason}")]
pub struct KeyError {
    path: PathBuf,
    reason: String,
}

/// Signs and checks tokens with one key.
pub struct Issuer {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
    /// Claims by token.
    verified: Mutex<HashMap<Box<str>, Arc<Value>>>,
    /// The `iss` of tokens.
    pub url: String,
}

impl Issuer {
    /// Reads the key: PKCS#8 PEM, ECDSA P-256.
    pub fn open(path: &Path, url: &str) -> Result<Self, KeyError> {
        let failed = |reason: String| KeyError {
            path: path.into(),
            reason,
        };
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|e| failed(e.to_string()))?;
        Self::new(der.secret_pkcs8_der(), url).map_err(failed)
    }

    fn new(pkcs8: &[u8], url: &str) -> Result<Self, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| format!("not a PKCS#8 key of P-256: {e}"))?;
        let spki = [&SPKI_HEAD, key.public_key().as_ref()].concat();
        let key_id = BASE64.encode(Sha256::digest(spki));
        Ok(Self {
            key,
            key_id,
            random,
            verified: Mutex::default(),
            url: url.to_owned(),
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let mut token = format!(
            "{}.{}",
            BASE64.encode(header.to_string()),
            BASE64.encode(claims.to_string())
        );
        let signature = self.key.sign(&self.random, token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&BASE64.encode(signature.as_ref()));
        Some(token)
    }

    /// The claims of a token that this key has signed; nothing is said about their time.
    pub fn verify(&self, token: &str) -> Option<Arc<Value>> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        if let Some(claims) = self.verified.lock().get(token) {
            return Some(claims.clone());
        }
        let claims = Arc::new(self.check(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(token.into(), claims.clone());
        Some(claims)
    }

    fn check(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" || header["kid"] != self.key_id.as_str() {
            return None;
        }
        let signature = BASE64.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Issuer::new(pkcs8.as_ref(), "https://test").unwrap()
    }

    #[test]
    fn only_own_signatures_count() {
        let issuer = issuer();
        let token = issuer.sign(&json!({"sub": "a"})).unwrap();
        for _ in 0..2 {
            assert_eq!(issuer.verify(&token).unwrap()["sub"], "a");
        }
        assert!(self::issuer().verify(&token).is_none());
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = BASE64.encode(r#"{"sub":"b"}"#);
        parts[1] = &forged;
        assert!(issuer.verify(&parts.join(".")).is_none());
    }

    #[test]
    fn the_header_does_not_choose_the_algorithm() {
        let issuer = issuer();
        let claims = BASE64.encode(r#"{"sub":"a"}"#);
        for alg in ["none", "HS256", "RS256", "es256"] {
            let header = BASE64.encode(json!({"alg": alg, "kid": issuer.key_id}).to_string());
            let signed = format!("{header}.{claims}");
            // HS256 with the public key as its secret is the classic confusion.
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, issuer.key.public_key().as_ref());
            let mac = BASE64.encode(ring::hmac::sign(&key, signed.as_bytes()));
            assert!(issuer.verify(&format!("{signed}.{mac}")).is_none(), "{alg}");
            assert!(issuer.verify(&format!("{signed}.")).is_none(), "{alg}");
        }
    }
}
