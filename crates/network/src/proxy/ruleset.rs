//! A table of nftables as a value, its text, and the text that turns one into another. Both texts are applied as one
//! transaction, so that there is no moment without rules.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Name of the table; no other program's rules are in it.
pub(crate) const TABLE: &str = "ip hikube";

/// A chain: where it hooks in (empty for one that is only jumped to), and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: String,
    pub(crate) rules: Vec<String>,
}

/// A set or a map; in a set the values are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// `set` or `map`.
    pub(crate) kind: &'static str,
    /// Type and flags.
    pub(crate) declaration: String,
    /// The kernel fills it from rules: its elements are not ours to touch.
    pub(crate) dynamic: bool,
    pub(crate) elements: BTreeMap<String, String>,
}

/// The table's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<String, Set>,
}

impl Ruleset {
    /// Replaces whatever the table held.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        text.push_str(&Self::default().changes_to(self));
        text
    }

    /// Turns a table that holds `self` into one that holds `new`; empty when they are equal. What stays the same is
    /// not mentioned: its counters, and the elements of dynamic sets, survive.
    pub(crate) fn changes_to(&self, new: &Self) -> String {
        let mut text = String::new();
        self.declare(new, &mut text);
        self.refill(new, &mut text);
        self.elements(new, &mut text);
        self.remove(new, &mut text);
        text
    }

    /// New sets and chains first, since rules and elements name them.
    fn declare(&self, new: &Self, text: &mut String) {
        for (name, set) in new.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            line(
                text,
                format_args!("add {} {TABLE} {name} {{ {} }}", set.kind, set.declaration),
            );
        }
        for (name, chain) in new
            .chains
            .iter()
            .filter(|(name, _)| !self.chains.contains_key(*name))
        {
            if chain.hook.is_empty() {
                line(text, format_args!("add chain {TABLE} {name}"));
            } else {
                line(
                    text,
                    format_args!("add chain {TABLE} {name} {{ {} }}", chain.hook),
                );
            }
        }
    }

    fn refill(&self, new: &Self, text: &mut String) {
        for (name, chain) in &new.chains {
            let old = self.chains.get(name);
            if old.is_some_and(|old| old.rules == chain.rules) {
                continue;
            }
            if old.is_some() {
                line(text, format_args!("flush chain {TABLE} {name}"));
            }
            for rule in &chain.rules {
                line(text, format_args!("add rule {TABLE} {name} {rule}"));
            }
        }
    }

    fn elements(&self, new: &Self, text: &mut String) {
        let none = BTreeMap::new();
        for (name, set) in new.sets.iter().filter(|(_, set)| !set.dynamic) {
            let old = self.sets.get(name).map_or(&none, |s| &s.elements);
            let gone = old
                .iter()
                .filter(|(key, value)| set.elements.get(*key) != Some(value));
            list(text, "delete", name, gone.map(|(key, value)| element(key, value)));
            let fresh = set
                .elements
                .iter()
                .filter(|(key, value)| old.get(*key) != Some(value));
            list(text, "add", name, fresh.map(|(key, value)| element(key, value)));
        }
    }

    /// What is gone: first everything that may refer to it, then itself.
    fn remove(&self, new: &Self, text: &mut String) {
        let chains = || self.chains.keys().filter(|name| !new.chains.contains_key(*name));
        let sets = || self.sets.keys().filter(|name| !new.sets.contains_key(*name));
        for name in chains() {
            line(text, format_args!("flush chain {TABLE} {name}"));
        }
        for name in sets() {
            line(text, format_args!("delete set {TABLE} {name}"));
        }
        for name in chains() {
            line(text, format_args!("delete chain {TABLE} {name}"));
        }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn element(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key} : {value}")
    }
}

fn list(text: &mut String, verb: &str, set: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    // In pieces, so that no line outgrows what nft reads.
    for piece in elements.chunks(ELEMENTS_PER_LINE) {
        line(
            text,
            format_args!("{verb} element {TABLE} {set} {{ {} }}", piece.join(", ")),
        );
    }
}

