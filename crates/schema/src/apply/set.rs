//! Sets of fields, as `managedFields` carry them (`FieldsV1`).
//!
//! A set is a tree of path elements in the form that the API writes them: `f:name` (a field), `k:{"name":"a"}` (an
//! item of a list by its keys), `v:"a"` (an item of a set by its value), `i:0` (by its index). An element can be in
//! the set itself, have others below it that are, or both. There are no elements of which neither is true.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Deepest set that is read: objects are no deeper, so a deeper one was made up.
const MAX_DEPTH: usize = 128;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an element, what is below it, or both. Adding neither does nothing.
    pub(super) fn add(&mut self, element: impl Into<Box<str>>, member: bool, below: Set) {
        let added = Node { member, below };
        if added.is_empty() {
            return;
        }
        let node = self.0.entry(element.into()).or_default();
        node.member |= added.member;
        if node.below.is_empty() {
            node.below = added.below;
        } else {
            node.below = std::mem::take(&mut node.below).union(added.below);
        }
    }

    /// The set of one path.
    pub fn of(path: &[&str]) -> Self {
        let mut set = Self::default();
        if let [first, rest @ ..] = path {
            set.add(format!("f:{first}"), rest.is_empty(), Self::of(rest));
        }
        set
    }

    /// Whether a top-level element is in the set.
    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What is below a top-level element.
    pub(super) fn below(&self, element: &str) -> Option<&Set> {
        self.0
            .get(element)
            .map(|node| &node.below)
            .filter(|set| !set.is_empty())
    }

    /// Top-level elements with whether they are in the set themselves and what is below them.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&str, bool, &Set)> {
        self.0
            .iter()
            .map(|(element, node)| (element.as_ref(), node.member, &node.below))
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (element, node) in other.0 {
            self.add(element, node.member, node.below);
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for (element, node) in &self.0 {
            if let Some(same) = other.0.get(element) {
                let below = node.below.intersection(&same.below);
                set.add(element.clone(), node.member && same.member, below);
            }
        }
        set
    }

    /// What is in this set and not in the other. What is below a member of the other stays.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for (element, node) in &self.0 {
            match other.0.get(element) {
                Some(taken) => {
                    let below = node.below.difference(&taken.below);
                    set.add(element.clone(), node.member && !taken.member, below);
                }
                None => set.add(element.clone(), node.member, node.below.clone()),
            }
        }
        set
    }

    /// What is neither in the other set nor below a member of it.
    #[must_use]
    pub fn difference_below(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let mut set = Self::default();
        for (element, node) in &self.0 {
            match other.0.get(element) {
                Some(taken) if taken.member => {}
                Some(taken) => {
                    let below = node.below.difference_below(&taken.below);
                    set.add(element.clone(), node.member, below);
                }
                None => set.add(element.clone(), node.member, node.below.clone()),
            }
        }
        set
    }

    /// Calls `found` with each path in the set, as messages print it.
    pub fn paths(&self, found: &mut impl FnMut(&str)) {
        self.print(&mut String::new(), found);
    }

    fn print(&self, path: &mut String, found: &mut impl FnMut(&str)) {
        let length = path.len();
        for (element, node) in &self.0 {
            push_element(path, element);
            if node.member {
                found(path);
            }
            node.below.print(path, found);
            path.truncate(length);
        }
    }

    /// Reads `FieldsV1`. `None` if it is none.
    pub fn from_fields(value: &Value) -> Option<Self> {
        Self::read(value.as_object()?, MAX_DEPTH)
    }

    fn read(fields: &Map<String, Value>, depth: usize) -> Option<Self> {
        let mut set = Self::default();
        for (element, below) in fields {
            // The element above is a member itself; the caller reads that.
            if element == "." {
                continue;
            }
            let below = below.as_object()?;
            let member = below.is_empty() || below.contains_key(".");
            let below = Self::read(below, depth.checked_sub(1)?)?;
            set.add(canonical(element)?, member, below);
        }
        Some(set)
    }

    /// Writes `FieldsV1`.
    pub fn to_fields(&self) -> Value {
        let mut fields = Map::with_capacity(self.0.len());
        for (element, node) in &self.0 {
            let mut value = Map::new();
            if !node.below.is_empty() {
                if node.member {
                    value.insert(".".to_owned(), Value::Object(Map::new()));
                }
                if let Value::Object(below) = node.below.to_fields() {
                    value.extend(below);
                }
            }
            fields.insert(element.to_string(), Value::Object(value));
        }
        Value::Object(fields)
    }
}

