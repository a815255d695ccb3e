//! Encryption of a volume in the engine: stores, journals and the network between them see ciphertext.
//!
//! AES-256-XTS with the block as the data unit and its number as the tweak, as dm-crypt does it. The key comes from
//! outside at each attach and is kept in memory only. From it and a random salt two things are derived (HKDF-SHA256):
//! the key of the data, and a check value that tells a wrong key before anything is read or written with it. Salt and
//! check value are a label of the volume. Neither says anything about the key, and the same secret gives each volume
//! another data key.
//!
//! Blocks that were never written, or zeroed, must read as zeroes: a block of ciphertext that is all zeroes stands
//! for one. That a written block encrypts to zeroes has a probability of 2^-32768.
//!
//! Format history: 1, the first release.

use crate::core::types::BLOCK;
use aes::Aes256;
use aes::cipher::KeyInit;
use blockdev::nbd::reply::is_zero;
use blockdev::{BlockDevice, Done, Extent};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;
use xts_mode::{Xts128, get_tweak_default};

/// Label of an encrypted volume. Its value is cipher and version, salt, and check value.
pub const LABEL: &str = "encryption";
/// First part of the label's value.
const FORMAT: &str = "aes-256-xts-v1";
/// Shortest secret, bytes: the strength of the cipher.
pub const MIN_SECRET_BYTES: usize = 32;
/// Longest secret, bytes: a file of this size is not a key by mistake.
pub const MAX_SECRET_BYTES: usize = 4096;
const SALT_BYTES: usize = 16;
const CHECK_BYTES: usize = 16;
/// Two keys of 32 bytes: for the blocks and for the tweaks.
const KEY_BYTES: usize = 64;

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short or too long.
    #[error("encryption_key: {0} bytes; it must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}")]
    Length(usize),
    /// Not the one with which the volume was created.
    #[error("encryption_key: this is not the key of this volume")]
    Wrong,
    /// None was given.
    #[error("encryption_key: the volume is encrypted, and no key was given")]
    Missing,
    /// One was given, but the volume has none.
    #[error("encryption_key: the volume is not encrypted")]
    NotEncrypted,
    /// The label cannot be read.
    #[error("the volume is encrypted in a way that this version does not know")]
    Unknown,
    /// The operating system gave no random numbers.
    #[error("no random numbers for a salt")]
    Random,
}

/// A secret as it came: without the line's end that an editor leaves, and of a length that makes sense.
fn secret(given: &[u8]) -> Result<&[u8], Error> {
    let trimmed = given.strip_suffix(b"\n").unwrap_or(given);
    let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
    match trimmed.len() {
        MIN_SECRET_BYTES..=MAX_SECRET_BYTES => Ok(trimmed),
        other => Err(Error::Length(other)),
    }
}

fn derive<const N: usize>(secret: &[u8], salt: &[u8], purpose: &[u8]) -> [u8; N] {
    struct Length(usize);
    impl ring::hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut derived = [0; N];
    ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[purpose], Length(N))
        .and_then(|okm| okm.fill(&mut derived))
        .expect("N is far below the 8160 bytes that HKDF-SHA256 gives");
    derived
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The label of a new volume that is to be encrypted with this secret.
pub fn new_label(given: &[u8]) -> Result<String, Error> {
    use ring::rand::SecureRandom;
    let secret = secret(given)?;
    let mut salt = [0; SALT_BYTES];
    ring::rand::SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| Error::Random)?;
    Ok(label(secret, &salt))
}

fn label(secret: &[u8], salt: &[u8; SALT_BYTES]) -> String {
    let check: [u8; CHECK_BYTES] = derive(secret, salt, b"hikube volume key check 1");
    format!("{FORMAT}:{}:{}", hex(salt), hex(&check))
}

