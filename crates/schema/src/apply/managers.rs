//! The entries of `metadata.managedFields`.

use serde_json::{Map, Value, json};

use super::set::Set;

/// More entries of updates than this are merged, the oldest first; upstream's limit.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of merged entries.
const OLD_CHANGES: &str = "ancient-changes";

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// It applied them.
    Apply,
    /// It wrote them in another way.
    Update,
}

/// Fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// When it last changed a field; empty if that is not known.
    pub time: String,
    /// Through which subresource; empty for the object itself.
    pub subresource: String,
    pub fields: Set,
}

impl Entry {
    /// Whether two entries are of the same manager. Who applies is the same in all versions.
    pub(super) fn same_manager(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As messages about conflicts name the manager.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let operation = match value["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if value["fieldsType"]
            .as_str()
            .is_some_and(|kind| kind != "FieldsV1")
        {
            return None;
        }
        let fields = match &value["fieldsV1"] {
            Value::Null => Set::default(),
            fields => Set::from_fields(fields)?,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            time: text("time"),
            subresource: text("subresource"),
            fields,
        })
    }

    fn write(&self) -> Value {
        let mut entry = Map::new();
        let mut set = |name: &str, text: &str| {
            if !text.is_empty() {
                entry.insert(name.to_owned(), text.into());
            }
        };
        set("manager", &self.manager);
        set(
            "operation",
            match self.operation {
                Operation::Apply => "Apply",
                Operation::Update => "Update",
            },
        );
        set("apiVersion", &self.api_version);
        set("time", &self.time);
        set("fieldsType", "FieldsV1");
        entry.insert("fieldsV1".to_owned(), self.fields.to_fields());
        if !self.subresource.is_empty() {
            entry.insert("subresource".to_owned(), self.subresource.as_str().into());
        }
        Value::Object(entry)
    }
}

/// Reads the entries of an object. `None` if any of them cannot be read.
pub(super) fn read(object: &Value) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for value in object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let entry = Entry::read(value)?;
        // The last of two entries of one manager counts, as when they are read into a map.
        entries.retain(|other| !other.same_manager(&entry));
        entries.push(entry);
    }
    Some(entries)
}

/// Whether an update asks for the entries to be forgotten: an empty list, or one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one
            .as_object()
            .is_some_and(|entry| entry.values().all(|v| v.is_null() || v == "")),
        _ => false,
    }
}

/// Writes the entries into an object, in upstream's order. Entries without fields are left out.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
        return;
    }
    entries.sort_by(|a, b| {
        (a.operation, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            b.operation,
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    let list: Vec<Value> = entries.iter().map(Entry::write).collect();
    metadata.insert("managedFields".to_owned(), list.into());
}

/// Merges the oldest entries of updates while there are too many.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let count = |entries: &[Entry]| {
        entries
            .iter()
            .filter(|e| e.operation == Operation::Update)
            .count()
    };
    if count(entries) <= MAX_UPDATE_MANAGERS {
        return;
    }
    entries.sort_by(|a, b| (a.operation, &a.time, &a.manager).cmp(&(b.operation, &b.time, &b.manager)));
    let versions: Vec<String> = entries.iter().map(|e| e.api_version.clone()).collect();
    for version in versions {
        while count(entries) > MAX_UPDATE_MANAGERS {
            let mut of_version = entries
                .iter()
                .enumerate()
                .filter(|(_, e)| e.operation == Operation::Update && e.api_version == version)
                .map(|(at, _)| at);
            let (Some(first), Some(second)) = (of_version.next(), of_version.next()) else {
                break;
            };
            let newer = entries.remove(second);
            let bucket = &mut entries[first];
            bucket.manager = OLD_CHANGES.to_owned();
            bucket.subresource = String::new();
            bucket.time = newer.time;
            bucket.fields = std::mem::take(&mut bucket.fields).union(newer.fields);
        }
    }
}

/// Fields that nobody owns: the server alone writes them, or they name the object.
pub(super) fn unowned() -> Value {
    json!({
        "f:apiVersion": {}, "f:kind": {},
        "f:metadata": {
            ".": {}, "f:name": {}, "f:namespace": {}, "f:creationTimestamp": {}, "f:selfLink": {}, "f:uid": {},
            "f:clusterName": {}, "f:generation": {}, "f:managedFields": {}, "f:resourceVersion": {},
        },
    })
}
