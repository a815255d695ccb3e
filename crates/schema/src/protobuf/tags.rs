//! Field numbers of the API's messages. `tags.txt` holds one type a line: `NAME FIELD=NUMBER ...`; a number with `?`
//! is of a pointer, whose empty value differs from none, one with `!` of a value that JSON shows even when it is
//! empty. Fields of a struct that JSON shows as its parent's stand in `+NUMBER( ... )`. The file is what
//! `clientgo tags` prints (crates/testkit/tests/clientgo).

use crate::facts::{Shape, TypeId, facts};
use std::str::SplitWhitespace;
use std::sync::OnceLock;

const TEXT: &str = include_str!("tags.txt");

/// The fields of one message, sorted by number.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) entries: Vec<Entry>,
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) kind: EntryKind,
}

/// What a number stands for.
#[derive(Debug)]
pub(super) enum EntryKind {
    /// A field of the type.
    Field {
        /// Its JSON name.
        name: &'static str,
        /// Its JSON shape.
        shape: Shape,
        /// Its empty value is shown in JSON.
        keep_empty: bool,
    },
    /// A message whose fields belong to the parent.
    Inline(Message),
}

impl Message {
    /// The field with this number.
    pub(super) fn entry(&self, number: u32) -> Option<&Entry> {
        let index = self.entries.binary_search_by_key(&number, |e| e.number).ok()?;
        Some(&self.entries[index])
    }
}

/// The message of a type; none for what has no form in protobuf.
pub(super) fn of(id: TypeId) -> Option<&'static Message> {
    static MESSAGES: OnceLock<Vec<Option<Message>>> = OnceLock::new();
    let all = MESSAGES.get_or_init(|| {
        let mut messages = Vec::new();
        messages.resize_with(facts().types().count(), || None);
        for line in TEXT.lines() {
            let mut words = line.split_whitespace();
            // Go knows a few types that the published document does not.
            if let Some(id) = words.next().and_then(|name| facts().find(name)) {
                messages[id.index()] = Some(message(id, &mut words));
            }
        }
        messages
    });
    all[id.index()].as_ref()
}

fn message(id: TypeId, words: &mut SplitWhitespace<'static>) -> Message {
    let mut entries = Vec::new();
    while let Some(word) = words.next() {
        if word == ")" {
            break;
        }
        if let Some(number) = word.strip_prefix('+').and_then(|w| w.strip_suffix('(')) {
            let kind = EntryKind::Inline(message(id, words));
            entries.extend(number.parse().ok().map(|number| Entry { number, kind }));
        } else if let Some((name, number)) = word.rsplit_once('=') {
            let plain = number.trim_end_matches(['?', '!']);
            let keep_empty = plain.len() < number.len();
            if let (Some(field), Ok(number)) = (facts().field(id, name), plain.parse()) {
                let shape = field.shape;
                let kind = EntryKind::Field {
                    name,
                    shape,
                    keep_empty,
                };
                entries.push(Entry { number, kind });
            }
        }
    }
    entries.sort_by_key(|e| e.number);
    Message { entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_numbers_and_every_field_one() {
        for resource in crate::registry().resources() {
            let id = resource.type_id.unwrap();
            let message = of(id).unwrap_or_else(|| panic!("{}", resource.kind));
            let count = facts()
                .fields(id)
                .iter()
                .filter(|f| !matches!(f.name, "apiVersion" | "kind"));
            assert_eq!(message.entries.len(), count.count(), "{}", resource.kind);
        }
    }

    #[test]
    fn inlined_fields_and_pointers_are_read() {
        let volume = of(facts().find("io.k8s.api.core.v1.Volume").unwrap()).unwrap();
        let Some(EntryKind::Inline(source)) = volume.entry(2).map(|e| &e.kind) else {
            panic!("the source is inlined");
        };
        assert!(source.entries.len() > 20);
        let map = of(facts().find("io.k8s.api.core.v1.ConfigMap").unwrap()).unwrap();
        let keeps = |number| {
            matches!(
                map.entry(number).unwrap().kind,
                EntryKind::Field { keep_empty: true, .. }
            )
        };
        assert!(keeps(4) && !keeps(2));
    }
}
