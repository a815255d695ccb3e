//! What the types and fields of the Kubernetes API are for, in upstream's words.
//!
//! They come from the `schemars` feature of k8s-openapi, which `build.rs` asks for the schemas of all stable kinds. Only
//! their texts are kept, deflated to about a fifth, and inflated for as long as somebody reads them: a server that is
//! never asked for an OpenAPI document never has them in memory.

use std::io::Read as _;
use std::ops::Range;

/// The deflated records, as `build.rs` writes them.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// All descriptions, inflated.
#[derive(Debug)]
pub struct Descriptions {
    text: String,
    /// (name, what follows it up to the next type), sorted by name.
    types: Vec<(Range<usize>, Range<usize>)>,
}

/// Ends a name.
const UNIT: char = '\x1f';
/// Ends a description.
const RECORD: char = '\x1e';

impl Descriptions {
    /// Inflates them: about 2 MB, for a few milliseconds.
    ///
    /// # Panics
    ///
    /// Never: what this crate's build wrote can be read.
    pub fn load() -> Self {
        let mut text = String::new();
        flate2::read::DeflateDecoder::new(PACKED)
            .read_to_string(&mut text)
            .expect("the build of this crate wrote it");
        let mut types: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        let mut start = 0;
        for record in text.split_inclusive(RECORD) {
            let end = start + record.len();
            if record.starts_with('T') {
                let name = record.find(UNIT).unwrap_or(record.len());
                types.push((start + 1..start + name, start + name + 1..end));
            } else if let Some((_, body)) = types.last_mut() {
                body.end = end;
            }
            start = end;
        }
        Self { text, types }
    }

    /// What a type is for, or a field of it, if a name of one is given.
    pub fn get(&self, type_name: &str, field: &str) -> Option<&str> {
        let index = self
            .types
            .binary_search_by(|(name, _)| self.text[name.clone()].cmp(type_name))
            .ok()?;
        let mut records = self.text[self.types[index].1.clone()].split(RECORD);
        let of_type = records.next()?;
        let found = if field.is_empty() {
            of_type
        } else {
            records.find_map(|record| record.strip_prefix('F')?.strip_prefix(field)?.strip_prefix(UNIT))?
        };
        (!found.is_empty()).then_some(found)
    }

    /// How many types there are.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

/// A number for the content: it changes with the descriptions.
pub fn digest() -> u64 {
    // FNV-1a.
    PACKED.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let all = Descriptions::load();
        assert!(all.len() > 450, "{}", all.len());
        let pod = "io.k8s.api.core.v1.Pod";
        for (ty, field) in [
            (pod, ""),
            (pod, "spec"),
            ("io.k8s.api.core.v1.PodSpec", "containers"),
            ("io.k8s.api.apps.v1.DeploymentSpec", "replicas"),
            ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "labels"),
            (
                "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec",
                "group",
            ),
        ] {
            let text = all.get(ty, field).unwrap_or_default();
            assert!(text.len() > 20, "{ty} {field}: {text:?}");
        }
        assert_eq!(all.get(pod, "spe"), None);
        assert_eq!(all.get("io.k8s.api.core.v1.Po", ""), None);
    }

    #[test]
    fn they_are_small_in_the_program() {
        /// A third of a megabyte; they were 1.3 MB of text in 2026.
        const MOST: usize = 350 * 1024;
        assert!(PACKED.len() < MOST, "{}", PACKED.len());
        assert_ne!(digest(), 0);
    }
}
