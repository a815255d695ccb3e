//! Checksums of blocks and of metadata.

use super::types::{BLOCK, Seq};

/// Checksum of a block's bytes alone.
pub fn raw(data: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(data)
}

/// The seed of a volume: a hash of its name.
pub fn volume_seed(volume: &str) -> u64 {
    crc_fast::crc64_nvme(volume.as_bytes())
}

/// What ties a block's checksum to its place and version, so that misplaced and lost writes show.
fn salt(volume: u64, block: u64, version: Seq) -> u32 {
    let mut x =
        volume ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    (x & 0xffff_ffff) as u32
}

/// The checksum of one block of a volume in one version (CRC-32C, salted with volume, block and version).
pub fn block(volume: u64, block: u64, version: Seq, data: &[u8]) -> u32 {
    debug_assert_eq!(data.len(), BLOCK);
    raw(data) ^ salt(volume, block, version)
}

/// The checksum of an entry that says "zeroes".
pub fn zeroes(volume: u64, block: u64, version: Seq) -> u32 {
    !salt(volume, block, version)
}

/// 64-bit checksum of metadata and of content digests.
pub fn wide(data: &[u8]) -> u64 {
    crc_fast::crc64_nvme(data)
}
