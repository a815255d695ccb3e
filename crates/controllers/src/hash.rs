//! Short names for templates: the hash in a ReplicaSet's or ControllerRevision's name.

/// Letters without vowels and without look-alikes, so that no name spells a word (as upstream chose them).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name for a value and a collision count: FNV-1a over its JSON with sorted keys. Templates made by
/// other controllers are recognised by comparing them, never by this hash, so it need not equal theirs.
pub fn short_name(value: &serde_json::Value, collisions: i32) -> String {
    let mut hash = Fnv(0x811c_9dc5);
    hash.value(value);
    hash.bytes(&collisions.to_le_bytes());
    let digits = hash.0.to_string();
    digits
        .bytes()
        .map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()]))
        .collect()
}

struct Fnv(u32);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn value(&mut self, value: &serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                let mut keys: Vec<_> = map.keys().collect();
                keys.sort();
                self.bytes(b"{");
                for key in keys {
                    self.bytes(key.as_bytes());
                    self.bytes(b":");
                    self.value(&map[key]);
                }
                self.bytes(b"}");
            }
            serde_json::Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                    self.bytes(b",");
                }
                self.bytes(b"]");
            }
            other => self.bytes(other.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::short_name;
    use serde_json::json;

    #[test]
    fn order_of_keys_does_not_matter_but_values_do() {
        let name = short_name(&json!({"a": 1, "b": [1, 2]}), 0);
        assert_eq!(name, short_name(&json!({"b": [1, 2], "a": 1}), 0));
        assert_ne!(name, short_name(&json!({"a": 1, "b": [2, 1]}), 0));
        assert_ne!(name, short_name(&json!({"a": 1, "b": [1, 2]}), 1));
        assert!(name.len() <= 10);
    }
}
