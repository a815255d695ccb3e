//! Encryption of Secrets in the state store: AES-256-GCM in upstream's envelope, with the key of the record as
//! additional data, so that a record moved to another key does not open.

use base64::Engine;
use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;

/// What sealed values begin with: upstream's envelope for AES-GCM with a key called `key1`.
const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:key1:";
/// What every sealed value of upstream's begins with.
const ANY_PREFIX: &[u8] = b"k8s:enc:";

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not hold 32 bytes in base64.
    #[error("{path}: not 32 bytes in base64")]
    Content {
        /// Which file.
        path: std::path::PathBuf,
    },
}

/// The key of the cluster.
pub struct Cipher {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Cipher {
    /// Reads the key from a file.
    pub fn open_file(path: &Path) -> Result<Self, CipherError> {
        let text = std::fs::read_to_string(path).map_err(|source| CipherError::File {
            path: path.into(),
            source,
        })?;
        let content = || CipherError::Content { path: path.into() };
        let key = base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|_| content())?;
        Self::new(&key).ok_or_else(content)
    }

    /// A cipher with this key of 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
        Some(Self {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// Whether a stored value is sealed, with whatever key.
    pub fn is_sealed(stored: &[u8]) -> bool {
        stored.starts_with(ANY_PREFIX)
    }

    /// Seals the value of a record.
    pub fn seal(&self, record_key: &str, plain: &[u8]) -> Bytes {
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .expect("the system has random numbers");
        let mut body = plain.to_vec();
        let aad = Aad::from(record_key.as_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .expect("an object is far below the limit of AES-GCM");
        [PREFIX, &nonce, &body].concat().into()
    }

    /// Opens a sealed value; `None` if it was not sealed with this key for this record.
    pub fn open(&self, record_key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let rest = sealed.strip_prefix(PREFIX)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let length = self
            .key
            .open_in_place(nonce, Aad::from(record_key.as_bytes()), &mut body)
            .ok()?
            .len();
        body.truncate(length);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_record_opens() {
        let cipher = Cipher::new(&[7; 32]).unwrap();
        let sealed = cipher.seal("/registry/secrets/a/b", b"{\"password\":1}");
        assert!(Cipher::is_sealed(&sealed));
        assert!(!sealed.windows(8).any(|w| w == b"password"));
        assert_eq!(
            cipher.open("/registry/secrets/a/b", &sealed).unwrap(),
            b"{\"password\":1}"
        );
        assert!(cipher.open("/registry/secrets/a/c", &sealed).is_none());
        assert!(
            Cipher::new(&[8; 32])
                .unwrap()
                .open("/registry/secrets/a/b", &sealed)
                .is_none()
        );
        assert!(Cipher::new(&[7; 31]).is_none());
    }
}
