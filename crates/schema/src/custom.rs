//! Custom resources: what a CustomResourceDefinition makes the server serve.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};

use crate::registry::{Resource, Subresource, Text};
use crate::structural::Structural;
use crate::value::ValueExt as _;

/// What is special about a version of a custom resource.
#[derive(Debug)]
pub struct Custom {
    /// Its schema.
    pub schema: Arc<Structural>,
    /// Columns of tables beyond the name; without any, the age is shown.
    pub columns: Vec<PrinterColumn>,
    /// Fields that selectors may use, with their paths.
    pub selectable: Vec<(String, Vec<String>)>,
    /// Where its scale is.
    pub scale: Option<Scale>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// Format of the type, or empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0 always, others with `-o wide`.
    pub priority: i64,
    /// Where the value is: a path of `kubectl`'s JSONPath.
    pub path: JsonPath,
}

/// The fields of `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Path of the wanted number.
    pub spec_replicas: Vec<String>,
    /// Path of the present number.
    pub status_replicas: Vec<String>,
    /// Path of the selector as text, if there is one.
    pub selector: Option<Vec<String>>,
}

/// The part of a [`Resource`] that changes with its definition.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<RwLock<Option<Arc<Custom>>>>);

impl Slot {
    /// What it holds; nothing for built-in resources.
    pub fn get(&self) -> Option<Arc<Custom>> {
        // A panic while the lock is held leaves a whole value: it is only replaced.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what it holds.
    pub fn set(&self, custom: Option<Arc<Custom>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = custom;
    }
}

/// One version of a definition.
#[derive(Debug)]
pub struct Version {
    /// The resource, with an empty slot.
    pub resource: Resource,
    /// What belongs into the slot.
    pub custom: Custom,
    /// Clients may use it.
    pub served: bool,
    /// Objects are stored in it.
    pub storage: bool,
    /// The warning for requests in this version, if it is deprecated.
    pub deprecated: Option<String>,
}

/// The names of a definition that the server accepted (`status.acceptedNames`), or those that it asks for.
#[derive(Clone, Copy)]
pub struct Names<'a>(pub &'a Value);

impl Names<'_> {
    fn text(&self, field: &str) -> Text {
        self.0.text(&[field]).to_owned().into()
    }

    fn list(&self, field: &str) -> Vec<Text> {
        let items = self.0.items(&[field]).iter();
        items
            .filter_map(|v| v.as_str().map(|s| Text::from(s.to_owned())))
            .collect()
    }
}

/// Reads the versions of a definition, in upstream's order of preference.
pub fn versions(definition: &Value) -> Vec<Version> {
    let spec = definition.at(&["spec"]).unwrap_or(&Value::Null);
    let storage = spec
        .items(&["versions"])
        .iter()
        .find(|v| v.flag(&["storage"]))
        .map(|v| v.text(&["name"]).to_owned())
        .unwrap_or_default();
    let mut found: Vec<Version> = spec
        .items(&["versions"])
        .iter()
        .map(|version| read(definition, spec, version, &storage))
        .collect();
    found.sort_by(|a, b| {
        preference(&b.resource.version)
            .cmp(&preference(&a.resource.version))
            .then_with(|| a.resource.version.cmp(&b.resource.version))
    });
    found
}

