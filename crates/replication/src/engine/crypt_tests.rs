//! Tests of encryption: the cipher against published vectors, keys, and what reaches the device below.

use super::*;
use parking_lot::Mutex;

const SECRET: &[u8] = b"correct horse battery staple, 32+ bytes";

fn labels(secret: &[u8]) -> BTreeMap<String, String> {
    BTreeMap::from([(LABEL.to_owned(), new_label(secret).unwrap())])
}

#[test]
fn the_cipher_is_the_standards() {
    // IEEE 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff, plaintext 00..ff twice.
    // Its keys are the first digits of e and of pi.
    let key = concat!(
        "2718281828459045235360287471352662497757247093699959574966967627",
        "3141592653589793238462643383279502884197169399375105820974944592",
    );
    let key: [u8; 64] = unhex(key).unwrap();
    let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
    let plain = data.clone();
    let cipher = VolumeKey::new(&key);
    cipher.0.encrypt_sector(&mut data, get_tweak_default(0xff));
    assert_eq!(
        hex(&data[..32]),
        "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
    );
    cipher.0.decrypt_sector(&mut data, get_tweak_default(0xff));
    assert_eq!(data, plain);
}

#[test]
fn only_the_key_of_the_creation_unlocks() {
    let encrypted = labels(SECRET);
    assert!(unlock(&encrypted, SECRET).unwrap().is_some());
    // From a file that ends with a line's end it is the same key.
    let line = [SECRET, b"\n"].concat();
    assert!(unlock(&encrypted, &line).unwrap().is_some());
    let mut other = SECRET.to_vec();
    other[0] ^= 1;
    assert_eq!(unlock(&encrypted, &other).err(), Some(Error::Wrong));
    assert_eq!(unlock(&encrypted, b"").err(), Some(Error::Missing));
    assert_eq!(unlock(&encrypted, b"short").err(), Some(Error::Length(5)));
    assert_eq!(unlock(&BTreeMap::new(), SECRET).err(), Some(Error::NotEncrypted));
    assert!(unlock(&BTreeMap::new(), b"").unwrap().is_none());
    for wrong in [
        "",
        "aes-256-xts-v1",
        "aes-256-xts-v2:00:00",
        "aes-256-xts-v1:zz:00",
    ] {
        let unknown = BTreeMap::from([(LABEL.to_owned(), wrong.to_owned())]);
        assert_eq!(unlock(&unknown, SECRET).err(), Some(Error::Unknown), "{wrong}");
    }
}

#[test]
fn the_label_tells_nothing_and_differs_for_each_volume() {
    let (one, two) = (new_label(SECRET).unwrap(), new_label(SECRET).unwrap());
    assert_ne!(one, two);
    assert!(!one.contains(&hex(&SECRET[..8])));
    // 14 for the format, 32 digits each for salt and check, two colons: no room for a key of 64 bytes.
    assert_eq!(one.len(), FORMAT.len() + 2 + 2 * (SALT_BYTES + CHECK_BYTES));
}

/// Keeps the last write, and gives it back.
#[derive(Default)]
struct Disk(Mutex<Vec<u8>>);

impl BlockDevice for Disk {
    fn size_bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        let at = offset as usize;
        done(Ok(Bytes::copy_from_slice(&self.0.lock()[at..at + len as usize])));
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool, done: Done<()>) {
        let at = offset as usize;
        self.0.lock()[at..at + data.len()].copy_from_slice(&data);
        done(Ok(()));
    }

    fn flush(&self, done: Done<()>) {
        done(Ok(()));
    }

    fn zero(&self, offset: u64, len: u64, _discard: bool, done: Done<()>) {
        self.0.lock()[offset as usize..(offset + len) as usize].fill(0);
        done(Ok(()));
    }
}

fn read(device: &dyn BlockDevice, offset: usize, len: usize) -> Result<Vec<u8>, i32> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = move |result: Result<Bytes, i32>| sender.send(result).unwrap();
    device.read(offset as u64, len as u32, Box::new(done));
    receiver.recv().unwrap().map(|data| data.to_vec())
}

#[test]
fn below_is_ciphertext_that_depends_on_the_place() {
    let disk = Arc::new(Disk(Mutex::new(vec![0; 16 * BLOCK])));
    let key = unlock(&labels(SECRET), SECRET).unwrap().unwrap();
    let device = CryptDevice::new(disk.clone(), key);
    let same = vec![0x41; 3 * BLOCK];
    device.write(
        2 * BLOCK as u64,
        same.clone().into(),
        false,
        Box::new(|r| r.unwrap()),
    );
    assert_eq!(read(&device, 2 * BLOCK, 3 * BLOCK).unwrap(), same);
    let below = disk.0.lock().clone();
    assert!(!below.windows(16).any(|window| window == [0x41; 16]));
    let block = |i: usize| &below[i * BLOCK..(i + 1) * BLOCK];
    assert!(
        block(2) != block(3) && block(3) != block(4),
        "the tweak is the block's number"
    );
    // The same bytes in the same place are the same ciphertext, whatever request brings them.
    device.write(
        3 * BLOCK as u64,
        vec![0x41; BLOCK].into(),
        false,
        Box::new(|r| r.unwrap()),
    );
    assert_eq!(*disk.0.lock(), below);
    // Never written and zeroed blocks read as zeroes; written zeroes do not show below.
    assert_eq!(read(&device, 0, 2 * BLOCK).unwrap(), vec![0; 2 * BLOCK]);
    device.zero(2 * BLOCK as u64, BLOCK as u64, true, Box::new(|r| r.unwrap()));
    assert_eq!(read(&device, 2 * BLOCK, BLOCK).unwrap(), vec![0; BLOCK]);
    device.write(
        5 * BLOCK as u64,
        vec![0; BLOCK].into(),
        false,
        Box::new(|r| r.unwrap()),
    );
    assert!(disk.0.lock()[5 * BLOCK..6 * BLOCK].iter().any(|b| *b != 0));
    assert_eq!(read(&device, 5 * BLOCK, BLOCK).unwrap(), vec![0; BLOCK]);
    assert_eq!(read(&device, 512, BLOCK), Err(libc::EINVAL));
    assert_eq!(device.block_bytes(), BLOCK as u32);
}