/// The element of a field.
pub(super) fn field(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

/// The element of an item of a set.
pub(super) fn value(item: &Value) -> Box<str> {
    format!("v:{item}").into()
}

/// The element of an item that is known by keys.
pub(super) fn key<'a>(mut keys: Vec<(&'a str, &'a Value)>) -> Box<str> {
    keys.sort_by_key(|(name, _)| *name);
    let mut text = String::from("k:{");
    for (index, (name, value)) in keys.into_iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}:{value}", Value::from(name));
    }
    text.push('}');
    text.into()
}

/// An element in the only form in which it is compared: keys are sorted and without spaces.
fn canonical(element: &str) -> Option<Box<str>> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.into()),
        "i" => rest.parse::<i64>().ok().map(|_| element.into()),
        "v" => serde_json::from_str(rest).ok().map(|item: Value| value(&item)),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            Some(key(keys
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .collect()))
        }
        _ => None,
    }
}

/// Appends an element as messages print it: `.spec`, `[name="a"]`, `[="a"]`, `[0]`.
pub(super) fn push_element(path: &mut String, element: &str) {
    let Some((kind, rest)) = element.split_once(':') else {
        return;
    };
    // Writing to a string cannot fail.
    let _ = match kind {
        "f" => write!(path, ".{rest}"),
        "v" => write!(path, "[={rest}]"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            write!(path, "[{}]", keys.join(","))
        }
        _ => write!(path, "[{rest}]"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::from_fields(&value).unwrap()
    }

    #[test]
    fn fields_round_trip() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
            "f:finalizers": {"v:\"x\"": {}},
        });
        assert_eq!(set(fields.clone()).to_fields(), fields);
        let unsorted = json!({"k:{ \"protocol\": \"TCP\", \"port\": 80 }": {}});
        assert_eq!(
            set(unsorted).to_fields(),
            json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}})
        );
        for bad in [
            json!({"x:a": {}}),
            json!({"f:a": 1}),
            json!({"v:{": {}}),
            json!([]),
        ] {
            assert!(Set::from_fields(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = json!({});
        for _ in 0..1000 {
            deep = json!({"f:a": deep});
        }
        assert!(Set::from_fields(&deep).is_none());
    }

    #[test]
    fn paths_read_as_upstream_prints_them() {
        let mut paths = Vec::new();
        let fields = json!({"f:spec": {
            "f:c": {"k:{\"name\":\"a\",\"port\":80}": {".": {}, "f:image": {}}},
            "f:f": {"v:\"x\"": {}, "i:3": {}},
        }});
        set(fields).paths(&mut |path| paths.push(path.to_owned()));
        assert_eq!(
            paths,
            [
                ".spec.c[name=\"a\",port=80]",
                ".spec.c[name=\"a\",port=80].image",
                ".spec.f[3]",
                ".spec.f[=\"x\"]",
            ]
        );
    }

    /// Small sets over few names, so that they overlap.
    fn sets() -> impl Strategy<Value = Set> {
        let leaf = Just(Set::default()).boxed();
        leaf.prop_recursive(3, 24, 3, |below| {
            proptest::collection::vec(("[a-c]", any::<bool>(), below), 0..3).prop_map(|elements| {
                let mut set = Set::default();
                for (name, member, below) in elements {
                    set.add(field(&name), member || below.is_empty(), below);
                }
                set
            })
        })
    }

    fn members(set: &Set) -> std::collections::BTreeSet<String> {
        let mut found = std::collections::BTreeSet::new();
        set.paths(&mut |path| {
            found.insert(path.to_owned());
        });
        found
    }

    proptest! {
        /// The tree does what sets of paths do.
        #[test]
        fn algebra(a in sets(), b in sets()) {
            let (pa, pb) = (members(&a), members(&b));
            prop_assert_eq!(members(&a.clone().union(b.clone())), &pa | &pb);
            prop_assert_eq!(members(&a.intersection(&b)), &pa & &pb);
            prop_assert_eq!(members(&a.difference(&b)), &pa - &pb);
            let below = |path: &String| {
                pb.iter().any(|taken| path == taken || path.starts_with(&format!("{taken}.")))
            };
            let kept: std::collections::BTreeSet<String> = pa.iter().filter(|p| !below(p)).cloned().collect();
            prop_assert_eq!(members(&a.difference_below(&b)), kept);
        }

        /// No operation leaves empty elements behind, which would make equal sets differ.
        #[test]
        fn results_are_normal(a in sets(), b in sets()) {
            for set in [a.clone().union(b.clone()), a.intersection(&b), a.difference(&b), a.difference_below(&b)] {
                prop_assert_eq!(Set::from_fields(&set.to_fields()), Some(set));
            }
            prop_assert!(a.difference(&a).is_empty());
            prop_assert_eq!(a.intersection(&a), a.clone());
            prop_assert_eq!(a.clone().union(a.clone()), a);
        }
    }
}