/// The cipher of a volume with these labels; `None` if it is not encrypted, and nobody thinks that it is.
pub fn unlock(labels: &BTreeMap<String, String>, given: &[u8]) -> Result<Option<VolumeKey>, Error> {
    let Some(known) = labels.get(LABEL) else {
        return if given.is_empty() {
            Ok(None)
        } else {
            Err(Error::NotEncrypted)
        };
    };
    let salt = known
        .strip_prefix(FORMAT)
        .and_then(|rest| rest.strip_prefix(':'))
        .and_then(|rest| rest.split_once(':'))
        .and_then(|(salt, _)| unhex(salt))
        .ok_or(Error::Unknown)?;
    if given.is_empty() {
        return Err(Error::Missing);
    }
    let secret = secret(given)?;
    if label(secret, &salt) != *known {
        return Err(Error::Wrong);
    }
    let key: [u8; KEY_BYTES] = derive(secret, &salt, b"hikube volume data 1");
    Ok(Some(VolumeKey::new(&key)))
}

/// The cipher of one volume.
#[derive(Clone)]
pub struct VolumeKey(Arc<Xts128<Aes256>>);

impl VolumeKey {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let half = |part: &[u8]| Aes256::new_from_slice(part).expect("half of the key is 32 bytes");
        let (data, tweak) = key.split_at(KEY_BYTES / 2);
        Self(Arc::new(Xts128::new(half(data), half(tweak))))
    }

    fn encrypt(&self, first_block: u64, data: &mut [u8]) {
        self.0
            .encrypt_area(data, BLOCK, first_block.into(), get_tweak_default);
    }

    fn decrypt(&self, first_block: u64, data: &mut [u8]) {
        for (block, piece) in (first_block..).zip(data.chunks_exact_mut(BLOCK)) {
            if !is_zero(piece) {
                self.0.decrypt_sector(piece, get_tweak_default(block.into()));
            }
        }
    }
}

/// An encrypted device over one that sees only ciphertext. Requests must be aligned to blocks.
pub struct CryptDevice {
    inner: Arc<dyn BlockDevice>,
    key: VolumeKey,
}

impl CryptDevice {
    /// Encrypts what goes to `inner`.
    pub fn new(inner: Arc<dyn BlockDevice>, key: VolumeKey) -> Self {
        Self { inner, key }
    }
}

fn aligned(offset: u64, len: u64) -> bool {
    let block = BLOCK as u64;
    offset.is_multiple_of(block) && len.is_multiple_of(block)
}

impl BlockDevice for CryptDevice {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        if !aligned(offset, len.into()) {
            return done(Err(libc::EINVAL));
        }
        let key = self.key.clone();
        self.inner.read(
            offset,
            len,
            Box::new(move |result| {
                done(result.map(|data| {
                    let mut data = data
                        .try_into_mut()
                        .unwrap_or_else(|data| BytesMut::from(&data[..]));
                    key.decrypt(offset / BLOCK as u64, &mut data);
                    data.freeze()
                }));
            }),
        );
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool, done: Done<()>) {
        if !aligned(offset, data.len() as u64) {
            return done(Err(libc::EINVAL));
        }
        let mut data = data
            .try_into_mut()
            .unwrap_or_else(|data| BytesMut::from(&data[..]));
        self.key.encrypt(offset / BLOCK as u64, &mut data);
        self.inner.write(offset, data.freeze(), fua, done);
    }

    fn flush(&self, done: Done<()>) {
        self.inner.flush(done);
    }

    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>) {
        if !aligned(offset, len) {
            return done(Err(libc::EINVAL));
        }
        self.inner.zero(offset, len, discard, done);
    }

    fn extents(&self, offset: u64, len: u64, done: Done<Vec<Extent>>) {
        self.inner.extents(offset, len, done);
    }

    fn start(&self) {
        self.inner.start();
    }

    fn block_bytes(&self) -> u32 {
        BLOCK as u32
    }

    fn zeroes_fast(&self) -> bool {
        self.inner.zeroes_fast()
    }
}

#[cfg(test)]
#[path = "crypt_tests.rs"]
mod tests;