/// Elements in one command. One element is about 100 bytes.
const ELEMENTS_PER_LINE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Understands the commands that this file writes, as nft would.
    fn apply(table: &mut Ruleset, text: &str) {
        for command in text.lines() {
            let words: Vec<&str> = command.split(' ').collect();
            let name = words.get(4).map(|n| (*n).to_owned());
            let rest = words.get(5..).map(|r| r.join(" ")).unwrap_or_default();
            let inner = rest.trim_start_matches("{ ").trim_end_matches(" }").to_owned();
            match (words[0], words[1]) {
                ("add", "table") => {}
                ("delete", "table") => *table = Ruleset::default(),
                ("add", "set" | "map") => {
                    let kind = if words[1] == "set" { "set" } else { "map" };
                    let set = Set {
                        kind,
                        declaration: inner,
                        ..Set::default()
                    };
                    table.sets.insert(name.unwrap(), set);
                }
                ("add", "chain") => {
                    table.chains.insert(
                        name.unwrap(),
                        Chain {
                            hook: inner,
                            rules: Vec::new(),
                        },
                    );
                }
                ("add", "rule") => table.chains.get_mut(&name.unwrap()).unwrap().rules.push(rest),
                ("flush", "chain") => table.chains.get_mut(&name.unwrap()).unwrap().rules.clear(),
                ("delete", "chain") => {
                    let removed = table.chains.remove(&name.unwrap()).unwrap();
                    assert!(removed.rules.is_empty());
                }
                ("delete", "set") => drop(table.sets.remove(&name.unwrap()).unwrap()),
                (verb, "element") => {
                    let set = table.sets.get_mut(&name.unwrap()).unwrap();
                    for one in inner.split(", ") {
                        let (key, value) = one.split_once(" : ").unwrap_or((one, ""));
                        let old = match verb {
                            "add" => set.elements.insert(key.into(), value.into()),
                            _ => {
                                assert!(set.elements.remove(key).is_some());
                                None
                            }
                        };
                        assert_eq!(old, None, "added twice");
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn tables() -> impl Strategy<Value = Ruleset> {
        let chain = proptest::collection::vec("[a-c]{1,2}", 0..3);
        let chains = proptest::collection::btree_map("c[a-d]", chain, 0..4);
        let elements = proptest::collection::btree_map("k[a-d]", "v?[ab]?", 0..4);
        let sets = proptest::collection::btree_map("s[a-c]", elements, 0..3);
        (chains, sets).prop_map(|(chains, sets)| Ruleset {
            chains: chains
                .into_iter()
                .map(|(name, rules)| {
                    (
                        name,
                        Chain {
                            hook: String::new(),
                            rules,
                        },
                    )
                })
                .collect(),
            sets: sets
                .into_iter()
                .map(|(name, elements)| {
                    let set = Set {
                        kind: "map",
                        declaration: "type x : y;".into(),
                        dynamic: false,
                        elements,
                    };
                    (name, set)
                })
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn changes_lead_from_any_table_to_any_other(old in tables(), new in tables()) {
            let mut table = Ruleset::default();
            apply(&mut table, &old.text());
            prop_assert_eq!(&table, &old);
            apply(&mut table, &old.changes_to(&new));
            prop_assert_eq!(&table, &new);
            prop_assert_eq!(new.changes_to(&new), "");
        }
    }

    #[test]
    fn elements_of_dynamic_sets_are_left_alone() {
        let set = Set {
            kind: "set",
            declaration: "type ipv4_addr;".into(),
            dynamic: true,
            ..Set::default()
        };
        let mut table = Ruleset::default();
        table.sets.insert("seen".into(), set);
        let mut more = table.clone();
        more.chains.insert("c".into(), Chain::default());
        assert_eq!(table.changes_to(&more), "add chain ip hikube c\n");
    }
}