fn read(definition: &Value, spec: &Value, version: &Value, storage: &str) -> Version {
    let accepted = definition.at(&["status", "acceptedNames"]);
    let wanted = spec.at(&["names"]).unwrap_or(&Value::Null);
    let names = Names(
        accepted
            .filter(|names| !names.text(&["kind"]).is_empty())
            .unwrap_or(wanted),
    );
    let group = spec.text(&["group"]).to_owned();
    let name = version.text(&["name"]).to_owned();
    let plural = wanted.text(&["plural"]);
    let subresources = version.at(&["subresources"]).unwrap_or(&Value::Null);
    let has_status = subresources.at(&["status"]).is_some();
    let scale = subresources.at(&["scale"]).map(|scale| Scale {
        spec_replicas: path(scale.text(&["specReplicasPath"])),
        status_replicas: path(scale.text(&["statusReplicasPath"])),
        selector: Some(scale.text(&["labelSelectorPath"]))
            .filter(|p| !p.is_empty())
            .map(path),
    });
    let resource = Resource {
        kind: names.text("kind"),
        list_kind: names.text("listKind"),
        plural: plural.to_owned().into(),
        singular: names.text("singular"),
        short_names: names.list("shortNames"),
        categories: names.list("categories"),
        namespaced: spec.text(&["scope"]) == "Namespaced",
        verbs: [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
        .map(Text::from)
        .into(),
        subresources: subresources_of(&names, has_status, scale.is_some()),
        storage_prefix: format!("/registry/{group}/{plural}").into(),
        storage_version: (group.clone().into(), storage.to_owned().into()),
        has_status,
        has_generation: true,
        graceful_deletion: false,
        create_on_update: false,
        unconditional_update: false,
        type_id: None,
        custom: Slot::default(),
        group: group.into(),
        version: name.clone().into(),
    };
    let schema = version
        .at(&["schema", "openAPIV3Schema"])
        .cloned()
        .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let mut schema = Structural::parse(&schema);
    // The old way to keep unknown fields, for the whole object.
    schema.preserve_unknown |= spec.flag(&["preserveUnknownFields"]);
    let deprecated = version.flag(&["deprecated"]).then(|| {
        let own = version.text(&["deprecationWarning"]);
        if own.is_empty() {
            format!(
                "{}/{} {} is deprecated",
                resource.group, resource.version, resource.kind
            )
        } else {
            own.to_owned()
        }
    });
    Version {
        custom: Custom {
            schema: Arc::new(schema),
            columns: columns(version),
            selectable: selectable(version),
            scale,
        },
        served: version.flag(&["served"]),
        storage: name == storage,
        resource,
        deprecated,
    }
}

fn subresources_of(names: &Names<'_>, status: bool, scale: bool) -> Vec<Subresource> {
    let verbs = || -> Vec<Text> { ["get", "patch", "update"].map(Text::from).into() };
    let mut found = Vec::new();
    if scale {
        found.push(Subresource {
            name: "scale".into(),
            kind: "Scale".into(),
            group_version: Some(("autoscaling".into(), "v1".into())),
            verbs: verbs(),
        });
    }
    if status {
        found.push(Subresource {
            name: "status".into(),
            kind: names.text("kind"),
            group_version: None,
            verbs: verbs(),
        });
    }
    found
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    let columns = version.items(&["additionalPrinterColumns"]).iter();
    columns
        .map(|column| PrinterColumn {
            name: column.text(&["name"]).to_owned(),
            kind: column.text(&["type"]).to_owned(),
            format: column.text(&["format"]).to_owned(),
            description: column.text(&["description"]).to_owned(),
            priority: column.int(&["priority"]).unwrap_or_default(),
            path: JsonPath::parse(column.text(&["jsonPath"])),
        })
        .collect()
}

fn selectable(version: &Value) -> Vec<(String, Vec<String>)> {
    let fields = version.items(&["selectableFields"]).iter();
    fields
        .map(|field| {
            let path = self::path(field.text(&["jsonPath"]));
            (path.join("."), path)
        })
        .collect()
}

/// A path of field names: `.spec.replicas`.
fn path(text: &str) -> Vec<String> {
    let parts = text.split('.').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// How much a version is preferred: stable before beta before alpha, higher before lower; other names last.
pub fn preference(version: &str) -> (u8, u64, u64) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let major: u64 = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            stage => {
                let (level, minor) = match stage.strip_prefix("beta") {
                    Some(minor) => (2, minor),
                    None => (1, stage.strip_prefix("alpha")?),
                };
                Some((level, major, minor.parse().ok()?))
            }
        }
    });
    parsed.unwrap_or_default()
}

/// The part of kubectl's JSONPath that columns use: fields, indexes, wildcards and filters by equality.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose field (a path) has this value.
    Where(Vec<String>, String),
}

impl JsonPath {
    /// Reads a path. What it does not understand finds nothing.
    pub fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}');
        rest = rest.strip_prefix('$').unwrap_or(rest);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix('[') {
                let Some(end) = closing(after) else {
                    return Self::default();
                };
                match bracket(&after[..end]) {
                    Some(step) => steps.push(step),
                    None => return Self::default(),
                }
                rest = &after[end + 1..];
                continue;
            }
            let (name, after) = field(rest);
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = after;
        }
        Self(steps)
    }

    /// The values that it finds, in order.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.find(value)).collect();
        }
        if self.0.is_empty() { Vec::new() } else { found }
    }
}

/// A field name up to the next dot or bracket; a backslash takes a dot's meaning away.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where a bracket closes: not within quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (']', None) => return Some(at),
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let path = self::path(left.trim().strip_prefix('@')?);
        return Some(Step::Where(path, unquote(right.trim()).to_owned()));
    }
    match text.parse() {
        Ok(index) => Some(Step::Index(index)),
        Err(_) => Some(Step::Field(unquote(text).to_owned())),
    }
}

fn unquote(text: &str) -> &str {
    text.trim_matches(|c| c == '\'' || c == '"')
}

impl Step {
    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let Some(items) = value.as_array() else {
                    return Vec::new();
                };
                let at = if *index < 0 {
                    items
                        .len()
                        .checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX))
                } else {
                    usize::try_from(*index).ok()
                };
                at.and_then(|at| items.get(at)).into_iter().collect()
            }
            Step::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            },
            Step::Where(path, wanted) => {
                let meets = |item: &&Value| {
                    let found = path.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|value| match value {
                        Value::String(text) => text == wanted,
                        other => {
                            let shown = other.to_string();
                            shown == *wanted
                        }
                    })
                };
                value.as_array().into_iter().flatten().filter(meets).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
